//! Random schedules of `src/protocol`: more threads and more steps than loom can search.
//!
//! Owns: the play that `tests/schedules.rs` puts on. Leaves to [`kernel`] what the system does, to [`driver`] the driver's
//! part, to [`target`] and [`raisers`] the parts of the threads, to [`play`] the end, when all that was raised is
//! accounted for. The protocol itself is the shipped source, included by path.
//! See README.md for repeating a failure.
//!
//! **Signal context:** no.
//!
//! What shuttle cannot show: its atomics have one order (reordering is loom's part), and a schedule that was not drawn.
//! A signal handler runs here as it does on a thread: between two of its steps, or when it would block.

#![allow(
    dead_code,
    reason = "the play uses a part of the protocol; the crate uses all of it"
)]

#[path = "../../../src/protocol/mod.rs"]
mod protocol;
#[path = "../../../src/sync_shim.rs"]
mod sync_shim;

mod driver;
mod kernel;
mod play;
mod raisers;
mod target;

pub use play::{Fault, Play};
