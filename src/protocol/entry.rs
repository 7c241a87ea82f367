//! The cell of one raise: a receipt's state and the exception on its way, in one allocation.
//!
//! Owns: the cell, the two kinds of handles on it, and when it is freed. Leaves to [`super::receipt`] the state, to
//! [`super::payload`] what is raised, to [`super::slot`] where entries wait, to the face what becomes of a delivered exception.
//! A handle may be used and dropped on any thread; nothing blocks. Making an entry allocates, once. Dropping an entry that
//! was not emptied runs the exception's destructor, so that is for where no lock is held.
//!
//! **Signal context:** no, a cell may be freed.
//!
//! ```text
//!   raiser's Receipt ──▶ ReceiptRef ──┐     ┌───────────────────────────────────┐
//!   target's Flight ───▶ ReceiptRef ──┼──▶  │ state · handles                   │ shared
//!                                     │     ├───────────────────────────────────┤
//!   slot, then Raised ─▶ Entry ───────┘     │ payload · origin · scope · rung.. │ the entry's holder
//!                                           └───────────────────────────────────┘
//! ```
//!
//! - I1. A cell has one [`Entry`], which is not cloned; the contents are reached through it alone. Who holds it may be another
//!   thread later: it is handed on under the slot's lock, or by moving it.
//! - I2. A cell is freed by the drop of its last handle, once: whoever sees that its handle is the only one, or takes the
//!   count to zero, has the cell to itself.
//! - I3. The payload is dropped by the entry's holder, not with the last handle: a receipt that is kept keeps no exception.
//! - I4. A cell that is kept as spare has no handle, so who takes it out has it to itself; and nothing in it that must be
//!   dropped: by I3 no exception, and nothing aside, with which no cell is kept.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `Spare::keep` swap Release | `Spare::take` swap Acquire | who fills the cell again does so after its last handle went |
//! | `Berth::exchange` AcqRel | the same | a handle is handed on |
//! | drop's `fetch_sub` Release | the last drop's load or `fetch_sub`, Acquire | what was done through other handles is done before the cell is freed |

#![allow(unsafe_code)]

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use once_cell::race::OnceBox;

pub(crate) use super::payload::{Kind, Origin, Payload};
use super::receipt::{AfterSettle, ReceiptCell, ReceiptState};
use super::scope::ScopeId;
use crate::sync_shim::{AtomicPtr, AtomicU32, Ordering, UnsafeCell, const_constructor};

/// What only the entry's holder reads and writes.
pub(crate) struct Contents {
    pub(crate) payload: Payload,
    pub(crate) origin: Origin,
    /// Neither supersedes nor is superseded.
    pub(crate) queued: bool,
    /// The strongest rung that had acted when it was taken, as [`super::record`] notes rungs.
    pub(crate) rung: u32,
    /// The scope of the target that it is addressed to; `None` for the thread as a whole.
    pub(crate) scope: Option<ScopeId>,
    /// What the face keeps with a delivered exception, where there is something.
    pub(crate) aside: OnceBox<Box<dyn Any + Send + Sync>>,
}

impl Contents {
    #[inline(always)]
    pub(crate) fn new(payload: Payload, origin: Origin, queued: bool, scope: Option<ScopeId>) -> Self {
        Self {
            payload,
            origin,
            queued,
            rung: 0,
            scope,
            aside: OnceBox::new(),
        }
    }
}

#[repr(C)]
pub(super) struct Cell {
    receipt: ReceiptCell,
    /// Entry and receipts.
    handles: AtomicU32,
    contents: UnsafeCell<Contents>,
}

impl Cell {
    /// For who has the cell to itself: what others did with the contents is done. In a model, loom looks whether it is.
    #[inline(always)]
    fn is_left(&self) {
        self.contents.with_mut(|_| ());
    }

    /// For who has the cell to itself: whether there is more in it than an exception.
    #[inline(always)]
    fn has_aside(&self) -> bool {
        self.contents.with(|contents| {
            // SAFETY: nobody else has a handle, and so an entry, which writes there.
            unsafe { (*contents).aside.get().is_some() }
        })
    }

    /// With two handles, as [`Entry::in_cell`] makes them.
    #[inline(always)]
    fn new(contents: Contents) -> Self {
        Self {
            receipt: ReceiptCell::new(),
            handles: AtomicU32::new(2),
            contents: UnsafeCell::new(contents),
        }
    }
}

/// A handle on a raise's state: the raiser's receipt, and whoever must move it on.
pub(crate) struct ReceiptRef(NonNull<Cell>);

// SAFETY: through it only atomics are reached, and the cell is freed by whichever handle goes last (I2); its contents
// are `Send`, so they may be freed on any thread.
unsafe impl Send for ReceiptRef {}
// SAFETY: as above: atomics, and a count.
unsafe impl Sync for ReceiptRef {}
// Through it nothing is seen half done: atomics, each changed in one step.
impl std::panic::UnwindSafe for ReceiptRef {}
impl std::panic::RefUnwindSafe for ReceiptRef {}

impl ReceiptRef {
    #[inline(always)]
    fn cell(&self) -> &Cell {
        // SAFETY: the cell lives as long as a handle (I2), and this is one.
        unsafe { self.0.as_ref() }
    }

    /// Whether it is the only handle. What others did through theirs is seen.
    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        // Acquire: partner of their drops.
        self.cell().handles.load(Ordering::Acquire) == 1
    }

    /// Whether both are of one raise.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Deref for ReceiptRef {
    type Target = ReceiptCell;

    #[inline(always)]
    fn deref(&self) -> &ReceiptCell {
        &self.cell().receipt
    }
}

impl Clone for ReceiptRef {
    #[inline]
    fn clone(&self) -> Self {
        let before = self.cell().handles.fetch_add(1, Ordering::Relaxed);
        // As in std's `Arc`: only handles that are leaked come to so many.
        if before > u32::MAX / 2 {
            std::process::abort();
        }
        Self(self.0)
    }
}

impl Drop for ReceiptRef {
    #[inline]
    fn drop(&mut self) {
        // Alone: nobody else has a handle to make another from. Acquire, as in `is_alone`: partner of the others' Release.
        if self.is_alone() || self.cell().handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            free(self.0);
        }
    }
}

/// Frees a cell whose last handle is going (I2).
fn free(cell: NonNull<Cell>) {
    // SAFETY: it was made by `Box` in `Entry::with_receipt`, and the caller has the only handle, which it drops, or has
    // taken the cell out of a `Spare`.
    let cell = unsafe { Box::from_raw(cell.as_ptr()) };
    cell.is_left();
    drop(cell);
}

/// One raised exception: in a slot, on its way out of one, or delivered.
pub(crate) struct Entry {
    pub(crate) receipt: ReceiptRef,
    /// `Send`, as the contents are, and not `Sync`, as they are not.
    _contents: std::marker::PhantomData<std::cell::Cell<()>>,
}

impl Entry {
    #[inline]
    pub(crate) fn new(contents: Contents) -> Self {
        Self::with_receipt(contents).0
    }

    /// The entry, and a receipt for the raiser.
    #[inline]
    pub(crate) fn with_receipt(contents: Contents) -> (Self, ReceiptRef) {
        Self::with_new_cell(contents)
    }

    #[inline(never)]
    fn with_new_cell(contents: Contents) -> (Self, ReceiptRef) {
        let cell = Box::write(Box::<Cell>::new_uninit(), Cell::new(contents));
        Self::in_cell(NonNull::from(Box::leak(cell)))
    }

    /// The two handles that a new cell counts.
    #[inline(always)]
    fn in_cell(cell: NonNull<Cell>) -> (Self, ReceiptRef) {
        let entry = Self {
            receipt: ReceiptRef(cell),
            _contents: std::marker::PhantomData,
        };
        (entry, ReceiptRef(cell))
    }

    /// The handle without the contents, whose payload is gone.
    #[inline]
    fn into_receipt(self) -> ReceiptRef {
        debug_assert!(!self.payload.has_destructor(), "it is settled");
        let receipt = ReceiptRef(self.receipt.0);
        std::mem::forget(self);
        receipt
    }

    /// A copy for a child, if the exception is one that children inherit.
    pub(super) fn inherited(&self) -> Option<Self> {
        let Payload::Spread(make) = &self.payload else {
            return None;
        };
        let payload = Payload::Spread(std::sync::Arc::clone(make));
        // A copy belongs to no scope: its thread is in none.
        Some(Self::new(Contents::new(payload, self.origin, self.queued, None)))
    }

    /// Ends an entry that left the slot undelivered. The payload is dropped here: call it with no lock held.
    #[inline]
    pub(crate) fn settle(&mut self, outcome: ReceiptState) -> AfterSettle {
        // First: who sees the outcome may rely on the destructor having run.
        if self.payload.has_destructor() {
            drop(self.payload.take());
        }
        if self.receipt.is_alone() {
            // Nobody can ask any more.
            AfterSettle::Nothing
        } else {
            self.receipt.advance(outcome)
        }
    }
}

/// Room for one cell that its handles have left, for the next raise into the same record. The raiser allocates what the
/// target frees, and allocators are slow at that: without this, it would be half of the time between a raise and the exception
/// in the target's hand that is not the kernel's.
pub(crate) struct Spare(AtomicPtr<Cell>);

impl Spare {
    const_constructor! {
        pub(crate) fn new() -> Self { Self(AtomicPtr::new(std::ptr::null_mut())) }
    }

    /// As [`Entry::with_receipt`], in the cell that is kept here, if there is one.
    #[inline(always)]
    pub(crate) fn entry_with_receipt(&self, contents: impl FnOnce() -> Contents) -> (Entry, ReceiptRef) {
        let Some(cell) = self.take() else {
            return Entry::with_new_cell(contents());
        };
        // SAFETY: it is a `Cell`, and nobody has a handle on it (I4).
        unsafe { cell.as_ref() }.is_left();
        // SAFETY: as before. What is overwritten has no destructor to run (I4).
        unsafe { cell.write(Cell::new(contents())) };
        Entry::in_cell(cell)
    }

    #[inline(always)]
    fn take(&self) -> Option<NonNull<Cell>> {
        if self.0.load(Ordering::Relaxed).is_null() {
            return None;
        }
        // Acquire: partner of `keep`.
        NonNull::new(self.0.swap(std::ptr::null_mut(), Ordering::Acquire))
    }

    /// Drops an entry that is settled, and keeps its cell if that has no other handle.
    #[inline]
    pub(crate) fn keep_entry(&self, entry: Entry) {
        self.keep(entry.into_receipt());
    }

    /// Drops a handle, and keeps its cell if that was the last. The entry is gone.
    #[inline]
    pub(crate) fn keep(&self, receipt: ReceiptRef) {
        if !receipt.is_alone() || !self.0.load(Ordering::Relaxed).is_null() || receipt.cell().has_aside() {
            return;
        }
        let cell = receipt.0;
        std::mem::forget(receipt);
        // Release: partner of `take`. Acquire: of another `keep`, which was as quick, and whose cell goes.
        if let Some(other) = NonNull::new(self.0.swap(cell.as_ptr(), Ordering::AcqRel)) {
            free(other);
        }
    }
}

/// A place for one handle.
pub(super) struct Berth(AtomicPtr<Cell>);

impl Berth {
    const_constructor! {
        pub(super) fn new() -> Self { Self(AtomicPtr::new(std::ptr::null_mut())) }
    }

    /// Puts a handle there, or none, and gives back what was there.
    #[inline(always)]
    pub(super) fn exchange(&self, receipt: Option<ReceiptRef>) -> Option<ReceiptRef> {
        let cell = receipt.map_or(std::ptr::null_mut(), |receipt| {
            std::mem::ManuallyDrop::new(receipt).0.as_ptr()
        });
        // What was put there was a handle, and comes out once. Acquire and Release: the next to look may be another thread.
        NonNull::new(self.0.swap(cell, Ordering::AcqRel)).map(ReceiptRef)
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        drop(self.exchange(None));
    }
}

impl Deref for Entry {
    type Target = Contents;

    #[inline(always)]
    fn deref(&self) -> &Contents {
        self.receipt.cell().contents.with(|contents| {
            // SAFETY: nobody else has an entry of this cell, and `DerefMut` borrows it whole (I1).
            unsafe { &*contents }
        })
    }
}

impl DerefMut for Entry {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Contents {
        self.receipt.cell().contents.with_mut(|contents| {
            // SAFETY: nobody else has an entry of this cell, and this one is borrowed whole (I1).
            unsafe { &mut *contents }
        })
    }
}

impl Drop for Entry {
    #[inline]
    fn drop(&mut self) {
        // Before the handle goes (I3); that one goes even if this unwinds.
        if self.payload.has_destructor() {
            drop(self.payload.take());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::Location;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32 as Counter, Ordering::SeqCst};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("counted")]
    struct Counted(Arc<Counter>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn counted() -> (Entry, ReceiptRef, Arc<Counter>) {
        let drops = Arc::new(Counter::new(0));
        let payload = Payload::Value(Box::new(Counted(drops.clone())));
        let origin = Origin::of::<Counted>(Location::caller());
        let (entry, receipt) = Entry::with_receipt(Contents::new(payload, origin, false, None));
        (entry, receipt, drops)
    }

    /// Shows protocol::entry I1, I3.
    #[test]
    fn a_receipt_that_is_kept_keeps_no_exception() {
        for settled in [true, false] {
            let (mut entry, receipt, drops) = counted();
            if settled {
                assert_eq!(entry.settle(ReceiptState::Revoked), AfterSettle::Nothing);
                assert_eq!((receipt.state(), drops.load(SeqCst)), (ReceiptState::Revoked, 1));
            }
            drop(entry);
            assert_eq!((receipt.is_alone(), drops.load(SeqCst)), (true, 1));
        }
    }

    /// Shows protocol::entry I4.
    #[test]
    fn a_spare_cell_serves_the_next_entry_and_only_when_nobody_has_it() {
        let spare = Spare::new();
        let (mut entry, receipt, drops) = counted();
        let _no_waiter = entry.settle(ReceiptState::Superseded);
        spare.keep_entry(entry);
        assert!(spare.take().is_none(), "the receipt has it");
        assert_eq!(
            (receipt.state(), drops.load(SeqCst)),
            (ReceiptState::Superseded, 1)
        );
        let cell = receipt.0;
        spare.keep(receipt);
        let origin = Origin::of::<Counted>(Location::caller());
        let contents = || Contents::new(Payload::Make(|| Box::new(std::fmt::Error)), origin, true, None);
        let (second, receipt) = spare.entry_with_receipt(contents);
        assert_eq!(
            (receipt.0, receipt.state(), second.queued),
            (cell, ReceiptState::Pending, true)
        );
        let (third, other) = spare.entry_with_receipt(contents);
        assert!(other.0 != cell, "it is kept once");
        drop((second, third));
        spare.keep(receipt);
        spare.keep(other);
        assert!(spare.take().is_some_and(|kept| {
            free(kept);
            kept == cell
        }));
    }

    /// Shows protocol::entry I2: whichever goes last, and with all of them going at once. What is freed too early or too often
    /// the address sanitizer sees, what is not freed at all its leak check.
    #[test]
    fn the_last_handle_frees_the_cell() {
        const HANDLES: usize = 4;
        for round in 0..200 {
            let (entry, receipt, drops) = counted();
            let handles: Vec<_> = (0..HANDLES).map(|_| receipt.clone()).collect();
            std::thread::scope(|scope| {
                for handle in handles {
                    scope.spawn(move || drop(handle));
                }
                scope.spawn(move || drop(entry));
                if round % 2 == 0 {
                    drop(receipt);
                }
            });
            assert_eq!(drops.load(SeqCst), 1);
        }
    }
}
