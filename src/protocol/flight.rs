//! In flight: the exceptions that were delivered to a record's owner and that it has not caught yet.
//!
//! Owns: the list of them. Leaves to `raised` when an exception is caught, to `attach` what becomes of those that are in flight
//! when their thread leaves. The owner calls, on its thread, or whoever makes it the owner; nothing blocks; a second exception in flight
//! allocates.
//!
//! **Signal context:** no need of a lock: each step is one exchange, so a handler of the program on top comes before it or after it, and finds
//! less than there is at worst. What allocates is as safe as the allocator.
//!
//! What is caught leaves the list when its [`Raised`](crate::Raised) is dropped, in the thread that it was delivered to; what is caught
//! elsewhere, with that thread's next one. So the cell of an exception is free for the next raise when the thread is done
//! with the exception, and a delivery looks at no cell but its own.

use super::entry::{Berth, ReceiptRef};
use super::pile::Pile;
use crate::sync_shim::const_constructor;

/// Exceptions in flight.
pub(crate) struct Flight {
    /// Empty if there are none.
    latest: Berth,
    others: Pile<ReceiptRef>,
}

impl Flight {
    const_constructor! {
        pub(super) fn new() -> Self { Self { latest: Berth::new(), others: Pile::new() } }
    }

    /// Remembers a delivered receipt until it is caught, or the thread leaves.
    #[inline(always)]
    pub(crate) fn note(&self, receipt: &ReceiptRef) {
        if let Some(before) = self.latest.exchange(Some(receipt.clone())) {
            self.add(before);
        }
    }

    #[cold]
    fn add(&self, receipt: ReceiptRef) {
        self.forget_caught();
        self.others.push(receipt);
    }

    #[cold]
    fn forget_caught(&self) {
        drop(self.others.take_if(|receipt| receipt.state().is_final()));
    }

    /// What has been caught leaves the list. The latest, if it is among that.
    pub(crate) fn take_caught(&self) -> Option<ReceiptRef> {
        if !self.others.is_empty() {
            self.forget_caught();
        }
        let latest = self.latest.exchange(None)?;
        if latest.state().is_final() {
            return Some(latest);
        }
        if let Some(newer) = self.latest.exchange(Some(latest)) {
            self.others.push(newer);
        }
        None
    }

    /// Those that are not caught.
    pub(crate) fn uncaught(&self) -> Vec<ReceiptRef> {
        let all = self.take();
        let uncaught = all.iter().filter(|receipt| !receipt.state().is_final());
        let uncaught: Vec<_> = uncaught.cloned().collect();
        all.into_iter().for_each(|receipt| self.others.push(receipt));
        uncaught
    }

    /// All of them, and some that are caught.
    pub(crate) fn take(&self) -> Vec<ReceiptRef> {
        let mut all = self.others.take();
        all.extend(self.latest.exchange(None));
        all
    }
}
