//! The window under fire, in a process of its own, so that the counters are its own.
//!
//! The driver's second nudge is an insurance: if it is what sets threads free, the window has a hole.

#![cfg(throwto_ladder)]

use std::io::Read;
use std::time::{Duration, Instant};

use throwto::io::Interruptible;
use throwto::{Raised, ReceiptState, Stop, raise_exc, stats, thread};

const ROUNDS: u64 = 20_000;
/// Nothing here takes that long unless it hangs.
const HANGS: Duration = Duration::from_secs(180);

/// What of `ROUNDS` the driver may have repeated: it looks after a millisecond, and on a machine with more threads than
/// processors the first nudge is often still on its way then. (With the repeating taken out, no round hangs.)
const INSURED: u64 = ROUNDS / 10;

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn twenty_thousand_raises_at_random_moments_each_break_their_read() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let mut random = now.as_nanos() as u64 | 1;
    println!("seed {random}");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut reader = Interruptible::new(reader);
    let worker = thread::spawn(move || {
        let mut state = 88172645463325252;
        for _ in 0..ROUNDS {
            for _ in 0..xorshift(&mut state) % 300 {
                std::hint::spin_loop();
            }
            let error = reader.read(&mut [0; 8]).unwrap_err();
            assert!(Raised::from_io(error).unwrap().is::<Stop>());
        }
    });
    let before = stats();
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    for round in 0..ROUNDS {
        // From "before the region" over "between the check and the call" to "long asleep".
        for _ in 0..xorshift(&mut random) % 600 {
            std::hint::spin_loop();
        }
        let raised_at = Instant::now();
        let receipt = raise_exc(&worker, Stop).unwrap();
        assert_eq!(receipt.wait(HANGS), ReceiptState::Caught, "round {round}");
        slowest = slowest.max(raised_at.elapsed());
    }
    worker.join().unwrap();
    drop(writer);
    let after = stats();
    let (nudges, renudges) = (after.nudges - before.nudges, after.renudges - before.renudges);
    let requeued = after.requeued - before.requeued;
    println!(
        "{ROUNDS} rounds in {:?}, slowest {slowest:?}, nudges {nudges}, by the driver {renudges}, requeued {requeued}",
        began.elapsed()
    );
    assert!(nudges > 0);
    assert!(
        renudges <= INSURED,
        "the driver sent {renudges} nudges of {nudges}"
    );
}
