//! What is decided once per process: the configuration, the nudge signal, the fences; and waiting for threads to end.
//!
//! Leaves to `set_up` putting it in force, to `current` the threads, to `driver` the background work.
//!
//! **Signal context:** no.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::Unsupported;
use crate::platform::{HAS_NUDGE, handler, membarrier, nudge};
use crate::protocol::record::Fences;
use crate::protocol::registry::CAPACITY;

/// What can be chosen before the first thread attaches.
///
/// ```
/// throwto::Config::new().attach_limit(10_000).apply()?;
/// # Ok::<(), throwto::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub(crate) signal: i32,
    pub(crate) attach_limit: usize,
}

impl Config {
    /// The defaults: the nudge signal is `SIGURG`, and as many threads may attach as there is memory for.
    pub const fn new() -> Self {
        Self {
            signal: handler::DEFAULT_SIGNAL,
            attach_limit: CAPACITY,
        }
    }

    /// The signal that breaks blocking calls, by its number. It must be one that may be caught.
    #[must_use]
    pub const fn nudge_signal(mut self, signal: i32) -> Self {
        self.signal = signal;
        self
    }

    /// How many threads may be attached at once.
    #[must_use]
    pub const fn attach_limit(mut self, limit: usize) -> Self {
        self.attach_limit = limit;
        self
    }

    /// Puts the configuration in force.
    ///
    /// # Errors
    /// [`ConfigError::TooLate`] once a thread has attached or a configuration has been applied;
    /// [`ConfigError::Unsupported`] for a nudge signal where no thread can be sent one.
    pub fn apply(self) -> Result<(), ConfigError> {
        if self.signal != handler::DEFAULT_SIGNAL && !HAS_NUDGE {
            return Err(ConfigError::Unsupported(Unsupported {
                capability: "a nudge signal needs directed signals",
            }));
        }
        CONFIG.set(self).map_err(|_| ConfigError::TooLate)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a [`Config`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The runtime is already in use.
    #[error("the runtime is already in use: apply the configuration once, before the first thread attaches")]
    TooLate,
    /// This system has no nudge signal.
    #[error(transparent)]
    Unsupported(Unsupported),
}

static CONFIG: OnceLock<Config> = OnceLock::new();

/// The configuration, in force from now on.
pub(crate) fn config() -> &'static Config {
    CONFIG.get_or_init(Config::new)
}

/// The nudge signal in force.
pub(crate) fn signal() -> i32 {
    CONFIG
        .get()
        .map_or(handler::DEFAULT_SIGNAL, |config| config.signal)
}

/// How foreign regions are fenced. One load and a predicted branch: every foreign call asks.
#[inline(always)]
pub(crate) fn fences() -> Fences {
    if membarrier::is_registered() {
        Fences::Light
    } else {
        Fences::Full
    }
}

static ENDS: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());

/// The lock that the end of a thread takes.
pub(crate) type HeldEnds = MutexGuard<'static, u64>;

/// Keeps threads from ending while the process forks: the child could not end its own otherwise.
pub(crate) fn hold_for_fork() -> HeldEnds {
    ENDS.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells whoever waits for threads to end that one has.
pub(crate) fn note_end() {
    let _quiet = nudge::quiet();
    *ENDS.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    ENDS.1.notify_all();
}

/// Waits until `over()`, looking again whenever a thread ends, at most until `deadline`.
pub(crate) fn wait_for_ends(deadline: std::time::Instant, mut over: impl FnMut() -> bool) -> bool {
    loop {
        if over() {
            return true;
        }
        // Handlers of the program come between two naps.
        let _quiet = nudge::quiet();
        let ends = ENDS.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = deadline
            .checked_duration_since(std::time::Instant::now())
            .filter(|d| !d.is_zero())
        else {
            return false;
        };
        // An end between the look and the lock is caught by looking at least every few milliseconds.
        let nap = left.min(std::time::Duration::from_millis(2));
        drop(ENDS.1.wait_timeout(ends, nap));
    }
}
