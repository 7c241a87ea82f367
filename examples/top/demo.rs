//! Threads to look at. Each catches `Interrupted` and goes back to what it does; `Stop` ends it.

use std::io::{self, Read};
use std::net::TcpListener;
use std::time::Duration;

use throwto::foreign::{Call, CallError};
use throwto::sync::Mutex;
use throwto::thread::{Builder, JoinHandle, sleep};
use throwto::{Raised, Stop, safepoint, uninterruptible};

const HOUR: Duration = Duration::from_secs(3600);
static LOCK: Mutex<()> = Mutex::new(());

pub fn start(sleepers: usize) -> io::Result<Vec<JoinHandle<()>>> {
    let (mut pipe, _) = io::pipe().map(|(reader, writer)| (reader, std::mem::forget(writer)))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let accept = move || stubborn("accept", || listener.accept().map(drop));
    let read = move || stubborn("read", || pipe.read(&mut [0]).map(drop));
    let lock = || LOCK.lock().map(|_held| sleep(HOUR))?;
    let careful = || {
        uninterruptible(|_| std::thread::sleep(Duration::from_secs(1)));
        safepoint()
    };
    let mut demo = vec![
        employ("counter", safepoint)?,
        employ("locker 1", lock)?,
        employ("locker 2", lock)?,
        employ("accept", accept)?,
        employ("reader", read)?,
        employ("careful", careful)?,
    ];
    let sleeper = |_| employ("sleeper", || sleep(HOUR));
    demo.extend((0..sleepers).map(sleeper).collect::<io::Result<Vec<_>>>()?);
    Ok(demo)
}

fn employ(
    name: &str,
    mut work: impl FnMut() -> Result<(), Raised> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let until_stopped = move || while !work().is_err_and(|raised| raised.is::<Stop>()) {};
    Builder::new().name(name.into()).spawn(until_stopped)
}

/// A call of std, which retries whatever a plain signal interrupts.
fn stubborn(label: &'static str, call: impl FnOnce() -> io::Result<()>) -> Result<(), Raised> {
    match Call::new(label).fail_syscalls().try_run(call) {
        Err(CallError::Raised(raised)) => Err(raised),
        _ => Ok(()),
    }
}

pub fn stop(threads: Vec<JoinHandle<()>>) -> Result<(), Box<dyn std::error::Error>> {
    threads.into_iter().try_for_each(|thread| {
        // A key may have stopped it already.
        let _ = thread.raise(Stop);
        Ok(thread.join()?)
    })
}
