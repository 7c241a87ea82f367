//! [`JoinHandle`] and [`AbortHandle`]: what whoever spawned a blocking task holds.
//!
//! Owns: waiting for the result, and the ways to end the task early. Leaves to `task` how it ends.
//! Nothing here blocks; a dropped job's destructor runs where it is aborted.
//!
//! **Signal context:** no.

use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::tokio::sync::oneshot;
use ::tokio::task::Id;
use ::tokio_util::sync::CancellationToken;

use super::error::JoinError;
use super::task::{Task, Why};
use crate::error::RaiseError;
use crate::exception::IntoException;
use crate::receipt::Receipt;
use crate::status::{self, ThreadInfo};

/// A blocking task that was spawned: a future of its result.
///
/// Dropping it lets the task go on, as tokio's does, unless [`abort_on_drop`](Self::abort_on_drop) was called. A handle that is
/// polled again after it was ready panics, as tokio's does.
#[must_use = "dropping the handle lets the task go on; `abort_on_drop` ends it instead"]
pub struct JoinHandle<T> {
    answered: oneshot::Receiver<Result<T, JoinError>>,
    task: Arc<Task>,
    id: Id,
    abort_on_drop: bool,
    spawned_at: &'static Location<'static>,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(
        answered: oneshot::Receiver<Result<T, JoinError>>,
        task: Arc<Task>,
        id: Id,
        abort_on_drop: bool,
        spawned_at: &'static Location<'static>,
    ) -> Self {
        Self {
            answered,
            task,
            id,
            abort_on_drop,
            spawned_at,
        }
    }

    /// Ends the task, and does not wait for that: [`JoinError::Aborted`] is what the handle says afterwards.
    ///
    /// A task that has not started never runs; its closure is dropped here. In one that runs, every safepoint and every blocking
    /// call raises [`Cancelled`](crate::Cancelled) until it comes out, so a body that swallows it once meets it again. A
    /// result that the closure returns all the same is kept. Without effect once the task has ended.
    ///
    /// ```
    /// use throwto::tokio::{JoinError, spawn_blocking};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let task = spawn_blocking(|| loop { throwto::safepoint_unwind() });
    /// task.abort();
    /// let never: Result<(), _> = task.await;
    /// assert!(matches!(never, Err(JoinError::Aborted)));
    /// # }
    /// ```
    #[track_caller]
    pub fn abort(&self) {
        self.task.end(Why::Aborted, Location::caller());
    }

    /// Has the task aborted when this handle is dropped. The drop does not wait for the task to come out.
    ///
    /// ```
    /// use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let task = throwto::tokio::spawn_blocking(|| throwto::thread::sleep(Duration::from_secs(3600)));
    /// let remote = task.abort_handle();
    /// drop(task.abort_on_drop());
    /// while !remote.is_finished() { tokio::task::yield_now().await }
    /// # }
    /// ```
    pub fn abort_on_drop(mut self) -> Self {
        self.abort_on_drop = true;
        self
    }

    /// Raises `exc` in the closure, once. It may catch it and go on; what it returns with it is the result, and if it unwinds the handle
    /// says [`JoinError::Raised`]. The task's [token](Self::token) is cancelled.
    ///
    /// # Errors
    /// [`RaiseError::ScopeNotOpen`] if the closure has not started, or has ended.
    ///
    /// ```
    /// use throwto::{Interrupted, tokio::spawn_blocking};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let task = spawn_blocking(|| throwto::thread::park().is_err_and(|raised| raised.is::<Interrupted>()));
    /// while task.raise(Interrupted).is_err() { tokio::task::yield_now().await }
    /// assert!(task.await.unwrap());
    /// # }
    /// ```
    #[track_caller]
    pub fn raise(&self, exc: impl IntoException) -> Result<Receipt, RaiseError> {
        self.task.raise(exc)
    }

    /// The token that goes with the task, both ways: it is cancelled when the task is aborted, raised into by its handle, or has ended; and
    /// whoever cancels it aborts the task. For async code that works for the task. The closure has it by [`current_token`](super::current_token).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let task = throwto::tokio::spawn_blocking(|| 5);
    /// let token = task.token();
    /// token.cancelled().await;
    /// assert!(task.is_finished());
    /// # }
    /// ```
    #[track_caller]
    pub fn token(&self) -> CancellationToken {
        self.task.token(None, Location::caller())
    }

    /// Another way to abort it.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle::new(Arc::clone(&self.task))
    }

    /// Whether it has ended: its result is there.
    pub fn is_finished(&self) -> bool {
        self.task.is_ended()
    }

    /// tokio's id of it.
    pub const fn id(&self) -> Id {
        self.id
    }

    /// The name it was given.
    pub fn name(&self) -> Option<&str> {
        self.task.name.as_deref()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = Pin::new(&mut self.answered).poll(cx);
        answered.map(|answer| answer.unwrap_or(Err(JoinError::ShutDown)))
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if self.abort_on_drop {
            self.task.end(Why::Aborted, self.spawned_at);
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.id)
            .field("name", &self.name())
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Ends a blocking task from elsewhere. Dropping it does nothing.
#[derive(Clone)]
pub struct AbortHandle {
    task: Arc<Task>,
}

impl AbortHandle {
    pub(super) fn new(task: Arc<Task>) -> Self {
        Self { task }
    }

    /// [`JoinHandle::abort`].
    #[track_caller]
    pub fn abort(&self) {
        self.task.end(Why::Aborted, Location::caller());
    }

    /// [`JoinHandle::raise`].
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn raise(&self, exc: impl IntoException) -> Result<Receipt, RaiseError> {
        self.task.raise(exc)
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.task.is_ended()
    }

    /// The name it was given.
    pub fn name(&self) -> Option<&str> {
        self.task.name.as_deref()
    }

    /// What its thread is doing, while it runs.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let task = throwto::tokio::run_blocking(throwto::thread::park).abort_handle();
    /// assert!(task.thread().is_none(), "it was aborted when its handle was dropped");
    /// # }
    /// ```
    pub fn thread(&self) -> Option<ThreadInfo> {
        self.task.thread().and_then(status::info)
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle")
            .field("name", &self.name())
            .field("finished", &self.is_finished())
            .finish()
    }
}
