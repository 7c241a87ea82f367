//! The driver's part: notes, looking again, nudging again, and visits at deadlines.
//!
//! Owns: [`Driver`], the inbox and the loop, a mirror of `driver.rs` with the nudge as its only rung. Its clock stands still
//! until there is nothing else to do, and then jumps to the next visit.
//!
//! **Signal context:** no.

use std::collections::VecDeque;

use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use crate::kernel::Reach;
use crate::play::Fault;
use crate::protocol::deadline::Timetable;
use crate::protocol::record::{AfterUnpin, Duty, Fences, Pin, Record};
use crate::protocol::registry::Registry;
use crate::protocol::word::{Kind, Level, Sender};

#[derive(Default)]
struct Inbox {
    notes: VecDeque<Reach>,
    visits: Vec<(u64, Reach)>,
    over: bool,
}

pub(crate) struct Driver {
    pub(crate) registry: Registry,
    inbox: Mutex<Inbox>,
    bell: Condvar,
    clock: AtomicU64,
    pub(crate) fault: Option<Fault>,
}

/// Drops a pin and wakes its owner if it waits for that.
pub(crate) fn release(pin: Pin<'_>, reach: &Reach) {
    if pin.release() == AfterUnpin::Wake {
        reach.kernel.wake();
    }
}

impl Driver {
    pub(crate) fn new(fault: Option<Fault>) -> Arc<Self> {
        Arc::new(Self {
            registry: Registry::new(),
            inbox: Mutex::default(),
            bell: Condvar::new(),
            clock: AtomicU64::new(1),
            fault,
        })
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub(crate) fn note(&self, reach: &Reach) {
        if self.fault == Some(Fault::NobodyTellsTheDriver) {
            return;
        }
        self.inbox.lock().unwrap().notes.push_back(reach.clone());
        self.bell.notify_one();
    }

    pub(crate) fn visit_at(&self, reach: &Reach, at: u64) {
        self.inbox.lock().unwrap().visits.push((at, reach.clone()));
        self.bell.notify_one();
    }

    pub(crate) fn end(&self) {
        self.inbox.lock().unwrap().over = true;
        self.bell.notify_one();
    }

    /// As `raise::perform` does, for the raiser of an exception or for none.
    pub(crate) fn perform(&self, reach: &Reach, duty: Duty<'_>, exception: Option<usize>) {
        match duty {
            Duty::Nothing => {}
            Duty::Wake if self.fault == Some(Fault::NobodyWakes) => {}
            Duty::Wake => reach.kernel.wake(),
            Duty::Nudge { pin, enlist, .. } => {
                reach.kernel.send(pin.sender(), exception);
                release(pin, reach);
                if enlist {
                    self.note(reach);
                }
            }
            Duty::Verify | Duty::Later => self.note(reach),
        }
    }

    pub(crate) fn run(&self) {
        let mut watched: Vec<Reach> = Vec::new();
        let mut visits = Timetable::new();
        let mut reaches: Vec<Reach> = Vec::new();
        loop {
            let mut inbox = self.inbox.lock().unwrap();
            while watched.is_empty()
                && visits.next().is_none()
                && inbox.notes.is_empty()
                && inbox.visits.is_empty()
                && !inbox.over
            {
                inbox = self.bell.wait(inbox).unwrap();
            }
            let fresh: Vec<Reach> = inbox.notes.drain(..).collect();
            for (at, reach) in inbox.visits.drain(..) {
                let at = self.record(&reach).visit_to_keep().unwrap_or(at);
                visits.promise(at, reaches.len());
                reaches.push(reach);
            }
            let over = inbox.over;
            drop(inbox);
            if over && fresh.is_empty() && watched.is_empty() {
                return;
            }
            self.take_off(&fresh);
            for reach in &fresh {
                if !watched.iter().any(|seen| seen.id == reach.id) {
                    watched.push(reach.clone());
                }
            }
            watched.retain(|reach| self.look(reach));
            if watched.is_empty()
                && let Some(at) = visits.next()
            {
                self.clock.fetch_max(at, Ordering::SeqCst);
                if let Some(whom) = visits.take_due(at) {
                    self.visit(&reaches[whom]);
                }
            }
            thread::yield_now();
        }
    }

    /// Later raises leave a new note.
    fn take_off(&self, notes: &[Reach]) {
        for reach in notes {
            if let Some(pin) = self.registry.pin(reach.id) {
                pin.record().delist();
                release(pin, reach);
            }
        }
    }

    fn record(&self, reach: &Reach) -> &'static Record {
        self.registry.record(reach.id.index()).expect("it was registered")
    }

    fn visit(&self, reach: &Reach) {
        let visited = self
            .record(reach)
            .visit_deadlines(reach.id.generation(), self.now(), Fences::Light);
        let Some(visited) = visited else { return };
        if let Some(at) = visited.next {
            self.visit_at(reach, at);
        }
        if let Some(duty) = visited.duty {
            self.perform(reach, duty, None);
        }
    }

    /// As `climb::look` does. Whether there is more to do.
    fn look(&self, reach: &Reach) -> bool {
        let Some(pin) = self.registry.pin(reach.id) else {
            return false;
        };
        let more = self.climb(reach, pin.record());
        release(pin, reach);
        more
    }

    fn climb(&self, reach: &Reach, record: &'static Record) -> bool {
        let region = record.region();
        if !record.attention().calls() || region.level() == Level::Uninterruptible {
            return false;
        }
        match region.kind() {
            Kind::Running => false,
            Kind::Waiting => {
                reach.kernel.wake();
                false
            }
            Kind::Window | Kind::Foreign => {
                if let Some(look) = self.registry.look(reach.id) {
                    let there = look.record().attention().calls() && look.record().region() == region;
                    if there {
                        reach.kernel.send(Sender::Other, None);
                    }
                    release(look, reach);
                }
                true
            }
        }
    }
}
