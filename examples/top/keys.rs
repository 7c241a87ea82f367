//! Keys, as what they ask for.

use std::io;
use std::time::Duration;

use ratatui::crossterm::event::{self, KeyCode, KeyModifiers};
use throwto::foreign::Call;
use throwto::{ExcType, Interrupted, Stop};

pub const TOLD: &str = " up, down: select   i: raise Interrupted   s: raise Stop   q: end";

pub enum Key {
    Select(isize),
    Raise(ExcType),
    Quit,
}

/// Waits for a key for so long. In raw mode Ctrl-C is one. The error may be an exception, since the view is attached too.
pub fn pressed(patience: Duration) -> io::Result<Option<Key>> {
    if !Call::new("event::poll").run(|| event::poll(patience))?? {
        return Ok(None);
    }
    let Some(key) = event::read()?.as_key_press_event() else {
        return Ok(None);
    };
    Ok(match key.code {
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Select(-1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Select(1)),
        KeyCode::PageUp => Some(Key::Select(-10)),
        KeyCode::PageDown => Some(Key::Select(10)),
        KeyCode::Char('i') => Some(Key::Raise(ExcType::of::<Interrupted>())),
        KeyCode::Char('s') => Some(Key::Raise(ExcType::of::<Stop>())),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('c') if key.modifiers == KeyModifiers::CONTROL => Some(Key::Quit),
        _ => None,
    })
}
