//! Raising: from a target's name to an entry in its slot, and the duty that follows.
//!
//! Owns: [`Target`], [`raise_exc`], [`set_async_exc`], [`raise_all`], the [`Raise`] builder. Leaves to `by_id` the one
//! raise, to `driver` everything that takes time. Nothing here blocks but short locks.
//!
//! **Signal context:** no.
//!
//! ## How a raise is atomic (P1)
//!
//! A name may match many threads. Under the registry's lock all matches are pinned (*reserved*): pins are invisible to
//! safepoints, and what is pinned can neither end nor become another thread. The lock is let go. One match: its slot
//! gets the entry (*commit*). None or many: the pins are dropped (*revert*) and nothing was ever in any slot.

mod by_id;

use std::panic::Location;

pub(crate) use by_id::{Gone, push, raise_by_id, settle_all, stop};
use by_id::{Posted, post};

use crate::current::{self, REGISTRY, release, with_members};
use crate::error::RaiseError;
use crate::exception::{ExcType, IntoException, Raisable};
use crate::protocol::entry::Kind;
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::Pin;
use crate::protocol::registry::{Member, Members, ThreadId};
use crate::protocol::slot::Policy;
use crate::receipt::{Receipt, settle, settle_aside};
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
    let accepted = posted.is_accepted();
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
        // Where the target is an id, it is so from the first: the caller has no other in its code.
        match target.into() {
            Target::Id(id) => raise_in_id(id, self.exception.into_exception(), policy, self.at),
            target => raise_in_one(target, self.exception.into_exception(), policy, self.at),
        }
    }
}

/// One match or none: nothing to reserve.
fn raise_in_id(
    id: ThreadId,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<Receipt, RaiseError> {
    let kind = exception.kind;
    raise_by_id(id, exception, policy, at).map_err(|Gone| no_such_thread(Target::Id(id), kind))
}

#[cold]
fn no_such_thread(asked: Target, kind: &'static Kind) -> RaiseError {
    crate::trace::refused(kind, RaiseError::NoSuchThread { asked })
}

fn raise_in_one(
    target: Target,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<Receipt, RaiseError> {
    match target {
        Target::Id(id) => raise_in_id(id, exception, policy, at),
        // A kernel thread runs one member.
        Target::OsTid(tid) => {
            let kind = exception.kind;
            current::on_os_thread(tid.as_raw())
                .ok_or(Gone)
                .and_then(|id| raise_by_id(id, exception, policy, at))
                .map_err(|Gone| no_such_thread(target, kind))
        }
        Target::Name(_) => raise_in_the_one(target, exception, policy, at),
    }
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
    let accepted = posted.is_accepted();
    let receipt = posted.settle();
    accepted.then_some(receipt)
}
