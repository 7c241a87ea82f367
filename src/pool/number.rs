//! [`JobId`]: a job's number.
//!
//! Owns: counting. Not even jobs that are never run have one twice.
//!
//! **Signal context:** no.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A job's number, unique in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

static LAST: Mutex<u64> = Mutex::new(0);

/// The lock under which jobs get their numbers.
pub(crate) type HeldNumbers = MutexGuard<'static, u64>;

/// Keeps others from making jobs while the process forks: the child could not make any otherwise.
pub(crate) fn hold_for_fork() -> HeldNumbers {
    LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobId {
    pub(super) fn next() -> Self {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        Self(*last)
    }
}
