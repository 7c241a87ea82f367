//! Another library takes our signal with `SA_RESTART`, after us, and passes it on: blocked calls still come free.
//!
//! In a process of its own: the action of a signal belongs to the process.

#![cfg_attr(not(throwto_ladder), allow(unused_imports, dead_code))]

use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use throwto::foreign::{Call, CallError};
use throwto::{Rung, Stop, raise_exc, thread};

/// Nothing here takes that long unless it hangs.
const HANGS: Duration = Duration::from_secs(180);

static BEFORE: OnceLock<usize> = OnceLock::new();
static PASSED_ON: AtomicU32 = AtomicU32::new(0);

extern "C" fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    PASSED_ON.fetch_add(1, Ordering::Relaxed);
    type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    if let Some(before) = BEFORE.get() {
        // SAFETY: the handler that throwto installed, which it did with SA_SIGINFO.
        let before: Handler = unsafe { std::mem::transmute(*before) };
        before(signal, info, context);
    }
}

/// What signal-hook and others do: a handler with `SA_RESTART` that calls the one it found.
fn take_the_signal() {
    // SAFETY: plain data.
    let mut found: libc::sigaction = unsafe { zeroed() };
    // SAFETY: a query.
    let asked = unsafe { libc::sigaction(libc::SIGURG, std::ptr::null(), &mut found) };
    assert_eq!(asked, 0);
    BEFORE.set(found.sa_sigaction).unwrap();
    // SAFETY: plain data.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = pass_on as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: `pass_on` has the signature that SA_SIGINFO wants.
    let taken = unsafe { libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()) };
    assert_eq!(taken, 0);
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe().unwrap()
}

fn blocked_in_read(id: throwto::ThreadId) {
    let late = Instant::now() + HANGS;
    while !throwto::threads()
        .iter()
        .any(|t| t.id == id && t.where_blocked.starts_with("read("))
    {
        assert!(Instant::now() < late, "never blocked: {:?}", throwto::threads());
    }
}

fn read_one(fd: i32) -> std::io::Result<usize> {
    let mut byte = 0_u8;
    // SAFETY: one byte into one byte.
    let result = unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}

/// Without a look at the interrupted instruction nothing can be done about it, so it is said.
#[cfg(not(throwto_ladder))]
#[test]
fn a_handler_that_restarts_calls_is_an_error_at_attach() {
    let signal = libc::SIGURG;
    drop(throwto::attach().unwrap());
    take_the_signal();
    assert_eq!(
        throwto::attach().err(),
        Some(throwto::AttachError::HandlerReplaced { signal })
    );
}

#[cfg(throwto_ladder)]
#[test]
fn a_restarting_handler_on_our_signal_does_not_keep_a_call_blocked() {
    let attachment = throwto::attach().unwrap();
    take_the_signal();
    drop(attachment);
    throwto::attach()
        .map(drop)
        .expect("a handler that passes signals on is no obstacle");
    for (fail, rung) in [(false, Rung::Nudge), (true, Rung::Fail)] {
        let (read_end, _write_end) = pipe();
        let worker = thread::spawn(move || {
            let call = Call::new("read");
            let call = if fail { call.fail_syscalls() } else { call };
            call.try_run(|| read_one(read_end.as_raw_fd()))
        });
        blocked_in_read(worker.id());
        raise_exc(&worker, Stop).unwrap();
        let Ok(ended) = worker.join_timeout(HANGS).unwrap() else {
            panic!("it hangs: {:?}", throwto::threads())
        };
        match ended {
            Err(CallError::Raised(raised)) if fail => assert!(raised.rung() >= Rung::Nudge, "{raised:?}"),
            Err(CallError::Raised(raised)) => assert_eq!(raised.rung(), rung),
            other => panic!("{other:?}"),
        }
    }
    assert!(PASSED_ON.load(Ordering::Relaxed) >= 2);
}
