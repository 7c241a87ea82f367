//! Notes to the driver: whatever a raiser does not do himself, the driver is told of.
//!
//! Owns: the model of `enlist` and `delist`. The driver is a thread, its inbox a counter.
//!
//! **Signal context:** no.

use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::protocol::record::{Duty, Fences, Owner, Record};
use crate::protocol::word::Attention;
use crate::stage::{Raised, model, raise, record, take_and_catch};

/// One pass of the driver. What it saw last, if it has looked.
fn pass(record: &Record, inbox: &Mutex<u32>, delist_first: bool) -> Option<bool> {
    if std::mem::take(&mut *inbox.lock().unwrap()) == 0 {
        return None;
    }
    if delist_first {
        record.delist();
    }
    let seen = record.attention().calls();
    if !delist_first {
        record.delist();
    }
    Some(seen)
}

/// A raise, its delivery, and a raise again, while the driver works off what notes there are.
fn raise_deliver_raise(delist_first: bool) {
    let (record, inbox) = (record(), Arc::new(Mutex::new(0)));
    let driver = thread::spawn({
        let inbox = inbox.clone();
        move || {
            let first = pass(record, &inbox, delist_first);
            pass(record, &inbox, delist_first).or(first)
        }
    });
    for last in [false, true] {
        match raise(record, &Raised::new(), Fences::Light) {
            Duty::Verify => *inbox.lock().unwrap() += 1,
            Duty::Nothing => {}
            _ => panic!("the owner is running"),
        }
        if !last {
            assert!(take_and_catch(Owner::of(record)));
        }
    }
    let seen_last = driver.join().unwrap();
    let waiting = *inbox.lock().unwrap() != 0;
    assert!(
        waiting || seen_last == Some(true),
        "the last raise has no note and nobody has seen it"
    );
    assert_eq!(waiting, record.attention().has(Attention::ENLISTED));
    assert!(take_and_catch(Owner::of(record)));
}

#[test]
fn every_raise_is_seen_or_has_a_note() {
    model(None, || raise_deliver_raise(true));
}

/// A driver that looks first and delists then loses a raise in between.
#[test]
#[should_panic(expected = "nobody has seen it")]
fn delisting_after_the_look_would_lose_a_raise() {
    model(None, || raise_deliver_raise(false));
}
