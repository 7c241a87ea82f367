//! One play of blocking tasks: a runtime, those who spawn, abort, raise and wait, one who cancels, one who ends the runtime, a clock; and
//! the account at the end.
//!
//! Owns: [`TaskPlay`]. Leaves to [`facts`] what is asked of each task's end, to `tests/tasks.rs` how many plays and in which schedules.
//!
//! **Signal context:** no.

use std::panic::resume_unwind;
use std::stage::{Unscheduled, stage};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use ::tokio::runtime::{Handle, Runtime};
use ::tokio_util::sync::CancellationToken;
use shuttle::rand::{Rng, thread_rng};

use crate::exception::Interrupted;
use crate::play::Tally;
use crate::tasks::{self, Builder, TaskGroup, runtimes};
use crate::{current, scope};

mod facts;

use facts::{Closure, Facts, Kind, Seen, Value, assert_no_lock, wait};

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
                    assert!(
                        stage().now() < TOO_LATE,
                        "somebody waits for ever: {:#?}",
                        cast.book.with(|book| std::mem::take(&mut book.tasks))
                    );
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
        let aborted = match thread_rng().gen_range(0..6) {
            0 => {
                facts.seen.with(|seen| seen.aborted |= facts.abort_on_drop);
                drop(handle);
                if facts.abort_on_drop && self.play.end != End::AnyTime {
                    let is_out = || facts.seen.with(|seen| seen.closures_dropped == 1);
                    stage().sleep_until(is_out);
                }
                return;
            }
            1 => {
                let raised = handle.raise(Interrupted).is_ok();
                facts.seen.with(|seen| seen.raised = raised);
                let stays = raised && self.play.end == End::AnyTime;
                !stays && self.abort(&facts, || handle.abort())
            }
            2 => self.abort(&facts, || handle.token().cancel()),
            3 => {
                let remote = handle.abort_handle();
                assert!(!format!("{remote:?} {:?}", remote.thread()).is_empty());
                self.abort(&facts, || remote.abort())
            }
            4 if self.play.end == End::AnyTime => false,
            _ => self.abort(&facts, || handle.abort()),
        };
        if aborted && !handle.is_finished() {
            let cancelled = early.as_ref().is_none_or(|token| token.is_cancelled());
            assert!(
                cancelled || handle.is_finished(),
                "aborted, and its token is not cancelled"
            );
        }
        let refused = !facts.seen.with(|seen| seen.began) && handle.is_finished();
        if refused && !facts.seen.with(|seen| seen.began) {
            facts.seen.with(|seen| seen.refused = true);
        }
        let late = wait(&facts, handle);
        if self.play.end == End::Stuck {
            assert!(!facts.seen.with(|seen| seen.began), "no thread was free");
        }
        let early = early.is_none_or(|token| token.is_cancelled());
        assert!(early && late.is_cancelled(), "its token outlives it");
    }

    /// `true`, when it is done.
    fn abort(&self, facts: &Facts, how: impl FnOnce()) -> bool {
        facts.seen.with(|seen| seen.aborted = true);
        how();
        true
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
