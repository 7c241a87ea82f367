//! Deadlines: points in time, and the timetable by which the driver visits at threads that have some.
//!
//! Owns: [`NEVER`], the order of visits. Leaves to [`super::scope`] which scope has which deadline, to the driver sleeping
//! and visiting. Times are nanoseconds of the platform's monotonic clock, which nothing here reads.
//! The driver alone has a [`Timetable`]; nothing blocks.
//!
//! **Signal context:** no.
//!
//! A visit is promised to a record, not to a deadline: `Scopes::visit` is the earliest time at which the driver will visit at
//! it. Who sets a deadline that is not before that has nothing to tell anybody, and who ends a scope never has. So limits that
//! are set and dropped by the million cost the driver one visit in the time of one limit, and leave nothing behind in here.
//!
//! - I1. A record with a deadline that has not passed has a visit promised at it or before.
//! - I2. Visits are taken in the order of their times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The deadline of who has none.
pub(crate) const NEVER: u64 = u64::MAX;

/// When to visit whom.
pub(crate) struct Timetable<T> {
    visits: BinaryHeap<Reverse<(u64, T)>>,
}

impl<T: Ord> Timetable<T> {
    pub(crate) const fn new() -> Self {
        Self {
            visits: BinaryHeap::new(),
        }
    }

    pub(crate) fn promise(&mut self, at: u64, whom: T) {
        self.visits.push(Reverse((at, whom)));
    }

    /// The time of the next visit.
    pub(crate) fn next(&self) -> Option<u64> {
        self.visits.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the next visit, if it is due.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.visits.pop().map(|Reverse((_, whom))| whom)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Shows protocol::deadline I2.
    #[test]
    fn ten_thousand_visits_come_in_the_order_of_their_times() {
        let mut table = Timetable::new();
        for i in 0..10_000_u64 {
            let at = 1 + (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40);
            table.promise(at, (at, i));
        }
        assert_eq!(
            table.take_due(table.next().unwrap() - 1),
            None,
            "none before its time"
        );
        let mut last = 0;
        for _ in 0..10_000 {
            let now = table.next().unwrap();
            let (at, _) = table.take_due(now).unwrap();
            assert!(at == now && at >= last);
            last = at;
        }
        assert!(table.next().is_none() && table.take_due(u64::MAX).is_none());
    }
}
