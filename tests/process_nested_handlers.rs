//! Raises while handlers of other libraries run on top of what the nudge is for: nothing is lost, and nothing is delivered
//! inside them. In a process of its own: handlers are process-wide. `process_restart_handler.rs` has the single handlers.

#![cfg(throwto_ladder)]

#[path = "it/stage.rs"]
mod stage;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use throwto::foreign::{self, Call, CallError};
use throwto::io::Interruptible;
use throwto::{Raised, Receipt, ReceiptState, Stop, ThreadId, mask, thread, uninterruptible};
use throwto_fixtures::patient_read;

use stage::*;

/// The handlers below share their state.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static GO_ON: AtomicBool = AtomicBool::new(false);
/// What `reads` reads from.
static FD: AtomicI32 = AtomicI32::new(-1);
static BROKEN: AtomicUsize = AtomicUsize::new(0);
static MODE: AtomicUsize = AtomicUsize::new(0);
static ENDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn begin() -> MutexGuard<'static, ()> {
    let one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    INSIDE.store(0, Ordering::SeqCst);
    BROKEN.store(0, Ordering::SeqCst);
    GO_ON.store(false, Ordering::SeqCst);
    one
}

/// Stays until it may go on, two deep if its signal is SIGUSR1.
extern "C" fn stays(signal: i32) {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    if signal == libc::SIGUSR1 {
        // SAFETY: a signal that has this handler, too, and runs on top of this one.
        unsafe { libc::raise(libc::SIGUSR2) };
    }
    while !GO_ON.load(Ordering::SeqCst) {
        std::hint::spin_loop();
    }
    INSIDE.fetch_sub(1, Ordering::SeqCst);
}

/// Reads a byte, again for as long as something breaks the read.
extern "C" fn reads(_: i32) {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let mut byte = 0_u8;
    // SAFETY: one writable byte.
    while unsafe { libc::read(FD.load(Ordering::SeqCst), (&raw mut byte).cast(), 1) } != 1 {
        BROKEN.fetch_add(1, Ordering::SeqCst);
    }
    INSIDE.fetch_sub(1, Ordering::SeqCst);
}

/// Waits to go on, then reads with a call of ours, in the way that `MODE` says.
extern "C" fn calls(_: i32) {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    while !GO_ON.load(Ordering::SeqCst) {
        std::hint::spin_loop();
    }
    // SAFETY: the test keeps the descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(FD.load(Ordering::SeqCst)) };
    let mut copy = Interruptible::new(std::fs::File::from(fd.try_clone_to_owned().unwrap()));
    let mut read = || copy.read(&mut [0]);
    let end = match MODE.load(Ordering::SeqCst) {
        0 => read(),
        1 => mask(|_| read()),
        _ => uninterruptible(|_| read()),
    };
    ENDS.lock().unwrap().push(match end {
        Ok(count) => format!("read {count}"),
        Err(error) => format!("raised: {}", Raised::from_io(error).is_ok()),
    });
    INSIDE.fetch_sub(1, Ordering::SeqCst);
}

fn install(signal: Signal, handler: extern "C" fn(i32), flags: SaFlags) {
    let action = SigAction::new(SigHandler::Handler(handler), flags, SigSet::empty());
    // SAFETY: the handlers here run on top of blocked or computing code, which holds no lock.
    unsafe { sigaction(signal, &action) }.unwrap();
}

fn signal_thread(id: ThreadId, signal: i32) {
    let tid = info(id).unwrap().os_tid.as_raw();
    // SAFETY: the thread is alive until this test lets it end.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, signal) };
    assert_eq!(sent, 0);
}

fn inside() -> usize {
    INSIDE.load(Ordering::SeqCst)
}

/// The three ways to be blocked in a read. Tells whether it was raised into, and how many handlers were there then.
fn blocked(way: usize, reader: io::PipeReader) -> (bool, usize) {
    let raised = match way {
        0 => Interruptible::new(reader)
            .read(&mut [0; 8])
            .is_err_and(|e| Raised::from_io(e).is_ok()),
        1 => {
            let read = Call::new("read").try_run(|| raw_read(&reader));
            matches!(read, Err(CallError::Raised(_)))
        }
        _ => {
            let read = || patient_read(reader.as_fd(), &mut [0; 8]);
            matches!(
                Call::new("read").fail_syscalls().try_run(read),
                Err(CallError::Raised(_))
            )
        }
    };
    (raised, inside())
}

#[track_caller]
fn held_back(receipt: &Receipt) {
    // Long enough for the driver's first looks.
    assert_eq!(
        receipt.wait(std::time::Duration::from_millis(20)),
        ReceiptState::Pending
    );
}

#[test]
fn below_two_handlers_nothing_is_lost_and_nothing_comes_inside_them() {
    let _one = begin();
    install(Signal::SIGUSR1, stays, SaFlags::SA_RESTART);
    install(Signal::SIGUSR2, stays, SaFlags::SA_RESTART);
    for way in [0, 1, 2] {
        for depth in [1, 2] {
            GO_ON.store(false, Ordering::SeqCst);
            let (reader, _writer) = io::pipe().unwrap();
            let worker = thread::spawn(move || blocked(way, reader));
            until_blocked(worker.id(), "read(");
            signal_thread(
                worker.id(),
                if depth == 2 { libc::SIGUSR1 } else { libc::SIGUSR2 },
            );
            until("inside", || inside() == depth);
            held_back(&worker.raise(Stop).unwrap());
            assert_eq!(inside(), depth);
            GO_ON.store(true, Ordering::SeqCst);
            assert_eq!(join(worker), (true, 0), "way {way}, {depth} deep");
        }
    }
}

#[test]
fn a_raise_during_a_handler_over_running_code_comes_at_the_next_safepoint() {
    let _one = begin();
    install(Signal::SIGUSR2, stays, SaFlags::SA_RESTART);
    static OVER: AtomicBool = AtomicBool::new(false);
    static COMPUTES: AtomicBool = AtomicBool::new(false);
    for in_region in [false, true] {
        OVER.store(false, Ordering::SeqCst);
        COMPUTES.store(false, Ordering::SeqCst);
        GO_ON.store(false, Ordering::SeqCst);
        let compute = || {
            COMPUTES.store(true, Ordering::SeqCst);
            while !OVER.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
        };
        let worker = thread::spawn(move || {
            if in_region {
                foreign::call(compute).unwrap();
            } else {
                compute();
            }
            (throwto::safepoint().is_err(), inside())
        });
        // Not "running", which a thread that starts is as well.
        until("it computes", || COMPUTES.load(Ordering::SeqCst));
        signal_thread(worker.id(), libc::SIGUSR2);
        until("inside", || inside() == 1);
        held_back(&worker.raise(Stop).unwrap());
        GO_ON.store(true, Ordering::SeqCst);
        until("outside", || inside() == 0);
        OVER.store(true, Ordering::SeqCst);
        assert_eq!(join(worker), (true, 0));
    }
}

/// The handler's own read is broken (by how the kernel works: a signal is a signal), and begun again by the handler.
#[test]
fn below_a_handler_that_reads_nothing_is_lost_and_nothing_comes_inside_it() {
    let _one = begin();
    install(Signal::SIGALRM, reads, SaFlags::SA_RESTART);
    for way in [0, 1, 2] {
        BROKEN.store(0, Ordering::SeqCst);
        let (inner, mut feed) = io::pipe().unwrap();
        FD.store(inner.as_raw_fd(), Ordering::SeqCst);
        let (reader, _writer) = io::pipe().unwrap();
        let worker = thread::spawn(move || blocked(way, reader));
        until_blocked(worker.id(), "read(");
        signal_thread(worker.id(), libc::SIGALRM);
        until("inside", || inside() == 1);
        let its_own = format!("read(fd {}", inner.as_raw_fd());
        until_blocked(worker.id(), &its_own);
        let receipt = worker.raise(Stop).unwrap();
        until("the nudge", || BROKEN.load(Ordering::SeqCst) > 0);
        held_back(&receipt);
        assert_eq!(inside(), 1);
        let broken = BROKEN.load(Ordering::SeqCst);
        assert!(
            way != 0 || broken == 1,
            "a call of ours sends one nudge and no more: {broken}"
        );
        feed.write_all(b"x").unwrap();
        assert_eq!(join(worker), (true, 0), "way {way}");
    }
}

/// A call of ours inside a handler is a cancellation point as everywhere: raised there unless it is masked there.
#[test]
fn a_handler_may_make_calls_of_ours_on_top_of_a_call_of_ours() {
    let _one = begin();
    install(Signal::SIGVTALRM, calls, SaFlags::SA_RESTART);
    for (mode, raise_first, end) in [
        (0, true, "raised: true"),
        (1, true, "read 1"),
        (2, true, "read 1"),
        (0, false, "raised: true"),
        (1, false, "raised: true"),
        (2, false, "read 1"),
    ] {
        MODE.store(mode, Ordering::SeqCst);
        GO_ON.store(false, Ordering::SeqCst);
        ENDS.lock().unwrap().clear();
        let (inner, mut feed) = io::pipe().unwrap();
        FD.store(inner.as_raw_fd(), Ordering::SeqCst);
        let (reader, mut writer) = io::pipe().unwrap();
        let worker = thread::spawn(move || blocked(0, reader));
        until_blocked(worker.id(), "read(");
        signal_thread(worker.id(), libc::SIGVTALRM);
        until("inside", || inside() == 1);
        let mut receipt = None;
        if raise_first {
            receipt = Some(worker.raise(Stop).unwrap());
            held_back(receipt.as_ref().unwrap());
        }
        GO_ON.store(true, Ordering::SeqCst);
        if !raise_first {
            // Any descriptor: the handler has a copy.
            until_blocked(worker.id(), "read(");
            receipt = Some(worker.raise(Stop).unwrap());
        }
        if end != "raised: true" {
            held_back(receipt.as_ref().unwrap());
            until_blocked(worker.id(), "read(");
            feed.write_all(b"x").unwrap();
        }
        until("the handler's end", || inside() == 0);
        assert_eq!(
            *ENDS.lock().unwrap(),
            [end],
            "mode {mode}, raised first: {raise_first}"
        );
        if end == "raised: true" {
            until_blocked(worker.id(), "read(");
            writer.write_all(b"x").unwrap();
        }
        assert_eq!(join(worker), (end != "raised: true", 0));
        assert_eq!(fate(&receipt.unwrap()), ReceiptState::Caught);
    }
}
