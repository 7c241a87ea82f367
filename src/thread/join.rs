//! [`JoinHandle`]: a started thread, its result, and how it ended.
//!
//! Owns: handing the result over and telling raised from panicked. Leaves to `sync::queue` the waiting.
//! [`JoinHandle::join`] blocks.
//!
//! **Signal context:** no.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::current::with_members;
use crate::error::RaiseError;
use crate::exception::IntoException;
use crate::platform::handler;
use crate::protocol::registry::ThreadId;
use crate::raised::Raised;
use crate::receipt::{Receipt, deadline_after};
use crate::region::{Raises, Waited};
use crate::safepoint::as_raised;
use crate::sync::queue::WaitQueue;
use crate::target::Target;

use super::Thread;
use super::scope::{Bound, Shared};

type Payload = Box<dyn Any + Send>;

/// Where the thread leaves its result.
pub(super) struct Packet<T> {
    result: Mutex<Option<Result<T, Payload>>>,
    done: Mutex<bool>,
    joiners: WaitQueue,
    /// The scope that is to be told of a panic which nobody has asked about.
    scope: Option<Arc<Shared>>,
}

impl<T> Packet<T> {
    pub(super) fn new(bound: Option<&Bound>) -> Self {
        Self {
            scope: bound.map(Bound::shared),
            result: Mutex::new(None),
            done: Mutex::new(false),
            joiners: WaitQueue::new(),
        }
    }

    /// In the thread: runs its closure and keeps what it returned or was ended by.
    pub(super) fn run(&self, f: impl FnOnce() -> T) {
        let result = catch_unwind(AssertUnwindSafe(f));
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }

    /// In the thread, detached: lets joiners have it.
    pub(super) fn complete(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.joiners.notify_all();
    }

    fn is_done(&self) -> bool {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Packet<T> {
    fn drop(&mut self) {
        let result = self.result.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let (Some(scope), Some(Err(payload))) = (&self.scope, result)
            && !payload.is::<Raised>()
        {
            scope.note_panic();
        }
    }
}

/// Completes its packet when dropped.
pub(super) struct Completes<T>(pub(super) Arc<Packet<T>>);

impl<T> Drop for Completes<T> {
    fn drop(&mut self) {
        self.0.complete();
    }
}

/// A thread started by [`spawn`](super::spawn). Dropping the handle lets the thread go on by itself.
pub struct JoinHandle<T> {
    id: ThreadId,
    /// The process that started it: a forked child has the handle and not the thread.
    process: i32,
    packet: Arc<Packet<T>>,
    inner: std::thread::JoinHandle<()>,
    thread: Thread,
}

/// Why there is no result.
pub enum JoinError<T = ()> {
    /// An exception ended the thread: it unwound out of the thread's closure.
    Raised(Raised),
    /// A panic ended the thread.
    Panicked(Payload),
    /// An exception was raised in the thread that joins. The other goes on; here is its handle.
    Interrupted(Raised, JoinHandle<T>),
}

impl<T> JoinHandle<T> {
    pub(super) fn new(id: ThreadId, packet: Arc<Packet<T>>, inner: std::thread::JoinHandle<()>) -> Self {
        Self {
            id,
            process: handler::process(),
            packet,
            thread: Thread::new(Some(id), inner.thread().clone()),
            inner,
        }
    }

    /// The thread's id.
    pub fn id(&self) -> ThreadId {
        self.id
    }

    /// A handle that can be cloned, to unpark the thread.
    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Whether the thread's closure has not returned yet. In a forked child no thread of the parent is alive.
    pub fn is_alive(&self) -> bool {
        !self.packet.is_done() && with_members(|members| members.get(self.id).is_some())
    }

    /// As std's: whether [`join`](Self::join) would return at once.
    pub fn is_finished(&self) -> bool {
        self.packet.is_done()
    }

    /// Raises `exc` in the thread: [`raise_exc`](crate::raise_exc).
    ///
    /// # Errors
    /// [`RaiseError::NoSuchThread`] if it has ended.
    #[track_caller]
    pub fn raise(&self, exc: impl IntoException) -> Result<Receipt, RaiseError> {
        crate::raise::raise_exc(self.id, exc)
    }

    /// Gives the thread its park token: [`unpark`](super::unpark).
    pub fn unpark(&self) {
        super::unpark(self.id);
    }

    /// Waits until the thread has ended, and returns its result.
    ///
    /// A cancellation point. In a forked child a thread of the parent cannot be joined: an error, at once.
    ///
    /// # Errors
    /// [`JoinError`] tells whether the thread was raised into or panicked, or the joining thread was raised into.
    ///
    /// # Panics
    /// If a thread joins itself, as std's does.
    ///
    /// ```
    /// use throwto::thread::{JoinError, spawn};
    /// let worker = spawn(|| -> () { loop { throwto::safepoint_unwind() } });
    /// worker.raise(throwto::Stop)?;
    /// assert!(matches!(worker.join(), Err(JoinError::Raised(raised)) if raised.is::<throwto::Stop>()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn join(self) -> Result<T, JoinError<T>> {
        assert!(
            ThreadId::current() != Some(self.id),
            "thread {} joins itself, and would wait for ever; have another thread join it",
            self.id
        );
        match self.wait_done(None) {
            Waited::Raised(raised) => Err(JoinError::Interrupted(raised, self)),
            Waited::Ready | Waited::TimedOut => self.finish(),
        }
    }

    /// As [`join`](Self::join), for at most `limit`: `Ok(Ok(result))`, or `Ok(Err(handle))` if the time was over.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    ///
    /// ```
    /// use std::time::Duration;
    /// let stubborn = throwto::thread::spawn(throwto::thread::park);
    /// match stubborn.join_timeout(Duration::from_millis(1))? {
    ///     Ok(result) => println!("it ended: {result:?}"),
    ///     Err(still_running) => still_running.unpark(),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn join_timeout(self, limit: Duration) -> Result<Result<T, Self>, JoinError<T>> {
        match self.wait_done(Some(limit)) {
            Waited::Raised(raised) => Err(JoinError::Interrupted(raised, self)),
            Waited::TimedOut => Ok(Err(self)),
            Waited::Ready => self.finish().map(Ok),
        }
    }

    #[track_caller]
    fn wait_done(&self, limit: Option<Duration>) -> Waited {
        if self.packet.is_done() || self.stayed_behind() {
            return Waited::Ready;
        }
        if let Err(raised) = crate::safepoint() {
            return Waited::Raised(raised);
        }
        let deadline = limit.and_then(deadline_after);
        self.packet
            .joiners
            .wait_until(deadline, Raises::End, || self.packet.is_done())
    }

    /// Waits until the thread has ended or an exception can be delivered in the caller, who takes it. `false` if there is
    /// no thread to wait for any more.
    pub(crate) fn wait_ended_or_called(&self) -> bool {
        let gone = || self.packet.is_done() || self.stayed_behind();
        self.packet.joiners.wait_until(None, Raises::Show, gone);
        !gone()
    }

    /// Whether this is a forked child, and the thread runs in the parent.
    fn stayed_behind(&self) -> bool {
        self.process != handler::process()
    }

    fn finish(self) -> Result<T, JoinError<T>> {
        if self.stayed_behind() && !self.packet.is_done() {
            return Err(JoinError::Panicked(Box::new(
                "the thread stayed in the parent when this process was forked",
            )));
        }
        // What is left of it is thread-local destructors and the kernel's exit.
        let _ = self.inner.join();
        let result = self
            .packet
            .result
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match result {
            Some(Ok(value)) => Ok(value),
            Some(Err(payload)) => Err(match as_raised(payload) {
                Ok(raised) => JoinError::Raised(raised),
                Err(panic) => JoinError::Panicked(panic),
            }),
            None => Err(JoinError::Panicked(Box::new("the thread left no result"))),
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.id)
            .field("alive", &self.is_alive())
            .finish()
    }
}

impl<T> fmt::Debug for JoinError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised(raised) => f.debug_tuple("Raised").field(raised).finish(),
            Self::Panicked(payload) => f.debug_tuple("Panicked").field(&panic_text(payload)).finish(),
            Self::Interrupted(raised, handle) => {
                f.debug_tuple("Interrupted").field(raised).field(handle).finish()
            }
        }
    }
}

impl<T> fmt::Display for JoinError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised(raised) => write!(f, "the thread was ended by an exception: {raised}"),
            Self::Panicked(payload) => write!(f, "the thread panicked: {}", panic_text(payload)),
            Self::Interrupted(raised, handle) => {
                write!(
                    f,
                    "raised into while joining thread {}, which goes on: {raised}",
                    handle.id
                )
            }
        }
    }
}

impl<T> std::error::Error for JoinError<T> {}

impl<T> From<&JoinHandle<T>> for Target {
    fn from(handle: &JoinHandle<T>) -> Self {
        Self::Id(handle.id())
    }
}

/// The text of a panic.
pub(crate) fn panic_text(payload: &Payload) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a payload that is not text)")
}
