//! Sending nudges.
//!
//! Owns: `rt_tgsigqueueinfo` and what is said in it. Leaves to [`super::handler`]: what it does on arrival; to the
//! caller: holding a pin, so that the thread is there.
//! Anyone may call; nothing blocks or allocates.
//!
//! **Signal context:** [`send`] yes (the handler requeues with it): one system call.

#![allow(unsafe_code)]

use nix::errno::Errno;

pub(crate) use crate::platform::disposition::is_ignored;
use crate::platform::disposition::process;
#[cfg(test)]
pub(crate) use crate::platform::signal_mask::block;
pub(crate) use crate::platform::signal_mask::{Quiet, block_all, is_blocked, quiet, take_pending, unblock};
use crate::protocol::record::Record;
use crate::protocol::word::Sender;

/// The `si_code` of a nudge: negative, as the kernel demands of a sibling thread, and used by nobody else known.
pub(super) const NUDGE_CODE: libc::c_int = -0x7474;

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
    if sent == 0 { 0 } else { Errno::last_raw() }
}

/// The kernel's number of the calling thread.
pub(crate) fn os_tid() -> i32 {
    // SAFETY: no arguments, no effects.
    unsafe { libc::gettid() }
}
