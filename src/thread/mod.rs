//! Threads that can be raised into, and the waits of `std::thread` as cancellation points.
//!
//! Owns: [`spawn`], [`Builder`]'s settings, [`sleep`], [`park`]. Starting is in `start`, [`JoinHandle`] in `join`, [`Thread`] in
//! `handle`, [`StoppableThread`] in `stoppable`, [`ThreadGroup`] in `group`, [`scope`] in `scope`. Leaves to `region` the waiting.
//! Everything here but spawning may block.
//!
//! What of `std::thread` has nothing to wait for is std's own, so that `use throwto::thread` can stand for it.
//!
//! **Signal context:** no.

mod group;
mod handle;
mod join;
mod scope;
mod start;
mod stoppable;

use std::time::Duration;

pub use std::thread::{available_parallelism, panicking, yield_now};

pub use group::{Survivor, ThreadGroup};
pub use handle::{Thread, current};
pub(crate) use join::panic_text;
pub use join::{JoinError, JoinHandle};
pub use scope::{Scope, ScopedJoinHandle, scope};
pub use stoppable::{StoppableThread, stopped};

use crate::current::{REGISTRY, owner, release};
use crate::platform::futex;
use crate::protocol::record::Owner;
use crate::protocol::registry::ThreadId;
use crate::protocol::word::Attention;
use crate::raised::Raised;
use crate::receipt::deadline_after;
use crate::region::{Raises, Waited, wait_until};

/// Starts an attached thread. Its parent is the calling thread, if that one is attached.
///
/// It can be raised into from the moment this returns, even before it runs. Masks are not inherited, and the nudge
/// signal is unblocked in it, whatever the caller's signal mask is.
///
/// # Panics
/// If the system cannot start a thread, or it cannot be attached; [`Builder::spawn`] returns the error instead.
///
/// ```
/// let worker = throwto::thread::spawn(|| 6 * 7);
/// assert_eq!(worker.join().unwrap(), 42);
/// ```
pub fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new()
        .spawn(f)
        .expect("failed to start an attached thread")
}

/// How a thread shall be started: as `std::thread::Builder`.
#[derive(Debug, Default)]
#[must_use = "nothing starts before `spawn`"]
pub struct Builder {
    name: Option<String>,
    stack_size: Option<usize>,
    group: Option<ThreadGroup>,
}

impl Builder {
    /// The defaults of `std::thread::Builder`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the thread: for [`Target`](crate::Target), [`threads`](crate::threads), debuggers and panic messages.
    pub fn name(mut self, name: String) -> Self {
        self.name = Some(name);
        self
    }

    /// The size of its stack in bytes.
    pub fn stack_size(mut self, size: usize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// Puts it in a group.
    ///
    /// ```
    /// use throwto::thread::{Builder, ThreadGroup};
    /// let group = ThreadGroup::new();
    /// let worker = Builder::new().name("grouped".into()).group(&group).spawn(throwto::thread::park)?;
    /// assert_eq!(group.threads()[0].name.as_deref(), Some("grouped"));
    /// # worker.unpark();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn group(mut self, group: &ThreadGroup) -> Self {
        self.group = Some(group.clone());
        self
    }
}

/// Sleeps for at least `duration`, unless raised into. A duration too long for the clock sleeps until raised into.
///
/// A cancellation point. No signal is needed to wake it. On a thread that is not attached it is `std::thread::sleep`.
///
/// # Errors
/// The exception; how much of the time had passed is not told.
///
/// ```
/// throwto::thread::sleep(std::time::Duration::from_millis(1))?;
/// # Ok::<(), throwto::Raised>(())
/// ```
#[track_caller]
pub fn sleep(duration: Duration) -> Result<(), Raised> {
    let Some(owner) = owner() else {
        std::thread::sleep(duration);
        return Ok(());
    };
    crate::safepoint()?;
    wait_for(owner, NO_TOKEN, deadline_after(duration)).map(drop)
}

/// Waits for the thread's token ([`unpark`]), and takes it.
///
/// A cancellation point: a raise ends it too. Unlike std's it does not wake for no reason. On a thread that is not
/// attached it is `std::thread::park`.
///
/// # Errors
/// The exception; the token stays where it is.
///
/// ```
/// use throwto::thread;
/// let attachment = throwto::attach()?;
/// thread::unpark(attachment.id());
/// thread::park()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn park() -> Result<(), Raised> {
    park_until(None).map(drop)
}

/// As [`park`], for at most `limit`. [`unparked_within`] tells which of both ended it.
///
/// # Errors
/// The exception; the token stays where it is.
///
/// ```
/// throwto::thread::park_timeout(std::time::Duration::from_millis(1))?;
/// # Ok::<(), throwto::Raised>(())
/// ```
#[track_caller]
pub fn park_timeout(limit: Duration) -> Result<(), Raised> {
    unparked_within(limit).map(drop)
}

/// As [`park`], for at most `limit`. `true` if the token was taken, `false` if the time was over.
///
/// On a thread that is not attached it is `std::thread::park_timeout`, which does not tell: `true`.
///
/// # Errors
/// The exception; the token stays where it is.
///
/// ```
/// let attachment = throwto::attach()?;
/// assert!(!throwto::thread::unparked_within(std::time::Duration::from_millis(1))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn unparked_within(limit: Duration) -> Result<bool, Raised> {
    if owner().is_none() {
        std::thread::park_timeout(limit);
        return Ok(true);
    }
    park_until(deadline_after(limit))
}

#[track_caller]
fn park_until(deadline: Option<u64>) -> Result<bool, Raised> {
    let Some(owner) = owner() else {
        std::thread::park();
        return Ok(true);
    };
    crate::safepoint()?;
    wait_for(owner, Attention::UNPARKED, deadline)
}

/// No bit of the word: a wait for it is a sleep.
const NO_TOKEN: u64 = 0;

/// Waits for this bit of the word, and takes it. `false` if the time was over.
#[track_caller]
fn wait_for(owner: Owner, token: u64, deadline: Option<u64>) -> Result<bool, Raised> {
    match wait_until(owner, deadline, Raises::End, || owner.consume(token)) {
        Waited::Ready => Ok(true),
        Waited::TimedOut => Ok(false),
        Waited::Raised(raised) => Err(raised),
    }
}

/// Gives the thread its token, which ends its [`park`], now or the next one. `false` if the thread has ended.
///
/// ```
/// let worker = throwto::thread::spawn(throwto::thread::park);
/// assert!(throwto::thread::unpark(worker.id()));
/// worker.join().unwrap().unwrap();
/// ```
pub fn unpark(id: ThreadId) -> bool {
    let Some(pin) = REGISTRY.pin(id) else { return false };
    pin.record().notify(Attention::UNPARKED);
    futex::wake(pin.record().attention_word());
    release(pin);
    true
}
