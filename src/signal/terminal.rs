//! The terminal as it was found, for a process that ends without cleaning up.
//!
//! Owns: remembering and restoring the settings of the terminal at standard input. Leaves to programs what they do to
//! it. [`Terminal::restore`] blocks for at most [`PATIENCE`].
//!
//! **Signal context:** no.

use std::io;
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp, write};

/// A terminal that takes no output (Ctrl-S, a dead line) does not keep the process from its end.
const PATIENCE: Duration = Duration::from_millis(200);
/// Back from the alternate screen, cursor shown, no colours.
const PLAIN: &[u8] = b"\x1b[?1049l\x1b[?25h\x1b[0m";

/// The settings of the terminal at standard input, if one is there.
pub(super) struct Terminal {
    found: Option<Termios>,
}

impl Terminal {
    pub(super) fn now() -> Self {
        Self {
            found: tcgetattr(io::stdin()).ok(),
        }
    }

    /// Puts the settings back if this process has the terminal and they have changed. Then the program was drawing on it,
    /// and its screen is left too.
    pub(super) fn restore(&self) {
        let Some(found) = self.found.clone() else { return };
        let (done, wait) = channel();
        let restoring = std::thread::Builder::new().spawn(move || {
            put_back(&found);
            let _nobody_waits_any_more = done.send(());
        });
        if restoring.is_ok() {
            let _late = wait.recv_timeout(PATIENCE);
        }
    }
}

fn put_back(found: &Termios) {
    let stdin = io::stdin();
    let foreground = tcgetpgrp(&stdin) == Ok(getpgrp());
    let changed = tcgetattr(&stdin).is_ok_and(|now| now != *found);
    if foreground && changed {
        // Should somebody else get the terminal just now, the call fails instead of stopping us.
        let _ = SigSet::from(Signal::SIGTTOU).thread_block();
        let _ = tcsetattr(&stdin, SetArg::TCSANOW, found);
        let _ = write(io::stdout(), PLAIN);
    }
}
