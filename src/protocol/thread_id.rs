//! [`ThreadId`]: which thread, for ever (P4).
//!
//! Owns: the pair of a record's index and a generation. Leaves to [`super::registry`] handing pairs out, each once.
//! Plain values: anyone may use them anywhere.
//!
//! **Signal context:** yes, plain values.

use std::fmt;
use std::num::NonZeroU32;

/// The identity of an attached thread. Never reused in the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId {
    index: u32,
    generation: NonZeroU32,
}

impl ThreadId {
    pub(super) fn new(index: u32, generation: NonZeroU32) -> Self {
        Self { index, generation }
    }

    #[inline]
    pub(crate) fn from_parts(index: u32, generation: u32) -> Option<Self> {
        NonZeroU32::new(generation).map(|generation| Self::new(index, generation))
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.index
    }

    #[inline]
    pub(crate) fn generation(self) -> u32 {
        self.generation.get()
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index, self.generation)
    }
}

impl fmt::Debug for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadId({self})")
    }
}
