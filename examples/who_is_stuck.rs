//! Where every thread is, read from the system: what one wants to know before stopping anybody.

use std::io::{PipeReader, Read};
use std::time::{Duration, Instant};

use throwto::foreign::Call;
use throwto::thread::{Builder, sleep};
use throwto::{Stop, ThreadInfo, ThreadState, safepoint, threads};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (pipe, _writer_that_never_writes) = std::io::pipe()?;
    let hour = Duration::from_secs(3600);
    let workers = [
        Builder::new()
            .name("counter".into())
            .spawn(|| while safepoint().is_ok() {})?,
        Builder::new()
            .name("sleeper".into())
            .spawn(move || drop(sleep(hour)))?,
        Builder::new().name("reader".into()).spawn(move || read(pipe))?,
    ];

    for thread in look_until_settled() {
        let (name, state) = (thread.name.unwrap_or_default(), thread.state);
        println!("{name:8} {state:?}: {}", thread.where_blocked);
    }
    for worker in workers {
        worker.raise(Stop)?;
        worker.join()?;
    }
    println!("all ended, {} left", threads().len());
    Ok(())
}

fn read(mut pipe: PipeReader) {
    let call = Call::new("read").fail_syscalls();
    drop(call.try_run(|| pipe.read(&mut [0])));
}

/// Looks again until each is where it belongs, two blocked and one running, or a minute has passed.
fn look_until_settled() -> Vec<ThreadInfo> {
    let late = Instant::now() + Duration::from_secs(60);
    loop {
        let all = threads();
        let runs = |t: &&ThreadInfo| t.where_blocked == "running";
        let fits = |t: &ThreadInfo| {
            t.state != ThreadState::Starting && (t.state == ThreadState::Running) == runs(&t)
        };
        if all.iter().all(fits) && all.iter().filter(runs).count() == 1 || Instant::now() > late {
            return all;
        }
        std::thread::yield_now();
    }
}

// Output:
// counter  Running: running
// sleeper  Waiting: futex wait..
// reader   Foreign: read(fd .., pipe)..
// all ended, 0 left
