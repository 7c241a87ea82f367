//! [`scope`]: threads that borrow from the stack, and end before the scope does.
//!
//! Owns: which children live, passing a raise on to them, waiting for them. Leaves to `start` starting them, to
//! `sync::queue` the waiting. [`scope`] blocks until the last child has ended, for as long as that takes.
//!
//! **Signal context:** no.
//!
//! - I1. [`scope`] returns, or unwinds, only when no child lives: a child counts from before it starts until its [`Bound`]
//!   is dropped, the last that it does.
//! - I2. A raise that finds the parent waiting stays pending there, and is passed on as [`Cancelled`], once to each
//!   child: what has been put into the parent's slot is counted, so that each raise is passed on. A limit of the parent's that
//!   has passed, and a scope of its that is cancelled, are no raise and in no slot: they are passed on again every
//!   [`AGAIN`], since they stay.

use std::collections::HashSet;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Builder, JoinError, JoinHandle, stopped};
use crate::current;
use crate::error::RaiseError;
use crate::exception::{Cancelled, IntoException};
use crate::platform::handler;
use crate::protocol::entry::ReceiptRef;
use crate::protocol::record::Owner;
use crate::protocol::registry::ThreadId;
use crate::protocol::slot::Policy;
use crate::raise::{raise_by_id, stop};
use crate::receipt::{Receipt, deadline_after, settle_aside};
use crate::region::Raises;
use crate::safepoint::{Moment, deliverable};
use crate::sync::queue::WaitQueue;

/// How often a limit that has passed, or the cancellation of a scope, is passed on: children may swallow it.
const AGAIN: Duration = Duration::from_millis(10);

/// What a scope and its children share.
pub(super) struct Shared {
    state: Mutex<State>,
    ended: WaitQueue,
    /// The process that it is in: a forked child has no other threads to wait for.
    process: i32,
    at: &'static Location<'static>,
}

#[derive(Default)]
struct State {
    live: HashSet<ThreadId>,
    /// Children that are spawned from now on are raised into at once.
    cancelled: bool,
    stopped: bool,
    panicked: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.process != handler::process() || self.state().live.is_empty()
    }

    pub(super) fn note_panic(&self) {
        self.state().panicked = true;
    }

    /// Raises in every child.
    fn cancel(&self) {
        let mut state = self.state();
        state.cancelled = true;
        let live: Vec<ThreadId> = state.live.iter().copied().collect();
        drop(state);
        live.into_iter().for_each(|id| self.cancel_one(id));
    }

    fn cancel_one(&self, id: ThreadId) {
        // Who has ended meanwhile needs no raise.
        let _ = raise_by_id(id, Cancelled.into_exception(), Policy::Supersede, self.at);
    }

    /// Hands the parent's stop flag down.
    fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        let live: Vec<ThreadId> = state.live.iter().copied().collect();
        drop(state);
        for id in live {
            stop(id);
        }
    }

    /// The waiting of I1 and I2.
    fn wait(&self) {
        let Some(owner) = current::owner() else {
            self.ended.wait_until(None, Raises::Stay, || self.is_over());
            return;
        };
        let mut passed_on = None;
        while !self.is_over() {
            let held = deliverable(owner, Moment::Blocking);
            if held {
                passed_on = self.pass_on(owner, passed_on);
            }
            let raises = if held { Raises::Stay } else { Raises::Show };
            let again = (held && owner.scope_calls())
                .then(|| deadline_after(AGAIN))
                .flatten();
            // Each raise wakes the wait, also one that finds another pending (I7 of `protocol::record`).
            let news = || held && (raises_into(owner) != passed_on || stopped() && !self.state().stopped);
            self.ended.wait_until(again, raises, || self.is_over() || news());
        }
    }

    /// Tells the children of what came since `before`, and returns how far that goes. A limit that has passed and a cancelled scope
    /// raise as long as they last, so they are told of again each time.
    fn pass_on(&self, owner: Owner, before: Option<u32>) -> Option<u32> {
        let raises = raises_into(owner);
        let news = before != raises && owner.record().pending_count() > 0;
        if news || owner.scope_calls() {
            self.cancel();
        }
        if stopped() && !self.state().stopped {
            self.stop();
        }
        raises
    }
}

/// How many exceptions were put into the waiting parent's slot.
fn raises_into(owner: Owner) -> Option<u32> {
    let raises = owner.raises();
    settle_aside(owner.record());
    raises
}

/// Counts a child from before its start until this is dropped.
pub(super) struct Bound {
    shared: Arc<Shared>,
    id: ThreadId,
}

impl Bound {
    /// The child is registered and has not started.
    pub(super) fn to(scope: &Scope<'_, '_>, id: ThreadId) -> Self {
        let shared = Arc::clone(&scope.shared);
        let mut state = shared.state();
        state.live.insert(id);
        let (cancelled, stopped) = (state.cancelled, state.stopped);
        drop(state);
        if cancelled {
            shared.cancel_one(id);
        }
        if stopped {
            stop(id);
        }
        Self { shared, id }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.live.remove(&self.id);
        let last = state.live.is_empty();
        drop(state);
        if last {
            self.shared.ended.notify_all();
        }
    }
}

/// Where threads that borrow are spawned: given to the closure of [`scope`].
pub struct Scope<'scope, 'env: 'scope> {
    shared: Arc<Shared>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl std::fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope")
            .field("live", &self.shared.state().live)
            .finish()
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Starts an attached thread that ends before the scope does, and may borrow what outlives the scope.
    ///
    /// # Panics
    /// As [`spawn`](super::spawn); [`Builder::spawn_scoped`] returns the error instead.
    pub fn spawn<T: Send + 'scope>(
        &'scope self,
        f: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        Builder::new()
            .spawn_scoped(self, f)
            .expect("failed to start an attached thread")
    }
}

/// A thread of a [`scope`]. Dropping the handle leaves the waiting to the scope.
#[derive(Debug)]
pub struct ScopedJoinHandle<'scope, T> {
    handle: JoinHandle<T>,
    scope: PhantomData<&'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    pub(super) fn new(handle: JoinHandle<T>) -> Self {
        Self {
            handle,
            scope: PhantomData,
        }
    }

    /// The thread's id.
    pub fn id(&self) -> ThreadId {
        self.handle.id()
    }

    /// Whether the thread's closure has not returned yet.
    pub fn is_alive(&self) -> bool {
        self.handle.is_alive()
    }

    /// Raises `exc` in the thread: [`raise_exc`](crate::raise_exc).
    ///
    /// # Errors
    /// [`RaiseError::NoSuchThread`] if it has ended.
    #[track_caller]
    pub fn raise(&self, exc: impl IntoException) -> Result<Receipt, RaiseError> {
        self.handle.raise(exc)
    }

    /// A handle that can be cloned, to unpark the thread.
    pub fn thread(&self) -> &super::Thread {
        self.handle.thread()
    }

    /// As std's: whether [`join`](Self::join) would return at once.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits until the thread has ended, and returns its result.
    ///
    /// # Errors
    /// As [`JoinHandle::join`]. An interrupted join gives the handle back; the scope waits for the thread all the same.
    #[track_caller]
    pub fn join(self) -> Result<T, JoinError<T>> {
        self.handle.join()
    }
}

impl<T> From<&ScopedJoinHandle<'_, T>> for crate::Target {
    fn from(handle: &ScopedJoinHandle<'_, T>) -> Self {
        Self::Id(handle.id())
    }
}

/// Ends the process rather than let go of what children borrow.
struct NoWayOut;

impl Drop for NoWayOut {
    fn drop(&mut self) {
        eprintln!("throwto: waiting for the threads of a scope failed, and they borrow from it");
        std::process::abort();
    }
}

/// `std::thread::scope` whose threads are attached, and end early when nobody wants their results any more.
///
/// Children may borrow from the caller's stack: the scope always waits for all of them, even when `f` unwinds. It raises
/// [`Cancelled`] in them
///
/// - when `f` panics, or an exception unwinds out of it;
/// - when `f` returns with an exception that was delivered in it and is still at hand, as an `Err` has it: one that `f`
///   has dropped counts as dealt with;
/// - when the scope is raised into while it waits: that exception stays pending, and is raised at the first safepoint
///   after the scope. Each further raise is passed on again, so children that swallow one meet the next;
/// - when a time limit around it has passed, or a scope around it is cancelled, while it waits: again every 10 ms, since that lasts.
///
/// A stop flag ([`StoppableThread`](super::StoppableThread)) is handed down as a flag. Under an
/// [`uninterruptible`](crate::uninterruptible) or a [`shield`](crate::shield()) nothing is passed on.
///
/// A child that cannot be stopped holds the scope: [`threads`](crate::threads) shows it, by its
/// [`parent`](crate::ThreadInfo::parent), and what it is blocked in.
///
/// # Panics
/// As std's, if a child panicked that was not joined: the other children go on meanwhile. A child that an exception ended
/// is no panic.
///
/// ```
/// use throwto::{Stop, thread};
/// let parent = thread::spawn(|| {
///     let shares = [1, 2, 3];
///     thread::scope(|s| {
///         for share in &shares {
///             s.spawn(move || thread::sleep(std::time::Duration::from_secs(3600 * share)));
///         }
///         thread::park()
///     })
/// });
/// parent.raise(Stop)?;
/// // The exception has ended the body's `park`; the children were raised into and joined.
/// assert!(parent.join()?.unwrap_err().is::<Stop>());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What does not outlive the scope cannot be lent:
///
/// ```compile_fail,E0373
/// throwto::thread::scope(|s| {
///     let short = String::new();
///     s.spawn(|| short.len());
/// });
/// ```
///
/// ```compile_fail,E0597
/// let mut kept = None;
/// {
///     let short = String::from("gone at the brace");
///     throwto::thread::scope(|s| kept = s.spawn(|| short.as_str()).join().ok());
/// }
/// println!("{kept:?}");
/// ```
#[track_caller]
pub fn scope<'env, T>(f: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T) -> T {
    let scope = Scope {
        shared: Arc::new(Shared {
            state: Mutex::default(),
            ended: WaitQueue::new(),
            process: handler::process(),
            at: Location::caller(),
        }),
        scope: PhantomData,
        env: PhantomData,
    };
    let before = uncaught();
    let result = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    let held = NoWayOut;
    let mut since = uncaught();
    since.retain(|new| !before.iter().any(|old| old.is(new)));
    if result.is_err() || !since.is_empty() {
        scope.shared.cancel();
    }
    scope.shared.wait();
    std::mem::forget(held);
    match result {
        Err(unwinding) => resume_unwind(unwinding),
        Ok(_) if scope.shared.state().panicked => panic!("a scoped thread panicked"),
        Ok(value) => value,
    }
}

/// The exceptions that were delivered to the calling thread and that it has not caught yet.
fn uncaught() -> Vec<ReceiptRef> {
    current::owner()
        .map(|owner| owner.record().flight.uncaught())
        .unwrap_or_default()
}
