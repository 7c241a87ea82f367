//! The signal handler: what a nudge does when it arrives.
//!
//! Owns: recognising our own signals, and the three things a nudge may do: cancel a window, outlast a foreign handler, have
//! a foreign call fail. Leaves to `platform::disposition` the installing and what becomes of other signals, to [`super::fail`] which
//! call may fail, to [`super::nudge`] sending. To the owner: taking the exception; the handler never touches a slot.
//!
//! **Signal context:** yes, this is it. The rules, for everything reachable from [`on_signal`]:
//!
//! - H1. errno is kept. H2. No allocation, lock, panic, lazy initialisation, thread-local access. `pthread_self` is a
//!   read of the thread pointer; what was installed stands in a cell that was set before the handler was.
//! - H3. A signal that is not ours goes to the handler that was there before.
//! - H4. Nothing is done on a signal's word alone: it names a record, and only what the record says is acted on. A
//!   forged signal can at most make the handler look.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | owner's region, attention | handler | same thread: program order |

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use super::direct;
use super::fail::{Failed, fail};
use super::nudge::{self, NUDGE_CODE};
use super::substitute::substitute_call;
use crate::platform::disposition::{self, Installed, KeepErrno, forward};
pub(crate) use crate::platform::disposition::{
    DEFAULT_SIGNAL, InstallFailed, note_process, process, this_thread,
};
use crate::platform::{Spot, arch::Context};
use crate::protocol::record::Record;
use crate::protocol::word::{Kind, Level, Region, Sender};

/// Rungs as the handler notes them in [`Record::rung`]. The first: a nudge has come to a foreign call, and may have broken nothing;
/// an error of that call may come of it all the same.
const RUNG_HEARD: u32 = 1;
pub(crate) const RUNG_NUDGE: u32 = 2;
pub(crate) const RUNG_FAIL: u32 = 3;

/// Signals that reached the handler and were not nudges of this process.
static FOREIGN: AtomicU64 = AtomicU64::new(0);
/// Signals that wore our code and were refused: wrong process, no such record, another thread's record.
static FORGED: AtomicU64 = AtomicU64::new(0);
/// Times a nudge was sent again to outlast a foreign handler.
static REQUEUED: AtomicU64 = AtomicU64::new(0);

/// Installs the handler for `signal`, once per process. `of_token` maps a token to a record, `of_thread` a
/// `pthread_self` value; both must keep the rules of the header.
pub(crate) fn install(
    signal: libc::c_int,
    of_token: fn(usize) -> Option<&'static Record>,
    of_thread: fn(usize) -> Option<&'static Record>,
) -> Result<(), InstallFailed> {
    disposition::install(signal, on_signal, of_token, of_thread)
}

/// (requeued, foreign, forged) signals so far.
pub(crate) fn counts() -> (u64, u64, u64) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    (count(&REQUEUED), count(&FOREIGN), count(&FORGED))
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let _errno = KeepErrno::new();
    if let Some(installed) = disposition::installed() {
        receive(installed, signal, info, context);
    }
}

fn receive(installed: &Installed, signal: libc::c_int, info: *mut libc::siginfo_t, raw: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid siginfo to an SA_SIGINFO handler.
    let info_ref = unsafe { &*info };
    // SAFETY: every signal sent with kill, tkill or sigqueue fills these; for others the value is not used.
    let sender = unsafe { info_ref.si_pid() };
    match info_ref.si_code {
        NUDGE_CODE if sender == process() => {
            // SAFETY: with our own code from our own process, the union holds what `nudge` put there.
            let value = unsafe { info_ref.si_value() };
            let named = value.sival_ptr as usize;
            // SAFETY: `raw` is this handler's context argument, used through this one value only.
            let mut context = unsafe { Context::of(raw) };
            if let Some(record) = (installed.of_token)(named) {
                if record.thread.load(Ordering::Relaxed) == this_thread() {
                    nudged(record, Sender::of_bits(named), signal, &mut context);
                } else {
                    FORGED.fetch_add(1, Ordering::Relaxed);
                }
            } else if !direct::nudged(named, may_fail(installed), &mut context) {
                FORGED.fetch_add(1, Ordering::Relaxed);
            }
        }
        NUDGE_CODE => {
            FORGED.fetch_add(1, Ordering::Relaxed);
        }
        // The kernel had no room for the details (RLIMIT_SIGPENDING) and delivers without them; or somebody outside our
        // pid namespace has sent it. The record says whether there is anything to do (H4). If not, it may be a
        // stranger's, and is passed on.
        libc::SI_USER if sender == 0 => {
            let record = (installed.of_thread)(this_thread());
            if let Some(record) = record {
                // SAFETY: as above.
                let mut context = unsafe { Context::of(raw) };
                nudged(record, Sender::Other, signal, &mut context);
            }
            if !record.is_some_and(|record| record.attention().calls()) {
                FOREIGN.fetch_add(1, Ordering::Relaxed);
                forward(installed, signal, info, raw, |default| end_by(signal, default));
            }
        }
        _ => {
            FOREIGN.fetch_add(1, Ordering::Relaxed);
            forward(installed, signal, info, raw, |default| end_by(signal, default));
        }
    }
}

/// Whether a call of this thread may be made to fail by who does not know its record: not while it holds exceptions back.
fn may_fail(installed: &Installed) -> bool {
    let record = (installed.of_thread)(this_thread());
    record.is_none_or(|record| {
        let region = record.region();
        region.level() != Level::Uninterruptible && !region.has(Region::SHIELDED)
    })
}

/// A nudge for the current thread's `record`.
fn nudged(record: &'static Record, from: Sender, signal: libc::c_int, context: &mut Context<'_>) {
    if !record.hear(from).calls() {
        return;
    }
    let region = record.region();
    match region.kind() {
        Kind::Window => match crate::platform::arch::classify(context.pc()) {
            Spot::Before => {
                context.cancel_window();
                record.note_rung(RUNG_NUDGE);
            }
            Spot::After => {
                record.note_rung(RUNG_NUDGE);
            }
            Spot::Outside => outlast(record, signal, context),
        },
        Kind::Foreign if region.level() == Level::Uninterruptible => {}
        Kind::Foreign => {
            record.note_rung(RUNG_HEARD);
            obey(record, region, context);
        }
        Kind::Running | Kind::Waiting => {}
    }
}

/// What an order says, or what a nudge alone does to a foreign call.
fn obey(record: &'static Record, region: Region, context: &mut Context<'_>) {
    let order = record.order.take();
    #[cfg(throwto_forced)]
    if region.has(Region::FORCED) && super::forced::perform(record, region, order.as_ref(), context) {
        return;
    }
    if context.before_call() {
        skip(record, region, context);
    } else if region.has(Region::FAIL)
        && order.is_some_and(|wanted| fail(&wanted, context) == Failed::Replaced)
    {
        record.note_rung(RUNG_FAIL);
    } else if context.after_interrupted_call() {
        record.note_rung(RUNG_NUDGE);
    }
}

/// The thread stands right before a system call of foreign code: it is about to make it, or another library's handler was
/// installed with `SA_RESTART` in our place, passes our signal on, and the kernel has wound the call back. Either way
/// nothing has happened yet, and the number is in its register. Answers as an interrupted call would have.
fn skip(record: &'static Record, region: Region, context: &mut Context<'_>) {
    let substitute = substitute_call(context.number_to_call(), context.syscall_args());
    match substitute.value() {
        Some(result) if region.has(Region::FAIL) => {
            context.skip_call(result as i64);
            record.note_rung(RUNG_FAIL);
        }
        // A sleep that answers EINTR has written how much of it was left, which we cannot: the next nudge finds it blocked.
        Some(0) | None => {}
        Some(_) => {
            context.skip_call(-i64::from(libc::EINTR));
            record.note_rung(RUNG_NUDGE);
        }
    }
}

/// The thread is in a window, yet the interrupted code is not the window: another handler may run on top of the blocked
/// call. Blocks our signal in the interrupted context and sends it again: it fires when that handler's return restores
/// the mask, with the window's program counter this time. (The trick is musl's.)
///
/// If there was no such handler, the owner was on its way into the stub or out of it, and goes on with our signal
/// blocked. Then `REQUEUED` keeps it from starting a call, and it unblocks the signal when it has left the window.
fn outlast(record: &'static Record, signal: libc::c_int, context: &mut Context<'_>) {
    REQUEUED.fetch_add(1, Ordering::Relaxed);
    record.note_requeued();
    context.block(signal);
    nudge::send(
        record,
        Sender::Other,
        record.os_tid.load(Ordering::Relaxed),
        signal,
    );
}

/// H3, where nobody had a handler: the default action.
fn end_by(signal: libc::c_int, default: &libc::sigaction) {
    if matches!(
        signal,
        libc::SIGURG | libc::SIGCHLD | libc::SIGWINCH | libc::SIGCONT
    ) {
        return;
    }
    // That of every other signal ends the process: restore it and let it happen on return.
    // SAFETY: installs the action that was there before us.
    unsafe { libc::sigaction(signal, default, std::ptr::null_mut()) };
    // SAFETY: sends a signal to the calling thread.
    unsafe { libc::raise(signal) };
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
