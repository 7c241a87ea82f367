//! Locks, conditions and channels in random schedules, and in schedules with few but well-placed switches (PCT).

use std::sync::{Arc, RwLock};
use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};
use throwto_wait_schedules::{Play, Tally};

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Plays, and says how often waits were raised into and got what they waited for: both must be seen.
fn put_on(play: Play, kind: &str, scheduler: impl Scheduler + 'static) {
    let tally = Arc::new(RwLock::new(Tally::new()));
    let counted = Arc::clone(&tally);
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        return shuttle::replay(move || play.run(&counted), &schedule);
    }
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.silence_warnings = true;
    let began = Instant::now();
    let ran = Runner::new(scheduler, config).run(move || play.run(&counted));
    let tally = tally.read().unwrap();
    println!(
        "{play:?}, {kind}: {ran} schedules in {:?}: {tally:?}",
        began.elapsed()
    );
    assert!(tally["raised"] > 0 && tally["done"] > 0);
}

fn both(play: Play) {
    let now = || std::time::UNIX_EPOCH.elapsed();
    let seed = number("SCHEDULES_SEED").unwrap_or_else(|| now().map_or(1, |since| since.as_nanos() as u64));
    let schedules = number("SCHEDULES").map_or(3_000, |n| n as usize);
    println!("{play:?}: SCHEDULES_SEED={seed}");
    put_on(play, "random", RandomScheduler::new_from_seed(seed, schedules));
    put_on(
        play,
        "few switches",
        PctScheduler::new_from_seed(seed, 4, schedules),
    );
}

/// Shows protocol::wait I1, protocol::lock_word I1, protocol::lock_word I2.
#[test]
fn who_waits_for_a_lock_gets_it_alone_whoever_is_raised_into() {
    both(Play::Locks);
}

/// Shows sync::queue I1, sync::queue I3: a notification of a waiter that is raised into goes on to another.
#[test]
fn every_thing_is_fetched_whichever_waiter_is_raised_into() {
    both(Play::Conditions);
}

#[test]
fn every_value_arrives_once_whoever_is_raised_into() {
    both(Play::Channels(None));
    both(Play::Channels(Some(1)));
    both(Play::Channels(Some(0)));
}
