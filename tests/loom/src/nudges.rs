//! Nudges versus what comes after their exception: a signal that a raiser has decided on is sent before the owner goes on.
//!
//! Owns: the models of invariant 6 of `protocol::record`. The kernel keeps one pending signal for the owner, and drops a
//! second one; the owner's handler runs before its next step.
//!
//! **Signal context:** no.

use std::ptr::null_mut;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::protocol::record::{AfterLeave, Duty, Fences, Owner, Record};
use crate::protocol::word::{Kind, Sender};
use crate::stage::{FIRST, Futex, Raised, model, raise, record, release, take_and_catch};

/// The owner's signals: at most one is pending, and none may come once it has gone on.
#[derive(Default)]
struct Signals {
    pending: Mutex<(Option<Sender>, bool)>,
    came: Condvar,
}

impl Signals {
    fn send(&self, from: Sender) {
        let mut pending = self.pending.lock().unwrap();
        assert!(!pending.1, "a signal for what has been delivered already");
        pending.0.get_or_insert(from);
        self.came.notify_all();
    }

    /// The handler, if there is a signal.
    fn handle(&self, record: &Record) -> bool {
        let pending = self.pending.lock().unwrap().0.take();
        pending.map(|from| record.hear(from)).is_some()
    }

    /// Blocked in the kernel until there is one.
    fn block(&self, record: &Record) {
        let mut pending = self.pending.lock().unwrap();
        while pending.0.is_none() {
            pending = self.came.wait(pending).unwrap();
        }
        drop(pending);
        self.handle(record);
    }

    /// The owner goes on: what is pending is handled now, and more is too late.
    fn go_on(&self, record: &Record) {
        self.handle(record);
        self.pending.lock().unwrap().1 = true;
    }
}

/// In a foreign call that only a signal ends; then out of it, with its exception.
fn call_and_take(owner: Owner, signals: &Signals, futex: &Futex) {
    let record = owner.record();
    let entered = owner.enter(Kind::Foreign, 0, null_mut(), Fences::Full);
    if !entered.calls {
        signals.block(record);
    }
    if let AfterLeave::Owes { await_looks: true, .. } = owner.leave(&entered, Fences::Full) {
        while let Some(word) = owner.await_looks() {
            if !signals.handle(record) {
                futex.wait(record.attention_word(), word.futex());
            }
        }
    }
    assert!(take_and_catch(owner));
    while let Some(word) = owner.await_nudge() {
        if !signals.handle(record) {
            futex.wait(record.attention_word(), word.futex());
        }
    }
    signals.go_on(record);
}

/// The driver, who still has an eye on the thread from an earlier raise.
fn drive(record: &'static Record, signals: &Signals, futex: &Futex) {
    let Some(look) = record.look(FIRST) else { return };
    loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
    if record.attention().calls() && record.region().kind() == Kind::Foreign {
        signals.send(Sender::Other);
        // The signal ends a futex wait of the owner's too.
        futex.wake();
    }
    release(look, futex);
}

#[test]
fn no_signal_comes_after_its_exception_whoever_else_sends_one() {
    model(Some(3), || {
        let (record, raised) = (record(), Raised::new());
        let (signals, futex) = (Arc::new(Signals::default()), Arc::new(Futex::default()));
        let owner = thread::spawn({
            let (signals, futex) = (signals.clone(), futex.clone());
            move || call_and_take(Owner::of(record), &signals, &futex)
        });
        let driver = thread::spawn({
            let (signals, futex) = (signals.clone(), futex.clone());
            move || drive(record, &signals, &futex)
        });
        match raise(record, &raised, Fences::Full) {
            Duty::Nudge { pin, .. } => {
                signals.send(pin.sender());
                futex.wake();
                release(pin, &futex);
            }
            Duty::Nothing => {}
            _ => panic!("running or in a foreign call"),
        }
        driver.join().unwrap();
        owner.join().unwrap();
        assert_eq!(raised.drops(), 1);
    });
}
