//! Scopes and limits of a play: what is addressed to one comes out of a safepoint in it, and of no other.
//!
//! Owns: what each thread is in. No thread is switched within these steps.
//!
//! **Signal context:** no.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::stage::{Unscheduled, stage};
use std::sync::Arc;
use std::time::Duration;

use crate::error::RaiseError;
use crate::exception::{Cancelled, IntoException, TimedOut};
use crate::raised::Raised;
use crate::receipt::{Receipt, deadline_after};

/// What one thread is in.
#[derive(Default)]
pub(crate) struct Mine {
    pub(crate) id: Option<u64>,
    /// Innermost last.
    frames: Vec<Frame>,
    masks: u32,
    next_limit: usize,
}

enum Frame {
    Scope(Arc<Place>),
    Limit { until: u64, number: usize },
}

// All threads of one play run on one thread of the system.
std::thread_local! {
    static THREADS: RefCell<HashMap<std::thread::ThreadId, Mine>> = RefCell::default();
}

pub(crate) fn begin() {
    THREADS.take();
}

pub(crate) fn mine<T>(f: impl FnOnce(&mut Mine) -> T) -> T {
    let me = std::thread::current().id();
    THREADS.with_borrow_mut(|threads| f(threads.entry(me).or_default()))
}

struct Place(Unscheduled<State>);

#[derive(Default)]
struct State {
    open: bool,
    over: bool,
    cancelled: bool,
    raised: bool,
}

impl Place {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.0.with(f)
    }

    fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

pub(crate) struct Scope(Arc<Place>);

#[derive(Clone)]
pub(crate) struct ScopeHandle(Arc<Place>);

impl Scope {
    pub(crate) fn new() -> (Self, ScopeHandle) {
        let cell = Arc::new(Place(Unscheduled::default()));
        (Self(Arc::clone(&cell)), ScopeHandle(cell))
    }

    pub(crate) fn run_through<T>(self, f: impl FnOnce() -> T) -> T {
        stage().step();
        self.0.with(|state| {
            assert!(!state.open && !state.over, "a scope that is entered twice");
            state.open = true;
        });
        mine(|me| me.frames.push(Frame::Scope(Arc::clone(&self.0))));
        let outcome = catch_unwind(AssertUnwindSafe(f));
        stage().step();
        mine(|me| me.frames.pop());
        self.0.with(|state| state.over = true);
        outcome.unwrap_or_else(|payload| resume_unwind(payload))
    }

    pub(crate) fn run<T>(self, f: impl FnOnce() -> T) -> Result<T, Cancelled> {
        let address = self.0.address();
        convert(address, || self.run_through(f)).map_err(|_own| Cancelled)
    }
}

impl ScopeHandle {
    pub(crate) fn cancel(&self) {
        stage().step();
        self.0.with(|state| state.cancelled = true);
        stage().ring();
    }

    pub(crate) fn cancel_at(&self, _at: &'static Location<'static>) {
        self.cancel();
    }

    pub(crate) fn raise(&self, _exc: impl IntoException) -> Result<Receipt, RaiseError> {
        stage().step();
        let open = self.0.with(|state| {
            let open = state.open && !state.over;
            state.raised |= open;
            open
        });
        stage().ring();
        open.then_some(Receipt).ok_or(RaiseError::ScopeNotOpen)
    }
}

/// Own exceptions that unwind out of `f`.
fn convert<T>(address: usize, f: impl FnOnce() -> T) -> Result<T, Raised> {
    catch_unwind(AssertUnwindSafe(f)).or_else(|payload| match payload.downcast::<Raised>() {
        Ok(raised) if raised.0 == address => Err(*raised),
        Ok(raised) => resume_unwind(raised),
        Err(payload) => resume_unwind(payload),
    })
}

/// What is addressed to something that the calling thread is in, the outermost first. `taken`: a raise is, once.
fn called(taken: bool) -> Option<Raised> {
    let now = stage().now();
    mine(|me| {
        if me.masks > 0 {
            return None;
        }
        me.frames.iter().find_map(|frame| match frame {
            Frame::Scope(place) => place.with(|state| {
                let called = state.cancelled || state.raised;
                if taken && called {
                    state.raised = false;
                }
                called.then(|| Raised(place.address()))
            }),
            Frame::Limit { until, number } => (*until <= now).then_some(Raised(*number)),
        })
    })
}

pub(crate) fn is_called() -> bool {
    called(false).is_some()
}

pub(crate) fn mask<T>(f: impl FnOnce(()) -> T) -> T {
    mine(|me| me.masks += 1);
    let outcome = catch_unwind(AssertUnwindSafe(|| f(())));
    mine(|me| me.masks -= 1);
    outcome.unwrap_or_else(|payload| resume_unwind(payload))
}

pub(crate) fn safepoint() -> Result<(), Raised> {
    stage().step();
    called(true).map_or(Ok(()), Err)
}

/// `crate::safepoint` is a function and a module.
pub(crate) mod safepoint {
    use super::{Any, Raised};

    pub(crate) fn as_raised(payload: Box<dyn Any + Send>) -> Result<Raised, Box<dyn Any + Send>> {
        payload.downcast::<Raised>().map(|raised| *raised)
    }
}

pub(crate) mod time {
    use super::{Duration, Frame, TimedOut, convert, deadline_after, mine, stage};

    pub(crate) fn timeout<T>(limit: Duration, f: impl FnOnce() -> T) -> Result<T, TimedOut> {
        Deadline::after(limit).run(|()| f())
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Deadline(u64);

    impl Deadline {
        pub(crate) const NEVER: Self = Self(u64::MAX);

        pub(crate) fn after(limit: Duration) -> Self {
            deadline_after(limit).map_or(Self::NEVER, Self)
        }

        pub(crate) fn run<T>(self, f: impl FnOnce(()) -> T) -> Result<T, TimedOut> {
            let number = mine(|me| {
                // Odd, as no cell's address is.
                me.next_limit += 2;
                let number = me.next_limit | 1;
                let until = self.0;
                me.frames.push(Frame::Limit { until, number });
                number
            });
            let outcome = convert(number, || {
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(())));
                stage().step();
                mine(|me| me.frames.pop());
                outcome.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
            });
            outcome.map_err(|_own| TimedOut)
        }
    }
}
