//! Scopes: stretches of an owner's code that an exception may be addressed to, and that may be cancelled or run out of time.
//!
//! Owns: which scopes of a record are open, which of them are cancelled, the end of a scope, and the cell by which others
//! name a scope before, while and after it is open. Leaves to [`super::slot`] the entries, to [`super::deadline`] the order
//! of visits, to the face running closures and turning a scope's exception into its result.
//! Owners begin and end scopes; everybody may cancel. Nothing blocks but the slot's lock.
//!
//! **Signal context:** no.
//!
//! ```text
//!   owner                                              raiser, canceller, driver
//!   begin: lock slot; push; unlock
//!     |                                                lock slot; is it open? push entry or mark cancelled;
//!     |   safepoint: takes, notes the receipt          RMW PENDING or SCOPE; look at the region; unlock; duty
//!     v
//!   end:   lock slot; pop; take its entries out; settle the bits; unlock; wait for a nudge that is on its way
//! ```
//!
//! - I1. *Nothing after the end* (P6). Whether a scope is open is asked, and answered, under the slot's lock: who got in
//!   before the end has its entry taken out and its mark forgotten by the end; who comes later finds the scope gone.
//!   A signal that a raiser has decided on by then is waited for, as after a delivery (I6 of [`super::record`]).
//! - I2. Scopes end in the reverse order of their beginnings: the face runs closures. Where a jump or another stack has
//!   broken that, the end of an outer scope ends those inside it, and both ends are told. A scope's number is never used
//!   again by its record.
//! - I3. `SCOPE` is set if a scope is cancelled (or, after a fork, not looked at yet). Both change under the slot's lock.
//! - I4. Each delivery of a scope's exception leaves its receipt with the scope, so that the end can tell by identity
//!   whether what came out of the body was its own.
//! - I5. A scope that is cancelled before, while or after it begins is cancelled if it is open: canceller and owner each
//!   make one read-modify-write of [`ScopeCell`]'s word, and the second of the two sees the first.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | owner's RMW `BEGUN` Release, after `thread` and `scope` | canceller's RMW and load Acquire | who sees `BEGUN` sees where the scope is |
//! | canceller's RMW `CANCELLED` Release | owner's RMW Acquire | what the canceller did before is seen in the scope |

use std::collections::VecDeque;
use std::panic::Location;

use super::deadline::NEVER;
use super::owner::Owner;
use super::receipt::ReceiptCell;
use super::record::{Duty, Fences, Record};
use super::slot::{Entry, Slot};
use super::word::Attention;
use crate::sync_shim::{Arc, AtomicU64, Ordering, const_constructor, lock};

/// A scope of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ScopeId(u64);

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

struct Open {
    id: ScopeId,
    deadline: u64,
    began_at: &'static Location<'static>,
    cancelled: Option<Reason>,
    delivered: Vec<Arc<ReceiptCell>>,
}

/// The scopes of one record, made with its first scope: most threads never have one.
pub(crate) struct LazyScopes(Option<Box<Scopes>>);

static NONE: Scopes = Scopes::new();

impl LazyScopes {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    pub(super) fn forget_all(&mut self) {
        if let Some(scopes) = &mut self.0 {
            scopes.open.clear();
            scopes.visit = NEVER;
        }
    }

    /// In a forked child: no driver has promised anything. Whether there are scopes to be looked after.
    pub(super) fn after_fork(&mut self) -> bool {
        self.0.as_mut().is_some_and(|scopes| {
            scopes.visit = NEVER;
            !scopes.open.is_empty()
        })
    }
}

impl std::ops::Deref for LazyScopes {
    type Target = Scopes;

    fn deref(&self) -> &Scopes {
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl std::ops::DerefMut for LazyScopes {
    fn deref_mut(&mut self) -> &mut Scopes {
        self.0.get_or_insert_with(|| Box::new(Scopes::new()))
    }
}

/// Behind the slot's lock.
pub(crate) struct Scopes {
    /// Outermost first.
    open: Vec<Open>,
    last: u64,
    /// When the driver will visit this record, at the latest.
    visit: u64,
}

impl Scopes {
    pub(crate) const fn new() -> Self {
        Self {
            open: Vec::new(),
            last: 0,
            visit: NEVER,
        }
    }

    pub(super) fn is_open(&self, id: ScopeId) -> bool {
        self.open.iter().any(|scope| scope.id == id)
    }

    fn get(&mut self, id: ScopeId) -> Option<&mut Open> {
        self.open.iter_mut().rev().find(|scope| scope.id == id)
    }

    pub(super) fn note_delivered(&mut self, id: ScopeId, receipt: &Arc<ReceiptCell>) {
        if let Some(scope) = self.get(id) {
            scope.note_delivered(receipt);
        }
    }

    fn any_cancelled(&self) -> bool {
        self.open.iter().any(|scope| scope.cancelled.is_some())
    }

    /// Marks the scopes whose time is over. Whether one was not marked before.
    fn expire(&mut self, now: u64) -> bool {
        let mut any = false;
        for scope in &mut self.open {
            if scope.deadline <= now && scope.cancelled.is_none() {
                scope.cancelled = Some((Why::TimedOut, scope.began_at));
                any = true;
            }
        }
        any
    }

    /// Keeps I1 of [`super::deadline`]: a visit to promise, if those promised come too late.
    fn visit_to_promise(&mut self) -> Option<u64> {
        let waits = self.open.iter().filter(|scope| scope.cancelled.is_none());
        let next = waits
            .map(|scope| scope.deadline)
            .min()
            .filter(|at| *at < self.visit)?;
        self.visit = next;
        Some(next)
    }
}

impl Open {
    fn note_delivered(&mut self, receipt: &Arc<ReceiptCell>) {
        self.delivered.retain(|receipt| !receipt.state().is_final());
        self.delivered.push(Arc::clone(receipt));
    }
}

/// What a new scope, or a moved deadline, asks of the owner.
#[must_use = "a deadline that the driver does not know of never fires"]
pub(crate) struct Begun {
    pub(crate) id: ScopeId,
    /// Have the driver visit this record then.
    pub(crate) visit: Option<u64>,
}

/// What is left of a scope.
#[must_use = "entries must be settled, and what was delivered tells whose exception came out"]
pub(crate) struct End {
    /// Addressed to it and not delivered: settle as `TargetEnded`.
    pub(crate) entries: VecDeque<Entry>,
    pub(crate) delivered: Vec<Arc<ReceiptCell>>,
    /// Somebody raised into it: a nudge may be on its way.
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
    /// Opens a scope inside those that are open. `deadline` is [`NEVER`] for none; one that is over at `now` is a scope
    /// that is cancelled from the beginning.
    pub(crate) fn begin_scope(self, deadline: u64, now: u64, at: &'static Location<'static>) -> Begun {
        let mut slot = lock(&self.record.slot);
        slot.scopes.last += 1;
        let id = ScopeId(slot.scopes.last);
        slot.scopes.open.push(Open {
            id,
            deadline,
            began_at: at,
            cancelled: None,
            delivered: Vec::new(),
        });
        if deadline <= now {
            return self.after_change(&mut slot, id, now);
        }
        // All others have theirs promised.
        let sooner = deadline < slot.scopes.visit;
        if sooner {
            slot.scopes.visit = deadline;
        }
        Begun {
            id,
            visit: sooner.then_some(deadline),
        }
    }

    /// Gives an open scope another deadline. One whose time is over stays cancelled.
    pub(crate) fn move_deadline(self, id: ScopeId, deadline: u64, now: u64) -> Option<Begun> {
        let mut slot = lock(&self.record.slot);
        slot.scopes.get(id)?.deadline = deadline;
        Some(self.after_change(&mut slot, id, now))
    }

    #[cold]
    fn after_change(self, slot: &mut Slot, id: ScopeId, now: u64) -> Begun {
        if slot.scopes.get(id).is_some_and(|scope| scope.deadline <= now) && slot.scopes.expire(now) {
            self.record.attention.fetch_or(Attention::SCOPE, Ordering::SeqCst);
        }
        Begun {
            id,
            visit: slot.scopes.visit_to_promise(),
        }
    }

    /// Whether a scope is open: then the record is not given back.
    pub(crate) fn in_scope(self) -> bool {
        !lock(&self.record.slot).scopes.open.is_empty()
    }

    /// Whether a scope raises.
    pub(crate) fn scope_calls(self) -> bool {
        lock(&self.record.slot).scopes.any_cancelled()
    }

    /// The deadline of an open scope, and whether it raises.
    pub(crate) fn scope_state(self, id: ScopeId) -> Option<(u64, bool)> {
        let mut slot = lock(&self.record.slot);
        let scope = slot.scopes.get(id)?;
        Some((scope.deadline, scope.cancelled.is_some()))
    }

    /// Closes a scope (I1). `None` if it is not open.
    pub(crate) fn end_scope(self, id: ScopeId) -> Option<End> {
        let mut slot = lock(&self.record.slot);
        let Some(ended) = slot.scopes.open.pop_if(|scope| scope.id == id) else {
            return self.end_misnested(&mut slot, id);
        };
        if slot.len() == 0 && ended.cancelled.is_none() {
            return Some(End {
                entries: VecDeque::new(),
                delivered: ended.delivered,
                await_nudge: false,
                left_open: None,
            });
        }
        let entries = slot.take_of(id);
        self.record.settle_pending_bit(&slot);
        if ended.cancelled.is_some() {
            self.settle_scope_bit(&slot);
        }
        Some(End {
            await_nudge: ended.cancelled.is_some() || !entries.is_empty(),
            entries,
            delivered: ended.delivered,
            left_open: None,
        })
    }

    /// Closes a scope and all that were begun inside it and are still open: nothing of theirs may be raised any more.
    #[cold]
    fn end_misnested(self, slot: &mut Slot, id: ScopeId) -> Option<End> {
        let at = slot.scopes.open.iter().position(|scope| scope.id == id)?;
        let (closed, entries) = self.close_from(slot, at);
        let left_open = closed.get(1).map(|inner| inner.began_at);
        let delivered = closed.into_iter().next()?.delivered;
        Some(End {
            entries,
            delivered,
            await_nudge: true,
            left_open,
        })
    }

    /// Closes the scopes that were begun after `mark` and have not ended: their frames are gone. What they had to raise,
    /// and what to settle as `TargetEnded`.
    pub(crate) fn close_after(self, mark: ScopeId) -> (Option<Why>, VecDeque<Entry>) {
        let mut slot = lock(&self.record.slot);
        let at = slot.scopes.open.partition_point(|scope| scope.id <= mark);
        let (closed, entries) = self.close_from(&mut slot, at);
        let why = closed.iter().find_map(|scope| Some(scope.cancelled?.0));
        (why, entries)
    }

    /// Called under the slot's lock.
    fn close_from(self, slot: &mut Slot, at: usize) -> (Vec<Open>, VecDeque<Entry>) {
        let closed = slot.scopes.open.split_off(at);
        let entries = closed.iter().flat_map(|scope| slot.take_of(scope.id)).collect();
        self.record.settle_pending_bit(slot);
        self.settle_scope_bit(slot);
        (closed, entries)
    }

    /// Takes the call of the outermost cancelled scope; `receipt` stands for this delivery.
    pub(crate) fn take_scope_call(self, receipt: &Arc<ReceiptCell>) -> ScopeCall {
        let mut slot = lock(&self.record.slot);
        let mut cancelled = slot.scopes.open.iter_mut();
        let outermost = cancelled.find_map(|scope| scope.cancelled.map(|reason| (scope, reason)));
        if let Some((scope, reason)) = outermost {
            scope.note_delivered(receipt);
            return ScopeCall::Raise(reason);
        }
        self.settle_scope_bit(&slot);
        match slot.scopes.visit_to_promise() {
            Some(at) => ScopeCall::Visit(at),
            None => ScopeCall::Nothing,
        }
    }

    /// Keeps I3. Called under the slot's lock.
    fn settle_scope_bit(self, slot: &Slot) {
        if !slot.scopes.any_cancelled() {
            self.record
                .attention
                .fetch_and(!Attention::SCOPE, Ordering::SeqCst);
        }
    }
}

impl Record {
    /// Makes an open scope of this record raise at every safepoint in it. `None` if the generation is over or the scope is
    /// not open.
    pub(crate) fn cancel_scope(
        &self,
        generation: u32,
        id: ScopeId,
        at: &'static Location<'static>,
        fences: Fences,
    ) -> Option<Duty<'_>> {
        let mut slot = self.slot_of(generation).filter(|slot| !slot.is_closed())?;
        let scope = slot.scopes.get(id)?;
        scope.cancelled.get_or_insert((Why::Cancelled, at));
        Some(self.call_by_scope(generation, fences))
    }

    /// The driver visits this record and marks the scopes whose time is over. `None` if the generation is over, or if no
    /// visit is due: this one was promised for a deadline that an earlier visit has seen to.
    pub(crate) fn visit_deadlines(&self, generation: u32, now: u64, fences: Fences) -> Option<Visited<'_>> {
        let mut slot = self.slot_of(generation).filter(|slot| !slot.is_closed())?;
        if slot.scopes.visit > now {
            return None;
        }
        slot.scopes.visit = NEVER;
        let expired = slot.scopes.expire(now);
        let next = slot.scopes.visit_to_promise();
        let duty = expired.then(|| self.call_by_scope(generation, fences));
        Some(Visited { duty, next })
    }

    /// Called under the slot's lock, with the slot open.
    fn call_by_scope(&self, generation: u32, fences: Fences) -> Duty<'_> {
        let before = Attention(self.attention.fetch_or(Attention::SCOPE, Ordering::SeqCst));
        self.duty(before, generation, fences)
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
