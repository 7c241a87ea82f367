//! The signal handler: what a nudge does when it arrives. Mostly it has done its work by arriving: the call that it
//! interrupted returns EINTR.
//!
//! Owns: `sigaction`, telling our signals from others, noting that one was heard. Leaves to [`super::nudge`]: sending. To
//! the owner: taking the exception; the handler never touches a slot, nor a register.
//!
//! **Signal context:** yes, this is it. The rules, for everything reachable from [`on_signal`]:
//!
//! - H1. errno is kept. H2. No allocation, lock, panic, lazy initialisation, thread-local access. `pthread_self` is a
//!   read of the thread pointer; `INSTALLED` is a cell that was set before the handler was (Acquire load).
//! - H3. A signal that is not ours goes to the handler that was there before.
//! - H4. A signal says nothing by itself. It is ours if the record of this thread waits for one: `NUDGE` is set, or a
//!   raise is pending. A stranger's signal that comes at that moment counts as the nudge, as if the kernel had merged
//!   the two, which it does with signals of one number.
//!
//! By H4 a nudge that comes after its exception was taken looks like a stranger's. So a default action that would end
//! the process is not carried out: see docs/limitations.md.
//!
//! Flags: `SA_SIGINFO`, since a previous handler may want what it says; `SA_ONSTACK`, since deep recursion leaves no room
//! on the thread's stack; no `SA_RESTART`, since ending the call is the point.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | owner's region, attention | handler | same thread: program order |
//! | raiser's attention RMWs SeqCst | handler | before its `pthread_kill`, which the kernel orders before the handler |
//! | `INSTALLED` set Release | `get` Acquire | set before `sigaction` installs the handler |

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::errno::Errno;
use once_cell::race::OnceBox;

use super::addressee;
use crate::protocol::record::Record;
use crate::protocol::word::{Attention, Kind, Level, Sender};

/// The rung as the handler notes it in [`Record::rung`].
const RUNG_NUDGE: u32 = 2;

/// Ignored by default, passed on by debuggers, coalescing, and used by nobody with a meaning.
pub(crate) const DEFAULT_SIGNAL: i32 = libc::SIGURG;

struct Installed {
    previous: libc::sigaction,
    of_token: fn(usize) -> Option<&'static Record>,
    of_thread: fn(usize) -> Option<&'static Record>,
}

static INSTALLED: OnceBox<Installed> = OnceBox::new();
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Signals that reached the handler and that nobody waited for.
static FOREIGN: AtomicU64 = AtomicU64::new(0);

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
    // SAFETY: a query: the present action is written into `previous`.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut previous) };
    let installed = Installed {
        previous,
        of_token,
        of_thread,
    };
    if asked != 0 {
        return Err(failed());
    }
    if INSTALLED.set(Box::new(installed)).is_err() {
        return Ok(());
    }
    let mut action = empty_action();
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `on_signal` has the signature that SA_SIGINFO wants and keeps the rules of the header.
    match unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(failed()),
    }
}

/// Whether somebody has put a handler over ours that has interrupted calls restarted: a nudge would be heard, and break
/// nothing.
pub(super) fn restarts(signal: libc::c_int) -> bool {
    let mut now = empty_action();
    // SAFETY: a query: the present action is written into `now`.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) };
    asked == 0 && now.sa_flags & libc::SA_RESTART != 0
}

fn failed() -> InstallFailed {
    InstallFailed {
        errno: Errno::last_raw(),
    }
}

fn empty_action() -> libc::sigaction {
    // SAFETY: sigaction is plain data; all zero is the default action with an empty mask.
    unsafe { std::mem::zeroed() }
}

/// Remembers which process this is, for who must know a forked child. Called at install and in that child.
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

/// (requeued, foreign, forged) signals so far. The first needs a window, the last a signal that carries something.
pub(crate) fn counts() -> (u64, u64, u64) {
    (0, FOREIGN.load(Ordering::Relaxed), 0)
}

/// The value by which a record knows its thread.
pub(crate) fn this_thread() -> usize {
    // SAFETY: reads the thread pointer.
    unsafe { libc::pthread_self() as usize }
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let saved = Errno::last_raw();
    if let Some(installed) = INSTALLED.get()
        && !heard(installed)
    {
        FOREIGN.fetch_add(1, Ordering::Relaxed);
        forward(&installed.previous, signal, info, context);
    }
    Errno::set_raw(saved);
}

/// Whether the signal was for this thread's record (H4); if so, says that it has come.
fn heard(installed: &Installed) -> bool {
    let thread = this_thread();
    let hint = addressee::hint(thread);
    let hinted = (installed.of_token)(hint).filter(|record| record.is_owned_by(thread));
    let from = hinted.map_or(Sender::Other, |_| Sender::of_bits(hint));
    let Some(record) = hinted.or_else(|| (installed.of_thread)(thread)) else {
        return false;
    };
    let waits = |word: Attention| word.has(Attention::NUDGE) || word.calls();
    if !waits(record.attention()) {
        return false;
    }
    let word = record.hear(from);
    let region = record.region();
    if word.calls() && region.kind() == Kind::Foreign && region.level() != Level::Uninterruptible {
        record.note_rung(RUNG_NUDGE);
    }
    true
}

/// H3.
fn forward(
    previous: &libc::sigaction,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    match previous.sa_sigaction {
        libc::SIG_IGN | libc::SIG_DFL => {}
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
