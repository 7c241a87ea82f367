//! The signal handler as one more thread: a nudge at any point of a call of ours ends it, or finds that it need not.
//!
//! Owns: the models of the window with its handler (P8), and of `window I1`. The handler runs on the owner's thread, between
//! two of its steps and to the end: so it is a thread that holds the [`Baton`] while it runs, and the owner holds it in each
//! step. What that orders is what program order does.
//!
//! **Signal context:** no.

use std::ptr::null_mut;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::protocol::record::{AfterLeave, Duty, Fences, Owner, Record};
use crate::protocol::word::{Attention, Kind, Sender};
use crate::stage::{Futex, Raised, model, raise, record, release, take_and_catch};

/// Where the owner's program counter is, as far as the handler can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Counter {
    Outside,
    /// Between the check and the system call.
    Window,
    /// In the system call.
    Blocked,
    /// Another handler runs on top of the system call.
    Covered,
    /// Moved to the cancel label.
    Cancelled,
    /// The call returned EINTR.
    Interrupted,
}

/// Who holds it runs on the owner's thread.
struct Baton {
    counter: Mutex<Counter>,
    moved: Condvar,
    /// The signal that is pending; `None` inside once no more will come.
    signal: Mutex<(Option<Sender>, bool)>,
    came: Condvar,
}

impl Baton {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            counter: Mutex::new(Counter::Outside),
            moved: Condvar::new(),
            signal: Mutex::new((None, false)),
            came: Condvar::new(),
        })
    }

    /// One step of the owner's.
    fn step<T>(&self, of: impl FnOnce(&mut Counter) -> T) -> T {
        of(&mut self.counter.lock().unwrap())
    }

    fn send(&self, from: Sender) {
        self.signal.lock().unwrap().0.get_or_insert(from);
        self.came.notify_all();
    }

    fn no_more(&self) {
        self.signal.lock().unwrap().1 = true;
        self.came.notify_all();
    }

    /// The handler's thread: runs when a signal comes.
    fn handle(&self, record: &Record, handler: fn(&Record, &mut Counter)) {
        let mut signal = self.signal.lock().unwrap();
        let from = loop {
            match *signal {
                (Some(from), _) => break from,
                (None, true) => return,
                (None, false) => signal = self.came.wait(signal).unwrap(),
            }
        };
        drop(signal);
        let mut counter = self.counter.lock().unwrap();
        if record.hear(from).calls() {
            handler(record, &mut counter);
        }
        drop(counter);
        self.moved.notify_all();
    }
}

/// As `handler::nudged` does.
fn shipped(record: &Record, counter: &mut Counter) {
    match *counter {
        Counter::Window => *counter = Counter::Cancelled,
        Counter::Blocked => *counter = Counter::Interrupted,
        // The call will not be interrupted by us: ask to be sent again when the other handler has returned.
        Counter::Covered => record.note_requeued(),
        Counter::Outside | Counter::Cancelled | Counter::Interrupted => {}
    }
}

/// Enters, checks, blocks. `covered`: another library's handler runs for a moment while we are blocked.
fn call(owner: Owner, baton: &Baton, covered: bool) {
    let record = owner.record();
    let entered = baton.step(|counter| {
        *counter = Counter::Window;
        owner.enter(Kind::Window, 0, null_mut(), Fences::Full)
    });
    // The stub: its load, its branch and the instruction are three steps.
    let calls = entered.calls || baton.step(|_| record.attention().calls());
    baton.step(|counter| {
        if !calls && *counter == Counter::Window {
            *counter = Counter::Blocked;
        }
    });
    if covered {
        baton.step(|counter| {
            if *counter == Counter::Blocked {
                *counter = Counter::Covered;
            }
        });
        baton.step(|counter| {
            if *counter == Counter::Covered {
                // The signal that was blocked in between comes now.
                let requeued = record.attention().has(Attention::REQUEUED);
                *counter = if requeued {
                    Counter::Interrupted
                } else {
                    Counter::Blocked
                };
            }
        });
    }
}

/// A call, a raise, and the nudge. At the end the owner is not in its call with the exception pending.
fn call_and_raise(covered: bool, handler: fn(&Record, &mut Counter)) {
    let (record, raised, baton) = (record(), Raised::new(), Baton::new());
    let owner = thread::spawn({
        let baton = baton.clone();
        move || call(Owner::of(record), &baton, covered)
    });
    let on_signal = thread::spawn({
        let baton = baton.clone();
        move || baton.handle(record, handler)
    });
    match raise(record, &raised, Fences::Full) {
        Duty::Nudge { pin, .. } => {
            baton.send(pin.sender());
            release(pin, &Futex::default());
        }
        Duty::Nothing => {}
        _ => panic!("a window is nudged"),
    }
    baton.no_more();
    owner.join().unwrap();
    on_signal.join().unwrap();
    let counter = baton.step(|counter| *counter);
    assert_ne!(counter, Counter::Blocked, "nobody is coming");
    assert!(
        !record.attention().has(Attention::NUDGE),
        "the signal has arrived"
    );
    assert!(take_and_catch(Owner::of(record)));
    assert_eq!(raised.drops(), 1);
}

#[test]
fn a_nudge_at_any_step_of_a_window_ends_the_call() {
    model(Some(3), || call_and_raise(false, shipped));
}

#[test]
fn a_nudge_that_meets_another_handler_ends_the_call_behind_it() {
    model(Some(2), || call_and_raise(true, shipped));
}

/// A handler that leaves the program counter where it is: the check has passed, and the call blocks.
#[test]
#[should_panic(expected = "nobody is coming")]
fn without_the_cancel_label_a_nudge_before_the_instruction_is_lost() {
    model(Some(3), || {
        call_and_raise(false, |record, counter| {
            if *counter != Counter::Window {
                shipped(record, counter);
            }
        });
    });
}

/// A handler that does nothing on top of another.
#[test]
#[should_panic(expected = "nobody is coming")]
fn without_sending_itself_again_a_nudge_on_top_of_a_handler_is_lost() {
    model(Some(3), || {
        call_and_raise(true, |record, counter| {
            if *counter != Counter::Covered {
                shipped(record, counter);
            }
        });
    });
}

/// The handler hears at any step of leaving a region: a raiser's pin and the owner's wait never miss each other.
#[test]
fn a_nudge_that_is_heard_while_the_region_is_left_holds_nobody_up() {
    model(Some(2), || {
        let (record, raised, baton) = (record(), Raised::new(), Baton::new());
        let futex = Arc::new(Futex::default());
        let owner = thread::spawn({
            let (baton, futex) = (baton.clone(), futex.clone());
            move || {
                let owner = Owner::of(record);
                let entered = owner.enter(Kind::Foreign, 0, null_mut(), Fences::Full);
                if let AfterLeave::Owes {
                    await_looks: true, ..
                } = owner.leave(&entered, Fences::Full)
                {
                    while let Some(word) = owner.await_looks() {
                        futex.wait(record.attention_word(), word.futex());
                    }
                }
                baton.step(|_| ());
            }
        });
        let on_signal = thread::spawn({
            let (baton, futex) = (baton.clone(), futex.clone());
            move || {
                baton.handle(record, |_, _| {});
                // A futex wait ends with EINTR.
                futex.wake();
            }
        });
        if let Duty::Nudge { pin, .. } = raise(record, &raised, Fences::Full) {
            baton.send(pin.sender());
            release(pin, &futex);
        }
        baton.no_more();
        owner.join().unwrap();
        on_signal.join().unwrap();
        assert!(!record.attention().pinned() && take_and_catch(Owner::of(record)));
    });
}
