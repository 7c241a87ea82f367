//! Notes: how everybody asks the driver to look at a record, and how the driver sleeps meanwhile.
//!
//! Owns: some bits for each record, by which a note is left without a lock and without memory; the driver's bed, its start, and the
//! counters that it and the raisers keep. Leaves to the driver what a note asks for, to the face sleeping and waking.
//! Anyone may leave a note, on any thread, in a signal handler of the program too. The driver alone takes them, and goes to bed.
//! Nothing blocks or allocates but the making of [`Notes`], with the records that they are about.
//!
//! **Signal context:** leaving notes is safe there; the handler has no need to.
//!
//! ```text
//!   who leaves a note                         the driver
//!   (1) set the record's bits                 (a) store when it will wake; go to bed: swap the bed's word
//!   (2) set its slab's bit                    (b) look for bits of slabs: there are: get up
//!   (3) load the bed's word: asleep, and      (c) sleep while the word is as it was; get up: store that
//!       that is too late: set it to called,   (d) swap each slab's bit out, then its records' bits
//!       wake; called already: wake, too
//! ```
//!
//! Every step may be made twice, and by others in between, so a signal handler on top of one waits for nobody and leaves its own note
//! whole. Above all it does not take a driver for awake that its thread was about to wake: who finds it called calls again.
//!
//! - I1. *No note unseen.* (2) before (3) and (a) before (b) form a store-buffer test, read-modify-writes and loads all SeqCst:
//!   who leaves a note sees the driver in bed, or the driver sees the note.
//! - I2. A note is about a record and not a generation: the driver looks at whoever is there by then.
//! - I3. The driver's thread is started by one at a time.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | (1) SeqCst | (d) swap AcqRel | what was done before the note is seen by who has it |
//! | (2) SeqCst | (b) load, (d) swap SeqCst | I1 |
//! | (a) swap SeqCst | (3) load SeqCst | I1, and when it will wake |
//! | start's end Release | `stage` Acquire | who sees the driver at work may rely on it |

use once_cell::race::OnceRef;

use super::deadline::NEVER;
use super::record::Record;
use super::registry::{Registry, locate};
use crate::sync_shim::{
    AtomicU32, AtomicU64, Ordering, atomics, const_constructor, load_after_rmw, load_half_after_rmw,
};

/// What a note says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note(u64);

impl Note {
    const BITS: u32 = 5;
    /// Look at it.
    pub(crate) const LOOK: Self = Self(1);
    /// A raiser has just sent it a signal, which may be enough.
    pub(crate) const NUDGED: Self = Self(1 | 2);
    /// Its region allows more than a signal.
    pub(crate) const LADDER: Self = Self(1 | 4);
    /// It has a deadline that no visit is promised for.
    pub(crate) const VISIT: Self = Self(8);
    /// A hook of its own region has raised into it, on the driver: look at it, and no sooner for that.
    pub(crate) const BY_ITS_HOOK: Self = Self(16);

    pub(crate) fn has(self, note: Self) -> bool {
        self.0 & note.0 == note.0
    }

    pub(crate) fn and(self, note: Self) -> Self {
        Self(self.0 | note.0)
    }
}

/// Notes about the records of one slab.
pub(super) struct Notes {
    words: Box<[AtomicU64]>,
}

impl Notes {
    const IN_A_WORD: usize = (u64::BITS / Note::BITS) as usize;

    /// Room for `count` records; `None` without memory.
    pub(super) fn of(count: usize) -> Option<Self> {
        let count = count.div_ceil(Self::IN_A_WORD);
        let mut words = Vec::new();
        words.try_reserve_exact(count).ok()?;
        words.extend((0..count).map(|_| AtomicU64::new(0)));
        Some(Self {
            words: words.into_boxed_slice(),
        })
    }

    /// Step (1).
    pub(super) fn leave(&self, at: usize, note: Note) {
        let shift = (at % Self::IN_A_WORD) as u32 * Note::BITS;
        self.words[at / Self::IN_A_WORD].fetch_or(note.0 << shift, Ordering::SeqCst);
    }

    /// Step (d): all that was left here, with each record's place.
    pub(super) fn take(&self, mut found: impl FnMut(usize, Note)) {
        for (n, word) in self.words.iter().enumerate() {
            let mut notes = word.swap(0, Ordering::AcqRel);
            for at in 0..Self::IN_A_WORD {
                let note = notes & ((1 << Note::BITS) - 1);
                if note != 0 {
                    found(n * Self::IN_A_WORD + at, Note(note));
                }
                notes >>= Note::BITS;
            }
        }
    }
}

/// Which of up to `64 * WORDS` slabs have notes.
pub(super) struct Slabs<const WORDS: usize>([AtomicU64; WORDS]);

impl<const WORDS: usize> Slabs<WORDS> {
    const_constructor! {
        pub(super) fn new() -> Self {
            Self(atomics!(AtomicU64; WORDS))
        }
    }

    /// Step (2).
    pub(super) fn set(&self, slab: usize) {
        self.0[slab / 64].fetch_or(1 << (slab % 64), Ordering::SeqCst);
    }

    /// Step (b).
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|word| load_after_rmw(word) != 0)
    }

    /// The first half of step (d).
    pub(super) fn take(&self, mut found: impl FnMut(usize)) {
        for (n, word) in self.0.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut slabs = word.swap(0, Ordering::SeqCst);
            while slabs != 0 {
                found(n * 64 + slabs.trailing_zeros() as usize);
                slabs &= slabs - 1;
            }
        }
    }
}

impl Registry {
    /// Leaves a note for the driver about the record at `index`. Takes no lock.
    pub(crate) fn note(&self, index: u32, note: Note) {
        let (slab, at) = locate(index);
        if let Some(notes) = self
            .slabs
            .get(slab)
            .and_then(OnceRef::get)
            .map(|slab| &slab.notes)
        {
            notes.leave(at, note);
            self.noted.set(slab);
        }
    }

    /// Whether there are notes. For the driver, when it has lain down.
    pub(crate) fn has_notes(&self) -> bool {
        self.noted.any()
    }

    /// Takes all notes, with whose records they are about. For the driver.
    pub(crate) fn take_notes(&self, mut found: impl FnMut(&'static Record, Note)) {
        self.noted.take(|slab| {
            if let Some(slab) = self.slabs.get(slab).and_then(OnceRef::get) {
                slab.notes.take(|at, note| {
                    if let Some(record) = slab.records.get(at) {
                        found(record, note);
                    }
                });
            }
        });
    }
}

/// How far the driver's thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is none.
    None,
    /// Somebody starts it.
    Starting,
    Started,
    /// All that it needs for a look at the notes is there.
    AtWork,
}

/// How the driver sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// It wakes by itself in a moment: only a visit before that is a reason to wake it.
    Napping,
    /// It wakes by itself, and soon: only a ladder, or a visit before that, is a reason to wake it.
    Dozing,
    /// It sleeps until it is told.
    Deep,
}

/// Where the driver sleeps, and what is known of it.
pub(crate) struct Bed {
    /// Awake, called, or how it sleeps; waited on by address.
    word: AtomicU32,
    /// How far its thread is; waited on by address.
    stage: AtomicU32,
    /// When it will wake by itself.
    wakes_at: AtomicU64,
    pub(crate) nudges: Count,
    pub(crate) renudges: Count,
    pub(crate) hook_panics: Count,
}

impl Bed {
    const AWAKE: u32 = 0;
    const NAPPING: u32 = 1;
    const DOZING: u32 = 2;
    const DEEP: u32 = 3;
    /// Somebody is about to wake it, or has.
    const CALLED: u32 = 4;

    const_constructor! {
        pub(crate) fn new() -> Self {
            Self {
                word: AtomicU32::new(Self::AWAKE),
                stage: AtomicU32::new(0),
                wakes_at: AtomicU64::new(NEVER),
                nudges: Count::new(),
                renudges: Count::new(),
                hook_panics: Count::new(),
            }
        }
    }

    /// Step (3), after a note that wants a look. Whether the word's sleeper must be woken.
    #[must_use]
    pub(crate) fn rouse(&self, note: Note) -> bool {
        // SeqCst: I1.
        let asleep = load_half_after_rmw(&self.word);
        let stays = match asleep {
            Self::AWAKE | Self::NAPPING => true,
            Self::DOZING => !note.has(Note::LADDER),
            _ => false,
        };
        !stays && self.call()
    }

    /// Step (3), after a note that wants a visit.
    #[must_use]
    pub(crate) fn rouse_before(&self, at: u64) -> bool {
        // SeqCst: I1.
        let asleep = load_half_after_rmw(&self.word) != Self::AWAKE;
        asleep && at < self.wakes_at.load(Ordering::Relaxed) && self.call()
    }

    /// `false` if it has got up by itself.
    fn call(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word != Self::AWAKE && word != Self::CALLED {
            match self
                .word
                .compare_exchange_weak(word, Self::CALLED, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        word == Self::CALLED
    }

    /// Step (a). Driver. The word to sleep on, if step (b) finds no notes.
    pub(crate) fn lie_down(&self, sleep: Sleep, wakes_at: u64) -> u32 {
        self.wakes_at.store(wakes_at, Ordering::Relaxed);
        let word = match sleep {
            Sleep::Napping => Self::NAPPING,
            Sleep::Dozing => Self::DOZING,
            Sleep::Deep => Self::DEEP,
        };
        self.word.swap(word, Ordering::SeqCst);
        word
    }

    /// Driver.
    pub(crate) fn stand_up(&self) {
        self.word.store(Self::AWAKE, Ordering::SeqCst);
    }

    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.word
    }

    pub(crate) fn stage_word(&self) -> &AtomicU32 {
        &self.stage
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::None,
            1 => Stage::Starting,
            2 => Stage::Started,
            _ => Stage::AtWork,
        }
    }

    /// The caller shall start the thread, and say [`Bed::started`]: nobody else does (I3).
    #[must_use]
    pub(crate) fn begin_start(&self) -> bool {
        self.stage
            .compare_exchange(0, Stage::Starting as u32, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether it could be started. Wake who waits on the stage's word.
    pub(crate) fn started(&self, it_is: bool) {
        let next = if it_is { Stage::Started } else { Stage::None };
        // It may be at work already.
        let _ = self.stage.compare_exchange(
            Stage::Starting as u32,
            next as u32,
            Ordering::Release,
            Ordering::Relaxed,
        );
    }

    /// Driver. Wake who waits on the stage's word.
    pub(crate) fn at_work(&self) {
        self.stage.store(Stage::AtWork as u32, Ordering::Release);
    }

    /// In a forked child: there is no driver.
    pub(crate) fn after_fork(&self) {
        self.word.store(Self::AWAKE, Ordering::Relaxed);
        self.wakes_at.store(NEVER, Ordering::Relaxed);
        self.stage.store(Stage::None as u32, Ordering::Relaxed);
    }
}

/// A number that only grows.
pub(crate) struct Count(AtomicU64);

impl Count {
    const_constructor! {
        pub(crate) fn new() -> Self { Self(AtomicU64::new(0)) }
    }

    pub(crate) fn add_one(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_note_is_taken_once_with_its_place() {
        let notes = Notes::of(40).unwrap();
        let left = [
            (0, Note::LOOK),
            (11, Note::NUDGED),
            (12, Note::VISIT),
            (39, Note::LADDER),
        ];
        for (at, note) in left {
            notes.leave(at, note);
        }
        notes.leave(11, Note::VISIT);
        let mut taken = Vec::new();
        notes.take(|at, note| taken.push((at, note)));
        let expected = left.map(|(at, note)| {
            if at == 11 {
                (at, note.and(Note::VISIT))
            } else {
                (at, note)
            }
        });
        assert_eq!(taken, expected);
        notes.take(|at, note| panic!("{note:?} at {at} again"));
    }

    #[test]
    fn the_driver_is_woken_when_the_table_says() {
        use Sleep::*;
        for (sleep, note, woken) in [
            (Some(Deep), Note::LOOK, true),
            (Some(Dozing), Note::LOOK, false),
            (Some(Dozing), Note::NUDGED, false),
            (Some(Dozing), Note::LADDER, true),
            (Some(Napping), Note::LOOK, false),
            (Some(Napping), Note::LADDER, false),
            (None, Note::LADDER, false),
        ] {
            let bed = Bed::new();
            if let Some(sleep) = sleep {
                bed.lie_down(sleep, 100);
            }
            assert_eq!(bed.rouse(note), woken, "{sleep:?} {note:?}");
            // A handler on top of who is about to wake it.
            assert_eq!(bed.rouse(Note::LOOK), woken, "called and not up");
            bed.stand_up();
            assert!(!bed.rouse(Note::LADDER));
        }
        let bed = Bed::new();
        assert!(!bed.rouse_before(1), "awake");
        for sleep in [Napping, Dozing, Deep] {
            bed.lie_down(sleep, 100);
            assert!(!bed.rouse_before(100) && bed.rouse_before(99) && bed.rouse_before(99));
        }
    }

    /// Shows protocol::notes I3.
    #[test]
    fn the_driver_is_started_by_one_and_again_if_that_fails() {
        let bed = Bed::new();
        assert!(bed.begin_start() && !bed.begin_start());
        bed.started(false);
        assert_eq!(bed.stage(), Stage::None);
        assert!(bed.begin_start());
        bed.at_work();
        bed.started(true);
        assert_eq!(bed.stage(), Stage::AtWork);
    }
}
