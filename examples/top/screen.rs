//! The terminal: one frame after the other, in plain escape sequences.

use std::io::{IsTerminal, Result, Write, stdin, stdout};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use throwto::Report;

pub struct Screen {
    /// The terminal as it was found.
    found: Option<Termios>,
}

impl Screen {
    pub fn open() -> Self {
        let found = tcgetattr(stdin()).ok().filter(|_| stdout().is_terminal());
        if let Some(mut raw) = found.clone() {
            cfmakeraw(&mut raw);
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, &raw);
            // The other screen, without a cursor; long lines are cut.
            print!("\x1b[?1049h\x1b[?25l\x1b[?7l");
        }
        Self { found }
    }

    pub fn is_terminal(&self) -> bool {
        self.found.is_some()
    }

    pub fn draw(&self, report: &Report, selected: usize, said: &str) -> Result<()> {
        let table = report.to_string();
        if !self.is_terminal() {
            return writeln!(stdout(), "{table}");
        }
        let mut frame = String::from("\x1b[H\x1b[2J");
        for (at, line) in table.lines().enumerate() {
            let (on, off) = if at == selected + 1 {
                ("\x1b[7m", "\x1b[0m")
            } else {
                ("", "")
            };
            frame += &format!("{on}{line}{off}\r\n");
        }
        frame += &format!("\r\nj, k: select   i: raise Interrupted   q: end\r\n{said}\r\n");
        stdout()
            .write_all(frame.as_bytes())
            .and_then(|()| stdout().flush())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(found) = &self.found {
            print!("\x1b[?7h\x1b[?25h\x1b[?1049l");
            let _ = stdout().flush();
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, found);
        }
    }
}
