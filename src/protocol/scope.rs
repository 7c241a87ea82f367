//! Scopes: stretches of an owner's code that an exception may be addressed to, and that may be cancelled or run out of time.
//!
//! Owns: what a raise, a cancellation and the driver's visit do to a scope, what its end owes, and the cell by which others
//! name a scope before, while and after it is open. Leaves to [`super::scope_table`] which scopes are open, to
//! [`super::slot`] the entries, to [`super::deadline`] the order of visits, to the face running closures and turning a
//! scope's exception into its result.
//! Owners begin and end scopes; everybody may cancel. Nothing blocks but the slot's lock, which a scope's end takes if something
//! was raised into it, and the wait for a canceller or the driver that is some instructions from being done.
//!
//! **Signal context:** no; a handler of the program may begin and end scopes, and be called by them, wherever it runs (I6).
//!
//! ```text
//!   owner                                              raiser, canceller, driver
//!   begin: swap its word in
//!     |                                                lock slot, or touch the table; mark the word, or find the scope over;
//!     |   safepoint: takes, notes the receipt          push entry; RMW PENDING or SCOPE; look at the region; let go; duty
//!     v
//!   end:   swap its word out; if it was marked: wait for touches, lock slot; take its entries out; settle the bits;
//!          wait for a nudge that is on its way
//! ```
//!
//! Most scopes are begun and ended without anybody else's asking, so neither takes the lock then.
//!
//! - I1. *Nothing after the end* (P6). Who addresses a scope marks its word first, under the slot's lock or a touch: either before
//!   the end, which sees the mark, waits for who made it, takes the entry out and forgets the mark; or never (I1 of
//!   [`super::scope_table`]). A signal that a raiser has decided on by then is waited for, as after a delivery (I6 of
//!   [`super::record`]).
//! - I2. Scopes end in the reverse order of their beginnings: the face runs closures. Where a jump or another stack has
//!   broken that, the end of an outer scope ends those inside it, and both ends are told. A scope's number is never used
//!   again by its record.
//! - I3. `SCOPE` is set if a scope is cancelled (or, after a fork, not looked at yet). A cancelled scope that has ended clears it
//!   before its owner goes on. Who marks sets it after the mark; who clears it looks at the marks again and puts it back.
//! - I4. Each delivery of a scope's exception leaves its receipt with the scope, so that the end can tell by identity
//!   whether what came out of the body was its own.
//! - I5. A scope that is cancelled before, while or after it begins is cancelled if it is open: canceller and owner each
//!   make one read-modify-write of [`ScopeCell`]'s word, and the second of the two sees the first.
//! - I6. *Handlers.* Nothing that the driver does to a scope waits for a lock, so a limit passes whatever its thread stands on.
//!   The lock that an end takes is free: somebody has raised into the scope under it since the scope began.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | owner's RMW `BEGUN` Release, after `thread` and `scope` | canceller's RMW and load Acquire | who sees `BEGUN` sees where the scope is |
//! | canceller's RMW `CANCELLED` Release | owner's RMW Acquire | what the canceller did before is seen in the scope |
//! | mark, `SCOPE` RMW SeqCst | `SCOPE` cleared SeqCst, mark load SeqCst | I3 |

use std::panic::Location;

use super::deadline::NEVER;
use super::entry::ReceiptRef;
use super::owner::Owner;
use super::record::{Duty, Fences, Record};
use super::scope_table::{Closed, Marks, ScopeTable};
use super::slot::Queue;
use super::word::Attention;
use crate::sync_shim::{AtomicU64, Ordering, const_constructor};

/// A scope of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ScopeId(pub(super) u64);

impl ScopeId {
    /// Before a record's first.
    pub(crate) const NONE: Self = Self(0);
}

/// What a cancelled scope raises, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Cancelled,
    TimedOut,
}

/// Why a scope raises, and where in the source that began.
pub(crate) type Reason = (Why, &'static Location<'static>);

/// What a new scope, or a moved deadline, asks of the owner.
#[must_use = "a deadline that the driver does not know of never fires"]
pub(crate) struct Begun {
    pub(crate) id: ScopeId,
    /// Have the driver visit this record then, and say [`Owner::told_driver`].
    pub(crate) visit: Option<u64>,
}

/// What is left of a scope.
#[must_use = "entries must be settled, and what was delivered tells whose exception came out"]
pub(crate) struct End {
    /// Addressed to it and not delivered: settle as `TargetEnded`.
    pub(crate) entries: Queue,
    pub(crate) delivered: Vec<ReceiptRef>,
    /// Somebody raised into it: a nudge may be on its way, and letters may have put something aside.
    pub(crate) await_nudge: bool,
    /// Where a scope inside it was begun that was still open.
    pub(crate) left_open: Option<&'static Location<'static>>,
}

/// What `SCOPE` has to say at a safepoint.
pub(crate) enum ScopeCall {
    /// The outermost cancelled scope raises.
    Raise(Reason),
    /// Nothing, but the driver is to be told of a deadline.
    Visit(u64),
    Nothing,
}

/// What came of the driver's visit.
#[must_use = "the target may sleep until the duty is done"]
pub(crate) struct Visited<'a> {
    pub(crate) duty: Option<Duty<'a>>,
    /// The next visit that is owed.
    pub(crate) next: Option<u64>,
}

impl Owner {
    /// Opens a scope inside those that are open. `deadline` is [`NEVER`](super::deadline::NEVER) for none; one that is over at
    /// `now` is a scope that is cancelled from the beginning.
    #[inline(always)]
    pub(crate) fn begin_scope(self, deadline: u64, now: u64, at: &'static Location<'static>) -> Begun {
        let scopes = self.record.scopes.get_or_init(|| Box::new(ScopeTable::new()));
        let (id, sooner) = scopes.begin(deadline, now, at);
        let over = deadline <= now;
        let visit = if sooner || over {
            self.after_change(scopes, over, now)
        } else {
            None
        };
        Begun { id, visit }
    }

    /// The driver knows of a visit at this time. Lasts until it comes.
    pub(crate) fn told_driver(self, at: u64) {
        if let Some(scopes) = self.record.scopes.get() {
            scopes.lower_visit(at);
        }
    }

    /// Gives an open scope another deadline. One whose time is over stays cancelled.
    pub(crate) fn move_deadline(self, id: ScopeId, deadline: u64, now: u64) -> Option<Begun> {
        let scopes = self.record.scopes.get()?;
        scopes.move_deadline(id, deadline).then(|| Begun {
            id,
            visit: self.after_change(scopes, deadline <= now, now),
        })
    }

    /// A deadline may be nearer than any before. The visit that it takes.
    #[cold]
    fn after_change(self, scopes: &ScopeTable, over: bool, now: u64) -> Option<u64> {
        if over {
            // Before the marks too: a handler on top of the next step is called by what is marked.
            self.record.attention.fetch_or(Attention::SCOPE, Ordering::SeqCst);
            if scopes.expire(now) {
                self.record.attention.fetch_or(Attention::SCOPE, Ordering::SeqCst);
            }
        }
        Some(scopes.next_deadline()).filter(|at| *at != NEVER)
    }

    /// Whether a scope is open: then the record is not given back.
    pub(crate) fn in_scope(self) -> bool {
        self.record.scopes.get().is_some_and(|scopes| !scopes.is_empty())
    }

    /// Whether a scope raises.
    pub(crate) fn scope_calls(self) -> bool {
        let scopes = self.record.scopes.get();
        scopes.is_some_and(|scopes| scopes.outermost_call().is_some())
    }

    /// The deadline of an open scope, and whether it raises.
    pub(crate) fn scope_state(self, id: ScopeId) -> Option<(u64, bool)> {
        self.record.scopes.get()?.state(id)
    }

    /// Closes a scope (I1). `None` if it is not open.
    #[inline(always)]
    pub(crate) fn end_scope(self, id: ScopeId) -> Option<End> {
        let scopes = self.record.scopes.get()?;
        match scopes.end(id) {
            Some(marks) if marks.is_none() => Some(End {
                entries: Queue::new(),
                delivered: Vec::new(),
                await_nudge: false,
                left_open: None,
            }),
            Some(marks) => Some(self.end_marked(scopes, id, marks)),
            None => self.end_misnested(scopes, id),
        }
    }

    #[cold]
    fn end_marked(self, scopes: &ScopeTable, id: ScopeId, marks: Marks) -> End {
        scopes.await_touches();
        let entries = if marks.raised() {
            // On top of a lock too: I6.
            let mut slot = self.record.with_mail(self.record.slot.lock());
            let entries = slot.take_of(id);
            self.record.settle_pending_bit(&slot);
            entries
        } else {
            Queue::new()
        };
        if marks.calls() {
            self.settle_scope_bit(scopes);
        }
        End {
            await_nudge: marks.calls() || marks.raised(),
            entries,
            delivered: scopes.take_delivered(id),
            left_open: None,
        }
    }

    /// Closes a scope and all that were begun inside it and are still open: nothing of theirs may be raised any more.
    #[cold]
    fn end_misnested(self, scopes: &ScopeTable, id: ScopeId) -> Option<End> {
        let at = scopes.position(id)?;
        let delivered = scopes.take_delivered(id);
        let (closed, entries) = self.close_from(scopes, at);
        Some(End {
            entries,
            delivered,
            await_nudge: true,
            left_open: closed.get(1).and_then(|inner| inner.began_at),
        })
    }

    /// Closes the scopes that were begun after `mark` and have not ended: their frames are gone. What they had to raise,
    /// and what to settle as `TargetEnded`.
    pub(crate) fn close_after(self, mark: ScopeId) -> (Option<Why>, Queue) {
        let Some(scopes) = self.record.scopes.get() else {
            return (None, Queue::new());
        };
        let (closed, entries) = self.close_from(scopes, scopes.position_after(mark));
        (closed.iter().find_map(|inner| inner.why), entries)
    }

    fn close_from(self, scopes: &ScopeTable, at: usize) -> (Vec<Closed>, Queue) {
        let closed = scopes.close_from(at);
        scopes.await_touches();
        let mut slot = self.record.slot.lock();
        let entries = closed.iter().flat_map(|scope| slot.take_of(scope.id)).collect();
        self.record.settle_pending_bit(&slot);
        self.settle_scope_bit(scopes);
        for scope in &closed {
            drop(scopes.take_delivered(scope.id));
        }
        (closed, entries)
    }

    /// Takes the call of the outermost cancelled scope; `receipt` stands for this delivery.
    pub(crate) fn take_scope_call(self, receipt: &ReceiptRef) -> ScopeCall {
        let Some(scopes) = self.record.scopes.get() else {
            return ScopeCall::Nothing;
        };
        if let Some((id, reason)) = scopes.outermost_call() {
            // Whether a nudge is to come is decided by now.
            scopes.await_touches();
            scopes.note_delivered(id, receipt);
            return ScopeCall::Raise(reason);
        }
        self.settle_scope_bit(scopes);
        match scopes.next_deadline() {
            NEVER => ScopeCall::Nothing,
            at => ScopeCall::Visit(at),
        }
    }

    /// Keeps I3.
    fn settle_scope_bit(self, scopes: &ScopeTable) {
        if scopes.outermost_call().is_none() {
            self.record
                .attention
                .fetch_and(!Attention::SCOPE, Ordering::SeqCst);
            // Pairs with the RMW of who has marked one meanwhile: it came before, or this sees the mark.
            if scopes.outermost_call().is_some() {
                self.record.attention.fetch_or(Attention::SCOPE, Ordering::SeqCst);
            }
        }
    }
}

impl Record {
    /// Whether what is addressed to `scope`, or to the thread as a whole, gets in. Called under the slot's lock, with the
    /// slot open.
    #[inline]
    pub(super) fn admits(&self, scope: Option<ScopeId>) -> bool {
        scope.is_none_or(|id| self.admits_to(id))
    }

    #[cold]
    fn admits_to(&self, id: ScopeId) -> bool {
        self.scopes.get().is_some_and(|scopes| scopes.admit(id))
    }

    /// Makes an open scope of this record raise at every safepoint in it. `None` if the generation is over or the scope is
    /// not open.
    pub(crate) fn cancel_scope(
        &self,
        generation: u32,
        id: ScopeId,
        at: &'static Location<'static>,
        fences: Fences,
    ) -> Option<Duty<'_>> {
        let scopes = self.scopes.get()?;
        let _touch = scopes.touch();
        scopes.cancel(id, at).then_some(())?;
        self.call(generation, Attention::SCOPE, fences)
    }

    /// The driver visits this record and marks the scopes whose time is over. `None` if the generation is over, or if no
    /// visit is due: this one was promised for a deadline that an earlier visit has seen to.
    pub(crate) fn visit_deadlines(&self, generation: u32, now: u64, fences: Fences) -> Option<Visited<'_>> {
        if !self.is_alive(generation) {
            return None;
        }
        let scopes = self.scopes.get()?;
        let _touch = scopes.touch();
        scopes.begin_visit(now).then_some(())?;
        let duty = if scopes.expire(now) {
            self.call(generation, Attention::SCOPE, fences)
        } else {
            None
        };
        Some(Visited {
            duty,
            next: Some(scopes.visit_to_keep()).filter(|at| *at != NEVER),
        })
    }

    /// The driver has a note that this record has deadlines: when to visit it.
    pub(crate) fn visit_to_keep(&self) -> Option<u64> {
        Some(self.scopes.get()?.visit_to_keep()).filter(|at| *at != NEVER)
    }
}

/// A scope as others know it: not begun, open in some record, or over.
pub(crate) struct ScopeCell {
    state: AtomicU64,
    thread: AtomicU64,
    scope: AtomicU64,
}

/// Where a scope was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) generation: u32,
    pub(crate) scope: ScopeId,
}

impl ScopeCell {
    const CANCELLED: u64 = 1 << 0;
    const BEGUN: u64 = 1 << 1;

    const_constructor! {
        pub(crate) fn new() -> Self {
            Self { state: AtomicU64::new(0), thread: AtomicU64::new(0), scope: AtomicU64::new(0) }
        }
    }

    /// The owner has begun the scope at `place`. Whether it was cancelled before: then the owner cancels it in the record.
    #[must_use]
    pub(crate) fn begin(&self, place: Place) -> bool {
        let thread = u64::from(place.generation) << 32 | u64::from(place.index);
        self.thread.store(thread, Ordering::Relaxed);
        self.scope.store(place.scope.0, Ordering::Relaxed);
        self.state.fetch_or(Self::BEGUN, Ordering::AcqRel) & Self::CANCELLED != 0
    }

    /// Cancels it for good. Where it has begun already, there the canceller cancels it in the record.
    pub(crate) fn cancel(&self) -> Option<Place> {
        let before = self.state.fetch_or(Self::CANCELLED, Ordering::AcqRel);
        (before & Self::BEGUN != 0).then(|| self.begun_at())
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) & Self::CANCELLED != 0
    }

    /// Where it has begun; it may be over by now.
    pub(crate) fn place(&self) -> Option<Place> {
        (self.state.load(Ordering::Acquire) & Self::BEGUN != 0).then(|| self.begun_at())
    }

    fn begun_at(&self) -> Place {
        let thread = self.thread.load(Ordering::Relaxed);
        Place {
            index: thread as u32,
            generation: (thread >> 32) as u32,
            scope: ScopeId(self.scope.load(Ordering::Relaxed)),
        }
    }
}
