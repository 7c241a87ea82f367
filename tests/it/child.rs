//! What the tests that fork share: a child that tells by its exit status what it found. One that hangs is killed, and fails
//! the test.

#![allow(dead_code)]

use std::io::Write;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::stage::LIMIT;

/// Runs `child` in a forked process, where it must return `Ok` in time.
#[track_caller]
pub fn in_child(child: impl FnOnce() -> Result<(), String>) {
    // SAFETY: the child runs tests, which allocate: glibc holds its own locks over a fork.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // A child that hangs beside a parent that was killed would hang for ever.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            let code = match told {
                Ok(Ok(())) => 0,
                Ok(Err(what)) => {
                    let _ = writeln!(std::io::stderr(), "child: {what}");
                    1
                }
                Err(_) => 2,
            };
            // SAFETY: ends the child without running anything that belongs to the parent.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            let deadline = Instant::now() + LIMIT;
            loop {
                match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
                    WaitStatus::StillAlive if Instant::now() < deadline => {
                        std::thread::sleep(std::time::Duration::from_micros(200));
                    }
                    WaitStatus::StillAlive => {
                        kill(child, Signal::SIGKILL).unwrap();
                        waitpid(child, None).unwrap();
                        panic!("the child hangs");
                    }
                    status => break assert_eq!(status, WaitStatus::Exited(child, 0)),
                }
            }
        }
    }
}

pub fn check(what: &str, holds: bool) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}
