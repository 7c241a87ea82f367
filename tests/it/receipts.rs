//! P3: what a receipt tells, and that it tells it once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use throwto::{ExcType, Raise, RaiseError, ReceiptState, Stop, attach, raise_exc, thread};

use crate::stage::*;

#[test]
fn every_state_is_told_and_final_states_stay() {
    let ledger = Ledger::new();
    let attachment = attach().unwrap();
    let me = attachment.id();
    let raise = || raise_exc(me, Numbered::new(&ledger)).unwrap();

    let superseded = raise();
    assert_eq!(superseded.state(), ReceiptState::Pending);
    let caught = raise();
    let raised = throwto::safepoint().unwrap_err();
    assert_eq!(caught.state(), ReceiptState::Delivered);
    drop(raised);
    let revoked = raise();
    assert!(revoked.revoke() && !revoked.revoke());
    let ended = raise();
    drop(attachment);
    let expected = [
        (&superseded, ReceiptState::Superseded),
        (&caught, ReceiptState::Caught),
        (&revoked, ReceiptState::Revoked),
        (&ended, ReceiptState::TargetEnded),
    ];
    for (receipt, state) in expected {
        assert_eq!(receipt.state(), state);
        assert!(!receipt.revoke(), "{state:?} is final");
        assert_eq!(receipt.wait(Duration::ZERO), state);
    }
    ledger.balance();
}

#[test]
fn taking_the_value_out_counts_as_caught() {
    let ledger = Ledger::new();
    let attachment = attach().unwrap();
    let receipt = raise_exc(attachment.id(), Numbered::new(&ledger)).unwrap();
    let raised = throwto::safepoint().unwrap_err();
    let raised = raised.downcast::<Other>().unwrap_err();
    assert_eq!(
        receipt.state(),
        ReceiptState::Delivered,
        "a refused downcast changes nothing"
    );
    let value = raised.downcast::<Numbered>().unwrap();
    assert_eq!((receipt.state(), ledger.drops_of(0)), (ReceiptState::Caught, 0));
    drop(value);
    ledger.balance();
}

#[test]
fn the_value_is_dropped_before_the_receipt_says_so() {
    for _ in 0..200 {
        let ledger = Ledger::new();
        let worker = thread::spawn(|| drop(spin()));
        let receipt = worker.raise(Numbered::new(&ledger)).unwrap();
        assert_eq!(fate(&receipt), ReceiptState::Caught);
        assert_eq!(ledger.drops_of(0), 1);
        join(worker);

        let worker = thread::spawn(|| thread::park());
        let receipt = throwto::uninterruptible(|_| worker.raise(Stop)).unwrap();
        assert_eq!(fate(&receipt), ReceiptState::Caught);
        join(worker).unwrap_err();
    }
}

#[test]
fn a_target_that_ends_settles_what_it_never_met() {
    let ledger = Ledger::new();
    for _ in 0..200 {
        let worker = thread::spawn(|| throwto::uninterruptible(|_| drop(thread::park())));
        let receipt = worker.raise(Numbered::new(&ledger)).unwrap();
        assert_eq!(receipt.state(), ReceiptState::Pending);
        worker.unpark();
        let number = ledger.made() - 1;
        assert_eq!(fate(&receipt), ReceiptState::TargetEnded);
        assert_eq!(ledger.drops_of(number), 1, "dropped before the receipt says so");
        let gone = worker.id();
        join(worker);
        assert!(matches!(
            raise_exc(gone, Stop),
            Err(RaiseError::NoSuchThread { .. })
        ));
    }
    ledger.balance();
}

#[test]
fn a_wait_ends_at_its_limit_with_the_state_of_then() {
    let attachment = attach().unwrap();
    let receipt = raise_exc(attachment.id(), Stop).unwrap();
    let start = Instant::now();
    assert_eq!(receipt.wait(Duration::from_millis(20)), ReceiptState::Pending);
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(receipt.wait(Duration::ZERO), ReceiptState::Pending);
    let raised = throwto::safepoint().unwrap_err();
    assert_eq!(receipt.wait(Duration::from_millis(1)), ReceiptState::Delivered);
    drop(raised);
    assert_eq!(receipt.wait(Duration::MAX), ReceiptState::Caught);
}

#[test]
fn many_waiters_on_one_receipt_are_all_woken() {
    let worker = thread::spawn(|| throwto::uninterruptible(|_| drop(thread::park())));
    let receipt = worker.raise(Stop).unwrap();
    std::thread::scope(|s| {
        let waiters: Vec<_> = (0..4).map(|_| s.spawn(|| fate(&receipt))).collect();
        worker.unpark();
        waiters
            .into_iter()
            .for_each(|w| assert_eq!(w.join().unwrap(), ReceiptState::TargetEnded));
    });
    join(worker);
}

#[test]
fn revoking_and_delivering_never_both_win() {
    let ledger = Ledger::new();
    let delivered = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let worker = {
        let (delivered, over) = (Arc::clone(&delivered), Arc::clone(&over));
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if throwto::safepoint().is_err() {
                    delivered.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    };
    let mut revoked = 0;
    let mut receipts = Vec::new();
    for _ in 0..rounds(20_000) {
        let receipt = Raise::new(Numbered::new(&ledger)).queue().to(&worker).unwrap();
        revoked += u64::from(receipt.revoke());
        receipts.push(receipt);
    }
    over.store(true, Ordering::Relaxed);
    join(worker);
    let count = |state| receipts.iter().filter(|r| r.state() == state).count() as u64;
    assert_eq!(count(ReceiptState::Revoked), revoked);
    assert_eq!(count(ReceiptState::Caught), delivered.load(Ordering::SeqCst));
    let sum = count(ReceiptState::Revoked) + count(ReceiptState::Caught) + count(ReceiptState::TargetEnded);
    assert_eq!(sum, ledger.made());
    ledger.balance();
}

#[test]
fn an_exception_that_ends_its_thread_is_caught_with_it() {
    let worker: thread::JoinHandle<()> = thread::spawn(|| {
        loop {
            throwto::safepoint_unwind()
        }
    });
    let receipt = worker.raise(Stop).unwrap();
    assert_eq!(fate(&receipt), ReceiptState::Caught);
    let error = worker.join().unwrap_err();
    assert!(matches!(error, thread::JoinError::Raised(raised) if raised.is::<Stop>()));
}

/// An exception that panics when it is dropped.
#[derive(Debug, thiserror::Error)]
#[error("do not drop me")]
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::resume_unwind(Box::new("dropped"));
        }
    }
}

/// However badly the exceptions behave: every receipt is settled, the thread leaves the registry, joiners are let go.
#[test]
fn a_destructor_that_panics_loses_nobody() {
    let ledger = Ledger::new();
    let worker = thread::spawn(|| throwto::uninterruptible(|_| drop(thread::park())));
    let id = worker.id();
    let fragile = worker.raise(Fragile).unwrap();
    let after = worker.raise(Numbered::new(&ledger)).unwrap();
    worker.unpark();
    assert_eq!(fate(&fragile), ReceiptState::TargetEnded);
    assert_eq!(fate(&after), ReceiptState::TargetEnded);
    match worker.join_timeout(LIMIT) {
        Ok(Err(stuck)) => panic!("never ended: {stuck:?}"),
        Ok(Ok(())) | Err(thread::JoinError::Panicked(_)) => {}
        Err(other) => panic!("{other}"),
    }
    assert!(info(id).is_none());
    ledger.balance();
}

/// A raiser by name holds pins: they go even when a destructor panics on the way out, or the target could never leave.
#[test]
fn a_raiser_that_panics_lets_its_target_go() {
    let worker = thread::Builder::new()
        .name("held by a pin".into())
        .spawn(thread::park)
        .unwrap();
    throwto::uninterruptible(|_| ());
    until_waiting(worker.id());
    let masked = thread::Builder::new()
        .name("held by a pin too".into())
        .spawn(|| throwto::uninterruptible(|_| drop(thread::park())))
        .unwrap();
    until_waiting(masked.id());
    raise_exc("held by a pin too", Fragile).unwrap();
    let second = std::panic::catch_unwind(|| raise_exc("held by a pin too", Fragile));
    assert!(second.is_err(), "the first is dropped and panics");
    masked.unpark();
    until("the target ends", || info(masked.id()).is_none());
    worker.raise(Stop).unwrap();
    join(worker).unwrap_err();
}

#[derive(Debug)]
struct Unmade;

impl std::fmt::Display for Unmade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("never made")
    }
}

impl std::error::Error for Unmade {}

impl Default for Unmade {
    fn default() -> Self {
        std::panic::resume_unwind(Box::new("no value"))
    }
}

/// The thread lives on, so that nothing else would ever end the wait for such a receipt.
#[test]
fn an_exception_whose_value_cannot_be_made_is_over_and_not_delivered_for_ever() {
    let attachment = attach().unwrap();
    let receipt = raise_exc(attachment.id(), ExcType::of::<Unmade>()).unwrap();
    assert!(std::panic::catch_unwind(throwto::safepoint).is_err());
    assert_eq!(receipt.state(), ReceiptState::Caught);
    assert!(throwto::safepoint().is_ok());
    let (scope, handle) = throwto::scope::Scope::new();
    let result = scope.run(|| {
        handle.raise(ExcType::of::<Unmade>()).unwrap();
        assert!(std::panic::catch_unwind(throwto::safepoint).is_err());
        String::from("the body's own")
    });
    assert_eq!(result.as_deref(), Ok("the body's own"));
}
