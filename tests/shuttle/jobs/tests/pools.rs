//! Pools in random schedules, and in schedules with few but well-placed switches (PCT).
//!
//! Seeds are printed; `SCHEDULES` sets how many, `SCHEDULES_SEED` repeats them, `SCHEDULE` replays a failure. See ../README.md.

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use throwto_job_schedules::Play;

mod schedules;

use schedules::{schedules, seed};

fn put_on(play: Play, name: &str, seed: u64, scheduler: impl Scheduler + 'static, ends: &[&'static str]) {
    schedules::put_on(move |tally| play.run(tally), name, seed, scheduler, ends);
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
