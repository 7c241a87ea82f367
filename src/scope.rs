//! Scopes: stretches of a thread's code that others can cancel or raise into, and never hit anything after.
//!
//! Owns: running a closure in a scope, telling its exception from all others when it comes out, [`Scope`] and
//! [`ScopeHandle`]. Leaves to `protocol::scope` who is let in, to `time` deadlines.
//! Entering and leaving block for no longer than the slot's lock and a signal that is on its way.
//!
//! **Signal context:** no.
//!
//! ## Whose exception came out
//!
//! Each delivery of a scope's exception has a receipt, and the scope keeps it (I4 of `protocol::scope`). When the body is
//! done:
//!
//! | the body | and | the scope's result |
//! | --- | --- | --- |
//! | unwound with a delivery | that has one of these receipts | its own: converted |
//! | unwound with anything else | | unwinds on |
//! | returned | all of these deliveries have been dropped | the result wins |
//! | returned | one lives, and the result's type has something to drop | it is in there: converted, the result dropped |
//!
//! The last row is how `?` works for every error type that a [`Raised`] can be turned into: what is swallowed is dropped.
//! It cannot tell a result from an exception that the body has put aside somewhere else; see [`Scope::run`].

use std::any::Any;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::Arc;

use crate::attach::{Attachment, attach};
use crate::current::{self, LATEST, REGISTRY};
use crate::driver::{self, perform};
use crate::error::RaiseError;
use crate::exception::{Cancelled, IntoException, TimedOut};
use crate::protocol::Owing;
use crate::protocol::deadline::NEVER;
use crate::protocol::entry::{Contents, Entry, Origin, Payload, ReceiptRef};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::Owner;
use crate::protocol::registry::ThreadId;
use crate::protocol::scope::{Begun, End, Place, ScopeCall, ScopeCell, ScopeId, Why};
use crate::raise::Raise;
use crate::raised::Raised;
use crate::receipt::{Receipt, settle, settle_aside};
pub use crate::target::ScopeHandle;
use crate::{runtime, trace};

/// A scope that has not been entered: get a [`handle`](Self::handle) for others, then [`run`](Self::run) it.
///
/// What is addressed to a scope is delivered inside it or never. The exception of an outer scope passes through the inner
/// ones: each converts only its own, by identity and not by type. A new thread is in no scope.
///
/// Scopes cannot be ended in the wrong order, since they are closures, unless the thread changes stacks inside one (a
/// coroutine) or a foreign function jumps out of it. Then the outer scope's end closes those inside it and panics with the places where
/// both were begun. A scope is entered once:
///
/// ```compile_fail,E0382
/// let (scope, _handle) = throwto::scope::Scope::new();
/// let _once = scope.run(|| ());
/// let _twice = scope.run(|| ());
/// ```
///
/// Cancelling is Trio's: level-triggered, a cancelled scope stays cancelled.
///
/// ```
/// use throwto::scope::Scope;
/// let (scope, handle) = Scope::new();
/// let worker = throwto::thread::spawn(move || {
///     let first = scope.run(|| throwto::thread::sleep(std::time::Duration::from_secs(3600)));
///     let next = throwto::safepoint();
///     (first.is_err(), next.is_ok())
/// });
/// handle.cancel();
/// assert_eq!(worker.join().unwrap(), (true, true));
/// ```
#[derive(Debug)]
pub struct Scope {
    handle: ScopeHandle,
}

impl std::fmt::Debug for ScopeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScopeHandle")
            .field("cancelled", &self.is_cancelled())
            .finish()
    }
}

impl Scope {
    /// A scope, and the handle to it.
    pub fn new() -> (Self, ScopeHandle) {
        let handle = ScopeHandle {
            cell: Arc::new(ScopeCell::new()),
        };
        let scope = Self {
            handle: handle.clone(),
        };
        (scope, handle)
    }

    /// Another handle to it.
    pub fn handle(&self) -> ScopeHandle {
        self.handle.clone()
    }

    /// Runs `f` in the scope, on the calling thread, which is attached for that time if it was not.
    ///
    /// Once the scope is cancelled, every safepoint and every blocking call in `f` raises [`Cancelled`], again and again;
    /// masks and shields hold it back as any exception. A scope that was cancelled before runs `f` all the same, up to its
    /// first safepoint.
    ///
    /// # Errors
    /// [`Cancelled`] if an exception of this scope came out of `f`: by unwinding, or in what `f` returned. If `f` swallowed it
    /// (dropped it) and returned, that result is returned. An exception of the scope that is still alive when `f` returns
    /// a value with something to drop counts as having come out, even if `f` has put it aside elsewhere.
    ///
    /// # Panics
    /// If the thread cannot be attached ([`AttachError`](crate::AttachError)): call [`attach`](crate::attach) before where that may be. If
    /// a scope inside this one was never ended; see [`Scope`].
    ///
    /// ```
    /// use throwto::{Cancelled, scope::Scope};
    /// let (scope, handle) = Scope::new();
    /// handle.cancel();
    /// let outcome = scope.run(|| {
    ///     throwto::safepoint()?;
    ///     Ok::<_, throwto::Raised>(5)
    /// });
    /// assert_eq!(outcome.unwrap_err(), Cancelled);
    /// ```
    #[track_caller]
    pub fn run<T>(self, f: impl FnOnce() -> T) -> Result<T, Cancelled> {
        let at = Location::caller();
        let _attachment = attached();
        let open = OpenScope::begin(NEVER, 0, at);
        if self.handle.cell.begin(open.place()) {
            cancel(open.place(), at);
        }
        open.run(f).map_err(|Own| Cancelled)
    }

    /// As [`run`](Self::run), converting nothing: the scope's exceptions come out of it as they are.
    #[track_caller]
    pub(crate) fn run_through<T>(self, f: impl FnOnce() -> T) -> T {
        let at = Location::caller();
        let _attachment = attached();
        let open = OpenScope::begin(NEVER, 0, at);
        if self.handle.cell.begin(open.place()) {
            cancel(open.place(), at);
        }
        let outcome = catch_unwind(AssertUnwindSafe(f));
        let _not_converted = open.end(outcome.is_ok());
        outcome.unwrap_or_else(|payload| resume_unwind(payload))
    }
}

impl ScopeHandle {
    /// Cancels the scope: from now on every safepoint and every blocking call in it raises [`Cancelled`]. Without effect
    /// once it is over, or cancelled already. The thread is woken as by any raise.
    #[track_caller]
    pub fn cancel(&self) {
        self.cancel_at(Location::caller());
    }

    /// As [`cancel`](Self::cancel), with the place in the source that the exception will name.
    pub(crate) fn cancel_at(&self, at: &'static Location<'static>) {
        if let Some(place) = self.cell.cancel() {
            cancel(place, at);
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.cell.is_cancelled()
    }

    /// Raises `exc` in the scope, once: [`Raise::to_scope`].
    ///
    /// # Errors
    /// [`RaiseError::ScopeNotOpen`] if nobody has entered the scope yet, or it is over.
    ///
    /// ```
    /// use throwto::{Interrupted, RaiseError, scope::Scope};
    /// let (scope, handle) = Scope::new();
    /// assert!(matches!(handle.raise(Interrupted), Err(RaiseError::ScopeNotOpen)));
    /// let outcome = scope.run(|| {
    ///     handle.raise(Interrupted).unwrap();
    ///     throwto::safepoint()
    /// });
    /// assert!(outcome.is_err());
    /// assert!(matches!(handle.raise(Interrupted), Err(RaiseError::ScopeNotOpen)));
    /// ```
    #[track_caller]
    pub fn raise(&self, exc: impl IntoException) -> Result<Receipt, RaiseError> {
        Raise::new(exc).to_scope(self)
    }
}

#[cold]
fn cancel(place: Place, at: &'static Location<'static>) {
    let record = REGISTRY.record(place.index);
    let id = ThreadId::from_parts(place.index, place.generation);
    let _owing = Owing::new();
    if let (Some(record), Some(id)) = (record, id)
        && let Some(duty) = record.cancel_scope(place.generation, place.scope, at, runtime::fences())
    {
        perform(record, id, duty);
    }
}

/// A moment in the thread's scopes.
#[derive(Clone, Copy)]
pub(crate) struct Mark(ScopeId);

impl Mark {
    #[inline(always)]
    pub(crate) fn now() -> Self {
        Self(LATEST.get())
    }

    /// A call that was begun at this moment has been left by force, and with it the scopes inside it. Returns what they
    /// had to raise, which is nobody's to convert any more.
    #[cold]
    pub(crate) fn close_inside(self, owner: Owner) -> Option<Why> {
        if LATEST.get() == self.0 {
            return None;
        }
        let (why, entries) = owner.close_after(self.0);
        current::await_nudge(owner);
        settle(entries, ReceiptState::TargetEnded);
        why
    }
}

/// Attaches the calling thread for a scope, unless it is attached: a scope without a record could not be reached. While a
/// scope is open no attachment's end gives the record back.
#[inline]
#[track_caller]
pub(crate) fn attached() -> Option<Attachment> {
    if current::owner().is_some() {
        return None;
    }
    match attach() {
        Ok(attachment) => Some(attachment),
        Err(error) => panic!("a scope or a time limit needs an attached thread: {error}"),
    }
}

/// It was the scope's own exception that ended the body.
pub(crate) struct Own;

/// An open scope of the calling thread.
pub(crate) struct OpenScope {
    owner: Owner,
    scope: ScopeId,
    at: &'static Location<'static>,
}

impl OpenScope {
    /// The calling thread is attached, and stays so while the scope lasts.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn begin(deadline: u64, now: u64, at: &'static Location<'static>) -> Self {
        let owner = Owner::of(current::record());
        let begun = owner.begin_scope(deadline, now, at);
        let scope = begun.id;
        let open = Self { owner, scope, at };
        if !promise(owner, &begun) {
            open.end(false);
            unwatched();
        }
        LATEST.set(scope);
        open
    }

    fn place(&self) -> Place {
        Place {
            index: self.owner.record().index(),
            generation: self.owner.record().attention().generation(),
            scope: self.scope,
        }
    }

    /// Has no effect once the scope raises.
    #[track_caller]
    pub(crate) fn move_deadline(&self, deadline: u64, now: u64) {
        let begun = self.owner.move_deadline(self.scope, deadline, now);
        if begun.is_some_and(|begun| !promise(self.owner, &begun)) {
            unwatched();
        }
    }

    /// The deadline, and whether the scope raises.
    pub(crate) fn state(&self) -> (u64, bool) {
        self.owner.scope_state(self.scope).unwrap_or((NEVER, true))
    }

    /// Runs the body and ends the scope.
    #[inline]
    pub(crate) fn run<T>(self, f: impl FnOnce() -> T) -> Result<T, Own> {
        self.run_with(|_| f())
    }

    #[inline]
    pub(crate) fn run_with<T>(self, f: impl FnOnce(&Self) -> T) -> Result<T, Own> {
        // Unwind safety is the caller's, as for `catch`.
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&self)));
        let delivered = self.end(outcome.is_ok());
        match outcome {
            Ok(result) if delivered.is_empty() => Ok(result),
            Ok(result) => came_out(result, &delivered),
            Err(payload) => unwound(payload, &delivered),
        }
    }

    /// A body that has `returned` is told if scopes were not ended as closures are; a panic goes on.
    #[inline(always)]
    fn end(self, returned: bool) -> Vec<ReceiptRef> {
        match self.owner.end_scope(self.scope) {
            Some(end) if end.await_nudge => self.end_raised(end, returned),
            Some(end) => end.delivered,
            None => self.end_too_late(returned),
        }
    }

    #[cold]
    fn end_raised(self, end: End, returned: bool) -> Vec<ReceiptRef> {
        current::await_nudge(self.owner);
        settle(end.entries, ReceiptState::TargetEnded);
        settle_aside(self.owner.record());
        if let Some(inner) = end.left_open.filter(|_| returned) {
            panic!(
                "misnested scopes: the one begun at {} has ended before the one inside it, begun at {inner}, which was left by \
                 a jump or is on another stack; both are over now",
                self.at
            );
        }
        end.delivered
    }

    #[cold]
    fn end_too_late(self, returned: bool) -> Vec<ReceiptRef> {
        assert!(
            !returned,
            "misnested scopes: the one begun at {} was over before its body was, since one around it had ended, which said so",
            self.at
        );
        Vec::new()
    }
}

/// A limit that nobody watches must not look like one.
#[cold]
#[track_caller]
fn unwatched() -> ! {
    panic!(
        "a time limit needs the thread throwto-driver, which the system did not let start: let threads end, or raise the limit \
         on their number (RLIMIT_NPROC, pids.max)"
    );
}

/// `false` if nobody will look at the deadline.
#[inline]
fn promise(owner: Owner, begun: &Begun) -> bool {
    begun.visit.is_none_or(|at| watch(owner, at))
}

/// Tells the driver of a deadline. `false` if there is no driver.
#[cold]
fn watch(owner: Owner, at: u64) -> bool {
    let told = ThreadId::of(owner.record()).is_none_or(|id| driver::visit_at(id, at));
    if told {
        owner.told_driver(at);
    }
    told
}

/// The body has returned, and exceptions of its scope were delivered in it.
#[cold]
fn came_out<T>(result: T, delivered: &[ReceiptRef]) -> Result<T, Own> {
    let lives = delivered.iter().any(|receipt| !receipt.state().is_final());
    // A number or a `()` holds no exception.
    if lives && std::mem::needs_drop::<T>() {
        Err(Own)
    } else {
        Ok(result)
    }
}

#[cold]
fn unwound<T>(payload: Box<dyn Any + Send>, delivered: &[ReceiptRef]) -> Result<T, Own> {
    let own = payload
        .downcast_ref::<Raised>()
        .is_some_and(|raised| delivered.iter().any(|receipt| raised.is_of(receipt)));
    if own { Err(Own) } else { resume_unwind(payload) }
}

/// The exception of the outermost cancelled scope, to be delivered, if there is one.
#[cold]
pub(crate) fn take_call(owner: Owner) -> Option<Entry> {
    let origin = Origin::of::<Cancelled>(Location::caller());
    let mut entry = Entry::new(Contents::new(Payload::Taken, origin, false, None));
    let (why, at) = match owner.take_scope_call(&entry.receipt) {
        ScopeCall::Raise(reason) => reason,
        ScopeCall::Visit(when) => {
            // There is one: it has been here before.
            let _watched = watch(owner, when);
            return None;
        }
        ScopeCall::Nothing => return None,
    };
    current::await_nudge(owner);
    (entry.payload, entry.origin) = match why {
        Why::Cancelled => (Payload::Value(Box::new(Cancelled)), Origin::of::<Cancelled>(at)),
        Why::TimedOut => (Payload::Value(Box::new(TimedOut)), Origin::of::<TimedOut>(at)),
    };
    if let Some(id) = ThreadId::current() {
        trace::raise(id, &entry.receipt, entry.origin.kind);
    }
    Some(entry)
}
