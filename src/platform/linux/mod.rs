//! Linux: futex waits, `membarrier`, directed signals, the handler, and what `/proc` tells.
//!
//! Owns: everything that is Linux and not an instruction set. See `platform` for the contract.
//!
//! **Signal context:** see each file.

pub(crate) mod blocked;
pub(crate) mod calls;
pub(crate) mod direct;
mod fail;
#[cfg(throwto_forced)]
pub(crate) mod forced;
pub(crate) mod fork;
#[cfg(throwto_forced)]
pub(crate) mod frames;
pub(crate) mod futex;
pub(crate) mod handler;
#[cfg(throwto_forced)]
pub(crate) mod image;
#[cfg(throwto_forced)]
pub(crate) mod lsda;
pub(crate) mod membarrier;
#[cfg(throwto_forced)]
pub(crate) mod module;
pub(crate) mod nudge;
pub(crate) mod poll;
pub(crate) mod probe;
pub(crate) mod signal_stack;
pub(crate) mod sockaddr;
pub(crate) mod socket_calls;
pub(crate) mod substitute;
#[cfg(throwto_forced)]
pub(crate) mod symbols;
