//! Whom a signal was for: `pthread_kill` carries no value, so the sender leaves the record's token where the handler looks.
//!
//! Owns: a table of tokens by thread. Leaves to [`super::handler`]: believing none of it. Two threads may share a cell and
//! overwrite each other; what is found is a hint, to be checked against the record, and all records are searched if it
//! is wrong. Who sent the signal is a hint too. Another's signal may come between the note and the signal that it announces,
//! and be taken for it: then I6 of `protocol::record` is missed once, and a call after the region returns EINTR.
//!
//! **Signal context:** yes, [`hint`] is one load.

use std::sync::atomic::{AtomicUsize, Ordering};

const BITS: u32 = 10;

static TOKENS: [AtomicUsize; 1 << BITS] = [const { AtomicUsize::new(0) }; 1 << BITS];

fn cell(thread: usize) -> &'static AtomicUsize {
    // Fibonacci hashing: thread values are addresses, equal in their low bits.
    let spread = (thread as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &TOKENS[(spread >> (u64::BITS - BITS)) as usize]
}

/// Says that the next signal to `thread` (a `pthread_self` value) is for the record of `token`. The signal itself orders
/// this before the handler's look.
pub(super) fn note(thread: usize, token: usize) {
    cell(thread).store(token, Ordering::Relaxed);
}

/// The token last noted for `thread`, or for another with the same cell, or 0.
pub(super) fn hint(thread: usize) -> usize {
    cell(thread).load(Ordering::Relaxed)
}
