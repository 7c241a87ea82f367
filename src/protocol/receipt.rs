//! The fate of one raised exception, shared by the raiser's receipt and the target's slot.
//!
//! Owns: the receipt's state word and its transitions. Leaves to the face: waiting on it.
//! Anyone may call, on any thread; nothing blocks or allocates.
//!
//! **Signal context:** no need; nothing here would forbid it.
//!
//! ```text
//!               (1) deliver            (2) catch
//!   Pending ---------------> Delivered ---------> Caught
//!      |  (3) settle
//!      +-----------> Superseded | Revoked | TargetEnded
//! ```
//!
//! - I1. A cell leaves `Pending` once: only who took its entry out of the slot, under the slot's lock, may move it.
//! - I2. `Caught`, `Superseded`, `Revoked` and `TargetEnded` are final.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `advance` Release | `state` Acquire | who reads a final state sees what the target did before |

use crate::sync_shim::{AtomicU32, Ordering, const_constructor};

/// What has become of a raised exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReceiptState {
    /// It waits in the target's slot.
    Pending,
    /// The target has been raised into and still holds the exception.
    Delivered,
    /// The target is done with it: it dropped the [`Raised`](crate::Raised), took its value out, or ended with it.
    Caught,
    /// A later raise of the same type, or a [`set_async_exc`](crate::set_async_exc), took its place.
    Superseded,
    /// [`Receipt::revoke`](crate::Receipt::revoke) took it back.
    Revoked,
    /// The target ended before it could be delivered: the thread, or the [scope](crate::scope) that it was addressed to.
    TargetEnded,
}

impl ReceiptState {
    const ALL: [Self; 6] = [
        Self::Pending,
        Self::Delivered,
        Self::Caught,
        Self::Superseded,
        Self::Revoked,
        Self::TargetEnded,
    ];

    /// Whether no further change will come.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Delivered)
    }
}

/// The state word of one receipt; waited on by address.
#[derive(Debug)]
pub(crate) struct ReceiptCell {
    state: AtomicU32,
}

/// What the caller must do after a transition, once it holds no lock.
#[must_use = "a waiter sleeps until it is woken"]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterSettle {
    Nothing,
    /// Somebody waits on the word: wake all.
    Wake,
}

impl ReceiptCell {
    /// Somebody sleeps on the word.
    const WAITED: u32 = 1 << 8;

    const_constructor! {
        pub(crate) fn new() -> Self { Self { state: AtomicU32::new(0) } }
    }

    pub(crate) fn state(&self) -> ReceiptState {
        Self::decode(self.state.load(Ordering::Acquire))
    }

    fn decode(word: u32) -> ReceiptState {
        ReceiptState::ALL[(word & 0xFF) as usize]
    }

    /// Moves to `next` if the diagram has that arrow from the present state, else does nothing.
    #[inline]
    pub(crate) fn advance(&self, next: ReceiptState) -> AfterSettle {
        let from = match next {
            ReceiptState::Pending => return AfterSettle::Nothing,
            ReceiptState::Caught => ReceiptState::Delivered,
            _ => ReceiptState::Pending,
        };
        let mut word = self.state.load(Ordering::Relaxed);
        while Self::decode(word) == from {
            match self
                .state
                .compare_exchange_weak(word, next as u32, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(old) if old & Self::WAITED != 0 => return AfterSettle::Wake,
                Ok(_) => return AfterSettle::Nothing,
                Err(now) => word = now,
            }
        }
        AfterSettle::Nothing
    }

    /// Arrow (1), for who has taken the entry out of the slot (I1): in one step, since only a waiter can change the word meanwhile.
    #[inline(always)]
    pub(crate) fn deliver(&self) -> AfterSettle {
        const STEP: u32 = ReceiptState::Delivered as u32 - ReceiptState::Pending as u32;
        let old = self.state.fetch_add(STEP, Ordering::AcqRel);
        debug_assert_eq!(Self::decode(old), ReceiptState::Pending);
        if old & Self::WAITED != 0 {
            AfterSettle::Wake
        } else {
            AfterSettle::Nothing
        }
    }

    /// Announces a waiter. `Err` holds the word to sleep on; `Ok` a final state, with nothing to wait for.
    pub(crate) fn prepare_wait(&self) -> Result<ReceiptState, u32> {
        let word = self.state.fetch_or(Self::WAITED, Ordering::AcqRel) | Self::WAITED;
        let state = Self::decode(word);
        if state.is_final() { Ok(state) } else { Err(word) }
    }

    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.state
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Shows protocol::receipt I1, I2.
    #[test]
    fn only_the_arrows_of_the_diagram_exist() {
        use ReceiptState::*;
        let arrows = [
            (Pending, Delivered),
            (Delivered, Caught),
            (Pending, Superseded),
            (Pending, Revoked),
            (Pending, TargetEnded),
        ];
        for from in ReceiptState::ALL {
            for to in ReceiptState::ALL {
                let cell = ReceiptCell {
                    state: AtomicU32::new(from as u32),
                };
                let _ = cell.advance(to);
                let moved = arrows.contains(&(from, to));
                assert_eq!(cell.state(), if moved { to } else { from }, "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn a_waiter_is_always_told() {
        let cell = ReceiptCell::new();
        assert!(cell.prepare_wait().is_err());
        assert_eq!(cell.advance(ReceiptState::Delivered), AfterSettle::Wake);
        assert!(cell.prepare_wait().is_err());
        assert_eq!(cell.advance(ReceiptState::Caught), AfterSettle::Wake);
        assert_eq!(cell.prepare_wait(), Ok(ReceiptState::Caught));
    }
}
