//! Raising: from a target's name to an entry in its slot, and the duty that follows.
//!
//! Owns: [`Target`], [`raise_exc`], [`set_async_exc`], [`raise_all`], the [`Raise`] builder. Leaves to
//! `protocol::record` the push, to `driver` everything that takes time. Nothing here blocks but short locks.
//!
//! **Signal context:** no.
//!
//! ## How a raise is atomic (P1)
//!
//! A name may match many threads. Under the registry's lock all matches are pinned (*reserved*): pins are invisible to
//! safepoints, and what is pinned can neither end nor become another thread. The lock is let go. One match: its slot
//! gets the entry (*commit*). None or many: the pins are dropped (*revert*) and nothing was ever in any slot.

use std::panic::Location;

use crate::current::{self, REGISTRY, release, with_members};
use crate::driver::perform;
use crate::error::RaiseError;
use crate::exception::{ExcType, IntoException, Raisable};
use crate::protocol::Owing;
use crate::protocol::entry::{Contents, Entry, Origin};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{AfterPush, Duty, Fences, Pin, Record};
use crate::protocol::registry::{Member, Members, ThreadId};
use crate::protocol::scope::ScopeId;
use crate::protocol::slot::{Policy, Queue};
use crate::receipt::{Receipt, settle, settle_aside, settle_one};
use crate::runtime;
use crate::target::ScopeHandle;
pub(crate) use crate::target::Target;

impl Target {
    pub(crate) fn matches<'a>(&'a self, members: &'a Members) -> Box<dyn Iterator<Item = &'a Member> + 'a> {
        match self {
            Self::Id(id) => Box::new(members.get(*id).into_iter()),
            Self::OsTid(tid) => Box::new(members.by_tid(tid.as_raw()).into_iter()),
            Self::Name(name) => Box::new(members.iter().filter(move |m| m.name.as_deref() == Some(name))),
        }
    }

    /// The id, for targets that match one thread or none.
    #[inline(always)]
    fn single(&self) -> Option<Option<ThreadId>> {
        match self {
            Self::Id(id) => Some(Some(*id)),
            // A kernel thread runs one member.
            Self::OsTid(tid) => Some(current::on_os_thread(tid.as_raw())),
            Self::Name(_) => None,
        }
    }

    /// Every live match, pinned: the reservation of P1.
    fn reserve(&self) -> Vec<(ThreadId, Pin<'static>)> {
        with_members(|members| {
            self.matches(members)
                .filter_map(|m| Some((m.id, REGISTRY.pin(m.id)?)))
                .collect()
        })
    }

    /// The ids of every live match.
    pub(crate) fn resolve(&self) -> Vec<ThreadId> {
        match self {
            Self::Id(id) => is_alive(*id).then_some(*id).into_iter().collect(),
            Self::OsTid(tid) => current::on_os_thread(tid.as_raw())
                .filter(|id| is_alive(*id))
                .into_iter()
                .collect(),
            Self::Name(_) => with_members(|members| {
                self.matches(members)
                    .map(|m| m.id)
                    .filter(|id| is_alive(*id))
                    .collect()
            }),
        }
    }
}

/// Whether the thread is attached and has not begun to leave.
pub(crate) fn is_alive(id: ThreadId) -> bool {
    REGISTRY.pin(id).map(release).is_some()
}

/// Raises `exc` in exactly one live attached thread, or in none.
///
/// The target meets the exception at its next [`safepoint`](crate::safepoint), in a blocking call of this crate, or when
/// a foreign call of its lets go; a blocked target is woken, by a signal if need be. The call returns at once: the
/// [`Receipt`] tells what became of it. A pending exception of the same type is superseded.
///
/// Costs one allocation and takes well under a microsecond for a running target, some microseconds for a blocked one.
///
/// # Errors
/// [`RaiseError::NoSuchThread`] if nobody matches, [`RaiseError::Ambiguous`] if several threads do: then nothing was
/// raised in any of them, not even for a moment. The exception is dropped.
///
/// The idea is CPython's `PyThreadState_SetAsyncExc`; that nothing is ever raised in two is not.
///
/// ```
/// use throwto::{Stop, raise_exc, thread};
/// let worker = thread::spawn(|| thread::sleep(std::time::Duration::from_secs(3600)));
/// raise_exc(&worker, Stop)?;
/// assert!(worker.join()?.unwrap_err().is::<Stop>());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
#[inline]
pub fn raise_exc(target: impl Into<Target>, exc: impl IntoException) -> Result<Receipt, RaiseError> {
    Raise::new(exc).to(target)
}

/// Sets the pending exception of every thread that matches, as `PyThreadState_SetAsyncExc` does, and returns how many.
///
/// Whatever was pending there is replaced; `None` clears it. As in CPython, a caller who gets more than one back and
/// wanted one should call again with `None`; [`raise_exc`] never needs that.
#[track_caller]
pub fn set_async_exc(target: impl Into<Target>, exc: Option<ExcType>) -> usize {
    let at = Location::caller();
    let ids = target.into().resolve();
    ids.into_iter()
        .filter(|&id| match exc {
            Some(ty) => post_accepted(id, ty, Policy::Replace, at).is_some(),
            None => clear(id),
        })
        .count()
}

fn clear(id: ThreadId) -> bool {
    let Some(record) = REGISTRY.record(id.index()) else {
        return false;
    };
    let cleared = record.clear(id.generation());
    settle_aside(record);
    let is_there = cleared.is_some();
    settle(cleared.into_iter().flatten(), ReceiptState::Revoked);
    is_there
}

/// Raises `exc` in every thread that matches: the wanted broadcast. One receipt for each.
#[track_caller]
pub fn raise_all(target: impl Into<Target>, exc: ExcType) -> Vec<Receipt> {
    let at = Location::caller();
    let ids = target.into().resolve();
    ids.into_iter()
        .filter_map(|id| post_accepted(id, exc, Policy::Supersede, at))
        .collect()
}

/// The receipt, if the target was not leaving already.
fn post_accepted(
    id: ThreadId,
    exc: ExcType,
    policy: Policy,
    at: &'static Location<'static>,
) -> Option<Receipt> {
    let posted = post(id, exc.into_exception(), policy, at).ok()?;
    let accepted = posted.accepted;
    let receipt = posted.settle();
    accepted.then_some(receipt)
}

/// A raise with a policy.
///
/// ```
/// use throwto::{Interrupted, Raise};
/// let attachment = throwto::attach()?;
/// for _ in 0..3 {
///     Raise::new(Interrupted).queue().to(attachment.id())?;
/// }
/// for _ in 0..3 {
///     assert!(throwto::safepoint().is_err());
/// }
/// assert!(throwto::safepoint().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is raised before `to`"]
pub struct Raise<E = ExcType> {
    pub(crate) exception: E,
    pub(crate) queue: bool,
    pub(crate) at: &'static Location<'static>,
}

impl<E: IntoException> Raise<E> {
    /// Prepares to raise `exc`.
    #[track_caller]
    pub fn new(exc: E) -> Self {
        Self {
            exception: exc,
            queue: false,
            at: Location::caller(),
        }
    }

    /// Joins the queue, even behind an exception of the same type, and is not superseded by a later one.
    pub fn queue(mut self) -> Self {
        self.queue = true;
        self
    }

    fn policy(&self) -> Policy {
        Policy::of(self.queue)
    }

    /// Raises in the thread that is in this scope, to be delivered before the scope ends or not at all. If the scope
    /// ends first the receipt says [`TargetEnded`](ReceiptState::TargetEnded).
    ///
    /// # Errors
    /// [`RaiseError::ScopeNotOpen`] if nobody has entered the scope yet, or it is over.
    ///
    /// ```
    /// use throwto::{Interrupted, Raise, ReceiptState, scope::Scope};
    /// let (scope, handle) = Scope::new();
    /// let receipt = scope.run(|| Raise::new(Interrupted).queue().to_scope(&handle).unwrap())?;
    /// assert_eq!(receipt.state(), ReceiptState::TargetEnded, "it never came by a safepoint in there");
    /// # Ok::<(), throwto::Cancelled>(())
    /// ```
    pub fn to_scope(self, scope: &ScopeHandle) -> Result<Receipt, RaiseError> {
        let policy = self.policy();
        let exception = self.exception.into_exception();
        let kind = exception.kind;
        raise_in_scope(scope, exception, policy, self.at)
            .ok_or_else(|| crate::trace::refused(kind, RaiseError::ScopeNotOpen))
    }

    /// Raises in exactly one thread, or in none.
    ///
    /// # Errors
    /// As [`raise_exc`].
    #[inline]
    pub fn to(self, target: impl Into<Target>) -> Result<Receipt, RaiseError> {
        let policy = self.policy();
        raise_in_one(target.into(), self.exception.into_exception(), policy, self.at)
    }
}

fn raise_in_one(
    target: Target,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<Receipt, RaiseError> {
    let kind = exception.kind;
    let Some(one) = target.single() else {
        return raise_in_the_one(target, exception, policy, at);
    };
    // One match or none: nothing to reserve.
    if let Some(id) = one
        && let Ok(receipt) = raise_by_id(id, exception, policy, at)
    {
        return Ok(receipt);
    }
    Err(crate::trace::refused(
        kind,
        RaiseError::NoSuchThread { asked: target },
    ))
}

/// In the only match of a target that may have many.
#[cold]
fn raise_in_the_one(
    target: Target,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<Receipt, RaiseError> {
    let kind = exception.kind;
    let reserved = target.reserve();
    let matched = reserved.len();
    let posted = match (matched, reserved.first()) {
        (1, Some((id, _))) => {
            post(*id, exception, policy, at).map_err(|_| RaiseError::NoSuchThread { asked: target })
        }
        (0, _) => Err(RaiseError::NoSuchThread { asked: target }),
        _ => Err(RaiseError::Ambiguous { matched }),
    };
    for (_, pin) in reserved {
        release(pin);
    }
    // Only now: destructors may wait for the target, and the target for the pins.
    posted
        .map(Posted::settle)
        .map_err(|error| crate::trace::refused(kind, error))
}

/// `None` if the scope is not open; the exception has been dropped.
fn raise_in_scope(
    scope: &ScopeHandle,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Option<Receipt> {
    let (id, scope) = scope.place()?;
    let (posted, owed) = push(id, Some(scope), exception, policy, at).ok()?;
    owed.perform();
    let accepted = posted.accepted;
    let receipt = posted.settle();
    accepted.then_some(receipt)
}

/// That generation is over; the exception has been dropped.
pub(crate) struct Gone;

/// The whole of a raise in one function, for what is done most: its parts are inlined so that nothing is handed from one to
/// the other through memory.
#[inline]
pub(crate) fn raise_by_id(
    id: ThreadId,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<Receipt, Gone> {
    post(id, exception, policy, at).map(Posted::settle)
}

/// A raise that has been made; what it pushed aside is still to be dropped.
#[must_use = "what was pushed aside must be settled"]
pub(crate) struct Posted {
    receipt: Receipt,
    /// Whether it got into the slot.
    accepted: bool,
    aside: Queue,
    record: &'static Record,
}

impl Posted {
    /// Drops what was pushed aside, or the exception itself if the target was leaving. Called with no pin held.
    #[inline(always)]
    fn settle(self) -> Receipt {
        let outcome = if self.accepted {
            ReceiptState::Superseded
        } else {
            ReceiptState::TargetEnded
        };
        match self.aside.single() {
            Ok(entry) => settle_and_keep(self.record, entry, outcome),
            Err(others) if others.is_empty() => {}
            Err(others) => settle(others, outcome),
        }
        settle_aside(self.record);
        self.receipt
    }
}

/// Apart from the raise, in which it is in the way of those that push nothing aside.
#[inline(never)]
fn settle_and_keep(record: &Record, entry: Entry, outcome: ReceiptState) {
    record.spare.keep_entry(settle_one(entry, outcome));
}

/// As [`Posted::settle`], for all raises of one broadcast. Returns the receipts of those that got into their slots.
pub(crate) fn settle_all(posted: Vec<Posted>) -> Vec<Receipt> {
    let (accepted, ended): (Vec<_>, Vec<_>) = posted.into_iter().partition(|posted| posted.accepted);
    // These cannot panic: the raiser still holds what they share.
    settle(
        ended.into_iter().flat_map(|posted| posted.aside),
        ReceiptState::TargetEnded,
    );
    let (receipts, aside): (Vec<_>, Vec<_>) = accepted
        .into_iter()
        .map(|posted| (posted.receipt, posted.aside))
        .unzip();
    settle(aside.into_iter().flatten(), ReceiptState::Superseded);
    for receipt in &receipts {
        if let Some(record) = REGISTRY.record(receipt.target().index()) {
            settle_aside(record);
        }
    }
    receipts
}

/// What a raiser owes to a slot that it has pushed into.
#[must_use = "the target may sleep until the duty is done"]
pub(crate) struct Owed {
    record: &'static Record,
    id: ThreadId,
    duty: Duty<'static>,
    _owing: Owing,
}

impl Owed {
    #[inline(always)]
    pub(crate) fn perform(self) {
        perform(self.record, self.id, self.duty);
    }
}

#[inline(always)]
fn post(
    id: ThreadId,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<Posted, Gone> {
    let (posted, owed) = push_inline(id, None, exception, policy, at)?;
    owed.perform();
    Ok(posted)
}

/// The first half of a raise: it is in the slot. Runs nothing of the exception's, nor of what it pushes aside.
pub(crate) fn push(
    id: ThreadId,
    scope: Option<ScopeId>,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<(Posted, Owed), Gone> {
    push_inline(id, scope, exception, policy, at)
}

#[inline(always)]
fn push_inline(
    id: ThreadId,
    scope: Option<ScopeId>,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<(Posted, Owed), Gone> {
    let record = REGISTRY.record(id.index()).ok_or(Gone)?;
    let origin = Origin {
        kind: exception.kind,
        raised_by: ThreadId::current(),
        raised_at: at,
    };
    let contents = Contents::new(exception.payload, origin, policy == Policy::Queue, scope);
    let (entry, receipt) = record.spare.entry_with_receipt(contents);
    crate::trace::raise(id, &receipt, origin.kind);
    let owing = Owing::new();
    let (accepted, aside, duty) = match record.raise(id.generation(), entry, policy, fences_to(record)) {
        AfterPush::Accepted { displaced, duty } => (true, displaced, duty),
        AfterPush::Ended(entry) => (false, Queue::of(entry), Duty::Nothing),
        AfterPush::Gone(_) => {
            crate::trace::forget(&receipt);
            return Err(Gone);
        }
    };
    let posted = Posted {
        receipt: Receipt::new(id, receipt),
        accepted,
        aside,
        record,
    };
    let owed = Owed {
        record,
        id,
        duty,
        _owing: owing,
    };
    Ok((posted, owed))
}

/// How a raise into this record is fenced against its owner. The owner itself knows what region it is in: what it sees
/// needs no verifying.
#[inline(always)]
fn fences_to(record: &Record) -> Fences {
    if std::ptr::eq(record, current::record()) {
        Fences::Full
    } else {
        runtime::fences()
    }
}

/// Sets the stop flag of `id`. `false` if it has ended.
pub(crate) fn stop(id: ThreadId) -> bool {
    let Some(record) = REGISTRY.record(id.index()) else {
        return false;
    };
    let _owing = Owing::new();
    match record.stop(id.generation(), runtime::fences()) {
        Some(duty) => {
            perform(record, id, duty);
            true
        }
        None => false,
    }
}
