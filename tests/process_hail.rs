//! Windows under a hail of other libraries' signals. In a process of its own: handlers are process-wide.

#![cfg(throwto_ladder)]

#[path = "it/stage.rs"]
mod stage;

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use throwto::io::Interruptible;
use throwto::{Raised, ReceiptState, Stop, thread};

use stage::*;

extern "C" fn nothing(_: i32) {}

fn install(signal: Signal, flags: SaFlags) {
    let action = SigAction::new(SigHandler::Handler(nothing), flags, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }.unwrap();
}

/// Signals of others, one kind that restarts calls and one that does not, hit anywhere: before the stub, in it, behind it.
#[test]
fn under_a_hail_of_other_signals_each_raise_breaks_its_read() {
    static OVER: AtomicBool = AtomicBool::new(false);
    static BEGUN: AtomicBool = AtomicBool::new(false);
    install(Signal::SIGPROF, SaFlags::SA_RESTART);
    install(Signal::SIGWINCH, SaFlags::empty());
    let (reader, _writer) = io::pipe().unwrap();
    let mut reader = Interruptible::new(reader);
    let rounds = rounds(2000);
    let worker = thread::spawn(move || {
        for _ in 0..rounds {
            let error = reader.read(&mut [0; 8]).unwrap_err();
            assert!(Raised::from_io(error).unwrap().is::<Stop>());
        }
        until("the hail is over", || OVER.load(Ordering::SeqCst));
        throwto::safepoint().is_ok()
    });
    let id = worker.id();
    until_blocked(id, "read(");
    let tid = info(id).unwrap().os_tid.as_raw();
    let hail = std::thread::spawn(move || {
        let mut sent = 0_u64;
        while !OVER.load(Ordering::SeqCst) {
            let signal = if sent.is_multiple_of(2) {
                libc::SIGPROF
            } else {
                libc::SIGWINCH
            };
            // SAFETY: the thread waits for the end of this loop.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, signal) };
            BEGUN.store(true, Ordering::SeqCst);
            sent += 1;
        }
        sent
    });
    until("the hail has begun", || BEGUN.load(Ordering::SeqCst));
    for _ in 0..rounds {
        assert_eq!(fate(&worker.raise(Stop).unwrap()), ReceiptState::Caught);
    }
    OVER.store(true, Ordering::SeqCst);
    assert!(hail.join().unwrap() > rounds, "no hail");
    assert!(join(worker));
}
