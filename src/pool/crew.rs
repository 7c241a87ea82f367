//! The crew of a pool: the threads that take jobs, those written off, the queue, and the watch over all of them.
//!
//! Owns: who takes which job, replacing threads, the end of a thread. Leaves to `cell` the state of each job, to `job` running
//! it, to `own` the face. Workers, the watch and whoever waits for room block.
//!
//! **Signal context:** no.
//!
//! The watch is a thread that sleeps until the nearest limit of a running job has passed, or a job is cancelled, or a thread
//! ends. It opens a journal for a job that is overdue, writes it off when the grace is over too, and keeps the crew complete.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::builder::Builder;
use super::cell::{JobCell, Look};
use super::error::{Stuck, SubmitError};
use super::job::{Attached, discard};
use crate::attach::{adopt, attach, register};
use crate::current::{self, REGISTRY};
use crate::error::AttachError;
use crate::platform::{handler, nudge};
use crate::receipt::deadline_after;
use crate::region::{Raises, Waited};
use crate::runtime;
use crate::sync::queue::WaitQueue;

/// After this the watch tries again to start a thread that the system has refused.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A job in the queue.
pub(super) struct Queued {
    pub(super) cell: Arc<JobCell>,
    pub(super) task: Box<dyn FnOnce() + Send>,
}

/// A thread that takes jobs.
pub(super) struct Worker {
    number: u64,
    pub(super) job: Option<Arc<JobCell>>,
}

/// A thread that was written off and has not ended.
pub(super) struct Lost {
    number: u64,
    pub(super) stuck: Stuck,
}

pub(super) struct State {
    /// Takes new jobs. What is in the queue is run all the same.
    open: bool,
    pub(super) queue: VecDeque<Queued>,
    pub(super) workers: Vec<Worker>,
    pub(super) lost: Vec<Lost>,
    /// How many were ever written off.
    pub(super) written_off: u64,
    last_number: u64,
    /// When the watch will look by itself.
    watch_wakes: Option<Instant>,
    look_again: bool,
}

/// What the threads of a pool share.
pub(super) struct Crew {
    pub(super) settings: Builder,
    /// The process that its threads are in.
    process: i32,
    state: Mutex<State>,
    /// Workers that wait for a job.
    work: WaitQueue,
    /// Those who wait for room in the queue.
    room: WaitQueue,
    /// The watch.
    watch: WaitQueue,
    /// Those who wait for threads to end.
    ends: WaitQueue,
}

impl Crew {
    /// Starts all threads, or none that stays.
    pub(super) fn start(settings: Builder) -> io::Result<Arc<Self>> {
        let state = State {
            open: true,
            queue: VecDeque::new(),
            workers: Vec::new(),
            lost: Vec::new(),
            written_off: 0,
            last_number: 0,
            watch_wakes: None,
            look_again: false,
        };
        let crew = Arc::new(Self {
            settings,
            process: handler::process(),
            state: Mutex::new(state),
            work: WaitQueue::new(),
            room: WaitQueue::new(),
            watch: WaitQueue::new(),
            ends: WaitQueue::new(),
        });
        let started = crew.recruit().and_then(|()| {
            let theirs = Arc::clone(&crew);
            let watch = crew.thread("watch".to_owned());
            watch.stack_size(256 << 10).spawn(move || theirs.keep_watch())
        });
        match started {
            Ok(_detached) => Ok(crew),
            Err(error) => {
                crew.close();
                Err(error)
            }
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is a forked child: then nobody is here, and locks may be held by nobody.
    pub(super) fn stayed_behind(&self) -> bool {
        self.process != handler::process()
    }

    /// Puts a job into the queue; without room, waits for some if `wait`.
    #[track_caller]
    pub(super) fn submit(&self, job: Queued, wait: bool) -> Result<(), SubmitError> {
        if self.stayed_behind() {
            return Err(SubmitError::Forked);
        }
        let mut job = Some(job);
        let bound = self.settings.bound.unwrap_or(usize::MAX);
        if wait && bound < usize::MAX {
            crate::safepoint().map_err(SubmitError::Raised)?;
        }
        if !self.put(&mut job, bound) && wait {
            let waited = self
                .room
                .wait_until(None, Raises::End, || self.put(&mut job, bound));
            if let Waited::Raised(raised) = waited {
                return Err(SubmitError::Raised(raised));
            }
        }
        match job {
            None => Ok(()),
            Some(_) if self.state().open => Err(SubmitError::Full { bound }),
            Some(_) => Err(SubmitError::ShutDown),
        }
    }

    /// Whether there is nothing more to wait for: the job is in the queue, or the pool is closed.
    fn put(&self, job: &mut Option<Queued>, bound: usize) -> bool {
        let mut state = self.state();
        if !state.open {
            return true;
        }
        if state.queue.len() >= bound {
            return false;
        }
        state.queue.extend(job.take());
        drop(state);
        self.work.notify_one();
        true
    }

    /// Takes no more jobs; threads end when the queue is empty.
    pub(super) fn close(&self) {
        self.state().open = false;
        self.work.notify_all();
        self.room.notify_all();
        self.look_again();
    }

    /// Takes the queue away.
    pub(super) fn clear(&self) -> VecDeque<Queued> {
        std::mem::take(&mut self.state().queue)
    }

    /// Waits until only `but` threads are left, at most for `limit`. Not a cancellation point.
    pub(super) fn wait_ended(&self, limit: Duration, but: impl Fn(&State) -> usize) {
        let over = || {
            let state = self.state();
            state.workers.len() + state.lost.len() <= but(&state)
        };
        self.ends.wait_until(deadline_after(limit), Raises::Stay, over);
    }

    /// Wakes the watch.
    pub(super) fn look_again(&self) {
        self.state().look_again = true;
        self.watch.notify_one();
    }

    fn thread(&self, number: String) -> std::thread::Builder {
        // A NUL in a name makes starting the thread panic.
        let name = format!("{}-{number}", self.settings.name).replace('\0', "?");
        let builder = std::thread::Builder::new().name(name);
        match self.settings.stack_size {
            Some(size) => builder.stack_size(size),
            None => builder,
        }
    }

    /// Completes the crew, as long as there can be work for it.
    fn recruit(self: &Arc<Self>) -> io::Result<()> {
        loop {
            let mut state = self.state();
            let needed = state.open || !state.queue.is_empty();
            if !needed || state.workers.len() >= self.settings.threads {
                return Ok(());
            }
            state.last_number += 1;
            let number = state.last_number;
            state.workers.push(Worker { number, job: None });
            drop(state);
            let mut leaves = Leaves {
                crew: Arc::clone(self),
                number,
                has_come: false,
            };
            // Refused, the closure is dropped, and the worker has left.
            self.thread(number.to_string()).spawn(move || {
                leaves.has_come = true;
                leaves.crew.work(number);
            })?;
        }
    }

    fn work(&self, number: u64) {
        while let Some(task) = self.next(number) {
            // It never unwinds; what it captures may, and the thread shall live on.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(task)) {
                discard(panic);
            }
        }
    }

    /// Waits for a job. `None` if this thread takes no more (I3).
    fn next(&self, number: u64) -> Option<Box<dyn FnOnce() + Send>> {
        let mut found = None;
        if !self.take(number, &mut found) {
            self.work
                .wait_until(None, Raises::Stay, || self.take(number, &mut found));
        }
        found
    }

    /// Whether there is nothing more to wait for: a job was taken, or there is none for this thread any more.
    fn take(&self, number: u64, found: &mut Option<Box<dyn FnOnce() + Send>>) -> bool {
        let mut state = self.state();
        let State {
            open,
            queue,
            workers,
            watch_wakes,
            look_again,
            ..
        } = &mut *state;
        let Some(worker) = workers.iter_mut().find(|worker| worker.number == number) else {
            return true;
        };
        let last = worker.job.take();
        let Some(Queued { cell, task }) = queue.pop_front() else {
            let open = *open;
            drop(state);
            drop(last);
            return !open;
        };
        let overdue = cell.limit().and_then(|limit| Instant::now().checked_add(limit));
        let earlier = overdue.is_some_and(|at| watch_wakes.is_none_or(|wakes| at < wakes));
        if earlier {
            *watch_wakes = overdue;
            *look_again = true;
        }
        worker.job = Some(cell);
        drop(state);
        drop(last);
        *found = Some(task);
        self.room.notify_one();
        if earlier {
            self.watch.notify_one();
        }
        true
    }

    /// For a job on a worker: it gets an id of its own.
    pub(super) fn attach(cell: &JobCell) -> Result<Attached, AttachError> {
        if current::owner().is_some() {
            // An earlier job has never dropped its attachment.
            return attach().map(Attached::AsItIs);
        }
        let own = || std::thread::current().name().map(Arc::from);
        let name = cell.label().cloned().or_else(own);
        let id = register(name, None, None)?;
        // The last job may have blocked it.
        nudge::unblock(runtime::signal());
        Ok(Attached::AsItIs(adopt(id)))
    }

    fn keep_watch(self: &Arc<Self>) {
        while let Some(next) = self.look() {
            let deadline = next.and_then(|at| deadline_after(at.saturating_duration_since(Instant::now())));
            self.watch.wait_until(deadline, Raises::Stay, || {
                std::mem::take(&mut self.state().look_again)
            });
        }
    }

    /// Looks at every job, and when to look again. `None`: nobody is left to watch over.
    fn look(self: &Arc<Self>) -> Option<Option<Instant>> {
        let (late, mut next) = self.look_at_jobs();
        let mut refused = false;
        for cell in late {
            if let Some(stuck) = cell.stuck().filter(|stuck| self.write_off(&cell, stuck)) {
                // Before the report, which may take its time, or wait for a job of this pool.
                refused = refused || self.recruit().is_err();
                self.report(&stuck);
            }
        }
        refused = refused || self.recruit().is_err();
        let mut state = self.state();
        if refused {
            let again = Instant::now() + TRY_AGAIN;
            next = Some(next.map_or(again, |at| at.min(again)));
            state.watch_wakes = next;
        }
        let over = !state.open && state.workers.is_empty() && state.queue.is_empty();
        (!over).then_some(next)
    }

    fn look_at_jobs(&self) -> (Vec<Arc<JobCell>>, Option<Instant>) {
        let mut state = self.state();
        state.look_again = false;
        let now = Instant::now();
        let (mut late, mut next) = (Vec::new(), None::<Instant>);
        for cell in state.workers.iter().filter_map(|worker| worker.job.as_ref()) {
            match cell.look(now, self.settings.grace) {
                Look::Late => late.push(Arc::clone(cell)),
                Look::At(at) => next = Some(next.map_or(at, |next| next.min(at))),
                Look::Never => {}
            }
        }
        state.watch_wakes = next;
        (late, next)
    }

    /// Takes a job's thread out of the crew (I3) and tells who waits for it. `false` if the job is over; else the caller [reports](Self::report) it.
    #[must_use]
    pub(super) fn write_off(&self, cell: &Arc<JobCell>, stuck: &Stuck) -> bool {
        let mut state = self.state();
        let has_it = |worker: &Worker| worker.job.as_ref().is_some_and(|job| Arc::ptr_eq(job, cell));
        let Some(at) = state.workers.iter().position(has_it) else {
            return false;
        };
        if !cell.write_off(stuck) {
            return false;
        }
        let worker = state.workers.swap_remove(at);
        state.written_off += 1;
        state.lost.push(Lost {
            number: worker.number,
            stuck: stuck.clone(),
        });
        drop(state);
        REGISTRY.leave_behind(stuck.thread);
        cell.tell();
        self.look_again();
        true
    }

    /// Tells the program's `on_stuck`.
    pub(super) fn report(&self, stuck: &Stuck) {
        if let Some(report) = &self.settings.on_stuck
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| report(stuck)))
        {
            discard(panic);
        }
    }
}

/// A thread's place in the crew, given up when it ends.
struct Leaves {
    crew: Arc<Crew>,
    number: u64,
    /// The thread was not refused.
    has_come: bool,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        let mut state = self.crew.state();
        state.workers.retain(|worker| worker.number != self.number);
        state.lost.retain(|lost| lost.number != self.number);
        drop(state);
        self.crew.ends.notify_all();
        // Who was refused is tried again after a while, and not at once, for as long as the system refuses.
        if self.has_come {
            self.crew.look_again();
        }
    }
}
