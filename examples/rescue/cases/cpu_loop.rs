//! A loop in Rust that never blocks, with a safepoint in each round.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use throwto::safepoint;

use crate::case::{Case, Out, StuckIn, Witness};

pub fn set_up() -> io::Result<Case> {
    let rounds = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&rounds);
    let stuck = move |witness: &Witness| {
        let _guard = witness.guard();
        loop {
            safepoint()?;
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let next = || -> Result<i64, Out> {
        let mut sum = 0;
        for i in 1..=1000 {
            safepoint()?;
            sum += i;
        }
        Ok(sum)
    };
    Ok(Case::new(StuckIn::Counting(rounds), stuck, next, 500_500))
}
