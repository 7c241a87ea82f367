//! [`WaitQueue`]: threads that wait for somebody else's doing, first in, first out.
//!
//! Owns: the list of waiters and waking them. Leaves to the callers the condition, to `region` the waiting of attached
//! threads. [`WaitQueue::wait_until`] blocks.
//!
//! **Signal context:** no.
//!
//! - I1. A waiter is in the list from before it tests its condition to after it has come back, so that who makes the
//!   condition true and then notifies finds it.
//! - I2. A waiter's word is not touched after the waiter has left the list, which it does under the list's lock. (Words
//!   of attached threads live for ever; those of others live in the waiter.)

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use crate::current;
use crate::platform::futex;
use crate::protocol::record::Record;
use crate::protocol::word::Attention;
use crate::region::{Raises, Waited, wait_until};

/// How to wake one waiter.
enum Waker {
    Attached(&'static Record),
    /// A thread that never attached waits as std's threads do.
    Plain(Thread),
}

struct Waiter {
    ticket: u64,
    waker: Waker,
}

#[derive(Default)]
struct List {
    waiters: VecDeque<Waiter>,
    next_ticket: u64,
}

/// Threads that wait for the same thing.
#[derive(Default)]
pub(crate) struct WaitQueue {
    list: Mutex<List>,
}

impl WaitQueue {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready()`, `deadline` or, if `raises` says so, a raise.
    #[track_caller]
    pub(crate) fn wait_until(
        &self,
        deadline: Option<u64>,
        raises: Raises,
        ready: impl FnMut() -> bool,
    ) -> Waited {
        let owner = current::owner();
        let waker = match owner {
            Some(owner) => Waker::Attached(owner.record()),
            None => Waker::Plain(std::thread::current()),
        };
        let _queued = Queued::enter(self, waker);
        match owner {
            Some(owner) => wait_until(owner, deadline, raises, ready),
            None => wait_plain(deadline, ready),
        }
    }

    /// Wakes the thread that has waited longest.
    pub(crate) fn notify_one(&self) {
        if let Some(waiter) = self.list().waiters.front() {
            waiter.waker.wake();
        }
    }

    /// Wakes all.
    pub(crate) fn notify_all(&self) {
        for waiter in &self.list().waiters {
            waiter.waker.wake();
        }
    }
}

impl Waker {
    fn wake(&self) {
        match self {
            Self::Attached(record) => {
                record.notify(Attention::NOTIFIED);
                futex::wake(record.attention_word());
            }
            Self::Plain(thread) => thread.unpark(),
        }
    }
}

/// A place in the list, given up on every way out.
struct Queued<'a> {
    queue: &'a WaitQueue,
    ticket: u64,
}

impl<'a> Queued<'a> {
    fn enter(queue: &'a WaitQueue, waker: Waker) -> Self {
        let mut list = queue.list();
        let ticket = list.next_ticket;
        list.next_ticket += 1;
        list.waiters.push_back(Waiter { ticket, waker });
        Self { queue, ticket }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.queue
            .list()
            .waiters
            .retain(|waiter| waiter.ticket != self.ticket);
    }
}

fn wait_plain(deadline: Option<u64>, mut ready: impl FnMut() -> bool) -> Waited {
    loop {
        if ready() {
            return Waited::Ready;
        }
        match deadline {
            None => std::thread::park(),
            Some(at) => match at.checked_sub(futex::now()).filter(|left| *left > 0) {
                Some(left) => std::thread::park_timeout(std::time::Duration::from_nanos(left)),
                None => return Waited::TimedOut,
            },
        }
    }
}
