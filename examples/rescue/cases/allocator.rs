//! C code that takes memory and gives it back all day. It is left between two calls of the allocator, never within one, so
//! that the allocator works afterwards.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use throwto::foreign::{Call, Module, clear_poison};
use throwto_fixtures::stuck::{Stage, linked};

use crate::case::{Case, Out, StuckIn, Witness};

const LABEL: &str = "malloc";

pub fn set_up() -> io::Result<Case> {
    let (first, last) = (linked::FIRST as *const (), linked::LAST as *const ());
    let library = Module::from_symbols(first, last)
        .map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error))?;
    let stuck = move |witness: &Witness| {
        let stage = Arc::new(Stage::new());
        let _guard = witness.guard();
        let call = Call::new(LABEL)
            .abandon_after(Duration::from_millis(5))
            .allow(&library);
        // SAFETY: the stage outlives the call.
        let spin = || unsafe { (linked::SPIN_MALLOC)(&raw const *stage) };
        // SAFETY: the loop calls the allocator and nobody else; sixteen blocks of memory are leaked; the closure owns nothing.
        unsafe { call.run_forced(spin) }?;
        Ok(())
    };
    let next = || -> Result<i64, Out> {
        clear_poison(LABEL);
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| allocate(2500))).collect();
        let done = threads.into_iter().map(|thread| thread.join().unwrap_or(0));
        Ok(done.sum())
    };
    Ok(Case::new(StuckIn::Running(LABEL), stuck, next, 10_000))
}

/// How many of `rounds` blocks of all sizes held what was written to them.
fn allocate(rounds: usize) -> i64 {
    let mut kept = Vec::new();
    let mut sound = 0;
    for round in 0..rounds {
        let block = vec![round as u8; 1 + round * 37 % 5000];
        kept.push(block);
        if round % 3 == 2 {
            kept.swap_remove(round / 7 % kept.len());
        }
        let block = &kept[round / 5 % kept.len()];
        sound += i64::from(block.iter().all(|byte| *byte == block[0]));
    }
    sound
}
