//! A library that leaves its blocked calls by `siglongjmp` out of its own signal handler, as cysignals and readline do. In a
//! process of its own: handlers are process-wide.

#![cfg(throwto_ladder)]

#[path = "it/stage.rs"]
mod stage;

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use throwto::foreign::{Call, CallError};
use throwto::{Receipt, ReceiptState, Rung, Stop, ThreadId, thread};
use throwto_fixtures::{hold_jumps, jump_on, jumping_read, jumps_entered, patient_read};

use stage::*;

/// The fixture's handler has one state.
fn begin() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    jump_on(libc::SIGIO).unwrap();
    one
}

fn signal_thread(id: ThreadId, signal: i32) {
    let tid = info(id).unwrap().os_tid.as_raw();
    // SAFETY: the thread is alive until this test lets it end.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, signal) };
    assert_eq!(sent, 0);
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
fn a_library_that_jumps_out_of_its_handler_loses_no_raise() {
    let _one = begin();
    for fail in [false, true] {
        let (reader, _writer) = io::pipe().unwrap();
        let worker = thread::spawn(move || {
            let mut jumps = 0;
            let call = Call::new("jumping");
            let call = if fail { call.fail_syscalls() } else { call };
            let read = call.try_run(|| {
                loop {
                    match jumping_read(reader.as_fd(), &mut [0; 8]) {
                        Ok(None) => jumps += 1,
                        Ok(Some(count)) => break Ok(count),
                        Err(error) => break Err(error),
                    }
                }
            });
            (matches!(read, Err(CallError::Raised(_))), jumps)
        });
        until_blocked(worker.id(), "read(");
        let before = jumps_entered();
        hold_jumps(true);
        signal_thread(worker.id(), libc::SIGIO);
        until("inside", || jumps_entered() > before);
        held_back(&worker.raise(Stop).unwrap());
        hold_jumps(false);
        assert_eq!(join(worker), (true, 1));
    }
}

/// Jumps that hit anything, our handler included; afterwards the rung fail still works on that thread.
#[test]
fn jumps_at_random_leave_every_rung_working() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let _one = begin();
    let (reader, _writer) = io::pipe().unwrap();
    let worker = thread::spawn(move || {
        let mut met = 0_usize;
        while !OVER.load(Ordering::SeqCst) {
            let call = Call::new("jumping").fail_syscalls();
            met += usize::from(call.run(|| jumping_read(reader.as_fd(), &mut [0; 8])).is_err());
            met += usize::from(throwto::safepoint().is_err());
        }
        let last = Call::new("patient").fail_syscalls();
        match last.try_run(|| patient_read(reader.as_fd(), &mut [0; 8])) {
            Err(CallError::Raised(raised)) => (met, raised.rung()),
            other => panic!("{other:?}"),
        }
    });
    let id = worker.id();
    until_blocked(id, "read(");
    let flood = std::thread::spawn(move || {
        while !OVER.load(Ordering::SeqCst) {
            signal_thread(id, libc::SIGIO);
        }
    });
    for _ in 0..rounds(2000) {
        assert_eq!(fate(&worker.raise(Stop).unwrap()), ReceiptState::Caught);
    }
    OVER.store(true, Ordering::SeqCst);
    flood.join().unwrap();
    // It may have come into another jumping read before the end was told.
    until("the last read", || {
        signal_thread(id, libc::SIGIO);
        info(id).is_some_and(|t| t.region == Some("patient") && t.where_blocked.starts_with("read("))
    });
    worker.raise(Stop).unwrap();
    let (met, rung) = join(worker);
    assert_eq!((met as u64, rung), (rounds(2000), Rung::Fail));
}
