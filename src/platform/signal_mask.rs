//! The calling thread's signal mask.
//!
//! Owns: `pthread_sigmask`. Leaves to the callers which signal, and when. Anyone may call, about itself; nothing blocks or
//! allocates.
//!
//! The numbers are those of the C library and not `nix`'s, which knows no real-time signals.
//!
//! **Signal context:** no need; nothing here would forbid it.

#![allow(unsafe_code)]

use nix::sys::signal::SigSet;

/// Whether the calling thread blocks `signal`.
pub(crate) fn is_blocked(signal: libc::c_int) -> bool {
    let mut mask = set_of(None);
    // SAFETY: a query: the present mask is written to `mask`.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask) };
    // SAFETY: `mask` is an initialised signal set.
    unsafe { libc::sigismember(&raw const mask, signal) == 1 }
}

/// Unblocks `signal` in the calling thread.
pub(crate) fn unblock(signal: libc::c_int) {
    change(libc::SIG_UNBLOCK, signal);
}

/// Blocks `signal` in the calling thread.
#[cfg(test)]
#[cfg_attr(
    not(throwto_ladder),
    expect(dead_code, reason = "the window's tests are not there")
)]
pub(crate) fn block(signal: libc::c_int) {
    change(libc::SIG_BLOCK, signal);
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
    let mut before = set_of(None);
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

/// Has the calling thread handle the signals that are pending for it: the kernel does so on the way out of any call.
pub(crate) fn take_pending() {
    // SAFETY: no arguments, no effects; no C library keeps the answer, which may change.
    unsafe { libc::getppid() };
}

fn change(how: libc::c_int, signal: libc::c_int) {
    let set = set_of(Some(signal));
    // SAFETY: `set` is an initialised signal set; the mask of this thread alone is changed.
    unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
}

fn set_of(signal: Option<libc::c_int>) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: fills the whole set, and cannot fail.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: filled above.
    let mut set = unsafe { set.assume_init() };
    if let Some(signal) = signal {
        // SAFETY: `set` is an initialised signal set; an unknown number changes nothing.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}
