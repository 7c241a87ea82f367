//! The registry: threads that come and go under a few names, raised into by id, by name and by kernel number.
//!
//! Shows protocol::registry I2 and P1: how many match is what a list says, and an ambiguous raise is seen by nobody.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use proptest::prelude::*;
use throwto::{
    ExcType, Interrupted, OsTid, RaiseError, Stop, Target, ThreadId, raise_all, raise_exc, set_async_exc,
    thread, threads,
};

use crate::stage::join;

#[derive(Clone, Copy, Debug)]
enum To {
    Id(usize),
    Tid(usize),
    Name(usize),
}

#[derive(Clone, Debug)]
enum Step {
    /// Under one of the names.
    Spawn(usize),
    End(prop::sample::Index),
    Raise(WayTo),
    Set(WayTo),
    Clear(WayTo),
    RaiseAll(WayTo),
    /// The thread comes by a safepoint until nothing is left.
    Meet(prop::sample::Index),
}

#[derive(Clone, Debug)]
enum WayTo {
    Id(prop::sample::Index),
    Tid(prop::sample::Index),
    Name(usize),
}

enum Order {
    /// Tell what is met, by the name of its type.
    Meet,
    End,
}

struct Worker {
    id: ThreadId,
    tid: OsTid,
    handle: Option<thread::JoinHandle<()>>,
    orders: SyncSender<Order>,
    met: Receiver<Vec<&'static str>>,
    /// The model: its name, and what waits in it.
    name: usize,
    waiting: Vec<&'static str>,
}

impl Worker {
    fn new(name: usize, prefix: &str) -> Self {
        let (orders, taken) = sync_channel::<Order>(1);
        let (tell, met) = sync_channel(1);
        let named = thread::Builder::new().name(format!("{prefix}{name}"));
        let handle = named
            .spawn(move || {
                while let Ok(Order::Meet) = taken.recv() {
                    let mut all = Vec::new();
                    while let Err(raised) = throwto::safepoint() {
                        all.push(raised.type_name());
                    }
                    tell.send(all).unwrap();
                }
            })
            .unwrap();
        let id = handle.id();
        // It has a kernel number once it runs.
        orders.send(Order::Meet).unwrap();
        assert!(met.recv().unwrap().is_empty());
        let tid = threads()
            .into_iter()
            .find(|thread| thread.id == id)
            .unwrap()
            .os_tid;
        Self {
            id,
            tid,
            handle: Some(handle),
            orders,
            met,
            name,
            waiting: Vec::new(),
        }
    }

    fn lives(&self) -> bool {
        self.handle.is_some()
    }

    fn meet(&mut self) -> Result<(), TestCaseError> {
        self.orders.send(Order::Meet).unwrap();
        prop_assert_eq!(self.met.recv().unwrap(), std::mem::take(&mut self.waiting));
        Ok(())
    }

    fn end(&mut self) {
        if let Some(handle) = self.handle.take() {
            let _ = self.orders.send(Order::End);
            join(handle);
        }
    }

    fn raise(&mut self, name: &'static str) {
        if !self.waiting.contains(&name) {
            self.waiting.push(name);
        }
    }
}

/// So that programs that run at once in this process do not meet by name.
static PROGRAMS: AtomicU32 = AtomicU32::new(0);

struct World {
    prefix: String,
    workers: Vec<Worker>,
}

impl World {
    fn resolve(&self, way: &WayTo) -> Option<To> {
        let among = self.workers.len();
        match way {
            WayTo::Name(name) => Some(To::Name(*name)),
            WayTo::Id(which) if among > 0 => Some(To::Id(which.index(among))),
            // The number of one that has ended may be anybody's by now.
            WayTo::Tid(which) if among > 0 => {
                let which = which.index(among);
                self.workers[which].lives().then_some(To::Tid(which))
            }
            WayTo::Id(_) | WayTo::Tid(_) => None,
        }
    }

    fn target(&self, to: To) -> Target {
        match to {
            To::Id(which) => self.workers[which].id.into(),
            To::Tid(which) => self.workers[which].tid.into(),
            To::Name(name) => format!("{}{name}", self.prefix).into(),
        }
    }

    fn matches(&self, to: To) -> Vec<usize> {
        let all = self.workers.iter().enumerate();
        let lives = all.filter(|(_, worker)| worker.lives());
        let matching = lives.filter(|(at, worker)| match to {
            To::Id(which) | To::Tid(which) => *at == which,
            To::Name(name) => worker.name == name,
        });
        matching.map(|(at, _)| at).collect()
    }

    fn play(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let (stop, interrupted) = (
            throwto::ExcType::of::<Stop>().name(),
            throwto::ExcType::of::<Interrupted>().name(),
        );
        match step {
            Step::Spawn(name) => {
                let worker = Worker::new(*name, &self.prefix);
                let known = self.workers.iter().any(|old| old.id == worker.id);
                prop_assert!(!known, "an id was used again");
                self.workers.push(worker);
            }
            Step::End(which) if !self.workers.is_empty() => {
                let which = which.index(self.workers.len());
                self.workers[which].end();
            }
            Step::Meet(which) if !self.workers.is_empty() => {
                let which = which.index(self.workers.len());
                if self.workers[which].lives() {
                    self.workers[which].meet()?;
                }
            }
            Step::End(_) | Step::Meet(_) => {}
            Step::Raise(way) => {
                let Some(to) = self.resolve(way) else {
                    return Ok(());
                };
                let matching = self.matches(to);
                match (raise_exc(self.target(to), Interrupted), &matching[..]) {
                    (Ok(receipt), [one]) => {
                        prop_assert_eq!(receipt.target(), self.workers[*one].id);
                        self.workers[*one].raise(interrupted);
                    }
                    (Err(RaiseError::NoSuchThread { .. }), []) => {}
                    (Err(RaiseError::Ambiguous { matched }), many) => prop_assert_eq!(matched, many.len()),
                    (other, _) => prop_assert!(false, "{:?} for {:?}", other, matching),
                }
            }
            Step::RaiseAll(way) => {
                let Some(to) = self.resolve(way) else {
                    return Ok(());
                };
                let matching = self.matches(to);
                let receipts = raise_all(self.target(to), ExcType::of::<Stop>());
                prop_assert_eq!(receipts.len(), matching.len());
                matching.into_iter().for_each(|at| self.workers[at].raise(stop));
            }
            Step::Set(way) => {
                let Some(to) = self.resolve(way) else {
                    return Ok(());
                };
                let matching = self.matches(to);
                let set = set_async_exc(self.target(to), Some(ExcType::of::<Stop>()));
                prop_assert_eq!(set, matching.len());
                matching
                    .into_iter()
                    .for_each(|at| self.workers[at].waiting = vec![stop]);
            }
            Step::Clear(way) => {
                let Some(to) = self.resolve(way) else {
                    return Ok(());
                };
                let matching = self.matches(to);
                prop_assert_eq!(set_async_exc(self.target(to), None), matching.len());
                matching
                    .into_iter()
                    .for_each(|at| self.workers[at].waiting.clear());
            }
        }
        Ok(())
    }
}

fn step() -> impl Strategy<Value = Step> {
    let any_index = any::<prop::sample::Index>;
    let way = || {
        prop_oneof![
            2 => any_index().prop_map(WayTo::Id),
            1 => any_index().prop_map(WayTo::Tid),
            4 => (0..3_usize).prop_map(WayTo::Name),
        ]
    };
    prop_oneof![
        3 => (0..3_usize).prop_map(Step::Spawn),
        1 => any_index().prop_map(Step::End),
        4 => way().prop_map(Step::Raise),
        1 => way().prop_map(Step::Set),
        1 => way().prop_map(Step::Clear),
        1 => way().prop_map(Step::RaiseAll),
        3 => any_index().prop_map(Step::Meet),
    ]
}

proptest! {
    /// Shows protocol::registry I2.
    #[test]
    fn a_raise_reaches_who_matches_and_only_if_it_is_one(steps in prop::collection::vec(step(), 1..25)) {
        let mut world = World {
            prefix: format!("program {} ", PROGRAMS.fetch_add(1, Ordering::Relaxed)),
            workers: Vec::new(),
        };
        let mut outcome = steps.iter().try_for_each(|step| world.play(step));
        for worker in &mut world.workers {
            if worker.lives() && outcome.is_ok() {
                outcome = worker.meet();
            }
            worker.end();
        }
        outcome?;
    }
}
