//! Pins: keeping a record in its generation while somebody works with it, and its region's frame in place while somebody
//! looks at it.
//!
//! Owns: taking and dropping a pin. Leaves to [`super::owner`] waiting for pins, to [`super::record`] the invariants that
//! rest on them (I3, I4 there), to the face waking the owner when [`Pin::release`] asks for it.
//! Anyone may call, on any thread; nothing blocks or allocates.
//!
//! **Signal context:** no need; nothing here would forbid it.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | look SeqCst | owner's attention load in `leave` | with the looker's full fence after it: I4 of `record` |
//! | unpin Release | `await_looks` and `await_pins` RMW and `leave`'s load, Acquire | the looker is done with the frame |

use super::record::Record;
use super::word::{Attention, Sender};
use crate::sync_shim::Ordering;

/// What dropping a pin asks of the holder.
#[must_use = "the owner may wait for the last pin"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterUnpin {
    Nothing,
    Wake,
}

/// Keeps a record in its generation, by counting one `UNIT` more in its word. See I3.
#[must_use]
pub(crate) struct Pin<'a, const UNIT: u64 = { Attention::PIN }> {
    record: &'a Record,
}

/// Keeps the record's region's frame in place too. See I4.
pub(crate) type Look<'a> = Pin<'a, { Attention::LOOK }>;

/// For who sends a signal to the record's thread. See I6.
pub(crate) type NudgePin<'a> = Pin<'a, { Attention::PIN | Attention::SENDING }>;

impl<'a, const UNIT: u64> Pin<'a, UNIT> {
    pub(crate) fn record(&self) -> &'a Record {
        self.record
    }

    pub(crate) fn release(self) -> AfterUnpin {
        let record = self.record;
        std::mem::forget(self);
        let before = Attention(record.attention.fetch_sub(UNIT, Ordering::Release));
        let last = before.0 & count_of(UNIT) == UNIT & count_of(UNIT);
        // Whoever waits for a signal to be sent waits for no other pin.
        let sent = UNIT & Attention::SENDING != 0;
        if (last || sent) && before.has(Attention::AWAITED) {
            AfterUnpin::Wake
        } else {
            AfterUnpin::Nothing
        }
    }
}

impl<'a> NudgePin<'a> {
    /// Leaves the pin to [`NudgePin::begun`].
    pub(super) fn begin(self) {
        std::mem::forget(self);
    }

    /// The pin that [`NudgePin::begin`] has left.
    #[inline(always)]
    pub(super) fn begun(record: &'a Record) -> Self {
        Self { record }
    }

    /// Who the signal is from. The turn is ours until this pin is released.
    pub(crate) fn sender(&self) -> Sender {
        Sender::Raiser {
            turn: self.record.attention().has(Attention::TURN),
        }
    }
}

impl<const UNIT: u64> Drop for Pin<'_, UNIT> {
    fn drop(&mut self) {
        self.record.attention.fetch_sub(UNIT, Ordering::Release);
    }
}

/// The bits in which pins of this unit are counted.
const fn count_of(unit: u64) -> u64 {
    if unit == Attention::LOOK {
        Attention::LOOKS
    } else {
        Attention::PINS
    }
}

impl Record {
    /// Keeps the record in `generation`, or says that it is over or ending.
    pub(crate) fn pin(&self, generation: u32) -> Option<Pin<'_>> {
        self.hold(generation, 0)
    }

    /// As [`Record::pin`], and keeps the frame that is seen after a full fence. `None` for too many lookers too.
    pub(crate) fn look(&self, generation: u32) -> Option<Look<'_>> {
        self.hold(generation, 0)
    }

    /// As [`Record::pin`], to send a nudge under it. `None` too if one is under way that has not arrived: its arrival,
    /// later in the word's order than this look at it, serves every raise that was there before. And `None` if another
    /// raiser has yet to unpin, whose signal may have arrived: the driver must look.
    pub(crate) fn pin_to_nudge(&self, generation: u32) -> Option<NudgePin<'_>> {
        self.hold(generation, Attention::NUDGE)
    }

    /// Adds `UNIT` and sets the bits `mark`, none of which may be set yet. With a mark the turn changes.
    fn hold<const UNIT: u64>(&self, generation: u32, mark: u64) -> Option<Pin<'_, UNIT>> {
        let once = mark | UNIT & Attention::SENDING;
        let turn = if mark == 0 { 0 } else { Attention::TURN };
        let mut word = self.attention();
        loop {
            let full = word.0 & count_of(UNIT) == count_of(UNIT);
            if word.generation() != generation || word.has(Attention::EXITING | once) || full {
                return None;
            }
            let pinned = ((word.0 | mark) ^ turn) + UNIT;
            match self
                .attention
                .compare_exchange_weak(word.0, pinned, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return Some(Pin { record: self }),
                Err(now) => word = Attention(now),
            }
        }
    }
}
