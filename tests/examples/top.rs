//! `examples/top`: plain tables in a pipe; on a terminal a view that obeys keys and signals, and leaves the terminal as it was.

use crate::{program, run, text};

const DEMO: [&str; 6] = ["counter", "locker", "accept", "reader", "careful", "sleeper"];

#[test]
fn top_prints_frames_where_there_is_no_terminal() {
    let output = run("top", &["--frames", "2"]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}");
    assert_eq!(printed.matches("WHERE").count(), 2, "{printed}");
    for name in DEMO {
        let rows = printed.lines().filter(|line| line.contains(name)).count();
        assert!(rows >= 2, "{name} is not in both frames:\n{printed}");
    }
    assert!(!printed.contains('\x1b'), "no escape sequences in a pipe");
    for wrong in [&["--frames", "x"][..], &["--frames"], &["--sleeper", "1"]] {
        assert!(!run("top", wrong).status.success(), "{wrong:?}");
    }
}

#[cfg(throwto_nudge)]
mod on_a_terminal {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::num::NonZero;
    use std::os::fd::OwnedFd;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use nix::pty::{Winsize, openpty};
    use nix::sys::signal::{Signal, kill};
    use nix::sys::termios::{Termios, tcgetattr};
    use nix::unistd::Pid;

    use super::{DEMO, program};

    const COLUMNS: NonZero<u16> = NonZero::new(100).unwrap();

    /// The running program, and what a user would see of it.
    struct Top {
        child: Child,
        terminal: File,
        /// Our end of what is its terminal, and how that was found.
        theirs: OwnedFd,
        found: Termios,
        seen: vt100::Parser,
    }

    impl Top {
        fn start(rows: u16, arguments: &[&str]) -> Self {
            let size = Winsize {
                ws_row: rows,
                ws_col: COLUMNS.get(),
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            let pty = openpty(&size, None).unwrap();
            let found = tcgetattr(&pty.slave).unwrap();
            let mut command = Command::new(program("top"));
            command.args(arguments).stdin(pty.slave.try_clone().unwrap());
            let child = command.stdout(pty.slave.try_clone().unwrap()).spawn().unwrap();
            Self {
                child,
                terminal: File::from(pty.master),
                theirs: pty.slave,
                found,
                seen: vt100::Parser::new(NonZero::new(rows).unwrap(), COLUMNS, 0),
            }
        }

        fn press(&mut self, keys: &str) {
            self.terminal.write_all(keys.as_bytes()).unwrap();
        }

        fn screen(&self) -> String {
            self.seen.screen().contents()
        }

        /// The row of the selected thread.
        fn selected(&self) -> String {
            let screen = self.screen();
            let row = screen.lines().find(|line| line.starts_with("> "));
            row.unwrap_or_default().to_owned()
        }

        /// Reads on until what is on the screen is as told.
        #[track_caller]
        fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
            let late = Instant::now() + Duration::from_secs(180);
            let mut bytes = [0; 4096];
            while !is_so(self) {
                assert!(Instant::now() < late, "never: {what}\n{}", self.screen());
                let length = self.terminal.read(&mut bytes).unwrap();
                self.seen.process(&bytes[..length]);
            }
        }

        /// It has ended well, and nobody can tell from the terminal that it was there.
        #[track_caller]
        fn ended(mut self) {
            self.until("back on the first screen, with its cursor", |top| {
                let screen = top.seen.screen();
                !screen.alternate_screen() && !screen.hide_cursor()
            });
            assert!(self.child.wait().unwrap().success());
            assert!(tcgetattr(&self.theirs).unwrap() == self.found);
        }
    }

    /// A test that has failed leaves nothing running.
    impl Drop for Top {
        fn drop(&mut self) {
            let _ = self.child.kill().and_then(|()| self.child.wait());
        }
    }

    #[test]
    fn top_shows_all_threads_and_keys_raise_into_the_selected_one() {
        let mut top = Top::start(24, &[]);
        top.until("all are there", |top| {
            DEMO.iter().all(|name| top.screen().contains(name))
        });
        top.until("the first is selected", |top| top.selected().contains("counter"));
        top.press("j");
        top.until("the next is selected", |top| top.selected().contains("locker 1"));
        top.press("\x1b[A");
        top.until("an arrow goes back", |top| top.selected().contains("counter"));
        top.press("i");
        top.until("the raise is caught", |top| top.screen().contains("#0.1: Caught"));
        top.press("s");
        top.until("the thread has ended, the next is selected", |top| {
            !top.screen().contains("counter") && top.selected().contains("locker 1")
        });
        // The last row is the view's own thread.
        top.press("\x1b[6~");
        top.until("its own thread", |top| top.selected().contains("main"));
        top.press("i");
        top.until("it goes on", |top| top.screen().contains("caught: interrupted"));
        top.press("q");
        top.ended();
    }

    #[test]
    fn top_scrolls_to_the_selected_thread() {
        let mut top = Top::start(14, &["--sleepers", "30"]);
        top.until("the first is selected", |top| top.selected().contains("#0.1 "));
        top.press("\x1b[6~\x1b[6~\x1b[6~");
        top.until("row 30 is there and selected", |top| {
            top.selected().contains("#30.1 ") && !top.screen().contains("#0.1 ")
        });
        top.press("\x03");
        top.ended();
    }

    #[test]
    fn a_signal_ends_top_and_leaves_the_terminal_as_it_was() {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let mut top = Top::start(24, &[]);
            top.until("it shows something", |top| !top.selected().is_empty());
            kill(Pid::from_raw(top.child.id() as i32), signal).unwrap();
            top.ended();
        }
    }
}
