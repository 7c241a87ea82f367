//! Keys as they are pressed.

use std::io::{Read, Result, stdin};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub enum Key {
    Up,
    Down,
    Raise,
    Quit,
}

/// Waits for a key; without a terminal, just waits.
pub fn pressed(terminal: bool, patience: Duration) -> Result<Option<Key>> {
    let input = stdin();
    let mut asked = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    let watched = if terminal { &mut asked[..] } else { &mut [] };
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    if poll(watched, patience)? == 0 {
        return Ok(None);
    }
    let mut bytes = [0; 8];
    let length = stdin().read(&mut bytes)?;
    Ok(match &bytes[..length] {
        b"k" | b"\x1b[A" => Some(Key::Up),
        b"j" | b"\x1b[B" => Some(Key::Down),
        b"i" => Some(Key::Raise),
        // Nothing: the terminal is gone. 3 is Ctrl-C.
        b"q" | b"\x03" | b"" => Some(Key::Quit),
        _ => None,
    })
}
