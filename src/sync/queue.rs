//! [`WaitQueue`]: threads that wait for somebody else's doing, first in, first out.
//!
//! Owns: the list of waiters, who has been notified, and waking them. Leaves to the callers the condition, to `region` the
//! waiting of attached threads. [`WaitQueue::wait_until`] and [`Place::wait_notified`] block; the list's own lock is
//! held for some steps only, never while a condition is tested or a thread sleeps.
//!
//! **Signal context:** no.
//!
//! A notification takes its waiter out of the list, so that two of them go to two waiters:
//!
//! ```text
//!            (1) enroll             (2) notify_one, notify_all
//!   outside ------------> in line -------------------------> notified
//!      ^                   |  ^                                |  |
//!      |  (4) leave        |  |    (3) retake                  |  |
//!      +-------------------+  +--------------------------------+  |
//!      +----------------------------------------------------------+
//!         (5) leave: the notification is spent, or passed on to the next in line
//! ```
//!
//! - I1. A waiter is in line from before it tests its condition, so that who makes the condition true and then notifies
//!   finds it, or it finds the condition true.
//! - I2. A waiter's word is not written after the waiter has left, which it does under the list's lock: notifying writes
//!   it under that lock. The futex wake comes after the lock and uses the address only as a key. (Words of attached
//!   threads live for ever, and a stray wake is a hint to look again; bells of the others are shared.)
//! - I3. No notification is lost. A waiter that was notified either made use of it (its condition held in a test after
//!   it, or being notified was the condition), or saw in a test after (3) that there is no use for it, or passes it on
//!   when it leaves: raised, timed out, or notified after it had already succeeded.
//! - I4. The list is sorted by ticket: (3) gives a waiter its old place back.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::current;
use crate::platform::futex;
use crate::protocol::record::{Owner, Record};
use crate::protocol::word::Attention;
use crate::region::{self, Raises, Waited};

/// Threads that wait for the same thing.
#[derive(Default)]
pub(crate) struct WaitQueue {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    waiters: VecDeque<Waiter>,
    next_ticket: u64,
}

struct Waiter {
    ticket: u64,
    waker: Waker,
}

impl WaitQueue {
    pub(crate) const fn new() -> Self {
        Self {
            list: Mutex::new(List {
                waiters: VecDeque::new(),
                next_ticket: 0,
            }),
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Transition (1): the calling thread is in line from now on.
    pub(crate) fn enroll(&self) -> Place<'_> {
        let owner = current::owner();
        let waker = match owner {
            Some(owner) => Waker::Attached(owner.record()),
            None => Waker::Plain(Arc::default()),
        };
        let mut list = self.list();
        let ticket = list.next_ticket;
        list.next_ticket += 1;
        list.waiters.push_back(Waiter {
            ticket,
            waker: waker.clone(),
        });
        Place {
            queue: self,
            owner,
            waker,
            ticket,
            spent: Cell::new(false),
        }
    }

    /// Waits until `ready()`, `deadline` or, if `raises` says so, a raise. What `ready` takes when it is `true` is taken.
    ///
    /// A deadline that is over does not block, and so does not raise under a mask.
    #[track_caller]
    pub(crate) fn wait_until(
        &self,
        deadline: Option<u64>,
        raises: Raises,
        mut ready: impl FnMut() -> bool,
    ) -> Waited {
        let place = self.enroll();
        place.wait(deadline, raises, || {
            let notified = place.is_notified();
            if ready() {
                place.spent.set(notified);
                return true;
            }
            if notified {
                place.retake();
                return ready();
            }
            false
        })
    }

    /// Notifies the thread that has waited longest.
    pub(crate) fn notify_one(&self) {
        let mut list = self.list();
        let first = list.waiters.pop_front();
        if let Some(waiter) = &first {
            waiter.waker.mark();
        }
        drop(list);
        if let Some(waiter) = first {
            waiter.waker.wake();
        }
    }

    /// Notifies all.
    pub(crate) fn notify_all(&self) {
        let mut list = self.list();
        let waiters = std::mem::take(&mut list.waiters);
        waiters.iter().for_each(|waiter| waiter.waker.mark());
        drop(list);
        waiters.iter().for_each(|waiter| waiter.waker.wake());
    }
}

/// The calling thread's place in line, given up on every way out.
#[must_use = "a place is for waiting"]
pub(crate) struct Place<'a> {
    queue: &'a WaitQueue,
    owner: Option<Owner>,
    waker: Waker,
    ticket: u64,
    /// The notification, if there is one, has been made use of.
    spent: Cell<bool>,
}

impl Place<'_> {
    /// Waits to be notified: `Ready` exactly if this thread was, and has the notification for itself.
    #[track_caller]
    pub(crate) fn wait_notified(self, deadline: Option<u64>, raises: Raises) -> Waited {
        match self.wait(deadline, raises, || self.is_notified()) {
            // Notified in that very moment or not: the drop passes it on.
            Waited::Raised(raised) => Waited::Raised(raised),
            Waited::Ready | Waited::TimedOut => {
                self.spent.set(true);
                if self.leave_line() {
                    Waited::TimedOut
                } else {
                    Waited::Ready
                }
            }
        }
    }

    #[track_caller]
    fn wait(&self, deadline: Option<u64>, raises: Raises, mut ready: impl FnMut() -> bool) -> Waited {
        if is_over(deadline) {
            return if ready() { Waited::Ready } else { Waited::TimedOut };
        }
        match (&self.waker, self.owner) {
            (Waker::Plain(bell), _) => bell.wait_until(deadline, ready),
            (Waker::Attached(_), Some(owner)) => region::wait_until(owner, deadline, raises, ready),
            (Waker::Attached(_), None) => unreachable!("an attached thread has an owner"),
        }
    }

    fn is_notified(&self) -> bool {
        find(&self.queue.list().waiters, self.ticket).is_err()
    }

    /// Transition (3).
    fn retake(&self) {
        let mut list = self.queue.list();
        if let Err(at) = find(&list.waiters, self.ticket) {
            list.waiters.insert(
                at,
                Waiter {
                    ticket: self.ticket,
                    waker: self.waker.clone(),
                },
            );
        }
    }

    /// Whether the place was still in line.
    fn leave_line(&self) -> bool {
        let mut list = self.queue.list();
        let place = find(&list.waiters, self.ticket);
        let waiter = place.ok().and_then(|at| list.waiters.remove(at));
        waiter.is_some()
    }
}

impl Drop for Place<'_> {
    /// Transitions (4) and (5).
    fn drop(&mut self) {
        if !self.leave_line() && !self.spent.get() {
            self.queue.notify_one();
        }
    }
}

fn find(waiters: &VecDeque<Waiter>, ticket: u64) -> Result<usize, usize> {
    waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket)
}

fn is_over(deadline: Option<u64>) -> bool {
    deadline.is_some_and(|at| futex::now() >= at)
}

/// How to wake one waiter: first [`mark`](Self::mark) under the list's lock, then [`wake`](Self::wake) without it.
#[derive(Clone)]
enum Waker {
    Attached(&'static Record),
    /// A thread that never attached. It does not use std's park token, which is its own.
    Plain(Arc<Bell>),
}

impl Waker {
    fn mark(&self) {
        match self {
            Self::Attached(record) => record.notify(Attention::NOTIFIED),
            Self::Plain(bell) => bell.ring(),
        }
    }

    fn wake(&self) {
        match self {
            Self::Attached(record) => futex::wake(record.attention_word()),
            Self::Plain(bell) => bell.heard.notify_one(),
        }
    }
}

/// What wakes an unattached thread.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn rung(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        *self.rung() = true;
    }

    fn wait_until(&self, deadline: Option<u64>, mut ready: impl FnMut() -> bool) -> Waited {
        loop {
            *self.rung() = false;
            if ready() {
                return Waited::Ready;
            }
            if is_over(deadline) {
                return Waited::TimedOut;
            }
            let rung = self.rung();
            match deadline {
                None => drop(self.heard.wait_while(rung, |rung| !*rung)),
                Some(at) => {
                    let left = Duration::from_nanos(at.saturating_sub(futex::now()));
                    drop(self.heard.wait_timeout_while(rung, left, |rung| !*rung));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_notifications_go_to_two_waiters_in_order() {
        let queue = WaitQueue::new();
        let [first, second, third] = [queue.enroll(), queue.enroll(), queue.enroll()];
        queue.notify_one();
        assert_eq!(
            [&first, &second, &third].map(Place::is_notified),
            [true, false, false]
        );
        queue.notify_one();
        assert_eq!(
            [&first, &second, &third].map(Place::is_notified),
            [true, true, false]
        );
    }

    /// Shows sync::queue I3.
    #[test]
    fn who_leaves_with_an_unused_notification_passes_it_on() {
        let queue = WaitQueue::new();
        let (first, second) = (queue.enroll(), queue.enroll());
        queue.notify_one();
        drop(first);
        assert!(second.is_notified());
    }

    #[test]
    fn who_makes_use_of_a_notification_keeps_it() {
        let queue = WaitQueue::new();
        let (first, second) = (queue.enroll(), queue.enroll());
        queue.notify_one();
        assert!(matches!(first.wait_notified(Some(0), Raises::End), Waited::Ready));
        assert!(!second.is_notified());
        assert!(matches!(
            second.wait_notified(Some(0), Raises::End),
            Waited::TimedOut
        ));
    }

    #[test]
    fn who_leaves_in_line_passes_nothing_on() {
        let queue = WaitQueue::new();
        let (first, second) = (queue.enroll(), queue.enroll());
        drop(first);
        assert!(!second.is_notified());
    }

    /// Shows sync::queue I4.
    #[test]
    fn who_finds_no_use_gets_its_old_place_back() {
        let queue = WaitQueue::new();
        let [first, second] = [queue.enroll(), queue.enroll()];
        queue.notify_one();
        first.retake();
        queue.notify_one();
        assert_eq!([&first, &second].map(Place::is_notified), [true, false]);
    }

    #[test]
    fn notifying_all_leaves_nobody_in_line() {
        let queue = WaitQueue::new();
        let places = [queue.enroll(), queue.enroll(), queue.enroll()];
        queue.notify_all();
        assert!(places.iter().all(Place::is_notified));
    }

    #[test]
    fn an_unattached_thread_keeps_its_park_token() {
        let queue = WaitQueue::new();
        std::thread::current().unpark();
        let mut tests = 0;
        let late = futex::now() + 200_000_000;
        let waited = queue.wait_until(Some(late), Raises::End, || {
            tests += 1;
            false
        });
        assert!(matches!(waited, Waited::TimedOut) && tests >= 2);
        std::thread::park();
    }

    /// Shows sync::queue I2: whose word is being written cannot have left.
    #[cfg(throwto_ladder)]
    #[test]
    fn a_waiters_word_is_written_under_the_lock_that_leaving_takes() {
        use crate::platform::{blocked, nudge};
        let queue = WaitQueue::new();
        let place = queue.enroll();
        let Waker::Plain(bell) = place.waker.clone() else {
            unreachable!("this thread is not attached");
        };
        let word = bell.rung();
        std::thread::scope(|scope| {
            let (send, tid) = std::sync::mpsc::channel();
            let queue = &queue;
            scope.spawn(move || {
                send.send(nudge::os_tid()).unwrap();
                queue.notify_one();
            });
            let tid = tid.recv().unwrap();
            let late = futex::now() + 20_000_000_000;
            while !blocked::describe(tid).starts_with("futex") {
                assert!(futex::now() < late, "it never waits for the word");
                std::thread::yield_now();
            }
            let free = queue.list.try_lock().is_ok();
            drop(word);
            assert!(!free, "the list is open while a word is written");
        });
        assert!(place.is_notified());
    }
}
