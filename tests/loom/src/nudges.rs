//! Nudges versus what comes after their exception: a signal that a raiser has decided on is sent before the owner goes on.
//!
//! Owns: the models of invariant 6 of `protocol::record`, and of what invariant 1 of `protocol::scope` says of signals. The kernel keeps one pending signal for the owner, and drops a
//! second one; the owner's handler runs before its next step.
//!
//! **Signal context:** no.

use std::panic::Location;
use std::ptr::null_mut;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::protocol::deadline::NEVER;
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{AfterLeave, Duty, Fate, Fences, Owner, Record};
use crate::protocol::scope::ScopeId;
use crate::protocol::slot::Policy;
use crate::protocol::word::{Kind, Sender};
use crate::stage::{self, FIRST, Futex, Raised, model, raise, record, release, settle, take_and_catch};

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
    if let AfterLeave::Owes {
        await_looks: true, ..
    } = owner.leave(&entered, Fences::Full)
    {
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

/// Shows protocol::record I6.
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

/// A call in a scope, which comes to its own end; then the end of the scope. `wait` for a signal that is on its way, or not.
fn call_in_scope(owner: Owner, scope: ScopeId, signals: &Signals, futex: &Futex, wait: bool) {
    let record = owner.record();
    let entered = owner.enter(Kind::Foreign, 0, null_mut(), Fences::Full);
    if let AfterLeave::Owes {
        await_looks: true, ..
    } = owner.leave(&entered, Fences::Full)
    {
        while let Some(word) = owner.await_looks() {
            if !signals.handle(record) {
                futex.wait(record.attention_word(), word.futex());
            }
        }
    }
    let end = owner.end_scope(scope).expect("it is open");
    while let Some(word) = owner.await_nudge().filter(|_| wait && end.await_nudge) {
        if !signals.handle(record) {
            futex.wait(record.attention_word(), word.futex());
        }
    }
    signals.go_on(record);
    for entry in end.entries {
        settle(entry, ReceiptState::TargetEnded);
    }
}

/// Who raises into the scope or cancels it nudges before its end, or not at all.
fn late_raise(cancel: bool, wait: bool) {
    let (record, raised) = (record(), Raised::new());
    let (signals, futex) = (Arc::new(Signals::default()), Arc::new(Futex::default()));
    let scope = Owner::of(record).begin_scope(NEVER, 0, Location::caller()).id;
    let owner = thread::spawn({
        let (signals, futex) = (signals.clone(), futex.clone());
        move || call_in_scope(Owner::of(record), scope, &signals, &futex, wait)
    });
    let duty = if cancel {
        record.cancel_scope(FIRST, scope, Location::caller(), Fences::Full)
    } else {
        let mut entry = raised.entry();
        entry.scope = Some(scope);
        let after = record.raise(FIRST, entry, Policy::Supersede, Fences::Full);
        assert_ne!(after.fate, Fate::Gone, "the target is alive");
        stage::duty(after)
    };
    if let Some(Duty::Nudge { pin, .. }) = duty {
        signals.send(pin.sender());
        futex.wake();
        release(pin, &futex);
    }
    owner.join().unwrap();
    assert!(!record.attention().calls());
    assert_eq!(raised.drops(), usize::from(!cancel));
}

/// Shows protocol::scope I1, protocol::record I6.
#[test]
fn no_signal_of_a_raise_into_a_scope_comes_after_its_end() {
    model(None, || late_raise(false, true));
}

#[test]
fn no_signal_of_a_cancel_comes_after_the_end_of_the_scope() {
    model(None, || late_raise(true, true));
}

/// An end that does not wait for a raiser who has decided on a signal.
#[test]
#[should_panic(expected = "a signal for what has been delivered already")]
fn without_waiting_at_the_end_a_signal_falls_into_what_follows() {
    model(None, || {
        // Left by itself, a region waits as well: the signal must be decided on behind it.
        late_raise(false, false);
    });
}
