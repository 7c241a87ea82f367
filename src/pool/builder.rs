//! [`Builder`]: how a pool shall be.
//!
//! Owns: the settings and what is refused of them. Leaves to `crew` the threads.
//!
//! **Signal context:** no.

use std::fmt;
use std::time::Duration;

use super::error::{PoolError, Stuck};
use super::own::JobPool;

/// How long a job may be late before its thread is written off, unless the builder says otherwise.
const GRACE: Duration = Duration::from_secs(5);

/// Called for each job that is written off.
pub(super) type OnStuck = Box<dyn Fn(&Stuck) + Send + Sync>;

/// How a [`JobPool`] shall be.
///
/// ```
/// use std::time::Duration;
/// let pool = throwto::pool::Builder::new()
///     .threads(2)
///     .name("resize")
///     .default_limit(Duration::from_secs(30))
///     .queue(1000)
///     .grace(Duration::from_secs(2))
///     .on_stuck(|stuck| eprintln!("{stuck}"))
///     .build()?;
/// assert_eq!(pool.status().threads, 2);
/// # Ok::<(), throwto::pool::PoolError>(())
/// ```
#[must_use = "there is no pool before `build`"]
pub struct Builder {
    pub(super) threads: usize,
    pub(super) name: String,
    pub(super) default_limit: Option<Duration>,
    pub(super) bound: Option<usize>,
    pub(super) grace: Duration,
    pub(super) stack_size: Option<usize>,
    pub(super) on_stuck: Option<OnStuck>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// As many threads as [`available_parallelism`](std::thread::available_parallelism) says, no limit, a queue without a bound, a grace of 5 s.
    pub fn new() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            name: "job".to_owned(),
            default_limit: None,
            bound: None,
            grace: GRACE,
            stack_size: None,
            on_stuck: None,
        }
    }

    /// How many jobs run at once.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// What its threads are called: this, a dash and a number.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The limit of jobs that are submitted without one. [`Job::limit`](super::Job::limit) overrides it; `Duration::MAX` there is none.
    pub fn default_limit(mut self, limit: Duration) -> Self {
        self.default_limit = Some(limit);
        self
    }

    /// How many jobs may wait for a thread. A cancelled one counts until its turn comes.
    pub fn queue(mut self, bound: usize) -> Self {
        self.bound = Some(bound);
        self
    }

    /// How long after its limit has passed, or after it was cancelled, a job may go on before its thread is written off. Zero
    /// leaves it no time; one too long for the clock never ends.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The size of the threads' stacks in bytes.
    pub fn stack_size(mut self, size: usize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// Calls `report` for each job whose thread is written off, on a thread of the pool's own, once another thread has taken that
    /// one's place. While it runs no other is written off by the clock. A panic in it goes no further than the panic hook.
    pub fn on_stuck(mut self, report: impl Fn(&Stuck) + Send + Sync + 'static) -> Self {
        self.on_stuck = Some(Box::new(report));
        self
    }

    /// Starts the pool: its threads, and one more that watches over them.
    ///
    /// # Errors
    /// [`PoolError`]: no threads, a queue without room, or the system refused a thread.
    ///
    /// ```
    /// use throwto::pool::{Builder, PoolError};
    /// assert!(matches!(Builder::new().threads(0).build(), Err(PoolError::NoThreads)));
    /// assert!(matches!(Builder::new().queue(0).build(), Err(PoolError::NoQueue)));
    /// ```
    pub fn build(self) -> Result<JobPool, PoolError> {
        if self.threads == 0 {
            return Err(PoolError::NoThreads);
        }
        if self.bound == Some(0) {
            return Err(PoolError::NoQueue);
        }
        JobPool::start(self)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("threads", &self.threads)
            .field("name", &self.name)
            .field("default_limit", &self.default_limit)
            .field("queue", &self.bound)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}
