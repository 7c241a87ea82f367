//! The ladder: which rung is due on a thread in a foreign region.
//!
//! Owns: the decision, as a function of what was seen and how long it has lasted. Leaves to the driver looking, acting
//! and the clock; to the handler whether a forced rung is safe at the spot.
//! Pure: anyone may call, nothing blocks or allocates.
//!
//! **Signal context:** no.
//!
//! ```text
//!   raise   +0          at once    hook: within 1 ms      unwind_after          abandon_after
//!   -----+---------------+-----------+----------------------+----------------------+------------>
//!        nudge (raiser)  fail        hook                   unwind, if blocked     abandon
//! ```
//!
//! - I1. A lower rung goes on while higher ones are tried: what a library does next may yield to it.
//! - I2. A thread that runs is never nudged or failed, and a thread whose mask is up is never abandoned: it is not blocked,
//!   so its exception may not be delivered.
//! - I3. A hook is run once before any forced rung, however late the driver is ([`Times::forced_is_due`]).
//! - I4. Of the two forced rungs the one that fits what the thread does is tried: unwind if it is blocked, abandon otherwise.
//!   If the fitting one has refused, and both are due, they take turns.

use core::time::Duration;

use super::word::{Level, Region};

/// When the forced rungs of a region are due, counted from the first look at the thread after the raise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) unwind: Option<Duration>,
    pub(crate) abandon: Option<Duration>,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) region: Region,
    /// In a system call, as far as the system tells.
    pub(crate) blocked: bool,
    /// How long this region has been looked at.
    pub(crate) waited: Duration,
    /// The last forced rung that was tried here was unwind.
    pub(crate) unwind_was_last: bool,
}

/// The strongest thing to do to the thread's call now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It runs, and may not be left by force: no signal.
    Nothing,
    Nudge,
    Fail,
    Unwind,
    Abandon,
}

impl Times {
    /// Rules I2 and I4.
    pub(crate) fn step(self, found: Found) -> Step {
        let due = |rung: u64, after: Option<Duration>| {
            found.region.has(rung) && after.is_some_and(|after| found.waited >= after)
        };
        let unwind = found.blocked && due(Region::UNWIND, self.unwind);
        let abandon = found.region.level() == Level::Unmasked && due(Region::ABANDON, self.abandon);
        match (unwind, abandon) {
            (true, true) if found.unwind_was_last => Step::Abandon,
            (true, _) => Step::Unwind,
            (false, true) => Step::Abandon,
            (false, false) if !found.blocked => Step::Nothing,
            (false, false) if found.region.has(Region::FAIL) => Step::Fail,
            (false, false) => Step::Nudge,
        }
    }

    /// Whether a forced rung is due by its time alone: what comes before it must have been tried by then.
    pub(crate) fn forced_is_due(self, region: Region, waited: Duration) -> bool {
        let unwind = self.unwind.filter(|_| region.has(Region::UNWIND));
        let abandon = self.abandon.filter(|_| region.has(Region::ABANDON));
        [unwind, abandon]
            .into_iter()
            .flatten()
            .any(|after| waited >= after)
    }

    /// How long until the next forced rung falls due.
    pub(crate) fn next(self, region: Region, waited: Duration) -> Option<Duration> {
        let unwind = self.unwind.filter(|_| region.has(Region::UNWIND));
        let abandon = self.abandon.filter(|_| region.has(Region::ABANDON));
        [unwind, abandon]
            .into_iter()
            .flatten()
            .filter_map(|after| after.checked_sub(waited).filter(|left| !left.is_zero()))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::word::Kind;
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const BOTH: Times = Times {
        unwind: Some(MS_10),
        abandon: Some(MS_20),
    };
    const MS_10: Duration = Duration::from_millis(10);
    const MS_20: Duration = Duration::from_millis(20);

    fn found(blocked: bool, waited: u64) -> Found {
        let ladder = Region::FAIL | Region::UNWIND | Region::ABANDON;
        Found {
            region: Region::IDLE.entered(Kind::Foreign, ladder),
            blocked,
            waited: MS(waited),
            unwind_was_last: false,
        }
    }

    /// Shows protocol::ladder I4.
    #[test]
    fn a_blocked_thread_climbs_from_fail_to_unwind() {
        let step = |waited| BOTH.step(found(true, waited));
        assert_eq!(
            (step(0), step(9), step(10), step(25)),
            (Step::Fail, Step::Fail, Step::Unwind, Step::Unwind)
        );
        let refused = Found {
            unwind_was_last: true,
            ..found(true, 25)
        };
        assert_eq!(BOTH.step(refused), Step::Abandon);
        let early = Found {
            waited: MS(15),
            ..refused
        };
        assert_eq!(BOTH.step(early), Step::Unwind);
    }

    #[test]
    fn a_running_thread_gets_no_signal_before_its_abandon_is_due() {
        let step = |waited| BOTH.step(found(false, waited));
        assert_eq!(
            (step(0), step(15), step(20)),
            (Step::Nothing, Step::Nothing, Step::Abandon)
        );
    }

    /// Shows protocol::ladder I2.
    #[test]
    fn masked_threads_are_unwound_from_blocked_calls_and_never_abandoned() {
        for blocked in [true, false] {
            let mut found = found(blocked, 100);
            found.region = found.region.with_mask(Level::Masked, false);
            let expected = if blocked { Step::Unwind } else { Step::Nothing };
            assert_eq!(BOTH.step(found), expected);
        }
    }

    #[test]
    fn rungs_that_the_region_does_not_allow_are_never_due() {
        let mut found = found(true, 1000);
        found.region = Region::IDLE.entered(Kind::Foreign, 0);
        assert_eq!(BOTH.step(found), Step::Nudge);
        assert_eq!(BOTH.next(found.region, MS(0)), None);
        assert_eq!(Times::default().step(self::found(true, 1000)), Step::Fail);
    }

    /// Shows protocol::ladder I3.
    #[test]
    fn a_forced_rung_is_due_from_its_time_on() {
        let region = found(true, 0).region;
        let due = |times: Times, waited| times.forced_is_due(region, MS(waited));
        assert_eq!((due(BOTH, 9), due(BOTH, 10), due(BOTH, 30)), (false, true, true));
        assert!(!due(Times::default(), 1000));
        assert!(!BOTH.forced_is_due(region.without(Region::FORCED), MS(1000)));
    }

    #[test]
    fn the_next_rung_is_the_earliest_to_come() {
        let region = found(true, 0).region;
        let next = |waited| BOTH.next(region, MS(waited));
        assert_eq!(
            (next(0), next(4), next(10), next(15), next(20)),
            (Some(MS(10)), Some(MS(6)), Some(MS(10)), Some(MS(5)), None)
        );
    }
}
