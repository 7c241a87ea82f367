//! P11: delivery by result and by unwinding, beside panics, and in destructors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use throwto::{
    Cancelled, ReceiptState, Rung, Stop, TimedOut, attach, catch, catch_only, foreign, raise_exc, thread,
};

use crate::stage::*;

#[test]
fn a_delivered_exception_tells_who_where_and_how() {
    let attachment = attach().unwrap();
    let me = attachment.id();
    let worker = thread::spawn(|| thread::sleep(FOREVER).unwrap_err());
    until_waiting(worker.id());
    let line = line!() + 1;
    worker.raise(Stop).unwrap();
    let raised = join(worker);
    assert_eq!(raised.raised_by(), Some(me));
    assert_eq!(
        (raised.raised_at().file(), raised.raised_at().line()),
        (file!(), line)
    );
    assert_eq!(raised.rung(), Rung::Wake);
    assert_eq!(raised.type_name(), throwto::ExcType::of::<Stop>().name());
    assert!(raised.to_string().contains("asked to stop") && format!("{raised:?}").contains("Stop"));

    let worker = thread::spawn(spin);
    std::thread::scope(|s| s.spawn(|| worker.raise(Stop).unwrap()).join().unwrap());
    let raised = join(worker);
    assert_eq!((raised.raised_by(), raised.rung()), (None, Rung::Safepoint));
}

#[test]
fn a_rung_that_acted_for_a_revoked_raise_is_not_the_next_ones() {
    let (reader, writer) = std::io::pipe().unwrap();
    let worker = thread::spawn(move || {
        let (end, interrupted) = foreign::call(|| stubborn_read(&reader)).unwrap();
        (end, interrupted, spin())
    });
    until_blocked(worker.id(), "read(");
    let receipt = worker.raise(Stop).unwrap();
    assert!(receipt.revoke());
    drop(writer);
    until("the worker spins", || {
        info(worker.id()).is_some_and(|t| t.state == throwto::ThreadState::Running)
    });
    worker.raise(TimedOut).unwrap();
    let (end, _interrupted, raised) = join(worker);
    assert_eq!(end, Ok(0));
    assert!(raised.is::<TimedOut>());
    assert_eq!(raised.rung(), Rung::Safepoint);
}

#[test]
fn catch_gets_exceptions_and_lets_panics_pass() {
    let attachment = attach().unwrap();
    raise_exc(attachment.id(), Stop).unwrap();
    assert!(catch(throwto::safepoint_unwind).unwrap_err().is::<Stop>());
    assert_eq!(catch(|| 5).unwrap(), 5);
    let panic = catch_unwind(|| catch(|| std::panic::resume_unwind(Box::new("a real panic")))).unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "a real panic");
}

#[test]
fn catch_only_lets_other_exceptions_pass() {
    let attachment = attach().unwrap();
    raise_exc(attachment.id(), Stop).unwrap();
    let outer = catch(|| catch_only::<Cancelled, _>(throwto::safepoint_unwind));
    assert!(outer.unwrap_err().is::<Stop>());
    raise_exc(attachment.id(), Cancelled).unwrap();
    let inner = catch(|| catch_only::<Cancelled, _>(throwto::safepoint_unwind)).unwrap();
    assert!(inner.unwrap_err().is::<Cancelled>());
}

struct Runs<F: FnMut()>(F);

impl<F: FnMut()> Drop for Runs<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_safepoint_in_a_destructor_that_a_panic_runs_never_raises() {
    let attachment = attach().unwrap();
    let me = attachment.id();
    let calm = AtomicUsize::new(0);
    let first = raise_exc(me, Stop).unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _guard = Runs(|| {
            assert!(throwto::safepoint().is_ok());
            throwto::safepoint_unwind();
            assert!(thread::sleep(std::time::Duration::from_millis(1)).is_ok());
            assert!(foreign::call(|| ()).is_ok());
            calm.fetch_add(1, Ordering::SeqCst);
        });
        std::panic::resume_unwind(Box::new("a real panic"));
    }));
    assert!(panic.is_err());
    assert_eq!(
        (calm.load(Ordering::SeqCst), first.state()),
        (1, ReceiptState::Pending)
    );

    // The same while an exception unwinds: the second waits.
    raise_exc(me, Cancelled).unwrap();
    let raised = catch(|| {
        let _guard = Runs(|| {
            assert!(throwto::safepoint().is_ok());
            calm.fetch_add(1, Ordering::SeqCst);
        });
        throwto::safepoint_unwind();
    });
    assert!(raised.unwrap_err().is::<Stop>());
    assert_eq!(calm.load(Ordering::SeqCst), 2);
    assert!(throwto::safepoint().unwrap_err().is::<Cancelled>());
}

#[test]
fn a_raise_into_a_thread_that_waits_while_unwinding_is_met_later() {
    let worker = thread::spawn(|| {
        let _ = catch_unwind(|| {
            let _guard = Runs(|| assert!(thread::park().is_ok(), "raised into while unwinding"));
            std::panic::resume_unwind(Box::new(()));
        });
        throwto::safepoint().is_err()
    });
    until_waiting(worker.id());
    worker.raise(Stop).unwrap();
    worker.unpark();
    assert!(join(worker));
}

#[test]
fn an_exception_that_unwinds_makes_no_noise_and_a_panic_does() {
    static HOOKED: AtomicUsize = AtomicUsize::new(0);
    const NAME: &str = "counts its panics";
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() == Some(NAME) {
            HOOKED.fetch_add(1, Ordering::SeqCst);
        } else {
            before(panic);
        }
    }));
    let worker = thread::Builder::new()
        .name(NAME.into())
        .spawn(|| {
            loop {
                throwto::safepoint_unwind()
            }
        })
        .unwrap();
    worker.raise(Stop).unwrap();
    let ended: Result<(), _> = worker.join();
    assert!(matches!(ended, Err(thread::JoinError::Raised(_))));
    assert_eq!(HOOKED.load(Ordering::SeqCst), 0);
    let worker = thread::Builder::new()
        .name(NAME.into())
        .spawn(|| panic!("a real one"))
        .unwrap();
    let ended: Result<(), _> = worker.join();
    match ended {
        Err(thread::JoinError::Panicked(payload)) => {
            assert_eq!(*payload.downcast::<&str>().unwrap(), "a real one");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(HOOKED.load(Ordering::SeqCst), 1);
}

#[test]
fn a_swallowed_exception_is_caught_and_not_raised_again() {
    let attachment = attach().unwrap();
    let receipt = raise_exc(attachment.id(), Stop).unwrap();
    let _ = throwto::safepoint();
    assert_eq!(receipt.state(), ReceiptState::Caught);
    assert!(!throwto::pending() && throwto::safepoint().is_ok());
}

#[test]
fn as_an_io_error_it_is_never_one_that_std_retries() {
    let attachment = attach().unwrap();
    let ledger = Ledger::new();
    let receipt = raise_exc(attachment.id(), Numbered::new(&ledger)).unwrap();
    let error = std::io::Error::from(throwto::safepoint().unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::Other);
    assert_eq!(receipt.state(), ReceiptState::Delivered, "it travels inside");
    let raised = throwto::Raised::from_io(error).unwrap();
    assert_eq!(number_of(&raised), 0);
    drop(raised);
    assert_eq!(receipt.state(), ReceiptState::Caught);
    ledger.balance();
    let other = std::io::Error::from(std::io::ErrorKind::NotFound);
    assert_eq!(
        throwto::Raised::from_io(other).unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
}

#[test]
fn a_default_that_panics_is_a_panic_of_the_target() {
    #[derive(Debug, thiserror::Error)]
    #[error("never made")]
    struct Unmade;
    impl Default for Unmade {
        fn default() -> Self {
            std::panic::resume_unwind(Box::new("not made"))
        }
    }
    let worker = thread::spawn(|| drop(spin()));
    let receipt = worker.raise(throwto::ExcType::of::<Unmade>()).unwrap();
    assert!(matches!(worker.join(), Err(thread::JoinError::Panicked(_))));
    assert_eq!(fate(&receipt), ReceiptState::Caught, "settled with the thread");
}

#[test]
fn exceptions_race_with_results_and_panics_without_loss() {
    let ledger = Ledger::new();
    let worker = thread::spawn(|| {
        let mut numbers = Vec::new();
        loop {
            let round = catch_unwind(AssertUnwindSafe(|| {
                catch(|| {
                    let _guard = Runs(|| assert!(throwto::safepoint().is_ok()));
                    throwto::safepoint_unwind();
                    std::panic::resume_unwind(Box::new(()));
                })
            }));
            match round {
                Ok(Err(raised)) if raised.is::<Stop>() => return numbers,
                Ok(Err(raised)) => numbers.push(number_of(&raised)),
                Ok(Ok(())) => unreachable!("the closure never returns"),
                Err(_panic) => {}
            }
        }
    });
    let mut receipts = Vec::new();
    for _ in 0..3000 {
        receipts.push(
            throwto::Raise::new(Numbered::new(&ledger))
                .queue()
                .to(&worker)
                .unwrap(),
        );
    }
    worker.raise(Stop).unwrap();
    assert_eq!(join(worker), (0..3000).collect::<Vec<_>>());
    assert!(receipts.iter().all(|r| r.state() == ReceiptState::Caught));
    ledger.balance();
}
