//! The driver's clockwork: it visits threads when their deadlines are due.
//!
//! Owns: carrying out the visits that [`super::visit_at`] promises. Leaves to `protocol::deadline` their order, to
//! `protocol::scope` which scopes have run out of time, to the driver sleeping until the next visit. On the driver only.
//!
//! **Signal context:** no.

use std::time::Duration;

use super::perform;
use crate::current::REGISTRY;
use crate::platform::futex;
use crate::protocol::deadline::{NEVER, Timetable};
use crate::protocol::registry::ThreadId;
use crate::runtime;

/// Visits that are promised and not taken.
pub(crate) struct Clockwork(Timetable<ThreadId>);

impl Clockwork {
    pub(crate) const fn new() -> Self {
        Self(Timetable::new())
    }

    /// Takes over what was promised.
    pub(crate) fn promise(&mut self, at: u64, id: ThreadId) {
        self.0.promise(at, id);
    }

    /// How long the driver may sleep that wants to sleep for `pause`, and when that ends.
    pub(crate) fn shorten(&self, pause: Option<Duration>) -> (Option<Duration>, u64) {
        let now = futex::now();
        let visit = self
            .0
            .next()
            .map(|at| Duration::from_nanos(at.saturating_sub(now)));
        let pause = match (pause, visit) {
            (Some(pause), Some(visit)) => Some(pause.min(visit)),
            (pause, visit) => pause.or(visit),
        };
        let wakes_at = pause.map_or(NEVER, |pause| now.saturating_add(pause.as_nanos() as u64));
        (pause, wakes_at)
    }

    /// Takes the visits that are due.
    pub(crate) fn visit(&mut self) {
        if self.0.next().is_none() {
            return;
        }
        let now = futex::now();
        while let Some(id) = self.0.take_due(now) {
            let next = REGISTRY.record(id.index()).and_then(|record| {
                let visited = record.visit_deadlines(id.generation(), now, runtime::fences())?;
                if let Some(duty) = visited.duty {
                    perform(record, id, duty);
                }
                visited.next
            });
            if let Some(next) = next {
                self.0.promise(next, id);
            }
        }
    }
}
