//! [`Builder`]: a blocking task with a name, a limit, a token or a group.
//!
//! Owns: putting a task together and giving it to the pool. Leaves to `task` what comes then.
//!
//! **Signal context:** no.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use ::tokio::runtime::Handle;
use ::tokio::sync::oneshot;
use ::tokio_util::sync::CancellationToken;

use super::group::{Request, TaskGroup};
use super::handle::JoinHandle;
use super::live;
use super::task::{InPool, Job, Task};
use crate::scope::Scope;

/// A blocking task to be: its name, its limits, and who may end it.
///
/// ```
/// use std::time::Duration;
/// use throwto::tokio::{Builder, JoinError};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let task = Builder::new()
///     .name("report")
///     .time_limit(Duration::from_millis(20))
///     .spawn_blocking(|| throwto::thread::sleep(Duration::from_secs(3600)));
/// assert!(matches!(task.await, Err(JoinError::TimedOut)));
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing runs before `spawn_blocking`"]
pub struct Builder {
    name: Option<Arc<str>>,
    limit: Option<Duration>,
    abort_on_drop: bool,
    token: Option<CancellationToken>,
    group: Option<TaskGroup>,
}

impl Builder {
    /// A task without a name or a limit, which goes on when its handle is dropped.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name under which [`threads`](crate::threads) shows the pool's thread while it runs the task, and by which it can be
    /// raised into.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long the closure may run: [`time::timeout`](crate::time::timeout) around it. The time in the pool's queue does not count.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Has the task aborted when its handle is dropped.
    pub fn abort_on_drop(mut self) -> Self {
        self.abort_on_drop = true;
        self
    }

    /// Has the task aborted when `token` is cancelled. [`JoinHandle::token`] is then a child of it.
    pub fn token(mut self, token: &CancellationToken) -> Self {
        self.token = Some(token.clone());
        self
    }

    /// Puts the task into `group`, instead of the one that the current future runs in.
    pub fn group(mut self, group: &TaskGroup) -> Self {
        self.group = Some(group.clone());
        self
    }

    /// Runs `f` on the current runtime's blocking pool.
    ///
    /// # Panics
    /// As [`spawn_blocking`](super::spawn_blocking()).
    #[track_caller]
    pub fn spawn_blocking<T: Send + 'static>(self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.spawn_blocking_on(f, &Handle::current())
    }

    /// Runs `f` on the blocking pool of `runtime`. On a runtime that has been shut down it does not run, and the handle says
    /// [`ShutDown`](super::JoinError::ShutDown).
    #[track_caller]
    pub fn spawn_blocking_on<T: Send + 'static>(
        self,
        f: impl FnOnce() -> T + Send + 'static,
        runtime: &Handle,
    ) -> JoinHandle<T> {
        let at = Location::caller();
        let (scope, handle) = Scope::new();
        let (answer, answered) = oneshot::channel();
        let request = match self.group {
            Some(group) => Some(group.as_request()),
            None => Request::current(),
        };
        let mut groups = vec![live::tasks_of(runtime)];
        groups.extend(request.as_ref().map(|request| Arc::clone(request.group())));
        let job = Job {
            f,
            scope,
            limit: self.limit,
            request,
            answer,
        };
        let task = Task::new(self.name, handle, groups, Box::new(job), at);
        if let Some(token) = &self.token {
            task.token(Some(token), at);
        }
        let in_pool = InPool(Arc::clone(&task));
        let tokios = runtime.spawn_blocking(move || in_pool.run());
        JoinHandle::new(answered, task, tokios.id(), self.abort_on_drop, at)
    }
}
