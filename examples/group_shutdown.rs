//! A group of threads is shut down under one deadline; one of them cannot be stopped and is returned with its place.

use std::sync::mpsc;
use std::time::Duration;

use throwto::thread::{Builder, ThreadGroup, sleep, spawn};
use throwto::{Stop, uninterruptible};

const HOUR: Duration = Duration::from_secs(3600);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let group = ThreadGroup::named("service");

    // A server with a child of its own: the child belongs to the group too.
    let server = Builder::new().name("server".into()).group(&group).spawn(|| {
        let helper = spawn(|| sleep(HOUR).is_err());
        let raised = sleep(HOUR).unwrap_err();
        (raised.to_string(), uninterruptible(|_| helper.join()).unwrap())
    })?;
    // One that swallows the first three exceptions.
    let stubborn = group.spawn(|| (0..3).filter(|_| sleep(HOUR).is_err()).count());
    // And one that waits in std, which knows nothing of exceptions.
    let (sender, receiver) = mpsc::channel::<()>();
    let deaf = Builder::new().name("deaf".into()).group(&group);
    let deaf = deaf.spawn(move || receiver.recv().is_err())?;
    while group.threads().len() < 4 {
        std::thread::yield_now();
    }

    let survivors = group.shutdown(Duration::from_millis(500), Stop);
    println!("of 4 threads {} survived", survivors.len());
    for survivor in &survivors {
        println!("{survivor}");
    }
    let (raised, helper_was_raised_into) = server.join()?;
    println!("server: {raised}, its helper: {helper_was_raised_into}");
    println!("stubborn: ended after {} exceptions", stubborn.join()?);

    drop(sender);
    println!("deaf: its sender has gone: {}", deaf.join()?);
    println!("left: {}", group.shutdown(Duration::from_secs(10), Stop).len());
    Ok(())
}

// Output:
// of 4 threads 1 survived
// thread #.. "deaf" is still alive after .. raises, 0 caught: futex wait..
// server: the thread was asked to stop (raised at examples/group_shutdown.rs:..), its helper: true
// stubborn: ended after 3 exceptions
// deaf: its sender has gone: true
// left: 0
