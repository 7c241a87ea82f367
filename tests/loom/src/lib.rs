//! Loom models of `src/protocol`: every interleaving and every allowed reordering of a few threads and a few steps.
//!
//! Owns: the models, one file for each promise. Leaves to [`stage`] what surrounds the protocol: the kernel, the driver,
//! the exceptions. The protocol itself is the shipped source, included by path.
//! See README.md for running one model and reading its failure.
//!
//! **Signal context:** no.
//!
//! What loom cannot show: it takes SeqCst loads and stores for AcqRel ones (fences are exact, and the protocol relies on
//! fences only), and it has no signals: a nudge is a bell that the blocked owner hears, or a thread that may run only between
//! two steps of the owner's (`handler`).

#![cfg(all(test, loom))]
#![allow(
    dead_code,
    unused_imports,
    reason = "the models use a part of the protocol; the crate uses all of it"
)]

#[path = "../../../src/protocol/mod.rs"]
mod protocol;
#[path = "../../../src/sync_shim.rs"]
mod sync_shim;

mod attach_exit;
mod birth;
mod detached;
mod entry;
mod handler;
mod locks;
mod mail;
mod notes;
mod nudges;
mod order;
mod pins;
mod raise_region;
mod receipt;
mod reserve;
mod scopes;
mod stage;
mod take_revoke;
mod waits;
