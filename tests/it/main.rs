//! The promises of DESIGN section 3, kept by real threads. One module per promise or part of the crate.
//!
//! `stage` holds what the tests share. What is global to a process (handlers, fork, limits) is tested in `process_*.rs`.

mod stage;

mod delivery;
mod foreign;
mod identity;
mod masks;
mod nudges;
mod raise;
mod receipts;
mod stress;
mod threads;
