//! The driver: the one background thread. It looks again where a raiser could not wait.
//!
//! Owns: verifying raises into threads that looked as if running, nudging again with back-off, climbing ladders, running
//! hooks; `climb` has what it does in one look. Leaves to `clockwork` the deadlines, to the raiser the first nudge, to the
//! handler what a nudge does.
//! Its waits are punctual: what it does is what others wait for.
//! Started by the first note, or the first call that may be left by force; blocks every signal; runs where, and as urgently as, who started it.
//! Leaving a note blocks for nothing, but the first one, which starts the thread, for that; so it may be left in a handler
//! of the program, on top of whatever its thread does (`protocol::notes`).
//!
//! **Signal context:** no.
//!
//! For each note, as soon as the signal that goes with it has arrived, or has had its time to:
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
//! - I3. The driver takes no lock that a thread may hold while a handler of the program runs on it: the handler may be waiting for
//!   the driver.

mod climb;
mod clockwork;
mod duty;

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use climb::{Watch, look};
use clockwork::Clockwork;
pub(crate) use duty::perform;

use crate::current::{REGISTRY, release, with_members};
use crate::platform::{futex, membarrier, nudge};
use crate::protocol::notes::{Bed, Note, Sleep, Stage};
use crate::protocol::record::{Record, Tell};
use crate::protocol::registry::{Members, ThreadId};
use crate::protocol::word::Attention;
use crate::rung::Rung;
use crate::trace;

thread_local! {
    /// The thread whose hook the driver runs; nobody's on any other thread.
    static IN_HOOK_OF: Cell<Option<ThreadId>> = const { Cell::new(None) };
}

static BED: Bed = Bed::new();

/// A raise into a thread that looked as if running is verified at the latest after this.
const DOZE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// The pause between the first looks at a thread whose calls are made to fail.
const GLANCE: Duration = Duration::from_micros(50);
/// How long a ladder may wait for a driver that gets up by itself. Waking it costs more than most of those who were sent a signal take to
/// meet their exception, and where it has to run on their processor they wait for it.
const NAP: Duration = Duration::from_micros(100);
/// Rounds without work before the driver sleeps more deeply.
const PATIENCE: u32 = 32;

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
    let (left_behind, left_running) = with_members(Members::left_behind);
    Stats {
        nudges: BED.nudges.get(),
        renudges: BED.renudges.get(),
        requeued,
        foreign_signals,
        forged_signals,
        hook_panics: BED.hook_panics.get(),
        left_behind,
        left_running,
    }
}

/// Counts a nudge that a raiser has sent, and leaves a note about its target if there is something to `tell`.
fn nudged(id: ThreadId, tell: Tell) {
    trace::rung(id, Rung::Nudge, None);
    BED.nudges.add_one();
    match tell {
        Tell::Nothing => {}
        Tell::Nudged => leave(id, Note::NUDGED),
        Tell::Ladder => leave(id, Note::NUDGED.and(Note::LADDER)),
    }
}

/// Asks the driver to look at `id` within a millisecond.
pub(crate) fn note(id: ThreadId) {
    leave(id, Note::LOOK);
}

fn leave(id: ThreadId, note: Note) {
    let note = if IN_HOOK_OF.get() == Some(id) {
        Note::BY_ITS_HOOK
    } else {
        note
    };
    REGISTRY.note(id.index(), note);
    let _not_in_vain = is_started();
    if BED.rouse(note) {
        futex::wake_all(BED.word());
    }
}

/// Has the driver visit `id`, for its deadlines, at `at`. It is woken only if it would sleep longer than that. `false` if
/// there is none: its thread could not be started.
#[cold]
pub(crate) fn visit_at(id: ThreadId, at: u64) -> bool {
    REGISTRY.note(id.index(), Note::VISIT);
    let started = is_started();
    if BED.rouse_before(at) {
        futex::wake_all(BED.word());
    }
    started
}

/// Starts the driver ahead of need and waits until it is at work.
///
/// A new thread asks the loader for a lock before it runs its first line. A thread that is stuck while a library is being
/// opened holds that lock: it could not be helped by a driver that had yet to start.
pub(crate) fn be_there() {
    while is_started() && BED.stage() != Stage::AtWork {
        futex::wait_on(BED.stage_word(), Stage::Started as u32, None);
    }
}

/// Starts the driver if there is none. Whether there is one now.
fn is_started() -> bool {
    loop {
        match BED.stage() {
            Stage::Started | Stage::AtWork => return true,
            Stage::Starting => futex::wait_on(BED.stage_word(), Stage::Starting as u32, None),
            Stage::None => {
                // Quiet: a handler on top of this would wait for it. So the driver is born with every signal blocked.
                let _quiet = nudge::quiet();
                if BED.begin_start() {
                    let started = start();
                    BED.started(started);
                    futex::wake_all(BED.stage_word());
                    return started;
                }
            }
        }
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
pub(crate) fn reset_after_fork() {
    BED.after_fork();
    REGISTRY.take_notes(|_, _| {});
}

/// A note that has been taken, and not acted on.
struct Fresh {
    id: ThreadId,
    note: Note,
    /// Until when the signal that goes with it is waited for.
    patience: Instant,
}

impl Fresh {
    fn of(id: ThreadId, note: Note) -> Self {
        let patience = match (note.has(Note::NUDGED), note.has(Note::LADDER)) {
            (true, true) => GLANCE,
            (true, false) => DOZE,
            (false, _) => Duration::ZERO,
        };
        Self {
            id,
            note,
            patience: Instant::now() + patience,
        }
    }

    /// Its thread may need nothing but the signal that is on its way: to look, or to fence, would take the processor's time from it.
    fn may_wait(&self, now: Instant) -> bool {
        self.patience > now
            && REGISTRY.pin(self.id).is_some_and(|pin| {
                let nudged = pin.record().attention().has(Attention::NUDGE);
                release(pin);
                nudged
            })
    }

    /// Whether the thread still needs somebody. Later raises will leave a new note.
    fn calls(&self) -> bool {
        REGISTRY.pin(self.id).is_some_and(|pin| {
            let calls = pin.record().delist();
            release(pin);
            calls
        })
    }
}

fn run() {
    nudge::block_all();
    futex::be_punctual();
    let mut watched: HashMap<ThreadId, Watch> = HashMap::new();
    let mut clockwork = Clockwork::new();
    let mut fresh: Vec<Fresh> = Vec::new();
    let mut idle = Idle::new();
    BED.at_work();
    futex::wake_all(BED.stage_word());
    loop {
        let dues = watched.values().map(|watch| watch.due);
        let next = dues.chain(fresh.iter().map(|fresh| fresh.patience)).min();
        let pause = next.map(|due| due.saturating_duration_since(Instant::now()).min(LONGEST_PAUSE));
        sleep(pause.or_else(|| idle.pause()), &clockwork);
        REGISTRY.take_notes(|record, note| take(record, note, &mut fresh, &mut clockwork));
        clockwork.visit();
        idle.count(
            fresh.iter().any(|fresh| fresh.note.has(Note::LADDER)),
            fresh.is_empty() && watched.is_empty(),
        );
        // Most of those who were sent a signal will have met their exception by the time that it has arrived.
        let now = Instant::now();
        let mut ready: Vec<Fresh> = fresh.extract_if(.., |fresh| !fresh.may_wait(now)).collect();
        ready.retain(Fresh::calls);
        if !ready.is_empty() {
            membarrier::heavy_fence();
        }
        for Fresh { id, note, patience } in ready {
            // A signal was under way: without a ladder, give it time to do.
            let due = if note.has(Note::LADDER) { now } else { patience };
            // A retry loop that raises faster than the pauses must not keep the ladder at its foot.
            let watch = watched.entry(id).or_insert_with(|| Watch::new(due));
            // Nor may a hook that raises into its own thread be its own next cause: it would run, and the thread be signalled, without a pause.
            if note.has(Note::LOOK) {
                watch.due = watch.due.min(due);
            }
        }
        let now = Instant::now();
        watched.retain(|id, watch| watch.due > now || look(*id, watch));
    }
}

/// How many rounds the driver still expects work in.
struct Idle {
    naps: u32,
    dozes: u32,
}

impl Idle {
    /// Who starts a driver has something for it.
    const fn new() -> Self {
        Self {
            naps: 0,
            dozes: PATIENCE,
        }
    }

    /// A round: whether a ladder was asked for, and whether there was nothing to do at all.
    fn count(&mut self, ladder: bool, nothing: bool) {
        if ladder {
            self.naps = PATIENCE;
        }
        if !nothing {
            self.dozes = PATIENCE;
        } else if self.naps > 0 {
            self.naps -= 1;
        } else {
            self.dozes = self.dozes.saturating_sub(1);
        }
    }

    /// How long to sleep if nothing is due; `None` for a deep sleep.
    fn pause(&self) -> Option<Duration> {
        match self {
            Self { naps: 1.., .. } => Some(NAP),
            Self { dozes: 1.., .. } => Some(DOZE),
            _ => None,
        }
    }
}

/// Takes a note in.
fn take(record: &'static Record, note: Note, fresh: &mut Vec<Fresh>, clockwork: &mut Clockwork) {
    let Some(id) = ThreadId::of(record) else { return };
    if note.has(Note::VISIT)
        && let Some(at) = record.visit_to_keep()
    {
        clockwork.promise(at, id);
    }
    if note.has(Note::LOOK) || note.has(Note::BY_ITS_HOOK) {
        fresh.push(Fresh::of(id, note));
    }
}

/// Waits for notes or the next visit, at most for so long.
fn sleep(pause: Option<Duration>, clockwork: &Clockwork) {
    if REGISTRY.has_notes() {
        return;
    }
    let (pause, wakes_at) = clockwork.shorten(pause);
    let sleep = match pause {
        Some(pause) if pause <= NAP => Sleep::Napping,
        Some(pause) if pause <= DOZE => Sleep::Dozing,
        _ => Sleep::Deep,
    };
    let word = BED.lie_down(sleep, wakes_at);
    if !REGISTRY.has_notes() {
        futex::wait_on(BED.word(), word, pause.map(|_| wakes_at));
    }
    BED.stand_up();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses of one idle round after the other, until it sleeps deeply.
    fn pauses(mut idle: Idle) -> Vec<Duration> {
        std::iter::from_fn(|| {
            let pause = idle.pause();
            idle.count(false, true);
            pause
        })
        .collect()
    }

    #[test]
    fn the_driver_naps_after_a_ladder_dozes_after_other_work_and_then_sleeps() {
        let rounds = |pause| vec![pause; PATIENCE as usize];
        assert_eq!(pauses(Idle::new()), rounds(DOZE), "it was started for something");

        let mut worked = Idle::new();
        worked.count(false, false);
        assert_eq!(pauses(worked), rounds(DOZE));

        let mut climbed = Idle::new();
        climbed.count(true, false);
        assert_eq!(pauses(climbed), [rounds(NAP), rounds(DOZE)].concat());
    }
}
