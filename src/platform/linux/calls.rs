//! The system calls of ours that may block, with arguments that are right by construction.
//!
//! Owns: [`Call`] and its safe constructors for files, processes and readiness; those for sockets are in
//! `socket_calls`. Leaves to `region` when to make one, to `arch` how.
//! [`Call::in_window`] and [`Call::unchecked`] block as the call does.
//!
//! **Signal context:** no.
//!
//! - I1. A descriptor that a call makes belongs to its `Call` from the moment it exists, until it is taken out: it is
//!   closed on every way out that nobody thought of.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use super::futex;
use super::poll::PollFd;
use crate::platform::arch;

pub(crate) const EINTR: isize = libc::EINTR as isize;

/// One system call, ready to be made any number of times.
pub(crate) struct Call<'a> {
    number: isize,
    args: [usize; 6],
    makes_fd: bool,
    made: RefCell<Option<OwnedFd>>,
    /// The time limit of a poll, which the kernel reads, and overwrites with what is left.
    _limit: Option<Box<Cell<libc::timespec>>>,
    _borrows: PhantomData<&'a mut [u8]>,
}

impl<'a> Call<'a> {
    /// Makes the call unless `word & interest` is set before it starts.
    pub(crate) fn in_window(&self, word: &AtomicU64, interest: u32) -> isize {
        // SAFETY: 1. the word is borrowed. 2. a `Call` is only made by constructors in `platform::linux`, whose
        // arguments are right and borrowed for `'a` or owned by the call.
        let result = unsafe { arch::window(futex::low_half(word), interest, self.number, self.args) };
        if self.makes_fd && result >= 0 {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else has seen it.
            *self.made.borrow_mut() = Some(unsafe { OwnedFd::from_raw_fd(result as i32) });
        }
        result
    }

    /// Makes the call, come what may.
    pub(crate) fn unchecked(&self) -> isize {
        let nothing = AtomicU64::new(0);
        self.in_window(&nothing, 0)
    }

    /// The descriptor that the call has made.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        self.made
            .into_inner()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    pub(super) fn new(number: libc::c_long, args: [usize; 6]) -> Self {
        Self {
            number: number as isize,
            args,
            makes_fd: false,
            made: RefCell::new(None),
            _limit: None,
            _borrows: PhantomData,
        }
    }

    /// A call whose result is a new descriptor.
    pub(super) fn making_fd(number: libc::c_long, args: [usize; 6]) -> Self {
        Self {
            makes_fd: true,
            ..Self::new(number, args)
        }
    }

    pub(crate) fn read(fd: BorrowedFd<'a>, buffer: &'a mut [u8]) -> Self {
        let args = [raw(fd), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
        Self::new(libc::SYS_read, args)
    }

    pub(crate) fn write(fd: BorrowedFd<'a>, buffer: &'a [u8]) -> Self {
        let args = [raw(fd), buffer.as_ptr() as usize, buffer.len(), 0, 0, 0];
        Self::new(libc::SYS_write, args)
    }

    /// At most as many buffers as the kernel takes are used.
    pub(crate) fn readv(fd: BorrowedFd<'a>, buffers: &'a mut [io::IoSliceMut<'_>]) -> Self {
        // `IoSliceMut` has the layout of `iovec` by its documentation.
        let count = buffers.len().min(MAX_BUFFERS);
        Self::new(
            libc::SYS_readv,
            [raw(fd), buffers.as_mut_ptr() as usize, count, 0, 0, 0],
        )
    }

    /// At most as many buffers as the kernel takes are used.
    pub(crate) fn writev(fd: BorrowedFd<'a>, buffers: &'a [io::IoSlice<'_>]) -> Self {
        let count = buffers.len().min(MAX_BUFFERS);
        Self::new(
            libc::SYS_writev,
            [raw(fd), buffers.as_ptr() as usize, count, 0, 0, 0],
        )
    }

    /// Waits for one of `fds`, at most for `limit` (seconds, nanoseconds). The result is how many are ready.
    pub(crate) fn poll(fds: &'a mut [PollFd<'_>], limit: Option<(u64, u32)>) -> Self {
        let limit = limit.map(|(seconds, nanoseconds)| {
            Box::new(Cell::new(libc::timespec {
                tv_sec: seconds.min(i64::MAX as u64 / 2) as libc::time_t,
                tv_nsec: nanoseconds as libc::c_long,
            }))
        });
        let time = limit.as_ref().map_or(0, |limit| limit.as_ptr() as usize);
        let args = [fds.as_mut_ptr() as usize, fds.len(), time, 0, 0, 0];
        Self {
            _limit: limit,
            ..Self::new(libc::SYS_ppoll, args)
        }
    }

    /// Waits until the child `pid` has ended, and leaves it to be reaped.
    pub(crate) fn wait_for_end(pid: u32) -> Self {
        let options = libc::WEXITED | libc::WNOWAIT;
        let args = [libc::P_PID as usize, pid as usize, 0, options as usize, 0, 0];
        Self::new(libc::SYS_waitid, args)
    }

    /// Takes the whole-file lock of `fd`'s open file.
    pub(crate) fn lock(fd: BorrowedFd<'a>, sharing: Sharing) -> Self {
        let operation = match sharing {
            Sharing::Shared => libc::LOCK_SH,
            Sharing::Exclusive => libc::LOCK_EX,
        };
        Self::new(libc::SYS_flock, [raw(fd), operation as usize, 0, 0, 0, 0])
    }

    /// Opens what exists at `path`: blocks if it is a FIFO without anybody at the other end.
    pub(crate) fn open(path: &'a CStr, access: Access) -> Self {
        let flags = libc::O_CLOEXEC
            | match access {
                Access::Read => libc::O_RDONLY,
                Access::Write => libc::O_WRONLY,
            };
        let here = libc::AT_FDCWD as usize;
        Self::making_fd(
            libc::SYS_openat,
            [here, path.as_ptr() as usize, flags as usize, 0, 0, 0],
        )
    }
}

/// What the kernel takes in one `readv` (`UIO_MAXIOV`).
const MAX_BUFFERS: usize = 1024;

/// Who else may hold a file's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    Shared,
    Exclusive,
}

/// What an opened file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A descriptor that becomes readable when the child `pid` ends. It is an error where the kernel knows no such thing.
pub(crate) fn watch_process(pid: u32) -> io::Result<OwnedFd> {
    let call = Call::making_fd(libc::SYS_pidfd_open, [pid as usize, 0, 0, 0, 0, 0]);
    match call.unchecked() {
        error if error < 0 => Err(io::Error::from_raw_os_error(-error as i32)),
        _ => call.into_fd(),
    }
}

pub(super) fn raw(fd: BorrowedFd<'_>) -> usize {
    fd.as_raw_fd() as usize
}
