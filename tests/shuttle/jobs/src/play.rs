//! One play: a pool, those who submit, cancel and wait, one who shuts it down, a clock; and the account at the end.
//!
//! Owns: [`Play`], what is asked of each job's end. Leaves to `tests/pools.rs` how many plays and in which schedules.
//!
//! **Signal context:** no.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::stage::{Unscheduled, held, stage};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};

use crate::exception::Interrupted;
use crate::pool::{Builder, Job, JobControl, JobError, JobHandle, JobPool, JobState, PoolError};
use crate::{current, scope};

/// The unit of the play's clock. The pool tries again after 20 of them to start a thread.
const TICK: Duration = Duration::from_millis(50);
const WORDS: &str = "a payload";

/// How many of each part.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    pub threads: usize,
    pub submitters: usize,
    /// Of each submitter.
    pub jobs: usize,
    pub bound: Option<usize>,
    /// How many threads are started before so many are refused.
    pub refuse_threads: Option<(u32, u32)>,
    /// How many ids are refused.
    pub refuse_ids: u32,
    /// The pool is shut down when nobody waits any more, and every job can be ended: who is forgotten waits for ever.
    pub patient: bool,
}

/// How often each end was seen.
pub type Tally = BTreeMap<&'static str, u64>;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Comes by some safepoints.
    Short,
    /// Comes by safepoints until one raises.
    Endless,
    /// Hears nothing until the end of the play.
    Deaf,
    /// Swallows what is raised, once.
    Swallows,
    Panics,
    /// Submits another one.
    Submits,
    /// Shuts its pool down.
    ShutsDown,
}

/// What is known of a job.
struct Facts {
    kind: Kind,
    limit: Option<Duration>,
    submitted: u64,
    seen: Unscheduled<Seen>,
}

#[derive(Clone, Default)]
struct Seen {
    began: bool,
    returned: bool,
    closures_dropped: u32,
    values_dropped: u32,
    cancelled: bool,
    raised: bool,
    end: Option<&'static str>,
}

/// What a job's closure holds.
struct Closure(Arc<Facts>);
/// What a job returns.
struct Value(Arc<Facts>);

impl Drop for Closure {
    fn drop(&mut self) {
        assert_no_lock("a closure is dropped");
        self.0.seen.with(|seen| seen.closures_dropped += 1);
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        assert_no_lock("a result is dropped");
        self.0.seen.with(|seen| seen.values_dropped += 1);
    }
}

/// Shows pool I4.
fn assert_no_lock(what: &str) {
    let locks = held();
    assert!(locks.is_empty(), "{what} under {locks:?}");
}

/// What all parts share.
#[derive(Default)]
struct Book {
    jobs: Vec<(Arc<Facts>, Option<JobControl>)>,
    /// The shutdown has begun.
    ending: bool,
    patient: bool,
    reported: u64,
    gate: bool,
    over: bool,
}

type Shared = Arc<Unscheduled<Book>>;

impl Play {
    pub const fn usual() -> Self {
        Self {
            threads: 2,
            submitters: 2,
            jobs: 3,
            bound: None,
            refuse_threads: None,
            refuse_ids: 0,
            patient: false,
        }
    }

    /// One thread, so that each job runs behind another.
    pub const fn narrow() -> Self {
        Self {
            threads: 1,
            bound: Some(1),
            ..Self::usual()
        }
    }

    /// Some threads are refused when one is to be replaced, and some jobs get no id.
    pub const fn poor() -> Self {
        Self {
            refuse_threads: Some((3, 2)),
            refuse_ids: 2,
            ..Self::usual()
        }
    }

    pub const fn patient(self) -> Self {
        Self {
            patient: true,
            ..self
        }
    }

    /// The pool's last thread is refused when it starts.
    pub const fn unborn() -> Self {
        Self {
            refuse_threads: Some((2, 1)),
            ..Self::usual()
        }
    }

    /// Plays it once, in the schedule that shuttle draws, and adds to `tally` how the jobs have ended.
    pub fn run(self, tally: &std::sync::RwLock<Tally>) {
        std::stage::set();
        scope::begin();
        current::begin(self.refuse_ids);
        if let Some((starts, refusals)) = self.refuse_threads {
            stage().starts.set(starts);
            stage().refusals.set(refusals);
        }
        let book = Shared::default();
        book.with(|book| book.patient = self.patient);
        let clock = thread::spawn({
            let book = Arc::clone(&book);
            move || {
                while !book.with(|book| book.over) {
                    stage().move_clock(TICK.as_nanos() as u64);
                    thread::yield_now();
                }
            }
        });
        match self.pool(&book) {
            Ok(pool) => self.use_it(pool, &book),
            Err(PoolError::NotStarted(_)) => count(tally, "not started"),
            Err(error) => panic!("{error}"),
        }
        book.with(|book| (book.gate, book.over) = (true, true));
        stage().ring();
        clock.join().unwrap();
        // Whoever does not end here is the deadlock that shuttle reports.
        stage().sleep_until(|| stage().alive.get() == 0);
        balance(&book, tally);
    }

    fn pool(self, book: &Shared) -> Result<JobPool, PoolError> {
        let reports = Arc::clone(book);
        let mut builder = Builder::new()
            .threads(self.threads)
            .grace(TICK * thread_rng().gen_range(0..8))
            .on_stuck(move |_stuck| {
                assert_no_lock("a report");
                reports.with(|book| book.reported += 1);
            });
        if let Some(bound) = self.bound {
            builder = builder.queue(bound);
        }
        builder.build()
    }

    fn use_it(self, pool: JobPool, book: &Shared) {
        let pool = Arc::new(pool);
        let submitters: Vec<_> = (0..self.submitters)
            .map(|_| {
                let (pool, book) = (Arc::clone(&pool), Arc::clone(book));
                thread::spawn(move || (0..self.jobs).for_each(|_| submit_one(&pool, &book)))
            })
            .collect();
        if self.patient {
            submitters.into_iter().for_each(|each| each.join().unwrap());
            // Whoever was written off, or refused, is replaced while the pool is open.
            while pool.status().threads < self.threads {
                thread::yield_now();
            }
            book.with(|book| book.gate = true);
            stage().ring();
            book.with(|book| book.ending = true);
            let survivors = pool.shutdown(Duration::MAX);
            assert!(survivors.is_empty(), "{survivors:?}");
            return;
        }
        let at = stage().now() + thread_rng().gen_range(10..60) * TICK.as_nanos() as u64;
        stage().sleep_until(|| stage().now() >= at);
        drop(pool.status());
        if thread_rng().gen_range(0..3) == 0 {
            pool.close();
        }
        book.with(|book| book.ending = true);
        for survivor in pool.shutdown(TICK * thread_rng().gen_range(0..10)) {
            assert!(!survivor.is_caller, "nobody called from a job: {survivor}");
        }
        submitters.into_iter().for_each(|each| each.join().unwrap());
        let status = pool.status();
        assert_eq!(status.queued, 0);
        assert_eq!(status.written_off, current::left_behind());
        drop(pool);
    }
}

fn facts(book: &Shared) -> Arc<Facts> {
    let patient = book.with(|book| book.patient);
    use Kind::*;
    let kinds = [
        Short, Short, Short, Endless, Deaf, Swallows, Panics, Submits, ShutsDown,
    ];
    // The last one is rare: it ends the pool.
    let last = kinds.len() - usize::from(patient || thread_rng().gen_range(0..4) > 0);
    let kind = kinds[thread_rng().gen_range(0..last)];
    let limited = patient && matches!(kind, Deaf | Endless) || thread_rng().gen_range(0..3) == 0;
    let facts = Arc::new(Facts {
        kind,
        limit: limited.then(|| TICK * thread_rng().gen_range(0..8)),
        submitted: stage().now(),
        seen: Unscheduled::default(),
    });
    book.with(|book| book.jobs.push((Arc::clone(&facts), None)));
    facts
}

/// The job that `facts` describe.
fn body(facts: &Arc<Facts>, pool: Weak<JobPool>, book: Shared) -> impl FnOnce() -> Value + Send + 'static {
    let closure = Closure(Arc::clone(facts));
    move || {
        let facts = &closure.0;
        assert_no_lock("a job runs");
        let before = facts.seen.with(|seen| std::mem::replace(&mut seen.began, true));
        assert!(!before, "a job has begun twice");
        match facts.kind {
            Kind::Short => (0..3).for_each(|_| raise()),
            Kind::Endless => loop {
                raise();
                thread::yield_now();
            },
            Kind::Deaf => stage().sleep_until(|| book.with(|book| book.gate)),
            Kind::Swallows => {
                let _swallowed = crate::safepoint();
                raise();
            }
            Kind::Panics => resume_unwind(Box::new(WORDS)),
            Kind::Submits => {
                if let Some(pool) = pool.upgrade() {
                    submit(&pool, &book, false);
                }
            }
            Kind::ShutsDown => {
                if let Some(pool) = pool.upgrade() {
                    book.with(|book| book.ending = true);
                    pool.shutdown(TICK * 2);
                }
            }
        }
        facts.seen.with(|seen| seen.returned = true);
        Value(Arc::clone(facts))
    }
}

fn raise() {
    if let Err(raised) = crate::safepoint() {
        resume_unwind(Box::new(raised));
    }
}

fn submit(pool: &Arc<JobPool>, book: &Shared, wait: bool) -> Option<(Arc<Facts>, JobHandle<Value>)> {
    let facts = facts(book);
    let mut job = Job::new();
    if let Some(limit) = facts.limit {
        job = job.limit(limit);
    }
    let body = body(&facts, Arc::downgrade(pool), Arc::clone(book));
    let submitted = if wait {
        pool.submit_with(job, body)
    } else {
        pool.try_submit(job, body)
    };
    let handle = match submitted {
        Ok(handle) => handle,
        Err(_refused) => {
            facts.seen.with(|seen| seen.end = Some("not taken"));
            return None;
        }
    };
    let control = handle.control().clone();
    book.with(|book| {
        let all = &mut book.jobs;
        let mine = all.iter_mut().find(|(each, _)| Arc::ptr_eq(each, &facts));
        mine.expect("it is in the book").1 = Some(control);
    });
    Some((facts, handle))
}

fn submit_one(pool: &Arc<JobPool>, book: &Shared) {
    let Some((facts, handle)) = submit(pool, book, true) else {
        return;
    };
    let handle = match thread_rng().gen_range(0..6) {
        0 => return drop(handle),
        1 | 2 => {
            facts.seen.with(|seen| seen.cancelled = true);
            handle.cancel();
            handle
        }
        3 => {
            // Before it is known to have been raised: the job may have ended by it.
            facts.seen.with(|seen| seen.raised = true);
            let raised = handle.raise(Interrupted).is_ok();
            facts.seen.with(|seen| seen.raised = raised);
            handle
        }
        4 => match handle.wait_timeout(TICK) {
            Ok(Ok(value)) => return end(&facts, Ok(value)),
            Ok(Err(handle)) => {
                facts.seen.with(|seen| seen.cancelled = true);
                handle.cancel();
                handle
            }
            Err(error) => return end(&facts, Err(error)),
        },
        _ => handle,
    };
    let ended = handle.wait();
    end(&facts, ended);
}

/// Whether a job may have ended so.
fn end(facts: &Facts, outcome: Result<Value, JobError<Value>>) {
    let seen = facts.seen.with(|seen| seen.clone());
    let end = match &outcome {
        Ok(value) => {
            assert!(
                seen.returned && std::ptr::eq(&*value.0, facts),
                "somebody else's result"
            );
            "returned"
        }
        Err(JobError::TimedOut) => {
            let limit = facts.limit.expect("it had a limit").as_nanos() as u64;
            assert!(stage().now() >= facts.submitted + limit, "before its time");
            "timed out"
        }
        Err(JobError::Cancelled) => "cancelled",
        Err(JobError::Raised(_)) => {
            assert!(seen.raised, "nobody raised into it");
            "raised"
        }
        Err(JobError::Panicked(payload)) => {
            let words = payload.downcast_ref::<&str>().copied();
            assert_eq!((facts.kind, words), (Kind::Panics, Some(WORDS)));
            "panicked"
        }
        Err(JobError::NotRun) => {
            assert!(!seen.began);
            "not run"
        }
        Err(JobError::NotAttached(_)) => {
            assert!(!seen.began);
            "not attached"
        }
        Err(JobError::Stuck(stuck)) => {
            assert!(!stuck.is_caller);
            "stuck"
        }
        Err(other) => panic!("{other:?}"),
    };
    facts.seen.with(|seen| seen.end = Some(end));
}

/// Every job has ended once and as it may, nothing of it is left, and nobody is.
fn balance(book: &Shared, tally: &std::sync::RwLock<Tally>) {
    let book = book.with(std::mem::take);
    let mut written_off = 0;
    for (facts, control) in &book.jobs {
        let seen = facts.seen.with(|seen| seen.clone());
        assert_eq!(seen.closures_dropped, 1, "{:?}: the closure", facts.kind);
        assert_eq!(
            seen.values_dropped,
            u32::from(seen.returned),
            "{:?}: the result",
            facts.kind
        );
        let state = control.as_ref().map(JobControl::state);
        match state {
            None => assert_eq!(seen.end, Some("not taken")),
            Some(JobState::WrittenOff) => written_off += 1,
            Some(state) => assert_eq!(state, JobState::Finished),
        }
        let end = seen.end.unwrap_or("dropped");
        let wanted_over = seen.cancelled || book.ending;
        match end {
            "cancelled" | "not run" => assert!(wanted_over, "{end}, and nobody wanted that"),
            "stuck" => assert!(
                wanted_over || facts.limit.is_some(),
                "stuck, and nobody wanted it to end"
            ),
            _ => {}
        }
        if end != "dropped" {
            assert_eq!(state == Some(JobState::WrittenOff), end == "stuck");
        }
        count(tally, end);
    }
    assert_eq!(book.reported, written_off, "reported, and written off");
    assert_eq!(current::left_behind(), written_off);
    assert_eq!(current::live(), 0, "ids that are left");
}

fn count(tally: &std::sync::RwLock<Tally>, end: &'static str) {
    *tally.write().unwrap().entry(end).or_default() += 1;
}
