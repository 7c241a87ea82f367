//! Sending nudges, and the calling thread's own signal mask.
//!
//! Owns: `rt_tgsigqueueinfo` and what is said in it. Leaves to [`super::handler`]: what it does on arrival; to the
//! caller: holding a pin, so that the thread is there.
//! Anyone may call; nothing blocks or allocates.
//!
//! **Signal context:** [`send`] yes (the handler requeues with it): one system call.

#![allow(unsafe_code)]

use nix::sys::signal::SigSet;

use crate::protocol::record::Record;
use crate::protocol::word::Sender;

use super::handler::{NUDGE_CODE, errno, process};

/// The head of the kernel's `siginfo_t` for queued signals; the rest of its 128 bytes is padding.
#[repr(C)]
struct Info {
    signo: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    #[cfg(target_pointer_width = "64")]
    _pad: libc::c_int,
    pid: libc::pid_t,
    uid: libc::uid_t,
    value: usize,
    _rest: [u64; 12],
}

const _: () = assert!(size_of::<Info>() == 128);

/// Sends a nudge for `record` to its thread. `false` if the kernel knows no such thread.
pub(crate) fn send(record: &Record, from: Sender, os_tid: i32, signal: libc::c_int) -> bool {
    send_value(record.token(from), os_tid, signal) == 0
}

/// Whether a nudge reaches the calling thread, whose record this is. A directed signal to oneself is handled before the
/// call that sent it returns.
///
/// # Errors
/// The errno, if the system does not let it be sent.
pub(crate) fn reaches_me(record: &Record, signal: libc::c_int) -> Result<bool, i32> {
    let heard = record.heard();
    let errno = send_value(record.token(Sender::Other), os_tid(), signal);
    if errno != 0 {
        return Err(errno);
    }
    if record.heard() == heard {
        // Valgrind runs the handler after the next system call that may block, not after the one that sent.
        // SAFETY: no arguments.
        unsafe { libc::sched_yield() };
    }
    Ok(record.heard() != heard)
}

/// Sends a nudge that carries `value`. Returns 0 or an errno.
pub(crate) fn send_value(value: usize, os_tid: i32, signal: libc::c_int) -> i32 {
    let process = process();
    let info = Info {
        signo: signal,
        errno: 0,
        code: NUDGE_CODE,
        #[cfg(target_pointer_width = "64")]
        _pad: 0,
        pid: process,
        uid: 0,
        value,
        _rest: [0; 12],
    };
    // SAFETY: the kernel reads 128 bytes of `info` and touches nothing else of ours.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            process,
            os_tid,
            signal,
            &raw const info,
        )
    };
    if sent == 0 { 0 } else { errno() }
}

/// Has the calling thread handle the signals that are pending for it: the kernel does so on the way out of any call.
pub(crate) fn take_pending() {
    // SAFETY: no arguments, no effects.
    unsafe { libc::syscall(libc::SYS_gettid) };
}

/// The kernel's number of the calling thread.
pub(crate) fn os_tid() -> i32 {
    // SAFETY: no arguments, no effects.
    unsafe { libc::gettid() }
}

/// Whether the calling thread blocks `signal`.
pub(crate) fn is_blocked(signal: libc::c_int) -> bool {
    let mut mask = empty_set();
    // SAFETY: a query: the present mask is written to `mask`.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask) };
    // SAFETY: `mask` was filled above.
    unsafe { libc::sigismember(&raw const mask, signal) == 1 }
}

/// Whether the process ignores `signal`.
pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: plain data, for which all zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a query: the present action is written to `action`.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Unblocks `signal` in the calling thread.
pub(crate) fn unblock(signal: libc::c_int) {
    let mut set = empty_set();
    // SAFETY: `set` is an initialised signal set.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: changes this thread's mask only.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Blocks `signal` in the calling thread.
#[cfg(test)]
pub(crate) fn block(signal: libc::c_int) {
    let mut set = empty_set();
    // SAFETY: `set` is an initialised signal set.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: changes this thread's mask only.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Blocks every signal in the calling thread: no handler of the program runs on the driver.
pub(crate) fn block_all() {
    // It fails for an invalid set only.
    let _ = SigSet::all().thread_block();
}

/// While it lives no signal is handled in the calling thread but those that its own instructions cause: no handler of the program runs
/// on top of what it does.
#[must_use]
pub(crate) struct Quiet(libc::sigset_t);

/// What a fault of the thread's own brings. Blocked, it would end the process, whoever was to be told.
const OWN: [libc::c_int; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGABRT,
];

/// For locks that a handler of the program might ask for too. Two system calls: not where speed counts.
pub(crate) fn quiet() -> Quiet {
    let mut before = empty_set();
    let mut all = *SigSet::all().as_ref();
    for signal in OWN {
        // SAFETY: `all` is an initialised signal set.
        unsafe { libc::sigdelset(&raw mut all, signal) };
    }
    // SAFETY: changes this thread's mask only; what it was is written to `before`.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before) };
    Quiet(before)
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: this thread's own mask of before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, and all zero is the empty set on Linux.
    unsafe { std::mem::zeroed() }
}
