//! The end of a runtime: nothing of ours holds it up, and what cannot be stopped is named.

use std::time::{Duration, Instant};

use throwto::tokio::{Builder, JoinError, TaskGroup, shutdown, spawn_blocking};
use throwto::uninterruptible;

use crate::stage::*;
use crate::stuck::{deaf, places};
use crate::{each_flavour, ended, nap, narrow, returns, until_stuck};

#[test]
fn dropping_a_runtime_ends_its_stuck_tasks_and_refuses_those_in_the_queue() {
    let judge = narrow();
    for (flavour, runtime) in each_flavour(places().len()) {
        let enter = runtime.enter();
        let stuck: Vec<_> = places()
            .into_iter()
            .map(|stuck| {
                let (body, until) = (stuck.body, stuck.until);
                let task = spawn_blocking(body);
                until(&task.abort_handle());
                (stuck.name, task)
            })
            .collect();
        let queued = spawn_blocking(|| panic!("it runs"));
        drop(enter);
        returns(flavour, move || drop(runtime));
        for (name, task) in stuck {
            let outcome = ended(&judge, task);
            assert!(
                matches!(outcome, Err(JoinError::ShutDown)),
                "{name} on {flavour}: {outcome:?}"
            );
        }
        let outcome: Result<(), _> = ended(&judge, queued);
        assert!(matches!(outcome, Err(JoinError::ShutDown)));
    }
}

/// Shows tokio::task I3.
#[test]
fn a_task_that_its_runtime_refuses_stays_in_no_group() {
    let (judge, runtime) = (narrow(), narrow());
    let handle = runtime.handle().clone();
    drop(runtime);
    let group = TaskGroup::new();
    let late = Builder::new()
        .group(&group)
        .spawn_blocking_on(|| panic!("it runs"), &handle);
    let outcome: Result<(), _> = ended(&judge, late);
    assert!(matches!(outcome, Err(JoinError::ShutDown)));
    assert!(group.is_empty(), "{group:?}");
}

#[test]
fn tokios_own_ways_to_shut_down_end_the_tasks_too() {
    let judge = narrow();
    for background in [false, true] {
        for (_, runtime) in each_flavour(1) {
            let task = runtime.block_on(async { spawn_blocking(nap) });
            until_stuck(&task.abort_handle(), "futex wait");
            returns("shutdown", move || {
                if background {
                    runtime.shutdown_background();
                } else {
                    runtime.shutdown_timeout(Duration::from_millis(100));
                }
            });
            assert!(matches!(ended(&judge, task), Err(JoinError::ShutDown)));
        }
    }
}

#[test]
fn a_shutdown_returns_the_survivors_with_where_they_are() {
    for (_, runtime) in each_flavour(4) {
        let _judge = narrow();
        let enter = runtime.enter();
        let (gate, deaf) = deaf();
        let easy = spawn_blocking(nap);
        let hard = Builder::new().name("the deaf one").spawn_blocking(deaf);
        until_stuck(&easy.abort_handle(), "futex wait");
        until_stuck(&hard.abort_handle(), "futex wait");
        drop(enter);
        let began = Instant::now();
        let survivors = returns("shutdown", move || shutdown(runtime, Duration::from_millis(200)));
        assert!(
            began.elapsed() >= Duration::from_millis(200),
            "the limit is given"
        );
        assert_eq!(survivors.len(), 1, "{survivors:?}");
        let info = survivors[0].thread.as_ref().unwrap();
        assert!(place_of(info).starts_with("futex wait"), "{info}");
        assert!(
            survivors[0]
                .to_string()
                .starts_with("blocking task \"the deaf one\" is still running")
        );
        assert!(easy.is_finished() && !hard.is_finished());
        drop(gate);
        let judge = narrow();
        assert!(matches!(ended(&judge, hard), Ok(())), "results win");
        assert!(matches!(ended(&judge, easy), Err(JoinError::ShutDown)));
    }
}

#[test]
fn a_shutdown_waits_no_longer_than_the_last_task() {
    let (_, runtime) = each_flavour(2).into_iter().next_back().unwrap();
    let task = runtime.block_on(async { spawn_blocking(nap) });
    until_stuck(&task.abort_handle(), "futex wait");
    let survivors = returns("shutdown", move || shutdown(runtime, 100 * LIMIT));
    assert!(survivors.is_empty() && task.is_finished());
    for (_, unused) in each_flavour(1) {
        assert!(returns("unused", move || shutdown(unused, LIMIT)).is_empty());
    }
}

#[test]
fn a_masked_task_holds_the_end_of_its_runtime_up_until_it_unmasks() {
    let (_, runtime) = each_flavour(1).into_iter().next_back().unwrap();
    let (gate, deaf) = deaf();
    let task = runtime.block_on(async {
        spawn_blocking(|| {
            uninterruptible(|_| deaf());
            nap()
        })
    });
    until_stuck(&task.abort_handle(), "futex wait");
    let dropped = std::thread::spawn(move || drop(runtime));
    until("told", || {
        task.abort_handle()
            .thread()
            .is_none_or(|_| !dropped.is_finished())
    });
    assert!(!task.is_finished());
    drop(gate);
    let judge = narrow();
    assert!(matches!(ended(&judge, task), Err(JoinError::ShutDown)));
    dropped.join().unwrap();
}

#[test]
fn after_the_end_of_the_runtime_nothing_starts() {
    let judge = narrow();
    for (_, runtime) in each_flavour(1) {
        let handle = runtime.handle().clone();
        drop(runtime);
        let late = Builder::new().spawn_blocking_on(|| panic!("it runs"), &handle);
        let late: Result<(), _> = ended(&judge, late);
        assert!(matches!(late, Err(JoinError::ShutDown)));
    }
}

#[test]
fn tasks_that_are_spawned_while_the_runtime_ends_never_hold_it_up() {
    for _ in 0..rounds(100) {
        for (_, runtime) in each_flavour(2) {
            let handle = runtime.handle().clone();
            let spawner = std::thread::spawn(move || {
                let tasks = (0..20).map(|_| Builder::new().spawn_blocking_on(nap, &handle));
                tasks.collect::<Vec<_>>()
            });
            returns("drop", move || drop(runtime));
            let judge = narrow();
            for task in spawner.join().unwrap() {
                assert!(matches!(ended(&judge, task), Err(JoinError::ShutDown)));
            }
        }
    }
}

/// tokio drops a current-thread runtime's async tasks, ours among them, only behind the wait for its blocking ones. If this fails, a newer
/// tokio has changed that, and docs/limitations.md can say less.
#[test]
fn tokios_shutdown_timeout_ends_a_current_threads_tasks_only_after_its_time() {
    const TIME: Duration = Duration::from_millis(300);
    let judge = narrow();
    let [(_, runtime), _] = each_flavour(1);
    let task = runtime.block_on(async { spawn_blocking(nap) });
    until_stuck(&task.abort_handle(), "futex wait");
    let began = Instant::now();
    returns("shutdown", move || runtime.shutdown_timeout(TIME));
    assert!(
        began.elapsed() >= TIME,
        "it came back early: {:?}",
        began.elapsed()
    );
    assert!(matches!(ended(&judge, task), Err(JoinError::ShutDown)));
    // Ours, told to shut the same down, waits for nothing but the task.
    let [(_, runtime), _] = each_flavour(1);
    let task = runtime.block_on(async { spawn_blocking(nap) });
    until_stuck(&task.abort_handle(), "futex wait");
    let survivors = returns("shutdown", move || throwto::tokio::shutdown(runtime, 10 * LIMIT));
    assert!(survivors.is_empty(), "{survivors:?}");
    assert!(matches!(ended(&judge, task), Err(JoinError::ShutDown)));
}
