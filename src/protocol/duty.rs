//! Duties: what a raiser owes a target that it has called, and what the driver finds that a thread needs.
//!
//! Owns: step (4) of [`super::record`], in both their hands, and the notes that one leaves to the other. Leaves to the face doing what is
//! owed, to [`super::pin`] the signal's pin. Anyone may call, on any thread; nothing blocks or allocates.
//!
//! **Signal context:** no need; nothing here would forbid it.
//!
//! The invariants and the ordering pairs are those of [`super::record`].

use super::pin::NudgePin;
use super::record::{Fences, Record};
use super::word::{Attention, Gate, Kind, Level, Moment, Region};
use crate::sync_shim::{Ordering, load_after_rmw, on_top_of_a_duty};

/// What a raiser owes the target.
#[must_use = "the target may sleep until the duty is done"]
#[repr(u32)]
pub(crate) enum Duty<'a> {
    /// It meets the attention word by itself.
    Nothing,
    /// Wake the futex.
    Wake,
    /// Send the signal, then tell the driver.
    Nudge { tell: Tell, pin: NudgePin<'a> },
    /// It looked as if running or uninterruptible. Tell the driver, who looks again behind a membarrier.
    Verify,
    /// Shielded and blocked: tell the driver, who nudges when the shield expires.
    Later,
}

/// What the driver is told of a nudge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Tell {
    /// Nothing: a note is on its way.
    Nothing,
    /// That there was one.
    Nudged,
    /// That there is a ladder to climb too: it is woken from a doze for that, whatever note is on its way.
    Ladder,
}

/// A nudge, as far as [`Record::duty`] has brought it: a number, where a [`Duty`] is more.
#[must_use = "the pin is to be taken up"]
enum Begun {
    /// The target is pinned, for [`NudgePin::begun`].
    Pinned(Tell),
    Verify,
    Nothing,
}

/// What a thread needs of a looker.
#[must_use = "the target may sleep until it is done"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It meets the attention word by itself, or nothing can be delivered to it.
    Nothing,
    /// A wake of the futex.
    Wake,
    /// A look when its shield ends: it is blocked.
    Later(u64),
    /// To be got out of this region, by a signal or more.
    Break(Region),
}

impl Record {
    /// Step (4): what a raiser owes after its RMW, which found the word as `before`. Called under the slot's lock with
    /// the slot open, so that the generation holds (I3); or by [`Record::call`]: at worst a look too many.
    #[inline(always)]
    pub(super) fn duty(&self, before: Attention, generation: u32, fences: Fences) -> Duty<'_> {
        // Pairs with the fence in `Owner::enter` (I1).
        let region = Region(load_after_rmw(&self.region));
        match (region.kind(), region.level()) {
            // A note of before the RMW will do: `delist`, fence and look come later. Not so on top of who has yet to leave it.
            (Kind::Running, _) | (_, Level::Uninterruptible)
                if before.has(Attention::ENLISTED) && !on_top_of_a_duty() =>
            {
                Duty::Nothing
            }
            // A region that the raiser sees may be one that the owner has left long since, behind light fences: neither
            // "running" nor a mask is believed without a membarrier.
            (Kind::Running, _) | (_, Level::Uninterruptible) if fences == Fences::Light => {
                if self.enlist() {
                    Duty::Verify
                } else {
                    Duty::Nothing
                }
            }
            (Kind::Running, _) | (_, Level::Uninterruptible) => Duty::Nothing,
            _ if region.has(Region::SHIELDED) => {
                if self.enlist() {
                    Duty::Later
                } else {
                    Duty::Nothing
                }
            }
            (Kind::Waiting, _) => {
                if before.calls() {
                    // The RMW may have changed nothing that a sleeper would be kept awake by (I7).
                    self.notify(Attention::NOTIFIED);
                }
                Duty::Wake
            }
            (Kind::Window | Kind::Foreign, _) => match self.begin_nudge(region, generation) {
                Begun::Pinned(tell) => Duty::Nudge {
                    pin: NudgePin::begun(self),
                    tell,
                },
                Begun::Verify => Duty::Verify,
                Begun::Nothing => Duty::Nothing,
            },
        }
    }

    /// Towards who is in a system call, as far as one can see. Apart: beside what a signal costs, a call is nothing.
    #[inline(never)]
    fn begin_nudge(&self, region: Region, generation: u32) -> Begun {
        let enlist = self.enlist();
        // A note that is on its way already may be a lazy one, of a raise that a signal was enough for.
        let tell = if region.has(Region::FAIL | Region::HOOK | Region::UNWIND) {
            Tell::Ladder
        } else if enlist {
            Tell::Nudged
        } else {
            Tell::Nothing
        };
        match self.pin_to_nudge(generation) {
            Some(pin) => {
                pin.begin();
                Begun::Pinned(tell)
            }
            // One is under way. Should it be lost, the driver sends another.
            None if enlist => Begun::Verify,
            None => Begun::Nothing,
        }
    }

    /// Step (4) again, for the driver with a note: behind `delist` and a heavy fence.
    pub(crate) fn need(&self, now: impl FnOnce() -> u64) -> Need {
        if !self.attention().calls() {
            return Need::Nothing;
        }
        let region = self.region();
        let gate = region.gate(Moment::Blocking, self.shield_until(), now);
        match (gate, region.kind()) {
            (Gate::Shut, _) | (_, Kind::Running) => Need::Nothing,
            (Gate::OpensAt(end), _) => Need::Later(end),
            (Gate::Open, Kind::Waiting) => Need::Wake,
            (Gate::Open, Kind::Window | Kind::Foreign) => Need::Break(region),
        }
    }

    /// Notes that the driver shall look at this record. `true` if the caller must hand the note over, `false` if one
    /// is on its way already. A signal handler on top of who has announced one and not left
    /// it leaves another.
    #[must_use]
    pub(crate) fn enlist(&self) -> bool {
        let before = Attention(self.attention.fetch_or(Attention::ENLISTED, Ordering::SeqCst));
        !before.has(Attention::ENLISTED) || on_top_of_a_duty()
    }

    /// The driver's first step with a note: later raises will leave a new one. Whether anything still calls: what does not is
    /// over, since this step and every raise change one word.
    pub(crate) fn delist(&self) -> bool {
        Attention(self.attention.fetch_and(!Attention::ENLISTED, Ordering::SeqCst)).calls()
    }
}
