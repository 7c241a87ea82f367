//! In flight: the exceptions that were delivered to the calling thread and that it has not caught yet.
//!
//! Owns: the list of them. Leaves to `attach` where a thread's list begins and ends, to `raised` when an exception is caught.
//! Nothing blocks; a second exception in flight allocates.
//!
//! **Signal context:** no. In a handler of the program on top of a change, the list is left as it is.
//!
//! What is caught leaves the list when its [`Raised`](crate::Raised) is dropped, in the thread that it was delivered to; at the
//! latest with that thread's next delivery. So the cell of an exception is free for the next raise when the thread is done
//! with the exception, and a delivery looks at no cell but its own.

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use crate::current;
use crate::protocol::entry::ReceiptRef;

thread_local! {
    /// No destructor: the end of the membership takes what is in it, however late in the thread's end that comes.
    static LIST: ManuallyDrop<RefCell<List>> = const { ManuallyDrop::new(RefCell::new(List::new())) };
}

/// Exceptions in flight.
pub(crate) struct List {
    /// `None` if there are none.
    latest: Option<ReceiptRef>,
    others: Vec<ReceiptRef>,
}

impl List {
    pub(crate) const fn new() -> Self {
        Self {
            latest: None,
            others: Vec::new(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &ReceiptRef> {
        self.others.iter().chain(&self.latest)
    }

    #[cold]
    fn add(&mut self, receipt: ReceiptRef) {
        self.others.extend(self.latest.replace(receipt));
        self.others.retain(|receipt| !receipt.state().is_final());
    }

    /// The latest, if it has been caught.
    fn take_caught(&mut self) -> Option<ReceiptRef> {
        let caught = self.latest.take_if(|latest| latest.state().is_final())?;
        self.latest = self.others.pop();
        Some(caught)
    }
}

impl IntoIterator for List {
    type Item = ReceiptRef;
    type IntoIter = std::iter::Chain<std::vec::IntoIter<ReceiptRef>, std::option::IntoIter<ReceiptRef>>;

    fn into_iter(self) -> Self::IntoIter {
        self.others.into_iter().chain(self.latest)
    }
}

/// Remembers a delivered receipt until it is caught, or the thread ends.
#[inline]
pub(crate) fn note_delivered(receipt: &ReceiptRef) {
    LIST.with(|list| {
        if let Ok(mut list) = list.try_borrow_mut() {
            match &mut list.latest {
                none @ None => *none = Some(receipt.clone()),
                Some(_) => list.add(receipt.clone()),
            }
        }
    });
}

/// The exceptions that were delivered to the calling thread and that it has not caught yet.
pub(crate) fn in_flight() -> Vec<ReceiptRef> {
    LIST.with(|list| {
        let list = list.try_borrow();
        let receipts = list.iter().flat_map(|list| list.iter());
        receipts
            .filter(|receipt| !receipt.state().is_final())
            .cloned()
            .collect()
    })
}

/// Puts another list in the place of the thread's, which is returned.
pub(crate) fn exchange(other: List) -> List {
    LIST.with(|list| list.replace(other))
}

/// In a delivered exception, behind its entry: when this is dropped, what is caught leaves the list.
pub(crate) struct Landing;

impl Drop for Landing {
    #[inline]
    fn drop(&mut self) {
        let caught = LIST.with(|list| list.try_borrow_mut().ok()?.take_caught());
        if let (Some(caught), Some(owner)) = (caught, current::owner()) {
            owner.record().spare.keep(caught);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Interrupted, Raised, Stop, raise_exc, safepoint};

    fn delivered(id: crate::ThreadId) -> (Raised, crate::Receipt) {
        let receipt = raise_exc(id, Stop).unwrap();
        (safepoint().unwrap_err(), receipt)
    }

    #[test]
    fn what_is_caught_is_in_flight_no_more_in_whatever_order_it_is_caught() {
        let attachment = crate::attach().unwrap();
        let id = attachment.id();
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
            let mut raised: Vec<_> = (0..3).map(|_| Some(delivered(id))).collect();
            for (caught, which) in order.into_iter().enumerate() {
                assert_eq!(in_flight().len(), 3 - caught);
                raised[which] = None;
            }
            assert!(in_flight().is_empty(), "{order:?}");
        }
        let kept = delivered(id);
        std::thread::spawn(move || drop(kept)).join().unwrap();
        assert!(in_flight().is_empty(), "caught elsewhere");
        let (raised, receipt) = delivered(id);
        drop(attachment);
        assert_eq!(
            receipt.state(),
            crate::ReceiptState::Caught,
            "the end of the thread's part"
        );
        drop(raised);
        drop(Raised::here(Interrupted));
        assert!(in_flight().is_empty());
    }

    #[test]
    fn the_next_raise_has_the_cell_of_the_one_before_when_nobody_keeps_that() {
        let attachment = crate::attach().unwrap();
        let id = attachment.id();
        let mut cells = std::collections::HashSet::new();
        for _ in 0..10 {
            let (raised, receipt) = delivered(id);
            drop(receipt);
            cells.insert(raised.address());
        }
        assert_eq!(cells.len(), 1);
        let (raised, receipt) = delivered(id);
        drop(raised);
        assert!(!cells.contains(&delivered(id).0.address()));
        drop(receipt);
    }
}
