//! Time limits: they pass where they should, convert their own exception only, and are over when they are over.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use throwto::foreign::Call;
use throwto::time::{Deadline, Limit, timeout};
use throwto::{Raised, ThreadId, TimedOut, attach, catch, mask, safepoint, safepoint_unwind, shield, thread};

use crate::stage::*;

const SOON: Duration = Duration::from_millis(5);

/// `body` in an attached thread that the test does not wait for without bound.
#[track_caller]
fn in_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    join(thread::spawn(body))
}

#[test]
fn a_limit_passes_in_every_kind_of_body() {
    let began = Instant::now();
    assert_eq!(
        in_thread(|| timeout(SOON, spin).map(drop)),
        Err(TimedOut),
        "a loop of safepoints"
    );
    let unwound = || -> Result<(), TimedOut> {
        timeout(SOON, || {
            loop {
                safepoint_unwind();
            }
        })
    };
    assert_eq!(in_thread(unwound), Err(TimedOut));
    assert_eq!(
        in_thread(|| timeout(SOON, || thread::sleep(FOREVER)).map(drop)),
        Err(TimedOut)
    );
    assert_eq!(in_thread(|| timeout(SOON, thread::park).map(drop)), Err(TimedOut));
    assert!(began.elapsed() >= 4 * SOON, "none before its time");
}

#[test]
fn a_limit_breaks_foreign_calls_by_the_rungs_they_allow() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let failed = in_thread(move || {
        timeout(SOON, || {
            let read = with_fail(Call::new("read"), true).run(|| breakable_read(&reader));
            (read, safepoint())
        })
        .map(drop)
    });
    assert_eq!(failed, Err(TimedOut), "nudge or fail");
    let released = std::sync::Arc::new(AtomicU64::new(0));
    let hooked = in_thread(move || {
        timeout(SOON, || {
            let call = Call::new("hooked").unblock(|| released.store(1, Ordering::SeqCst));
            call.try_run(|| -> Result<(), &str> {
                while released.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                Err("interrupted")
            })
        })
        .map(drop)
    });
    assert_eq!(hooked, Err(TimedOut), "hook");
}

#[test]
fn a_result_in_time_is_the_result_and_an_unattached_thread_is_attached_for_the_while() {
    assert_eq!(timeout(FOREVER, || ThreadId::current().is_some()), Ok(true));
    assert_eq!(ThreadId::current(), None);
    let _attachment = attach().unwrap();
    assert_eq!(timeout(FOREVER, || Ok::<_, Raised>(5)).unwrap().unwrap(), 5);
    assert!(!throwto::pending());
}

#[test]
fn the_nearest_of_nested_limits_passes_and_converts_its_own_exception_only() {
    in_thread(|| {
        let mut after_inner = None;
        let outcome = timeout(FOREVER, || {
            let inner = timeout(SOON, || thread::sleep(FOREVER));
            after_inner = Some((inner.is_err(), safepoint().is_ok()));
            7
        });
        assert_eq!((outcome, after_inner), (Ok(7), Some((true, true))));

        for unwinding in [false, true] {
            let mut inner_converted = false;
            let outcome = timeout(SOON, || {
                let inner = timeout(FOREVER, || {
                    if unwinding {
                        loop {
                            safepoint_unwind();
                        }
                    }
                    thread::sleep(FOREVER)
                });
                inner_converted = inner.is_err();
                inner.unwrap_or(Ok(()))
            });
            assert!(outcome.is_err() && !inner_converted, "unwinding: {unwinding}");
        }
        assert!(safepoint().is_ok());
    });
}

#[test]
fn limits_that_pass_together_are_each_reported_by_the_outermost() {
    in_thread(|| {
        let outcome = timeout(Duration::ZERO, || timeout(Duration::ZERO, safepoint));
        assert_eq!(outcome.map(drop), Err(TimedOut));
        assert!(safepoint().is_ok());
    });
}

#[test]
fn a_body_that_swallows_once_meets_its_limit_again() {
    let rounds = in_thread(|| {
        let mut met = 0;
        let outcome = timeout(SOON, || -> Result<(), Raised> {
            loop {
                if let Err(raised) = safepoint() {
                    met += 1;
                    if met == 3 {
                        return Err(raised);
                    }
                }
            }
        });
        assert_eq!(outcome.map(drop), Err(TimedOut));
        met
    });
    assert_eq!(rounds, 3);
}

#[test]
fn a_body_that_swallows_and_returns_late_has_its_result_returned() {
    let outcome = in_thread(|| {
        let late = timeout(SOON, || {
            let swallowed = thread::sleep(FOREVER).is_err();
            let again = catch(spin).is_ok();
            vec![swallowed, again]
        });
        (late, safepoint().is_ok())
    });
    assert_eq!(outcome, (Ok(vec![true, true]), true));
}

#[test]
fn zero_runs_up_to_the_first_safepoint_and_never_never_passes() {
    in_thread(|| {
        let mut reached = false;
        let outcome = timeout(Duration::ZERO, || {
            reached = true;
            safepoint()
        });
        assert!(reached && outcome.is_err());
        assert_eq!(timeout(Duration::ZERO, || 5), Ok(5));
        let _ = timeout(Duration::MAX, || assert!(safepoint().is_ok()));
        for never in [
            Deadline::NEVER,
            Deadline::after(Duration::MAX),
            Deadline::after_secs(f64::INFINITY),
            Deadline::after_secs(1e300),
        ] {
            assert!(never.run(|_| safepoint()).unwrap().is_ok());
            assert!(never == Deadline::NEVER && never.remaining().is_none());
        }
        for passed in [-1.0, -0.0, 0.0, f64::NEG_INFINITY, -1e300] {
            assert!(
                Deadline::after_secs(passed).run(|_| safepoint()).is_err(),
                "{passed}"
            );
        }
        assert!(std::panic::catch_unwind(|| Deadline::after_secs(f64::NAN)).is_err());
        assert!(Deadline::at(Instant::now()).has_passed());
        assert!(safepoint().is_ok());
    });
}

#[test]
fn a_deadline_can_be_moved_both_ways_from_inside() {
    in_thread(|| {
        let sooner = Deadline::after(FOREVER).run(|limit| {
            limit.move_to(Deadline::after(SOON));
            thread::sleep(FOREVER)
        });
        assert!(sooner.is_err());
        let began = Instant::now();
        let later = Deadline::after(FOREVER / 2).run(|limit| {
            limit.move_to(Deadline::after(2 * SOON));
            limit.move_to(Deadline::NEVER);
            let slept = thread::sleep(4 * SOON).is_ok();
            (slept, limit.has_passed(), limit.deadline() == Deadline::NEVER)
        });
        assert_eq!(later, Ok((true, false, true)));
        assert!(began.elapsed() >= 4 * SOON);
        // What has passed stays passed.
        let passed = Deadline::after(Duration::ZERO).run(|limit| {
            limit.move_to(Deadline::NEVER);
            (limit.has_passed(), safepoint().is_err())
        });
        assert_eq!(passed, Ok((true, true)));
    });
}

#[test]
fn masks_and_shields_hold_a_limit_back() {
    in_thread(|| {
        let outcome = timeout(Duration::ZERO, || {
            mask(|_| assert!(safepoint().is_ok()));
            shield(FOREVER, || {
                assert!(thread::sleep(Duration::from_millis(1)).is_ok())
            });
            shield(SOON, || thread::sleep(FOREVER))
        });
        assert_eq!(outcome.map(drop), Err(TimedOut));
    });
}

#[test]
fn a_new_thread_has_no_limit() {
    let free = in_thread(|| {
        timeout(Duration::ZERO, || {
            shield(LIMIT, || thread::spawn(|| safepoint().is_ok()).join().unwrap())
        })
    });
    assert_eq!(free, Ok(true));
}

/// Limits that pass at the very end of the work: they pass or they do not, and nothing comes after.
/// `THROWTO_ROUNDS=10000000` for the long run.
#[test]
fn no_limit_that_passes_at_the_end_of_the_work_is_raised_after_it() {
    let mut left = rounds(1_000_000);
    let mut passed = 0;
    while left > 0 {
        let some = left.min(1_000_000);
        left -= some;
        passed += in_thread(move || limits_at_the_end(some));
    }
    println!("{passed} passed");
}

fn limits_at_the_end(rounds: u64) -> u64 {
    let mut passed = 0;
    for round in 0..rounds {
        // The work is about as long as what it takes to fire.
        let limit = Duration::from_nanos(round % 997 * 20);
        let end = Instant::now() + limit;
        let outcome = timeout(limit, || {
            while Instant::now() < end {
                safepoint()?;
            }
            Ok::<_, Raised>(())
        });
        passed += u64::from(outcome.is_err());
        assert!(!throwto::pending() && safepoint().is_ok(), "round {round}");
    }
    passed
}

/// The same with a wait that ends as the limit does, and a call after it that must not be broken.
#[test]
fn a_call_after_a_limit_is_never_broken_by_it() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    in_thread(move || {
        for round in 0..rounds(2_000) {
            let limit = Duration::from_micros(100 + round % 50);
            let _either = timeout(limit, || thread::sleep(limit));
            std::io::Write::write_all(&mut writer, b"x").unwrap();
            let read = with_fail(Call::new("read"), true).run(|| raw_read(&reader));
            assert!(matches!(read, Ok(Ok(1))), "round {round}: {read:?}");
        }
    });
}

/// Shows protocol::deadline I1.
#[test]
fn ten_thousand_deadlines_on_one_driver_each_pass_and_none_too_early() {
    const THREADS: u64 = 100;
    const NESTED: u64 = 100;
    let begins = Instant::now() + Duration::from_millis(300);
    let workers: Vec<_> = (0..THREADS)
        .map(|worker| {
            thread::spawn(move || {
                let mut seen = Vec::new();
                // The innermost is the nearest: each passes in its turn.
                nest(begins, worker, NESTED, &mut seen).expect("nothing is outside of the outermost");
                seen
            })
        })
        .collect();
    let mut all = 0;
    for worker in workers {
        let seen = join(worker);
        let mut last = Instant::now() - FOREVER;
        for (due, ended) in seen {
            assert!(ended >= due && due >= last, "in order, and none before its time");
            last = due;
            all += 1;
        }
    }
    assert_eq!(all, THREADS * NESTED);
}

/// Deeper than the rows that a thread's scopes have at first, with the limit that passes anywhere among them.
#[test]
fn a_limit_among_a_hundred_nested_ones_converts_its_own_exception() {
    fn nested(depth: u32, short: u32) -> Result<Option<u32>, Raised> {
        let limit = if depth == short { SOON } else { FOREVER };
        let outcome = timeout(limit, || match depth {
            0 => thread::sleep(FOREVER).map(|()| None),
            _ => nested(depth - 1, short),
        });
        match outcome {
            Err(TimedOut) => Ok(Some(depth)),
            Ok(through) => through,
        }
    }
    for short in [0, 1, 50, 99, 100] {
        let converted = in_thread(move || nested(100, short)).expect("nothing is outside of the outermost");
        assert_eq!(converted, Some(short));
    }
}

/// Cleans up by a foreign call with a hook, in a limit that passes meanwhile.
struct Cleans<'a>(&'a Limit<'a>, &'a AtomicU64);

impl Drop for Cleans<'_> {
    fn drop(&mut self) {
        let inner = timeout(Duration::ZERO, || {
            (safepoint().is_ok(), thread::sleep(SOON).is_ok())
        });
        assert_eq!(inner, Ok((true, true)));
        let cleaned = shield(FOREVER, || {
            let call = Call::new("clean up").unblock(|| {
                self.1.fetch_add(1, Ordering::SeqCst);
            });
            call.run(|| {
                self.0.move_to(Deadline::after(SOON));
                until("the limit passes", || self.0.has_passed());
                std::thread::sleep(4 * SOON);
            })
        });
        assert!(cleaned.is_ok() && safepoint().is_ok());
    }
}

#[test]
fn in_a_destructor_during_a_panic_no_limit_passes_and_a_shielded_call_is_left_alone() {
    in_thread(|| {
        let hooked = AtomicU64::new(0);
        let body = || {
            Deadline::NEVER.run(|limit| {
                let _cleans = Cleans(limit, &hooked);
                resume_unwind(Box::new("a panic of the body"));
            })
        };
        assert!(catch_unwind(AssertUnwindSafe(body)).is_err());
        assert_eq!(hooked.into_inner(), 0);
        assert!(safepoint().is_ok());
    });
}

/// On a busy machine an outer deadline passes before the thread has met the inner one's: then its exception comes through.
fn nest(begins: Instant, worker: u64, depth: u64, seen: &mut Vec<(Instant, Instant)>) -> Result<(), Raised> {
    let due = begins + Duration::from_micros(depth * 4000 + worker * 40);
    let outcome = Deadline::at(due).run(|_| {
        if depth > 1 {
            nest(begins, worker, depth - 1, seen)?;
        }
        thread::sleep(FOREVER)
    });
    seen.push((due, Instant::now()));
    match outcome {
        Err(TimedOut) => Ok(()),
        Ok(through) => {
            assert!(through.is_err(), "nobody has slept for ever");
            through
        }
    }
}
