//! Plays in random schedules, and in schedules with few but well-placed switches (PCT).
//!
//! Seeds are printed; `SCHEDULES` sets how many, `SCHEDULES_SEED` repeats them. A failure prints its schedule, which
//! `SCHEDULE` replays; `teeth.rs` shows that it does. See README.md.

use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};
use throwto_schedules::Play;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// How many schedules: `SCHEDULES`, or as many as can be afforded every time.
fn schedules(affordable: usize) -> usize {
    number("SCHEDULES").map_or(affordable, |n| n as usize)
}

fn seed() -> u64 {
    number("SCHEDULES_SEED").unwrap_or_else(|| {
        std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| since.as_nanos() as u64)
    })
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.silence_warnings = true;
    config
}

fn put_on(play: Play, name: &str, seed: u64, scheduler: impl Scheduler + 'static) {
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        return shuttle::replay(move || play.run(), &schedule);
    }
    let began = Instant::now();
    println!("{name}: SCHEDULES_SEED={seed}");
    let ran = Runner::new(scheduler, config()).run(move || play.run());
    println!("{name}: {ran} schedules in {:?}", began.elapsed());
}

#[test]
fn a_small_play_balances_in_random_schedules() {
    let seed = seed();
    let scheduler = RandomScheduler::new_from_seed(seed, schedules(10_000));
    put_on(Play::small(), "small, random", seed, scheduler);
}

#[test]
fn a_large_play_balances_in_random_schedules() {
    let seed = seed();
    let scheduler = RandomScheduler::new_from_seed(seed, schedules(6_000));
    put_on(Play::large(), "large, random", seed, scheduler);
}

#[test]
fn a_large_play_balances_with_few_switches() {
    let seed = seed();
    let scheduler = PctScheduler::new_from_seed(seed, 4, schedules(6_000));
    put_on(Play::large(), "large, few switches", seed, scheduler);
}
