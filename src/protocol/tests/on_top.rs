//! A handler of the program, on top of its own thread's work in a record: what it gets, where others would wait.
//!
//! Owns: the cases that need the handler to come at one certain moment. `process_handler_locks` has the real handlers, at
//! instructions that it comes by.
//!
//! **Signal context:** no.

use super::*;
use crate::protocol::Owing;

fn pending() -> &'static Record {
    let record = record();
    drop(record.raise(1, first(), Policy::Supersede, Fences::Full));
    record
}

/// The thread holds its slot's lock and waits for nobody, so neither may the handler.
#[test]
fn a_child_that_is_born_on_top_of_its_parents_work_in_the_slot_inherits_nothing() {
    let spread = || {
        let origin = Origin {
            kind: EntryKind::of::<First>(),
            ..Origin::of::<()>(Location::caller())
        };
        let make = std::sync::Arc::new(|| -> Box<dyn Error + Send> { Box::new(std::fmt::Error) });
        Entry::new(Contents::new(Payload::Spread(make), origin, false, None))
    };
    let parent = record();
    drop(parent.raise(1, spread(), Policy::Supersede, Fences::Full));
    let child = record();
    let held = parent.slot.lock();
    child.inherit(parent, true);
    drop(held);
    assert_eq!(child.pending_count(), 0);
    child.inherit(parent, true);
    assert_eq!(child.pending_count(), 1, "the lock is free");
}

/// What waits in a slot that could not be emptied is the child's, and is found at its next safepoint.
#[test]
fn who_forks_on_top_of_work_in_the_slot_keeps_what_is_pending() {
    let kept = pending();
    Owner::of(kept).reset_after_fork(None);
    assert!(kept.attention().calls() && Owner::of(kept).take_pending().is_some());

    let emptied = pending();
    Owner::of(emptied).reset_after_fork(Some(emptied.slot.lock()));
    assert!(!emptied.attention().calls() && Owner::of(emptied).take_pending().is_none());
}

/// Who is to send the signal may be the thread itself, under the handler. A looker is another thread, and goes.
#[test]
fn the_end_of_a_region_on_top_of_a_raise_waits_for_lookers_and_for_no_signal() {
    let record = record();
    let owner = Owner::of(record);
    let nudge = record.pin_to_nudge(1).unwrap();
    assert!(owner.await_looks().is_some(), "a signal is to come");
    {
        let _owing = Owing::new();
        assert!(owner.await_looks().is_none());
        let look = record.look(1).unwrap();
        assert!(owner.await_looks().is_some());
        let _nobody = look.release();
    }
    let _nobody = nudge.release();
}

/// A letter for a scope that has ended before the letter is read.
#[test]
fn a_letter_that_comes_too_late_for_its_scope_is_put_aside() {
    let record = record();
    let owner = Owner::of(record);
    let scope = owner.begin_scope(NEVER, 0, Location::caller()).id;
    assert!(owner.end_scope(scope).is_some());
    let late = entry(EntryKind::of::<First>(), false, Some(scope));
    drop(record.raise_by_mail(1, late, Policy::Supersede, Fences::Full));
    assert!(owner.take_pending().is_none());
    let aside: Vec<_> = record
        .take_aside()
        .into_iter()
        .map(|(_, outcome)| outcome)
        .collect();
    assert_eq!(aside, [ReceiptState::TargetEnded]);
    assert!(!record.attention().calls());
}
