//! The end of a scope: nothing that is addressed to it stays, and nothing comes after.
//!
//! Owns: the models of invariants 1, 3 and 5 of `protocol::scope`.
//!
//! **Signal context:** no.

use std::panic::Location;

use loom::sync::Arc;
use loom::thread;

use crate::protocol::deadline::NEVER;
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{Fences, Owner, Record};
use crate::protocol::scope::{Place, ScopeCall, ScopeCell, ScopeId, Why};
use crate::protocol::slot::Policy;
use crate::protocol::word::Attention;
use crate::stage::{FIRST, Raised, accepted, model, record, settle, take_and_catch};

fn begin(record: &'static Record, deadline: u64) -> ScopeId {
    let owner = Owner::of(record);
    let begun = owner.begin_scope(deadline, 0, Location::caller());
    if let Some(at) = begun.visit {
        // The driver's note is the model's visit.
        owner.told_driver(at);
    }
    begun.id
}

/// Ends the scope as the face does; how many entries it took out.
fn end(record: &'static Record, scope: ScopeId) -> usize {
    let end = Owner::of(record).end_scope(scope).expect("it is open");
    let count = end.entries.len();
    for entry in end.entries {
        settle(entry, ReceiptState::TargetEnded);
    }
    count
}

/// Raises into the scope. Whether it got in.
fn raise_into(record: &'static Record, scope: ScopeId, raised: &Raised) -> bool {
    let mut entry = raised.entry();
    entry.scope = Some(scope);
    accepted(record.raise(FIRST, entry, Policy::Supersede, Fences::Full))
}

fn calls(record: &'static Record) -> bool {
    record.attention().calls()
}

/// Shows protocol::scope I1, protocol::slot I4.
#[test]
fn a_raise_into_a_scope_is_delivered_in_it_or_ends_with_it() {
    model(None, || {
        let (record, raised) = (record(), Raised::new());
        let scope = begin(record, NEVER);
        let raiser = thread::spawn({
            let raised = raised.clone();
            move || raise_into(record, scope, &raised)
        });
        let inside = calls(record) && take_and_catch(Owner::of(record));
        let taken_out = end(record, scope);
        assert!(!calls(record), "nothing calls after the end");
        let accepted = raiser.join().unwrap();
        assert!(!calls(record) && !take_and_catch(Owner::of(record)));
        assert_eq!(usize::from(inside) + taken_out, usize::from(accepted));
        let expected = if inside {
            ReceiptState::Caught
        } else {
            ReceiptState::TargetEnded
        };
        assert_eq!((raised.state(), raised.drops()), (expected, 1));
    });
}

/// The end takes its own entries only, and the bit stays for the others'.
/// Shows protocol::scope I3.
#[test]
fn the_end_of_an_inner_scope_leaves_what_the_outer_one_has() {
    model(None, || {
        let (record, outer_s, inner_s) = (record(), Raised::new(), Raised::new());
        let outer = begin(record, NEVER);
        let inner = begin(record, NEVER);
        let raiser = thread::spawn({
            let (outer_s, inner_s) = (outer_s.clone(), inner_s.clone());
            move || {
                assert!(raise_into(record, outer, &outer_s), "it is open all the time");
                raise_into(record, inner, &inner_s)
            }
        });
        end(record, inner);
        raiser.join().unwrap();
        assert_eq!(inner_s.state(), ReceiptState::TargetEnded);
        assert_eq!(outer_s.state(), ReceiptState::Pending);
        assert!(record.attention().has(Attention::PENDING));
        assert!(take_and_catch(Owner::of(record)) && !calls(record));
        end(record, outer);
    });
}

/// The driver's visit, with a deadline that has passed, against the end.
#[test]
fn a_deadline_that_fires_at_the_end_is_not_seen_after_it() {
    model(None, || {
        let record = record();
        let scope = begin(record, 5);
        let driver = thread::spawn(move || {
            let visited = record.visit_deadlines(FIRST, 5, Fences::Full);
            visited.is_some_and(|visited| visited.duty.is_some())
        });
        let inside = calls(record);
        if inside {
            let called = Owner::of(record).take_scope_call(&Raised::new().receipt);
            assert!(matches!(called, ScopeCall::Raise((Why::TimedOut, _))));
        }
        end(record, scope);
        assert!(!calls(record), "nothing calls after the end");
        let fired = driver.join().unwrap();
        assert!(!calls(record) && (fired || !inside));
    });
}

/// The driver's visit, with a deadline that has passed, against the end and a scope without one in the same row.
/// Shows protocol::scope_table I3.
#[test]
fn a_deadline_that_fires_at_the_end_is_not_taken_for_the_next_scopes() {
    model(None, || {
        let record = record();
        let scope = begin(record, 5);
        let driver = thread::spawn(move || {
            let visited = record.visit_deadlines(FIRST, 5, Fences::Full);
            visited.map(|visited| visited.next)
        });
        end(record, scope);
        let next = begin(record, NEVER);
        let visited = driver.join().unwrap();
        assert!(!calls(record), "the next scope has no deadline");
        assert!(visited.is_none_or(|owed| owed.is_none()));
        end(record, next);
    });
}

/// The driver's visit against the beginning of a scope with a later deadline: this visit sees it, or the owner promises
/// another.
/// Shows protocol::scope_table I2.
#[test]
fn a_deadline_that_is_set_during_a_visit_has_one_promised() {
    model(None, || {
        let record = record();
        let earlier = begin(record, 5);
        end(record, earlier);
        let driver = thread::spawn(move || {
            let visited = record.visit_deadlines(FIRST, 5, Fences::Full);
            visited.expect("it is due").next
        });
        let begun = Owner::of(record).begin_scope(7, 0, Location::caller());
        let next = driver.join().unwrap();
        assert_eq!(begun.visit.or(next), Some(7));
        end(record, begun.id);
    });
}

/// A raise into a scope against its end and the beginning of the next, which gets the same row.
/// Shows protocol::scope_table I1.
#[test]
fn a_raise_into_a_scope_that_is_over_does_not_reach_the_next() {
    model(None, || {
        let (record, raised) = (record(), Raised::new());
        let scope = begin(record, NEVER);
        let raiser = thread::spawn({
            let raised = raised.clone();
            move || raise_into(record, scope, &raised)
        });
        let taken_out = end(record, scope);
        let next = begin(record, NEVER);
        let accepted = raiser.join().unwrap();
        assert_eq!(taken_out, usize::from(accepted));
        assert!(!calls(record) && end(record, next) == 0);
        assert_eq!((raised.state(), raised.drops()), (ReceiptState::TargetEnded, 1));
    });
}

/// Cancelling against beginning: one of the two cancels it in the record.
/// Shows protocol::scope I5.
#[test]
fn a_scope_that_is_cancelled_as_it_begins_is_cancelled() {
    model(None, || {
        let (record, cell) = (record(), Arc::new(ScopeCell::new()));
        let at = Location::caller();
        let canceller = thread::spawn({
            let cell = cell.clone();
            move || {
                if let Some(place) = cell.cancel() {
                    let _duty = record.cancel_scope(place.generation, place.scope, at, Fences::Full);
                }
            }
        });
        let scope = begin(record, NEVER);
        let place = Place {
            index: 0,
            generation: FIRST,
            scope,
        };
        if cell.begin(place) {
            let duty = record.cancel_scope(FIRST, scope, at, Fences::Full);
            assert!(duty.is_some(), "it is open");
        }
        canceller.join().unwrap();
        assert!(record.attention().has(Attention::SCOPE));
        end(record, scope);
        assert!(!calls(record));
    });
}

/// Cancelling against ending: the thread is not called by a scope that is over.
#[test]
fn a_scope_that_is_cancelled_as_it_ends_calls_nobody() {
    model(None, || {
        let (record, cell) = (record(), Arc::new(ScopeCell::new()));
        let at = Location::caller();
        let scope = begin(record, NEVER);
        let before = cell.begin(Place {
            index: 0,
            generation: FIRST,
            scope,
        });
        assert!(!before);
        let canceller = thread::spawn({
            let cell = cell.clone();
            move || {
                let place = cell.cancel().expect("it has begun");
                let duty = record.cancel_scope(place.generation, place.scope, at, Fences::Full);
                duty.is_some()
            }
        });
        end(record, scope);
        assert!(!calls(record));
        canceller.join().unwrap();
        assert!(!calls(record));
    });
}
