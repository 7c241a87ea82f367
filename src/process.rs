//! Waiting for child processes so that a raise can break it: [`wait`], [`wait_timeout`].
//!
//! Owns: the order of waiting and reaping. Leaves reaping itself to std, which remembers the status. Blocks.
//!
//! **Signal context:** no.
//!
//! - I1. We only wait for the end (`WNOWAIT`, or a descriptor of the process); std reaps, when that returns at once. So a
//!   raise finds the child either not reaped or its status kept in the `Child`: it is never lost, and a process number
//!   that std holds is never one that was reaped behind its back.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use crate::io::{PollFd, complete, poll_until};
use crate::platform::calls::{Call, watch_process};
use crate::platform::futex;
use crate::receipt::deadline_after;

/// Waits until the child has ended, and reaps it: `Child::wait` that can be raised into.
///
/// As std does, it first closes the child's standard input, if that is a pipe held in the `Child`. Raised means that the
/// child has not been reaped: wait again, or kill it first. A cancellation point.
///
/// # Errors
/// The exception, as an `io::Error` of kind `Other`; else as `Child::wait`.
///
/// ```
/// let mut child = std::process::Command::new("true").spawn()?;
/// assert!(throwto::process::wait(&mut child)?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(status) = begin(child)? {
        return Ok(status);
    }
    complete(&Call::wait_for_end(child.id()))?;
    child.wait()
}

/// As [`wait`], for at most `limit`: `None` when the time is over. A zero limit looks once; one too long for the clock
/// waits as long as it takes.
///
/// # Errors
/// As [`wait`].
///
/// ```
/// use std::{process::Command, time::Duration};
/// let mut child = Command::new("sleep").arg("1000").spawn()?;
/// assert_eq!(throwto::process::wait_timeout(&mut child, Duration::from_millis(1))?, None);
/// child.kill()?;
/// assert!(!throwto::process::wait(&mut child)?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn wait_timeout(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = deadline_after(limit);
    if let Some(status) = begin(child)? {
        return Ok(Some(status));
    }
    let Some(deadline) = deadline else {
        return wait(child).map(Some);
    };
    match watch_process(child.id()) {
        Ok(process) => {
            poll_until(&mut [PollFd::readable(&process)], Some(deadline))?;
        }
        Err(_) => look_until(child, deadline)?,
    }
    child.try_wait()
}

/// The entry of both: a cancellation point, then the status if it is known or the child has ended already.
#[track_caller]
fn begin(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    crate::safepoint()?;
    drop(child.stdin.take());
    child.try_wait()
}

/// Where the system has no descriptors for processes: looks again and again, at most every 10 ms.
#[track_caller]
fn look_until(child: &mut Child, deadline: u64) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        let left = Duration::from_nanos(deadline.saturating_sub(futex::now()));
        if child.try_wait()?.is_some() || left.is_zero() {
            return Ok(());
        }
        crate::thread::sleep(pause.min(left))?;
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
