//! [`JobPool`]: a pool whose threads can be relied on.
//!
//! Owns: the face: submitting, looking, shutting down. Leaves to `crew` the threads. [`JobPool::submit`] to a bounded queue,
//! [`JobPool::shutdown`] and the drop block, the last two within a time.
//!
//! **Signal context:** no.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::builder::Builder;
use super::cell::JobCell;
use super::crew::{Crew, Queued, State};
use super::error::{PoolError, Stuck, SubmitError};
use super::handle::JobHandle;
use super::job::{Job, Prepared, discard};
use super::number::JobId;
use crate::protocol::registry::ThreadId;
use crate::status::{self, ThreadInfo};

/// The drop of a pool waits no longer than this, whatever the grace.
const LONGEST_DROP: Duration = Duration::from_secs(10);

/// Threads that run jobs, each job with a handle, a time limit if you like, and no effect on the next one.
///
/// A job that neither ends nor can be ended, for longer than the [grace](Builder::grace) after its limit or its cancellation, is
/// *written off*: [`on_stuck`](Builder::on_stuck) is told, its handle says [`JobError::Stuck`](super::JobError::Stuck) with the place where it
/// is, and another thread takes the place of its thread. That one ends when it comes free. Until then it is shown
/// by [`status`](Self::status), by [`threads`](crate::threads) as [`left_behind`](crate::ThreadInfo::left_behind), and counted by
/// [`stats`](crate::stats).
///
/// Each job has a [`ThreadId`] of its own. A job belongs to nobody's tree or group. Its panic is printed by the panic hook and
/// told by its handle; the thread lives on.
///
/// Dropping the pool shuts it down: jobs that wait are dropped, those that run are cancelled and waited for as long as the grace
/// is, at most 10 s; who has not ended by then is written off.
///
/// ```
/// use std::time::Duration;
/// use throwto::pool::{Job, JobError, JobPool};
/// use throwto::thread;
///
/// let pool = JobPool::new(2)?;
/// let answer = pool.submit(|| 6 * 7)?;
/// let nap = Job::new().limit(Duration::from_millis(10)).label("nap");
/// let nap = pool.submit_with(nap, || thread::sleep(Duration::from_secs(3600)))?;
/// assert_eq!(answer.wait()?, 42);
/// assert!(matches!(nap.wait(), Err(JobError::TimedOut)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JobPool {
    crew: Arc<Crew>,
}

/// What a pool is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolStatus {
    /// How many threads take jobs, or run one: as many as were asked for, unless one is just being replaced, or the pool shut
    /// down.
    pub threads: usize,
    /// How many jobs wait for a thread.
    pub queued: usize,
    /// The jobs that run.
    pub running: Vec<RunningJob>,
    /// Those that were written off and have not come free, each with where it is now.
    pub stuck: Vec<Stuck>,
    /// How many were ever written off.
    pub written_off: u64,
}

/// A job that runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunningJob {
    /// Its number.
    pub id: JobId,
    /// What it is called.
    pub label: Option<String>,
    /// How long it has run.
    pub for_: Duration,
    /// Its thread, and where it is.
    pub info: ThreadInfo,
}

impl JobPool {
    /// A pool of `threads` threads, with the defaults of [`Builder`].
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new(threads: usize) -> Result<Self, PoolError> {
        Builder::new().threads(threads).build()
    }

    pub(super) fn start(settings: Builder) -> Result<Self, PoolError> {
        let crew = Crew::start(settings).map_err(PoolError::NotStarted)?;
        Ok(Self { crew })
    }

    /// Submits `f` with the pool's default limit. With a bounded queue it waits for room, and is a cancellation point.
    ///
    /// A job may submit to its own pool. If it waits for room, or for the other's result, and all threads do so, only limits,
    /// cancellation and raises end that.
    ///
    /// # Errors
    /// [`SubmitError`]; `f` is dropped.
    ///
    /// ```
    /// use throwto::pool::{JobPool, SubmitError};
    /// let pool = JobPool::new(1)?;
    /// pool.shutdown(std::time::Duration::from_secs(10));
    /// assert!(matches!(pool.submit(|| ()), Err(SubmitError::ShutDown)));
    /// # Ok::<(), throwto::pool::PoolError>(())
    /// ```
    #[track_caller]
    pub fn submit<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JobHandle<T>, SubmitError> {
        self.submit_with(Job::new(), f)
    }

    /// As [`submit`](Self::submit), for a job with a limit or a label of its own.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    #[track_caller]
    pub fn submit_with<T: Send + 'static>(
        &self,
        job: Job,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JobHandle<T>, SubmitError> {
        self.put(job, f, true)
    }

    /// As [`submit_with`](Self::submit_with), without waiting for room. Not a cancellation point.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`SubmitError::Full`].
    ///
    /// ```
    /// use throwto::pool::{Builder, Job, SubmitError};
    /// let pool = Builder::new().threads(1).queue(1).build()?;
    /// let mut taken = 0;
    /// let full = loop {
    ///     match pool.try_submit(Job::new(), throwto::thread::park) {
    ///         Ok(_handle) => taken += 1,
    ///         Err(error) => break error,
    ///     }
    /// };
    /// assert!(matches!(full, SubmitError::Full { bound: 1 }) && (1..=2).contains(&taken));
    /// # Ok::<(), throwto::pool::PoolError>(())
    /// ```
    #[track_caller]
    pub fn try_submit<T: Send + 'static>(
        &self,
        job: Job,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JobHandle<T>, SubmitError> {
        self.put(job, f, false)
    }

    #[track_caller]
    fn put<T: Send + 'static>(
        &self,
        job: Job,
        f: impl FnOnce() -> T + Send + 'static,
        wait: bool,
    ) -> Result<JobHandle<T>, SubmitError> {
        let job = job.limit_or(self.crew.settings.default_limit);
        let (prepared, handle) = Prepared::new(job, Arc::downgrade(&self.crew), f);
        let cell = Arc::clone(prepared.cell());
        let task = Box::new(move || prepared.run(Crew::attach));
        self.crew.submit(Queued { cell, task }, wait)?;
        Ok(handle)
    }

    /// What it is doing now. Takes some file reads for each job that runs.
    ///
    /// ```
    /// let pool = throwto::pool::JobPool::new(3)?;
    /// let status = pool.status();
    /// assert_eq!((status.threads, status.queued, status.running.len()), (3, 0, 0));
    /// # Ok::<(), throwto::pool::PoolError>(())
    /// ```
    pub fn status(&self) -> PoolStatus {
        if self.crew.stayed_behind() {
            return PoolStatus {
                threads: 0,
                queued: 0,
                running: Vec::new(),
                stuck: Vec::new(),
                written_off: 0,
            };
        }
        let state = self.crew.state();
        let cells = jobs(&state);
        let (threads, queued, written_off) = (state.workers.len(), state.queue.len(), state.written_off);
        drop(state);
        PoolStatus {
            threads,
            queued,
            running: cells.iter().filter_map(|cell| look_at(cell)).collect(),
            stuck: self.lost(),
            written_off,
        }
    }

    /// Takes no more jobs. Those that wait are run; the threads end after that. [`shutdown`](Self::shutdown) can follow.
    ///
    /// ```
    /// let pool = throwto::pool::JobPool::new(1)?;
    /// let last = pool.submit(|| "the last")?;
    /// pool.close();
    /// assert!(pool.submit(|| ()).is_err());
    /// assert_eq!(last.wait()?, "the last");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        if !self.crew.stayed_behind() {
            self.crew.close();
        }
    }

    /// Takes no more jobs, drops those that wait, cancels those that run, and waits until all threads have ended or `limit` is
    /// over. Returns those that have not ended, each with where it is.
    ///
    /// Who is still running then is written off. Those that were written off before are waited for as well, and returned if they
    /// have not come free. Zero cancels and looks once. It can be called again.
    ///
    /// A job that calls this for its own pool is not cancelled and not waited for; it is among those returned, with
    /// [`is_caller`](Stuck::is_caller), and its thread ends after it.
    ///
    /// Not a cancellation point: an exception raised into the caller stays pending.
    ///
    /// ```
    /// use std::time::Duration;
    /// let pool = throwto::pool::JobPool::new(2)?;
    /// let (sender, receiver) = std::sync::mpsc::channel::<()>();
    /// let deaf = pool.submit(move || receiver.recv())?;
    /// while deaf.state() == throwto::pool::JobState::Queued {
    ///     std::thread::yield_now();
    /// }
    /// let survivors = pool.shutdown(Duration::from_millis(50));
    /// assert_eq!(survivors[0].job, deaf.id());
    /// println!("{}", survivors[0]);
    /// // job #1 is stuck in thread #0.1: futex wait; it ran for 50.4ms, 50.3ms of that too long
    /// drop(sender);
    /// assert!(pool.shutdown(Duration::from_secs(10)).is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn shutdown(&self, limit: Duration) -> Vec<Stuck> {
        if self.crew.stayed_behind() {
            return Vec::new();
        }
        self.crew.close();
        // Dropped here, under no lock; their handles are told.
        self.crew.clear().into_iter().for_each(discard);
        let me = ThreadId::current();
        let is_me = |cell: &JobCell| me.is_some() && cell.thread() == me;
        let others = jobs(&self.crew.state());
        for cell in others.iter().filter(|cell| !is_me(cell)) {
            cell.cancel();
        }
        self.crew.wait_ended(limit, |state| {
            let mine = jobs(state).iter().filter(|cell| is_me(cell)).count();
            let lost = state
                .lost
                .iter()
                .filter(|lost| Some(lost.stuck.thread) == me)
                .count();
            mine + lost
        });
        let mut survivors = Vec::new();
        let left = jobs(&self.crew.state());
        for cell in left {
            let Some(mut stuck) = cell.stuck() else { continue };
            stuck.is_caller = Some(stuck.thread) == me;
            if stuck.is_caller {
                survivors.push(stuck);
            } else if self.crew.write_off(&cell, &stuck) {
                self.crew.report(&stuck);
            }
        }
        survivors.extend(self.lost());
        survivors
    }

    /// Those that were written off and have not come free.
    fn lost(&self) -> Vec<Stuck> {
        let lost: Vec<Stuck> = self
            .crew
            .state()
            .lost
            .iter()
            .map(|lost| lost.stuck.clone())
            .collect();
        let me = ThreadId::current();
        // Its id is dead once it has come free.
        let still = lost.into_iter().filter_map(|stuck| {
            let info = status::info(stuck.thread)?;
            Some(Stuck {
                is_caller: Some(stuck.thread) == me,
                info: Some(info),
                ..stuck
            })
        });
        still.collect()
    }
}

/// The jobs of the threads that are not written off.
fn jobs(state: &State) -> Vec<Arc<JobCell>> {
    state
        .workers
        .iter()
        .filter_map(|worker| worker.job.clone())
        .collect()
}

fn look_at(cell: &JobCell) -> Option<RunningJob> {
    let (thread, for_) = cell.running()?;
    Some(RunningJob {
        id: cell.id(),
        label: cell.label().map(|label| label.to_string()),
        for_,
        info: status::info(thread)?,
    })
}

impl Drop for JobPool {
    fn drop(&mut self) {
        self.shutdown(self.crew.settings.grace.min(LONGEST_DROP));
    }
}

impl fmt::Debug for JobPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        f.debug_struct("JobPool")
            .field("name", &self.crew.settings.name)
            .field("threads", &status.threads)
            .field("queued", &status.queued)
            .field("running", &status.running.len())
            .field("stuck", &status.stuck.len())
            .finish()
    }
}
