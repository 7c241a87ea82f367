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

/// Keeps a record in its generation. A look keeps its region's frame in place too. See I3, I4.
#[must_use]
pub(crate) struct Pin<'a> {
    record: &'a Record,
    /// `PIN`, `PIN` and `SENDING`, or `LOOK`.
    unit: u64,
}

impl<'a> Pin<'a> {
    pub(crate) fn record(&self) -> &'a Record {
        self.record
    }

    /// For one that was taken to nudge: who the signal is from. The turn is ours until this pin is released.
    pub(crate) fn sender(&self) -> Sender {
        Sender::Raiser {
            turn: self.record.attention().has(Attention::TURN),
        }
    }

    pub(crate) fn release(self) -> AfterUnpin {
        let Self { record, unit } = self;
        std::mem::forget(self);
        let before = Attention(record.attention.fetch_sub(unit, Ordering::Release));
        let last = before.0 & count_of(unit) == unit & count_of(unit);
        // Whoever waits for a signal to be sent waits for no other pin.
        let sent = unit & Attention::SENDING != 0;
        if (last || sent) && before.has(Attention::AWAITED) {
            AfterUnpin::Wake
        } else {
            AfterUnpin::Nothing
        }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.record.attention.fetch_sub(self.unit, Ordering::Release);
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
        self.hold(generation, Attention::PIN, 0)
    }

    /// As [`Record::pin`], and keeps the frame that is seen after a full fence. `None` for too many lookers too.
    pub(crate) fn look(&self, generation: u32) -> Option<Pin<'_>> {
        self.hold(generation, Attention::LOOK, 0)
    }

    /// As [`Record::pin`], to send a nudge under it. `None` too if one is under way that has not arrived: its arrival,
    /// later in the word's order than this look at it, serves every raise that was there before. And `None` if another
    /// raiser has yet to unpin, whose signal may have arrived: the driver must look.
    pub(crate) fn pin_to_nudge(&self, generation: u32) -> Option<Pin<'_>> {
        self.hold(generation, Attention::PIN | Attention::SENDING, Attention::NUDGE)
    }

    /// Adds `unit` and sets the bits `mark`, none of which may be set yet. With a mark the turn changes.
    fn hold(&self, generation: u32, unit: u64, mark: u64) -> Option<Pin<'_>> {
        let once = mark | unit & Attention::SENDING;
        let turn = if mark == 0 { 0 } else { Attention::TURN };
        let mut word = self.attention();
        loop {
            let full = word.0 & count_of(unit) == count_of(unit);
            if word.generation() != generation || word.has(Attention::EXITING | once) || full {
                return None;
            }
            let pinned = ((word.0 | mark) ^ turn) + unit;
            match self
                .attention
                .compare_exchange_weak(word.0, pinned, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return Some(Pin { record: self, unit }),
                Err(now) => word = Attention(now),
            }
        }
    }
}
