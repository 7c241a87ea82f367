//! The features `tokio` and `tower`. A process of its own, since it counts threads and descriptors.

// A future that yields a handle is how a handle is had from inside a runtime.
#![allow(clippy::async_yields_async)]
#![cfg_attr(not(throwto_ladder), allow(unused_imports, dead_code))]

#[cfg(throwto_forced)]
#[path = "it/forced.rs"]
mod forced;
#[path = "it/stage.rs"]
mod stage;

#[cfg(throwto_ladder)]
#[path = "tokio/load.rs"]
mod load;
#[path = "tokio/names.rs"]
mod names;
#[path = "tokio/requests.rs"]
mod requests;
#[path = "tokio/runtimes.rs"]
mod runtimes;
#[path = "tokio/stuck.rs"]
mod stuck;
#[path = "tokio/tasks.rs"]
mod tasks;
#[path = "tokio/tokens.rs"]
mod tokens;

use std::time::Duration;

use throwto::tokio::{AbortHandle, JoinError, JoinHandle};
use tokio::runtime::{Builder, Runtime};

use stage::*;

/// One pool thread, so that the next task is on the thread of the one before.
fn narrow() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// A runtime of each flavour, with so many threads for blocking tasks.
fn each_flavour(pool: usize) -> [(&'static str, Runtime); 2] {
    let mut one = Builder::new_current_thread();
    let mut many = Builder::new_multi_thread();
    many.worker_threads(2);
    let build = |builder: &mut Builder| builder.max_blocking_threads(pool).enable_all().build().unwrap();
    [
        ("current_thread", build(&mut one)),
        ("multi_thread", build(&mut many)),
    ]
}

/// Waits for the task's end.
#[track_caller]
fn ended<T>(runtime: &Runtime, handle: JoinHandle<T>) -> Result<T, JoinError> {
    let abort = handle.abort_handle();
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, handle).await });
    ended.unwrap_or_else(|_| panic!("never ended: {:#?}", abort.thread()))
}

/// Waits until the task is blocked where `place` says.
#[track_caller]
fn until_stuck(task: &AbortHandle, place: &str) {
    until(place, || {
        task.thread()
            .is_some_and(|info| begins_at(&place_of(&info), place))
    });
}

/// Runs `f` on a thread of its own, and fails if it hangs.
#[track_caller]
fn returns<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(f()));
    match receiver.recv_timeout(LIMIT) {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}; {:#?}", throwto::threads()),
    }
}

fn nap() -> Result<(), throwto::Raised> {
    throwto::thread::sleep(Duration::from_secs(3600))
}
