//! [`JoinError`]: why a blocking task has no result.
//!
//! Owns: the reasons and how they read. Leaves to `task` which of them it is.
//!
//! **Signal context:** no.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

use crate::error::AttachError;
use crate::raised::Raised;

/// Why a blocking task has no result.
///
/// ```
/// use throwto::tokio::{JoinError, spawn_blocking};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let task = spawn_blocking(|| -> u32 { panic!("no such file") });
/// let error = task.await.unwrap_err();
/// assert_eq!(error.to_string(), "the blocking task panicked: no such file");
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It was aborted: before it started, or its exception came out of the closure.
    #[error("the blocking task was aborted")]
    Aborted,
    /// Its own time limit has passed ([`Builder::time_limit`](super::Builder::time_limit)).
    #[error("the blocking task's time limit has passed")]
    TimedOut,
    /// Its runtime was shut down: before it started, or while it ran, which raised in it.
    #[error("the blocking task was ended by the shutdown of its runtime")]
    ShutDown,
    /// Another exception unwound out of the closure.
    #[error("an exception ended the blocking task: {0}")]
    Raised(Raised),
    /// A panic ended it.
    #[error("the blocking task panicked: {0}")]
    Panicked(Panic),
    /// The closure did not run: the pool's thread could not be attached, so nobody could have aborted it.
    #[error("the blocking task did not run: {0}")]
    NotAttached(AttachError),
}

impl JoinError {
    /// Whether the task was ended because nobody wants it any more: aborted, late, or shut down.
    pub const fn is_cancelled(&self) -> bool {
        matches!(self, Self::Aborted | Self::TimedOut | Self::ShutDown)
    }
}

impl From<JoinError> for io::Error {
    /// Of the kind `Other`, never `Interrupted`, which std's retry loops swallow.
    fn from(error: JoinError) -> Self {
        Self::other(error)
    }
}

/// What a blocking task panicked with.
pub struct Panic(Mutex<Box<dyn Any + Send>>);

impl Panic {
    pub(super) fn new(payload: Box<dyn Any + Send>) -> Self {
        Self(Mutex::new(payload))
    }

    /// What was given to `panic!`, as `std::thread::JoinHandle::join` returns it.
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on panicking, on this thread.
    pub fn resume(self) -> ! {
        resume_unwind(self.into_payload())
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = payload.downcast_ref::<&'static str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        f.write_str(text.unwrap_or("(a payload that is not text)"))
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Panic({:?})", self.to_string())
    }
}
