//! A pool whose jobs have time limits: one that sleeps, one that computes, one in a query, and one that nothing can end.

use std::sync::mpsc::channel;
use std::time::Duration;

use rusqlite::Connection;
use throwto::pool::{Builder, Job, JobHandle};
use throwto::{foreign::Call, safepoint_unwind, thread};

fn query() -> Result<i64, Box<dyn std::error::Error + Send + Sync>> {
    let connection = Connection::open_in_memory()?;
    let interrupt = connection.get_interrupt_handle();
    let call = Call::new("sqlite3_step").unblock(move || interrupt.interrupt());
    let endless = "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
    Ok(call.try_run(|| connection.query_row(endless, [], |row| row.get(0)))?)
}

fn tell<T>(handle: JobHandle<T>) {
    let label = handle.label().unwrap_or("a job").to_owned();
    match handle.wait() {
        Ok(_) => println!("{label}: done"),
        Err(error) => println!("{label}: {error}"),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Builder::new()
        .threads(2)
        .default_limit(Duration::from_millis(100))
        .grace(Duration::from_millis(200))
        .build()?;
    let job = |label: &str| Job::new().label(label);
    let (sender, receiver) = channel::<()>();
    let deaf = pool.submit_with(job("deaf"), move || receiver.recv())?;
    let sleep = pool.submit_with(job("sleep"), || thread::sleep(Duration::from_secs(3600)))?;
    tell(sleep);
    tell(pool.submit_with(job("spin"), || {
        loop {
            safepoint_unwind()
        }
    })?);
    tell(pool.submit_with(job("query"), query)?);
    tell(pool.submit_with(job("sum").limit(Duration::MAX), || (1..=100).sum::<u32>())?);
    tell(deaf);
    println!("written off: {}", pool.status().written_off);
    drop(sender);
    println!("left: {}", pool.shutdown(Duration::from_secs(30)).len());
    Ok(())
}

// Output:
// sleep: the job's time limit has passed
// spin: the job's time limit has passed
// query: the job's time limit has passed
// sum: done
// deaf: job #1 "deaf" is stuck in thread #..: ..; it ran for .., .. of that too long..; its thread is written off
// written off: 1
// left: 0
