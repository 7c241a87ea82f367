//! What the public names promise (DESIGN section 3), on real threads, in one binary.
//!
//! `stage` holds what the tests share, `forced` what those of the forced rungs share. What is global to a process (handlers, fork, limits) is in `process_*.rs`.

mod stage;

mod delivery;
mod detached;
#[cfg(target_os = "linux")]
mod forced;
#[cfg(target_os = "linux")]
mod forced_abandon;
#[cfg(target_os = "linux")]
mod forced_places;
#[cfg(target_os = "linux")]
mod forced_unwind;
mod foreign;
mod fs;
mod identity;
mod io;
mod masks;
mod nudges;
mod process;
mod raise;
mod receipts;
mod stress;
mod stuck;
mod sync;
mod threads;
