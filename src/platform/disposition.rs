//! What this process does with the nudge signal, and whom a signal that is not a nudge goes to.
//!
//! Owns: `sigaction`, the action that was there before, which process and thread this is. Leaves to the system's `handler` what
//! a nudge does when it arrives. [`install`] is called once, at set-up; it allocates. Nothing blocks.
//!
//! **Signal context:** [`installed`], [`forward`], [`process`], [`this_thread`] and [`KeepErrno`] yes: plain loads, the thread
//! pointer, errno. The rest no.
//!
//! The handler's flags: `SA_SIGINFO`, since a nudge may carry a value and a previous handler may want what it says;
//! `SA_ONSTACK`, since Go-like runtimes and deep recursion leave no room on the thread's stack; no `SA_RESTART`, since
//! ending the call is the point. Its own mask is empty: another signal may interrupt it, at the price of stack.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `INSTALLED` set Release | `get` Acquire | set before `sigaction` installs the handler |

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use once_cell::race::OnceBox;

use crate::protocol::record::Record;

/// Ignored by default, passed on by debuggers, coalescing, and used by nobody with a meaning: Go chose it for the same
/// reasons.
pub(crate) const DEFAULT_SIGNAL: i32 = libc::SIGURG;

/// What `SA_SIGINFO` wants.
pub(super) type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// What the handler finds when it runs.
pub(super) struct Installed {
    previous: libc::sigaction,
    /// From the token that a signal carries, or a hint, to a record.
    pub(super) of_token: fn(usize) -> Option<&'static Record>,
    /// From a `pthread_self` to a record.
    pub(super) of_thread: fn(usize) -> Option<&'static Record>,
}

static INSTALLED: OnceBox<Installed> = OnceBox::new();
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Why the handler could not be installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InstallFailed {
    pub(crate) errno: i32,
}

/// Installs `handler` for `signal`, once per process. The handler and both functions must keep the rules of the handler's
/// header.
pub(super) fn install(
    signal: libc::c_int,
    handler: Handler,
    of_token: fn(usize) -> Option<&'static Record>,
    of_thread: fn(usize) -> Option<&'static Record>,
) -> Result<(), InstallFailed> {
    note_process();
    let installed = Installed {
        previous: action_of(signal)?,
        of_token,
        of_thread,
    };
    if INSTALLED.set(Box::new(installed)).is_err() {
        return Ok(());
    }
    let mut action = empty_action();
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the type says that the handler has the signature that SA_SIGINFO wants; it keeps the rules of its header.
    match unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(failed()),
    }
}

/// What [`install`] has left for the handler.
pub(super) fn installed() -> Option<&'static Installed> {
    INSTALLED.get()
}

/// Remembers which process this is: nudges must come from it. Called at install and in a forked child.
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

/// The value by which a record knows its thread.
pub(crate) fn this_thread() -> usize {
    // SAFETY: reads the thread pointer.
    unsafe { libc::pthread_self() as usize }
}

/// What the process does with `signal` now.
fn action_of(signal: libc::c_int) -> Result<libc::sigaction, InstallFailed> {
    let mut action = empty_action();
    // SAFETY: a query: the present action is written to `action`.
    match unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } {
        0 => Ok(action),
        _ => Err(failed()),
    }
}

/// Whether the process ignores `signal`.
pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
    action_of(signal).is_ok_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

/// Whether somebody has put a handler over ours that has interrupted calls restarted: a nudge would be heard, and break
/// nothing.
#[cfg_attr(
    throwto_ladder,
    expect(dead_code, reason = "the fail rung breaks restarted calls too")
)]
pub(super) fn restarts(signal: libc::c_int) -> bool {
    action_of(signal).is_ok_and(|action| action.sa_flags & libc::SA_RESTART != 0)
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

/// Puts errno back when it is dropped.
pub(super) struct KeepErrno(i32);

impl KeepErrno {
    pub(super) fn new() -> Self {
        Self(Errno::last_raw())
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        Errno::set_raw(self.0);
    }
}

/// Hands a signal that is not ours to who was there before: a handler, or `default` where there was none.
pub(super) fn forward(
    installed: &Installed,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
    default: impl FnOnce(&libc::sigaction),
) {
    let previous = &installed.previous;
    match previous.sa_sigaction {
        libc::SIG_IGN => {}
        libc::SIG_DFL => default(previous),
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: it was installed with SA_SIGINFO, so it has this signature.
            let handler: Handler = unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: it was installed without SA_SIGINFO, so it takes the number alone.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}
