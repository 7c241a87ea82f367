//! Threads as the kernel numbers them, attached or not.
//!
//! Owns: [`OsTid`]. [`interrupt`](interrupt()) is in `interrupt`.
//!
//! **Signal context:** no.

mod interrupt;

use std::fmt;

use crate::platform::nudge;

pub use interrupt::interrupt;

/// The kernel's number of a thread of this process (`gettid`). Reused by the kernel: a [`ThreadId`](crate::ThreadId) is
/// not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OsTid(i32);

impl OsTid {
    /// The calling thread's number.
    pub fn current() -> Self {
        Self(nudge::os_tid())
    }

    /// The thread with this number.
    pub const fn from_raw(tid: i32) -> Self {
        Self(tid)
    }

    /// The number.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

impl From<i32> for OsTid {
    fn from(tid: i32) -> Self {
        Self(tid)
    }
}

impl fmt::Display for OsTid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
