//! Waiting, for the pool.
//!
//! **Signal context:** no.

pub(crate) mod queue;
