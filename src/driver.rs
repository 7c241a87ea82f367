//! The driver: the one background thread. It looks again where a raiser could not wait.
//!
//! Owns: verifying raises into threads that looked as if running, nudging again with back-off, climbing ladders, running
//! hooks. Leaves to the raiser the first nudge, to the handler what a nudge does. Started by the first note; blocks
//! every signal; inherits nothing.
//!
//! **Signal context:** no.
//!
//! For each note:
//!
//! 1. `delist`, so that later raises leave a new note;
//! 2. one heavy fence for all notes of this round (invariant I1 of `protocol::record`);
//! 3. look at the region: running — done, it meets the word by itself; waiting — wake; window — nudge; foreign — climb;
//! 4. still there: again after 1, 2, 4 .. 50 ms (with the rung fail, first eight times after 50 us), until the exception
//!    is delivered or revoked or the region ends.
//!
//! - I1. A hook runs, and a signal is sent, only while the record is looked at and the region, read behind a heavy fence
//!   after that, is still the one that was seen: it cannot end meanwhile (I4 of `protocol::record`).
//! - I2. No lock of this crate is held while a hook runs.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::current::REGISTRY;
use crate::foreign;
use crate::journal;
use crate::platform::{direct, futex, membarrier, nudge, probe};
use crate::protocol::ladder::{Found, Step, Times};
use crate::protocol::record::Record;
use crate::protocol::registry::ThreadId;
use crate::protocol::word::{Attention, Kind, Level, Region, Sender};
use crate::raise::release;
use crate::raised::Rung;
use crate::runtime;
use crate::safepoint::{FAILED, HOOKED};

/// How the driver sleeps, as note-givers must know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Awake,
    /// It wakes by itself within [`DOZE`].
    Dozing,
    /// It sleeps until it is told.
    Deep,
}

/// Asks the driver to look at a thread.
#[derive(Clone, Copy)]
struct Note {
    id: ThreadId,
    /// A raiser has just sent it a signal, which may be enough.
    nudged: bool,
    /// Its region allows more than a signal.
    ladder: bool,
}

/// Notes for the driver, and the counters that it and the raisers keep.
pub(crate) struct Inbox {
    notes: Vec<Note>,
    started: bool,
    /// It has got as far as its first look at this.
    at_work: bool,
    sleep: Sleep,
    nudges: u64,
    renudges: u64,
    hook_panics: u64,
}

static INBOX: Mutex<Inbox> = Mutex::new(Inbox::new());
static BELL: Condvar = Condvar::new();

/// A raise into a thread that looked as if running is verified at the latest after this.
const DOZE: Duration = Duration::from_millis(1);
/// Rounds without work before the driver sleeps deeply.
const PATIENCE: u32 = 32;
/// Attempts, 3 ms of them, in which a signal that has not arrived is left its time: its thread waits for a processor.
const ON_ITS_WAY: u32 = 2;
/// Attempts, 31 ms of them, after which it counts as lost for good: to a handler that has taken our place and passes
/// nothing on. Between the two it is sent again, which costs little and changes nothing if it is still on its way: it may
/// have fallen together with somebody else's signal of the same number.
const SURELY_LOST: u32 = 5;
/// The pause between the first looks at a thread whose calls are made to fail, and how many of them there are.
const GLANCE: Duration = Duration::from_micros(50);
const GLANCES: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl Inbox {
    const fn new() -> Self {
        Self {
            notes: Vec::new(),
            started: false,
            at_work: false,
            sleep: Sleep::Awake,
            nudges: 0,
            renudges: 0,
            hook_panics: 0,
        }
    }

    fn add(&mut self, note: Note) {
        self.notes.push(note);
        if !self.started {
            self.started = start();
        } else if self.sleep == Sleep::Deep || note.ladder && self.sleep == Sleep::Dozing {
            self.sleep = Sleep::Awake;
            BELL.notify_one();
        }
    }
}

fn inbox() -> MutexGuard<'static, Inbox> {
    INBOX.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters of the process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Signals sent by raisers.
    pub nudges: u64,
    /// Signals sent again by the driver.
    pub renudges: u64,
    /// Signals sent again by the handler to outlast another handler.
    pub requeued: u64,
    /// Signals that the handler passed on, since they were not ours.
    pub foreign_signals: u64,
    /// Signals that wore our code and were ignored: from another process, or for another thread.
    pub forged_signals: u64,
    /// Hooks that panicked; the ladder went on.
    pub hook_panics: u64,
    /// Calls of [`foreign::detached`](crate::foreign::detached) that their callers gave up.
    pub left_behind: u64,
    /// How many of those have not ended: a number as of now, and not a counter.
    pub left_running: u64,
}

/// The counters of the process so far.
///
/// ```
/// assert_eq!(throwto::stats().forged_signals, 0);
/// ```
pub fn stats() -> Stats {
    let (requeued, foreign_signals, forged_signals) = crate::platform::handler::counts();
    let (left_behind, left_running) = REGISTRY.members().left_behind();
    let inbox = inbox();
    Stats {
        nudges: inbox.nudges,
        renudges: inbox.renudges,
        requeued,
        foreign_signals,
        forged_signals,
        hook_panics: inbox.hook_panics,
        left_behind,
        left_running,
    }
}

/// Counts a nudge that a raiser has sent, and leaves a note about its target if `enlist`. With a `ladder` to climb the
/// driver is woken from a doze too.
pub(crate) fn nudged(id: ThreadId, enlist: bool, ladder: bool) {
    journal::note(id, Rung::Nudge, None);
    let mut inbox = inbox();
    inbox.nudges += 1;
    if enlist {
        inbox.add(Note {
            id,
            nudged: true,
            ladder,
        });
    }
}

/// Asks the driver to look at `id` within a millisecond.
pub(crate) fn note(id: ThreadId) {
    inbox().add(Note {
        id,
        nudged: false,
        ladder: false,
    });
}

/// Starts the driver ahead of need and waits until it is at work.
///
/// A new thread asks the loader for a lock before it runs its first line. A thread that is stuck while a library is being
/// opened holds that lock: it could not be helped by a driver that had yet to start.
pub(crate) fn be_there() {
    let mut inbox = inbox();
    if !inbox.started {
        inbox.started = start();
    }
    while inbox.started && !inbox.at_work {
        inbox = BELL.wait(inbox).unwrap_or_else(PoisonError::into_inner);
    }
}

fn start() -> bool {
    std::thread::Builder::new()
        .name("throwto-driver".into())
        .stack_size(256 << 10)
        .spawn(run)
        .is_ok()
}

/// In a forked child: the driver has not started and has no notes.
pub(crate) fn reset_after_fork(inbox: &mut Inbox) {
    *inbox = Inbox {
        nudges: inbox.nudges,
        renudges: inbox.renudges,
        ..Inbox::new()
    };
}

/// Keeps the driver out of its inbox while the process forks.
pub(crate) fn hold_for_fork() -> MutexGuard<'static, Inbox> {
    inbox()
}

/// One thread that the driver keeps an eye on.
struct Watch {
    attempt: u32,
    glances: u32,
    /// Whether an order to fail a call has been given.
    ordered: bool,
    due: Instant,
    stay: Option<Stay>,
}

/// A region with forced rungs that the thread has been seen in. Their times count from the first look at it.
#[derive(Clone, Copy)]
struct Stay {
    region: Region,
    frame: *const (),
    since: Instant,
    times: Times,
    unwind_was_last: bool,
    /// The hook has been run here.
    hooked: bool,
}

fn run() {
    nudge::block_all();
    let mut watched: HashMap<ThreadId, Watch> = HashMap::new();
    let mut fresh = Vec::new();
    let mut idle_rounds = 0;
    loop {
        sleep(&mut fresh, &watched, idle_rounds);
        idle_rounds = if fresh.is_empty() && watched.is_empty() {
            idle_rounds + 1
        } else {
            0
        };
        if !fresh.is_empty() {
            for pin in fresh.iter().filter_map(|note: &Note| REGISTRY.pin(note.id)) {
                pin.record().delist();
                release(pin);
            }
            membarrier::heavy_fence();
        }
        let now = Instant::now();
        for note in fresh.drain(..) {
            // A signal is under way: without a ladder, give it time to do.
            let due = if note.nudged && !note.ladder {
                now + DOZE
            } else {
                now
            };
            // A retry loop that raises faster than the pauses must not keep the ladder at its foot.
            let watch = watched.entry(note.id).or_insert(Watch {
                attempt: 0,
                glances: 0,
                ordered: false,
                due,
                stay: None,
            });
            watch.due = watch.due.min(due);
        }
        watched.retain(|id, watch| watch.due > now || look(*id, watch));
    }
}

/// Waits for notes, or for the next watch to fall due, and takes the notes.
fn sleep(fresh: &mut Vec<Note>, watched: &HashMap<ThreadId, Watch>, idle_rounds: u32) {
    let next = watched.values().map(|watch| watch.due).min();
    let mut inbox = inbox();
    if !inbox.at_work {
        inbox.at_work = true;
        BELL.notify_all();
    }
    if inbox.notes.is_empty() {
        let pause = match next {
            Some(due) => Some(due.saturating_duration_since(Instant::now()).min(LONGEST_PAUSE)),
            None if idle_rounds < PATIENCE => Some(DOZE),
            None => None,
        };
        inbox.sleep = if pause.is_some_and(|pause| pause <= DOZE) {
            Sleep::Dozing
        } else {
            Sleep::Deep
        };
        inbox = match pause {
            Some(pause) => {
                BELL.wait_timeout(inbox, pause)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => BELL.wait(inbox).unwrap_or_else(PoisonError::into_inner),
        };
        inbox.sleep = Sleep::Awake;
    }
    std::mem::swap(fresh, &mut inbox.notes);
}

/// What one attempt comes to.
enum Attempt {
    /// The thread needs no more help.
    Over,
    Again(Duration),
    /// Calls are being made to fail: the thread may have been missed between two of them, or be in its next one already
    /// (a resolver tries server after server). Look again at once, some times.
    Soon,
    /// A forced rung was ordered, and may be refused where the thread happens to be: several tries in a row, then a pause.
    Burst,
}

/// Looks at one thread and does what its region asks for. `false` once there is nothing left to do.
fn look(id: ThreadId, watch: &mut Watch) -> bool {
    let Some(pin) = REGISTRY.pin(id) else { return false };
    let attempt = climb(id, pin.record(), watch);
    release(pin);
    let pause = match attempt {
        Attempt::Over => return false,
        Attempt::Soon | Attempt::Burst if watch.glances < GLANCES => {
            watch.glances += 1;
            watch.due = Instant::now() + GLANCE;
            return true;
        }
        Attempt::Soon => pause_after(watch.attempt),
        Attempt::Burst => {
            watch.glances = 0;
            pause_after(watch.attempt)
        }
        Attempt::Again(pause) => pause,
    };
    watch.attempt += 1;
    watch.due = Instant::now() + watch.until_next_rung().map_or(pause, |next| next.min(pause));
    true
}

impl Watch {
    fn until_next_rung(&self) -> Option<Duration> {
        let stay = self.stay?;
        stay.times.next(stay.region, stay.since.elapsed())
    }

    /// Whether a forced rung is due in a region whose hook has not been run.
    fn owes_hook(&self) -> bool {
        self.stay.is_some_and(|stay| {
            let due = stay.times.forced_is_due(stay.region, stay.since.elapsed());
            due && stay.region.has(Region::HOOK) && !stay.hooked
        })
    }

    /// Takes note of a region with forced rungs, and when they are due.
    fn see(&mut self, id: ThreadId, record: &'static Record, region: Region) {
        let frame = record.frame();
        if !region.has(Region::FORCED) {
            self.stay = None;
        } else if !matches!(self.stay, Some(stay) if stay.region == region && stay.frame == frame) {
            in_region(id, region, |record| {
                self.stay = Some(Stay {
                    region,
                    frame,
                    since: Instant::now(),
                    times: foreign::times_of(record),
                    unwind_was_last: false,
                    hooked: false,
                });
            });
        }
    }
}

fn pause_after(attempt: u32) -> Duration {
    Duration::from_millis(1 << attempt.min(6)).min(LONGEST_PAUSE)
}

/// One attempt.
fn climb(id: ThreadId, record: &'static Record, watch: &mut Watch) -> Attempt {
    let attempt = watch.attempt;
    if !record.attention().calls() {
        return Attempt::Over;
    }
    let region = record.region();
    if region.level() == Level::Uninterruptible {
        return Attempt::Over;
    }
    if region.has(Region::SHIELDED) {
        let (until, now) = (record.shield_until(), futex::now());
        if until > now {
            let blocked = until != u64::MAX && region.kind() != Kind::Running;
            return if blocked {
                Attempt::Again(Duration::from_nanos(until - now))
            } else {
                Attempt::Over
            };
        }
    }
    let hook_is_due = region.has(Region::HOOK) && (attempt > 0 || !region.has(Region::FAIL));
    let mut forced = false;
    match region.kind() {
        Kind::Running => return Attempt::Over,
        Kind::Waiting => {
            futex::wake(record.attention_word());
            return Attempt::Over;
        }
        // To look where a thread is blocked whose signal has not arrived would take the processor's time from it.
        Kind::Window | Kind::Foreign if record.attention().has(Attention::NUDGE) && attempt < SURELY_LOST => {
            if attempt >= ON_ITS_WAY {
                in_region(id, region, again);
            }
        }
        Kind::Window => in_region(id, region, again),
        Kind::Foreign => {
            watch.see(id, record, region);
            if watch.owes_hook() {
                run_hook_in(id, region, watch);
                return Attempt::Again(DOZE);
            }
            forced = break_call(id, record, region, watch);
        }
    }
    // Once in a burst.
    if hook_is_due && (!forced || watch.glances == 0) {
        run_hook_in(id, region, watch);
    }
    if forced {
        Attempt::Burst
    } else if region.has(Region::FAIL) {
        Attempt::Soon
    } else {
        Attempt::Again(pause_after(attempt))
    }
}

/// Acts on the region that was seen, if it is still there behind a heavy fence, and keeps it from ending meanwhile (I1):
/// no signal comes after it. The exception must still be there too: a region like the one that was seen may be the
/// thread's next one, whose calls are nobody's to break.
fn in_region(id: ThreadId, seen: Region, act: impl FnOnce(&'static Record)) {
    if let Some(look) = REGISTRY.look(id) {
        membarrier::heavy_fence();
        if look.record().attention().calls() && look.record().region() == seen {
            act(look.record());
        }
        release(look);
    }
}

fn again(record: &'static Record) {
    inbox().renudges += 1;
    nudge::send(record, Sender::Other, record.os_tid(), runtime::signal());
}

/// The rungs that take a signal. `true` if one of the forced ones was ordered.
fn break_call(id: ThreadId, record: &'static Record, region: Region, watch: &mut Watch) -> bool {
    let seen = probe::probe(record.os_tid());
    let found = Found {
        region,
        blocked: !matches!(seen, probe::Probe::Running),
        waited: watch.stay.map_or(Duration::ZERO, |stay| stay.since.elapsed()),
        unwind_was_last: watch.stay.is_some_and(|stay| stay.unwind_was_last),
    };
    let times = watch.stay.map(|stay| stay.times).unwrap_or_default();
    let step = times.step(found);
    let rung = match step {
        Step::Nothing => return false,
        Step::Nudge => Rung::Nudge,
        Step::Fail => Rung::Fail,
        Step::Unwind => Rung::Unwind,
        Step::Abandon => Rung::Abandon,
    };
    in_region(id, region, |record| {
        match step {
            Step::Fail => {
                // One call has been made to fail, and the thread is in the next.
                let again = watch.ordered && record.rung() >= FAILED;
                watch.ordered |= direct::arm(&record.order, seen, again).unwrap_or(false);
            }
            Step::Unwind => {
                if let Err((pc, why)) = direct::arm_unwind(&record.order, seen) {
                    foreign::refuse_in(record, why, pc);
                }
            }
            Step::Abandon => direct::arm_abandon(&record.order),
            Step::Nudge | Step::Nothing => {}
        }
        let refused = foreign::refused_in(record).filter(|_| rung >= Rung::Unwind);
        journal::note(id, rung, refused);
        again(record);
    });
    let forced = matches!(step, Step::Unwind | Step::Abandon);
    if let Some(stay) = watch.stay.as_mut().filter(|_| forced) {
        stay.unwind_was_last = step == Step::Unwind;
    }
    forced
}

fn run_hook_in(id: ThreadId, region: Region, watch: &mut Watch) {
    journal::note(id, Rung::Hook, None);
    in_region(id, region, run_hook);
    if let Some(stay) = &mut watch.stay {
        stay.hooked = true;
    }
}

/// Runs the region's hook. The caller holds a look at it.
fn run_hook(record: &'static Record) {
    record.note_rung(HOOKED);
    let ran = catch_unwind(AssertUnwindSafe(|| foreign::run_hook_of(record)));
    if ran.is_err() {
        inbox().hook_panics += 1;
    }
}
