//! A view of all attached threads that refreshes: what each is stuck in, for how long, what waits for it, and keys to raise into
//! the selected one.
//!
//!     cargo run --example top [-- [--frames N] [--sleepers N]]
//!
//! Without a terminal it prints plain tables (one, or N). `--sleepers` is how many of the threads to look at sleep.

mod demo;
mod keys;
mod row;
mod view;
mod watch;

use std::error::Error;
use std::io::{IsTerminal, Write, stdin, stdout};

const USAGE: &str = "usage: top [--frames N] [--sleepers N]";

fn main() -> Result<(), Box<dyn Error>> {
    let (frames, sleepers) = asked()?;
    let demo = demo::start(sleepers)?;
    let shown = if stdin().is_terminal() && stdout().is_terminal() {
        watch::watch(frames.unwrap_or(u64::MAX))
    } else {
        print(frames.unwrap_or(1))
    };
    demo::stop(demo)?;
    shown
}

fn print(frames: u64) -> Result<(), Box<dyn Error>> {
    for frame in 0..frames {
        if frame > 0 {
            std::thread::sleep(watch::REFRESH);
        }
        writeln!(stdout(), "{}", throwto::report())?;
    }
    Ok(())
}

fn asked() -> Result<(Option<u64>, usize), Box<dyn Error>> {
    let (mut frames, mut sleepers) = (None, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let number = arguments.next().ok_or(USAGE)?;
        match name.as_str() {
            "--frames" => frames = Some(number.parse()?),
            "--sleepers" => sleepers = number.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok((frames, sleepers))
}
