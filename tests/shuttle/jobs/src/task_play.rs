//! One play of blocking tasks: a runtime, those who spawn, abort, raise and wait, one who cancels, one who ends the runtime, a clock; and
//! the account at the end.
//!
//! Owns: [`TaskPlay`], what is asked of each task's end. Leaves to `tests/tasks.rs` how many plays and in which schedules.
//!
//! **Signal context:** no.

use std::panic::resume_unwind;
use std::pin::pin;
use std::stage::{Unscheduled, held, stage};
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use ::tokio::runtime::{Handle, Runtime};
use ::tokio_util::sync::CancellationToken;
use shuttle::rand::{Rng, thread_rng};

use crate::exception::Interrupted;
use crate::play::Tally;
use crate::tasks::{self, Builder, JoinError, JoinHandle, TaskGroup, runtimes};
use crate::{current, scope};

/// The unit of the play's clock.
const TICK: Duration = Duration::from_millis(50);
const TOO_LATE: u64 = 20_000 * TICK.as_nanos() as u64;
const WORDS: &str = "a payload";

/// How many of each part.
#[derive(Clone, Copy, Debug)]
pub struct TaskPlay {
    threads: usize,
    spawners: usize,
    /// Of each spawner.
    tasks: usize,
    /// How many ids are refused.
    refuse_ids: u32,
    end: End,
}

/// When the runtime ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In the midst of it all.
    AnyTime,
    /// When all who wait have their answers: who is forgotten waits for ever.
    Late,
    /// As `Late`, and all threads are stuck to the end: whoever is ended must be answered without them.
    Stuck,
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Comes by some safepoints.
    Short,
    /// Comes by safepoints until one raises.
    Endless,
    /// Hears nothing until the gate opens.
    Deaf,
    /// Swallows what is raised, once.
    Swallows,
    Panics,
    /// Spawns another one, in the same group.
    Spawns,
    /// Cancels its own token, and is endless then.
    CancelsItself,
    /// Asks for its token, and comes by a safepoint.
    HasToken,
}

/// What is known of a task.
#[derive(Debug)]
struct Facts {
    kind: Kind,
    limit: Option<Duration>,
    grouped: bool,
    /// The token of the play is cancelled for it, too.
    has_outer: bool,
    abort_on_drop: bool,
    spawned: u64,
    seen: Unscheduled<Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    began: bool,
    returned: bool,
    closures_dropped: u32,
    values_dropped: u32,
    aborted: bool,
    raised: bool,
    /// It had ended before it began.
    refused: bool,
    end: Option<&'static str>,
}

/// What a task's closure holds.
struct Closure(Arc<Facts>);
/// What a task returns.
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

fn assert_no_lock(what: &str) {
    let locks = held();
    assert!(locks.is_empty(), "{what} under {locks:?}");
}

/// What all parts share.
struct Cast {
    play: TaskPlay,
    group: TaskGroup,
    outer: CancellationToken,
    book: Unscheduled<Book>,
}

#[derive(Default)]
struct Book {
    tasks: Vec<Arc<Facts>>,
    group_over: bool,
    outer_over: bool,
    /// The end of the runtime has begun.
    ending: bool,
    gate: bool,
    over: bool,
}

impl TaskPlay {
    pub const fn usual() -> Self {
        Self {
            threads: 2,
            spawners: 2,
            tasks: 3,
            refuse_ids: 0,
            end: End::AnyTime,
        }
    }

    /// One thread, so that each task runs behind another.
    pub const fn narrow() -> Self {
        Self {
            threads: 1,
            ..Self::usual()
        }
    }

    /// Some tasks get no id.
    pub const fn poor() -> Self {
        Self {
            refuse_ids: 2,
            ..Self::usual()
        }
    }

    pub const fn patient(self) -> Self {
        Self {
            end: End::Late,
            ..self
        }
    }

    pub const fn stuck(self) -> Self {
        Self {
            end: End::Stuck,
            ..self
        }
    }

    /// Plays it once, in the schedule that shuttle draws, and adds to `tally` how the tasks have ended.
    pub fn run(self, tally: &RwLock<Tally>) {
        std::stage::set();
        scope::begin();
        current::begin(self.refuse_ids);
        runtimes::begin();
        let cast = Arc::new(Cast {
            play: self,
            group: TaskGroup::new(),
            outer: CancellationToken::new(),
            book: Unscheduled::default(),
        });
        let clock = thread::spawn({
            let cast = Arc::clone(&cast);
            move || {
                while !cast.book.with(|book| book.over) {
                    stage().move_clock(TICK.as_nanos() as u64);
                    assert!(stage().now() < TOO_LATE, "somebody waits for ever: {:#?}", cast.book.with(|book| std::mem::take(&mut book.tasks)));
                    thread::yield_now();
                }
            }
        });
        let runtime = Runtime::new(self.threads);
        cast.act(runtime);
        cast.book.with(|book| (book.gate, book.over) = (true, true));
        stage().ring();
        clock.join().unwrap();
        // Whoever does not end here is the deadlock that shuttle reports.
        stage().sleep_until(|| stage().alive.get() == 0);
        cast.balance(tally);
    }
}

/// Waits some ticks.
fn pause(at_most: u64) {
    let at = stage().now() + thread_rng().gen_range(0..at_most) * TICK.as_nanos() as u64;
    stage().sleep_until(|| stage().now() >= at);
}

impl Cast {
    fn act(self: &Arc<Self>, runtime: Runtime) {
        if self.play.end == End::Stuck {
            self.fill(runtime.handle());
        }
        let spawners: Vec<_> = (0..self.play.spawners)
            .map(|_| {
                let (cast, handle) = (Arc::clone(self), runtime.handle().clone());
                thread::spawn(move || (0..cast.play.tasks).for_each(|_| cast.spawn_one(&handle)))
            })
            .collect();
        let canceller = thread::spawn({
            let cast = Arc::clone(self);
            move || cast.cancel_something()
        });
        if self.play.end == End::AnyTime {
            pause(30);
            let opener = thread::spawn({
                let cast = Arc::clone(self);
                move || {
                    pause(10);
                    cast.open();
                }
            });
            self.finish(runtime);
            spawners.into_iter().for_each(|each| each.join().unwrap());
            opener.join().unwrap();
        } else {
            spawners.into_iter().for_each(|each| each.join().unwrap());
            self.open();
            self.finish(runtime);
        }
        canceller.join().unwrap();
    }

    /// Has every thread stuck in a task.
    fn fill(self: &Arc<Self>, on: &Handle) {
        for _ in 0..self.play.threads {
            let facts = self.facts(Kind::Deaf, false);
            let stuck = Builder::new().spawn_blocking_on(self.body(&facts), on);
            stage().sleep_until(|| facts.seen.with(|seen| seen.began));
            drop(stuck);
        }
    }

    fn open(&self) {
        self.book.with(|book| book.gate = true);
        stage().ring();
    }

    fn cancel_something(&self) {
        pause(30);
        match thread_rng().gen_range(0..3) {
            0 => {
                self.book.with(|book| book.group_over = true);
                self.group.abort();
            }
            1 => {
                self.book.with(|book| book.outer_over = true);
                self.outer.cancel();
            }
            _ => {}
        }
    }

    fn finish(&self, runtime: Runtime) {
        self.book.with(|book| book.ending = true);
        if thread_rng().gen_bool(0.5) {
            drop(runtime);
        } else {
            for survivor in tasks::shutdown(runtime, TICK * thread_rng().gen_range(0..10)) {
                assert!(!survivor.to_string().is_empty());
            }
        }
    }

    fn facts(&self, kind: Kind, inherits: bool) -> Arc<Facts> {
        let chance = |of_ten: f64| thread_rng().gen_bool(of_ten / 10.0);
        let stuck = kind == Kind::Deaf && self.play.end == End::Stuck;
        let facts = Arc::new(Facts {
            kind,
            limit: chance(3.0).then(|| TICK * thread_rng().gen_range(0..8)),
            grouped: inherits || !stuck && chance(3.0),
            has_outer: !inherits && !stuck && chance(3.0),
            abort_on_drop: !inherits && chance(3.0),
            spawned: stage().now(),
            seen: Unscheduled::default(),
        });
        self.book.with(|book| book.tasks.push(Arc::clone(&facts)));
        facts
    }

    fn some_kind(&self) -> Kind {
        use Kind::*;
        let kinds = [
            Short,
            Short,
            Endless,
            Swallows,
            Panics,
            Spawns,
            CancelsItself,
            HasToken,
            HasToken,
            // Nobody waits for it unless the gate will open.
            Deaf,
        ];
        let last = kinds.len() - usize::from(self.play.end != End::AnyTime);
        kinds[thread_rng().gen_range(0..last)]
    }

    /// The closure that `facts` describe.
    fn body(self: &Arc<Self>, facts: &Arc<Facts>) -> impl FnOnce() -> Value + Send + 'static {
        let (closure, cast) = (Closure(Arc::clone(facts)), Arc::clone(self));
        move || {
            let facts = &closure.0;
            assert_no_lock("a closure runs");
            facts.seen.with(|seen| {
                assert!(!seen.began, "it has begun twice");
                assert!(!seen.refused, "it has begun, and had ended before");
                seen.began = true;
            });
            stage().ring();
            match facts.kind {
                Kind::Short => (0..3).for_each(|_| raise()),
                Kind::Endless => be_endless(),
                Kind::Deaf => stage().sleep_until(|| cast.book.with(|book| book.gate)),
                Kind::Swallows => {
                    let _swallowed = crate::safepoint();
                    raise();
                }
                Kind::Panics => resume_unwind(Box::new(WORDS)),
                Kind::Spawns => {
                    let child = cast.facts(Kind::Short, facts.grouped);
                    drop(Builder::new().spawn_blocking(cast.body(&child)));
                }
                Kind::HasToken => {
                    let _token = tasks::current_token().expect("it runs in a task");
                    raise();
                }
                Kind::CancelsItself => {
                    let token = tasks::current_token().expect("it runs in a task");
                    facts.seen.with(|seen| seen.aborted = true);
                    token.cancel();
                    be_endless();
                }
            }
            facts.seen.with(|seen| seen.returned = true);
            Value(Arc::clone(facts))
        }
    }

    fn spawn_one(self: &Arc<Self>, on: &Handle) {
        let facts = self.facts(self.some_kind(), false);
        let mut builder = Builder::new();
        if let Some(limit) = facts.limit {
            builder = builder.time_limit(limit);
        }
        if facts.grouped {
            builder = builder.group(&self.group);
        }
        if facts.has_outer {
            builder = builder.token(&self.outer);
        }
        if facts.abort_on_drop {
            builder = builder.abort_on_drop();
        }
        let handle = builder.spawn_blocking_on(self.body(&facts), on);
        let early = thread_rng().gen_bool(0.3).then(|| handle.token());
        match thread_rng().gen_range(0..6) {
            0 => {
                facts.seen.with(|seen| seen.aborted |= facts.abort_on_drop);
                return drop(handle);
            }
            1 => {
                let raised = handle.raise(Interrupted).is_ok();
                facts.seen.with(|seen| seen.raised = raised);
                if !raised || self.play.end != End::AnyTime {
                    self.abort(&facts, || handle.abort());
                }
            }
            2 => self.abort(&facts, || handle.token().cancel()),
            3 => {
                let remote = handle.abort_handle();
                assert!(!format!("{remote:?} {:?}", remote.thread()).is_empty());
                self.abort(&facts, || remote.abort());
            }
            4 if self.play.end == End::AnyTime => {}
            _ => self.abort(&facts, || handle.abort()),
        }
        let refused = !facts.seen.with(|seen| seen.began) && handle.is_finished();
        if refused && !facts.seen.with(|seen| seen.began) {
            facts.seen.with(|seen| seen.refused = true);
        }
        let late = wait(&facts, handle, self);
        assert!(
            early.is_none_or(|token| token.is_cancelled()),
            "its token outlives it"
        );
        assert!(late.is_cancelled(), "its token outlives it");
    }

    fn abort(&self, facts: &Facts, how: impl FnOnce()) {
        facts.seen.with(|seen| seen.aborted = true);
        how();
    }

    /// Every task has ended once and as it may, nothing of it is left, and nobody is.
    fn balance(&self, tally: &RwLock<Tally>) {
        assert!(self.group.is_empty(), "members that have ended");
        assert!(runtimes::are_over(), "a runtime that has ended");
        assert_eq!(current::live(), 0, "ids that are left");
        let book = self.book.with(std::mem::take);
        for facts in &book.tasks {
            let seen = facts.seen.with(|seen| seen.clone());
            assert_eq!(seen.closures_dropped, 1, "{:?}: the closure", facts.kind);
            assert_eq!(
                seen.values_dropped,
                u32::from(seen.returned),
                "{:?}: the result",
                facts.kind
            );
            assert!(!(seen.refused && seen.began));
            let end = seen.end.unwrap_or("dropped");
            match end {
                "aborted" => assert!(
                    seen.aborted || facts.grouped && book.group_over || facts.has_outer && book.outer_over,
                    "aborted, and nobody wanted that"
                ),
                "shut down" => assert!(book.ending, "shut down, and the runtime is not"),
                _ => {}
            }
            *tally.write().unwrap().entry(end).or_default() += 1;
        }
    }
}

fn raise() {
    if let Err(raised) = crate::safepoint() {
        resume_unwind(Box::new(raised));
    }
}

fn be_endless() -> ! {
    loop {
        raise();
        thread::yield_now();
    }
}

/// Rings when its task is to be polled.
#[derive(Default)]
struct Bell(Unscheduled<bool>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        assert_no_lock("a waker runs");
        self.0.with(|rung| *rung = true);
        stage().ring();
    }
}

/// Waits for the end, now and then with another waker, and says whether it may be so. Returns the token of the task that has ended.
fn wait(facts: &Facts, handle: JoinHandle<Value>, cast: &Cast) -> CancellationToken {
    let mut handle = pin!(handle);
    let mut bell = Arc::new(Bell::default());
    let outcome = loop {
        let waker = Waker::from(Arc::clone(&bell));
        if let Poll::Ready(outcome) = handle.as_mut().poll(&mut Context::from_waker(&waker)) {
            break outcome;
        }
        if thread_rng().gen_bool(0.3) {
            bell = Arc::default();
            continue;
        }
        stage().sleep_until(|| bell.0.with(std::mem::take));
    };
    assert!(handle.is_finished(), "its result was there before its end");
    let end = judge(facts, outcome);
    let no_thread_is_free = cast.play.end == End::Stuck;
    assert!(!(no_thread_is_free && facts.seen.with(|seen| seen.began)));
    facts.seen.with(|seen| seen.end = Some(end));
    handle.token()
}

/// Whether a task may have ended so.
fn judge(facts: &Facts, outcome: Result<Value, JoinError>) -> &'static str {
    let seen = facts.seen.with(|seen| seen.clone());
    assert_eq!(
        seen.closures_dropped, 1,
        "answered before its closure was dropped"
    );
    match outcome {
        Ok(value) => {
            assert!(
                seen.returned && std::ptr::eq(&*value.0, facts),
                "somebody else's result"
            );
            "returned"
        }
        Err(JoinError::Aborted) => {
            assert!(!seen.returned, "results win");
            "aborted"
        }
        Err(JoinError::ShutDown) => {
            assert!(!seen.returned, "results win");
            "shut down"
        }
        Err(JoinError::TimedOut) => {
            let limit = facts.limit.expect("it had a limit").as_nanos() as u64;
            assert!(stage().now() >= facts.spawned + limit, "before its time");
            "timed out"
        }
        Err(JoinError::Raised(_)) => {
            assert!(seen.raised, "nobody raised into it");
            "raised"
        }
        Err(JoinError::Panicked(panic)) => {
            let words = panic.into_payload().downcast_ref::<&str>().copied();
            assert_eq!((facts.kind, words), (Kind::Panics, Some(WORDS)));
            "panicked"
        }
        Err(JoinError::NotAttached(_)) => {
            assert!(!seen.began);
            "not attached"
        }
    }
}
