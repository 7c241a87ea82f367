//! Letters to a slot whose lock cannot be had, and the driver's bed.
//!
//! Owns: the models of `protocol::mail` and `protocol::notes`. That the lock is busy is left to who writes: a letter may come while others
//! work in the slot.
//!
//! **Signal context:** no.

use std::panic::Location;

use loom::sync::Arc;
use loom::thread;

use crate::protocol::deadline::NEVER;
use crate::protocol::notes::{Bed, Note, Sleep};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{Fences, Owner, Record};
use crate::protocol::registry::Registry;
use crate::protocol::slot::Policy;
use crate::protocol::word::Attention;
use crate::stage::{self, FIRST, Raised, accepted, model, raise, settle, take_and_catch};

/// A record whose table is made: loom does not know of the cell that it is kept in.
fn record() -> &'static Record {
    let record = stage::record();
    let owner = Owner::of(record);
    let begun = owner.begin_scope(NEVER, 0, Location::caller());
    let _nothing = owner.end_scope(begun.id);
    record
}

/// Writes a letter. Whether the target is there to read it.
fn write(record: &'static Record, raised: &Raised, policy: Policy) -> bool {
    accepted(record.raise_by_mail(FIRST, raised.entry(), policy, Fences::Full))
}

fn settle_aside(record: &'static Record) {
    for (entry, outcome) in record.take_aside() {
        settle(entry, outcome);
    }
}

/// Against a delivery that empties the slot.
/// Shows protocol::mail I2, protocol::record I2.
#[test]
fn a_letter_is_read_at_the_next_safepoint() {
    model(None, || {
        let (record, first, second) = (record(), Raised::new(), Raised::new());
        let _nobody_blocks = raise(record, &first, Fences::Full);
        let writer = thread::spawn({
            let second = second.clone();
            move || write(record, &second, Policy::Queue)
        });
        assert!(take_and_catch(Owner::of(record)));
        assert_eq!(
            first.state(),
            ReceiptState::Caught,
            "what was there before comes first"
        );
        assert!(writer.join().unwrap());
        if second.state() == ReceiptState::Pending {
            assert!(record.attention().has(Attention::PENDING), "nobody would look");
            assert!(take_and_catch(Owner::of(record)));
        }
        assert_eq!((second.state(), second.drops()), (ReceiptState::Caught, 1));
        assert!(!record.attention().has(Attention::PENDING));
    });
}

/// Two of them, the second of which supersedes the first, against a raise that reads them.
/// Shows protocol::mail I1, I3.
#[test]
fn letters_are_read_in_their_order_and_what_they_put_out_is_put_aside() {
    model(None, || {
        let (record, first, second) = (record(), Raised::new(), Raised::new());
        let reader = thread::spawn(move || {
            let _nothing = record.pending_count();
            settle_aside(record);
        });
        assert!(write(record, &first, Policy::Supersede) && write(record, &second, Policy::Supersede));
        reader.join().unwrap();
        assert!(take_and_catch(Owner::of(record)));
        settle_aside(record);
        assert_eq!((first.state(), first.drops()), (ReceiptState::Superseded, 1));
        assert_eq!((second.state(), second.drops()), (ReceiptState::Caught, 1));
    });
}

/// Against the end of the target.
/// Shows protocol::mail I2.
#[test]
fn a_letter_to_a_thread_that_ends_is_read_by_its_end_or_not_written() {
    model(None, || {
        let (record, raised) = (record(), Raised::new());
        let writer = thread::spawn({
            let raised = raised.clone();
            move || write(record, &raised, Policy::Queue)
        });
        let owner = Owner::of(record);
        owner.begin_exit();
        while owner.await_pins().is_some() {
            thread::yield_now();
        }
        for entry in owner.close() {
            settle(entry, ReceiptState::TargetEnded);
        }
        settle_aside(record);
        writer.join().unwrap();
        assert_eq!((raised.state(), raised.drops()), (ReceiptState::TargetEnded, 1));
    });
}

/// Somebody leaves a note while the driver goes to bed.
/// Shows protocol::notes I1, I2.
#[test]
fn a_note_is_seen_or_its_writer_sees_the_driver_in_bed() {
    model(None, || {
        let (registry, bed): (&'static Registry, _) =
            (Box::leak(Box::new(Registry::new())), Arc::new(Bed::new()));
        let id = registry.register(None, None, None, 10).unwrap();
        let writer = thread::spawn({
            let bed = bed.clone();
            move || {
                registry.note(id.index(), Note::LOOK);
                bed.rouse(Note::LOOK)
            }
        });
        let _word = bed.lie_down(Sleep::Deep, u64::MAX);
        let seen = registry.has_notes();
        let woken = writer.join().unwrap();
        assert!(seen || woken, "the driver sleeps on a note");
        let mut notes = 0;
        registry.take_notes(|record, note| {
            assert!(record.index() == id.index() && note == Note::LOOK);
            notes += 1;
        });
        assert_eq!(notes, 1);
    });
}
