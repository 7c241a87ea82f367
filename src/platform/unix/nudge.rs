//! Sending nudges, and the calling thread's own signal mask and number.
//!
//! Owns: `pthread_kill`. Leaves to [`super::handler`]: what it does on arrival; to the caller: holding a pin, so that the
//! thread is there. Anyone may call; nothing blocks or allocates.
//!
//! **Signal context:** no need.

#![allow(unsafe_code)]

use std::sync::atomic::Ordering;

use super::addressee;
use crate::protocol::record::{Pin, Record};
use crate::protocol::word::Sender;

/// Has the calling thread handle the signals that are pending for it: the kernel does so on the way out of any call.
pub(crate) fn take_pending() {
    // SAFETY: no arguments, no effects; no C library keeps the answer, which may change.
    unsafe { libc::getppid() };
}

/// Sends a nudge for `record` to its thread. `false` if there is none.
pub(crate) fn send(record: &Record, from: Sender, os_tid: i32, signal: libc::c_int) -> bool {
    // Relaxed: the caller read `os_tid`, which is stored behind it, with Acquire.
    let thread = record.thread.load(Ordering::Relaxed);
    if os_tid == 0 || thread == 0 {
        return false;
    }
    addressee::note(thread, record.token(from));
    // SAFETY: the caller's pin keeps the thread from leaving its record (I3 of `protocol::record`), which it does before
    // it ends: the handle is a live thread's.
    unsafe { libc::pthread_kill(thread as libc::pthread_t, signal) == 0 }
}

/// Whether a nudge reaches the calling thread, whose record this is, and breaks its calls. A directed signal to oneself
/// is handled before the call that sent it returns.
///
/// # Errors
/// None: a live thread can always be sent one.
pub(crate) fn reaches_me(record: &Record, signal: libc::c_int) -> Result<bool, i32> {
    let heard = record.heard();
    // As a raiser does, so that the handler takes it for ours. `None`: a raiser's nudge is under way, and serves as well.
    let pin = record.pin_to_nudge(record.attention().generation());
    let from = pin.as_ref().map_or(Sender::Other, Pin::sender);
    send(record, from, os_tid(), signal);
    let reached = record.heard() != heard;
    if pin.is_some() && !reached {
        record.unsent();
    }
    Ok(reached && !super::handler::restarts(signal))
}

/// The kernel's number of the calling thread.
#[cfg(target_os = "linux")]
pub(crate) fn os_tid() -> i32 {
    // SAFETY: no arguments, no effects.
    unsafe { libc::gettid() }
}

/// The kernel's number of the calling thread.
#[cfg(target_os = "freebsd")]
pub(crate) fn os_tid() -> i32 {
    // SAFETY: no arguments, no effects.
    unsafe { libc::pthread_getthreadid_np() }
}

/// The kernel's number of the calling thread: the low half of the 64 bits that count the threads of the machine.
#[cfg(target_vendor = "apple")]
pub(crate) fn os_tid() -> i32 {
    let mut number = 0_u64;
    // SAFETY: no arguments, no effects.
    let me = unsafe { libc::pthread_self() };
    // SAFETY: writes one number; the thread is the calling one.
    unsafe { libc::pthread_threadid_np(me, &raw mut number) };
    number as i32
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

/// Blocks every signal in the calling thread: no handler of the program runs on the driver.
pub(crate) fn block_all() {
    // It fails for an invalid set only.
    let _ = nix::sys::signal::SigSet::all().thread_block();
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
    let mut all = *nix::sys::signal::SigSet::all().as_ref();
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
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: fills the whole set, and cannot fail.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: filled above.
    unsafe { set.assume_init() }
}
