//! The signal handler: what a nudge does when it arrives.
//!
//! Owns: `sigaction`, recognising our own signals, and the three things a nudge may do: cancel a window, outlast a
//! foreign handler, replace the result of a blocked call. Leaves to [`super::nudge`]: sending. To the owner: taking the
//! exception; the handler never touches a slot.
//!
//! **Signal context:** yes, this is it. The rules, for everything reachable from [`on_signal`]:
//!
//! - H1. errno is kept. H2. No allocation, lock, panic, lazy initialisation, thread-local access. `pthread_self` is a
//!   read of the thread pointer; `INSTALLED` is a cell that was set before the handler was (Acquire load).
//! - H3. A signal that is not ours goes to the handler that was there before.
//! - H4. Nothing is done on a signal's word alone: it names a record, and only what the record says is acted on. A
//!   forged signal can at most make the handler look.
//!
//! Flags: `SA_SIGINFO`, since the record's token travels in `si_value`; `SA_ONSTACK`, since Go-like runtimes and deep
//! recursion leave no room on the thread's stack; no `SA_RESTART`, since ending the call is the point. The handler's
//! own mask is empty: another signal may interrupt it, at the price of stack.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | owner's region, attention | handler | same thread: program order |
//! | `INSTALLED` set Release | `get` Acquire | set before `sigaction` installs the handler |

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use once_cell::race::OnceBox;

use super::direct;
use super::substitute::{substitute_call, table};
use crate::platform::{
    Spot,
    arch::{Context, TELLS_NUMBER},
};
use crate::protocol::order::{Act, Instruction};
use crate::protocol::record::Record;
use crate::protocol::word::{Kind, Level, Region, Sender};

/// The `si_code` of a nudge: negative, as the kernel demands of a sibling thread, and used by nobody else known.
pub(crate) const NUDGE_CODE: libc::c_int = -0x7474;

/// Rungs as the handler notes them in [`Record::rung`].
pub(crate) const RUNG_NUDGE: u32 = 2;
pub(crate) const RUNG_FAIL: u32 = 3;

/// Ignored by default, passed on by debuggers, coalescing, and used by nobody with a meaning: Go chose it for the same
/// reasons.
pub(crate) const DEFAULT_SIGNAL: i32 = libc::SIGURG;

struct Installed {
    previous: libc::sigaction,
    of_token: fn(usize) -> Option<&'static Record>,
    of_thread: fn(usize) -> Option<&'static Record>,
}

static INSTALLED: OnceBox<Installed> = OnceBox::new();
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Signals that reached the handler and were not nudges of this process.
static FOREIGN: AtomicU64 = AtomicU64::new(0);
/// Signals that wore our code and were refused: wrong process, no such record, another thread's record.
static FORGED: AtomicU64 = AtomicU64::new(0);
/// Times a nudge was sent again to outlast a foreign handler.
static REQUEUED: AtomicU64 = AtomicU64::new(0);

/// Why the handler could not be installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InstallFailed {
    pub(crate) errno: i32,
}

/// Installs the handler for `signal`, once per process. `of_token` maps a token to a record, `of_thread` a
/// `pthread_self` value; both must keep the rules of the header.
pub(crate) fn install(
    signal: libc::c_int,
    of_token: fn(usize) -> Option<&'static Record>,
    of_thread: fn(usize) -> Option<&'static Record>,
) -> Result<(), InstallFailed> {
    note_process();
    let mut previous = empty_action();
    // SAFETY: a query: the kernel writes the present action into `previous`.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut previous) } != 0 {
        return Err(InstallFailed { errno: errno() });
    }
    if INSTALLED
        .set(Box::new(Installed {
            previous,
            of_token,
            of_thread,
        }))
        .is_err()
    {
        return Ok(());
    }
    let mut action = empty_action();
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `on_signal` has the signature that SA_SIGINFO wants and keeps the rules of the header.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(InstallFailed { errno: errno() });
    }
    Ok(())
}

/// Remembers the process id that nudges must come from. Called at install and in a forked child.
pub(crate) fn note_process() {
    PROCESS.store(std::process::id() as i32, Ordering::Relaxed);
}

/// The same before the install: whoever compares an earlier answer with a later one must find the same process.
pub(crate) fn process() -> i32 {
    match PROCESS.load(Ordering::Relaxed) {
        0 => std::process::id() as i32,
        noted => noted,
    }
}

/// (requeued, foreign, forged) signals so far.
pub(crate) fn counts() -> (u64, u64, u64) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    (count(&REQUEUED), count(&FOREIGN), count(&FORGED))
}

fn empty_action() -> libc::sigaction {
    // SAFETY: sigaction is plain data; all zero is the default action with an empty mask.
    unsafe { std::mem::zeroed() }
}

/// This thread's errno, which the C library places for the whole life of the thread.
pub(super) fn errno() -> i32 {
    // SAFETY: a plain function of the C library that computes an address.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: see above; no other thread touches it.
    unsafe { *place }
}

fn set_errno(value: i32) {
    // SAFETY: as in `errno`.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as in `errno`.
    unsafe { *place = value }
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let saved = errno();
    if let Some(installed) = INSTALLED.get() {
        receive(installed, signal, info, context);
    }
    set_errno(saved);
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
            } else if !direct::nudged(named, &mut context) {
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
                forward(installed, signal, info, raw);
            }
        }
        _ => {
            FOREIGN.fetch_add(1, Ordering::Relaxed);
            forward(installed, signal, info, raw);
        }
    }
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
        Kind::Foreign => obey(record, region, context),
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
    super::nudge::send(
        record,
        Sender::Other,
        record.os_tid.load(Ordering::Relaxed),
        signal,
    );
}

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    Replaced,
    /// No interrupted call, another call than the one that was seen, or one that could not be told.
    Not,
    /// The interrupted call, of this number, must not be made to fail.
    Never(i64),
}

/// Replaces the result of the interrupted call if it is the one that is `wanted`, or one that may fail where the order leaves
/// that to us.
pub(super) fn fail(wanted: &Instruction, context: &mut Context<'_>) -> Failed {
    let result = match wanted.act {
        Act::Replace(result) if is_the_call(wanted, context) => result,
        Act::Decide { again } if context.after_interrupted_call() => {
            let Some(number) = context.syscall_number() else {
                return Failed::Not;
            };
            match table(again)(number, context.syscall_args()).value() {
                Some(result) => result as i64,
                None => return Failed::Never(number),
            }
        }
        _ => return Failed::Not,
    };
    context.replace_result(result);
    Failed::Replaced
}

/// Whether the thread stands right behind the very call that the order's giver has seen, which was interrupted.
pub(super) fn is_the_call(wanted: &Instruction, context: &Context<'_>) -> bool {
    // The first argument is lost to the result where the number is told.
    let seen = usize::from(TELLS_NUMBER);
    context.after_interrupted_call()
        && context.pc() as u64 == wanted.pc
        && context.sp() == wanted.sp
        && context.syscall_args()[seen..] == wanted.args[seen..]
}

/// Whether the thread stands behind an interrupted call that its frames may be unwound from. Where the context tells the call's
/// number, what the giver has seen is not needed.
#[cfg(throwto_forced)]
pub(super) fn may_be_left(wanted: &Instruction, context: &Context<'_>) -> bool {
    if TELLS_NUMBER {
        let number = context.syscall_number();
        context.after_interrupted_call() && number.is_some_and(|number| !direct::is_futex(number))
    } else {
        is_the_call(wanted, context)
    }
}

/// H3.
fn forward(
    installed: &Installed,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let previous = &installed.previous;
    match previous.sa_sigaction {
        libc::SIG_IGN => {}
        libc::SIG_DFL
            if matches!(
                signal,
                libc::SIGURG | libc::SIGCHLD | libc::SIGWINCH | libc::SIGCONT
            ) => {}
        libc::SIG_DFL => {
            // The default action of every other signal ends the process: restore it and let it happen on return.
            // SAFETY: installs the action that was there before us.
            unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
            // SAFETY: sends a signal to the calling thread.
            unsafe { libc::raise(signal) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: it was installed with SA_SIGINFO, so it has this signature.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: it was installed without SA_SIGINFO, so it takes the number alone.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// The value by which a record knows its thread.
pub(crate) fn this_thread() -> usize {
    // SAFETY: reads the thread pointer.
    unsafe { libc::pthread_self() as usize }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
