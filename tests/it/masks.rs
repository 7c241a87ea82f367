//! P7: masks in every nesting, with every way out.

use std::time::{Duration, Instant};

use throwto::time::timeout;
use throwto::{
    Interrupted, Stop, attach, bracket, catch, foreign, mask, raise_exc, shield, thread, uninterruptible,
};

use crate::stage::*;

fn raise_at_self() {
    let me = throwto::ThreadId::current().unwrap();
    raise_exc(me, Interrupted).unwrap();
}

fn meets() -> bool {
    throwto::safepoint().is_err()
}

/// Raises and tells whether a safepoint delivers it; leaves nothing pending.
fn delivers() -> bool {
    let me = throwto::ThreadId::current().unwrap();
    let receipt = raise_exc(me, Interrupted).unwrap();
    let met = meets();
    receipt.revoke();
    met
}

/// Raises and tells whether a wait that would really block delivers it; leaves nothing pending.
fn delivers_blocking() -> bool {
    let me = throwto::ThreadId::current().unwrap();
    let receipt = raise_exc(me, Interrupted).unwrap();
    let met = thread::sleep(Duration::from_millis(1)).is_err();
    receipt.revoke();
    met
}

fn levels() -> (bool, bool) {
    (delivers(), delivers_blocking())
}

const UNMASKED: (bool, bool) = (true, true);
const MASKED: (bool, bool) = (false, true);
const UNINTERRUPTIBLE: (bool, bool) = (false, false);

#[test]
fn masked_section_never_sees_delivery() {
    let worker = thread::spawn(|| {
        for _ in 0..1000 {
            mask(|_| {
                for _ in 0..100 {
                    assert!(throwto::safepoint().is_ok(), "delivered under a mask");
                    throwto::safepoint_unwind();
                }
            });
            let _ = throwto::safepoint();
        }
    });
    while worker.is_alive() {
        let _ = worker.raise(Stop);
    }
    join(worker);
}

#[test]
fn the_three_levels_do_what_they_say() {
    let _attachment = attach().unwrap();
    assert_eq!(levels(), UNMASKED);
    mask(|_| assert_eq!(levels(), MASKED));
    uninterruptible(|_| assert_eq!(levels(), UNINTERRUPTIBLE));
    shield(FOREVER, || assert_eq!(levels(), UNINTERRUPTIBLE));
    assert_eq!(levels(), UNMASKED);
}

/// Shows mask I1.
#[test]
fn a_nested_mask_never_weakens_an_outer_one() {
    let _attachment = attach().unwrap();
    mask(|_| {
        mask(|_| assert_eq!(levels(), MASKED));
        uninterruptible(|_| {
            assert_eq!(levels(), UNINTERRUPTIBLE);
            mask(|_| assert_eq!(levels(), UNINTERRUPTIBLE));
            shield(Duration::ZERO, || assert_eq!(levels(), UNINTERRUPTIBLE));
            assert_eq!(levels(), UNINTERRUPTIBLE);
        });
        assert_eq!(levels(), MASKED, "the outer level comes back");
    });
    assert_eq!(levels(), UNMASKED);
}

#[test]
fn restore_goes_to_the_outer_level_and_no_further() {
    let _attachment = attach().unwrap();
    mask(|outer| {
        mask(|inner| {
            inner.restore(|| assert_eq!(levels(), MASKED, "the outer level, not unmasked"));
            outer.restore(|| {
                assert_eq!(levels(), UNMASKED);
                uninterruptible(|u| {
                    assert_eq!(levels(), UNINTERRUPTIBLE);
                    u.restore(|| assert_eq!(levels(), UNMASKED));
                    inner.restore(|| assert_eq!(levels(), MASKED));
                    assert_eq!(levels(), UNINTERRUPTIBLE);
                });
                assert_eq!(levels(), UNMASKED);
            });
            assert_eq!(levels(), MASKED);
        });
    });
    uninterruptible(|_| mask(|m| m.restore(|| assert_eq!(levels(), UNINTERRUPTIBLE))));
    assert_eq!(levels(), UNMASKED);
}

#[test]
fn a_shield_that_is_over_leaves_the_masks_around_and_inside_it() {
    let _attachment = attach().unwrap();
    shield(Duration::ZERO, || {
        assert_eq!(levels(), UNMASKED);
        mask(|m| {
            assert_eq!(levels(), MASKED, "a mask inside a shield that is over");
            m.restore(|| assert_eq!(levels(), UNMASKED));
        });
        uninterruptible(|_| assert_eq!(levels(), UNINTERRUPTIBLE));
        assert_eq!(levels(), UNMASKED);
    });
    mask(|m| {
        shield(Duration::ZERO, || {
            assert_eq!(levels(), MASKED, "a shield that is over inside a mask")
        });
        m.restore(|| shield(Duration::ZERO, || assert_eq!(levels(), UNMASKED)));
        assert_eq!(levels(), MASKED);
    });
    uninterruptible(|_| shield(Duration::ZERO, || assert_eq!(levels(), UNINTERRUPTIBLE)));
}

#[test]
fn nested_shields_hold_until_the_later_end() {
    let _attachment = attach().unwrap();
    shield(FOREVER, || {
        shield(Duration::ZERO, || assert_eq!(levels(), UNINTERRUPTIBLE));
        mask(|m| {
            assert_eq!(levels(), UNINTERRUPTIBLE);
            m.restore(|| assert_eq!(levels(), UNINTERRUPTIBLE));
        });
    });
    shield(Duration::ZERO, || {
        shield(Duration::MAX, || assert_eq!(levels(), UNINTERRUPTIBLE));
        assert_eq!(levels(), UNMASKED, "the inner deadline ends with it");
    });
}

#[test]
fn a_shield_ends_a_wait_at_its_deadline_whether_raised_before_or_during() {
    let _attachment = attach().unwrap();
    raise_at_self();
    let start = Instant::now();
    shield(Duration::from_millis(30), || {
        assert!(thread::sleep(FOREVER).is_err())
    });
    assert!(start.elapsed() >= Duration::from_millis(30));

    let worker = thread::spawn(|| {
        let start = Instant::now();
        let slept = shield(Duration::from_millis(200), || thread::sleep(FOREVER));
        (slept, start.elapsed())
    });
    until_waiting(worker.id());
    worker.raise(Stop).unwrap();
    let (slept, took) = join(worker);
    assert!(slept.is_err() && took >= Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_shielded_foreign_call_is_broken_at_the_deadline_and_not_before() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let worker = thread::spawn(move || {
        let start = Instant::now();
        let read = shield(Duration::from_millis(200), || foreign::call(|| raw_read(&reader)));
        (read.unwrap(), start.elapsed(), throwto::safepoint())
    });
    until_blocked(worker.id(), "read(");
    worker.raise(Stop).unwrap();
    let (read, took, after) = join(worker);
    assert_eq!(read, Err(libc::EINTR));
    assert!(took >= Duration::from_millis(200), "{took:?}");
    after.unwrap_err();
}

#[test]
fn masked_threads_are_raised_into_where_they_really_block() {
    let worker = thread::spawn(|| mask(|_| thread::sleep(FOREVER)));
    until_waiting(worker.id());
    worker.raise(Stop).unwrap();
    join(worker).unwrap_err();

    let worker = thread::spawn(|| {
        mask(|_| {
            while !throwto::pending() {
                assert!(throwto::safepoint().is_ok());
            }
            thread::park()
        })
    });
    worker.raise(Stop).unwrap();
    join(worker).unwrap_err();
}

#[test]
fn a_masked_wait_that_would_not_block_raises_nothing() {
    let _attachment = attach().unwrap();
    let me = throwto::ThreadId::current().unwrap();
    mask(|_| {
        raise_at_self();
        thread::unpark(me);
        assert!(thread::park().is_ok(), "the token was there");
        assert!(thread::sleep(Duration::ZERO).is_ok());
        assert!(matches!(thread::unparked_within(Duration::ZERO), Ok(false)));
    });
    assert!(meets());
}

#[test]
fn a_masked_foreign_call_that_was_entered_with_a_raise_pending_is_still_broken() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let worker = thread::spawn(move || {
        mask(|_| {
            while !throwto::pending() {
                std::hint::spin_loop();
            }
            let read = foreign::Call::new("read")
                .try_run(|| raw_read(&reader).map_err(std::io::Error::from_raw_os_error));
            matches!(read, Err(foreign::CallError::Raised(_)))
        })
    });
    worker.raise(Stop).unwrap();
    assert!(join(worker));
}

#[test]
fn uninterruptible_waits_are_left_alone_to_their_end() {
    let worker = thread::spawn(|| uninterruptible(|_| thread::park().is_ok()));
    until_waiting(worker.id());
    let receipt = worker.raise(Stop).unwrap();
    assert_eq!(
        receipt.wait(Duration::from_millis(50)),
        throwto::ReceiptState::Pending
    );
    worker.unpark();
    assert!(join(worker));
}

/// Shows mask I2.
#[test]
fn every_way_out_restores_the_level() {
    let _attachment = attach().unwrap();
    fn early() -> Option<()> {
        mask(|_| uninterruptible(|_| None::<()>))?;
        Some(())
    }
    assert!(early().is_none());
    assert_eq!(levels(), UNMASKED);
    for round in 0..3 {
        let broke = loop {
            if mask(|_| round) == round {
                break true;
            }
        };
        assert!(broke && levels() == UNMASKED);
    }
    let quiet = std::panic::catch_unwind(|| {
        uninterruptible(|m| m.restore(|| mask(|_| std::panic::resume_unwind(Box::new(())))))
    });
    assert!(quiet.is_err());
    assert_eq!(levels(), UNMASKED);
}

#[test]
fn a_delivery_inside_restore_unwinds_to_the_outer_level() {
    let _attachment = attach().unwrap();
    mask(|outer| {
        outer.restore(|| {
            let caught = catch(|| {
                uninterruptible(|m| {
                    raise_at_self();
                    m.restore(throwto::safepoint_unwind);
                });
            });
            assert!(caught.is_err());
            assert_eq!(levels(), UNMASKED);
        });
        assert_eq!(levels(), MASKED);
    });
}

/// Shows mask I3.
#[test]
fn masks_are_not_inherited() {
    let _attachment = attach().unwrap();
    uninterruptible(|_| {
        let worker = thread::spawn(levels);
        until("the child ends", || worker.is_finished());
        assert_eq!(join(worker), UNMASKED);
    });
}

#[test]
fn an_unattached_thread_just_runs() {
    assert_eq!(
        mask(|m| m.restore(|| uninterruptible(|_| shield(Duration::ZERO, || 7)))),
        7
    );
}

#[test]
fn handlers_run_masked() {
    let _attachment = attach().unwrap();
    raise_at_self();
    let met = throwto::catch_with(
        || {
            throwto::safepoint_unwind();
            UNMASKED
        },
        |_raised| levels(),
    );
    assert_eq!(met, MASKED);
    assert_eq!(levels(), UNMASKED);
}

#[test]
fn a_bracket_releases_masked_on_every_way_out() {
    let _attachment = attach().unwrap();
    let mut seen = Vec::new();
    let used = bracket(levels, |acquired| (*acquired, levels()), |_| seen.push(levels()));
    assert_eq!((used, &seen[..]), ((MASKED, UNMASKED), &[MASKED][..]));

    let mut released = None;
    let raised = catch(|| {
        bracket(
            raise_at_self,
            |_| throwto::safepoint_unwind(),
            |()| released = Some(throwto::safepoint().is_ok()),
        );
    });
    assert!(raised.is_err());
    assert_eq!(released, Some(true));
    assert_eq!(levels(), UNMASKED);
}

/// I2: the level is the thread's, also while the thread is not attached.
#[test]
fn a_mask_holds_for_what_attaches_or_detaches_the_thread_inside_it() {
    std::thread::spawn(|| {
        let held = || timeout(Duration::ZERO, || throwto::safepoint().is_ok());
        assert_eq!(held(), Ok(false));
        assert_eq!(mask(|_| held()), Ok(true));
        assert_eq!(mask(|m| m.restore(held)), Ok(false));
        assert_eq!(uninterruptible(|_| mask(|m| m.restore(held))), Ok(true));
        assert_eq!(shield(FOREVER, held), Ok(true));
        assert_eq!(shield(Duration::ZERO, held), Ok(false));
        let released = timeout(Duration::ZERO, || {
            bracket(|| (), |()| (), |()| assert!(throwto::safepoint().is_ok()))
        });
        assert_eq!(released, Ok(()));
        // Attached in a mask, and for longer than it.
        let attachment = mask(|_| {
            let attachment = attach().unwrap();
            assert_eq!(levels(), (false, true));
            attachment
        });
        assert_eq!(levels(), UNMASKED);
        // Detached in a mask, and attached anew.
        let again = uninterruptible(|_| {
            drop(attachment);
            let again = attach().unwrap();
            assert_eq!(levels(), (false, false));
            mask(|_| ());
            again
        });
        assert_eq!(levels(), UNMASKED);
        uninterruptible(|_| drop(again));
        assert_eq!(held(), Ok(false));
    })
    .join()
    .unwrap();
}

#[test]
fn a_bracket_under_fire_never_leaks_nor_releases_twice() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    let held = Arc::new(AtomicI64::new(0));
    let count = Arc::clone(&held);
    let worker = thread::spawn(move || {
        for _ in 0..3000 {
            let _ = catch(|| {
                bracket(
                    || count.fetch_add(1, Ordering::SeqCst),
                    |_| {
                        for _ in 0..10 {
                            throwto::safepoint_unwind();
                        }
                    },
                    |_| {
                        count.fetch_sub(1, Ordering::SeqCst);
                    },
                );
            });
            assert_eq!(count.load(Ordering::SeqCst), 0);
        }
    });
    while worker.is_alive() {
        let _ = worker.raise(Stop);
    }
    let _ = worker.join();
    assert_eq!(held.load(Ordering::SeqCst), 0);
}
