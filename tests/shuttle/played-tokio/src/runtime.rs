//! A runtime: a blocking pool of some threads, and async tasks that are never polled and dropped at its end.
//!
//! Owns: [`Runtime`] and [`Handle`]. What a runtime does at its end and in which order is tokio's: first the async tasks are dropped,
//! then the pool closes, its threads drop what is in the queue, and whoever ends it waits for them.
//!
//! **Signal context:** no.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::stage::{Unscheduled, stage};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::task;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u64);

// All threads of one play run on one thread of the system.
std::thread_local! {
    static LAST: Cell<u64> = const { Cell::new(0) };
}

fn next() -> u64 {
    LAST.set(LAST.get() + 1);
    LAST.get()
}

shuttle::thread_local! {
    static CURRENT: RefCell<Option<Handle>> = RefCell::new(None);
}

type Blocking = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    tasks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// No async task is taken any more.
    tasks_over: bool,
    queue: VecDeque<Blocking>,
    pool_over: bool,
    threads: usize,
}

/// A runtime, as its users reach it.
#[derive(Clone)]
pub struct Handle {
    id: Id,
    state: Arc<Unscheduled<State>>,
}

impl Handle {
    /// # Panics
    /// Outside of a pool's thread.
    pub fn current() -> Self {
        let current = CURRENT.with(|current| current.borrow().clone());
        current.expect("there is no reactor running")
    }

    pub fn id(&self) -> Id {
        self.id
    }

    pub fn spawn(&self, f: impl Future<Output = ()> + Send + 'static) -> task::JoinHandle {
        stage().step();
        let mut refused: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = Some(Box::pin(f));
        self.state.with(|state| {
            if !state.tasks_over {
                state.tasks.extend(refused.take());
            }
        });
        drop(refused);
        task::JoinHandle(task::Id(next()))
    }

    pub fn spawn_blocking<T: 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> task::JoinHandle {
        stage().step();
        let mut refused: Option<Blocking> = Some(Box::new(|| drop(f())));
        self.state.with(|state| {
            if !state.pool_over {
                state.queue.extend(refused.take());
            }
        });
        drop(refused);
        stage().ring();
        task::JoinHandle(task::Id(next()))
    }

    /// One thread of the pool.
    fn work(&self) {
        CURRENT.with(|current| current.replace(Some(self.clone())));
        loop {
            let due = |state: &mut State| state.pool_over || !state.queue.is_empty();
            stage().sleep_until(|| self.state.with(due));
            match self
                .state
                .with(|state| (state.queue.pop_front(), state.pool_over))
            {
                // What a task panics with is its handle's.
                (Some(task), false) => {
                    drop::<Result<(), Box<dyn Any + Send>>>(catch_unwind(AssertUnwindSafe(task)))
                }
                (Some(task), true) => drop(task),
                (None, true) => break,
                (None, false) => {}
            }
        }
        CURRENT.with(|current| current.replace(None));
        self.state.with(|state| state.threads -= 1);
        stage().ring();
    }
}

/// Ends with its drop.
pub struct Runtime {
    handle: Handle,
    ended: bool,
}

impl Runtime {
    /// With so many threads for blocking tasks, all of which are there from the beginning.
    pub fn new(threads: usize) -> Self {
        let state = Arc::new(Unscheduled::<State>::default());
        let handle = Handle {
            id: Id(next()),
            state,
        };
        for _ in 0..threads {
            let handle = handle.clone();
            handle.state.with(|state| state.threads += 1);
            let started = thread::Builder::new().spawn(move || handle.work());
            drop(started.expect("no thread is refused here"));
        }
        Self { handle, ended: false }
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns when its threads have ended, or after `limit`.
    pub fn shutdown_timeout(mut self, limit: Duration) {
        self.end(Some(limit));
    }

    fn end(&mut self, limit: Option<Duration>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let state = &self.handle.state;
        stage().step();
        drop(state.with(|state| {
            state.tasks_over = true;
            std::mem::take(&mut state.tasks)
        }));
        stage().step();
        state.with(|state| state.pool_over = true);
        stage().ring();
        let began = stage().now();
        let late = || limit.is_some_and(|limit| stage().now() - began >= limit.as_nanos() as u64);
        stage().sleep_until(|| late() || state.with(|state| state.threads == 0));
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.end(None);
    }
}
