//! The two packed words of a record: what raisers write ([`Attention`]) and what the owner writes ([`Region`]).
//!
//! Owns: the meaning of every bit. Leaves to [`super::record`]: who changes which bit, and with which ordering.
//! Pure values: anyone may call, nothing blocks or allocates.
//!
//! **Signal context:** yes, plain arithmetic.
//!
//! ```text
//! attention  63 ... 32 | 31 .. 24 | 23 .. 12 | 11   10      9     8        7       6        5        4        3       2     1       0
//!            generation| looks    | pins     | TURN SENDING NUDGE REQUEUED AWAITED UNPARKED NOTIFIED ENLISTED EXITING SCOPE STOPPED PENDING
//! region     63 ....... 10 | 9        8        7       6        5        4        3     2       1     0
//!            -             | SHIELDED FRAMED   ABANDON UNWIND   HOOK     FAIL     [level]       [kind]
//! ```
//!
//! The low half of the attention word is the futex word of every wait in this crate.

use super::deadline::NEVER;

/// A copy of an attention word: what raisers have told this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attention(pub(crate) u64);

impl Attention {
    /// The slot holds at least one exception. Set and cleared under the slot's lock.
    pub(crate) const PENDING: u64 = 1 << 0;
    /// `StoppableThread::stop` was called: every safepoint raises `Stop` until the thread ends.
    pub(crate) const STOPPED: u64 = 1 << 1;
    /// A scope of this thread is cancelled and wants every safepoint inside it to raise. Changes under the slot's lock.
    pub(crate) const SCOPE: u64 = 1 << 2;
    /// The thread is in its exit path: no new pins.
    pub(crate) const EXITING: u64 = 1 << 3;
    /// The driver has a note about this record that it has not looked at yet.
    pub(crate) const ENLISTED: u64 = 1 << 4;
    /// A wait queue of ours has woken this thread, or a raise that found another pending. Cleared by the owner before it tests its
    /// condition.
    pub(crate) const NOTIFIED: u64 = 1 << 5;
    /// The token of `park`/`unpark`.
    pub(crate) const UNPARKED: u64 = 1 << 6;
    /// The owner sleeps until the pins are gone: the last one wakes it.
    pub(crate) const AWAITED: u64 = 1 << 7;
    /// Set by the handler, on its own thread: it has blocked our signal to outlast another handler, and whoever leaves
    /// the window must unblock it. The window refuses to start a call while it is set.
    pub(crate) const REQUEUED: u64 = 1 << 8;
    /// What a safepoint looks at.
    pub(crate) const CALLS: u64 = Self::PENDING | Self::STOPPED | Self::SCOPE;

    /// A raiser sends a nudge, or has sent one that has not arrived. Set together with its pin, cleared by the handler.
    pub(crate) const NUDGE: u64 = 1 << 9;
    /// A raiser has decided on a nudge and has not said yet that it is sent. Part of its pin; one raiser at a time.
    pub(crate) const SENDING: u64 = 1 << 10;
    /// Changes with each such decision, and travels with the signal, which so tells its arrival from any other's.
    pub(crate) const TURN: u64 = 1 << 11;

    /// Holds the generation.
    pub(crate) const PIN: u64 = 1 << 12;
    pub(crate) const PINS: u64 = 0x00FF_F000;
    /// Holds the generation and the region's frame.
    pub(crate) const LOOK: u64 = 1 << 24;
    pub(crate) const LOOKS: u64 = 0xFF00_0000;

    /// The word of a record that nobody has raised into, in its `generation`.
    pub(crate) const fn idle(generation: u32) -> Self {
        Self((generation as u64) << 32)
    }

    pub(crate) const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether a safepoint has something to look at.
    pub(crate) const fn calls(self) -> bool {
        self.0 & Self::CALLS != 0
    }

    pub(crate) const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Whether the generation is held.
    pub(crate) const fn pinned(self) -> bool {
        self.has(Self::PINS | Self::LOOKS)
    }

    /// Whether the region must not end yet: somebody looks at its frame, or is about to send a signal that is meant for
    /// it. A raiser whose signal has arrived holds nothing up, even if it has not come to its unpin: it may well wait for
    /// the very processor that its target runs on.
    pub(crate) const fn held(self) -> bool {
        self.has(Self::LOOKS) || self.nudge_to_come()
    }

    /// Whether somebody looks at the region's frame.
    pub(crate) const fn looked_at(self) -> bool {
        self.has(Self::LOOKS)
    }

    /// Whether a raiser is between deciding on a signal and having sent it.
    pub(crate) const fn nudge_to_come(self) -> bool {
        self.has(Self::NUDGE) && self.has(Self::SENDING)
    }

    /// The word when a signal has arrived. A raiser's own settles its nudge. So does any other once the raiser has sent
    /// its own: the kernel keeps one of two signals of one number. Before that its own is still to come.
    pub(crate) const fn heard(self, from: Sender) -> Self {
        let own = match from {
            Sender::Raiser { turn } => turn == self.has(Self::TURN),
            Sender::Other => false,
        };
        if own || !self.has(Self::SENDING) {
            Self(self.0 & !Self::NUDGE)
        } else {
            self
        }
    }

    /// The half that a futex compares.
    pub(crate) const fn futex(self) -> u32 {
        self.0 as u32
    }
}

/// Who sent a nudge, as the signal itself tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A raiser, in its [`Attention::TURN`].
    Raiser { turn: bool },
    /// The driver, the handler, or somebody who is not named.
    Other,
}

impl Sender {
    /// As bits 1 and 2 of the signal's value.
    pub(crate) const fn bits(self) -> usize {
        match self {
            Self::Raiser { turn: true } => 0b110,
            Self::Raiser { turn: false } => 0b010,
            Self::Other => 0,
        }
    }

    pub(crate) const fn of_bits(bits: usize) -> Self {
        if bits & 0b010 == 0 {
            return Self::Other;
        }
        Self::Raiser {
            turn: bits & 0b100 != 0,
        }
    }
}

/// What the owner is doing, as far as a raiser must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Running Rust code: it meets the attention word by itself.
    Running,
    /// Waiting on its own attention word: wake the futex.
    Waiting,
    /// Between the check and the result of a system call of ours: nudge.
    Window,
    /// In somebody else's code: nudge, and climb the ladder that the region's bits allow.
    Foreign,
}

/// How much the owner wants to be left alone. Ordered: a nested mask never weakens an outer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Unmasked,
    /// Deferred at safepoints, deliverable when the thread would really block.
    Masked,
    /// Deferred everywhere.
    Uninterruptible,
}

/// Whether the thread has come to a point where it would really block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Running,
    Blocking,
}

/// Whether the masks and the shield in force let an exception out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// A shield holds until then; nothing else does.
    OpensAt(u64),
    /// Until the owner changes its mask.
    Shut,
}

/// A copy of a region word: what the owner has told its raisers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region(pub(crate) u64);

impl Region {
    pub(crate) const FAIL: u64 = 1 << 4;
    pub(crate) const HOOK: u64 = 1 << 5;
    pub(crate) const UNWIND: u64 = 1 << 6;
    pub(crate) const ABANDON: u64 = 1 << 7;
    /// The two rungs that leave frames behind.
    pub(crate) const FORCED: u64 = Self::UNWIND | Self::ABANDON;
    pub(crate) const FRAMED: u64 = 1 << 8;
    /// Deferred everywhere until the shield's deadline; from then on the level alone counts.
    pub(crate) const SHIELDED: u64 = 1 << 9;
    const KIND: u64 = 0b11;
    const LEVEL: u64 = 0b1100;
    const LADDER: u64 = 0x1F0;

    /// Running, unmasked.
    pub(crate) const IDLE: Self = Self(0);

    pub(crate) const fn kind(self) -> Kind {
        match self.0 & Self::KIND {
            0 => Kind::Running,
            1 => Kind::Waiting,
            2 => Kind::Window,
            _ => Kind::Foreign,
        }
    }

    pub(crate) const fn level(self) -> Level {
        match (self.0 & Self::LEVEL) >> 2 {
            0 => Level::Unmasked,
            1 => Level::Masked,
            _ => Level::Uninterruptible,
        }
    }

    pub(crate) const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// The word for a region of `kind` with these ladder bits, entered from here. The mask level stays. To leave it,
    /// this word is put back.
    #[inline(always)]
    pub(crate) const fn entered(self, kind: Kind, ladder: u64) -> Self {
        Self(self.0 & !(Self::KIND | Self::LADDER) | kind as u64 | ladder)
    }

    /// Whether an exception may come out at this moment. The clock is read at most once, and under a shield only.
    #[inline]
    pub(crate) fn gate(self, moment: Moment, shield_until: u64, now: impl FnOnce() -> u64) -> Gate {
        let masked = match self.level() {
            Level::Unmasked => false,
            Level::Masked => moment == Moment::Running,
            Level::Uninterruptible => true,
        };
        if masked {
            Gate::Shut
        } else if !self.has(Self::SHIELDED) {
            Gate::Open
        } else if shield_until == NEVER {
            Gate::Shut
        } else if now() < shield_until {
            Gate::OpensAt(shield_until)
        } else {
            Gate::Open
        }
    }

    /// The same region without these rungs.
    pub(crate) const fn without(self, rungs: u64) -> Self {
        Self(self.0 & !rungs)
    }

    #[inline(always)]
    pub(crate) const fn with_mask(self, level: Level, shielded: bool) -> Self {
        let shield = if shielded { Self::SHIELDED } else { 0 };
        Self(self.0 & !(Self::LEVEL | Self::SHIELDED) | (level as u64) << 2 | shield)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 4] = [Kind::Running, Kind::Waiting, Kind::Window, Kind::Foreign];
    const LEVELS: [Level; 3] = [Level::Unmasked, Level::Masked, Level::Uninterruptible];

    #[test]
    fn every_kind_and_level_survives_the_packing() {
        for kind in KINDS {
            for (level, shielded) in LEVELS.into_iter().flat_map(|l| [(l, false), (l, true)]) {
                for ladder in [0, Region::FAIL, Region::HOOK | Region::FRAMED] {
                    let region = Region::IDLE.with_mask(level, shielded).entered(kind, ladder);
                    assert_eq!((region.kind(), region.level()), (kind, level));
                    assert_eq!(region.has(Region::SHIELDED), shielded);
                    assert_eq!(region.0 & Region::LADDER, ladder);
                    assert_eq!(region.with_mask(Level::Unmasked, false).level(), Level::Unmasked);
                }
            }
        }
    }

    #[test]
    fn an_inner_region_has_its_own_kind_and_rungs_and_the_outer_level() {
        let outer = Region::IDLE
            .with_mask(Level::Masked, true)
            .entered(Kind::Foreign, Region::FAIL);
        let inner = outer.entered(Kind::Window, 0);
        let seen = (inner.kind(), inner.level(), inner.0 & Region::LADDER);
        assert_eq!(seen, (Kind::Window, Level::Masked, 0));
    }

    #[test]
    fn masks_shut_the_gate_and_a_shield_does_until_its_end() {
        let (blocking, running) = (Moment::Blocking, Moment::Running);
        for (level, moment, shut) in [
            (Level::Unmasked, running, false),
            (Level::Unmasked, blocking, false),
            (Level::Masked, running, true),
            (Level::Masked, blocking, false),
            (Level::Uninterruptible, running, true),
            (Level::Uninterruptible, blocking, true),
        ] {
            let bare = Region::IDLE.with_mask(level, false);
            let shielded = Region::IDLE.with_mask(level, true);
            let expected = |gate| if shut { Gate::Shut } else { gate };
            assert_eq!(bare.gate(moment, 9, || unreachable!()), expected(Gate::Open));
            for (now, gate) in [(8, Gate::OpensAt(9)), (9, Gate::Open), (10, Gate::Open)] {
                assert_eq!(
                    shielded.gate(moment, 9, || now),
                    expected(gate),
                    "{level:?} {moment:?} {now}"
                );
            }
            assert_eq!(shielded.gate(moment, NEVER, || 8), Gate::Shut);
        }
    }

    #[test]
    fn pins_touch_neither_the_calls_nor_the_generation() {
        let idle = Attention::idle(7);
        let pinned = Attention(idle.0 + 3 * Attention::PIN);
        assert!(pinned.pinned() && !pinned.calls() && pinned.generation() == 7);
        let full = Attention(idle.0 | Attention::PINS | Attention::LOOKS);
        assert_eq!((full.generation(), full.calls()), (7, false));
    }

    #[test]
    fn a_region_is_held_by_lookers_and_by_nudges_under_way() {
        let with = |bits| Attention(Attention::idle(7).0 | bits);
        let (nudge, pin, look) = (Attention::NUDGE, Attention::PIN, Attention::LOOK);
        let sending = pin | Attention::SENDING;
        for (bits, held) in [
            (0, false),
            (pin, false),
            (nudge, false),
            (pin | nudge, false),
            (sending, false),
            (sending | nudge, true),
            (look, true),
        ] {
            assert_eq!(with(bits).held(), held, "{bits:#x}");
        }
    }

    #[test]
    fn a_signal_settles_the_nudge_that_it_brings_or_that_it_has_swallowed() {
        let (own, other) = (Sender::Raiser { turn: true }, Sender::Raiser { turn: false });
        let (nudge, sending) = (Attention::NUDGE, Attention::SENDING);
        for (bits, from, settled) in [
            (sending, own, true),
            (sending, other, false),
            (sending, Sender::Other, false),
            (0, own, true),
            (0, other, true),
            (0, Sender::Other, true),
        ] {
            let word = Attention(Attention::idle(7).0 | nudge | Attention::TURN | bits);
            let heard = word.heard(from);
            assert_eq!(heard.has(nudge), !settled, "{bits:#x} {from:?}");
            assert_eq!(heard.0 | nudge, word.0, "nothing else changes");
        }
        for from in [own, other, Sender::Other] {
            assert_eq!(Sender::of_bits(from.bits() | 0b1001), from);
        }
    }
}
