//! [`PollFd`]: one descriptor in a poll.
//!
//! Owns: the kernel's structure and its bits. Leaves to `io::readiness` the waiting. Plain values.
//!
//! **Signal context:** no.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A descriptor to wait for in [`io::poll`](crate::io::poll), and afterwards what it is ready for.
///
/// ```
/// use throwto::io::{PollFd, poll};
/// let (reader, writer) = std::io::pipe()?;
/// let mut fds = [PollFd::readable(&reader), PollFd::writable(&writer)];
/// assert_eq!(poll(&mut fds, None)?, 1);
/// assert!(!fds[0].is_ready() && fds[1].is_writable());
/// # Ok::<(), std::io::Error>(())
/// ```
#[repr(transparent)]
#[derive(Clone)]
pub struct PollFd<'fd> {
    raw: libc::pollfd,
    _fd: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> PollFd<'fd> {
    /// Waits until a read would not block: data, the end of the stream, a connection to accept, or an error.
    pub fn readable(fd: &'fd impl AsFd) -> Self {
        Self::new(fd, libc::POLLIN)
    }

    /// Waits until a write of at least one byte would not block, or fails.
    pub fn writable(fd: &'fd impl AsFd) -> Self {
        Self::new(fd, libc::POLLOUT)
    }

    /// Waits for either.
    pub fn readable_or_writable(fd: &'fd impl AsFd) -> Self {
        Self::new(fd, libc::POLLIN | libc::POLLOUT)
    }

    fn new(fd: &'fd impl AsFd, events: libc::c_short) -> Self {
        let raw = libc::pollfd {
            fd: fd.as_fd().as_raw_fd(),
            events,
            revents: 0,
        };
        Self {
            raw,
            _fd: PhantomData,
        }
    }

    /// Whether the last poll found anything.
    pub fn is_ready(&self) -> bool {
        self.raw.revents != 0
    }

    /// Whether there is something to read. Nothing but [`is_closed`](Self::is_closed) means the end of the stream.
    pub fn is_readable(&self) -> bool {
        self.raw.revents & libc::POLLIN != 0
    }

    /// Whether there is room to write.
    pub fn is_writable(&self) -> bool {
        self.raw.revents & libc::POLLOUT != 0
    }

    /// Whether the other end is gone.
    pub fn is_closed(&self) -> bool {
        self.raw.revents & libc::POLLHUP != 0
    }

    /// Whether the descriptor is in error: the next operation tells which. The write end of a pipe without readers is.
    pub fn is_error(&self) -> bool {
        self.raw.revents & (libc::POLLERR | libc::POLLNVAL) != 0
    }
}

impl fmt::Debug for PollFd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollFd")
            .field("fd", &self.raw.fd)
            .field("readable", &self.is_readable())
            .field("writable", &self.is_writable())
            .field("closed", &self.is_closed())
            .field("error", &self.is_error())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_of_an_answer_has_its_question() {
        let (reader, writer) = std::io::pipe().unwrap();
        let asked = |fd: PollFd<'_>| fd.raw.events;
        assert_eq!(asked(PollFd::readable(&reader)), libc::POLLIN);
        assert_eq!(asked(PollFd::writable(&writer)), libc::POLLOUT);
        assert_eq!(
            asked(PollFd::readable_or_writable(&reader)),
            libc::POLLIN | libc::POLLOUT
        );
        for (answer, questions) in [
            (0, [false; 5]),
            (libc::POLLIN, [true, true, false, false, false]),
            (libc::POLLOUT, [true, false, true, false, false]),
            (libc::POLLHUP, [true, false, false, true, false]),
            (libc::POLLERR, [true, false, false, false, true]),
            (libc::POLLNVAL, [true, false, false, false, true]),
            (libc::POLLIN | libc::POLLHUP, [true, true, false, true, false]),
        ] {
            let mut fd = PollFd::readable(&reader);
            fd.raw.revents = answer;
            let said = [
                fd.is_ready(),
                fd.is_readable(),
                fd.is_writable(),
                fd.is_closed(),
                fd.is_error(),
            ];
            assert_eq!(said, questions, "{answer:#x}");
            let [_, readable, writable, closed, error] = questions;
            let number = fd.raw.fd;
            let told = format!(
                "PollFd {{ fd: {number}, readable: {readable}, writable: {writable}, closed: {closed}, error: {error} }}"
            );
            assert_eq!(format!("{fd:?}"), told);
        }
    }
}
