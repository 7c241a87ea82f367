//! A detached call: its result or the exception, never both, never neither.
//!
//! Owns: the models of `foreign::detached`, whose exchange is mirrored here: it is the face's, and has a lock of std's.
//!
//! **Signal context:** no.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize as Counter, Ordering::SeqCst};

use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{Duty, Fences, Owner};
use crate::protocol::word::{Attention, Kind};
use crate::stage::{FIRST, Futex, Raised, model, raise, record, settle, take_and_catch};

/// A result that counts its drop.
struct Outcome(std::sync::Arc<Counter>);

impl Drop for Outcome {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

enum Phase {
    Running,
    Done(Outcome),
    Taken,
    GivenUp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decided {
    Result,
    Exception,
}

/// As `Exchange::decide` does.
fn decide(owner: Owner, phase: &Mutex<Phase>) -> Option<Decided> {
    let mut phase = phase.lock().unwrap();
    if let Phase::Done(_) = *phase {
        *phase = Phase::Taken;
        return Some(Decided::Result);
    }
    let taken = take_and_catch(owner);
    if taken {
        *phase = Phase::GivenUp;
    }
    taken.then_some(Decided::Exception)
}

/// Takes the exception before it looks at the phase.
fn decide_too_early(owner: Owner, phase: &Mutex<Phase>) -> Option<Decided> {
    let taken = take_and_catch(owner);
    let mut phase = phase.lock().unwrap();
    if let Phase::Done(_) = *phase {
        *phase = Phase::Taken;
        return Some(Decided::Result);
    }
    if taken {
        *phase = Phase::GivenUp;
    }
    taken.then_some(Decided::Exception)
}

/// A call that ends, a caller that waits for it, and a raise. `revoked` at once, or not.
fn call(decide: fn(Owner, &Mutex<Phase>) -> Option<Decided>, revoked: bool) {
    let (record, raised, futex) = (record(), Raised::new(), Arc::new(Futex::default()));
    let phase = Arc::new(Mutex::new(Phase::Running));
    let drops = std::sync::Arc::new(Counter::new(0));
    let callee = thread::spawn({
        let (phase, futex, outcome) = (phase.clone(), futex.clone(), Outcome(drops.clone()));
        move || {
            let mut phase = phase.lock().unwrap();
            if let Phase::Running = *phase {
                *phase = Phase::Done(outcome);
            } else {
                drop(outcome);
            }
            drop(phase);
            record.notify(Attention::NOTIFIED);
            futex.wake();
        }
    });
    let caller = thread::spawn({
        let (phase, futex) = (phase.clone(), futex.clone());
        move || {
            let owner = Owner::of(record);
            let entered = owner.enter(Kind::Waiting, 0, null_mut(), Fences::Full);
            let decided = loop {
                let told = owner.consume(Attention::NOTIFIED);
                let attention = record.attention();
                if (told || attention.calls())
                    && let Some(decided) = decide(owner, &phase)
                {
                    break decided;
                }
                if !attention.has(Attention::NOTIFIED | Attention::CALLS) {
                    futex.wait(record.attention_word(), attention.futex());
                }
            };
            let _no_pins = owner.leave(&entered, Fences::Full);
            decided
        }
    });
    if let Duty::Wake = raise(record, &raised, Fences::Full) {
        futex.wake();
    }
    let taken_back = revoked
        && record
            .revoke(FIRST, &raised.receipt)
            .is_some_and(|entry| settle(entry, ReceiptState::Revoked));
    let decided = caller.join().unwrap();
    callee.join().unwrap();
    let pending = record.attention().has(Attention::PENDING);
    let left = match decided {
        Decided::Result => !taken_back,
        Decided::Exception => false,
    };
    assert_eq!(pending, left, "{decided:?}: the exception is lost or doubled");
    drop(phase);
    assert_eq!(drops.load(SeqCst), 1, "the result");
    assert_eq!(take_and_catch(Owner::of(record)), left);
    assert_eq!(raised.drops(), 1);
}

#[test]
fn a_result_or_the_exception_comes_out_and_the_other_is_kept() {
    model(Some(2), || call(decide, false));
}

#[test]
fn a_raise_that_is_taken_back_costs_no_result() {
    model(Some(2), || call(decide, true));
}

/// An exception that is taken before the phase is known is lost to a result.
#[test]
#[should_panic(expected = "the exception is lost")]
fn without_the_lock_around_both_an_exception_is_lost() {
    model(Some(2), || call(decide_too_early, false));
}
