//! throwto: raise an exception in another thread.

#![deny(unsafe_code)]
// The handler's half of the protocol has no user on a cooperative system.
#![cfg_attr(not(throwto_ladder), allow(dead_code))]
#![deny(rustdoc::broken_intra_doc_links)]

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
mod mask;
pub mod os;
mod platform;
#[cfg(throwto_ladder)]
pub mod process;
mod protocol;
mod raise;
mod raised;
mod receipt;
mod region;
mod runtime;
mod safepoint;
mod status;
pub mod sync;
mod sync_shim;
pub mod thread;
mod until_dead;
#[cfg(throwto_ladder)]
mod window;

pub use current::{Attachment, attach};
pub use driver::{Stats, stats};
pub use error::{AttachError, RaiseError};
pub use exception::{Cancelled, ExcType, Exception, Interrupted, IntoException, Raisable, Stop, TimedOut};
pub use mask::{Mask, bracket, mask, shield, uninterruptible};
pub use os::OsTid;
pub use protocol::receipt::ReceiptState;
pub use protocol::registry::ThreadId;
pub use raise::{Raise, Target, raise_all, raise_exc, set_async_exc};
pub use raised::{Raised, Rung};
pub use receipt::Receipt;
pub use runtime::{Config, ConfigError};
pub use safepoint::{catch, catch_only, catch_with, pending, safepoint, safepoint_unwind};
pub use status::{ThreadInfo, ThreadState, threads};
pub use until_dead::{Dead, Retry, StillAlive, raise_until_dead};
