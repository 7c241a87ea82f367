//! The loops whose instructions `.ci/instructions` counts: each a thousand rounds, attached. Nothing is pending but what `raise` raises
//! at its own thread: into an empty slot, superseding, and to be delivered at once.
//!
//! By itself it does nothing of interest; under callgrind each loop is a function with a count of its own.

#![allow(dead_code, reason = "the rows' other halves are for their own files")]

#[path = "rows/forced.rs"]
mod forced;
#[path = "rows/raise.rs"]
mod raise;
#[path = "rows/region.rs"]
mod region;
#[path = "rows/safepoint.rs"]
mod safepoint;
mod table;
#[path = "rows/timeout.rs"]
mod timeout;

/// `.ci/instructions` divides by it.
const ROUNDS: u64 = 1000;

fn main() {
    let _attachment = throwto::attach().expect("nothing in the way");
    safepoint::counted(ROUNDS);
    region::counted(ROUNDS);
    timeout::counted(ROUNDS);
    raise::counted(ROUNDS);
    forced::counted(ROUNDS);
}
