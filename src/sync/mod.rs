//! Locks, condition variables and channels whose waits can be raised into.
//!
//! Owns: the names. Leaves to its files the things, and to `queue` the waiting.
//!
//! **Signal context:** no.

pub(crate) mod queue;
