//! Detached calls: on a thread of their own, which the caller can leave behind.
//!
//! Owns: [`detached`], [`Call::run_detached`], who gets the result, and what is done for a call that is left behind. Leaves
//! to `thread` the starting, to `region` the waiting, to `protocol::registry` counting who was left.
//! The caller blocks as the call does, in a wait that a raise ends without a signal.
//!
//! **Signal context:** no.
//!
//! One lock decides between the result and the exception:
//!
//! ```text
//!            (1) the call ends                    (3) the caller takes the result
//!   Running -----------------------> Done(result) ---------------------------------> Taken
//!      |
//!      | (2) the caller takes an exception
//!      v
//!   GivenUp    the result, when it comes, is dropped on the thread that brings it
//! ```
//!
//! - I1. (2) takes the exception out of the slot under the lock, and only while there is no result: who finds a result
//!   takes nothing, and the exception stays pending (P10). Nothing else that is not ours runs under the lock but a
//!   raised type's `Default`.
//! - I2. The result is dropped exactly once: by the caller's code, or by the thread that made it, never under the lock.
//! - I3. In `GivenUp` the caller always leaves the thread behind ([`Caller`]'s drop), even if that `Default` panics.
//!
//! A call that is left behind is raised into, with [`Cancelled`], so that one that can come free does. Nobody waits for
//! that. A thread is started for each call: those of the idle sort would have to be proven clean of what a foreign call
//! leaves in a thread (locale, signal mask, thread-local state), which is why one wants a thread of its own.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Call;
use crate::current::{self, REGISTRY};
use crate::exception::{Cancelled, IntoException};
use crate::protocol::record::Owner;
use crate::protocol::registry::ThreadId;
use crate::protocol::slot::Policy;
use crate::raise::raise_by_id;
use crate::raised::{Raised, Rung};
use crate::safepoint::{Moment, take};
use crate::thread::{Builder, JoinHandle};

/// Runs `f` on a thread of its own and waits for it: the last resort, for a call that nothing can break.
///
/// A raise into the caller ends the wait at once, without a signal, whatever `f` is stuck in: a lock inside a C library,
/// a computation without end. The call is then *left behind*: it goes on by itself, is raised into once with
/// [`Cancelled`](crate::Cancelled) (with the rungs nudge and fail, so that many do end), and what it returns or panics
/// with is dropped on its own thread. Until it ends, [`threads`](crate::threads) shows it with
/// [`left_behind`](crate::ThreadInfo::left_behind) and with where it is blocked, and [`stats`](crate::stats) counts it.
/// [`raise_until_dead`](crate::raise_until_dead) can go on trying.
///
/// What such a call holds it holds on: its thread and stack, its descriptors, above all its locks. The next call into a
/// library that is stuck will get stuck as well. A wait as any other: masks and shields hold an exception back, an
/// [`uninterruptible`](crate::uninterruptible) caller waits to the end. On a thread that is not attached it just runs `f`.
///
/// Costs a thread, some tens of microseconds: try [`Call`] with its rungs first. `f` sees none of the caller's thread-local
/// state and none of its masks. [`Call::run_detached`] gives it a label and a hook.
///
/// # Errors
/// [`DetachedError`].
///
/// # Panics
/// If `f` does: its panic goes on in the caller.
///
/// ```
/// use throwto::{Stop, foreign, thread};
/// assert_eq!(foreign::detached(|| 6 * 7)?, 42);
///
/// // std's channel goes back to wait after every signal, and refuses every rung.
/// let (sender, receiver) = std::sync::mpsc::channel::<()>();
/// let worker = thread::spawn(move || foreign::detached(move || receiver.recv()));
/// worker.raise(Stop)?;
/// assert!(worker.join()?.unwrap_err().raised().unwrap().is::<Stop>());
/// drop(sender);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn detached<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, DetachedError> {
    let mut call = Call::new("detached");
    // It is left behind all the same where there is no such rung.
    if Call::supports(Rung::Fail) {
        call = call.fail_syscalls();
    }
    call.run_detached(f)
}

impl Call<'static> {
    /// Runs `f` as [`detached`] does, on a thread that is called `throwto:LABEL`, with the rungs that this call allows.
    ///
    /// # Errors
    /// [`DetachedError`].
    ///
    /// # Panics
    /// If `f` does: its panic goes on in the caller.
    ///
    /// ```
    /// use throwto::foreign::Call;
    /// let attachment = throwto::attach()?;
    /// let name = Call::new("fsck").run_detached(|| std::thread::current().name().map(String::from))?;
    /// assert_eq!(name.as_deref(), Some("throwto:fsck"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn run_detached<T: Send + 'static>(
        self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DetachedError> {
        let Some(owner) = current::owner() else {
            return self.run(f).map_err(DetachedError::before);
        };
        crate::safepoint().map_err(DetachedError::before)?;
        let exchange = Arc::new(Exchange::new());
        let theirs = Arc::clone(&exchange);
        let thread = Builder::new()
            .name(thread_name(self.label))
            .spawn(move || theirs.run(|| self.run(f)))
            .map_err(DetachedError::NotStarted)?;
        let caller = Caller {
            exchange,
            thread,
            at: Location::caller(),
        };
        caller.wait(owner)
    }
}

/// Why a detached call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetachedError {
    /// An exception was raised in the caller.
    #[error("raised into: {raised}")]
    Raised {
        /// The exception.
        raised: Raised,
        /// The thread in which the call was left behind; `None` if the call had not begun and never will.
        left_behind: Option<ThreadId>,
    },
    /// No thread could be started for the call, which did not run: out of threads or memory, or
    /// [`AttachError`](crate::AttachError).
    #[error("no thread could be started for the call: {0}")]
    NotStarted(#[source] io::Error),
}

impl DetachedError {
    fn before(raised: Raised) -> Self {
        Self::Raised {
            raised,
            left_behind: None,
        }
    }

    /// The exception, if it is one.
    pub fn raised(self) -> Option<Raised> {
        match self {
            Self::Raised { raised, .. } => Some(raised),
            Self::NotStarted(_) => None,
        }
    }

    /// The thread in which the call was left behind.
    pub fn left_behind(&self) -> Option<ThreadId> {
        match self {
            Self::Raised { left_behind, .. } => *left_behind,
            Self::NotStarted(_) => None,
        }
    }
}

/// So that `?` works in functions that return an `io::Result`; [`Raised::from_io`] gets an exception back.
impl From<DetachedError> for io::Error {
    fn from(error: DetachedError) -> Self {
        match error {
            DetachedError::Raised { raised, .. } => raised.into(),
            DetachedError::NotStarted(error) => error,
        }
    }
}

/// As debuggers and `top` show it, of which the system keeps 15 bytes. A NUL would make starting the thread panic.
fn thread_name(label: &str) -> String {
    format!("throwto:{}", label.replace('\0', "?"))
}

/// How the call ended: its result, an exception of its own thread's before it began, or a panic.
type Outcome<T> = Result<Result<T, Raised>, Box<dyn Any + Send>>;

/// The states of the header.
enum Phase<T> {
    Running,
    Done(Outcome<T>),
    Taken,
    GivenUp,
}

/// Where caller and call meet.
struct Exchange<T> {
    phase: Mutex<Phase<T>>,
}

/// What the caller comes out with.
enum Decided<T> {
    Ended(Outcome<T>),
    Raised(Raised),
}

impl<T> Exchange<T> {
    fn new() -> Self {
        Self {
            phase: Mutex::new(Phase::Running),
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase<T>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the call's thread, transition (1). A late result's destructor runs masked: it is clean-up.
    fn run(&self, call: impl FnOnce() -> Result<T, Raised>) {
        let outcome = catch_unwind(AssertUnwindSafe(call));
        let mut phase = self.phase();
        if let Phase::Running = *phase {
            *phase = Phase::Done(outcome);
            return;
        }
        drop(phase);
        crate::mask(|_| drop(outcome));
    }

    /// On the caller's thread, (3) if there is a result, else (2) if an exception can be delivered.
    #[track_caller]
    fn decide(&self, owner: Owner) -> Option<Decided<T>> {
        let mut phase = self.phase();
        if let Phase::Done(_) = *phase {
            return match std::mem::replace(&mut *phase, Phase::Taken) {
                Phase::Done(outcome) => Some(Decided::Ended(outcome)),
                Phase::Running | Phase::Taken | Phase::GivenUp => None,
            };
        }
        // First, so that it is so if taking the exception unwinds (I3).
        *phase = Phase::GivenUp;
        let raised = take(owner, Moment::Blocking);
        if raised.is_none() {
            *phase = Phase::Running;
        }
        raised.map(Decided::Raised)
    }

    fn is_given_up(&self) -> bool {
        matches!(*self.phase(), Phase::GivenUp)
    }
}

/// The caller's side. Dropped, it leaves the call behind if that is given up.
struct Caller<T> {
    exchange: Arc<Exchange<T>>,
    thread: JoinHandle<()>,
    at: &'static Location<'static>,
}

impl<T> Caller<T> {
    #[track_caller]
    fn wait(self, owner: Owner) -> Result<T, DetachedError> {
        loop {
            // Until the thread has left the registry: it counts no more when the next one is started. An exception
            // does not wait for that, and neither for the thread's own destructors.
            let alive = self.thread.wait_ended_or_called();
            match self.exchange.decide(owner) {
                Some(Decided::Ended(Ok(outcome))) => return outcome.map_err(DetachedError::before),
                Some(Decided::Ended(Err(panic))) => resume_unwind(panic),
                Some(Decided::Raised(raised)) => {
                    let left_behind = Some(self.thread.id());
                    return Err(DetachedError::Raised { raised, left_behind });
                }
                // The exception was revoked in that very moment.
                None if alive => {}
                None => {
                    let forked = "the call stayed in the parent when this process was forked";
                    return Err(DetachedError::NotStarted(io::Error::other(forked)));
                }
            }
        }
    }
}

impl<T> Drop for Caller<T> {
    fn drop(&mut self) {
        if self.exchange.is_given_up() {
            let id = self.thread.id();
            REGISTRY.leave_behind(id);
            // Who has ended meanwhile needs no raise.
            let _ = raise_by_id(id, Cancelled.into_exception(), Policy::Supersede, self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stop;

    fn raised_here() -> (crate::Attachment, Owner) {
        let attachment = crate::attach().unwrap();
        crate::raise_exc(attachment.id(), Stop).unwrap();
        (attachment, current::owner().unwrap())
    }

    /// Shows foreign::detached I1.
    #[test]
    fn a_result_that_is_there_wins_and_the_exception_stays() {
        let (_attachment, owner) = raised_here();
        let exchange = Exchange::new();
        exchange.run(|| Ok(42));
        assert!(matches!(exchange.decide(owner), Some(Decided::Ended(Ok(Ok(42))))));
        assert!(!exchange.is_given_up() && crate::safepoint().is_err());
    }

    /// Shows foreign::detached I2.
    #[test]
    fn without_a_result_the_exception_wins_and_a_late_result_is_dropped_at_once() {
        let (_attachment, owner) = raised_here();
        let (exchange, result) = (Exchange::new(), Arc::new(()));
        assert!(matches!(exchange.decide(owner), Some(Decided::Raised(_))));
        assert!(exchange.is_given_up() && crate::safepoint().is_ok());
        exchange.run(|| Ok(Arc::clone(&result)));
        assert_eq!(Arc::strong_count(&result), 1);
    }

    #[test]
    fn without_either_the_call_runs_on() {
        let (_attachment, owner) = raised_here();
        drop(crate::safepoint());
        let exchange = Exchange::<()>::new();
        assert!(exchange.decide(owner).is_none() && !exchange.is_given_up());
    }
}
