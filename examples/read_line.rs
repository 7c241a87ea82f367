//! A thread that waits for a line on standard input, really blocked, is stopped by another one.

#![cfg_attr(not(throwto_ladder), allow(unused_imports))]

use std::io::{BufRead, BufReader, stdin};
use std::time::Duration;

#[cfg(throwto_ladder)]
use throwto::io::Interruptible;
use throwto::{Raised, ReceiptState, Stop, thread, threads};

/// Lines until the end of the input. The buffer is this thread's own: nobody else reads standard input.
#[cfg(throwto_ladder)]
fn echo() -> std::io::Result<usize> {
    let mut input = BufReader::new(Interruptible::new(stdin()));
    let (mut line, mut lines) = (String::new(), 0);
    while input.read_line(&mut line)? > 0 {
        println!("you said {}", line.trim_end());
        line.clear();
        lines += 1;
    }
    Ok(lines)
}

#[cfg(throwto_ladder)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let reader = thread::spawn(echo);
    let id = reader.id();
    let place = loop {
        match threads().into_iter().find(|thread| thread.id == id) {
            Some(thread) if thread.where_blocked.starts_with("read(fd 0") => break thread.where_blocked,
            Some(_) => thread::sleep(Duration::from_millis(1))?,
            None => break "gone already".to_owned(),
        }
    };
    println!("the reader: {place}");

    // You may type for so long.
    thread::sleep(Duration::from_millis(500))?;
    if let Ok(receipt) = reader.raise(Stop) {
        let stopped = receipt.wait(Duration::from_secs(30)) == ReceiptState::Caught;
        println!("stopped: {stopped}");
    }
    match reader.join()? {
        Ok(lines) => println!("the input ended after {lines} lines"),
        Err(error) => println!("no more lines: {}", Raised::from_io(error)?),
    }
    Ok(())
}

#[cfg(not(throwto_ladder))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    Err("nothing was read: `throwto::io` is there on Linux alone, on x86-64 and aarch64, and not with THROWTO_NUDGE_ONLY".into())
}

// Output:
// the reader: read(fd 0, ..
// stopped: true
// no more lines: the thread was asked to stop (raised at examples/read_line.rs:..)
