//! P8 and P9: no lost wake-up, no storm, no needless signal. Signals are counted where they hurt: in raw calls.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use throwto::foreign::{self, Call};
use throwto::{ReceiptState, Stop, mask, shield, thread, uninterruptible};

use crate::stage::*;

/// A read that counts how often it is interrupted.
fn counted_read(fd: &impl AsRawFd, count: &AtomicUsize) -> Result<usize, i32> {
    loop {
        match raw_read(fd) {
            Err(libc::EINTR) => count.fetch_add(1, Ordering::SeqCst),
            end => return end,
        };
    }
}

/// `poll(2)` without any descriptor: 0 after `limit`, or EINTR at the first signal.
fn quiet_for(limit: Duration) -> bool {
    // SAFETY: no descriptors, so nothing is touched.
    unsafe { libc::poll(std::ptr::null_mut(), 0, limit.as_millis() as i32) == 0 }
}

#[test]
fn the_nudge_repeats_until_the_region_ends() {
    let count = Arc::new(AtomicUsize::new(0));
    let (reader, writer) = io::pipe().unwrap();
    let worker = {
        let count = Arc::clone(&count);
        thread::spawn(move || {
            (
                foreign::call(|| counted_read(&reader, &count)).unwrap(),
                throwto::safepoint(),
            )
        })
    };
    until_blocked(worker.id(), "read(");
    let start = Instant::now();
    worker.raise(Stop).unwrap();
    until("ten interruptions", || count.load(Ordering::SeqCst) >= 10);
    let took = start.elapsed();
    // Ten nudges with back-off 1, 2, 4 .. 50 ms: at least 200 ms in all. Without back-off it would be a storm.
    assert!(took >= Duration::from_millis(150), "ten nudges in {took:?}");
    drop(writer);
    let (read, after) = join(worker);
    assert_eq!(read, Ok(0));
    assert!(after.is_err());
}

/// What a revoke may come too late for, however slow the machine: one signal that waits for its thread, which waits for
/// a processor, and one that the driver has decided on, which waits for one as well.
const UNDER_WAY: usize = 2;

#[test]
fn a_revoked_raise_interrupts_nobody_any_more() {
    for fail in [false, true] {
        let count = Arc::new(AtomicUsize::new(0));
        let (reader, writer) = io::pipe().unwrap();
        let worker = {
            let count = Arc::clone(&count);
            thread::spawn(move || {
                with_fail(Call::new("storm"), fail)
                    .run(|| {
                        loop {
                            match counted_read(&reader, &count) {
                                Err(libc::ECANCELED) => count.fetch_add(1, Ordering::SeqCst),
                                end => break end,
                            };
                        }
                    })
                    .unwrap()
            })
        };
        until_blocked(worker.id(), "read(");
        for _ in 0..20 {
            let receipt = worker.raise(Stop).unwrap();
            let before = count.load(Ordering::SeqCst);
            until("interrupted", || count.load(Ordering::SeqCst) > before);
            assert!(receipt.revoke());
            // What was under way may still arrive; give the driver's next look the time to show itself.
            assert!(quiet_for(Duration::from_millis(3)));
            let settled = count.load(Ordering::SeqCst);
            assert!(quiet_for(Duration::from_millis(10)));
            let late = count.load(Ordering::SeqCst) - settled;
            assert!(late <= UNDER_WAY, "{late} interruptions after the revoke");
        }
        let settled = count.load(Ordering::SeqCst);
        assert!(quiet_for(Duration::from_millis(300)));
        assert!(
            count.load(Ordering::SeqCst) <= settled + UNDER_WAY,
            "a storm after the last revoke"
        );
        drop(writer);
        assert_eq!(join(worker), Ok(0));
    }
}

/// The driver looks within a millisecond, if it looks at all: a signal that has not come by then does not come.
const SILENCE: Duration = Duration::from_millis(150);

/// Raises into a worker that `body` blocks in a raw poll, and tells whether a signal broke that poll within `limit`.
fn heard_a_signal(limit: Duration, body: impl FnOnce(&dyn Fn() -> bool) -> bool + Send + 'static) -> bool {
    let raised = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&raised);
    let worker = thread::spawn(move || {
        body(&|| {
            while !seen.load(Ordering::SeqCst) {
                if !quiet_for(Duration::from_millis(50)) {
                    return false;
                }
            }
            quiet_for(limit)
        })
    });
    until_blocked(worker.id(), "poll(");
    worker.raise(Stop).unwrap();
    // A second may find it gone.
    let _ = worker.raise(Stop);
    raised.store(true, Ordering::SeqCst);
    !join(worker)
}

#[test]
fn a_running_target_gets_no_signal() {
    assert!(!heard_a_signal(SILENCE, |quiet| quiet()));
}

#[test]
fn a_masked_running_target_gets_no_signal() {
    assert!(!heard_a_signal(SILENCE, |quiet| mask(|_| quiet())));
}

#[test]
fn an_uninterruptible_target_gets_no_signal_even_in_a_region() {
    assert!(!heard_a_signal(SILENCE, |quiet| uninterruptible(|_| quiet())));
    assert!(!heard_a_signal(SILENCE, |quiet| uninterruptible(|_| {
        foreign::call(quiet).unwrap()
    })));
    assert!(!heard_a_signal(SILENCE, |quiet| shield(FOREVER, || {
        foreign::call(quiet).unwrap()
    })));
    assert!(!heard_a_signal(SILENCE, |quiet| uninterruptible(|_| with_fail(
        Call::new("x"),
        true
    )
    .run(quiet)
    .unwrap())));
}

#[test]
fn the_check_of_these_tests_hears_a_signal_where_one_is_due() {
    assert!(heard_a_signal(LIMIT, |quiet| foreign::call(quiet).unwrap()));
    assert!(heard_a_signal(LIMIT, |quiet| mask(
        |_| foreign::call(quiet).unwrap()
    )));
}

#[test]
fn a_region_that_was_left_is_nudged_no_more() {
    let (reader, writer) = io::pipe().unwrap();
    let worker = thread::spawn(move || {
        let read = foreign::call(|| raw_read(&reader)).unwrap();
        // Still pending: now running, so left alone.
        let quiet = quiet_for(Duration::from_millis(150)) || quiet_for(Duration::from_millis(150));
        (read, quiet, throwto::safepoint())
    });
    until_blocked(worker.id(), "read(");
    worker.raise(Stop).unwrap();
    let (read, quiet, after) = join(worker);
    assert_eq!((read, quiet), (Err(libc::EINTR), true));
    assert!(after.is_err());
    drop(writer);
}

/// Enters and leaves a region as fast as it can, to block in it once in a while: no raise may find the gap.
#[test]
fn no_raise_is_lost_between_the_check_and_the_block() {
    let over = Arc::new(AtomicBool::new(false));
    let (reader, _writer) = io::pipe().unwrap();
    let worker = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            let mut dice = Dice::new(seed());
            let mut met = 0;
            while !over.load(Ordering::SeqCst) {
                for _ in 0..dice.roll(50) {
                    std::hint::spin_loop();
                }
                // An interrupted call is not made again before a safepoint.
                let entered = foreign::call(|| raw_read(&reader));
                met += usize::from(entered.is_err()) + usize::from(throwto::safepoint().is_err());
            }
            met
        })
    };
    let mut caught = 0;
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        let receipt = worker.raise(Stop).unwrap();
        assert_eq!(fate(&receipt), ReceiptState::Caught);
        caught += 1;
    }
    over.store(true, Ordering::SeqCst);
    // It may have seen that already, and be gone.
    let _ = worker.raise(Stop);
    let met = join(worker);
    assert!(met >= caught, "{met} of {caught}");
}

#[test]
fn no_raise_is_lost_before_a_wait_on_the_word() {
    let over = Arc::new(AtomicBool::new(false));
    let worker = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                let _ = thread::sleep(FOREVER);
                let _ = mask(|_| thread::park());
            }
        })
    };
    let end = Instant::now() + Duration::from_millis(1000);
    while Instant::now() < end {
        assert_eq!(fate(&worker.raise(Stop).unwrap()), ReceiptState::Caught);
    }
    over.store(true, Ordering::SeqCst);
    until("the worker ends", || {
        let _ = worker.raise(Stop);
        !worker.is_alive()
    });
    join(worker);
}

/// Each raise is met in a blocked call, and the thread is in its next call at once. The driver looks about once a
/// millisecond: whatever it then sends for an earlier raise must not fall into a later call.
#[test]
fn the_next_call_is_not_interrupted_for_an_exception_that_was_delivered() {
    let rounds = rounds(10_000) as usize;
    for fail in [false, true] {
        let (reader, _writer) = io::pipe().unwrap();
        let (calls, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let worker = {
            let (calls, over) = (Arc::clone(&calls), Arc::clone(&over));
            thread::spawn(move || {
                let call = with_fail(Call::new("again and again"), fail);
                let mut innocent = 0;
                while !over.load(Ordering::Relaxed) {
                    calls.fetch_add(1, Ordering::Release);
                    let interrupted = call.run(|| raw_read(&reader)).is_ok();
                    innocent += usize::from(interrupted && throwto::safepoint().is_ok());
                }
                innocent
            })
        };
        for round in 1..=rounds {
            until("the next call", || calls.load(Ordering::Acquire) >= round);
            // Most calls are blocked by then. Some are not: they raise at entry, which is as good here.
            let asleep = Instant::now() + Duration::from_micros(30);
            while Instant::now() < asleep {
                std::hint::spin_loop();
            }
            over.store(round == rounds, Ordering::Relaxed);
            fate(&worker.raise(Stop).unwrap());
        }
        // Without a window nothing tells whose signal has come, so one may come late (docs/limitations.md).
        let allowed = if cfg!(throwto_ladder) { 0 } else { rounds / 1000 };
        let innocent = join(worker);
        assert!(
            innocent <= allowed,
            "{innocent} calls interrupted for nothing, of {rounds}, fail: {fail}"
        );
    }
}

/// Blocks or unblocks the nudge signal in the calling thread, as a library does around its critical parts.
fn mask_nudges(how: i32) {
    // SAFETY: all zero is the empty set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is initialised.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGURG) };
    // SAFETY: changes this thread's mask only.
    unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
}

/// The nudge arrives at the unblocking, where it breaks nothing; the library blocks after that and must come free, too.
#[test]
fn a_library_that_blocks_the_nudge_signal_for_a_while_comes_free_after_it() {
    for rung in [throwto::Rung::Nudge, throwto::Rung::Fail] {
        let (reader, _writer) = io::pipe().unwrap();
        let (critical, mut done) = io::pipe().unwrap();
        let worker = thread::spawn(move || {
            let call = Call::new("critical");
            let fail = rung == throwto::Rung::Fail;
            with_fail(call, fail).try_run(|| {
                mask_nudges(libc::SIG_BLOCK);
                let first = raw_read(&critical);
                mask_nudges(libc::SIG_UNBLOCK);
                assert_eq!(first, Ok(1), "the critical part is not broken");
                if fail {
                    breakable_read(&reader)
                } else {
                    raw_read(&reader)
                }
            })
        });
        until_blocked(worker.id(), "read(");
        // Where the runtime cannot see it, the read tells: it comes after the blocking.
        if cfg!(throwto_ladder) {
            until("blocked", || info(worker.id()).is_some_and(|t| t.nudge_blocked));
        }
        let receipt = worker.raise(Stop).unwrap();
        // Longer than a signal that does not arrive counts as under way.
        assert_eq!(receipt.wait(Duration::from_millis(60)), ReceiptState::Pending);
        io::Write::write_all(&mut done, b"x").unwrap();
        match join(worker) {
            Err(foreign::CallError::Raised(raised)) => assert!(raised.rung() >= throwto::Rung::Nudge),
            other => panic!("{other:?}"),
        }
    }
}
