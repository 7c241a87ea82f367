//! Time limits around calls that are broken by each rung, the forced ones above all: a limit climbs as a raise does, converts
//! its own exception and no other, and leaves a thread that works.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use throwto::foreign::{self, Call, CallError, clear_poison};
use throwto::time::{Deadline, timeout};
use throwto::{Raised, ReceiptState, Rung, Stop, TimedOut, safepoint, thread};
use throwto_fixtures::stuck::Stage;

use crate::forced::*;
use crate::stage::*;

/// When the limits pass: late enough for a call to have begun as a rule, and it does not matter if it has not.
const LIMIT_OF_CALLS: Duration = Duration::from_millis(20);

/// Runs `enter` under a limit. Tells by which rung it came out.
#[track_caller]
fn rung_under_limit<T>(enter: impl FnOnce() -> Result<T, Raised>) -> Rung {
    let before = Belongings::now();
    let mut rung = None;
    let outcome = timeout(LIMIT_OF_CALLS, || {
        let raised = enter().map(drop).expect_err("nobody lets it go: the limit must");
        assert!(raised.is::<TimedOut>(), "{raised}");
        rung = Some(raised.rung());
        if matches!(raised.rung(), Rung::Unwind | Rung::Abandon) {
            let left = raised.left().expect("it tells what was left");
            assert!(left.rung == raised.rung() && left.frames >= 1, "{left}");
        }
        Err::<(), _>(raised)
    });
    assert_eq!(outcome.map(drop), Err(TimedOut));
    assert_eq!(Belongings::now(), before, "what the thread had");
    assert!(!throwto::pending() && safepoint().is_ok(), "the limit is over");
    rung.unwrap()
}

/// The limit breaks what `enter` waits in by `expected`, if it has not passed before that was entered.
#[track_caller]
fn comes_by<T>(expected: Rung, mut enter: impl FnMut() -> Result<T, Raised>) {
    for _ in 0..100 {
        let rung = rung_under_limit(&mut enter);
        if rung == expected {
            return;
        }
        assert_eq!(rung, Rung::Safepoint, "before the call, or by {expected}");
    }
    panic!("100 limits have passed before their calls");
}

#[test]
fn a_limit_around_a_loop_climbs_to_abandon_and_the_thread_works() {
    let body = || {
        for label in ["spin_o2", "spin_malloc", "spin_altstack", "spin_longjmp"] {
            let call = abandoned(label);
            let stage = Stage::new();
            // Sent into the loop by a call that the limit cannot have overtaken more than ten times in a row.
            let rungs = (0..10).map(|_| {
                let rung = rung_under_limit(|| enter(&call, place(label), &stage));
                assert_eq!(clear_poison(label), rung == Rung::Abandon, "{label}");
                rung
            });
            let left = rungs.filter(|rung| *rung == Rung::Abandon).count();
            assert!(left > 0, "{label} was never left by force");
            works_on(&call);
        }
    };
    join(thread::spawn(body));
}

#[test]
fn a_limit_around_a_blocked_call_climbs_to_unwind_and_cleanups_run() {
    let body = || {
        let (reader, _writer) = std::io::pipe().unwrap();
        let call = unwound("limited read");
        let mut unwound = 0;
        for _ in 0..10 {
            let stage = Stage::new().at(&reader);
            let rung = rung_under_limit(|| enter(&call, place("read_with_cleanup"), &stage));
            if rung == Rung::Unwind {
                assert_eq!(stage.cleaned(), 21, "from the inside out");
                unwound += 1;
            }
        }
        assert!(unwound > 0, "never unwound");
        works_on(&call);
    };
    join(thread::spawn(body));
}

/// The limit that passes converts, and the other one does not, whichever of them is around the other.
#[test]
fn nested_limits_around_a_call_that_is_left_convert_exactly() {
    let body = || {
        let call = abandoned("nested");
        let stuck = || enter(&call, place("spin_o2"), &Stage::new());
        // The inner one: the outer body goes on.
        let outcome = timeout(FOREVER, || {
            let inner = timeout(LIMIT_OF_CALLS, stuck);
            clear_poison("nested");
            (
                inner.is_err(),
                safepoint().is_ok(),
                enter(&call, place("first"), &Stage::new()).unwrap(),
            )
        });
        assert_eq!(outcome, Ok((true, true, 0)));
        // The outer one: the inner lets it through.
        let mut inner_converted = None;
        let outcome = timeout(LIMIT_OF_CALLS, || {
            let inner = timeout(FOREVER, stuck);
            inner_converted = Some(inner.is_err());
            inner.unwrap().map(drop)
        });
        clear_poison("nested");
        assert_eq!((outcome.map(drop), inner_converted), (Err(TimedOut), Some(false)));
        // Both at once, seen together by whoever looks: the outermost.
        let both = Deadline::after(LIMIT_OF_CALLS);
        let mut inner_converted = None;
        let outcome = both.run(|_| {
            let inner = both.run(|_| stuck());
            inner_converted = Some(inner.is_err());
            inner.unwrap_or(Ok(0)).map(drop)
        });
        clear_poison("nested");
        // The inner one alone may have been found passed when the call was left.
        assert_eq!(
            outcome.map(drop).is_err(),
            !inner_converted.unwrap(),
            "one of them, and no other"
        );
        assert!(safepoint().is_ok());
        works_on(&call);
    };
    join(thread::spawn(body));
}

#[test]
fn a_raise_and_a_limit_at_once_are_each_met_once() {
    for round in 0..rounds(40) {
        let ready = std::sync::Arc::new(AtomicBool::new(false));
        let told = std::sync::Arc::clone(&ready);
        let worker = thread::spawn(move || {
            let call = abandoned("raised and limited");
            let mut stops = 0;
            let outcome = timeout(LIMIT_OF_CALLS, || {
                told.store(true, Ordering::SeqCst);
                let first = enter(&call, place("spin_o2"), &Stage::new()).unwrap_err();
                if first.is::<TimedOut>() {
                    return Err::<(), _>(first);
                }
                stops += u32::from(first.is::<Stop>());
                drop(first);
                clear_poison("raised and limited");
                // The raise has been met, and the limit is still to come, or has passed.
                Err(spin())
            });
            clear_poison("raised and limited");
            assert_eq!(outcome.map(drop), Err(TimedOut), "the limit is met in any case");
            if stops == 0 {
                stops += u32::from(spin().is::<Stop>());
            }
            works_on(&call);
            stops
        });
        until("ready", || ready.load(Ordering::SeqCst));
        // From well before the limit to well after it.
        std::thread::sleep(Duration::from_millis(round % 40));
        let receipt = worker.raise(Stop).unwrap();
        assert_eq!(join(worker), 1, "round {round}");
        assert_eq!(fate(&receipt), ReceiptState::Caught);
    }
}

/// A limit or a scope inside the call is gone with the call: it raises no more, and those around it are in order.
#[test]
fn limits_inside_a_call_that_is_left_by_force_are_over_with_it() {
    let body = || {
        let call = abandoned("limits inside");
        works_on(&call);
        let spin = place("spin_o2");
        let stage = Stage::new();
        let mut left = 0;
        for round in 0..20 {
            let outer_passes = round % 2 == 0;
            let (outer, inner) = if outer_passes {
                (LIMIT_OF_CALLS, FOREVER)
            } else {
                (FOREVER, LIMIT_OF_CALLS)
            };
            let mut met = None;
            let outcome = timeout(outer, || {
                // SAFETY: the stage outlives the call.
                let stuck = || unsafe { spin(&stage) };
                // SAFETY: the place is made to be left, and what is in between owns nothing.
                let end = unsafe { call.run_forced(|| timeout(inner, || timeout(FOREVER, stuck))) };
                let Err(CallError::Raised(raised)) = end else {
                    panic!("nobody lets it go: {end:?}");
                };
                met = Some((
                    raised.is::<TimedOut>(),
                    raised.rung() == Rung::Abandon || raised.left().is_some(),
                ));
                if !outer_passes {
                    assert!(safepoint().is_ok(), "a limit that is over raises no more");
                }
                Err::<(), _>(raised)
            });
            let (timed_out, by_force) = met.unwrap();
            assert!(timed_out);
            // What was the inner one's is converted by nobody.
            assert_eq!(outcome.is_err(), outer_passes);
            left += u32::from(by_force);
            assert_eq!(clear_poison("limits inside"), by_force);
            assert!(safepoint().is_ok() && !throwto::pending());
        }
        assert!(left > 0, "never left by force");
        works_on(&call);
    };
    join(thread::spawn(body));
}

/// Each means that the ladder has, asked for by a limit.
#[test]
fn a_limit_passes_in_every_rung() {
    let body = || {
        comes_by(Rung::Safepoint, || Err::<(), _>(spin()));
        comes_by(Rung::Wake, || thread::sleep(FOREVER));
        let (reader, mut writer) = std::io::pipe().unwrap();
        let lock = throwto::sync::Mutex::new(());
        std::thread::scope(|s| {
            let (held, is_held) = std::sync::mpsc::channel();
            let (over, is_over) = std::sync::mpsc::channel::<()>();
            let lock = &lock;
            s.spawn(move || {
                let _guard = lock.lock();
                held.send(()).unwrap();
                is_over.recv().unwrap_err();
            });
            is_held.recv().unwrap();
            comes_by(Rung::Wake, || lock.lock().map(drop));
            drop(over);
        });
        let broken_by = |rung: Rung, call: Call<'_>, read: &dyn Fn() -> Result<usize, i32>| {
            comes_by(rung, || match call.try_run(read) {
                Ok(_) => panic!("nobody writes"),
                Err(CallError::Raised(raised)) => Err::<(), _>(raised),
                Err(CallError::Failed(error)) => panic!("failed by itself: {error}"),
                Err(other) => panic!("{other}"),
            });
        };
        broken_by(Rung::Nudge, Call::new("nudged"), &|| raw_read(&reader));
        let failing = Call::new("failing").fail_syscalls();
        broken_by(Rung::Fail, failing, &|| stubborn_read(&reader).0);
        let asked = AtomicBool::new(false);
        let hooked = Call::new("hooked").unblock(|| asked.store(true, Ordering::SeqCst));
        let until_asked = || {
            while !asked.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            Err(libc::EINTR)
        };
        broken_by(Rung::Hook, hooked, &until_asked);
        // A call that refuses every rung is left behind.
        let library = std::sync::Arc::new(throwto_fixtures::LockedLibrary::new());
        let held = library.hold();
        let theirs = std::sync::Arc::clone(&library);
        let outcome = timeout(LIMIT_OF_CALLS, || foreign::detached(move || theirs.call()));
        assert!(outcome.is_err(), "the limit's own exception came out");
        drop(held);
        // None of them has left anything to the thread.
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        let read = Call::new("works").fail_syscalls().run(|| raw_read(&reader));
        assert!(matches!(read, Ok(Ok(1))), "{read:?}");
    };
    join(thread::spawn(body));
}
