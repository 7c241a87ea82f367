//! Raise versus entering a region: an owner never stays blocked with an exception pending and nobody at work on it.
//!
//! Owns: the models of invariant 1 of `protocol::record`, for windows and foreign calls, and their toothed twins. Leaves the waits to
//! [`super::waits`].
//! In each an owner blocks in what only a wake or a nudge ends; a lost wake-up is a deadlock, which loom reports.
//!
//! **Signal context:** no.

use std::ptr::null_mut;

use loom::sync::Arc;
use loom::thread;

use crate::protocol::record::{AfterLeave, Duty, Fences, Need, Owner, Record};
use crate::protocol::word::{Attention, Kind, Level, Region};
use crate::stage::{Bell, Futex, Membarrier, Raised, model, raise, record, release, take_and_catch};
use crate::sync_shim::in_models::LIGHT_FENCE;

/// The window: a nudge counts from the stub's own check on. One that came before is lost, but then the check sees the word.
#[test]
fn a_window_is_nudged_or_sees_the_raise() {
    model(None, || {
        let (record, bell, raised) = (record(), Arc::new(Bell::default()), Raised::new());
        let owner = thread::spawn({
            let bell = bell.clone();
            move || {
                let owner = Owner::of(record);
                let entered = owner.enter(Kind::Window, 0, null_mut(), Fences::Full);
                if !entered.calls {
                    bell.miss_earlier_nudges();
                    if !record.attention().calls() {
                        bell.wait();
                    }
                }
                // Who has pinned us to nudge us reads no frame: nothing to wait for here.
                let _pins = owner.leave(&entered, Fences::Full);
                assert!(take_and_catch(owner));
            }
        });
        match raise(record, &raised, Fences::Full) {
            Duty::Nudge { pin, .. } => {
                bell.nudge();
                release(pin, &Futex::default());
            }
            Duty::Nothing => {}
            _ => panic!("a window is nudged"),
        }
        owner.join().unwrap();
        assert_eq!(raised.drops(), 1);
    });
}

/// An owner that ends its steps by blocking in a foreign call, or does not, and a raiser who does his duty. `verify` is the
/// driver's step with a note.
fn foreign_call(
    fences: Fences,
    owner_steps: impl FnOnce(Owner, &Bell) + 'static,
    verify: impl FnOnce(&'static Record, &Bell),
) {
    let (record, bell, raised) = (record(), Arc::new(Bell::default()), Raised::new());
    let owner = thread::spawn({
        let bell = bell.clone();
        move || owner_steps(Owner::of(record), &bell)
    });
    match raise(record, &raised, fences) {
        // The nudge goes with a note, and the driver nudges again until the region ends: it may come early.
        Duty::Nudge { pin, .. } => {
            bell.nudge();
            release(pin, &Futex::default());
        }
        Duty::Verify => verify(record, &bell),
        Duty::Wake | Duty::Later | Duty::Nothing => {}
    }
    owner.join().unwrap();
    bell.assert_not_left_alone();
    assert!(take_and_catch(Owner::of(record)));
    assert_eq!(raised.drops(), 1);
}

fn enter_and_block(owner: Owner, bell: &Bell, fences: Fences) {
    let entered = owner.enter(Kind::Foreign, 0, null_mut(), fences);
    if !entered.calls {
        bell.block();
    }
}

/// Shows protocol::record I1.
#[test]
fn a_foreign_call_is_nudged_or_sees_the_raise() {
    model(None, || {
        foreign_call(
            Fences::Full,
            |o, bell| enter_and_block(o, bell, Fences::Full),
            |_, _| unreachable!(),
        );
    });
}

/// The driver's look, once behind its barrier.
fn look(record: &Record, bell: &Bell) {
    if let Need::Break(region) = record.need(|| 0) {
        assert_eq!(region.kind(), Kind::Foreign);
        bell.nudge();
    }
}

/// As [`foreign_call`], with light fences that a membarrier completes.
fn under_membarrier(owner_steps: impl FnOnce(Owner, &Bell) + 'static) {
    let barrier = Membarrier::install();
    let remote = barrier.clone();
    foreign_call(
        Fences::Light,
        move |owner, bell| {
            owner_steps(owner, bell);
            remote.not_running();
        },
        |record, bell| {
            record.delist();
            barrier.heavy_fence();
            look(record, bell);
        },
    );
}

#[test]
fn the_driver_finds_a_call_that_the_raiser_took_for_running() {
    model(None, || {
        under_membarrier(|owner, bell| enter_and_block(owner, bell, Fences::Light))
    });
}

/// The raiser may still see a region that the owner left long ago, with a mask that it has put away.
#[test]
fn a_stale_mask_in_the_region_word_excuses_nobody() {
    // Two regions in a row: bounded.
    model(Some(3), || {
        under_membarrier(|owner, bell| {
            let outer = owner.set_mask(Level::Uninterruptible, false);
            let entered = owner.enter(Kind::Foreign, 0, null_mut(), Fences::Light);
            let _no_frame = owner.leave(&entered, Fences::Light);
            owner.set_mask(outer.0, outer.1);
            enter_and_block(owner, bell, Fences::Light);
        });
    });
}

/// A callback inside a foreign call puts its mask away: it sees the raise, or the raiser sees the mask gone.
fn put_a_mask_away_inside(owner: Owner, bell: &Bell, fences: Fences) {
    let entered = owner.enter(Kind::Foreign, 0, null_mut(), fences);
    let outer = owner.set_mask(Level::Uninterruptible, false);
    owner.set_mask(outer.0, outer.1);
    // As `mask::lowered` does: seeing the call, the owner leaves a note itself.
    if !entered.calls && !owner.record().attention().calls() {
        bell.block();
    }
}

#[test]
fn lowering_a_mask_inside_a_call_misses_no_raise() {
    model(None, || {
        let steps = |owner: Owner, bell: &Bell| put_a_mask_away_inside(owner, bell, Fences::Full);
        foreign_call(Fences::Full, steps, |_, _| unreachable!());
    });
}

#[test]
fn lowering_a_mask_inside_a_light_call_misses_no_raise() {
    model(None, || {
        under_membarrier(|owner, bell| put_a_mask_away_inside(owner, bell, Fences::Light))
    });
}

/// A callback inside a foreign call waits on our futex and comes back with a result: a raise that met the wait was only
/// woken for, so the owner, going back into the call, must leave a note itself.
#[test]
fn coming_back_into_a_call_forgets_no_raise() {
    model(None, || {
        let steps = |owner: Owner, bell: &Bell| {
            let call = owner.enter(Kind::Foreign, 0, null_mut(), Fences::Full);
            let wait = owner.enter(Kind::Waiting, 0, null_mut(), Fences::Full);
            let after = owner.leave(&wait, Fences::Full);
            let noted = matches!(after, AfterLeave::Owes { note: true, .. });
            if !call.calls && !noted {
                bell.block();
            }
        };
        foreign_call(Fences::Full, steps, |_, _| unreachable!());
    });
}

/// Without its fence the owner blocks for ever: the models above have teeth.
#[test]
#[should_panic(expected = "nobody is coming")]
fn without_the_owners_fence_a_raise_is_lost() {
    model(None, || {
        LIGHT_FENCE.set(|| {});
        foreign_call(
            Fences::Full,
            |o, bell| enter_and_block(o, bell, Fences::Light),
            |_, _| unreachable!(),
        );
    });
}

/// A driver that looks again without a barrier may look in vain.
#[test]
#[should_panic(expected = "nobody is coming")]
fn without_the_membarrier_the_driver_may_look_in_vain() {
    model(None, || {
        LIGHT_FENCE.set(|| {});
        foreign_call(
            Fences::Light,
            |owner, bell| enter_and_block(owner, bell, Fences::Light),
            |record, bell| {
                record.delist();
                look(record, bell);
            },
        );
    });
}
