//! A blocking task of tokio that is stuck in std is aborted, the next one on that pool thread is not.

use std::net::TcpListener;
use std::time::Duration;

use throwto::foreign::{Call, CallError};
use throwto::tokio::{Builder, run_blocking, shutdown, spawn_blocking};

/// Nobody ever connects.
fn accept() -> Result<(), CallError<std::io::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(CallError::Failed)?;
    let call = Call::new("accept").fail_syscalls();
    call.try_run(|| listener.accept()).map(drop)
}

async fn show() {
    let stuck = spawn_blocking(accept);
    let remote = stuck.abort_handle();
    let in_accept = |place: &str| place.starts_with("accept");
    while !remote.thread().is_some_and(|t| in_accept(&t.where_blocked)) {
        tokio::task::yield_now().await;
    }
    println!("the task is in accept: abort");
    remote.abort();
    println!("the task: {}", stuck.await.unwrap_err());

    let next = spawn_blocking(|| throwto::safepoint().is_ok());
    println!("the next one is not hit: {}", next.await.unwrap());

    let nap = run_blocking(|| throwto::thread::sleep(Duration::from_secs(3600)));
    let late = tokio::time::timeout(Duration::from_millis(50), nap).await;
    println!("dropped at the time-out, and aborted: {}", late.is_err());

    let limited = Builder::new().time_limit(Duration::from_millis(50));
    let report = limited.spawn_blocking(|| -> () {
        loop {
            throwto::safepoint_unwind()
        }
    });
    println!("the report: {}", report.await.unwrap_err());
}

fn main() -> std::io::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(1).enable_time().build()?;
    runtime.block_on(show());

    let _forgotten = Builder::new().spawn_blocking_on(accept, runtime.handle());
    let survivors = shutdown(runtime, Duration::from_secs(30));
    println!("left at the end of the runtime: {}", survivors.len());
    Ok(())
}

// Output:
// the task is in accept: abort
// the task: the blocking task was aborted
// the next one is not hit: true
// dropped at the time-out, and aborted: true
// the report: the blocking task's time limit has passed
// left at the end of the runtime: 0
