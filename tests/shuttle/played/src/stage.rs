//! What surrounds a play: its clock, its sleepers, and how many threads the system refuses.
//!
//! Owns: one [`Stage`] for each play. Leaves to the play who moves the clock.
//!
//! **Signal context:** no.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::sync::{Condvar, Mutex};

pub use crate::lock::{held, order};

/// What all threads of a play share.
pub struct Stage {
    now: Cell<u64>,
    /// Whoever sleeps sleeps here, so that nobody's wake-up can be forgotten.
    asleep: Mutex<()>,
    bell: Condvar,
    steps: AtomicU64,
    /// So many threads are started, and so many refused after that; then all are started.
    pub starts: Cell<u32>,
    pub refusals: Cell<u32>,
    /// Threads of the sources that have been started and have not ended.
    pub alive: Cell<u32>,
}

std::thread_local! {
    static STAGE: RefCell<Option<Rc<Stage>>> = const { RefCell::new(None) };
}

/// A new stage for a new play.
pub fn set() {
    crate::lock::forget_held();
    let stage = Stage {
        now: Cell::new(1),
        asleep: Mutex::new(()),
        bell: Condvar::new(),
        steps: AtomicU64::new(0),
        starts: Cell::new(u32::MAX),
        refusals: Cell::new(0),
        alive: Cell::new(0),
    };
    STAGE.set(Some(Rc::new(stage)));
}

/// The stage of this play.
pub fn stage() -> Rc<Stage> {
    STAGE.with_borrow(|stage| stage.clone().expect("no play has begun"))
}

impl Stage {
    /// Nanoseconds.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    pub fn move_clock(&self, by: u64) {
        self.now.set(self.now.get() + by);
        self.ring();
    }

    /// Somebody else may go on here.
    pub fn step(&self) {
        self.steps.load(Ordering::SeqCst);
    }

    /// Wakes all sleepers, to look whether they were meant.
    pub fn ring(&self) {
        let _all_asleep_or_awake = self.asleep.lock().unwrap();
        self.bell.notify_all();
    }

    pub fn sleep_until(&self, mut over: impl FnMut() -> bool) {
        let mut asleep = self.asleep.lock().unwrap();
        while !over() {
            asleep = self.bell.wait(asleep).unwrap();
        }
    }

    pub(crate) fn refuses_a_thread(&self) -> bool {
        if let Some(starts) = self.starts.get().checked_sub(1) {
            self.starts.set(starts);
            return false;
        }
        let left = self.refusals.get().checked_sub(1);
        self.refusals.set(left.unwrap_or(0));
        left.is_some()
    }
}

/// Shared without a switch of threads: std's own lock, held for one call.
#[derive(Debug, Default)]
pub struct Unscheduled<T>(std::sync::Mutex<T>);

impl<T> Unscheduled<T> {
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
