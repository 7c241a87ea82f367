//! Pins: keeping a record in its generation, and its region's frame in place, while somebody looks.
//!
//! Owns: taking and dropping a pin. Leaves to [`super::owner`] waiting for pins, to [`super::record`] the invariants that
//! rest on them (I3, I4 there), to the face waking the owner when [`Pin::release`] asks for it.
//! Anyone may call, on any thread; nothing blocks or allocates.
//!
//! **Signal context:** no need; nothing here would forbid it.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | pin SeqCst | owner's attention load in `leave` | with the looker's full fence after it: I4 of `record` |
//! | unpin Release | `await_pins` RMW and `leave`'s load, Acquire | the looker is done with the frame |

use super::record::Record;
use super::word::Attention;
use crate::sync_shim::Ordering;

/// What dropping a pin asks of the holder.
#[must_use = "the owner may wait for the last pin"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterUnpin {
    Nothing,
    Wake,
}

/// Keeps a record in its generation, and its region's frame in place. See I3, I4.
#[must_use]
pub(crate) struct Pin<'a> {
    record: &'a Record,
}

impl<'a> Pin<'a> {
    pub(crate) fn record(&self) -> &'a Record {
        self.record
    }

    pub(crate) fn release(self) -> AfterUnpin {
        let record = self.record;
        std::mem::forget(self);
        let before = Attention(record.attention.fetch_sub(Attention::PIN, Ordering::Release));
        let last = before.0 & Attention::PINS == Attention::PIN;
        if last && before.has(Attention::AWAITED) {
            AfterUnpin::Wake
        } else {
            AfterUnpin::Nothing
        }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.record.attention.fetch_sub(Attention::PIN, Ordering::Release);
    }
}

impl Record {
    /// Keeps the record in `generation`, or says that it is over or ending.
    pub(crate) fn pin(&self, generation: u32) -> Option<Pin<'_>> {
        let mut word = self.attention();
        loop {
            let full = word.0 & Attention::PINS == Attention::PINS;
            if word.generation() != generation || word.has(Attention::EXITING) || full {
                return None;
            }
            let pinned = word.0 + Attention::PIN;
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
