//! The system calls of ours that may block, with arguments that are right by construction.
//!
//! Owns: [`Call`] and its safe constructors. Leaves to `region` when to make one, to `arch` how.
//! [`Call::in_window`] and [`Call::unchecked`] block as the call does.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU64;

use super::futex;
use crate::platform::arch;

pub(crate) const EINTR: isize = libc::EINTR as isize;

/// One system call, ready to be made any number of times.
pub(crate) struct Call<'a> {
    number: isize,
    args: [usize; 6],
    _borrows: PhantomData<&'a mut [u8]>,
}

impl<'a> Call<'a> {
    /// Makes the call unless `word & interest` is set before it starts.
    pub(crate) fn in_window(&self, word: &AtomicU64, interest: u32) -> isize {
        // SAFETY: 1. the word is borrowed. 2. a `Call` is only made by the constructors below, whose arguments are right
        // and borrowed for `'a`.
        unsafe { arch::window(futex::low_half(word), interest, self.number, self.args) }
    }

    /// Makes the call, come what may.
    pub(crate) fn unchecked(&self) -> isize {
        let nothing = AtomicU64::new(0);
        self.in_window(&nothing, 0)
    }

    fn new(number: libc::c_long, args: [usize; 6]) -> Self {
        Self {
            number: number as isize,
            args,
            _borrows: PhantomData,
        }
    }

    pub(crate) fn read(fd: BorrowedFd<'a>, buffer: &'a mut [u8]) -> Self {
        let args = [raw(fd), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
        Self::new(libc::SYS_read, args)
    }

    pub(crate) fn write(fd: BorrowedFd<'a>, buffer: &'a [u8]) -> Self {
        Self::new(
            libc::SYS_write,
            [raw(fd), buffer.as_ptr() as usize, buffer.len(), 0, 0, 0],
        )
    }
}

fn raw(fd: BorrowedFd<'_>) -> usize {
    fd.as_raw_fd() as usize
}
