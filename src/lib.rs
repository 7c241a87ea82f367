//! Raise an exception in another thread, even while that thread is stuck in a blocking system call or inside a C library.
//! The thread comes back, cleans up, and goes on to its next job.
//!
//! What it does away with: a flag that is polled everywhere except in the call that blocks; a signal that std answers by
//! retrying, or that lands just before the call and is lost; `pthread_cancel`, which Rust frames must not see; a raise
//! that reaches the thread which has taken over an old number.
//!
//! ```
//! use std::time::Duration;
//! use throwto::{ReceiptState, Stop, raise_exc, thread};
//!
//! let worker = thread::spawn(|| {
//!     let _guard = "dropped on the way out, as ever";
//!     // An hour, an empty channel, a lock somebody holds, `accept`, a query without end ..
//!     thread::sleep(Duration::from_secs(3600))?;
//!     Ok::<(), throwto::Raised>(())
//! });
//! let receipt = raise_exc(&worker, Stop)?;
//! assert_eq!(receipt.wait(Duration::from_secs(5)), ReceiptState::Caught);
//! let raised = worker.join()?.unwrap_err();
//! println!("{raised}, freed by {}", raised.rung());
//! // the thread was asked to stop (raised at src/main.rs:10:15), freed by wake
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where an exception is delivered
//!
//! - At [`safepoint`]`()?`, or by unwinding at [`safepoint_unwind`], caught by [`catch`].
//! - In every blocking operation of this crate: [`thread`], [`sync`], `io`, `process`, `fs`. "Raised" means that the
//!   operation did not happen.
//! - Before a [`foreign`] call, and after one that failed because we interrupted it. A result is never thrown away.
//!
//! Not under a [`mask()`], an [`uninterruptible`] or a [`shield`] (with their exceptions); not in a `Drop` that runs during a
//! panic; not in code that neither comes by a safepoint nor blocks in a call that can be broken. [`threads`] tells where
//! such a thread is.
//!
//! # Time limits and scopes
//!
//! [`time::timeout`] gives a closure so long and no longer; a [`scope::Scope`] can be cancelled from elsewhere. What is
//! addressed to either is delivered inside it or never, and each turns its own exception into its result. [`pool`] makes jobs of
//! closures, for threads that go on to the next one.
//!
//! # The ladder
//!
//! A raise does what the target needs and no more: nothing (it runs, and comes by a safepoint), *wake* (a futex), *nudge* (a
//! signal: EINTR), *fail* (the blocked call returns `ECANCELED`), *hook* (your function makes the library return).
//! [`foreign::Call`] chooses what is allowed, [`Raised::rung`] tells what it took.
//!
//! # Systems
//!
//! Linux on x86-64 and on aarch64 has everything. macOS, FreeBSD and Linux on other processors have *wake*, *nudge* and *hook*; `io`,
//! `process` and `fs` are left out there, and [`foreign::Call::fail_syscalls`] is answered by an error. Elsewhere delivery
//! is cooperative: safepoints, masks, hooks and the waits of this crate. With `panic = "abort"` everything works in Result
//! style.
//!
//! # Seeing
//!
//! [`threads`] and [`report()`] tell what every attached thread is doing, `signal::dump_on` prints that on a signal. With the
//! feature `tracing` each raise is a row of events of target `throwto`, level `DEBUG`: `raise`, `nudge`, `rung`, `deliver`, then
//! `caught` or `ended`, with thread, label of the foreign call, exception and `latency_us` since the raise; a raise that finds no target or
//! no open scope is `refused`, level `WARN`, and so is, level `DEBUG`, a raise that is taken back too late. What a time limit or a cancelled scope
//! raises is raised anew by each safepoint: there its row begins. All come from a thread of their own, so the global subscriber hears
//! them, and nobody waits for it; `lost`, level `WARN`, tells how many steps it was too slow for.
//!
//! At level `TRACE` each [`foreign::Call`] of an attached thread is a span, `region`, with `label` and `thread`, entered for the time of the
//! call: what others log in there is seen to be in there. A span is the subscriber's work on the thread that makes the call.
//!
//! # tokio
//!
//! With the feature `tokio`, `throwto::tokio::spawn_blocking` starts blocking tasks that can be aborted while they run; with
//! the feature `tower`, a request that is given up takes its blocking work along.
//!
//! # Limits
//!
//! Calls that refuse every rung can be left behind on a thread of their own: [`foreign::detached`].
//!
//! Uninterruptible kernel sleep, locks inside C libraries, code that computes without a safepoint or a hook, threads that
//! block the nudge signal (`SIGURG`, see [`Config`]). The list is in `docs/limitations.md`.

#![deny(unsafe_code)]
// The handler's half of the protocol has no user on a cooperative system.
#![cfg_attr(not(throwto_ladder), allow(dead_code))]
#![deny(rustdoc::broken_intra_doc_links)]

mod attach;
mod current;
mod driver;
mod error;
mod exception;
pub mod foreign;
mod fork;
#[cfg(throwto_ladder)]
pub mod fs;
#[cfg(throwto_ladder)]
pub mod io;
mod journal;
mod mask;
pub mod os;
mod platform;
pub mod pool;
#[cfg(throwto_ladder)]
pub mod process;
mod protocol;
mod raise;
mod raised;
mod receipt;
mod region;
mod report;
mod rung;
mod runtime;
mod safepoint;
pub mod scope;
mod set_up;
#[cfg(throwto_nudge)]
pub mod signal;
mod status;
pub mod sync;
mod sync_shim;
mod target;
pub mod thread;
pub mod time;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(feature = "tower")]
pub mod tower;
mod trace;
mod tree;
mod until_dead;
#[cfg(throwto_ladder)]
mod window;

pub use attach::{Attachment, attach};
pub use driver::{Stats, stats};
pub use error::{AttachError, RaiseError, Unsupported};
pub use exception::{
    Broadcast, Cancelled, ExcType, Exception, Interrupted, IntoException, Raisable, Spreadable, Stop,
    TimedOut,
};
pub use journal::Climbed;
pub use mask::{Mask, bracket, mask, shield, uninterruptible};
pub use os::OsTid;
pub use protocol::receipt::ReceiptState;
pub use protocol::thread_id::ThreadId;
pub use raise::{Raise, raise_all, raise_exc, set_async_exc};
pub use raised::Raised;
pub use receipt::Receipt;
pub use report::{Report, report};
pub use rung::Rung;
pub use runtime::{Config, ConfigError};
pub use safepoint::{catch, catch_only, catch_with, pending, safepoint, safepoint_unwind};
pub use status::{MaskState, ThreadInfo, ThreadState, threads};
pub use target::Target;
pub use tree::RaiseTree;
pub use until_dead::{Dead, Retry, StillAlive, raise_until_dead};

/// The example on the README's first page.
#[cfg(all(doctest, throwto_ladder))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The examples of the page for those who come from something else.
#[cfg(all(doctest, throwto_ladder))]
#[doc = include_str!("../docs/migrating.md")]
struct Migrating;
