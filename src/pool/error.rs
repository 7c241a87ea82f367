//! What can go wrong with jobs and pools, and [`Stuck`]: what is known of a job that does not end.
//!
//! Owns: the enums and their words. Leaves to `cell` and `crew` finding out.
//!
//! **Signal context:** no.

use std::any::Any;
use std::fmt;
use std::io;
use std::time::Duration;

use super::handle::JobHandle;
use super::number::JobId;
use crate::error::AttachError;
use crate::journal::Climbed;
use crate::protocol::registry::ThreadId;
use crate::raised::Raised;
use crate::status::ThreadInfo;
use crate::thread::panic_text;
use crate::until_dead::refusals;

/// Why there is no result.
#[non_exhaustive]
pub enum JobError<T = ()> {
    /// The job's limit passed, and its exception came out.
    TimedOut,
    /// The job was cancelled: before it began, or the exception came out.
    Cancelled,
    /// Another exception unwound out of the job.
    Raised(Raised),
    /// A panic ended the job.
    Panicked(Box<dyn Any + Send>),
    /// Nobody will run it: the pool was shut down, or whoever had the task dropped it. In a forked child: it stayed in
    /// the parent.
    NotRun,
    /// It could not be run under control, and so was not run.
    NotAttached(AttachError),
    /// It was stuck for too long. Its thread is written off; a result that comes later is dropped there.
    Stuck(Box<Stuck>),
    /// An exception was raised in the thread that waits. The job goes on; here is its handle.
    Interrupted(Raised, JobHandle<T>),
}

impl<T> fmt::Debug for JobError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("TimedOut"),
            Self::Cancelled => f.write_str("Cancelled"),
            Self::Raised(raised) => f.debug_tuple("Raised").field(raised).finish(),
            Self::Panicked(payload) => f.debug_tuple("Panicked").field(&panic_text(payload)).finish(),
            Self::NotRun => f.write_str("NotRun"),
            Self::NotAttached(error) => f.debug_tuple("NotAttached").field(error).finish(),
            Self::Stuck(stuck) => f.debug_tuple("Stuck").field(stuck).finish(),
            Self::Interrupted(raised, handle) => {
                f.debug_tuple("Interrupted").field(raised).field(handle).finish()
            }
        }
    }
}

impl<T> fmt::Display for JobError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("the job's time limit has passed"),
            Self::Cancelled => f.write_str("the job was cancelled"),
            Self::Raised(raised) => write!(f, "the job was ended by an exception: {raised}"),
            Self::Panicked(payload) => write!(f, "the job panicked: {}", panic_text(payload)),
            Self::NotRun => f.write_str("the job was dropped by its pool, which did not run it"),
            Self::NotAttached(error) => write!(f, "the job was not run: {error}"),
            Self::Stuck(stuck) => write!(f, "{stuck}; its thread is written off"),
            Self::Interrupted(raised, handle) => {
                let id = handle.id();
                write!(
                    f,
                    "raised into while waiting for job {id}, which goes on: {raised}"
                )
            }
        }
    }
}

impl<T> std::error::Error for JobError<T> {}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A pool without threads would run nothing.
    #[error("a pool of 0 threads would never run a job; give it at least 1")]
    NoThreads,
    /// A queue without room would take nothing.
    #[error("a queue with room for 0 jobs would never take one; give it at least 1, or no bound")]
    NoQueue,
    /// A thread of the pool could not be started.
    #[error("a thread of the pool could not be started: {0}")]
    NotStarted(#[source] io::Error),
}

/// Why a job was not taken. It has been dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The pool has been closed or shut down.
    #[error("the pool has been shut down and takes no more jobs")]
    ShutDown,
    /// As many jobs wait as may.
    #[error("{bound} jobs wait for a thread, which is the bound; submit waits for room, try_submit does not")]
    Full {
        /// The bound.
        bound: usize,
    },
    /// An exception was raised in the thread that waited for room.
    #[error("raised into while waiting for room in the pool's queue: {0}")]
    Raised(Raised),
    /// This is a forked child, and the pool's threads are in the parent.
    #[error("the pool's threads stayed in the parent when this process was forked; make a pool here")]
    Forked,
}

/// A job that has not ended though it should have.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stuck {
    /// Its number.
    pub job: JobId,
    /// What it is called.
    pub label: Option<String>,
    /// The thread that it runs on: an id of its own in a [`JobPool`](super::JobPool), dead once the job has come free.
    pub thread: ThreadId,
    /// That thread, and where it is; `None` if it was leaving just then.
    pub info: Option<ThreadInfo>,
    /// How long it ran.
    pub ran_for: Duration,
    /// How long of that was after its limit, or after it was cancelled. Zero if it was neither.
    pub overdue: Duration,
    /// Which rungs were tried on it since, weakest first, and what refused them.
    pub climbed: Vec<Climbed>,
    /// Whether it is the job that has called for the shutdown: that one was not cancelled.
    pub is_caller: bool,
}

impl Stuck {
    /// Where it is, as read from the system.
    pub fn where_blocked(&self) -> &str {
        self.info.as_ref().map_or("leaving", |info| &info.where_blocked)
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {}", self.job)?;
        if let Some(label) = &self.label {
            write!(f, " {label:?}")?;
        }
        if self.is_caller {
            return f.write_str(" called for the shutdown, and is not cancelled");
        }
        write!(f, " is stuck in thread {}: {}", self.thread, self.where_blocked())?;
        write!(f, "; it ran for {:.1?}", self.ran_for)?;
        if !self.overdue.is_zero() {
            write!(f, ", {:.1?} of that too long", self.overdue)?;
        }
        f.write_str(&refusals(&self.climbed))
    }
}
