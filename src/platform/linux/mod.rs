//! Linux: futex waits, `membarrier`, directed signals, the handler, and what `/proc` tells.
//!
//! Owns: everything that is Linux and not an instruction set. See `platform` for the contract.
//!
//! **Signal context:** see each file.

pub(crate) mod blocked;
pub(crate) mod calls;
pub(crate) mod direct;
pub(crate) mod fork;
#[allow(dead_code, reason = "the forced rungs are built on it")]
pub(crate) mod frames;
pub(crate) mod futex;
pub(crate) mod handler;
#[allow(dead_code, reason = "the forced rungs are built on it")]
pub(crate) mod image;
#[allow(dead_code, reason = "the forced rungs are built on it")]
pub(crate) mod lsda;
pub(crate) mod membarrier;
pub(crate) mod nudge;
pub(crate) mod poll;
pub(crate) mod probe;
pub(crate) mod sockaddr;
pub(crate) mod socket_calls;
pub(crate) mod substitute;
#[allow(dead_code, reason = "the forced rungs are built on it")]
pub(crate) mod symbols;
