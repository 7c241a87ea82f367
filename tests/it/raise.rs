//! P1, P2 and P5: atomic raises, CPython's semantics, order.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use throwto::os::OsTid;
use throwto::{
    Cancelled, ExcType, Interrupted, Raise, RaiseError, Raised, ReceiptState, Stop, ThreadId, TimedOut,
    attach, raise_all, raise_exc, set_async_exc, thread,
};

use crate::stage::*;

fn sleeper(name: &str) -> thread::JoinHandle<Result<(), Raised>> {
    let worker = thread::Builder::new()
        .name(name.into())
        .spawn(|| thread::sleep(FOREVER))
        .unwrap();
    until_waiting(worker.id());
    worker
}

#[test]
fn one_match_is_raised_into_by_id_number_and_name() {
    for way in 0..3 {
        let worker = sleeper("one match");
        let target: throwto::Target = match way {
            0 => worker.id().into(),
            1 => info(worker.id()).unwrap().os_tid.into(),
            _ => "one match".into(),
        };
        let receipt = raise_exc(target, Stop).unwrap();
        assert_eq!(receipt.target(), worker.id());
        let raised = join(worker).unwrap_err();
        assert!(raised.is::<Stop>());
        assert_eq!(raised.raised_at().file(), file!());
        assert_eq!(
            receipt.state(),
            ReceiptState::Caught,
            "at the latest with its thread's end"
        );
    }
}

#[test]
fn no_match_says_what_was_asked_and_drops_the_value_once() {
    let ledger = Ledger::new();
    let never_attached = OsTid::current();
    let worker = thread::spawn(|| ());
    let ended = worker.id();
    join(worker);
    let targets: [throwto::Target; 3] = ["nobody".into(), never_attached.into(), ended.into()];
    for target in targets {
        match raise_exc(target.clone(), Numbered::new(&ledger)) {
            Err(RaiseError::NoSuchThread { asked }) => assert_eq!(asked, target),
            other => panic!("{other:?}"),
        }
        ledger.balance();
    }
}

#[test]
fn an_ambiguous_raise_is_seen_by_nobody() {
    let ledger = Ledger::new();
    let workers = [sleeper("twins"), sleeper("twins"), sleeper("twins")];
    match raise_exc("twins", Numbered::new(&ledger)) {
        Err(RaiseError::Ambiguous { matched }) => assert_eq!(matched, 3),
        other => panic!("{other:?}"),
    }
    ledger.balance();
    for worker in workers {
        assert_eq!(info(worker.id()).unwrap().pending, 0);
        worker.raise(Stop).unwrap();
        assert!(
            join(worker).unwrap_err().is::<Stop>(),
            "only what was raised later"
        );
    }
}

/// What one raiser was refused, and what it has receipts for.
type Sent = (Vec<u64>, Vec<(u64, throwto::Receipt)>);

/// Threads of one name come and go, some blocked and some running, while raisers raise by that name.
#[test]
fn ambiguous_raises_raced_with_exits_and_deliveries_never_deliver() {
    const NAME: &str = "raced";
    let ledger = Ledger::new();
    let delivered = Arc::new(Mutex::new(HashSet::new()));
    let over = Arc::new(AtomicBool::new(false));
    let targets: Vec<_> = (0..4)
        .map(|kind| {
            let (delivered, over) = (Arc::clone(&delivered), Arc::clone(&over));
            let live = move || {
                while !over.load(Ordering::Relaxed) {
                    let attachment = attach().unwrap();
                    for _ in 0..20 {
                        let met = match kind {
                            0 => thread::sleep(std::time::Duration::from_micros(50)),
                            1 => throwto::catch(throwto::safepoint_unwind),
                            _ => throwto::safepoint(),
                        };
                        if let Err(raised) = met {
                            assert!(
                                delivered.lock().unwrap().insert(number_of(&raised)),
                                "delivered twice"
                            );
                        }
                        std::thread::yield_now();
                    }
                    drop(attachment);
                    std::thread::yield_now();
                }
            };
            std::thread::Builder::new().name(NAME.into()).spawn(live).unwrap()
        })
        .collect();
    let raise = |rounds: usize| {
        let (mut refused, mut receipts) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let exception = Numbered::new(&ledger);
            let number = exception.number;
            match Raise::new(exception).queue().to(NAME) {
                Ok(receipt) => receipts.push((number, receipt)),
                Err(RaiseError::Ambiguous { matched }) => {
                    assert!((2..=4).contains(&matched));
                    refused.push(number);
                }
                Err(RaiseError::NoSuchThread { .. }) => refused.push(number),
                Err(other) => panic!("{other}"),
            }
        }
        (refused, receipts)
    };
    let outcomes: Vec<_> = std::thread::scope(|s| {
        [s.spawn(|| raise(3000)), s.spawn(|| raise(3000))]
            .map(|r| r.join().unwrap())
            .into()
    });
    over.store(true, Ordering::Relaxed);
    targets.into_iter().for_each(|t| t.join().unwrap());
    let delivered = delivered.lock().unwrap();
    let mut accepted = 0;
    let outcomes: Vec<Sent> = outcomes;
    for (refused, receipts) in outcomes {
        assert!(
            refused.iter().all(|number| !delivered.contains(number)),
            "a refused raise was delivered"
        );
        for (number, receipt) in receipts {
            accepted += usize::from(delivered.contains(&number));
            match fate(&receipt) {
                ReceiptState::Caught => {
                    assert!(delivered.contains(&number), "{number} was delivered to nobody")
                }
                ReceiptState::TargetEnded => assert!(!delivered.contains(&number)),
                other => panic!("{number}: {other:?}"),
            }
        }
    }
    assert_eq!(accepted, delivered.len(), "every delivery has its receipt");
    ledger.balance();
}

#[test]
fn raising_at_oneself_works_by_every_name() {
    let own = || {
        let attachment = attach().unwrap();
        let targets: [throwto::Target; 3] = [
            attachment.id().into(),
            OsTid::current().into(),
            "narcissus".into(),
        ];
        for target in targets {
            let receipt = raise_exc(target, Interrupted).unwrap();
            assert!(throwto::pending());
            let raised = throwto::safepoint().unwrap_err();
            assert_eq!(raised.raised_by(), Some(attachment.id()));
            assert_eq!(receipt.state(), ReceiptState::Delivered);
            drop(raised);
            assert_eq!(receipt.state(), ReceiptState::Caught);
        }
    };
    std::thread::Builder::new()
        .name("narcissus".into())
        .spawn(own)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_thread_can_be_raised_into_before_it_runs() {
    for _ in 0..200 {
        let worker = thread::spawn(spin);
        worker.raise(Stop).unwrap();
        assert!(join(worker).is::<Stop>());
    }
}

#[test]
fn set_async_exc_sets_every_match_replaces_and_clears() {
    let workers = [sleeper("cpython"), sleeper("cpython")];
    assert_eq!(set_async_exc("cpython", Some(ExcType::of::<Stop>())), 2);
    for worker in workers {
        assert!(join(worker).unwrap_err().is::<Stop>());
    }
    assert_eq!(set_async_exc("cpython", Some(ExcType::of::<Stop>())), 0);
    assert_eq!(set_async_exc("cpython", None), 0);

    let attachment = attach().unwrap();
    let me = attachment.id();
    let ledger = Ledger::new();
    let first = raise_exc(me, Numbered::new(&ledger)).unwrap();
    let second = raise_exc(me, Other::new(&ledger)).unwrap();
    assert_eq!(
        set_async_exc(me, Some(ExcType::of::<Stop>())),
        1,
        "the whole slot is replaced"
    );
    assert_eq!(
        (first.state(), second.state()),
        (ReceiptState::Superseded, ReceiptState::Superseded)
    );
    ledger.balance();
    assert!(throwto::safepoint().unwrap_err().is::<Stop>());
    assert!(throwto::safepoint().is_ok());

    raise_exc(me, Stop).unwrap();
    assert_eq!(set_async_exc(me, None), 1);
    assert!(!throwto::pending());
    assert!(throwto::safepoint().is_ok());
}

#[test]
fn the_value_of_a_type_is_made_in_the_target() {
    #[derive(Debug, thiserror::Error)]
    #[error("made in {0:?}")]
    struct MadeIn(Option<ThreadId>);
    impl Default for MadeIn {
        fn default() -> Self {
            Self(ThreadId::current())
        }
    }
    let worker = sleeper("maker");
    let id = worker.id();
    assert_eq!(set_async_exc(&worker, Some(ExcType::of::<MadeIn>())), 1);
    assert_eq!(
        join(worker).unwrap_err().downcast::<MadeIn>().unwrap().0,
        Some(id)
    );
}

#[test]
fn a_broadcast_gives_each_match_its_receipt() {
    let workers: Vec<_> = (0..5).map(|_| sleeper("crowd")).collect();
    let receipts = raise_all("crowd", ExcType::of::<Cancelled>());
    let targets: HashSet<_> = receipts.iter().map(throwto::Receipt::target).collect();
    assert_eq!(targets, workers.iter().map(thread::JoinHandle::id).collect());
    workers
        .into_iter()
        .for_each(|w| assert!(join(w).unwrap_err().is::<Cancelled>()));
    assert!(receipts.iter().all(|r| fate(r) == ReceiptState::Caught));
}

#[test]
fn distinct_types_come_in_the_order_of_their_raises() {
    let attachment = attach().unwrap();
    let me = attachment.id();
    raise_exc(me, TimedOut).unwrap();
    raise_exc(me, Stop).unwrap();
    raise_exc(me, Interrupted).unwrap();
    assert!(throwto::safepoint().unwrap_err().is::<TimedOut>());
    assert!(throwto::safepoint().unwrap_err().is::<Stop>());
    assert!(throwto::safepoint().unwrap_err().is::<Interrupted>());
    assert!(throwto::safepoint().is_ok());
}

#[test]
fn a_retry_of_the_same_type_supersedes_and_does_not_pile_up() {
    let ledger = Ledger::new();
    let attachment = attach().unwrap();
    let receipts: Vec<_> = (0..10)
        .map(|_| raise_exc(attachment.id(), Numbered::new(&ledger)).unwrap())
        .collect();
    assert_eq!(info(attachment.id()).unwrap().pending, 1);
    assert_eq!(ledger.drops_of(8), 1, "the superseded are dropped at once");
    assert_eq!(number_of(&throwto::safepoint().unwrap_err()), 9);
    assert!(throwto::safepoint().is_ok());
    let superseded = receipts
        .iter()
        .filter(|r| r.state() == ReceiptState::Superseded)
        .count();
    assert_eq!((superseded, receipts[9].state()), (9, ReceiptState::Caught));
    ledger.balance();
}

#[test]
fn queued_raises_are_all_kept_in_order() {
    let ledger = Ledger::new();
    let attachment = attach().unwrap();
    for _ in 0..3 {
        Raise::new(Numbered::new(&ledger))
            .queue()
            .to(attachment.id())
            .unwrap();
    }
    raise_exc(attachment.id(), Numbered::new(&ledger)).unwrap();
    let last = raise_exc(attachment.id(), Numbered::new(&ledger)).unwrap();
    let numbers: Vec<_> = std::iter::from_fn(|| throwto::safepoint().err())
        .map(|r| number_of(&r))
        .collect();
    assert_eq!(numbers, [0, 1, 2, 4], "a plain raise supersedes only a plain one");
    assert_eq!(last.state(), ReceiptState::Caught);
    ledger.balance();
}

/// An exception whose destructor does what it likes.
struct OnDrop<F: FnMut() + Send>(F);

impl<F: FnMut() + Send> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<F: FnMut() + Send> std::fmt::Debug for OnDrop<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDrop")
    }
}

impl<F: FnMut() + Send> std::fmt::Display for OnDrop<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an exception with a destructor")
    }
}

impl<F: FnMut() + Send> std::error::Error for OnDrop<F> {}

fn on_drop() -> impl FnMut() + Send + 'static {
    || {
        // Each takes one of this crate's locks.
        let _ = throwto::threads();
        let _ = raise_exc("whoever is dropped into", Interrupted);
        let _ = throwto::stats();
        let worker = thread::spawn(|| ());
        throwto::uninterruptible(|_| join(worker));
    }
}

/// Shows protocol::slot I3.
#[test]
fn exceptions_are_dropped_outside_every_lock() {
    let boxed = || OnDrop(Box::new(on_drop()) as Box<dyn FnMut() + Send>);
    let body = move || {
        let attachment = attach().unwrap();
        let me = attachment.id();
        for name in [throwto::Target::from(me), "whoever is dropped into".into()] {
            raise_exc(name.clone(), boxed()).unwrap();
            raise_exc(name.clone(), boxed()).unwrap();
            set_async_exc(name.clone(), Some(ExcType::of::<Stop>()));
            raise_exc(name.clone(), boxed()).unwrap().revoke();
            raise_exc(name.clone(), boxed()).unwrap();
            set_async_exc(name, None);
        }
        raise_exc(me, boxed()).unwrap();
        drop(throwto::safepoint());
        raise_exc(me, boxed()).unwrap();
        drop(attachment);
    };
    let thread = std::thread::Builder::new()
        .name("whoever is dropped into".into())
        .spawn(body)
        .unwrap();
    until("every destructor returns", || thread.is_finished());
    thread.join().unwrap();
}

/// The destructor of a superseded exception waits for its target: a raiser that still pinned it would wait for ever.
#[test]
fn a_superseded_exception_is_dropped_with_no_pin_held() {
    let (reader, writer) = std::io::pipe().unwrap();
    let out = Arc::new(AtomicUsize::new(0));
    let worker = {
        let out = Arc::clone(&out);
        let body = move || {
            throwto::mask(|_| {
                let _ = throwto::foreign::call(|| stubborn_read(&reader));
                out.store(1, Ordering::SeqCst);
                thread::park().unwrap_err();
            });
        };
        thread::Builder::new()
            .name("pinned by name".into())
            .spawn(body)
            .unwrap()
    };
    until_blocked(worker.id(), "read(");
    let mut writer = Some(writer);
    let seen = Arc::clone(&out);
    let displaced = OnDrop(Box::new(move || {
        // Lets the worker leave its region, and waits until it has.
        drop(writer.take());
        until("the worker has left its region", || {
            seen.load(Ordering::SeqCst) == 1
        });
    }) as Box<dyn FnMut() + Send>);
    raise_exc("pinned by name", displaced).unwrap();
    let nothing = OnDrop(Box::new(|| ()) as Box<dyn FnMut() + Send>);
    raise_exc("pinned by name", nothing).unwrap();
    join(worker);
}

#[test]
fn raises_of_many_threads_into_one_are_all_met_once() {
    let ledger = Ledger::new();
    let start = Arc::new(Barrier::new(5));
    let target = thread::spawn(|| {
        let mut met = Vec::new();
        loop {
            let raised = spin();
            if raised.is::<Stop>() {
                return met;
            }
            met.push(number_of(&raised));
        }
    });
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                start.wait();
                for _ in 0..500 {
                    Raise::new(Numbered::new(&ledger)).queue().to(&target).unwrap();
                }
            });
        }
        start.wait();
    });
    target.raise(Stop).unwrap();
    let mut met = join(target);
    met.sort_unstable();
    assert_eq!(met, (0..2000).collect::<Vec<_>>());
    ledger.balance();
}
