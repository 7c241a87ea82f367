//! Jobs' numbers, as `src/pool/number.rs` has them: its lock is a static, which would be one for all plays.
//!
//! **Signal context:** no.

use std::cell::Cell;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

// All threads of one play run on one thread of the system.
std::thread_local! {
    static LAST: Cell<u64> = const { Cell::new(0) };
}

impl JobId {
    pub(super) fn next() -> Self {
        LAST.set(LAST.get() + 1);
        Self(LAST.get())
    }
}
