//! The table of a record's open scopes, of which the owner writes rows without a lock.
//!
//! Owns: one word for each open scope, what stands beside it, and the time of the driver's next visit. Leaves to
//! [`super::scope`] what a mark means for the thread, and the slot's lock, which every change but [`ScopeTable::begin`] and
//! [`ScopeTable::end`] is made under.
//! Methods that say "owner" are called by the record's owner only. Nothing blocks; a row deeper than any before allocates.
//!
//! **Signal context:** no.
//!
//! A word is the scope's number and its marks, or 0 for a row that is free.
//!
//! ```text
//!   owner                                   raiser, canceller, driver (under the slot's lock)
//!   (1) begin: store deadline, place;       (3) find the word, compare-and-swap a mark into it:
//!       swap the word in; load `visit`          done: the end will see it; failed: the scope is over
//!   (2) end: swap 0 in: the marks           (4) visit: swap `visit` to never; load words and deadlines
//! ```
//!
//! - I1. *Nothing unseen at the end.* (2) and (3) change one word, so a mark is either seen by the end, which then takes the
//!   slot's lock and finds all that was done under it, or not made. A number is never used again, so (3) marks no later scope.
//! - I2. *No deadline unseen.* The halves of (1) and (4) form a store-buffer test: the owner sees that no visit is promised and
//!   promises one under the lock, or the driver sees the scope. Both halves are a SeqCst read-modify-write and a SeqCst load.
//! - I3. `deadline` and `began_at` belong to the word if the compare-and-swap of (3) succeeds: a new scope's are written after
//!   the swap of (2), which would then have come before.
//! - I4. *Handlers.* A scope that a signal handler begins and ends on top of (1) or (2) takes a number and a row of its own: the
//!   number is given in one step, the row is taken before it is written to and given back after its word is.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | (1) swap SeqCst | (3), (4) loads SeqCst | who sees the word sees deadline and place |
//! | (1) swap, `visit` load SeqCst | (4) `visit` swap, word load SeqCst | I2 |
//! | (3) compare-and-swap AcqRel | (2) swap AcqRel | I1, I3; what the canceller wrote is seen |

#![allow(unsafe_code)]

use std::panic::Location;

use once_cell::race::OnceBox;

use super::deadline::NEVER;
use super::entry::ReceiptRef;
use super::scope::{Reason, ScopeId, Why};
use crate::sync_shim::{
    AtomicPtr, AtomicU64, AtomicUsize, Mutex, Ordering, handler_fence, load_after_rmw, lock,
};

/// A place in the source.
type Where = Location<'static>;

/// What others have done to a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks(u64);

impl Marks {
    const NONE: Self = Self(0);
    /// Something was addressed to it.
    pub(super) const RAISED: Self = Self(1);
    const CANCELLED: Self = Self(2);
    const TIMED_OUT: Self = Self(4);
    const ALL: u64 = 7;
    const BITS: u32 = 3;

    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Whether the scope calls at safepoints.
    pub(super) fn calls(self) -> bool {
        self.why().is_some()
    }

    fn why(self) -> Option<Why> {
        if self.0 & Self::CANCELLED.0 != 0 {
            Some(Why::Cancelled)
        } else if self.0 & Self::TIMED_OUT.0 != 0 {
            Some(Why::TimedOut)
        } else {
            None
        }
    }
}

/// A copy of a row's word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const FREE: Self = Self(0);

    fn of(id: ScopeId) -> Self {
        Self(id.0 << Marks::BITS)
    }

    fn is(self, id: ScopeId) -> bool {
        self.0 >> Marks::BITS == id.0
    }

    fn id(self) -> ScopeId {
        ScopeId(self.0 >> Marks::BITS)
    }

    fn is_free(self) -> bool {
        self == Self::FREE
    }

    fn marks(self) -> Marks {
        Marks(self.0 & Marks::ALL)
    }
}

/// A scope that was closed with those around or inside it.
pub(super) struct Closed {
    pub(super) id: ScopeId,
    pub(super) began_at: Option<&'static Location<'static>>,
    pub(super) why: Option<Why>,
}

struct Row {
    word: AtomicU64,
    deadline: AtomicU64,
    began_at: AtomicPtr<Where>,
    cancelled_at: AtomicPtr<Where>,
}

impl Row {
    fn new() -> Self {
        Self {
            word: AtomicU64::new(Word::FREE.0),
            deadline: AtomicU64::new(NEVER),
            began_at: AtomicPtr::new(std::ptr::null_mut()),
            cancelled_at: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// The word, after a read-modify-write of the caller's (I2) or under the slot's lock.
    fn word(&self) -> Word {
        Word(load_after_rmw(&self.word))
    }

    fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    /// Step (3). `false` if the scope that was seen is over.
    fn mark(&self, seen: Word, mark: Marks) -> bool {
        self.word
            .compare_exchange(seen.0, seen.0 | mark.0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Why the scope calls, if it does. Owner.
    fn reason(&self) -> Option<Reason> {
        let why = self.word().marks().why()?;
        let at = match why {
            Why::Cancelled => &self.cancelled_at,
            Why::TimedOut => &self.began_at,
        };
        Some((why, place(at)?))
    }
}

fn place(at: &AtomicPtr<Where>) -> Option<&'static Location<'static>> {
    // SAFETY: nothing but null and `&'static Location`s is ever stored in such a cell.
    unsafe { at.load(Ordering::Relaxed).as_ref() }
}

fn pointer(at: &'static Where) -> *mut Where {
    std::ptr::from_ref(at).cast_mut()
}

/// Rows, and twice as many if those are not enough.
struct Block {
    rows: Box<[Row]>,
    more: OnceBox<Block>,
}

impl Block {
    fn of(count: usize) -> Self {
        Self {
            rows: (0..count).map(|_| Row::new()).collect(),
            more: OnceBox::new(),
        }
    }
}

/// The open scopes of one record. Made with its first one: most threads never have any.
pub(super) struct ScopeTable {
    /// Outermost first.
    first: Block,
    /// Rows in use: the first ones, with ascending numbers. The owner's alone.
    depth: AtomicUsize,
    /// The last number given. The owner's alone.
    last: AtomicU64,
    /// When the driver will visit this record, at the latest. Changes under the slot's lock.
    visit: AtomicU64,
    /// Deliveries in scopes that are open, for the owner to know its own by.
    delivered: Mutex<Vec<(ScopeId, ReceiptRef)>>,
}

impl ScopeTable {
    pub(super) fn new() -> Self {
        Self {
            first: Block::of(crate::sync_shim::sized(4, 2)),
            depth: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            visit: AtomicU64::new(NEVER),
            delivered: Mutex::new(Vec::new()),
        }
    }

    #[inline]
    fn row(&self, at: usize) -> &Row {
        match self.first.rows.get(at) {
            Some(row) => row,
            None => self.further(at),
        }
    }

    #[cold]
    fn further(&self, mut at: usize) -> &Row {
        let mut block = &self.first;
        loop {
            if let Some(row) = block.rows.get(at) {
                return row;
            }
            at -= block.rows.len();
            let twice = 2 * block.rows.len();
            block = block.more.get_or_init(|| Box::new(Block::of(twice)));
        }
    }

    /// All rows, outermost first.
    fn rows(&self) -> impl Iterator<Item = &Row> {
        std::iter::successors(Some(&self.first), |block| block.more.get()).flat_map(|block| &block.rows)
    }

    fn find(&self, id: ScopeId) -> Option<(&Row, Word)> {
        self.rows()
            .map(|row| (row, row.word()))
            .find(|(_, word)| word.is(id))
    }

    /// Step (1). Owner. Whether the visit that is promised comes too late for this deadline, or there is none.
    #[inline]
    pub(super) fn begin(&self, deadline: u64, at: &'static Location<'static>) -> (ScopeId, bool) {
        let depth = self.depth.load(Ordering::Relaxed);
        // In one step: a scope that a signal handler begins in between gets a number of its own.
        let id = ScopeId(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let row = self.row(depth);
        self.depth.store(depth + 1, Ordering::Relaxed);
        // The row is ours, for a signal handler on this thread too, before anything is written into it.
        handler_fence();
        row.deadline.store(deadline, Ordering::Relaxed);
        row.began_at.store(pointer(at), Ordering::Relaxed);
        // SeqCst: I2.
        row.word.swap(Word::of(id).0, Ordering::SeqCst);
        (id, deadline < load_after_rmw(&self.visit))
    }

    /// Step (2). Owner. `None` if it is not the innermost.
    #[inline]
    pub(super) fn end(&self, id: ScopeId) -> Option<Marks> {
        let at = self.depth.load(Ordering::Relaxed).checked_sub(1)?;
        let innermost = self.row(at);
        if !Word(innermost.word.load(Ordering::Relaxed)).is(id) {
            return None;
        }
        // The row last: until then a scope that a signal handler begins takes the next one, and leaves these marks alone.
        let marks = Self::free(innermost);
        self.depth.store(at, Ordering::Relaxed);
        Some(marks)
    }

    /// Step (2) for the scopes from row `at` on, the outermost first. Owner, under the slot's lock.
    pub(super) fn close_from(&self, at: usize) -> Vec<Closed> {
        let depth = self.depth.load(Ordering::Relaxed);
        self.depth.store(at.min(depth), Ordering::Relaxed);
        let close = |row: &Row| Closed {
            id: row.word().id(),
            began_at: place(&row.began_at),
            why: Self::free(row).why(),
        };
        (at..depth).map(|at| close(self.row(at))).collect()
    }

    /// The row of an open scope. Owner.
    pub(super) fn position(&self, id: ScopeId) -> Option<usize> {
        let at = self.position_after(ScopeId(id.0.checked_sub(1)?));
        (at < self.depth.load(Ordering::Relaxed) && self.row(at).word().is(id)).then_some(at)
    }

    /// The first row of a scope that was begun after `mark`; the next free one if there is none. Owner.
    pub(super) fn position_after(&self, mark: ScopeId) -> usize {
        let depth = self.depth.load(Ordering::Relaxed);
        let after = |at: &usize| self.row(*at).word().id() > mark;
        (0..depth).find(after).unwrap_or(depth)
    }

    fn free(row: &Row) -> Marks {
        // AcqRel: partner of `mark`.
        Word(row.word.swap(Word::FREE.0, Ordering::AcqRel)).marks()
    }

    /// Owner.
    pub(super) fn is_empty(&self) -> bool {
        self.depth.load(Ordering::Relaxed) == 0
    }

    /// The deadline of an open scope, and whether it calls. Owner.
    pub(super) fn state(&self, id: ScopeId) -> Option<(u64, bool)> {
        let (row, word) = self.find(id)?;
        Some((row.deadline(), word.marks().calls()))
    }

    /// Owner. `false` if it is not open.
    pub(super) fn move_deadline(&self, id: ScopeId, deadline: u64) -> bool {
        let row = self.find(id);
        if let Some((row, _)) = row {
            row.deadline.store(deadline, Ordering::Relaxed);
        }
        row.is_some()
    }

    /// Something is about to be addressed to `id`. `false` if it is not open.
    #[must_use]
    pub(super) fn admit(&self, id: ScopeId) -> bool {
        self.find(id)
            .is_some_and(|(row, word)| row.mark(word, Marks::RAISED))
    }

    /// `id` calls from now on, for whichever reason came first. `false` if it is not open.
    #[must_use]
    pub(super) fn cancel(&self, id: ScopeId, at: &'static Location<'static>) -> bool {
        let Some((row, word)) = self.find(id) else {
            return false;
        };
        if word.marks().calls() {
            return true;
        }
        row.cancelled_at.store(pointer(at), Ordering::Relaxed);
        row.mark(word, Marks::CANCELLED)
    }

    /// Marks the scopes whose time is over. Whether one was not marked before.
    pub(super) fn expire(&self, now: u64) -> bool {
        let mut any = false;
        for row in self.rows() {
            let word = row.word();
            if !word.is_free() && !word.marks().calls() && row.deadline() <= now {
                any |= row.mark(word, Marks::TIMED_OUT);
            }
        }
        any
    }

    /// Keeps I1 of [`super::deadline`]: a visit to promise, if those promised come too late.
    pub(super) fn visit_to_promise(&self) -> Option<u64> {
        let waiting = self.rows().filter(|row| {
            let word = row.word();
            !word.is_free() && !word.marks().calls()
        });
        let promised = self.visit.load(Ordering::Relaxed);
        let next = waiting.map(Row::deadline).min().filter(|at| *at < promised)?;
        self.visit.store(next, Ordering::Relaxed);
        Some(next)
    }

    /// Step (4), the first half. Whether a visit is due.
    #[must_use]
    pub(super) fn begin_visit(&self, now: u64) -> bool {
        let due = self.visit.load(Ordering::Relaxed) <= now;
        if due {
            // SeqCst: I2.
            self.visit.swap(NEVER, Ordering::SeqCst);
        }
        due
    }

    /// Why the outermost scope that calls does so, and which it is. Owner.
    pub(super) fn outermost_call(&self) -> Option<(ScopeId, Reason)> {
        let called = |row: &Row| Some((row.word().id(), row.reason()?));
        self.rows().find_map(called)
    }

    /// Owner. `id` has been raised into.
    pub(super) fn note_delivered(&self, id: ScopeId, receipt: &ReceiptRef) {
        let mut delivered = lock(&self.delivered);
        delivered.retain(|(scope, receipt)| *scope != id || !receipt.state().is_final());
        delivered.push((id, receipt.clone()));
    }

    /// Owner. What was delivered in `id`, which is over.
    pub(super) fn take_delivered(&self, id: ScopeId) -> Vec<ReceiptRef> {
        let mut delivered = lock(&self.delivered);
        let of = delivered.extract_if(.., |(scope, _)| *scope == id);
        of.map(|(_, receipt)| receipt).collect()
    }

    /// For a new owner: nothing is open, nothing promised.
    pub(super) fn forget_all(&self) {
        for row in self.rows() {
            row.word.store(Word::FREE.0, Ordering::Relaxed);
        }
        self.depth.store(0, Ordering::Relaxed);
        self.visit.store(NEVER, Ordering::Relaxed);
        lock(&self.delivered).clear();
    }

    /// In a forked child: no driver has promised anything. Whether there are scopes to be looked after.
    pub(super) fn after_fork(&self) -> bool {
        self.visit.store(NEVER, Ordering::Relaxed);
        !self.is_empty()
    }
}
