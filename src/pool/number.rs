//! [`JobId`]: a job's number.
//!
//! Owns: counting. Not even jobs that are never run have one twice.
//!
//! **Signal context:** no.

use std::fmt;

use crate::protocol::notes::Count;

/// A job's number, unique in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

static MADE: Count = Count::new();

impl JobId {
    pub(super) fn next() -> Self {
        Self(MADE.add_one())
    }
}
