//! What letters put out of a slot, and who is there to settle it.
//!
//! **Signal context:** no.

use super::*;
use crate::protocol::receipt::ReceiptState::{Revoked, Superseded};

/// Shows protocol::mail I3: the end of a scope reads what was written meanwhile, and nothing calls at a safepoint afterwards.
#[test]
fn what_letters_put_out_of_an_ending_scope_is_left_to_its_end_and_to_nobody_else() {
    let record = record();
    let owner = Owner::of(record);
    let scope = owner.begin_scope(NEVER, 0, Location::caller()).id;
    let into_scope = entry(EntryKind::of::<First>(), false, Some(scope));
    drop(record.raise(1, into_scope, Policy::Supersede, Fences::Full));
    // As a signal handler does on top of the end, which has the lock: sets another, and clears it.
    drop(record.raise_by_mail(
        1,
        entry(EntryKind::of::<u8>(), false, None),
        Policy::Replace,
        Fences::Full,
    ));
    assert!(record.clear_by_mail(1).is_some());
    assert!(!record.has_aside(), "nobody has read them yet");

    let end = owner.end_scope(scope).unwrap();
    assert!(end.entries.is_empty() && !record.attention().calls());
    assert!(end.await_nudge, "the end looks at what is aside");
    let outcomes: Vec<_> = record
        .take_aside()
        .into_iter()
        .map(|(_, outcome)| outcome)
        .collect();
    assert_eq!(outcomes, [Superseded, Revoked]);
}

/// Who only looks reads no letter: it could not settle what that puts out.
#[test]
fn a_look_at_what_is_pending_reads_no_mail() {
    let record = record();
    drop(record.raise(1, first(), Policy::Supersede, Fences::Full));
    assert!(record.clear_by_mail(1).is_some());
    assert_eq!(record.pending_count(), 2, "one, and a letter");
    assert!(!record.has_aside());
    assert!(Owner::of(record).take_pending().is_none());
    assert_eq!(record.take_aside().len(), 1);
}
