//! The system's part: futexes, one pending signal to a thread, and calls that block until one of the two ends them.
//!
//! Owns: [`Kernel`], one place to sleep for each thread. Leaves to the protocol what a signal means.
//! [`Kernel::sleep`] and [`Kernel::block`] block; a wait that nobody ends is the deadlock that shuttle reports.
//!
//! **Signal context:** no; [`Kernel::handle`] stands for it, on the thread that it is for.

use shuttle::sync::{Arc, Condvar, Mutex};

use crate::protocol::record::Record;
use crate::protocol::registry::ThreadId;
use crate::protocol::word::Sender;

/// One thread, as the kernel knows it.
#[derive(Default)]
struct Task {
    /// The kernel keeps one signal of a number, and drops the second.
    pending: Option<Sender>,
    gone: bool,
    /// The exceptions that it has taken and gone on from.
    done: Vec<usize>,
}

/// The kernel's side of one thread.
#[derive(Default)]
pub(crate) struct Kernel {
    task: Mutex<Task>,
    woken: Condvar,
}

/// A thread as others reach it. Never reused, as the generation that it is for.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) id: ThreadId,
    pub(crate) kernel: Arc<Kernel>,
}

impl Kernel {
    /// `rt_tgsigqueueinfo`, for an exception if it is its raiser who sends. The caller holds a pin, so that the thread is
    /// there (P4).
    pub(crate) fn send(&self, from: Sender, exception: Option<usize>) {
        let mut task = self.task.lock().unwrap();
        assert!(!task.gone, "signalled a thread that is gone");
        let late = exception.is_some_and(|number| task.done.contains(&number));
        assert!(!late, "a signal for an exception that has been delivered");
        task.pending.get_or_insert(from);
        self.woken.notify_all();
    }

    pub(crate) fn wake(&self) {
        let _task = self.task.lock().unwrap();
        self.woken.notify_all();
    }

    /// The handler, if a signal is pending. Whether one was.
    pub(crate) fn handle(&self, record: &Record) -> bool {
        let pending = self.task.lock().unwrap().pending.take();
        pending.map(|from| record.hear(from)).is_some()
    }

    /// `FUTEX_WAIT` on the attention word: returns if the word has changed, for a wake, and for a signal.
    pub(crate) fn sleep(&self, record: &Record, expected: u32) {
        self.sleep_until(record, expected, || false);
    }

    /// As [`Kernel::sleep`], not at all if the time is `over`. At its end somebody wakes.
    pub(crate) fn sleep_until(&self, record: &Record, expected: u32, over: impl FnOnce() -> bool) {
        let task = self.task.lock().unwrap();
        if task.pending.is_none() && record.attention().futex() == expected && !over() {
            drop(self.woken.wait(task).unwrap());
        } else {
            drop(task);
        }
        self.handle(record);
    }

    /// A call that only a signal ends.
    pub(crate) fn block(&self, record: &Record) {
        let mut task = self.task.lock().unwrap();
        while task.pending.is_none() {
            task = self.woken.wait(task).unwrap();
        }
        drop(task);
        self.handle(record);
    }

    /// Sleeps until `owed` is `None`: the owner waits for others.
    pub(crate) fn sleep_out(
        &self,
        record: &Record,
        owed: impl Fn() -> Option<crate::protocol::word::Attention>,
    ) {
        while let Some(word) = owed() {
            self.sleep(record, word.futex());
        }
    }

    /// The thread has taken this exception and goes on.
    pub(crate) fn go_on_from(&self, exception: usize) {
        self.task.lock().unwrap().done.push(exception);
    }

    /// The thread has ended. A signal that is still pending dies with it.
    pub(crate) fn end(&self) {
        self.task.lock().unwrap().gone = true;
    }
}
