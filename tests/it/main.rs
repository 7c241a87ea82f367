//! What the public names promise (DESIGN section 3), on real threads, in one binary.
//!
//! `stage` holds what the tests share, `forced` what those of the forced rungs share. What is global to a process (handlers,
//! fork, limits) is in `process_*.rs`.

// Some systems have fewer rungs: THROWTO_NUDGE_ONLY (see build.rs) runs what they promise.
#![cfg_attr(not(throwto_ladder), allow(unused_imports, dead_code))]

mod stage;

mod delivery;
mod detached;
#[cfg(throwto_forced)]
mod forced;
#[cfg(throwto_forced)]
mod forced_abandon;
#[cfg(throwto_forced)]
mod forced_limits;
#[cfg(target_os = "linux")]
mod forced_places;
#[cfg(throwto_forced)]
mod forced_unwind;
mod foreign;
#[cfg(throwto_ladder)]
mod fs;
mod groups;
#[cfg(throwto_ladder)]
mod hostile;
mod identity;
#[cfg(throwto_ladder)]
mod io;
mod masks;
#[cfg(target_os = "linux")]
mod misnested;
mod names;
mod nudges;
mod pool;
#[cfg(throwto_ladder)]
mod process;
mod properties;
mod raise;
mod receipts;
mod scopes;
mod stress;
#[cfg(throwto_ladder)]
mod stuck;
mod sync;
mod threads;
mod time;
