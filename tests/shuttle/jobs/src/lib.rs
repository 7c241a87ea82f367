//! Random schedules of `src/pool`: taking jobs, limits, cancels, writing off, replacing threads, shutting down.
//!
//! Owns: the play that `tests/pools.rs` puts on, and stand-ins for what the pool builds upon, under the names that it knows: [`scope`]
//! and [`time`] raise at safepoints, [`current`] gives out ids, [`sync`] has threads wait. The pool itself is the shipped source,
//! included by path, on a std whose threads and locks shuttle schedules (`../played`).
//!
//! **Signal context:** no.
//!
//! What these plays cannot show: reordering (a pool has locks only), and that a scope's exception never gets out of it, which
//! here is true by construction and is shown by `tests/loom/src/scopes.rs` and `it::pool`.

#![allow(
    dead_code,
    unused_imports,
    reason = "the play uses a part of the pool; the crate uses all of it"
)]

// Before the real one for every path that begins with `std`.
extern crate played_std as std;

mod current;
mod names;
mod play;
mod pool;
mod scope;
mod sync;

pub(crate) use names::*;
pub(crate) use scope::{mask, safepoint, time};

pub use play::{Play, Tally};

/// Which locks were taken while which others were held, in all plays so far of this thread of the system.
pub fn lock_order() -> std::collections::HashSet<(&'static str, &'static str)> {
    std::stage::order()
}
