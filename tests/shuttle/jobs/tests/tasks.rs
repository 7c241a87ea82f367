//! Blocking tasks of tokio in random schedules, and in schedules with few but well-placed switches (PCT).

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use throwto_job_schedules::TaskPlay;

mod schedules;

use schedules::{schedules, seed};

fn put_on(play: TaskPlay, name: &str, seed: u64, scheduler: impl Scheduler + 'static, ends: &[&'static str]) {
    schedules::put_on(move |tally| play.run(tally), name, seed, scheduler, ends);
}

const USUAL: [&str; 7] = [
    "returned",
    "timed out",
    "aborted",
    "shut down",
    "raised",
    "panicked",
    "dropped",
];

/// Shows tokio::task I1, tokio::task I3, tokio::task I5.
#[test]
fn every_task_ends_once_and_by_its_own_doing_in_random_schedules() {
    let seed = seed();
    let random = || RandomScheduler::new_from_seed(seed, schedules(3_000));
    put_on(TaskPlay::usual(), "tasks, random", seed, random(), &USUAL);
    put_on(TaskPlay::narrow(), "narrow tasks, random", seed, random(), &USUAL);
}

#[test]
fn every_task_ends_once_and_by_its_own_doing_with_few_switches() {
    let seed = seed();
    let few = || PctScheduler::new_from_seed(seed, 4, schedules(3_000));
    put_on(TaskPlay::usual(), "tasks, few switches", seed, few(), &USUAL);
    put_on(
        TaskPlay::narrow(),
        "narrow tasks, few switches",
        seed,
        few(),
        &USUAL,
    );
}

/// Shows tokio::task I4. An answer, an abort or a waker that is forgotten leaves somebody waiting: the play's clock runs out.
#[test]
fn nobody_waits_for_ever_in_a_runtime_that_nobody_ends() {
    let seed = seed();
    let random = || RandomScheduler::new_from_seed(seed, schedules(2_000));
    let ends = ["returned", "timed out", "aborted", "panicked"];
    put_on(
        TaskPlay::usual().patient(),
        "patient tasks, random",
        seed,
        random(),
        &ends,
    );
    let poor = TaskPlay::poor().patient();
    put_on(
        poor,
        "poor and patient tasks, random",
        seed,
        random(),
        &["not attached", "returned", "aborted"],
    );
}

/// Shows tokio::task I1.
#[test]
fn who_is_aborted_in_the_queue_is_answered_though_every_thread_is_stuck() {
    let seed = seed();
    let random = || RandomScheduler::new_from_seed(seed, schedules(2_000));
    put_on(
        TaskPlay::usual().stuck(),
        "stuck, random",
        seed,
        random(),
        &["aborted", "dropped"],
    );
    put_on(
        TaskPlay::narrow().stuck(),
        "narrow and stuck, random",
        seed,
        random(),
        &["aborted", "dropped"],
    );
}
