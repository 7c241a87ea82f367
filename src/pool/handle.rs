//! What others hold of a job: [`JobHandle`] with its result, [`JobControl`] without.
//!
//! Owns: the face of a job. Leaves to `cell` its state. Only waiting blocks.
//!
//! **Signal context:** no.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::cell::{JobCell, Packet};
use super::error::JobError;
use super::number::JobId;
use crate::error::RaiseError;
use crate::exception::IntoException;
use crate::receipt::Receipt;
use crate::region::Waited;
use crate::status::{self, ThreadInfo};

/// How far a job has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobState {
    /// It has not begun.
    Queued,
    /// It runs.
    Running,
    /// It is over: it has a result, or it will never run.
    Finished,
    /// It was stuck for too long, its thread is written off, and nobody will have its result.
    WrittenOff,
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::WrittenOff => "written off",
        })
    }
}

/// Reaches a job from anywhere, without its result. Clones reach the same job.
#[derive(Clone)]
pub struct JobControl {
    cell: Arc<JobCell>,
}

impl JobControl {
    /// The job's number.
    pub fn id(&self) -> JobId {
        self.cell.id()
    }

    /// What it is called.
    pub fn label(&self) -> Option<&str> {
        self.cell.label().map(|label| &**label)
    }

    /// Cancels the job. One that has not begun never will; in one that runs every safepoint and every blocking call raises
    /// [`Cancelled`](crate::Cancelled) from now on, as in a cancelled [`Scope`](crate::scope::Scope). Without effect once it is over.
    #[track_caller]
    pub fn cancel(&self) {
        self.cell.cancel();
    }

    /// Raises `exc` in the job, once. It comes out of the job as it is: in what the job returns, or as
    /// [`JobError::Raised`].
    ///
    /// # Errors
    /// [`RaiseError::ScopeNotOpen`] if the job has not begun or is over. [`cancel`](Self::cancel) works before it begins.
    ///
    /// ```
    /// use throwto::{Interrupted, RaiseError, pool::Job};
    /// let (task, handle) = Job::new().prepare(|| ());
    /// assert!(matches!(handle.raise(Interrupted), Err(RaiseError::ScopeNotOpen)));
    /// # drop(task);
    /// ```
    #[track_caller]
    pub fn raise(&self, exc: impl IntoException) -> Result<Receipt, RaiseError> {
        self.cell.raises().raise(exc)
    }

    /// How far it has got.
    pub fn state(&self) -> JobState {
        self.cell.state()
    }

    /// Whether waiting for it would return at once.
    pub fn is_finished(&self) -> bool {
        self.cell.is_over()
    }

    /// The thread that it runs on, as [`threads`](crate::threads) shows it. `None` if it does not run.
    pub fn info(&self) -> Option<ThreadInfo> {
        let thread = self.cell.thread()?;
        let info = status::info(thread)?;
        // A thread that somebody else has attached keeps its id for its next job.
        self.cell.thread().map(|_| info)
    }

    /// Where it is, as read from the system. `None` if it does not run.
    ///
    /// ```
    /// use throwto::{pool::JobPool, thread};
    /// let pool = JobPool::new(1)?;
    /// let nap = pool.submit(|| thread::sleep(std::time::Duration::from_secs(3600)))?;
    /// while nap.where_blocked().is_none_or(|place| place == "running") {
    ///     std::thread::yield_now();
    /// }
    /// println!("{}", nap.where_blocked().unwrap_or_default());
    /// // futex wait for 0.0 s
    /// nap.cancel();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn where_blocked(&self) -> Option<String> {
        self.info().map(|info| info.where_blocked)
    }
}

impl fmt::Debug for JobControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobControl")
            .field("id", &self.id())
            .field("label", &self.label())
            .field("state", &self.state())
            .finish()
    }
}

/// A job that was submitted or prepared, and its result. Dropping it lets the job go on by itself.
///
/// It has all that [`JobControl`] has.
pub struct JobHandle<T> {
    control: JobControl,
    packet: Arc<Packet<T>>,
}

impl<T> std::ops::Deref for JobHandle<T> {
    type Target = JobControl;

    fn deref(&self) -> &JobControl {
        &self.control
    }
}

impl<T> JobHandle<T> {
    pub(super) fn new(packet: Arc<Packet<T>>) -> Self {
        let cell = Arc::clone(packet.cell());
        Self {
            control: JobControl { cell },
            packet,
        }
    }

    /// The same without the result, to be cloned and kept.
    pub fn control(&self) -> &JobControl {
        &self.control
    }

    /// Waits until the job is over, and returns its result.
    ///
    /// A cancellation point. So a job may wait for another of its own pool, and its limit ends that wait; if every thread of the
    /// pool waits so, nothing else does.
    ///
    /// # Errors
    /// [`JobError`] tells how the job ended without a result, or that the waiting thread was raised into.
    ///
    /// ```
    /// use throwto::pool::{JobError, JobPool};
    /// let pool = JobPool::new(1)?;
    /// assert_eq!(pool.submit(|| 6 * 7)?.wait()?, 42);
    /// let spinning = pool.submit(|| -> () { loop { throwto::safepoint_unwind() } })?;
    /// spinning.cancel();
    /// assert!(matches!(spinning.wait(), Err(JobError::Cancelled)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn wait(self) -> Result<T, JobError<T>> {
        match self.control.cell.wait(None) {
            Waited::Raised(raised) => Err(JobError::Interrupted(raised, self)),
            Waited::Ready | Waited::TimedOut => self.packet.take(),
        }
    }

    /// As [`wait`](Self::wait), for at most `limit`: `Ok(Ok(result))`, or `Ok(Err(handle))` if the time was over.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// ```
    /// use std::time::Duration;
    /// use throwto::{pool::JobPool, thread};
    /// let pool = JobPool::new(1)?;
    /// let nap = pool.submit(|| thread::sleep(Duration::from_secs(3600)))?;
    /// match nap.wait_timeout(Duration::from_millis(1))? {
    ///     Ok(slept) => println!("{slept:?}"),
    ///     Err(still_running) => still_running.cancel(),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn wait_timeout(self, limit: Duration) -> Result<Result<T, Self>, JobError<T>> {
        match self.control.cell.wait(Some(limit)) {
            Waited::Raised(raised) => Err(JobError::Interrupted(raised, self)),
            Waited::TimedOut => Ok(Err(self)),
            Waited::Ready => self.packet.take().map(Ok),
        }
    }
}

impl<T> fmt::Debug for JobHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.control.fmt(f)
    }
}
