//! Waiting until a descriptor is ready: [`poll`], [`wait_readable`], [`wait_writable`].
//!
//! Owns: deadlines that survive signals. Leaves to `platform::poll` the structure. Everything here may block.
//!
//! **Signal context:** no.
//!
//! - I1. A time limit is turned into a point in time once, before the first attempt: a storm of signals cannot prolong a
//!   wait.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::{Interruptible, PollFd, attempt};
use crate::platform::calls::Call;
use crate::platform::futex;
use crate::receipt::deadline_after;

/// Waits until one of `fds` is ready, at most for `limit`, and returns how many are; 0 when the time is over.
///
/// A zero limit looks once; `None`, or a limit too long for the clock, waits as long as it takes. A cancellation point.
///
/// # Errors
/// The exception, as an `io::Error` of kind `Other`; what the system says about bad arguments.
///
/// ```
/// use std::{io::Write, time::Duration};
/// use throwto::io::{PollFd, poll};
/// let (reader, mut writer) = std::io::pipe()?;
/// let mut fds = [PollFd::readable(&reader)];
/// assert_eq!(poll(&mut fds, Some(Duration::from_millis(1)))?, 0);
/// writer.write_all(b"!")?;
/// assert_eq!(poll(&mut fds, None)?, 1);
/// assert!(fds[0].is_readable());
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn poll(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<usize> {
    poll_until(fds, limit.and_then(deadline_after))
}

/// Waits until a read on `fd` would not block: `true`, or `false` when the time is over. Limits are as for [`poll`].
///
/// The end of the stream and an error are ready too: the next read tells.
///
/// # Errors
/// As [`poll`].
///
/// ```
/// use std::time::Duration;
/// let (reader, writer) = std::io::pipe()?;
/// assert!(!throwto::io::wait_readable(&reader, Some(Duration::ZERO))?);
/// drop(writer);
/// assert!(throwto::io::wait_readable(&reader, None)?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn wait_readable(fd: impl AsFd, limit: Option<Duration>) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::readable(&fd)], limit)? != 0)
}

/// Waits until a write on `fd` would not block: `true`, or `false` when the time is over. Limits are as for [`poll`].
///
/// # Errors
/// As [`poll`].
///
/// ```
/// let (_reader, writer) = std::io::pipe()?;
/// assert!(throwto::io::wait_writable(&writer, None)?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn wait_writable(fd: impl AsFd, limit: Option<Duration>) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::writable(&fd)], limit)? != 0)
}

impl<T: AsFd> Interruptible<T> {
    /// Waits until reading, or accepting, would not block: [`wait_readable`].
    ///
    /// # Errors
    /// As [`poll`].
    ///
    /// ```
    /// use std::time::Duration;
    /// let (reader, _writer) = std::io::pipe()?;
    /// let reader = throwto::io::Interruptible::new(reader);
    /// assert!(!reader.wait_readable(Some(Duration::from_millis(1)))?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn wait_readable(&self, limit: Option<Duration>) -> io::Result<bool> {
        wait_readable(self, limit)
    }

    /// Waits until writing would not block: [`wait_writable`].
    ///
    /// # Errors
    /// As [`poll`].
    #[track_caller]
    pub fn wait_writable(&self, limit: Option<Duration>) -> io::Result<bool> {
        wait_writable(self, limit)
    }
}

/// [`poll`] until a time of the monotonic clock in nanoseconds.
#[track_caller]
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<u64>) -> io::Result<usize> {
    loop {
        let left = deadline.map(|at| Duration::from_nanos(at.saturating_sub(futex::now())));
        let limit = left.map(|left| (left.as_secs(), left.subsec_nanos()));
        // A signal that comes when the time is over does not prolong it: the last attempt has a limit of zero.
        if let Some(ready) = attempt(&Call::poll(fds, limit))? {
            return Ok(ready);
        }
    }
}
