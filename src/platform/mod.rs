//! The operating system and the processor: the only place that knows which they are.
//!
//! Owns: the table of systems and the contract below. Leaves to `protocol`: every decision. Of the protocol it sees only
//! what the handler may read: records, words, orders.
//!
//! **Signal context:** see each file.
//!
//! build.rs decides which a system is:
//!
//! | capability | files | systems |
//! | --- | --- | --- |
//! | `throwto_ladder` and `throwto_nudge` | `linux`, `arch` | Linux x86-64 |
//! | `throwto_nudge` alone | `unix`, `portable` | macOS, FreeBSD, Linux on other processors |
//! | neither: cooperative | `unsupported`, `portable` | the rest |
//!
//! | name | contract |
//! | --- | --- |
//! | `futex` | `now`, `wait`, `wake`: sleep while a word has a value, until an absolute time; `be_punctual`: no later |
//! | `membarrier` | `register`, `is_registered`, `heavy_fence`: a fence on every thread of the process |
//! | `handler` | `install`, `process`, `this_thread`: own the nudge signal |
//! | `nudge` | `send` to a pinned record's thread; `reaches_me`; the caller's own signal mask and number; `quiet`: no signal meanwhile |
//! | `probe` | look at another thread's system call |
//! | `calls` | the blocking calls of ours (full systems only) |
//! | `arch` | `window`, `classify`, `Context`: a system call behind a check, and an interrupted thread's registers |
//! | `calls`, `socket_calls` | `Call`: our blocking system calls, right by construction |
//! | `sockaddr`, `poll` | the system's structures for them |
//! | `direct` | `interrupt` a thread that has no record; `arm` a fail order |
//! | `blocked` | say in words where a thread is blocked |
//! | `forced` | `prepare`, `Escape`: a way out of a region that drops frames, and the proof that it may be taken |
//! | `module`, `symbols` | code that may be left; names of functions |
//! | `fork` | be told of forks |
//! | `signal_stack` | `widen`: room for the handler in the calling thread |

#[cfg(throwto_nudge)]
mod disposition;
#[cfg(throwto_nudge)]
mod signal_mask;
pub(crate) mod spot;
#[cfg(not(throwto_forced))]
mod unforced;

#[cfg(throwto_ladder)]
pub(crate) mod arch;
#[cfg(throwto_ladder)]
mod linux;
#[cfg(not(throwto_ladder))]
mod portable;
#[cfg(all(throwto_nudge, not(throwto_ladder)))]
mod unix;
#[cfg(not(throwto_nudge))]
mod unsupported;

#[cfg(throwto_ladder)]
pub(crate) use linux::{
    blocked, calls, direct, fork, futex, handler, membarrier, nudge, poll, probe, signal_stack, sockaddr,
    socket_calls,
};
#[cfg(throwto_forced)]
pub(crate) use linux::{forced, module, symbols};
#[cfg(not(throwto_ladder))]
pub(crate) use portable::{blocked, direct, futex, membarrier, probe, signal_stack};
#[cfg(not(throwto_forced))]
pub(crate) use unforced::{forced, module, symbols};
#[cfg(all(throwto_nudge, not(throwto_ladder)))]
pub(crate) use unix::{fork, handler, nudge};
#[cfg(not(throwto_nudge))]
pub(crate) use unsupported::{fork, handler, nudge};

/// Whether a thread that is attached can be sent a signal.
pub(crate) const HAS_NUDGE: bool = cfg!(throwto_nudge);
/// Whether the result of a blocked system call can be replaced.
pub(crate) const HAS_FAIL: bool = cfg!(throwto_ladder);

/// Where an interrupted program counter lies with respect to the window.
#[cfg(throwto_ladder)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// In the window: the system call has had no effect.
    Before,
    /// Right behind the system call: the result is in its register.
    After,
    Outside,
}

/// Why a thread without a record could not be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(throwto_ladder),
    expect(dead_code, reason = "a system without signals knows one reason")
)]
pub(crate) enum InterruptFailed {
    /// This system has no signals that are directed by a thread's number.
    #[cfg_attr(throwto_ladder, expect(dead_code, reason = "it has"))]
    Unsupported,
    NoSuchThread,
    /// It is not blocked in a system call, or left it before the signal came.
    NotBlocked,
    /// Its blocked call must not be made to fail.
    Never {
        call: &'static str,
    },
    SignalBlocked,
    /// The signal was sent and not handled in time.
    Unheard,
    /// Too many callers at once.
    Busy,
    Os {
        errno: i32,
    },
}
