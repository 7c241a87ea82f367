//! The window: system calls of ours that a raise can break exactly, with nothing lost and nothing done twice.
//!
//! Owns: [`system_call`] and what it does with each way the stub comes back. Leaves to `platform::arch` the stub, to
//! `linux::handler` what happens when a nudge meets it. Blocks as the call does.
//!
//! **Signal context:** no; the handler meets a thread in the middle of it.
//!
//! A cancellation point, as every wait of this crate: unmasked, it raises at once if an exception is pending; masked,
//! only when it would really block. "Raised" means that the call did not happen.
//!
//! | the stub returns | so |
//! | --- | --- |
//! | a result, or an errno but EINTR | it happened: the result wins, whatever is pending |
//! | `CANCELLED` | it did not start: raise if that is allowed, else again |
//! | `-EINTR` | it blocked and nothing moved: raise if that is allowed, masked too; else tell the caller |

use crate::current;
use crate::mask::enlist;
use crate::platform::calls::{self, Call};
use crate::platform::{arch, nudge};
use crate::protocol::record::Fences;
use crate::protocol::word::{Attention, Kind, Level};
use crate::raised::Raised;
use crate::region::Inside;
use crate::runtime;
use crate::safepoint::{Moment, deliverable, take};

/// How a system call of ours ended.
#[derive(Debug)]
pub(crate) enum Called {
    /// Its result, or minus an errno other than EINTR.
    Done(isize),
    /// A handler of the program ran, and nothing was raised: EINTR, for the caller to retry or to look at the clock.
    Interrupted,
    /// Nothing happened.
    Raised(Raised),
}

/// Makes a system call through the window.
///
/// `args` must be right for the call `number` and point to what outlives it: the safe wrappers in `platform` build them.
#[track_caller]
pub(crate) fn system_call(call: &Call<'_>) -> Called {
    let Some(owner) = current::owner() else {
        return settled(call.unchecked());
    };
    let record = owner.record();
    // Whatever the stub may not start with. REQUEUED: our signal is blocked just now, so nothing could break the call.
    const ALWAYS: u64 = Attention::REQUEUED;
    loop {
        let inside = Inside::enter(owner, Kind::Window, 0, std::ptr::null_mut(), Fences::Full);
        let mut interest = Attention::CALLS | ALWAYS;
        if inside.calls() {
            if deliverable(owner, Moment::Running) {
                drop(inside);
                if let Some(raised) = take(owner, Moment::Running) {
                    return Called::Raised(raised);
                }
                continue;
            }
            // Something is pending and held back. Masked: go in, and have the driver nudge us if we really block. Under
            // a shield: the driver nudges at its end. Uninterruptible, or unwinding: go in and be left alone.
            interest = ALWAYS;
            if owner.region().level() < Level::Uninterruptible && !std::thread::panicking() {
                enlist(owner);
            }
        }
        let result = call.in_window(record.attention_word(), interest as u32);
        drop(inside);
        if owner.consume(Attention::REQUEUED) {
            nudge::unblock(runtime::signal());
        }
        let interrupted = result == -(calls::EINTR);
        if result != arch::CANCELLED && !interrupted {
            return settled(result);
        }
        let moment = if interrupted {
            Moment::Blocking
        } else {
            Moment::Running
        };
        if let Some(raised) = take(owner, moment) {
            return Called::Raised(raised);
        }
        if interrupted {
            return Called::Interrupted;
        }
    }
}

fn settled(result: isize) -> Called {
    if result == -(calls::EINTR) {
        Called::Interrupted
    } else {
        Called::Done(result)
    }
}
