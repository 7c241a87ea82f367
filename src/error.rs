//! What can go wrong, in words that say what to do.
//!
//! Owns: the error enums of attaching and raising, and what is said of a missing ability. Leaves to `foreign` and `thread` the errors of theirs.
//!
//! **Signal context:** no.

use crate::os::OsTid;
use crate::target::Target;

/// Why the calling thread cannot be attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The thread's signal mask blocks the nudge signal, so a blocked call could not be broken.
    #[error(
        "signal {signal} is blocked in this thread's mask, so its blocking calls could not be interrupted; unblock it \
         (pthread_sigmask) or choose another with Config::nudge_signal"
    )]
    SignalBlocked {
        /// The nudge signal.
        signal: i32,
    },
    /// Somebody has installed another handler for the nudge signal, and it does not pass our signals on. Or it does, with
    /// `SA_RESTART`, on a system where the calls that it restarts cannot be ended.
    #[error(
        "another handler has taken signal {signal} and does not pass it on to the one that was there before, or restarts \
         what it interrupts; install it before the first attach, make it chain, or choose another signal with \
         Config::nudge_signal"
    )]
    HandlerReplaced {
        /// The nudge signal.
        signal: i32,
    },
    /// The system refused a handler for the nudge signal.
    #[error(
        "no handler can be installed for signal {signal} (errno {errno}); choose another with Config::nudge_signal"
    )]
    Signal {
        /// The nudge signal.
        signal: i32,
        /// What the system said.
        errno: i32,
    },
    /// The system does not let the nudge signal be sent, so a blocked call could not be broken.
    #[error(
        "signal {signal} cannot be sent to a thread of this process (errno {errno} from rt_tgsigqueueinfo); let the sandbox's \
         filter allow that call, or for a real-time signal raise RLIMIT_SIGPENDING"
    )]
    SignalRefused {
        /// The nudge signal.
        signal: i32,
        /// What the system said.
        errno: i32,
    },
    /// As many threads are attached as may be.
    #[error(
        "{limit} threads are attached, which is the limit; raise it with Config::attach_limit, or let some end"
    )]
    Limit {
        /// The limit in force.
        limit: usize,
    },
    /// The thread is past its thread-local variables: this is called by the destructor of one, or of what was raised in the
    /// thread and never delivered.
    #[error(
        "this thread is ending, and its thread-local variables are gone; attach before, or on another thread"
    )]
    ThreadEnding,
    /// No memory for another thread's record.
    #[error("no memory for another thread's record")]
    OutOfMemory,
}

/// Why nothing was raised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RaiseError {
    /// No live attached thread matches.
    #[error(
        "no live attached thread is {asked}; it has ended, or never attached (throwto::attach, throwto::thread::spawn)"
    )]
    NoSuchThread {
        /// What was asked for.
        asked: Target,
    },
    /// More than one live thread matches. Nothing was raised in any of them.
    #[error(
        "{matched} live threads match; nothing was raised; name one by its ThreadId or JoinHandle, or use raise_all"
    )]
    Ambiguous {
        /// How many.
        matched: usize,
    },
    /// The scope has not been entered yet, or it is over: what is addressed to a scope is never delivered outside it.
    #[error("the scope is not open: nobody has entered it yet, or it has ended")]
    ScopeNotOpen,
    /// The thread is not blocked in a system call that could be interrupted, or left it before the signal came.
    #[error("thread {os_tid} is not blocked in a system call: it is {place}")]
    NotBlocked {
        /// The thread.
        os_tid: OsTid,
        /// Where it is, as read from the system.
        place: String,
    },
    /// The rung may not be used on what the thread is blocked in.
    #[error("thread {os_tid} is blocked in {call}, which must not be made to fail")]
    Refused {
        /// The thread.
        os_tid: OsTid,
        /// The system call.
        call: &'static str,
    },
    /// The nudge signal cannot reach the thread.
    #[error("thread {os_tid} did not hear signal {signal}: {reason}")]
    Unheard {
        /// The thread.
        os_tid: OsTid,
        /// The nudge signal.
        signal: i32,
        /// Why, as far as known.
        reason: &'static str,
    },
    /// This cannot be done here.
    #[error("{what} is not available: {reason}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Why it cannot be had.
        reason: &'static str,
    },
    /// The runtime could not be set up.
    #[error(transparent)]
    Setup(#[from] AttachError),
}

/// Something was asked for that cannot be had on this system. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not on this system: {capability}")]
#[non_exhaustive]
pub struct Unsupported {
    /// What was asked for, and what it needs.
    pub capability: &'static str,
}
