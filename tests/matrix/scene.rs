//! One blocking call and the world around it: what a row of the matrix is made of.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How a call of a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It did what it was called for, with this result.
    Done(isize),
    /// It was raised into, or made to fail: it must have done nothing.
    Broken,
    /// It is a sleep of the C library, whose answer is the same either way.
    Either,
}

/// One call that blocks, and both its ends.
pub struct Scene {
    /// Makes the call, on the worker's thread.
    pub call: Box<dyn FnMut() -> io::Result<isize> + Send>,
    /// Lets the call complete, from another thread; it never blocks, whether anybody still waits or not. Runs once.
    pub complete: Box<dyn FnMut() + Send>,
    /// When the call has ended and `complete` has run: panics if anything was lost, doubled or left behind.
    pub settle: Box<dyn FnOnce(End) + Send>,
}

impl Scene {
    pub fn new(
        call: impl FnMut() -> io::Result<isize> + Send + 'static,
        complete: impl FnMut() + Send + 'static,
        settle: impl FnOnce(End) + Send + 'static,
    ) -> Self {
        Self {
            call: Box::new(call),
            complete: Box::new(complete),
            settle: Box::new(settle),
        }
    }
}

/// Whose call it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// This crate's.
    Ours,
    /// The C library's, by code that repeats it as long as the answer is EINTR, where the rung fail is allowed.
    Stubborn,
    /// The C library's, by code that takes EINTR for an answer: the fail rung never touches the call.
    Meek,
}

/// One row of the matrix.
pub struct Row {
    /// The cancellation point as POSIX names it, if it is one.
    pub posix: Option<&'static str>,
    /// What is called.
    pub call: &'static str,
    pub how: How,
    /// The system call it blocks in, as the kernel's tables name it: the beginning of `where_blocked`.
    pub place: &'static str,
    /// What a broken call leaves, in the words of the table. `settle` of the scene has checked it in every situation.
    pub leaves: &'static str,
    /// How many rounds of the race a test can afford every time.
    pub rounds: u64,
    pub scene: fn() -> Scene,
}

/// The answer of the C library as std has it.
pub fn answer(result: isize) -> io::Result<isize> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// What the C library has made: a descriptor of ours.
#[track_caller]
pub fn owned(fd: isize) -> OwnedFd {
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the call has just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// As many bytes as there are, up to `most`, without waiting.
pub fn drain(fd: &impl AsRawFd, most: usize) -> usize {
    let mut room = vec![0_u8; most];
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut drained = 0;
    // SAFETY: one pollfd, borrowed for the call.
    while drained < most && unsafe { libc::poll(&raw mut poll, 1, 0) } == 1 {
        // SAFETY: `room` is ours and has at least so much room.
        let read = unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), most - drained) };
        match usize::try_from(read) {
            Ok(0) | Err(_) => break,
            Ok(read) => drained += read,
        }
    }
    drained
}

/// A pipe whose two ends live as long as the scene: reader, writer.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = io::pipe().unwrap();
    (reader.into(), writer.into())
}

/// Fills what the descriptor writes to, byte by byte at last, and returns how many bytes that took.
pub fn fill(fd: &impl AsRawFd) -> usize {
    let fd = fd.as_raw_fd();
    // SAFETY: flags of a descriptor that is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) };
    let block = [0_u8; 4096];
    let mut filled = 0;
    for size in [4096, 1] {
        // SAFETY: `block` has so many bytes.
        while let written @ 1.. = unsafe { libc::write(fd, block.as_ptr().cast(), size) } {
            filled += written as usize;
        }
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETFL, flags) };
    filled
}
