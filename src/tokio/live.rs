//! The blocking tasks of each runtime, and the end of a runtime.
//!
//! Owns: which tasks a runtime has, ending them with it, [`shutdown`]. Leaves to `group` the set, to `runtimes` the list, to tokio the rest
//! of a shutdown.
//! [`shutdown`] blocks up to its time limit.
//!
//! **Signal context:** no.
//!
//! tokio tells nobody that a runtime ends, but it drops the runtime's async tasks then, before it waits for the blocking ones. So the
//! first blocking task of a runtime has a [`Watch`] spawned there, in an async task that never does anything.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use ::tokio::runtime::{Handle, Id, Runtime};

use super::group::Group;
use super::runtimes::runtimes;
use super::task::{Task, Why};
use crate::status::{self, ThreadInfo};

/// The tasks of a runtime, from now on ended with it.
#[track_caller]
pub(super) fn tasks_of(runtime: &Handle) -> Arc<Group> {
    let id = runtime.id();
    let mut known = runtimes();
    if let Some((_, tasks)) = known.iter().find(|(known, _)| *known == id) {
        return Arc::clone(tasks);
    }
    let tasks = Arc::<Group>::default();
    known.push((id, Arc::clone(&tasks)));
    drop(known);
    let watch = Watch {
        id,
        tasks: Arc::clone(&tasks),
        at: Location::caller(),
    };
    // On a runtime that is over it is dropped here and now.
    drop(runtime.spawn(async move {
        let _watch = watch;
        std::future::pending::<()>().await;
    }));
    tasks
}

/// Ends all blocking tasks of a runtime when it is dropped, which the runtime's end does.
struct Watch {
    id: Id,
    tasks: Arc<Group>,
    at: &'static Location<'static>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        runtimes().retain(|(id, _)| *id != self.id);
        self.tasks.end(Why::ShutDown, self.at);
    }
}

/// A blocking task that the end of its runtime has not ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survivor {
    /// The name it was given.
    pub name: Option<String>,
    /// Its thread, and where that is; `None` for one that was just about to end.
    pub thread: Option<ThreadInfo>,
}

impl Survivor {
    fn of(task: &Task) -> Self {
        Self {
            name: task.name.as_deref().map(str::to_owned),
            thread: task.thread().and_then(status::info),
        }
    }
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("blocking task")?;
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        match &self.thread {
            Some(info) => write!(f, " is still running: {info}"),
            None => f.write_str(" is ending"),
        }
    }
}

/// Shuts `runtime` down: ends every blocking task that was spawned by this module, then tokio's
/// `Runtime::shutdown_timeout`. Returns those that have not ended within `limit`, each with where it is.
///
/// The limit is one for all of them and for what else the runtime runs. A survivor's thread goes on until it comes out by itself.
/// Blocking tasks that were spawned by tokio's own function are waited for as long, and are not in the list. Zero does not wait.
///
/// # Panics
/// In async code, as `Runtime::shutdown_timeout` does: it would block a worker.
///
/// ```
/// use std::time::Duration;
/// let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// let _enter = runtime.enter();
/// let _stuck = throwto::tokio::spawn_blocking(|| throwto::thread::sleep(Duration::from_secs(3600)));
/// # drop(_enter);
/// for survivor in throwto::tokio::shutdown(runtime, Duration::from_secs(10)) {
///     eprintln!("{survivor}");
///     // blocking task "report" is still running: thread #1.1 "report", running, running
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn shutdown(runtime: Runtime, limit: Duration) -> Vec<Survivor> {
    let tasks = tasks_of(runtime.handle());
    tasks.end(Why::ShutDown, Location::caller());
    runtime.shutdown_timeout(limit);
    tasks.tasks().iter().map(|task| Survivor::of(task)).collect()
}
