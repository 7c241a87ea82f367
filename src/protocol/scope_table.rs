//! The table of a record's open scopes, of which the owner writes rows and everybody marks them, without a lock.
//!
//! Owns: one word for each open scope, what stands beside it, the time of the driver's next visit, and what was delivered in
//! scopes. Leaves to [`super::scope`] what a mark means for the thread.
//! Methods that say "owner" are called by the record's owner only, in a signal handler of the program too: those run on top of
//! one another and never beside. Nothing blocks but [`ScopeTable::await_touches`]; a row deeper than any before allocates, and
//! so does noting a delivery.
//!
//! **Signal context:** no lock is taken; what allocates is as safe as the allocator.
//!
//! A word is the scope's number and its marks, or 0 for a row that is free.
//!
//! ```text
//!   owner                                   raiser (under the slot's lock), canceller, driver
//!   (1) begin: store deadline, place;       (3) touch; find the word, compare-and-swap a mark into it:
//!       swap the word in; load `visit`          done: the end will see it; failed: the scope is over;
//!   (2) end: swap 0 in: the marks;              what the mark asks for; let go
//!       marked: wait for touches            (4) visit: swap `visit` to never; load words and deadlines
//!   (5) tell the driver; lower `visit`      (6) told: load `visit`, words and deadlines; lower `visit`; keep that in mind
//! ```
//!
//! - I1. *Nothing unseen at the end.* (2) and (3) change one word, so a mark is either seen by the end, which then waits for
//!   who has made it (by the slot's lock for what was raised, by the touch for the rest) and finds all that came of it, or not
//!   made. A number is never used again, so (3) marks no later scope.
//! - I2. *No deadline unseen.* The halves of (1) and (4) form a store-buffer test: the owner sees that no visit is promised and
//!   tells the driver, or the driver sees the scope. Both halves are a SeqCst read-modify-write and a SeqCst load. In (6) the driver
//!   has the note that was left in (5), so it sees the scope.
//! - I3. `deadline` and `began_at` belong to the word if the compare-and-swap of (3) succeeds: a new scope's are written after
//!   the swap of (2), which would then have come before. `cancelled_at` belongs to some scope that was cancelled.
//! - I4. *Handlers.* A scope that a signal handler begins and ends on top of (1) or (2) takes a number and a row of its own: the
//!   number is given in one step, the row is taken before it is written to and given back after its word is.
//! - I5. `visit` is lowered by who has told the driver before, or by the driver itself: what it says is promised, in a signal handler
//!   on top of (5) too. Late, (5) may say what the driver has done already; a time that is over promises nothing.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | (1) swap SeqCst | (3), (4) loads SeqCst | who sees the word sees deadline and place |
//! | (1) swap, `visit` load SeqCst | (4) `visit` swap, word load SeqCst | I2 |
//! | (3) compare-and-swap AcqRel | (2) swap AcqRel | I1, I3; what the canceller wrote is seen, and its touch |
//! | touch's end Release | `await_touches` load Acquire | I1: what the mark asked for is seen |

#![allow(unsafe_code)]

use std::panic::Location;

use once_cell::race::OnceBox;

use super::deadline::NEVER;
use super::entry::ReceiptRef;
use super::mail::Mail;
use super::pile::Pile;
use super::scope::{Reason, ScopeId, Why};
use crate::sync_shim::{
    AtLock, AtomicPtr, AtomicU64, AtomicUsize, Ordering, handler_fence, load_after_rmw, on_top_of_a_lock,
    pause,
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

    /// Whether something was addressed to it.
    pub(super) fn raised(self) -> bool {
        self.0 & Self::RAISED.0 != 0
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

    /// The word, after a read-modify-write of the caller's (I2).
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

    /// Marks the scope if its time is over. Whether it was not marked before.
    fn expire(&self, now: u64) -> bool {
        let mut word = self.word();
        while !word.is_free() && !word.marks().calls() && self.deadline() <= now {
            if self.mark(word, Marks::TIMED_OUT) {
                return true;
            }
            // It is over, or somebody has raised into it meanwhile.
            word = self.word();
        }
        false
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
    /// When the driver will visit this record, at the latest (I5).
    visit: AtomicU64,
    /// Who is between a mark and what it asks for.
    touches: AtomicUsize,
    /// Deliveries in scopes that are open, for the owner to know its own by. The owner's alone.
    delivered: Pile<(ScopeId, ReceiptRef)>,
    /// The record's, and here because as few threads ever have any.
    pub(super) mail: Mail,
}

/// Somebody marks scopes and does what that asks for: the end of a marked one waits for the drop.
#[must_use]
pub(super) struct Touch<'a>(&'a ScopeTable, AtLock);

impl Drop for Touch<'_> {
    fn drop(&mut self) {
        self.0.touches.fetch_sub(1, Ordering::Release);
    }
}

impl ScopeTable {
    pub(super) fn new() -> Self {
        Self {
            first: Block::of(crate::sync_shim::sized(4, 2)),
            depth: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            visit: AtomicU64::new(NEVER),
            touches: AtomicUsize::new(0),
            delivered: Pile::new(),
            mail: Mail::new(),
        }
    }

    /// The first half of step (3).
    pub(super) fn touch(&self) -> Touch<'_> {
        // Nobody who has not seen the mark looks for it.
        let at = AtLock::new();
        self.touches.fetch_add(1, Ordering::Relaxed);
        Touch(self, at)
    }

    /// Owner, which has seen a mark: waits until all is done that it asks for (I1). On top of a lock of this thread's the touch may be this
    /// thread's own: then not for long.
    pub(super) fn await_touches(&self) {
        let mut looks = 0;
        // Pairs with the drop of `Touch`.
        while self.touches.load(Ordering::Acquire) != 0 {
            if looks > 600 && on_top_of_a_lock() {
                return;
            }
            pause(looks);
            looks = looks.saturating_add(1);
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

    /// Step (1). Owner. Whether the visit that is promised comes too late for this deadline, or there is none: then step (5).
    #[inline]
    pub(super) fn begin(&self, deadline: u64, now: u64, at: &'static Location<'static>) -> (ScopeId, bool) {
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
        let visit = load_after_rmw(&self.visit);
        (id, deadline < visit || visit <= now)
    }

    /// Step (5), the second half. Owner, which has told the driver.
    pub(super) fn lower_visit(&self, to: u64) {
        self.visit.fetch_min(to, Ordering::Relaxed);
    }

    /// Step (6). Driver: when to visit.
    pub(super) fn visit_to_keep(&self) -> u64 {
        let next = self.next_deadline();
        let before = self.visit.fetch_min(next, Ordering::SeqCst);
        before.min(next)
    }

    /// The nearest deadline of a scope that does not call; [`NEVER`] if there is none.
    pub(super) fn next_deadline(&self) -> u64 {
        let waiting = self.rows().filter(|row| {
            let word = row.word();
            !word.is_free() && !word.marks().calls()
        });
        waiting.map(Row::deadline).min().unwrap_or(NEVER)
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

    /// Step (2) for the scopes from row `at` on, the outermost first. Owner.
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

    /// Something is about to be addressed to `id`. `false` if it is not open. Under the slot's lock.
    #[must_use]
    pub(super) fn admit(&self, id: ScopeId) -> bool {
        while let Some((row, word)) = self.find(id) {
            if row.mark(word, Marks::RAISED) {
                return true;
            }
            // It is over, or somebody has cancelled it meanwhile.
        }
        false
    }

    /// `id` calls from now on, for whichever reason came first. `false` if it is not open. Under a touch.
    #[must_use]
    pub(super) fn cancel(&self, id: ScopeId, at: &'static Location<'static>) -> bool {
        while let Some((row, word)) = self.find(id) {
            if word.marks().calls() {
                return true;
            }
            row.cancelled_at.store(pointer(at), Ordering::Relaxed);
            if row.mark(word, Marks::CANCELLED) {
                return true;
            }
            // It is over, or somebody else has marked it.
        }
        false
    }

    /// Marks the scopes whose time is over. Whether one was not marked before. Under a touch.
    pub(super) fn expire(&self, now: u64) -> bool {
        self.rows().filter(|row| row.expire(now)).count() > 0
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
        // What this scope's body has done with by now tells nothing at its end.
        drop(
            self.delivered
                .take_if(|(scope, receipt)| *scope == id && receipt.state().is_final()),
        );
        self.delivered.push((id, receipt.clone()));
    }

    /// Owner. What was delivered in `id`, which is over.
    pub(super) fn take_delivered(&self, id: ScopeId) -> Vec<ReceiptRef> {
        let of = self.delivered.take_if(|(scope, _)| *scope == id);
        of.into_iter().map(|(_, receipt)| receipt).collect()
    }

    /// For a new owner: nothing is open, nothing promised.
    pub(super) fn forget_all(&self) {
        for row in self.rows() {
            row.word.store(Word::FREE.0, Ordering::Relaxed);
        }
        self.depth.store(0, Ordering::Relaxed);
        self.visit.store(NEVER, Ordering::Relaxed);
        drop(self.delivered.take());
    }

    /// In a forked child: no driver has promised anything, and nobody else is there. Whether there are scopes to be looked after.
    pub(super) fn after_fork(&self) -> bool {
        self.visit.store(NEVER, Ordering::Relaxed);
        self.touches.store(0, Ordering::Relaxed);
        !self.is_empty()
    }
}
