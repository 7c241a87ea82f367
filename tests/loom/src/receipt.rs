//! Receipts: nobody waits for ever, and a receipt is settled once.
//!
//! Owns: the models of `protocol::receipt`.
//!
//! **Signal context:** no.

use loom::sync::Arc;
use loom::thread;

use crate::protocol::receipt::{AfterSettle, ReceiptCell, ReceiptState};
use crate::protocol::record::{Fences, Owner};
use crate::stage::{FIRST, Futex, Raised, model, raise, record};

fn advance(cell: &ReceiptCell, futex: &Futex, next: ReceiptState) {
    if cell.advance(next) == AfterSettle::Wake {
        futex.wake();
    }
}

fn wait(cell: &ReceiptCell, futex: &Futex) -> ReceiptState {
    loop {
        match cell.prepare_wait() {
            Ok(state) => return state,
            Err(word) => futex.wait_on(cell.word(), word),
        }
    }
}

/// Two waiters, and a receipt that moves twice.
#[test]
fn no_waiter_sleeps_for_ever() {
    // Three threads: bounded.
    model(Some(3), || {
        let (cell, futex) = (Arc::new(ReceiptCell::new()), Arc::new(Futex::default()));
        let waiters = [(); 2].map(|()| {
            let (cell, futex) = (cell.clone(), futex.clone());
            thread::spawn(move || assert_eq!(wait(&cell, &futex), ReceiptState::Caught))
        });
        advance(&cell, &futex, ReceiptState::Delivered);
        advance(&cell, &futex, ReceiptState::Caught);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

/// Even if two were to settle it at once, which the slot's lock forbids, one state would stay.
#[test]
fn a_final_state_stays() {
    model(None, || {
        let cell = Arc::new(ReceiptCell::new());
        let other = thread::spawn({
            let cell = cell.clone();
            move || {
                let _nobody_waits = cell.advance(ReceiptState::Revoked);
                cell.state()
            }
        });
        let _nobody_waits = cell.advance(ReceiptState::Superseded);
        let seen = [cell.state(), other.join().unwrap(), cell.state()];
        assert!(
            seen[0].is_final() && seen.iter().all(|state| *state == seen[0]),
            "{seen:?}"
        );
    });
}

/// A waiter on a receipt that the owner delivers and somebody revokes: it is told one end, and that end stays.
#[test]
fn a_waiter_is_told_the_one_end_of_a_raise() {
    // Three threads: bounded.
    model(Some(3), || {
        let (record, raised, futex) = (record(), Raised::new(), Arc::new(Futex::default()));
        let _nobody_blocks = raise(record, &raised, Fences::Full);
        let owner = thread::spawn({
            let (futex, raised) = (futex.clone(), raised.clone());
            move || {
                let Some(entry) = Owner::of(record).take_pending() else {
                    return false;
                };
                advance(&entry.receipt, &futex, ReceiptState::Delivered);
                drop(entry);
                advance(&raised.receipt, &futex, ReceiptState::Caught);
                true
            }
        });
        let revoker = thread::spawn({
            let (futex, raised) = (futex.clone(), raised.clone());
            move || {
                let Some(mut entry) = record.revoke(FIRST, &raised.receipt) else {
                    return;
                };
                let after = entry.settle(ReceiptState::Revoked);
                if after == AfterSettle::Wake {
                    futex.wake();
                }
            }
        });
        let told = wait(&raised.receipt, &futex);
        assert_eq!(
            raised.drops(),
            1,
            "who is told may rely on the destructor having run"
        );
        let delivered = owner.join().unwrap();
        revoker.join().unwrap();
        let expected = if delivered {
            ReceiptState::Caught
        } else {
            ReceiptState::Revoked
        };
        assert_eq!((told, raised.state()), (expected, expected));
    });
}
