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
use crate::protocol::record::{AfterUnpin, Duty, Fences, Need, Pin, Record, Tell};
use crate::protocol::registry::Registry;
use crate::protocol::word::Sender;

/// What is to be done at a thread when the clock gets there.
#[derive(Clone)]
enum Errand {
    /// A deadline of one of its scopes.
    Deadlines(Reach),
    /// A shield ends: look again.
    Look(Reach),
    /// It sleeps until then: the system's part.
    Wake(Reach),
}

#[derive(Default)]
struct Inbox {
    notes: VecDeque<Reach>,
    errands: Vec<(u64, Errand)>,
    over: bool,
}

pub(crate) struct Driver {
    pub(crate) registry: Registry,
    inbox: Mutex<Inbox>,
    bell: Condvar,
    clock: AtomicU64,
    pub(crate) fault: Option<Fault>,
}

fn watch(watched: &mut Vec<Reach>, new: impl IntoIterator<Item = Reach>) {
    for reach in new {
        if !watched.iter().any(|seen| seen.id == reach.id) {
            watched.push(reach);
        }
    }
}

/// Drops a pin and wakes its owner if it waits for that.
pub(crate) fn release<const UNIT: u64>(pin: Pin<'_, UNIT>, reach: &Reach) {
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
        self.promise(at, Errand::Deadlines(reach.clone()));
    }

    /// `FUTEX_WAIT` with a time limit.
    pub(crate) fn sleep(&self, reach: &Reach, record: &Record, expected: u32, until: Option<u64>) {
        if let Some(at) = until {
            self.promise(at, Errand::Wake(reach.clone()));
        }
        let over = || until.is_some_and(|at| self.now() >= at);
        reach.kernel.sleep_until(record, expected, over);
    }

    fn promise(&self, at: u64, errand: Errand) {
        self.inbox.lock().unwrap().errands.push((at, errand));
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
            Duty::Nudge { pin, tell } => {
                reach.kernel.send(pin.sender(), exception);
                release(pin, reach);
                if tell != Tell::Nothing {
                    self.note(reach);
                }
            }
            Duty::Later if self.fault == Some(Fault::NobodyComesBehindAShield) => {}
            Duty::Verify | Duty::Later => self.note(reach),
        }
    }

    pub(crate) fn run(&self) {
        let mut watched: Vec<Reach> = Vec::new();
        let mut timetable = Timetable::new();
        let mut errands: Vec<Errand> = Vec::new();
        loop {
            let mut inbox = self.inbox.lock().unwrap();
            while watched.is_empty()
                && timetable.next().is_none()
                && inbox.notes.is_empty()
                && inbox.errands.is_empty()
                && !inbox.over
            {
                inbox = self.bell.wait(inbox).unwrap();
            }
            let fresh: Vec<Reach> = inbox.notes.drain(..).collect();
            for (at, errand) in inbox.errands.drain(..) {
                let at = match &errand {
                    Errand::Deadlines(reach) => self.record(reach).visit_to_keep().unwrap_or(at),
                    Errand::Look(_) | Errand::Wake(_) => at,
                };
                timetable.promise(at, errands.len());
                errands.push(errand);
            }
            let over = inbox.over;
            drop(inbox);
            if over && fresh.is_empty() && watched.is_empty() {
                return;
            }
            self.take_off(&fresh);
            watch(&mut watched, fresh);
            watched.retain(|reach| self.look(reach));
            if watched.is_empty()
                && let Some(at) = timetable.next()
            {
                self.clock.fetch_max(at, Ordering::SeqCst);
                match timetable.take_due(at).map(|nth| &errands[nth]) {
                    Some(Errand::Deadlines(reach)) => self.visit(reach),
                    Some(Errand::Look(reach)) => watch(&mut watched, [reach.clone()]),
                    Some(Errand::Wake(reach)) => reach.kernel.wake(),
                    None => {}
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
        match record.need(|| self.now()) {
            Need::Nothing => false,
            Need::Wake => {
                reach.kernel.wake();
                false
            }
            Need::Later(end) => {
                self.promise(end, Errand::Look(reach.clone()));
                false
            }
            Need::Break(region) => {
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
