//! Looking, drawing, and doing what the keys say, until a key or a signal ends it.

use std::error::Error;
use std::io;
use std::time::Duration;

use ratatui::DefaultTerminal;
use throwto::{ExcType, Interrupted, Raised, Stop, attach, raise_exc, signal, threads};

use crate::keys::{Key, pressed};
use crate::view::View;

pub const REFRESH: Duration = Duration::from_millis(250);
/// How long to wait before a raise counts as pending.
const FATE: Duration = Duration::from_millis(100);

pub fn watch(frames: u64) -> Result<(), Box<dyn Error>> {
    let me = attach()?;
    // What `kill` sends becomes an exception, so that the terminal is put back as it was.
    let stop = ExcType::of::<Stop>();
    let _interrupt = signal::on(signal::SIGINT, me.id(), stop)?;
    let _terminate = signal::on(signal::SIGTERM, me.id(), stop)?;
    // It is put back after a panic too.
    Ok(ratatui::run(|terminal| show(terminal, frames))?)
}

fn show(terminal: &mut DefaultTerminal, frames: u64) -> io::Result<()> {
    let mut view = View::default();
    for _ in 0..frames {
        let threads = threads();
        terminal.draw(|frame| view.draw(frame, &threads))?;
        match pressed(REFRESH) {
            Ok(Some(Key::Select(rows))) => view.select(&threads, rows),
            Ok(Some(Key::Raise(exc))) => view.said = raise(&view, exc),
            Ok(Some(Key::Quit)) => break,
            Ok(None) => {}
            Err(error) => match Raised::from_io(error)? {
                raised if raised.is::<Interrupted>() => view.said = format!("caught: {raised}"),
                _ => break,
            },
        }
    }
    Ok(())
}

fn raise(view: &View, exc: ExcType) -> String {
    match view.selected().map(|id| raise_exc(id, exc)) {
        Some(Ok(receipt)) => format!("{}: {:?}", receipt.target(), receipt.wait(FATE)),
        Some(Err(error)) => error.to_string(),
        None => "nobody to raise into".into(),
    }
}
