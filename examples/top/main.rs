//! A view of all attached threads that refreshes: what each is stuck in, for how long, what waits for it, and a key to raise into
//! the selected one.
//!
//!     cargo run --example top [-- --frames N]
//!
//! `k`, `j` or the arrows select, `i` raises `Interrupted`, `q` ends. Without a terminal it prints frames (one, or N).

mod demo;
mod keys;
mod screen;

use std::time::Duration;

use keys::Key;
use screen::Screen;
use throwto::{Interrupted, Report, raise_exc};

const REFRESH: Duration = Duration::from_millis(250);
/// How long to wait before a raise counts as pending.
const FATE: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let frames = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--frames", number] => Some(number.parse()?),
        _ => return Err("usage: top [--frames N]".into()),
    };
    let demo = demo::start()?;
    let shown = watch(&mut Screen::open(), frames);
    demo::stop(demo)?;
    Ok(shown?)
}

fn watch(screen: &mut Screen, frames: Option<u64>) -> std::io::Result<()> {
    let frames = frames.or((!screen.is_terminal()).then_some(1));
    let (mut selected, mut said, mut frame) = (0, String::new(), 0);
    while frames.is_none_or(|frames| frame < frames) {
        let report = throwto::report();
        selected = selected.min(report.threads.len().saturating_sub(1));
        screen.draw(&report, selected, &said)?;
        match keys::pressed(screen.is_terminal(), REFRESH)? {
            Some(Key::Up) => selected = selected.saturating_sub(1),
            Some(Key::Down) => selected += 1,
            Some(Key::Raise) => said = raise(&report, selected),
            Some(Key::Quit) => break,
            None => {}
        }
        frame += 1;
    }
    Ok(())
}

fn raise(report: &Report, selected: usize) -> String {
    match report.threads.get(selected).map(|t| raise_exc(t.id, Interrupted)) {
        Some(Ok(receipt)) => format!("{}: {:?}", receipt.target(), receipt.wait(FATE)),
        Some(Err(error)) => error.to_string(),
        None => "nobody to raise into".into(),
    }
}
