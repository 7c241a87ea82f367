//! P6: what is addressed to a scope is delivered in it or never, and each scope converts its own exception only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use throwto::scope::{Scope, ScopeHandle};
use throwto::{
    Cancelled, Interrupted, Raise, RaiseError, Raised, ReceiptState, ThreadId, attach, catch, mask,
    safepoint, safepoint_unwind, shield, thread, uninterruptible,
};

use crate::stage::*;

type Outcome = Result<Result<(), Raised>, Cancelled>;

#[test]
fn a_scope_cancelled_before_it_is_entered_raises_at_its_first_safepoint() {
    let (scope, handle) = Scope::new();
    handle.cancel();
    assert!(handle.is_cancelled());
    let mut reached = false;
    let outcome: Outcome = scope.run(|| {
        reached = true;
        let raised = safepoint().unwrap_err();
        assert!(raised.is::<Cancelled>() && raised.raised_by().is_none());
        Err(raised)
    });
    assert!(reached && matches!(outcome, Err(Cancelled)));
    assert!(ThreadId::current().is_none(), "attached for that time only");
}

#[test]
fn a_cancelled_scope_raises_again_at_every_safepoint_and_never_after_its_end() {
    let _attachment = attach().unwrap();
    let (scope, handle) = Scope::new();
    let outcome = scope.run(|| {
        assert!(safepoint().is_ok() && !throwto::pending());
        handle.cancel();
        assert!(throwto::pending());
        for _ in 0..3 {
            assert!(safepoint().unwrap_err().is::<Cancelled>());
            assert!(thread::sleep(FOREVER).unwrap_err().is::<Cancelled>());
        }
        5
    });
    assert_eq!(outcome, Ok(5), "results win");
    assert!(!throwto::pending() && safepoint().is_ok());
    handle.cancel();
    assert!(!throwto::pending());
}

/// Shows protocol::scope I2, I4.
#[test]
fn each_scope_converts_its_own_exception_and_lets_the_outer_ones_through() {
    let _attachment = attach().unwrap();
    for unwinding in [false, true] {
        let (outer, cancel_outer) = Scope::new();
        let (inner, _cancel_inner) = Scope::new();
        let mut passed = false;
        let outcome: Result<Outcome, Cancelled> = outer.run(|| {
            let through = catch(|| {
                inner.run(|| {
                    cancel_outer.cancel();
                    if unwinding {
                        safepoint_unwind();
                    }
                    safepoint()
                })
            });
            passed = match &through {
                // The inner scope has handed on what its body returned.
                Ok(outcome) => !unwinding && outcome.as_ref().is_ok_and(|returned| returned.is_err()),
                Err(raised) => unwinding && raised.is::<Cancelled>(),
            };
            through.unwrap_or_else(|raised| Ok(Err(raised)))
        });
        assert!(
            passed && matches!(outcome, Err(Cancelled)),
            "unwinding: {unwinding}"
        );
        assert!(safepoint().is_ok());
    }
}

#[test]
fn the_inner_scopes_exception_ends_there_and_the_outer_one_goes_on() {
    let _attachment = attach().unwrap();
    for unwinding in [false, true] {
        let (outer, _cancel_outer) = Scope::new();
        let (inner, cancel_inner) = Scope::new();
        let outcome = outer.run(|| {
            let ended: Outcome = inner.run(|| {
                cancel_inner.cancel();
                if unwinding {
                    safepoint_unwind();
                }
                safepoint()
            });
            assert!(matches!(ended, Err(Cancelled)));
            safepoint().is_ok()
        });
        assert_eq!(outcome, Ok(true));
    }
}

#[test]
fn with_both_cancelled_the_outer_one_is_raised() {
    let _attachment = attach().unwrap();
    let (outer, cancel_outer) = Scope::new();
    let (inner, cancel_inner) = Scope::new();
    let outcome: Result<Outcome, Cancelled> = outer.run(|| {
        inner.run(|| {
            cancel_inner.cancel();
            cancel_outer.cancel();
            safepoint()
        })
    });
    assert!(matches!(outcome, Err(Cancelled)));
}

#[test]
fn an_exception_of_the_same_type_from_elsewhere_is_not_a_scopes_own() {
    let attachment = attach().unwrap();
    let (scope, _handle) = Scope::new();
    throwto::raise_exc(attachment.id(), Cancelled).unwrap();
    let outcome: Outcome = scope.run(safepoint);
    assert!(outcome.unwrap().unwrap_err().is::<Cancelled>());

    let (scope, _handle) = Scope::new();
    throwto::raise_exc(attachment.id(), Cancelled).unwrap();
    let outcome = catch(|| scope.run(safepoint_unwind));
    assert!(outcome.unwrap_err().is::<Cancelled>());
}

#[test]
fn the_exception_is_recognised_in_whatever_error_it_was_turned_into() {
    let _attachment = attach().unwrap();
    let cancelled = || {
        let (scope, handle) = Scope::new();
        handle.cancel();
        scope
    };
    let as_io = || -> std::io::Result<()> { Ok(safepoint()?) };
    assert_eq!(cancelled().run(as_io).unwrap_err(), Cancelled);
    let boxed = || -> Result<(), Box<dyn std::error::Error>> { Ok(safepoint()?) };
    assert_eq!(cancelled().run(boxed).unwrap_err(), Cancelled);
    let called = || throwto::foreign::Call::new("nothing").try_run(|| Ok::<_, std::fmt::Error>(()));
    assert_eq!(cancelled().run(called).unwrap_err(), Cancelled);
    // Dropped on the way: the body has dealt with it.
    let swallowed = || safepoint().map_err(|_| String::from("another error"));
    assert_eq!(cancelled().run(swallowed), Ok(Err(String::from("another error"))));
    // Put aside, and a result that cannot hold it.
    let mut aside = None;
    let outcome = cancelled().run(|| {
        aside = safepoint().err();
        6
    });
    assert_eq!(outcome, Ok(6));
}

#[test]
fn a_panic_passes_through_a_cancelled_scope() {
    let _attachment = attach().unwrap();
    let (scope, handle) = Scope::new();
    handle.cancel();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        scope.run(|| std::panic::resume_unwind(Box::new("a panic")))
    }));
    let payload = panic.map(|_: Result<(), Cancelled>| ()).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"a panic"));
    assert!(safepoint().is_ok());
}

#[test]
fn masks_and_shields_hold_a_cancelled_scope_back() {
    let _attachment = attach().unwrap();
    let (scope, handle) = Scope::new();
    let outcome = scope.run(|| {
        handle.cancel();
        mask(|m| {
            assert!(safepoint().is_ok());
            assert!(m.restore(safepoint).is_err());
            assert!(
                thread::sleep(FOREVER).is_err(),
                "masked, it is raised where it blocks"
            );
        });
        uninterruptible(|_| assert!(thread::sleep(Duration::from_micros(50)).is_ok()));
        shield(FOREVER, || {
            assert!(thread::sleep(Duration::from_micros(50)).is_ok())
        });
    });
    assert_eq!(outcome, Ok(()));
}

#[test]
fn a_raise_into_a_scope_is_delivered_in_it_once_with_a_receipt() {
    let ledger = Ledger::new();
    let _attachment = attach().unwrap();
    let (scope, handle) = Scope::new();
    let mut receipt = None;
    let outcome: Outcome = scope.run(|| {
        receipt = Some(handle.raise(Numbered::new(&ledger)).unwrap());
        assert_eq!(number_of(&safepoint().unwrap_err()), 0);
        assert!(safepoint().is_ok(), "once");
        handle.raise(Numbered::new(&ledger)).unwrap();
        safepoint()
    });
    assert!(matches!(outcome, Err(Cancelled)));
    assert_eq!(receipt.unwrap().state(), ReceiptState::Caught);
    ledger.balance();
}

#[test]
fn what_a_scope_did_not_meet_ends_with_it() {
    let ledger = Ledger::new();
    let attachment = attach().unwrap();
    let (scope, handle) = Scope::new();
    let mut receipts = Vec::new();
    let kept = scope
        .run(|| {
            receipts.push(handle.raise(Numbered::new(&ledger)).unwrap());
            let kept = Raise::new(Numbered::new(&ledger)).to(attachment.id()).unwrap();
            receipts.push(handle.raise(Numbered::new(&ledger)).unwrap());
            assert_eq!(receipts[0].state(), ReceiptState::Superseded);
            assert_eq!(
                kept.state(),
                ReceiptState::Pending,
                "another scope's is not superseded"
            );
            kept
        })
        .unwrap();
    assert_eq!(receipts[1].state(), ReceiptState::TargetEnded);
    assert!(throwto::pending());
    assert_eq!(number_of(&safepoint().unwrap_err()), 1);
    assert!(!throwto::pending() && kept.state() == ReceiptState::Caught);
    let late = Raise::new(Numbered::new(&ledger)).to_scope(&handle);
    assert!(matches!(late, Err(RaiseError::ScopeNotOpen)));
    ledger.balance();
}

#[test]
fn a_cancel_wakes_a_scope_out_of_every_kind_of_wait() {
    type Body = fn(&std::io::PipeReader) -> bool;
    let bodies: [(Body, &str); 3] = [
        (|_| thread::sleep(FOREVER).is_err(), "futex wait"),
        (|_| thread::park().is_err(), "futex wait"),
        (
            |reader| {
                let call = with_fail(throwto::foreign::Call::new("read"), true);
                matches!(call.run(|| breakable_read(reader)), Ok(Err(BROKEN))) && safepoint().is_err()
            },
            "read(",
        ),
    ];
    for (body, place) in bodies {
        let (reader, _writer) = std::io::pipe().unwrap();
        let (scope, handle) = Scope::new();
        let worker = thread::spawn(move || scope.run(|| body(&reader)));
        until_blocked(worker.id(), place);
        handle.cancel();
        let outcome = join(worker);
        assert!(matches!(outcome, Ok(true)), "{place}: {outcome:?}");
    }
}

/// A body that ends as the cancel comes: no signal, no exception and no broken call for the next job.
#[test]
fn a_cancel_that_races_the_end_never_hits_the_next_job() {
    let (jobs, to_run) = channel::<Scope>();
    let next_job_hit = Arc::new(AtomicU64::new(0));
    let hit = Arc::clone(&next_job_hit);
    let done = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&done);
    let worker = thread::spawn(move || {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut own = 0_u64;
        for scope in to_run {
            let ended = scope.run(|| throwto::foreign::call(|| raw_poll(&reader)).map(drop));
            own += u64::from(ended.is_err());
            // The next job: a call that must not be broken.
            std::io::Write::write_all(&mut writer, b"x").unwrap();
            let read = throwto::foreign::call(|| raw_read(&reader));
            let clean = matches!(read, Ok(Ok(1))) && safepoint().is_ok() && !throwto::pending();
            hit.fetch_add(u64::from(!clean), Ordering::SeqCst);
            count.fetch_add(1, Ordering::SeqCst);
        }
        own
    });
    let rounds = rounds(3_000);
    for round in 0..rounds {
        let (scope, handle) = Scope::new();
        jobs.send(scope).unwrap();
        for _ in 0..(round % 50) * 40 {
            std::hint::spin_loop();
        }
        handle.cancel();
        until("done", || done.load(Ordering::SeqCst) > round);
    }
    drop(jobs);
    let own = join(worker);
    assert_eq!(next_job_hit.load(Ordering::SeqCst), 0);
    assert!(own > 0, "no cancel came in time");
}

/// Blocks for a millisecond in somebody else's code.
fn raw_poll(reader: &std::io::PipeReader) -> i32 {
    let mut poll = libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(reader),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, borrowed for the call.
    unsafe { libc::poll(&raw mut poll, 1, 1) }
}

/// P3 with scopes: raisers, cancellers and revokers against scopes that open and end as fast as they can.
#[test]
fn everything_raised_into_scopes_is_accounted_for() {
    let seed = seed();
    println!("THROWTO_SEED={seed}");
    let ledger = Ledger::new();
    let over = AtomicBool::new(false);
    let (met, receipts) = std::thread::scope(|s| {
        let end = Over(&over);
        let (handles, open) = channel::<ScopeHandle>();
        let target = s.spawn({
            let over = &over;
            move || {
                let mut dice = Dice::new(seed);
                let _attachment = attach().unwrap();
                let mut met = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    nest(&mut dice, &handles, &mut met, 3);
                    assert!(
                        safepoint().is_ok() && !throwto::pending(),
                        "outside of every scope; THROWTO_SEED={seed}"
                    );
                }
                met
            }
        });
        let ledger = &ledger;
        let raiser = s.spawn(move || {
            let mut dice = Dice::new(seed ^ 7);
            let mut receipts = Vec::new();
            for handle in open {
                for _ in 0..dice.roll(3) {
                    let exception = Numbered::new(ledger);
                    let number = exception.number;
                    let raised = Raise::new(exception);
                    let raised = if dice.roll(2) == 0 { raised.queue() } else { raised };
                    match raised.to_scope(&handle) {
                        Ok(receipt) => {
                            if dice.roll(5) == 0 {
                                receipt.revoke();
                            }
                            receipts.push((number, receipt));
                        }
                        Err(RaiseError::ScopeNotOpen) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                if dice.roll(4) == 0 {
                    handle.cancel();
                }
            }
            receipts
        });
        std::thread::sleep(Duration::from_millis(1500));
        drop(end);
        (target.join().unwrap(), raiser.join().unwrap())
    });
    let mut caught = 0;
    for (number, receipt) in &receipts {
        let state = receipt.state();
        assert!(state.is_final(), "{number} is {state:?}; THROWTO_SEED={seed}");
        let delivered = state == ReceiptState::Caught;
        assert_eq!(met.contains(number), delivered, "{number} is {state:?}");
        caught += usize::from(delivered);
    }
    assert_eq!(caught, met.len(), "THROWTO_SEED={seed}");
    ledger.balance();
}

fn nest(dice: &mut Dice, handles: &std::sync::mpsc::Sender<ScopeHandle>, met: &mut Vec<u64>, depth: u32) {
    let (scope, handle) = Scope::new();
    handles.send(handle).unwrap();
    let mut seen = Vec::new();
    let outcome: Outcome = scope.run(|| {
        for _ in 0..dice.roll(6) {
            let came = match dice.roll(3) {
                0 => safepoint(),
                1 => catch(safepoint_unwind),
                _ => thread::sleep(Duration::from_micros(dice.roll(40))),
            };
            if depth > 0 && dice.roll(4) == 0 {
                nest(dice, handles, &mut seen, depth - 1);
            }
            if let Err(raised) = came {
                seen.extend(
                    raised
                        .downcast_ref::<Numbered>()
                        .map(|exception| exception.number),
                );
                if dice.roll(2) == 0 {
                    return Err(raised);
                }
            }
        }
        Ok(())
    });
    drop(outcome);
    met.extend(seen);
}

#[test]
fn a_new_thread_is_in_no_scope() {
    let _attachment = attach().unwrap();
    let (scope, handle) = Scope::new();
    let outcome = scope.run(|| {
        handle.cancel();
        uninterruptible(|_| join(thread::spawn(|| safepoint().is_ok())))
    });
    assert!(outcome.is_ok_and(|free| free));
}

#[test]
fn an_exception_for_the_thread_passes_a_scope_untouched() {
    let attachment = attach().unwrap();
    let (scope, _handle) = Scope::new();
    let outcome = scope.run(|| {
        throwto::raise_exc(attachment.id(), Interrupted).unwrap();
        safepoint()
    });
    assert!(outcome.unwrap().unwrap_err().is::<Interrupted>());
}
