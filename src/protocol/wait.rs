//! Waits: what an owner that waits on its attention word does next.
//!
//! Owns: the order in which a wait looks at its notice, its condition, its deadline and its raises. Leaves to the face doing the
//! step: sleeping on the word, leaving the region, taking the exception; to [`super::owner`] the region around the wait.
//! The owner calls it, inside a `Waiting` region that was entered with a full fence. Nothing blocks but the condition given.
//!
//! **Signal context:** no.
//!
//! One look, from which there are four ways on:
//!
//! ```text
//!   (1) clear NOTIFIED, read the word
//!   (2) the condition ------------------------------> Ready
//!   (3) the deadline -------------------------------> TimedOut
//!   (4) a call in the word, and the gate is open ---> Raise
//!   (5) else ---------------------------------------> Sleep on the word of (1), and look again
//! ```
//!
//! - I1. *No lost wake-up.* Who makes the condition true then sets a bit of the word, either `NOTIFIED` or one that the condition
//!   itself clears, and wakes the word; who raises sets a bit and wakes it (I1 of [`super::record`]). Before (1) the bit is
//!   seen in (2) or (4); after it the word is another, and the futex does not sleep. Read in (5), the word would have a
//!   token that came in between, and the wait would sleep on it. The condition must not wait on this word itself.
//! - I2. *Results win.* What is ready is not raised into, and what is over would not block.
//! - I3. Nothing that a shield holds back waits beyond it: with a call in the word the sleep ends with the shield. Both come from one
//!   reading of the clock: between two, the shield could end, and neither count as held nor as open.

use super::owner::Owner;
use super::word::{Attention, Gate, Moment};

/// What a raise does to a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raises {
    /// It ends the wait.
    End,
    /// It stays pending: for waits that must not be left, such as taking a mutex back after a condition wait.
    Stay,
    /// It makes the wait `Ready` and stays pending, for the caller to take.
    Show,
}

/// What a wait does next.
#[must_use = "the wait is not over before it says so"]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// Leave the region: the condition holds.
    Ready,
    /// Leave the region: the time is over.
    TimedOut,
    /// Leave the region, then raise. What was there may have been taken back meanwhile: then the wait begins anew.
    Raise,
    /// Sleep while this is the word, no longer than until then, and look again.
    Sleep { word: Attention, until: Option<u64> },
}

impl Owner {
    /// One look. `now` is the platform's clock. After a wake any time before that will do: who was woken was not late.
    #[inline]
    pub(crate) fn next_step(
        self,
        deadline: Option<u64>,
        raises: Raises,
        ready: impl FnOnce() -> bool,
        now: impl Fn() -> u64,
    ) -> NextStep {
        let word = self.take_notice();
        if ready() {
            return NextStep::Ready;
        }
        if deadline.is_some_and(|at| now() >= at) {
            return NextStep::TimedOut;
        }
        let mut until = deadline;
        if word.calls() && raises != Raises::Stay {
            match self.gate(Moment::Blocking, &now) {
                Gate::Open if self.within_reach() => return NextStep::Raise,
                Gate::Open => until = sooner(until, now() + LOOK_AGAIN),
                Gate::OpensAt(end) => until = sooner(until, end),
                Gate::Shut => {}
            }
        }
        NextStep::Sleep { word, until }
    }
}

fn sooner(until: Option<u64>, at: u64) -> Option<u64> {
    Some(until.map_or(at, |until| until.min(at)))
}

/// When a wait in a signal handler of the program, on top of this thread's own work in the slot, looks again whether what calls is
/// within reach: in nanoseconds.
const LOOK_AGAIN: u64 = 10_000_000;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;

    use super::super::deadline::NEVER;
    use super::super::record::{Fences, Record};
    use super::super::word::Level;
    use super::*;

    const ALL: [Raises; 3] = [Raises::End, Raises::Stay, Raises::Show];

    /// The owner of a new record with a call in its word, or without.
    fn owner(called: bool) -> Owner {
        let record: &'static Record = Box::leak(Box::new(Record::new(0)));
        record.open(1);
        if called {
            let _it_runs = record.stop(1, Fences::Full);
        }
        Owner::of(record)
    }

    /// Shows protocol::wait I2.
    #[test]
    fn what_is_ready_or_over_is_not_raised_into() {
        for called in [false, true] {
            for raises in ALL {
                let owner = owner(called);
                let step = |deadline, ready| owner.next_step(deadline, raises, || ready, || 5);
                for deadline in [None, Some(4), Some(5), Some(6)] {
                    assert!(matches!(step(deadline, true), NextStep::Ready));
                }
                for over in [Some(4), Some(5)] {
                    assert!(matches!(step(over, false), NextStep::TimedOut));
                }
                for to_come in [None, Some(6)] {
                    match step(to_come, false) {
                        NextStep::Raise => assert!(called && raises != Raises::Stay),
                        NextStep::Sleep { until, .. } => {
                            assert!(until == to_come && !(called && raises != Raises::Stay));
                        }
                        _ => panic!("neither ready nor over"),
                    }
                }
            }
        }
    }

    /// Shows protocol::wait I3.
    #[test]
    fn a_shield_that_ends_while_it_is_looked_at_is_not_slept_beyond() {
        const END: u64 = 100;
        let owner = owner(true);
        owner.set_shield(END);
        owner.set_mask(Level::Masked, true);
        for begin in END - 4..END + 2 {
            let clock = Cell::new(begin);
            // Every reading takes its time.
            let now = || clock.replace(clock.get() + 1);
            for deadline in [None, Some(END + 50)] {
                match owner.next_step(deadline, Raises::End, || false, now) {
                    NextStep::Raise => assert!(clock.get() > END),
                    NextStep::Sleep { until, .. } => assert_eq!(until, Some(END), "from {begin}"),
                    _ => panic!("neither ready nor over"),
                }
                clock.set(begin);
            }
        }
        // It ends nothing that a raise does not end, and one without an end ends nothing.
        let held = |raises| owner.next_step(None, raises, || false, || END - 1);
        assert!(matches!(held(Raises::Stay), NextStep::Sleep { until: None, .. }));
        owner.set_shield(NEVER);
        assert!(matches!(held(Raises::End), NextStep::Sleep { until: None, .. }));
    }

    #[test]
    fn the_word_to_sleep_on_is_the_word_before_the_condition_was_looked_at() {
        let owner = owner(false);
        owner.record().notify(Attention::NOTIFIED);
        let bits = [Attention::NOTIFIED, Attention::UNPARKED, Attention::STOPPED];
        for bit in bits {
            let step = owner.next_step(
                None,
                Raises::End,
                || {
                    owner.record().notify(bit);
                    false
                },
                || 0,
            );
            let NextStep::Sleep { word, .. } = step else {
                panic!("nothing is ready");
            };
            assert!(!word.has(bit), "slept on, it would not be heard");
            assert!(owner.consume(bit));
        }
    }
}
