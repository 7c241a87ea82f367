//! Pools in random schedules, and in schedules with few but well-placed switches (PCT).
//!
//! Seeds are printed; `SCHEDULES` sets how many, `SCHEDULES_SEED` repeats them, `SCHEDULE` replays a failure. See ../README.md.

use std::sync::{Arc, RwLock};
use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};
use throwto_job_schedules::{Play, Tally};

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn schedules(affordable: usize) -> usize {
    number("SCHEDULES").map_or(affordable, |n| n as usize)
}

fn seed() -> u64 {
    let now = || std::time::UNIX_EPOCH.elapsed();
    number("SCHEDULES_SEED").unwrap_or_else(|| now().map_or(1, |since| since.as_nanos() as u64))
}

/// Plays, and says how often each of `ends` was seen: all of them must be, or the schedules show nothing.
fn put_on(play: Play, name: &str, seed: u64, scheduler: impl Scheduler + 'static, ends: &[&'static str]) {
    let tally = Arc::new(RwLock::new(Tally::new()));
    let counted = Arc::clone(&tally);
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        return shuttle::replay(move || play.run(&counted), &schedule);
    }
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.silence_warnings = true;
    let began = Instant::now();
    println!("{name}: SCHEDULES_SEED={seed}");
    let ran = Runner::new(scheduler, config).run(move || play.run(&counted));
    let tally = tally.read().unwrap();
    println!("{name}: {ran} schedules in {:?}: {tally:?}", began.elapsed());
    for end in ends {
        assert!(tally.contains_key(end), "{name}: no job was {end}");
    }
}

const USUAL: [&str; 8] = [
    "returned",
    "timed out",
    "cancelled",
    "raised",
    "panicked",
    "not run",
    "stuck",
    "not taken",
];

/// Shows pool I1, pool I3, pool I4.
#[test]
fn every_job_ends_once_and_by_its_own_doing_in_random_schedules() {
    let seed = seed();
    let random = || RandomScheduler::new_from_seed(seed, schedules(3_000));
    put_on(Play::usual(), "usual, random", seed, random(), &USUAL);
    put_on(Play::narrow(), "narrow, random", seed, random(), &USUAL);
    assert_locks();
}

#[test]
fn every_job_ends_once_and_by_its_own_doing_with_few_switches() {
    let seed = seed();
    let few = || PctScheduler::new_from_seed(seed, 4, schedules(3_000));
    put_on(Play::usual(), "usual, few switches", seed, few(), &USUAL);
    put_on(Play::narrow(), "narrow, few switches", seed, few(), &USUAL);
}

/// A limit, a thread or a notification that is forgotten leaves somebody waiting: shuttle's bound on the steps is exceeded.
#[test]
fn nobody_waits_for_ever_in_a_pool_that_nobody_shuts_down() {
    let seed = seed();
    let random = || RandomScheduler::new_from_seed(seed, schedules(2_000));
    let ends = ["returned", "timed out", "cancelled", "panicked", "stuck"];
    put_on(Play::usual().patient(), "patient, random", seed, random(), &ends);
    put_on(
        Play::narrow().patient(),
        "narrow and patient, random",
        seed,
        random(),
        &ends,
    );
    put_on(
        Play::poor().patient(),
        "poor and patient, random",
        seed,
        random(),
        &ends,
    );
}

#[test]
fn a_pool_that_gets_no_thread_or_no_id_runs_what_it_can() {
    let seed = seed();
    let random = || RandomScheduler::new_from_seed(seed, schedules(3_000));
    put_on(
        Play::poor(),
        "poor, random",
        seed,
        random(),
        &["returned", "not attached", "stuck"],
    );
    put_on(Play::unborn(), "unborn, random", seed, random(), &["not started"]);
}

/// Shows pool I4: the two locks were taken together, and in this order; the other one fails where it is taken.
fn assert_locks() {
    let order = throwto_job_schedules::lock_order();
    let ends_with = |name: &str, end: &str| name.ends_with(end);
    let crew_first =
        |(outer, inner): &(&str, &str)| ends_with(outer, "crew::State") && ends_with(inner, "cell::Phase");
    assert!(order.iter().any(crew_first), "never both: {order:?}");
}
