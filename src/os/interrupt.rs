//! [`interrupt`]: a signal for a thread that this crate knows nothing of.
//!
//! Owns: what its outcome is called. Leaves to `platform::direct` the sending. Blocks its caller up to half a second.
//!
//! **Signal context:** no.

use super::OsTid;
use crate::error::RaiseError;
use crate::platform::{InterruptFailed, blocked, direct};
use crate::rung::Rung;
use crate::{runtime, set_up};

/// Interrupts a thread that never attached: another runtime's thread that is blocked in a system call.
///
/// [`Rung::Nudge`] sends it the nudge signal, so that the call returns EINTR. [`Rung::Fail`] makes the call return an
/// error that is not EINTR (or a time-out), which ends code that retries EINTR for ever; the table in
/// `docs/limitations.md` says which call returns what. `Ok` means that the signal was handled in the thread, and for
/// `Fail` that the result was replaced. Nothing is raised: the thread has no slot. An attached thread may be named too; while it
/// is [`uninterruptible`](crate::uninterruptible) or [shielded](crate::shield) its calls do not fail.
///
/// Blocks the caller up to about half a second, while the thread cannot be caught in a blocked call. The kernel reuses
/// thread numbers: the caller must know that the thread is still there.
///
/// # Errors
/// [`RaiseError::NoSuchThread`], [`RaiseError::NotBlocked`] if it runs, [`RaiseError::Refused`] if its call must not be
/// failed (a futex, `close`), [`RaiseError::Unheard`] if it blocks the signal, [`RaiseError::Unsupported`] for a rung
/// that needs a region of ours, and everywhere but on Linux x86-64.
///
/// ```
/// use throwto::{RaiseError, Rung, os};
/// let nobody = os::OsTid::from_raw(i32::MAX);
/// assert!(matches!(os::interrupt(nobody, Rung::Nudge), Err(RaiseError::NoSuchThread { .. })));
/// ```
pub fn interrupt(tid: OsTid, rung: Rung) -> Result<(), RaiseError> {
    let fail = match rung {
        Rung::Nudge => false,
        Rung::Fail => true,
        _ => {
            return Err(RaiseError::Unsupported {
                what: "os::interrupt with this rung",
                reason: "a thread that never attached has no region; use Rung::Nudge or Rung::Fail",
            });
        }
    };
    set_up::ready()?;
    let signal = runtime::signal();
    direct::interrupt(tid.as_raw(), signal, fail).map_err(|failed| match failed {
        InterruptFailed::NoSuchThread => RaiseError::NoSuchThread { asked: tid.into() },
        InterruptFailed::NotBlocked => RaiseError::NotBlocked { os_tid: tid, place: blocked::describe(tid.as_raw()) },
        InterruptFailed::Never { call } => RaiseError::Refused { os_tid: tid, call },
        InterruptFailed::SignalBlocked => {
            RaiseError::Unheard { os_tid: tid, signal, reason: "its signal mask blocks it" }
        }
        InterruptFailed::Unheard => RaiseError::Unheard {
            os_tid: tid,
            signal,
            reason: "sent, but no handler of ours ran within 50 ms; is the thread stopped, or the handler replaced?",
        },
        InterruptFailed::Busy => RaiseError::Unsupported {
            what: "another os::interrupt",
            reason: "64 are under way; try again",
        },
        InterruptFailed::Unsupported => RaiseError::Unsupported {
            what: "os::interrupt",
            reason: "throwto cannot signal a thread by its number on this system; attach it, and use foreign::call",
        },
        InterruptFailed::Os { .. } => {
            RaiseError::Unheard { os_tid: tid, signal, reason: "the kernel refused the signal" }
        }
    })
}
