//! Detached calls: the caller comes free whatever the call is stuck in, and what is left behind is seen and counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use throwto::foreign::{self, Call, DetachedError};
use throwto::{
    Cancelled, ExcType, Interrupted, Retry, Stop, ThreadId, ThreadState, mask, raise_until_dead, thread,
    uninterruptible,
};
use throwto_fixtures::LockedLibrary;

use crate::stage::*;

/// The thread that runs the detached call of `caller`.
fn runner_of(caller: ThreadId) -> Option<ThreadId> {
    let all = throwto::threads();
    all.into_iter().find(|t| t.parent == Some(caller)).map(|t| t.id)
}

/// Waits until the detached call of `caller` is blocked at `place`.
#[track_caller]
fn until_runner_blocked(caller: ThreadId, place: &str) -> ThreadId {
    until("the call runs", || runner_of(caller).is_some());
    let runner = runner_of(caller).unwrap();
    until(place, || {
        info(runner).is_some_and(|t| t.state == ThreadState::Foreign && place_of(&t).starts_with(place))
    });
    runner
}

#[track_caller]
fn until_gone(id: ThreadId) {
    until("it has ended", || info(id).is_none());
}

#[test]
fn a_result_comes_back_and_nobody_is_left() {
    let worker = thread::spawn(|| {
        let me = ThreadId::current();
        let ran_on = foreign::detached(ThreadId::current).unwrap();
        assert!(ran_on.is_some() && ran_on != me);
        ran_on.unwrap()
    });
    let ran_on = join(worker);
    assert!(
        info(ran_on).is_none(),
        "it left the registry before its result came"
    );
}

#[test]
fn an_unattached_thread_runs_the_call_itself() {
    let here = std::thread::current().id();
    assert_eq!(foreign::detached(|| std::thread::current().id()).unwrap(), here);
}

#[test]
fn a_caller_comes_free_of_a_lock_inside_c_and_the_call_is_shown_until_it_ends() {
    let library = Arc::new(LockedLibrary::new());
    let held = library.hold();
    let theirs = Arc::clone(&library);
    let worker = thread::spawn(move || Call::new("library").run_detached(move || theirs.call()));
    let runner = until_runner_blocked(worker.id(), "futex wait");
    assert!(!info(runner).unwrap().left_behind);
    until_waiting(worker.id());
    let nudges_before = info(worker.id()).unwrap();
    assert!(!nudges_before.left_behind && nudges_before.region.is_none());

    worker.raise(Stop).unwrap();
    let error = join(worker).unwrap_err();
    assert_eq!(error.left_behind(), Some(runner));
    let raised = error.raised().unwrap();
    assert!(
        raised.is::<Stop>() && raised.rung() == throwto::Rung::Wake,
        "{raised:?}"
    );

    // The driver wakes it now and then, for nothing.
    until_blocked(runner, "futex wait");
    let left = info(runner).unwrap();
    assert!(left.left_behind);
    assert_eq!(
        (left.name.as_deref(), left.region),
        (Some("throwto:library"), Some("library"))
    );
    assert_eq!(left.pending, 1, "it has been raised into, too");
    let stats = throwto::stats();
    assert!(stats.left_behind >= 1 && stats.left_running >= 1);
    let retry = Retry {
        every: std::time::Duration::from_millis(1),
        give_up_after: std::time::Duration::from_millis(5),
    };
    let alive = raise_until_dead(runner, ExcType::of::<Cancelled>(), retry).unwrap_err();
    assert!(alive.info.unwrap().left_behind);

    drop(held);
    until_gone(runner);
    assert_eq!(library.call(), 2, "the call was made all the same");
}

#[test]
fn a_late_result_is_dropped_once_and_where_it_was_made() {
    struct Late(mpsc::Sender<(Option<ThreadId>, bool)>);
    impl Drop for Late {
        fn drop(&mut self) {
            let me = ThreadId::current();
            // Clean-up is masked: what was raised in the thread does not reach it.
            let seen = (me, throwto::pending() && throwto::safepoint().is_ok());
            self.0.send(seen).unwrap();
        }
    }
    let library = Arc::new(LockedLibrary::new());
    let held = library.hold();
    let theirs = Arc::clone(&library);
    let (dropped, drops) = mpsc::channel();
    let worker = thread::spawn(move || {
        foreign::detached(move || {
            theirs.call();
            Late(dropped)
        })
        .map(drop)
    });
    let runner = until_runner_blocked(worker.id(), "futex wait");
    worker.raise(Stop).unwrap();
    assert_eq!(join(worker).unwrap_err().left_behind(), Some(runner));
    assert!(drops.try_recv().is_err());
    drop(held);
    assert_eq!(drops.recv_timeout(LIMIT), Ok((Some(runner), true)));
    until_gone(runner);
    assert!(drops.recv_timeout(LIMIT).is_err(), "dropped again");
}

#[cfg(throwto_ladder)]
#[test]
fn what_can_come_free_ends_instead_of_being_left_for_ever() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let worker = thread::spawn(move || foreign::detached(move || stubborn_read(&reader)).map(drop));
    let runner = until_runner_blocked(worker.id(), "read(");
    worker.raise(Interrupted).unwrap();
    assert_eq!(join(worker).unwrap_err().left_behind(), Some(runner));
    until_gone(runner);
}

#[test]
fn a_hook_gets_its_chance_after_the_caller_has_gone() {
    let stop = Arc::new(AtomicBool::new(false));
    let (hook, stopped) = (Arc::clone(&stop), Arc::clone(&stop));
    let worker = thread::spawn(move || {
        Call::new("endless")
            .unblock(move || hook.store(true, Ordering::SeqCst))
            .run_detached(move || {
                while !stopped.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
            })
    });
    until("it runs", || {
        runner_of(worker.id()).is_some_and(|id| info(id).is_some_and(|t| t.region == Some("endless")))
    });
    let runner = runner_of(worker.id()).unwrap();
    worker.raise(Stop).unwrap();
    assert!(join(worker).is_err());
    until_gone(runner);
    assert!(stop.load(Ordering::SeqCst));
}

#[test]
fn an_exception_that_was_there_before_means_that_nothing_ran() {
    let worker = thread::spawn(|| {
        let me = ThreadId::current().unwrap();
        throwto::raise_exc(me, Stop).unwrap();
        let ran = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&ran);
        let error = foreign::detached(move || theirs.store(true, Ordering::SeqCst)).unwrap_err();
        assert_eq!((error.left_behind(), Arc::strong_count(&ran)), (None, 1));
        assert!(error.raised().unwrap().is::<Stop>());
        ran.load(Ordering::SeqCst)
    });
    assert!(!join(worker));
}

#[test]
fn a_panic_goes_on_in_the_caller_and_a_late_one_ends_with_its_thread() {
    let panicked = thread::spawn(|| {
        foreign::detached(|| -> () { std::panic::resume_unwind(Box::new("from the call")) })
    });
    let error = panicked.join().unwrap_err();
    assert!(error.to_string().contains("from the call"), "{error}");

    let library = Arc::new(LockedLibrary::new());
    let held = library.hold();
    let theirs = Arc::clone(&library);
    let dropped = Ledger::new();
    let payload = Numbered::new(&dropped);
    let worker = thread::spawn(move || {
        foreign::detached(move || -> () {
            theirs.call();
            std::panic::resume_unwind(Box::new(payload))
        })
    });
    let runner = until_runner_blocked(worker.id(), "futex wait");
    worker.raise(Stop).unwrap();
    assert!(join(worker).is_err());
    drop(held);
    until_gone(runner);
    until("the payload is dropped", || dropped.drops_of(0) == 1);
    dropped.balance();
}

#[test]
fn an_uninterruptible_caller_waits_to_the_end_and_a_masked_one_comes_free() {
    for uninterruptibly in [true, false] {
        let library = Arc::new(LockedLibrary::new());
        let held = library.hold();
        let theirs = Arc::clone(&library);
        let worker = thread::spawn(move || {
            let call = move || foreign::detached(move || theirs.call());
            let result = if uninterruptibly {
                uninterruptible(|_| call())
            } else {
                mask(|_| call())
            };
            (result, throwto::safepoint())
        });
        until_runner_blocked(worker.id(), "futex wait");
        let receipt = worker.raise(Stop).unwrap();
        if uninterruptibly {
            assert_eq!(receipt.state(), throwto::ReceiptState::Pending);
            drop(held);
            let (result, after) = join(worker);
            assert_eq!(result.unwrap(), 1);
            assert!(after.unwrap_err().is::<Stop>());
        } else {
            let (result, after) = join(worker);
            assert!(result.unwrap_err().raised().unwrap().is::<Stop>() && after.is_ok());
            drop(held);
        }
    }
}

#[test]
fn a_shield_holds_the_exception_back_until_its_deadline() {
    let library = Arc::new(LockedLibrary::new());
    let _held = library.hold();
    let theirs = Arc::clone(&library);
    let worker = thread::spawn(move || {
        let begun = std::time::Instant::now();
        let limit = std::time::Duration::from_millis(50);
        let result = throwto::shield(limit, || foreign::detached(move || theirs.call()));
        (result.is_err(), begun.elapsed() >= limit)
    });
    until_runner_blocked(worker.id(), "futex wait");
    worker.raise(Stop).unwrap();
    assert_eq!(join(worker), (true, true));
}

#[test]
fn a_call_in_a_callback_of_a_foreign_call_and_a_call_in_a_call_come_free() {
    let library = Arc::new(LockedLibrary::new());
    let held = library.hold();
    let theirs = Arc::clone(&library);
    let worker = thread::spawn(move || {
        foreign::call(|| foreign::detached(move || foreign::detached(move || theirs.call())))
    });
    let outer = until_some(|| runner_of(worker.id()));
    let inner = until_runner_blocked(outer, "futex wait");
    worker.raise(Stop).unwrap();
    let error = join(worker).unwrap().unwrap_err();
    assert_eq!(error.left_behind(), Some(outer));
    // Cancelled, the outer call leaves the inner one behind and ends.
    until_gone(outer);
    assert!(info(inner).unwrap().left_behind);
    drop(held);
    until_gone(inner);
}

#[track_caller]
fn until_some<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    until("there", || {
        found = look();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_stranger_who_raises_in_the_thread_of_the_call_hits_the_call() {
    let worker = thread::spawn(|| foreign::detached(|| thread::sleep(FOREVER)));
    let runner = until_some(|| runner_of(worker.id()));
    throwto::raise_exc(runner, Interrupted).unwrap();
    match join(worker) {
        // In the call, as a rule; or before it began.
        Ok(slept) => assert!(slept.unwrap_err().is::<Interrupted>()),
        Err(error) => assert!(error.left_behind().is_none() && error.raised().unwrap().is::<Interrupted>()),
    }
}

/// Shows foreign::detached I3.
#[test]
fn a_value_that_panics_in_the_making_leaves_the_call_behind_all_the_same() {
    #[derive(Debug)]
    struct Unmade;
    impl Default for Unmade {
        fn default() -> Self {
            std::panic::resume_unwind(Box::new("not made"))
        }
    }
    impl std::fmt::Display for Unmade {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("unmade")
        }
    }
    impl std::error::Error for Unmade {}
    let library = Arc::new(LockedLibrary::new());
    let held = library.hold();
    let theirs = Arc::clone(&library);
    let worker = thread::spawn(move || foreign::detached(move || theirs.call()));
    let runner = until_runner_blocked(worker.id(), "futex wait");
    worker.raise(ExcType::of::<Unmade>()).unwrap();
    assert!(worker.join().unwrap_err().to_string().contains("not made"));
    assert!(info(runner).unwrap().left_behind);
    drop(held);
    until_gone(runner);
}

/// The raise and the result race, as near to each other as can be: every result is dropped once, by the caller or on
/// the way out of its thread, and every exception is delivered in a call, or after it.
#[test]
fn a_raise_that_races_the_result_loses_and_doubles_neither() {
    let rounds = rounds(3000);
    static MADE: AtomicU64 = AtomicU64::new(0);
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    #[derive(Debug)]
    struct Counted;
    impl Counted {
        fn new() -> Self {
            MADE.fetch_add(1, Ordering::SeqCst);
            Self
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::SeqCst);
        }
    }
    let before = throwto::stats().left_behind;
    let (ask, asked) = mpsc::sync_channel::<u32>(0);
    let begun = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&begun);
    let worker = thread::spawn(move || {
        let (mut results, mut given_up, mut after, mut early) = (0_u64, 0, 0, 0);
        for spins in asked {
            let begun = Arc::clone(&theirs);
            let call = move || {
                begun.store(true, Ordering::SeqCst);
                for _ in 0..spins {
                    std::hint::spin_loop();
                }
                Counted::new()
            };
            match foreign::detached(call) {
                Ok(result) => {
                    drop(result);
                    results += 1;
                    // It stayed pending, or is still to come.
                    drop(spin());
                    after += 1;
                }
                Err(DetachedError::Raised {
                    left_behind: Some(_), ..
                }) => given_up += 1,
                Err(DetachedError::Raised { .. }) => early += 1,
                Err(other) => panic!("{other}"),
            }
        }
        (results, given_up, after, early)
    });
    let mut dice = Dice::new(seed());
    for round in 0..rounds {
        begun.store(false, Ordering::SeqCst);
        // Every tenth is long enough for a raiser that was kept waiting for a processor.
        let longest = if round % 10 == 0 { 40_000 } else { 400 };
        ask.send(dice.roll(longest) as u32).unwrap();
        while !begun.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        for _ in 0..dice.roll(400) {
            std::hint::spin_loop();
        }
        let receipt = worker.raise(Stop).unwrap();
        assert_eq!(fate(&receipt), throwto::ReceiptState::Caught);
    }
    drop(ask);
    let (results, given_up, after, early) = join(worker);
    assert_eq!((results + given_up, after, early), (rounds, results, 0));
    assert!(results > 0 && given_up > 0, "no race: {results} and {given_up}");
    assert!(throwto::stats().left_behind - before >= given_up);
    until("every call has ended", || MADE.load(Ordering::SeqCst) == rounds);
    until("every result is dropped", || {
        DROPPED.load(Ordering::SeqCst) == rounds
    });
}
