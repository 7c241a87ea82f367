//! Blocking input and output that can be raised into: the twins of `std::io` and `std::net`.
//!
//! Owns: [`Interruptible`] with `Read` and `Write`, and what a system call's end means to an `io::Result`. Sockets are in
//! `socket`, connecting in `connect`, readiness in `readiness`. Leaves to `window` the system call. Everything here may block.
//!
//! **Signal context:** no.
//!
//! Every operation keeps these rules:
//!
//! - R1. *Results win.* What has been read, written, accepted or received is returned; a raise that came meanwhile stays
//!   pending. An error that holds a [`Raised`](crate::Raised) means that the operation did not happen: no byte was
//!   moved, no descriptor was made.
//! - R2. It is a cancellation point, even if it would not block. Under [`mask`](crate::mask) it raises only if it
//!   really blocks, under [`uninterruptible`](crate::uninterruptible) never. On a thread that is not attached it is a
//!   plain system call.
//! - R3. `ErrorKind::Interrupted` is never returned: a signal that raises nothing does not end an operation. A time-out
//!   that is set on the socket itself starts anew then.
//! - R4. Descriptors that do not block return `WouldBlock`, as always.

mod connect;
mod readiness;
mod socket;

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

pub use crate::platform::poll::PollFd;
pub use connect::{connect, connect_timeout, connect_unix};
pub(crate) use readiness::poll_until;
pub use readiness::{poll, wait_readable, wait_writable};
pub use socket::Incoming;

use crate::platform::calls::Call;
use crate::window::{Called, system_call};

/// Makes a call until no signal is in its way: its result, its error, or the exception as an error of kind `Other`.
#[track_caller]
pub(crate) fn complete(call: &Call<'_>) -> io::Result<usize> {
    loop {
        if let Some(result) = attempt(call)? {
            return Ok(result);
        }
    }
}

/// Makes a call once. `None` if a signal of the program ended it.
#[track_caller]
pub(crate) fn attempt(call: &Call<'_>) -> io::Result<Option<usize>> {
    match system_call(call) {
        Called::Done(error) if error < 0 => Err(io::Error::from_raw_os_error(-error as i32)),
        Called::Done(result) => Ok(Some(result as usize)),
        Called::Interrupted => Ok(None),
        Called::Raised(raised) => Err(raised.into()),
    }
}

/// A file, pipe, socket or terminal whose blocking operations can be raised into.
///
/// It reads and writes the descriptor itself: wrap `std::io::stdin()` only if nobody else reads through it, since std's
/// buffer is not seen. [`BufReader`](std::io::BufReader) may go around it. A raise arrives as an `io::Error` of kind
/// `Other`; [`Raised::from_io`](crate::Raised::from_io) gets it back. "Raised" from one `read` or `write` means that no
/// byte was moved; in `read_exact`, `write_all` and the like, earlier parts of the loop have moved theirs.
///
/// What a raise cannot break: the disk. Reads of ordinary files do not count as blocking for the kernel.
///
/// ```
/// use std::io::Read;
/// use throwto::{Raised, Stop, io::Interruptible};
/// let (reader, _writer) = std::io::pipe()?;
/// let worker = throwto::thread::spawn(move || {
///     // Nobody writes: this would block for ever.
///     let error = Interruptible::new(reader).read(&mut [0; 16]).unwrap_err();
///     Raised::from_io(error).unwrap().is::<Stop>()
/// });
/// worker.raise(Stop)?;
/// assert!(worker.join()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Interruptible<T> {
    inner: T,
}

impl<T> Interruptible<T> {
    /// Wraps `inner`. Nothing is changed about the descriptor.
    pub const fn new(inner: T) -> Self {
        Self { inner }
    }

    /// What is wrapped. Its own operations cannot be raised into.
    pub const fn get_ref(&self) -> &T {
        &self.inner
    }

    /// What is wrapped. Its own operations cannot be raised into.
    pub const fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Unwraps it.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<T> From<T> for Interruptible<T> {
    fn from(inner: T) -> Self {
        Self::new(inner)
    }
}

impl<T: AsFd> AsFd for Interruptible<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// As for the files and sockets of std: descriptors need no exclusive access.
impl<T: AsFd> Read for &Interruptible<T> {
    #[track_caller]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        complete(&Call::read(self.as_fd(), buffer))
    }

    #[track_caller]
    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        complete(&Call::readv(self.as_fd(), buffers))
    }
}

/// As for the files and sockets of std: descriptors need no exclusive access.
///
/// Writing to a socket or pipe without a reader raises `SIGPIPE`, which Rust programs ignore: `BrokenPipe` then.
impl<T: AsFd> Write for &Interruptible<T> {
    #[track_caller]
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        complete(&Call::write(self.as_fd(), buffer))
    }

    #[track_caller]
    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        complete(&Call::writev(self.as_fd(), buffers))
    }

    /// Nothing is buffered here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: AsFd> Read for Interruptible<T> {
    #[track_caller]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }

    #[track_caller]
    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(buffers)
    }
}

impl<T: AsFd> Write for Interruptible<T> {
    #[track_caller]
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self).write(buffer)
    }

    #[track_caller]
    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
