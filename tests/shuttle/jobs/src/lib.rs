//! Random schedules of `src/pool` (taking jobs, limits, cancels, writing off, replacing threads, shutting down) and of `src/tokio`
//! (blocking tasks, aborts, tokens, groups, the end of a runtime).
//!
//! Owns: the plays that `tests/pools.rs` and `tests/tasks.rs` put on, and stand-ins for what both build upon, under the names that they know:
//! [`scope`] and [`time`] raise at safepoints, [`current`] gives out ids, [`sync`] has threads wait. The pool and the tasks themselves are the
//! shipped sources, included by path, on a std whose threads and locks shuttle schedules (`../played`), and on tokio's own channel and
//! token (`../played-tokio`).
//!
//! **Signal context:** no.
//!
//! What these plays cannot show: reordering (both have locks only), and that a scope's exception never gets out of it, which
//! here is true by construction and is shown by `tests/loom/src/scopes.rs`, `it::pool` and `tokio_tasks`.

#![allow(
    dead_code,
    unused_imports,
    reason = "the play uses a part of the pool; the crate uses all of it"
)]

// Before the real one for every path that begins with `std`.
extern crate played_std as std;
extern crate played_tokio as tokio;
extern crate played_tokio as tokio_util;

/// The sources' locals are those of the play's threads. Stand-ins, which write `std::thread_local!`, have one for all of them.
macro_rules! thread_local {
    ($($local:tt)*) => { std::scheduled_thread_local! { $($local)* } };
}

mod current;
mod names;
mod play;
mod pool;
mod scope;
mod sync;
mod task_play;
mod tasks;

pub(crate) use names::*;
pub(crate) use scope::{mask, safepoint, time};

pub use play::{Play, Tally};
pub use task_play::TaskPlay;

/// Which locks were taken while which others were held, in all plays so far of this thread of the system.
pub fn lock_order() -> std::collections::HashSet<(&'static str, &'static str)> {
    std::stage::order()
}
