//! Jobs on pool threads: with a time limit, a handle, and an end that nothing leaks out of.
//!
//! Owns: the names, and [`job`]. In `job` is the adapter for other people's pools, in `cell` a job's state, in
//! `handle` what others hold of it, in `builder`, `own` and `crew` the pool of our own, in `error` what can go wrong. Leaves to `scope` and `time` what is delivered in a
//! job, to `current` the attaching. Waiting for a job, and for room in a bounded queue, blocks.
//!
//! **Signal context:** no.
//!
//! ```text
//!              begin                 end: the result is kept
//!    Queued ------------> Running ---------------------------> Over
//!      |                     |                                  ^ ^
//!      |                     | written off: stuck for too long  | |
//!      |                     +----------------------------------+ |
//!      | cancelled, or dropped by whoever was to run it           |
//!      +----------------------------------------------------------+
//! ```
//!
//! - I1. A job gets `Over` once, under the lock of its cell. Who does that decides what the handle gets; a result that comes
//!   later is dropped on its own thread.
//! - I2. A job's scopes and its attachment have ended before it is `Over` by its end, and before its thread takes another.
//! - I3. A thread of a pool takes a job only while it is in the crew, which it finds out under the crew's lock. Writing off
//!   takes it out under the same lock.
//! - I4. The crew's lock is taken before a cell's. Nothing that is not ours runs, and nothing of a job is dropped, under either.
//!
//! A thread of [`JobPool`] is attached anew for each job, so that each has a [`ThreadId`](crate::ThreadId) of its own: what is
//! raised by an id that a job has told about itself does not reach the next job either.

mod builder;
mod cell;
mod crew;
mod error;
mod handle;
mod job;
pub(crate) mod number;
mod own;

use std::time::Duration;

pub use builder::Builder;
pub use error::{JobError, PoolError, Stuck, SubmitError};
pub use handle::{JobControl, JobHandle, JobState};
pub use job::Job;
pub use number::JobId;
pub use own::{JobPool, PoolStatus, RunningJob};

/// Runs `f` here and now, on a thread of whatever pool, for at most `limit`: [`Job::run`] for a job with a limit only.
///
/// # Errors
/// As [`Job::run`].
///
/// ```
/// use std::time::Duration;
/// use throwto::pool::{JobError, job};
/// use throwto::thread;
/// // As it would be in `rayon::spawn`, or in a `par_iter().map(..)`.
/// let slept = job(Duration::from_millis(5), || thread::sleep(Duration::from_secs(3600)));
/// assert!(matches!(slept, Err(JobError::TimedOut)));
/// assert_eq!(job(Duration::from_secs(60), || 6 * 7)?, 42);
/// # Ok::<(), JobError<i32>>(())
/// ```
#[track_caller]
pub fn job<T>(limit: Duration, f: impl FnOnce() -> T) -> Result<T, JobError<T>> {
    Job::new().limit(limit).run(f)
}
