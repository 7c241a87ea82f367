//! [`StoppableThread`]: the cooperative base case.
//!
//! Owns: the level flag's face. Leaves to `protocol` the bit, to `safepoint` raising `Stop` while it is set.
//!
//! **Signal context:** no.

use crate::current;
use crate::error::RaiseError;
use crate::exception::IntoException;
use crate::protocol::registry::ThreadId;
use crate::protocol::word::Attention;
use crate::receipt::Receipt;
use crate::target::Target;

use super::{JoinError, JoinHandle, spawn};

/// A thread with a stop flag: once [`stop`](Self::stop) is called, each of its safepoints and blocking calls raises
/// [`Stop`](crate::Stop), again and again, until it ends. Code that swallows one meets the next.
///
/// ```
/// use throwto::thread::{StoppableThread, stopped};
/// let worker = StoppableThread::spawn(|| {
///     let mut rounds = 0_u64;
///     while !stopped() {
///         rounds += 1;
///     }
///     rounds
/// });
/// worker.stop();
/// assert!(worker.stopped());
/// let _rounds = worker.join().unwrap();
/// ```
#[derive(Debug)]
pub struct StoppableThread<T> {
    handle: JoinHandle<T>,
    stopped: std::sync::OnceLock<()>,
}

impl<T: Send + 'static> StoppableThread<T> {
    /// Starts the thread.
    ///
    /// # Panics
    /// As [`spawn`].
    pub fn spawn(f: impl FnOnce() -> T + Send + 'static) -> Self {
        Self::from(spawn(f))
    }
}

impl<T> From<JoinHandle<T>> for StoppableThread<T> {
    fn from(handle: JoinHandle<T>) -> Self {
        Self {
            handle,
            stopped: std::sync::OnceLock::new(),
        }
    }
}

impl<T> StoppableThread<T> {
    /// Sets the flag and wakes the thread out of what it is blocked in, if that can be broken. Without effect the
    /// second time, and once the thread has ended.
    pub fn stop(&self) {
        let _ = self.stopped.set(());
        crate::raise::stop(self.handle.id());
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn stopped(&self) -> bool {
        self.stopped.get().is_some()
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

    /// The handle, to unpark, or to join with a time limit.
    pub fn handle(&self) -> &JoinHandle<T> {
        &self.handle
    }

    /// Waits until the thread has ended, and returns its result.
    ///
    /// # Errors
    /// As [`JoinHandle::join`].
    #[track_caller]
    pub fn join(self) -> Result<T, JoinError<T>> {
        self.handle.join()
    }
}

/// Whether the calling thread has been told to stop.
///
/// ```
/// assert!(!throwto::thread::stopped());
/// ```
pub fn stopped() -> bool {
    current::record().attention().has(Attention::STOPPED)
}

impl<T> From<&StoppableThread<T>> for Target {
    fn from(thread: &StoppableThread<T>) -> Self {
        Self::Id(thread.id())
    }
}
