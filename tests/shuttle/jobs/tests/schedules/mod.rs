//! How many plays, in which schedules, and what must be seen in them.
//!
//! Seeds are printed; `SCHEDULES` sets how many, `SCHEDULES_SEED` repeats them, `SCHEDULE` replays a failure. See ../../../README.md.

use std::sync::{Arc, RwLock};
use std::time::Instant;

use shuttle::scheduler::Scheduler;
use shuttle::{Config, Runner};
use throwto_job_schedules::Tally;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

pub fn schedules(affordable: usize) -> usize {
    number("SCHEDULES").map_or(affordable, |n| n as usize)
}

pub fn seed() -> u64 {
    let now = || std::time::UNIX_EPOCH.elapsed();
    number("SCHEDULES_SEED").unwrap_or_else(|| now().map_or(1, |since| since.as_nanos() as u64))
}

/// Plays, and says how often each of `ends` was seen: all of them must be, or the schedules show nothing.
pub fn put_on(
    play: impl Fn(&RwLock<Tally>) + Send + Sync + 'static,
    name: &str,
    seed: u64,
    scheduler: impl Scheduler + 'static,
    ends: &[&'static str],
) {
    let tally = Arc::new(RwLock::new(Tally::new()));
    let counted = Arc::clone(&tally);
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        return shuttle::replay(move || play(&counted), &schedule);
    }
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.silence_warnings = true;
    let began = Instant::now();
    println!("{name}: SCHEDULES_SEED={seed}");
    let ran = Runner::new(scheduler, config).run(move || play(&counted));
    let tally = tally.read().unwrap();
    println!("{name}: {ran} schedules in {:?}: {tally:?}", began.elapsed());
    for end in ends {
        assert!(tally.contains_key(end), "{name}: none was {end}");
    }
}
