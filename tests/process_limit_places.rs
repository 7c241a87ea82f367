//! Time limits that are set where nobody expects them: in a signal handler of the program, in a hook on the driver, in the
//! destructor of an exception wherever one is dropped, under a lock. None of it may hang.
//!
//! A process of its own: it installs a handler, and counts panics of hooks.

#![cfg(throwto_ladder)]

#[path = "it/stage.rs"]
mod stage;

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use throwto::foreign::{self, Call};
use throwto::time::timeout;
use throwto::{
    AttachError, Interrupted, ReceiptState, Stop, ThreadId, TimedOut, attach, raise_exc, safepoint,
    set_async_exc, thread,
};

use stage::*;

const SOON: Duration = Duration::from_millis(5);

/// A limit that must pass.
fn passes() -> bool {
    timeout(SOON, || thread::sleep(FOREVER)).is_err()
}

static IN_HANDLER: AtomicU64 = AtomicU64::new(0);

extern "C" fn limited(_signal: i32) {
    if passes() {
        IN_HANDLER.fetch_add(1, Ordering::SeqCst);
    }
}

/// Has the thread's kernel number sent a signal, and waits until its handler has come back.
#[track_caller]
fn interrupt(id: ThreadId) {
    let before = IN_HANDLER.load(Ordering::SeqCst);
    let tid = info(id).unwrap().os_tid.as_raw();
    // SAFETY: numbers only; the thread lives.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, libc::SIGUSR1) };
    assert_eq!(sent, 0);
    until("the limit in the handler has passed", || {
        IN_HANDLER.load(Ordering::SeqCst) > before
    });
}

/// On top of whatever the thread does that is not in the middle of this crate (docs/limitations.md).
#[test]
fn in_a_signal_handler_on_top_of_every_kind_of_wait() {
    let handler = limited as extern "C" fn(i32);
    // SAFETY: the handler is a function with the signature that `signal` wants.
    let before = unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);

    let asleep = thread::spawn(|| thread::sleep(FOREVER));
    until_waiting(asleep.id());
    let limited = thread::spawn(|| timeout(FOREVER, || thread::sleep(FOREVER)).map(|slept| slept.is_err()));
    until_waiting(limited.id());
    let (reader, mut writer) = std::io::pipe().unwrap();
    let reads = thread::spawn(move || foreign::call(|| stubborn_read(&reader).0).unwrap());
    until_blocked(reads.id(), "read(");
    let (ours, mut to_ours) = std::io::pipe().unwrap();
    let window = thread::spawn(move || {
        let mut byte = [0];
        let mut ours = throwto::io::Interruptible::new(ours);
        std::io::Read::read(&mut ours, &mut byte).unwrap()
    });
    until("in our own call", || {
        info(window.id()).is_some_and(|t| t.where_blocked.contains("(fd "))
    });
    let over = Arc::new(AtomicBool::new(false));
    let end = Over(&over);
    let theirs = Arc::clone(&over);
    let computes = thread::spawn(move || {
        while !theirs.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        safepoint().is_ok()
    });
    until("running", || {
        info(computes.id()).is_some_and(|t| t.state == throwto::ThreadState::Running)
    });

    for id in [asleep.id(), limited.id(), reads.id(), window.id(), computes.id()] {
        for _ in 0..3 {
            interrupt(id);
        }
    }
    // Whatever was interrupted goes on, and can be raised into.
    writer.write_all(b"x").unwrap();
    assert_eq!(join(reads), Ok(1));
    to_ours.write_all(b"x").unwrap();
    assert_eq!(join(window), 1);
    drop(end);
    assert!(join(computes));
    asleep.raise(Stop).unwrap();
    assert!(join(asleep).unwrap_err().is::<Stop>());
    limited.raise(Stop).unwrap();
    assert_eq!(join(limited), Ok(true));
}

/// The driver fires limits: one on its own thread could never pass. It is an error there, and the driver goes on.
#[test]
fn in_a_hook_on_the_driver_it_is_an_error_and_harms_nobody() {
    let before = throwto::stats().hook_panics;
    let asked = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&asked);
    let worker = thread::spawn(move || {
        let hook = || {
            seen.fetch_add(1, Ordering::SeqCst);
            let _never_made = timeout(SOON, || unreachable!("it cannot be kept"));
        };
        let call = Call::new("hooked").unblock(hook);
        let asked = Arc::clone(&asked);
        call.run(|| {
            while asked.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
        })
        .unwrap();
        safepoint().is_err()
    });
    until("in its call", || {
        info(worker.id()).is_some_and(|t| t.region.is_some())
    });
    worker.raise(Stop).unwrap();
    assert!(join(worker));
    assert!(throwto::stats().hook_panics >= before + 2);
    // Its other work is done as ever.
    assert!(join(thread::spawn(passes)));
}

/// An exception whose destructor sets a limit, and tells whether it passed.
#[derive(Debug)]
struct Slow(Mutex<Sender<bool>>);

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("slow to go")
    }
}

impl std::error::Error for Slow {}

impl Drop for Slow {
    fn drop(&mut self) {
        let told = self.0.lock().unwrap();
        told.send(passes()).unwrap();
    }
}

#[test]
fn in_the_destructor_of_an_exception_wherever_it_is_dropped() {
    let (tell, told) = channel();
    let slow = || Slow(Mutex::new(tell.clone()));
    let passed = |what: &str| assert!(told.recv_timeout(LIMIT).unwrap(), "{what}");

    let deaf = || {
        let (over, is_over) = channel::<()>();
        let worker = thread::spawn(move || throwto::uninterruptible(|_| is_over.recv()).is_err());
        until("deaf", || {
            info(worker.id()).is_some_and(|t| t.mask == throwto::MaskState::Uninterruptible)
        });
        (worker, over)
    };
    let (worker, over) = deaf();
    let first = worker.raise(slow()).unwrap();
    let second = worker.raise(slow()).unwrap();
    passed("superseded, at the raiser");
    assert_eq!(first.state(), ReceiptState::Superseded);
    assert!(second.revoke());
    passed("revoked");
    worker.raise(slow()).unwrap();
    set_async_exc(&worker, None);
    passed("cleared");
    worker.raise(slow()).unwrap();
    drop(over);
    assert!(join(worker));
    passed("pending at the end of a thread");
    raise_exc("nobody", slow()).unwrap_err();
    passed("refused");

    let caught = thread::spawn(|| drop(thread::sleep(FOREVER)));
    caught.raise(slow()).unwrap();
    join(caught);
    passed("caught");

    // In the scope that it was raised into, at that one's end.
    let (scope, handle) = throwto::scope::Scope::new();
    let raised = join(thread::spawn({
        let slow = slow();
        move || scope.run(|| handle.raise(slow).unwrap()).unwrap()
    }));
    assert_eq!(fate(&raised), ReceiptState::TargetEnded);
    passed("at the end of a scope");

    // In the destructor of a destructor: one limit in another.
    let nested = thread::spawn(|| timeout(FOREVER, || drop(timeout(FOREVER, || thread::sleep(FOREVER)))));
    nested.raise(slow()).unwrap();
    assert!(join(nested).is_ok());
    passed("in limits");
}

/// As [`Slow`], where no limit can be had: the thread is past its thread-local variables.
#[derive(Debug)]
struct Late(Mutex<Sender<Option<AttachError>>>);

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("late")
    }
}

impl std::error::Error for Late {}

impl Drop for Late {
    fn drop(&mut self) {
        self.0.lock().unwrap().send(attach().err()).unwrap();
    }
}

#[test]
fn past_the_end_of_a_thread_attaching_is_an_error() {
    let (tell, told) = channel();
    let (ready, is_ready) = channel();
    let (over, is_over) = channel::<()>();
    let worker = std::thread::spawn(move || {
        let attachment = attach().unwrap();
        ready.send(attachment.id()).unwrap();
        // Detached by the end of the thread, the last moment there is.
        std::mem::forget(attachment);
        is_over.recv().unwrap_err();
    });
    let receipt = raise_exc(is_ready.recv().unwrap(), Late(Mutex::new(tell))).unwrap();
    drop(over);
    assert_eq!(told.recv_timeout(LIMIT).unwrap(), Some(AttachError::ThreadEnding));
    worker.join().unwrap();
    assert_eq!(fate(&receipt), ReceiptState::TargetEnded);
}

#[test]
fn under_locks_of_ours_and_with_a_raise_pending() {
    let worker = thread::spawn(|| {
        let lock = throwto::sync::Mutex::new(0);
        let mut guard = lock.lock().unwrap();
        assert!(passes());
        // The limit is the only way out of a lock that one holds oneself.
        let again = timeout(SOON, || lock.lock().map(drop));
        assert_eq!(again.map(drop), Err(TimedOut));
        *guard += 1;
        drop(guard);
        // A raise that a mask holds back, and a limit.
        raise_exc(ThreadId::current().unwrap(), Interrupted).unwrap();
        throwto::mask(|_| assert!(thread::sleep(FOREVER).unwrap_err().is::<Interrupted>()));
        throwto::mask(|_| passes())
    });
    assert!(join(worker));
}

/// As with std's: a thread that waits for its own end has waited for nothing.
#[test]
fn a_thread_that_joins_itself_is_told() {
    let (give, given) = channel::<thread::JoinHandle<bool>>();
    let worker = thread::spawn(move || {
        let me = given.recv().unwrap();
        let joined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| me.join().is_ok()));
        let told = *joined.unwrap_err().downcast::<String>().unwrap();
        told.contains("itself")
    });
    let id = worker.id();
    give.send(worker).unwrap();
    until("it has ended", || info(id).is_none());
}
