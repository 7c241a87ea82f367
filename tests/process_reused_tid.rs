//! The kernel's thread numbers come round again: a thread that got the number of one that has ended is another thread (P4).
//! In a process of its own, since it decides which number the machine's next thread gets (`/proc/sys/kernel/ns_last_pid`). Where
//! that may not be written it says `NOT RUN`.

#![cfg(all(throwto_ladder, target_os = "linux"))]

#[path = "it/stage.rs"]
mod stage;

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use throwto::os::OsTid;
use throwto::{RaiseError, Raised, ReceiptState, Stop, ThreadId, attach, foreign, raise_exc, stats};

use stage::*;

const NEXT: &str = "/proc/sys/kernel/ns_last_pid";

/// One test at a time: they choose the next number of the whole machine, and one's threads would get the other's.
static CHOOSING: Mutex<()> = Mutex::new(());

fn current_tid() -> i32 {
    // SAFETY: no arguments, no effects.
    unsafe { libc::gettid() }
}

/// `None` where the next number cannot be chosen.
fn choose() -> Option<MutexGuard<'static, ()>> {
    let choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
    let last = std::fs::read_to_string(NEXT).unwrap_or_default();
    if std::fs::write(NEXT, last.trim()).is_err() {
        eprintln!("NOT RUN: {NEXT} cannot be written");
        return None;
    }
    Some(choosing)
}

/// Runs `f` on a thread whose number is `tid`, which nobody has any more. Other programs start threads too: it tries until it is
/// first.
fn on_number<T: Send>(tid: i32, f: impl FnOnce() -> T + Send) -> T {
    let deadline = Instant::now() + LIMIT;
    let mut f = Some(f);
    while Instant::now() < deadline {
        std::fs::write(NEXT, (tid - 1).to_string()).unwrap();
        let f = &mut f;
        let run = move || (current_tid() == tid).then(|| f.take().expect("it has not run")());
        if let Some(result) = std::thread::scope(|s| s.spawn(run).join().unwrap()) {
            return result;
        }
    }
    panic!("the kernel never gave {tid} again");
}

/// Attaches, tells who it is, and waits in a read that a raise ends.
fn wait_in_read(tell: Sender<(ThreadId, Option<Raised>)>) {
    let attachment = attach().unwrap();
    let (pipe, _open) = std::io::pipe().unwrap();
    tell.send((attachment.id(), None)).unwrap();
    let raised = loop {
        if let Err(raised) = foreign::call(|| raw_read(&pipe))
            .map(drop)
            .and_then(|()| throwto::safepoint())
        {
            break raised;
        }
    };
    tell.send((attachment.id(), Some(raised))).unwrap();
}

#[test]
fn an_old_id_never_reaches_the_thread_that_the_kernel_gave_its_number() {
    let Some(_choosing) = choose() else { return };
    let ledger = Ledger::new();
    let (old, tid) = std::thread::spawn(|| (attach().unwrap().id(), current_tid()))
        .join()
        .unwrap();
    let (tell, told) = channel();
    std::thread::scope(|s| {
        s.spawn(move || on_number(tid, || wait_in_read(tell)));
        let (new, _) = told.recv().unwrap();
        until_blocked(new, "read");
        let before = stats();
        for _ in 0..100 {
            let refused = raise_exc(old, Numbered::new(&ledger));
            assert!(
                matches!(refused, Err(RaiseError::NoSuchThread { .. })),
                "{refused:?}"
            );
        }
        let signals = |seen: throwto::Stats| (seen.nudges, seen.renudges, seen.forged_signals);
        assert_eq!(
            signals(stats()),
            signals(before),
            "a signal in the name of an ended thread"
        );
        assert_eq!(info(new).unwrap().pending, 0);
        // By the number the new one is meant.
        let receipt = raise_exc(OsTid::from_raw(tid), Stop).unwrap();
        assert_eq!(receipt.target(), new);
        let (_, raised) = told.recv().unwrap();
        assert!(raised.unwrap().is::<Stop>());
    });
    ledger.balance();
}

/// A thread that ends by the bare system call runs no destructors, and stays attached. Who gets its number takes it over.
#[test]
fn a_thread_that_died_without_leaving_is_nobody_once_another_has_its_number() {
    extern "C" fn dies(told: *mut libc::c_void) -> *mut libc::c_void {
        let attachment = attach().unwrap();
        // SAFETY: the place outlives this thread, which is joined.
        unsafe {
            told.cast::<(ThreadId, i32)>()
                .write((attachment.id(), current_tid()))
        };
        // SAFETY: ends this thread alone, with all that it has on its stack left as it is.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        unreachable!()
    }
    let Some(_choosing) = choose() else { return };
    let mut told = std::mem::MaybeUninit::<(ThreadId, i32)>::uninit();
    let mut handle = 0;
    let place = told.as_mut_ptr().cast();
    // SAFETY: a function of the right kind, and a place that is there until the thread is joined.
    let began = unsafe { libc::pthread_create(&raw mut handle, std::ptr::null(), dies, place) };
    assert_eq!(began, 0);
    // SAFETY: the thread that was made above, once.
    unsafe { libc::pthread_join(handle, std::ptr::null_mut()) };
    // SAFETY: the thread has written it before it ended.
    let (dead, tid) = unsafe { told.assume_init() };
    assert!(info(dead).is_some(), "nobody has told that it has ended");

    let (tell, answer) = channel();
    std::thread::scope(|s| {
        s.spawn(move || on_number(tid, || wait_in_read(tell)));
        let (new, _) = answer.recv().unwrap();
        until_blocked(new, "read");
        let before = stats().forged_signals;
        let lost = raise_exc(dead, Stop).unwrap();
        let receipt = raise_exc(OsTid::from_raw(tid), Stop).unwrap();
        assert_eq!(receipt.target(), new);
        let (_, raised) = answer.recv().unwrap();
        assert!(raised.unwrap().is::<Stop>());
        assert_eq!(receipt.wait(LIMIT), ReceiptState::Caught);
        assert_eq!(
            lost.state(),
            ReceiptState::Pending,
            "its thread will never meet it"
        );
        assert_eq!(
            stats().forged_signals,
            before,
            "a signal in the name of a dead thread"
        );
        assert!(lost.revoke());
    });
}
