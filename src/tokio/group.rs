//! [`TaskGroup`]: blocking tasks that are aborted together.
//!
//! Owns: who belongs, and that nobody enters a group that is over. Leaves to `task` the ending of each. Blocks for short
//! locks.
//!
//! **Signal context:** no.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::builder::Builder;
use super::handle::{AbortHandle, JoinHandle};
use super::task::{Task, Why};

/// The members, by their addresses, until each has ended. Once it is over every newcomer is ended.
#[derive(Default)]
pub(super) struct Group {
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    over: Option<Why>,
    tasks: HashMap<usize, Arc<Task>>,
}

impl Group {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the group is over, if it is: then the task is to be ended.
    #[must_use]
    pub(super) fn enter(&self, task: &Arc<Task>) -> Option<Why> {
        let mut members = self.members();
        members.tasks.insert(Arc::as_ptr(task).addr(), Arc::clone(task));
        members.over
    }

    pub(super) fn leave(&self, task: &Task) {
        let gone = self.members().tasks.remove(&(&raw const *task).addr());
        // Outside the lock: it may be the last one.
        drop(gone);
    }

    /// Ends all members, and all that come later. First those that have not started: else the thread of one that comes out
    /// would start them.
    pub(super) fn end(&self, why: Why, at: &'static Location<'static>) {
        let mut members = self.members();
        members.over.get_or_insert(why);
        let tasks: Vec<_> = members.tasks.values().cloned().collect();
        drop(members);
        let refused = tasks.iter().map(|task| caught(|| task.refuse(why)));
        let ended = tasks.iter().map(|task| caught(|| task.end(why, at)));
        // A closure whose destructor panics keeps no other task from being ended.
        let first_panic = refused.chain(ended).flatten().reduce(|first, _later| first);
        if let Some(panic) = first_panic {
            resume_unwind(panic);
        }
    }

    pub(super) fn tasks(&self) -> Vec<Arc<Task>> {
        self.members().tasks.values().cloned().collect()
    }
}

fn caught(f: impl FnOnce()) -> Option<Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(f)).err()
}

::tokio::task_local! {
    static REQUEST: Request;
}

/// The group that blocking tasks are born into, for the code that runs in it.
#[derive(Clone)]
pub(crate) struct Request(TaskGroup);

impl Request {
    pub(super) fn current() -> Option<Self> {
        REQUEST.try_with(Clone::clone).ok()
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        &self.0.group
    }

    /// Runs `f` in it, on this thread.
    pub(crate) fn enter<T>(this: Option<Self>, f: impl FnOnce() -> T) -> T {
        match this {
            Some(request) => REQUEST.sync_scope(request, f),
            None => f(),
        }
    }
}

/// Blocking tasks that are aborted together: those that are spawned in the future that [`run`](Self::run) returns, and in the
/// tasks themselves.
///
/// A clone is the same group; dropping it does nothing. An async task that is spawned in the group's future is in no group
/// unless it is given a clone, since tokio's task-locals are not inherited.
///
/// ```
/// use std::time::Duration;
/// use throwto::tokio::{TaskGroup, spawn_blocking};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let group = TaskGroup::new();
/// let nap = group.run(async { spawn_blocking(|| throwto::thread::sleep(Duration::from_secs(3600))) }).await;
/// group.abort();
/// assert!(nap.await.unwrap_err().is_cancelled());
/// # }
/// ```
#[derive(Clone, Default)]
pub struct TaskGroup {
    group: Arc<Group>,
}

impl TaskGroup {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// The future `f`, with every blocking task that is spawned while it is polled in this group. The innermost group counts.
    pub fn run<F: Future>(&self, f: F) -> impl Future<Output = F::Output> + use<F> {
        REQUEST.scope(Request(self.clone()), f)
    }

    /// Spawns a blocking task in the group: [`spawn_blocking`](super::spawn_blocking).
    ///
    /// # Panics
    /// As [`spawn_blocking`](super::spawn_blocking).
    #[track_caller]
    pub fn spawn_blocking<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        Builder::new().group(self).spawn_blocking(f)
    }

    /// Aborts every task of the group, and does not wait. As a cancelled scope, the group stays aborted: a task that is spawned
    /// in it later never runs.
    #[track_caller]
    pub fn abort(&self) {
        self.abort_at(Location::caller());
    }

    pub(crate) fn abort_at(&self, at: &'static Location<'static>) {
        self.group.end(Why::Aborted, at);
    }

    /// The tasks that have not ended.
    pub fn tasks(&self) -> Vec<AbortHandle> {
        self.group.tasks().into_iter().map(AbortHandle::new).collect()
    }

    /// Whether no task is left that has not ended.
    pub fn is_empty(&self) -> bool {
        self.group.members().tasks.is_empty()
    }

    pub(crate) fn as_request(&self) -> Request {
        Request(self.clone())
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup").field("tasks", &self.tasks()).finish()
    }
}
