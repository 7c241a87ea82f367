//! The driver: the one background thread. It looks again where a raiser could not wait.
//!
//! Owns: verifying raises into threads that looked as if running, nudging again with back-off, climbing ladders, running
//! hooks; `climb` has what it does in one look. Leaves to `clockwork` the deadlines, to the raiser the first nudge, to the
//! handler what a nudge does.
//! Started by the first note, or the first call that may be left by force; blocks every signal; inherits nothing.
//!
//! **Signal context:** no.
//!
//! For each note:
//!
//! 1. `delist`, so that later raises leave a new note; nothing calls any more: done;
//! 2. one heavy fence for all notes of this round (invariant I1 of `protocol::record`);
//! 3. look at the region: running — done, it meets the word by itself; waiting — wake; window — nudge; foreign — climb;
//! 4. still there: again after 1, 2, 4 .. 50 ms (with the rung fail, first eight times after 50 us), until the exception
//!    is delivered or revoked or the region ends.
//!
//! - I1. A hook runs, and a signal is sent, only while the record is looked at and the region, read behind a heavy fence
//!   after that, is still the one that was seen: it cannot end meanwhile (I4 of `protocol::record`).
//! - I2. No lock of this crate is held while a hook runs.

mod climb;
mod clockwork;
mod duty;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use climb::{Watch, look};
use clockwork::Clockwork;
pub(crate) use duty::perform;

use crate::current::{REGISTRY, release};
use crate::platform::{membarrier, nudge};
use crate::protocol::deadline::NEVER;
use crate::protocol::registry::ThreadId;
use crate::rung::Rung;
use crate::trace;

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
    /// Left by the hook of that very thread's region.
    by_its_hook: bool,
}

thread_local! {
    /// The thread whose hook the driver runs; nobody's on any other thread.
    static IN_HOOK_OF: Cell<Option<ThreadId>> = const { Cell::new(None) };
}

/// Notes for the driver, and the counters that it and the raisers keep.
pub(crate) struct Inbox {
    notes: Vec<Note>,
    /// Visits that were promised to threads with deadlines.
    visits: Vec<(u64, ThreadId)>,
    /// When it will wake by itself; [`NEVER`] if it will not.
    wakes_at: u64,
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
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Rounds without work before the driver sleeps deeply.
const PATIENCE: u32 = 32;

impl Inbox {
    const fn new() -> Self {
        Self {
            notes: Vec::new(),
            visits: Vec::new(),
            wakes_at: NEVER,
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
    /// Calls of [`foreign::detached`](crate::foreign::detached) that their callers gave up, and jobs of a
    /// [`JobPool`](crate::pool::JobPool) that were written off.
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
    trace::rung(id, Rung::Nudge, None);
    let mut inbox = inbox();
    inbox.nudges += 1;
    if enlist {
        inbox.add(Note {
            id,
            nudged: true,
            ladder,
            by_its_hook: IN_HOOK_OF.get() == Some(id),
        });
    }
}

/// Asks the driver to look at `id` within a millisecond.
pub(crate) fn note(id: ThreadId) {
    inbox().add(Note {
        id,
        nudged: false,
        ladder: false,
        by_its_hook: IN_HOOK_OF.get() == Some(id),
    });
}

/// Has the driver visit `id`, for its deadlines, at `at`. It is woken only if it would sleep longer than that. `false` if
/// there is none: its thread could not be started.
#[cold]
pub(crate) fn visit_at(id: ThreadId, at: u64) -> bool {
    let mut inbox = inbox();
    inbox.visits.push((at, id));
    if !inbox.started {
        inbox.started = start();
    } else if inbox.sleep != Sleep::Awake && at < inbox.wakes_at {
        inbox.sleep = Sleep::Awake;
        BELL.notify_one();
    }
    inbox.started
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

fn run() {
    nudge::block_all();
    let mut watched: HashMap<ThreadId, Watch> = HashMap::new();
    let mut clockwork = Clockwork::new();
    let mut fresh = Vec::new();
    let mut idle_rounds = 0;
    loop {
        sleep(&mut fresh, &watched, &mut clockwork, idle_rounds);
        clockwork.visit();
        idle_rounds = if fresh.is_empty() && watched.is_empty() {
            idle_rounds + 1
        } else {
            0
        };
        // Most of those who were sent a signal have met their exception by now.
        fresh.retain(|note: &Note| {
            let pin = REGISTRY.pin(note.id);
            pin.is_some_and(|pin| {
                let calls = pin.record().delist();
                release(pin);
                calls
            })
        });
        if !fresh.is_empty() {
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
            let watch = watched.entry(note.id).or_insert_with(|| Watch::new(due));
            // Nor may a hook that raises into its own thread be its own next cause: it would run, and the thread be signalled, without a pause.
            if !note.by_its_hook {
                watch.due = watch.due.min(due);
            }
        }
        watched.retain(|id, watch| watch.due > now || look(*id, watch));
    }
}

/// Waits for notes, for the next watch to fall due or the next visit, and takes the notes.
fn sleep(
    fresh: &mut Vec<Note>,
    watched: &HashMap<ThreadId, Watch>,
    clockwork: &mut Clockwork,
    idle_rounds: u32,
) {
    let next = watched.values().map(|watch| watch.due).min();
    let mut inbox = inbox();
    clockwork.take(&mut inbox.visits);
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
        let (pause, wakes_at) = clockwork.shorten(pause);
        inbox.wakes_at = wakes_at;
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
    clockwork.take(&mut inbox.visits);
    std::mem::swap(fresh, &mut inbox.notes);
}
