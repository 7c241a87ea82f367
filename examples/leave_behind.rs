//! The last resort: a C library waits for a lock that nobody gives back. The worker leaves the call behind and goes on.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use throwto::foreign::Call;
use throwto::{TimedOut, stats, thread, threads};
use throwto_fixtures::LockedLibrary;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stuck = Arc::new(LockedLibrary::new());
    let sound = Arc::new(LockedLibrary::new());
    let held = stuck.hold();

    let (jobs, to_do) = channel::<(&str, Arc<LockedLibrary>)>();
    let (results, done) = channel();
    let worker = thread::spawn(move || {
        for (name, library) in to_do {
            // On a thread of its own. No rung of the ladder gets a thread out of a lock inside C.
            let result = Call::new("library_call").run_detached(move || library.call());
            let _ = results.send(match result {
                Ok(uses) => format!("{name}: call number {uses}"),
                Err(error) => format!("{name}: {error}"),
            });
        }
    });

    for (name, library) in [("stuck", &stuck), ("sound", &sound)] {
        jobs.send((name, Arc::clone(library)))?;
        let result = match done.recv_timeout(Duration::from_millis(500)) {
            Ok(result) => result,
            Err(_too_late) => {
                worker.raise(TimedOut)?;
                done.recv()?
            }
        };
        println!("{result}");
    }

    for left in threads().iter().filter(|thread| thread.left_behind) {
        println!("left behind: {:?}, {}", left.region, left.where_blocked);
    }
    drop(held);
    while stats().left_running > 0 {
        std::thread::yield_now();
    }
    println!("all that was left behind has ended");
    drop(jobs);
    worker.join()?;
    Ok(())
}

// Output:
// stuck: raised into: timed out (raised at ..
// sound: call number 1
// left behind: Some("library_call"), futex wait..
// all that was left behind has ended
