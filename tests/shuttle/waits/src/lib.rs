//! Random schedules of `src/sync` and `src/region.rs`: locks, conditions and channels under raises.
//!
//! Owns: the plays that `tests/waits.rs` puts on, and stand-ins for what those files build upon, under the names that they know: a futex,
//! who is attached, and taking an exception. The files themselves, and the protocol, are the shipped sources, included by path, on a std whose
//! threads and locks shuttle schedules (`../played`).
//!
//! **Signal context:** no.
//!
//! What these plays cannot show: reordering, which is loom's part.

#![allow(
    dead_code,
    unused_imports,
    reason = "the plays use a part of the sources; the crate uses all of it"
)]

// Before the real one for every path that begins with `std`.
extern crate played_std as std;

#[path = "../../../../src/protocol/mod.rs"]
mod protocol;
#[path = "../../../../src/region.rs"]
mod region;
#[path = "../../../../src/sync/mod.rs"]
mod sync;
#[path = "../../../../src/sync_shim.rs"]
mod sync_shim;

mod names;
mod play;

pub(crate) use names::*;

pub use play::{Play, Tally};
