//! [`WaitQueue`]: the promises of `src/sync/queue.rs` (its I1 and I3), and waits that the play's clock ends.
//!
//! **Signal context:** no.

use std::stage::{Unscheduled, stage};

use crate::raised::Raised;
use crate::scope;

#[derive(Debug)]
pub(crate) enum Waited {
    Ready,
    TimedOut,
    Raised(Raised),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raises {
    End,
    Stay,
}

#[derive(Default)]
struct List {
    /// By ticket.
    in_line: Vec<u64>,
    notified: Vec<u64>,
    last: u64,
}

#[derive(Default)]
pub(crate) struct WaitQueue {
    list: Unscheduled<List>,
}

impl WaitQueue {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait_until(
        &self,
        deadline: Option<u64>,
        raises: Raises,
        mut ready: impl FnMut() -> bool,
    ) -> Waited {
        let me = self.list.with(|list| {
            list.last += 1;
            list.in_line.push(list.last);
            list.last
        });
        let is_notified = || self.list.with(|list| list.notified.contains(&me));
        let late = || deadline.is_some_and(|at| at <= stage().now());
        let called = || raises == Raises::End && scope::is_called();
        loop {
            let notified = is_notified();
            if ready() {
                // A notification that came later was for another.
                self.leave(me, !notified);
                return Waited::Ready;
            }
            if notified {
                self.list.with(|list| {
                    list.notified.retain(|ticket| *ticket != me);
                    let at = list.in_line.partition_point(|ticket| *ticket < me);
                    list.in_line.insert(at, me);
                });
                if ready() {
                    self.leave(me, true);
                    return Waited::Ready;
                }
            }
            if called()
                && let Err(raised) = crate::safepoint()
            {
                self.leave(me, true);
                return Waited::Raised(raised);
            }
            if late() {
                self.leave(me, true);
                return Waited::TimedOut;
            }
            stage().sleep_until(|| is_notified() || late() || called());
        }
    }

    fn leave(&self, me: u64, pass_on: bool) {
        let notified = self.list.with(|list| {
            list.in_line.retain(|ticket| *ticket != me);
            let before = list.notified.len();
            list.notified.retain(|ticket| *ticket != me);
            list.notified.len() < before
        });
        if notified && pass_on {
            self.notify_one();
        }
    }

    pub(crate) fn notify_one(&self) {
        stage().step();
        self.list.with(|list| {
            if !list.in_line.is_empty() {
                let first = list.in_line.remove(0);
                list.notified.push(first);
            }
        });
        stage().ring();
    }

    pub(crate) fn notify_all(&self) {
        stage().step();
        self.list.with(|list| list.notified.append(&mut list.in_line));
        stage().ring();
    }
}
