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
//! - I1. A window never starts its call while the handler has our signal blocked (`REQUEUED`): the stub tests that bit at
//!   every mask level, and every way out unblocks the signal. Else the nudges of a later raise would wait behind the
//!   mask for ever. One exception: a call in a signal handler on top of another window, while an exception is pending and
//!   held back. Its nudge would find the outer window and be requeued again and again; so the call starts, the nudge
//!   waits behind the handler, and the bit stays for the next call.
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
use crate::protocol::record::{Fences, Owner};
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
    // In a handler that runs on top of a call of ours.
    let nested = owner.region().kind() == Kind::Window;
    loop {
        let inside = Inside::enter(owner, Kind::Window, 0, std::ptr::null_mut(), Fences::Full);
        let mut interest = Attention::CALLS | Attention::REQUEUED;
        if inside.calls() {
            if deliverable(owner, Moment::Running) {
                leave(owner, inside, interest);
                if let Some(raised) = take(owner, Moment::Running) {
                    return Called::Raised(raised);
                }
                continue;
            }
            // Something is pending and held back. Masked: go in, and have the driver nudge us if we really block. Under
            // a shield: the driver nudges at its end. Uninterruptible, or unwinding: go in and be left alone.
            interest = if nested { 0 } else { Attention::REQUEUED };
            if owner.region().level() < Level::Uninterruptible && !std::thread::panicking() {
                enlist(owner);
            }
        }
        let result = call.in_window(record.attention_word(), interest as u32);
        leave(owner, inside, interest);
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

/// Ends the region, and only then lets a requeued nudge through, if that was of interest: it finds nothing to break any
/// more.
fn leave(owner: Owner, inside: Inside, interest: u64) {
    drop(inside);
    if interest & Attention::REQUEUED != 0 && owner.consume(Attention::REQUEUED) {
        nudge::unblock(runtime::signal());
    }
}

fn settled(result: isize) -> Called {
    if result == -(calls::EINTR) {
        Called::Interrupted
    } else {
        Called::Done(result)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Write};
    use std::os::fd::AsFd;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::ThreadId;

    /// What the handler does when a nudge falls between the entry of the region and the stub.
    fn requeue(record: &crate::protocol::record::Record) {
        nudge::block(runtime::signal());
        record.note_requeued();
        nudge::send(
            record,
            crate::protocol::word::Sender::Other,
            nudge::os_tid(),
            runtime::signal(),
        );
    }

    /// Reads in an attached thread that starts with `prepare`. A read that hangs is set free after some seconds, and
    /// returns the byte that it must not see.
    fn read_after(
        prepare: impl FnOnce(Owner) + Send + 'static,
        wrap: fn(&mut dyn FnMut()),
    ) -> (String, bool) {
        let (reader, mut writer): (PipeReader, PipeWriter) = std::io::pipe().unwrap();
        let (tell, told) = mpsc::channel();
        let worker = crate::thread::spawn(move || {
            let owner = current::owner().unwrap();
            let mut end = String::new();
            let mut prepare = Some(prepare);
            wrap(&mut || {
                prepare.take().unwrap()(owner);
                let called = system_call(&Call::read(reader.as_fd(), &mut [0; 8]));
                end = format!("{called:?}");
            });
            tell.send((end, nudge::is_blocked(runtime::signal()))).unwrap();
        });
        let end = told.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| {
            writer.write_all(b"!").unwrap();
            told.recv().unwrap()
        });
        worker.join().unwrap();
        end
    }

    fn raise_here() {
        crate::raise_exc(ThreadId::current().unwrap(), crate::Stop).unwrap();
    }

    /// Shows window I1.
    #[test]
    fn a_nudge_just_before_the_stub_is_not_lost_to_a_masked_call() {
        let raise = |owner: Owner| {
            raise_here();
            requeue(owner.record());
        };
        let (end, blocked) = read_after(raise, |read| crate::mask(|_| read()));
        assert!(end.starts_with("Raised"), "{end}");
        assert!(!blocked, "the nudge signal stayed blocked");
    }

    #[test]
    fn a_raise_at_entry_leaves_the_signal_unblocked() {
        let raise = |owner: Owner| {
            raise_here();
            requeue(owner.record());
        };
        let (end, blocked) = read_after(raise, |read| read());
        assert!(end.starts_with("Raised"), "{end}");
        assert!(!blocked, "the nudge signal stayed blocked");
    }

    #[test]
    fn a_revoked_raise_does_not_leave_the_next_one_unheard() {
        let raise_later = |owner: Owner| {
            requeue(owner.record());
            let id = ThreadId::current().unwrap();
            std::thread::spawn(move || {
                let blocked = || {
                    crate::threads()
                        .into_iter()
                        .any(|t| t.id == id && t.where_blocked.starts_with("read("))
                };
                while !blocked() {
                    std::thread::yield_now();
                }
                crate::raise_exc(id, crate::Stop).unwrap();
            });
        };
        let (end, blocked) = read_after(raise_later, |read| read());
        assert!(end.starts_with("Raised"), "{end}");
        assert!(!blocked, "the nudge signal stayed blocked");
    }
}
