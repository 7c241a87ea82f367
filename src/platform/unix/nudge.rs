//! Sending nudges, and the calling thread's own number.
//!
//! Owns: `pthread_kill`. Leaves to [`super::handler`]: what it does on arrival; to the caller: holding a pin, so that the
//! thread is there. Anyone may call; nothing blocks or allocates.
//!
//! **Signal context:** no need.

#![allow(unsafe_code)]

use std::sync::atomic::Ordering;

use super::addressee;
pub(crate) use crate::platform::disposition::is_ignored;
use crate::platform::disposition::restarts;
pub(crate) use crate::platform::signal_mask::{Quiet, block_all, is_blocked, quiet, take_pending, unblock};
use crate::protocol::record::{Pin, Record};
use crate::protocol::word::Sender;

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
    Ok(reached && !restarts(signal))
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
