//! [`Job`]: a closure made safe to run on any thread of any pool.
//!
//! Owns: a job's settings, running it in its scopes, and telling how it ended. Leaves to `handle` its state, to `scope` and
//! `time` the scopes. Blocks as the closure does.
//!
//! **Signal context:** no.
//!
//! Three scopes, from the outside: what is raised into the job, which comes out as it is; its cancellation; its limit.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::cell::{JobCell, Packet};
use super::crew::Crew;
use super::error::JobError;
use super::handle::JobHandle;
use crate::attach::{Apart, Attachment, attach, set_apart};
use crate::current;
use crate::error::AttachError;
use crate::exception::{Cancelled, TimedOut};
use crate::protocol::registry::ThreadId;
use crate::safepoint::as_raised;
use crate::scope::Scope;
use crate::time::Deadline;

/// What a job shall be run with. It makes any pool safe: rayon's, a thread pool, your own.
///
/// The thread is attached for the time of the job. What is addressed to the job (its limit, its cancellation, what is raised by
/// its handle) is delivered inside it or never: the thread's next job is not hit. What ends the job, an exception or a
/// panic, becomes its result: the thread lives on.
///
/// The adapter cannot give a stuck thread back to a pool that is not ours; [`JobPool`](super::JobPool) replaces it.
///
/// ```
/// use std::time::Duration;
/// use throwto::pool::{Job, JobError};
/// use throwto::thread;
///
/// let job = Job::new().limit(Duration::from_secs(60)).label("nap");
/// let (task, handle) = job.prepare(|| thread::sleep(Duration::from_secs(3600)));
/// // Whatever runs closures: `rayon::spawn(task)`, `pool.execute(task)`.
/// let pool = std::thread::spawn(task);
/// handle.cancel();
/// assert!(matches!(handle.wait(), Err(JobError::Cancelled)));
/// pool.join().unwrap();
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing runs before `run`, `prepare` or `submit_with`"]
pub struct Job {
    limit: Option<Duration>,
    label: Option<Arc<str>>,
}

impl Job {
    /// A job without a limit of its own and without a label.
    pub const fn new() -> Self {
        Self {
            limit: None,
            label: None,
        }
    }

    /// How long it may run, from its beginning: the time in a queue does not count. What a limit means is what it means to
    /// [`time::timeout`](crate::time::timeout): zero ends it at its first safepoint, one too long for the clock never passes.
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// What it is called in reports. A [`JobPool`](super::JobPool) gives the name to the job's thread too, as
    /// [`threads`](crate::threads) shows it and [`Target`](crate::Target) finds it.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into().into());
        self
    }

    pub(super) fn limit_or(mut self, default: Option<Duration>) -> Self {
        self.limit = self.limit.or(default);
        self
    }

    /// Runs `f` as this job, here and now. Nobody else has a handle to it: for that, [`prepare`](Self::prepare) it.
    ///
    /// # Errors
    /// [`JobError::TimedOut`] if the limit ended it, by the rule of [`Scope::run`]; [`JobError::Raised`] if another
    /// exception unwound out of `f`, [`JobError::Panicked`] if a panic did; [`JobError::NotAttached`] if the thread cannot be attached,
    /// and `f` has not run.
    ///
    /// ```
    /// use throwto::pool::{Job, JobError};
    /// let outcome = Job::new().run(|| -> u8 { panic!("only this job") });
    /// assert!(matches!(outcome, Err(JobError::Panicked(_))));
    /// ```
    #[track_caller]
    pub fn run<T>(self, f: impl FnOnce() -> T) -> Result<T, JobError<T>> {
        let attachment = attach().map_err(JobError::NotAttached)?;
        let _in_job = InJob::begin();
        let limit = self.limit.map_or(Deadline::NEVER, Deadline::after);
        let outcome = outcome(|| limit.run(|_| f()).map_err(|TimedOut| JobError::TimedOut));
        detach(attachment);
        outcome
    }

    /// Makes `f` a task for whatever pool, and the handle that others have to it. The task never unwinds, whatever `f` does.
    ///
    /// Cancelled before its turn it is over at once, and the task only drops `f` when it is called. If the pool drops the task
    /// instead, the handle's result is [`JobError::NotRun`]. What `f` returns is dropped in the task if nobody has the handle.
    ///
    /// The task is nobody's part. A pool that steals work may run it on a thread that waits in the middle of another job:
    /// then it runs under an id of its own and without the other's masks, and what is addressed to the other waits until it is
    /// over. [`run`](Self::run) and [`job`](super::job()) inside a job are parts of it.
    ///
    /// ```
    /// use throwto::pool::Job;
    /// // It may borrow, where the pool allows that.
    /// let words = ["rayon", "scope"];
    /// let (task, handle) = Job::new().prepare(|| words.len());
    /// std::thread::scope(|s| { s.spawn(task); });
    /// assert_eq!(handle.wait()?, 2);
    /// # Ok::<(), throwto::pool::JobError<usize>>(())
    /// ```
    pub fn prepare<T, F: FnOnce() -> T>(self, f: F) -> (impl FnOnce() + use<T, F>, JobHandle<T>) {
        let (prepared, handle) = Prepared::new(self, Weak::new(), f);
        (move || prepared.run(attach_apart), handle)
    }
}

/// A job that is to be run. Dropped instead, it says so.
pub(super) struct Prepared<T, F> {
    packet: Arc<Packet<T>>,
    raises: Scope,
    cancels: Scope,
    f: F,
    // Last: what `f` holds is gone when the handle is told.
    unrun: Unrun,
}

struct Unrun(Arc<JobCell>);

impl Drop for Unrun {
    fn drop(&mut self) {
        self.0.not_run();
    }
}

impl<T, F: FnOnce() -> T> Prepared<T, F> {
    pub(super) fn new(job: Job, crew: Weak<Crew>, f: F) -> (Self, JobHandle<T>) {
        let (raises, raise) = Scope::new();
        let (cancels, cancel) = Scope::new();
        let cell = Arc::new(JobCell::new(job.label, job.limit, raise, cancel, crew));
        let packet = Arc::new(Packet::new(Arc::clone(&cell)));
        let handle = JobHandle::new(Arc::clone(&packet));
        let unrun = Unrun(cell);
        let prepared = Self {
            packet,
            raises,
            cancels,
            f,
            unrun,
        };
        (prepared, handle)
    }

    pub(super) fn cell(&self) -> &Arc<JobCell> {
        &self.unrun.0
    }

    /// Never unwinds.
    pub(super) fn run(self, attach: impl FnOnce(&JobCell) -> Result<Attached, AttachError>) {
        let Self {
            packet,
            raises,
            cancels,
            f,
            unrun,
        } = self;
        let cell = &unrun.0;
        if cell.is_over() {
            return discard(f);
        }
        let attachment = match attach(cell) {
            Ok(attachment) => attachment,
            Err(error) => {
                discard(f);
                return packet.end(Err(JobError::NotAttached(error)));
            }
        };
        let Some(limit) = cell.begin(attachment.id()) else {
            discard(f);
            return detach(attachment);
        };
        let limited = || limit.run(|_| f()).map_err(|TimedOut| JobError::TimedOut);
        let _in_job = InJob::begin();
        let cancellable = || {
            cancels
                .run(limited)
                .unwrap_or_else(|Cancelled| Err(JobError::Cancelled))
        };
        let outcome = outcome(|| raises.run_through(cancellable));
        detach(attachment);
        packet.end(outcome);
        // With the result, if nobody has the handle.
        discard(packet);
    }
}

/// Whatever unwinds out of `f` as a result.
fn outcome<T>(f: impl FnOnce() -> Result<T, JobError<T>>) -> Result<T, JobError<T>> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| {
        Err(match as_raised(payload) {
            Ok(raised) => JobError::Raised(raised),
            Err(panic) => JobError::Panicked(panic),
        })
    })
}

/// Drops what is the job's, as clean-up: masked. A panic of a destructor goes no further than the panic hook.
pub(super) fn discard<V>(value: V) {
    let dropped = catch_unwind(AssertUnwindSafe(|| crate::mask(|_| drop(value))));
    dropped.unwrap_or_else(forget_panic);
}

thread_local! {
    static IN_JOB: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread is in a job until this is dropped.
struct InJob {
    before: bool,
}

impl InJob {
    fn begin() -> Self {
        Self {
            before: IN_JOB.replace(true),
        }
    }
}

impl Drop for InJob {
    fn drop(&mut self) {
        IN_JOB.set(self.before);
    }
}

/// How a thread is attached for a job.
pub(super) enum Attached {
    AsItIs(Attachment),
    Apart(Apart),
}

impl Attached {
    fn id(&self) -> ThreadId {
        match self {
            Self::AsItIs(attachment) => attachment.id(),
            Self::Apart(apart) => apart.id(),
        }
    }
}

/// For a task on a thread of somebody's pool. One that waits in a job and has taken another task meanwhile runs it apart.
fn attach_apart(cell: &JobCell) -> Result<Attached, AttachError> {
    if IN_JOB.get() && current::owner().is_some() {
        set_apart(cell.label().cloned()).map(Attached::Apart)
    } else {
        attach().map(Attached::AsItIs)
    }
}

/// Detaches. What was still pending may have destructors.
fn detach<A>(attachment: A) {
    catch_unwind(AssertUnwindSafe(|| drop(attachment))).unwrap_or_else(forget_panic);
}

fn forget_panic(panic: Box<dyn Any + Send>) {
    if let Err(worse) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(worse);
    }
}
