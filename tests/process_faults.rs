//! The system fails at the Nth call: what is left works, or says what does not. Nothing hangs, and nothing lies.
//!
//! Each fault in a process of its own, in which a filter of the kernel's makes the Nth call fail; see `faults/supervisor.rs`.

#![cfg(throwto_ladder)]
#![allow(unsafe_code)]

#[path = "it/stage.rs"]
mod stage;
#[path = "faults/supervisor.rs"]
mod supervisor;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use throwto::foreign::{Call, CallError};
use throwto::io::Interruptible;
use throwto::{AttachError, Raised, ReceiptState, Stop, thread, threads};

use stage::*;
use supervisor::{ANY, COUNTS, Fault, watch};

const FAULT: &str = "THROWTO_FAULT";
const FOR_EVER: u64 = u64::MAX;
/// How the C library starts a thread: on aarch64, glibc 2.36 has no `clone3`.
const NEW_THREAD: (libc::c_long, fn(&[u64; 6]) -> bool) = if cfg!(target_arch = "aarch64") {
    (libc::SYS_clone, |arguments| {
        arguments[0] & libc::CLONE_THREAD as u64 != 0
    })
} else {
    (libc::SYS_clone3, ANY)
};
/// How long a raise is given that may stay pending, since its signal cannot be sent.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a fault may lead to, as the child tells in its last line.
const WORKED: &str = "worked";
const REFUSED: &str = "refused";
const PENDING: &str = "pending";

/// One round of what the crate is for. Returns what could not be had.
fn work() -> Result<&'static str, String> {
    let attachment = throwto::attach().map_err(|error| format!("attach: {error:?}: {error}"))?;
    let mut stuck = Vec::new();
    for call in [read_of_ours, libcs_read, sleep] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let worker = thread::Builder::new().spawn(move || call(&reader));
        let worker = worker.map_err(|error| format!("spawn: {error}"))?;
        until("at its call", || {
            info(worker.id())
                .is_some_and(|t| t.where_blocked.starts_with("read(") || t.where_blocked.starts_with("futex"))
        });
        let receipt = worker.raise(Stop).map_err(|error| format!("raise: {error}"))?;
        let state = receipt.wait(if no_more_signals() { PATIENCE } else { LIMIT });
        if state == ReceiptState::Pending {
            // It says so, and can be taken back: then the thread is as if nothing had been.
            assert_eq!(info(worker.id()).unwrap().pending, 1);
            assert!(receipt.revoke());
            assert_eq!(receipt.state(), ReceiptState::Revoked);
            stuck.push(info(worker.id()).unwrap().where_blocked);
            writer.write_all(b"!").unwrap();
            assert_eq!(join(worker), None, "its result is kept");
        } else {
            assert_eq!(fate(&receipt), ReceiptState::Caught);
            assert_eq!(join(worker), Some(()));
        }
    }
    drop(attachment);
    assert!(threads().is_empty());
    if stuck.is_empty() {
        Ok(WORKED)
    } else {
        println!("stuck, and said so: {stuck:?}");
        Ok(PENDING)
    }
}

/// `Some` if raised into, `None` for a result.
fn read_of_ours(reader: &std::io::PipeReader) -> Option<()> {
    match std::io::Read::read(&mut Interruptible::new(reader), &mut [0]) {
        Ok(count) => {
            assert_eq!(count, 1);
            None
        }
        Err(error) => {
            assert!(Raised::from_io(error).unwrap().is::<Stop>());
            Some(())
        }
    }
}

fn libcs_read(reader: &std::io::PipeReader) -> Option<()> {
    match Call::new("read")
        .fail_syscalls()
        .try_run(|| stubborn_read(reader).0)
    {
        Ok(count) => {
            assert_eq!(count, 1);
            None
        }
        Err(CallError::Raised(raised)) => {
            assert!(raised.is::<Stop>());
            Some(())
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn sleep(_: &std::io::PipeReader) -> Option<()> {
    thread::sleep(FOREVER).err().map(drop)
}

/// Whether no signal can be sent any more in this process: then a raise may stay pending.
fn no_more_signals() -> bool {
    let signals = libc::SYS_rt_tgsigqueueinfo.to_string();
    std::env::var(FAULT)
        .is_ok_and(|fault| fault.starts_with(&signals) && fault.ends_with(&FOR_EVER.to_string()))
}

/// Runs `work` with the fault, in a process of its own. Returns the last line, and whether the fault has come about.
fn with(
    name: &str,
    fault: Fault,
    prepare: fn(),
    work: fn() -> Result<&'static str, String>,
) -> Option<(String, bool)> {
    let Fault { first, times, .. } = fault;
    let this = format!("{} {} {first} {times}", fault.number, fault.errno);
    if let Ok(asked) = std::env::var(FAULT) {
        if asked != this {
            return None;
        }
        prepare();
        if !watch(fault) {
            println!("NOT RUN");
            std::process::exit(0);
        }
        let end = work().unwrap_or_else(|refused| {
            println!("{refused}");
            REFUSED
        });
        println!("{}", COUNTS.get().unwrap().failed.load(Ordering::Relaxed));
        println!("{end}");
        std::process::exit(0);
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(FAULT, &this)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let told = child.wait_with_output().unwrap();
            panic!(
                "{name}, {this}: it hangs\n{}",
                String::from_utf8_lossy(&told.stdout)
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{name}, {this}: {}\n{told}",
        output.status
    );
    if told.ends_with("NOT RUN\n") {
        eprintln!("NOT RUN: {name}: this kernel has no filters that ask");
        return None;
    }
    let mut lines = told.lines().rev();
    let end = lines.next().unwrap().to_owned();
    let failed = lines.next().unwrap() != "0";
    println!("{this}: {}", told.lines().skip(2).collect::<Vec<_>>().join(" | "));
    Some((end, failed))
}

fn nothing() {}

/// A day's work with each of the first calls failing, once and from then on.
fn each(
    name: &str,
    number: libc::c_long,
    errno: i32,
    concerns: fn(&[u64; 6]) -> bool,
    may: &[(u64, u64, &[&str])],
) {
    for &(first, times, ends) in may {
        let fault = Fault {
            number,
            concerns,
            first,
            times,
            errno,
        };
        if let Some((end, failed)) = with(name, fault, nothing, work) {
            assert!(
                ends.contains(&end.as_str()),
                "call {first} of {number}, {times} times: {end}"
            );
            assert!(failed || end == WORKED);
        }
    }
}

#[test]
fn a_signal_action_that_is_refused_is_an_error_at_attach() {
    let ours: fn(&[u64; 6]) -> bool = |args| args[0] == libc::SIGURG as u64;
    each(
        "a_signal_action_that_is_refused_is_an_error_at_attach",
        libc::SYS_rt_sigaction,
        libc::EINVAL,
        ours,
        &[
            (1, 1, &[REFUSED]),
            (2, 1, &[REFUSED]),
            (1, FOR_EVER, &[REFUSED]),
            (3, FOR_EVER, &[WORKED]),
        ],
    );
}

#[test]
fn a_signal_that_cannot_be_sent_is_sent_again_or_the_raise_stays_pending() {
    for errno in [libc::EAGAIN, libc::EPERM] {
        each(
            "a_signal_that_cannot_be_sent_is_sent_again_or_the_raise_stays_pending",
            libc::SYS_rt_tgsigqueueinfo,
            errno,
            ANY,
            &[
                (1, 1, &[REFUSED]),
                (1, FOR_EVER, &[REFUSED]),
                (2, 1, &[WORKED]),
                (3, 1, &[WORKED]),
                (4, 1, &[WORKED]),
                (2, 4, &[WORKED]),
                (2, FOR_EVER, &[PENDING]),
                (3, FOR_EVER, &[PENDING, WORKED]),
            ],
        );
    }
}

#[test]
fn without_membarrier_or_with_one_that_fails_later_all_works() {
    for errno in [libc::ENOSYS, libc::EPERM] {
        each(
            "without_membarrier_or_with_one_that_fails_later_all_works",
            libc::SYS_membarrier,
            errno,
            ANY,
            &[
                (1, 1, &[WORKED]),
                (1, FOR_EVER, &[WORKED]),
                (2, 1, &[WORKED]),
                (3, 1, &[WORKED]),
                (2, FOR_EVER, &[WORKED]),
                (4, FOR_EVER, &[WORKED]),
            ],
        );
    }
}

#[test]
fn an_alternate_stack_that_cannot_be_had_changes_nothing() {
    each(
        "an_alternate_stack_that_cannot_be_had_changes_nothing",
        libc::SYS_sigaltstack,
        libc::ENOMEM,
        // std's own threads would not start without theirs.
        |args| args[0] == 0 || args[1] != 0,
        &[(1, 1, &[WORKED]), (2, 1, &[WORKED]), (3, 1, &[WORKED])],
    );
}

/// Waits come back for no reason, with an errno that futexes have.
#[test]
fn a_futex_that_returns_for_no_reason_is_waited_on_again() {
    let waits: fn(&[u64; 6]) -> bool =
        |args| matches!(args[1] as i32 & 127, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET);
    for errno in [libc::EINTR, libc::EAGAIN] {
        let name = "a_futex_that_returns_for_no_reason_is_waited_on_again";
        let rows: Vec<(u64, u64, &[&str])> = (1..=6)
            .map(|first| (first, 1, [WORKED].as_slice()))
            .chain([(1, 50, [WORKED].as_slice())])
            .collect();
        each(name, libc::SYS_futex, errno, waits, &rows);
    }
}

/// The first threads are the workers', then comes the driver's.
#[test]
fn a_thread_that_cannot_be_started_is_an_error_and_a_driver_is_started_later() {
    let rows: &[(u64, u64, &[&str])] = &[
        (1, 1, &[REFUSED]),
        (1, FOR_EVER, &[REFUSED]),
        (2, 1, &[WORKED, REFUSED]),
        (3, 1, &[WORKED, REFUSED]),
        (4, 1, &[WORKED, REFUSED]),
    ];
    let name = "a_thread_that_cannot_be_started_is_an_error_and_a_driver_is_started_later";
    let (number, concerns) = NEW_THREAD;
    each(name, number, libc::EAGAIN, concerns, rows);
}

#[test]
fn an_attach_error_names_the_signal_that_could_not_be_sent() {
    fn attach_only() -> Result<&'static str, String> {
        match throwto::attach() {
            Err(AttachError::SignalRefused {
                signal: libc::SIGURG,
                errno: libc::EPERM,
            }) => Ok(WORKED),
            other => Err(format!("{other:?}")),
        }
    }
    let fault = Fault {
        number: libc::SYS_rt_tgsigqueueinfo,
        concerns: ANY,
        first: 1,
        times: FOR_EVER,
        errno: libc::EPERM,
    };
    let name = "an_attach_error_names_the_signal_that_could_not_be_sent";
    if let Some((end, _)) = with(name, fault, nothing, attach_only) {
        assert_eq!(end, WORKED);
    }
}

#[test]
fn a_thread_that_never_attached_and_cannot_be_sent_a_signal_is_told_so() {
    use throwto::os::{OsTid, interrupt};
    use throwto::{RaiseError, Rung};
    const GONE: &str = "gone";
    fn interrupt_only() -> Result<&'static str, String> {
        match interrupt(OsTid::current(), Rung::Nudge) {
            Err(RaiseError::Unheard {
                reason: "the kernel refused the signal",
                ..
            }) => Ok(REFUSED),
            Err(RaiseError::NoSuchThread { .. }) => Ok(GONE),
            other => Err(format!("{other:?}")),
        }
    }
    let name = "a_thread_that_never_attached_and_cannot_be_sent_a_signal_is_told_so";
    // It may end between the look at it and the signal.
    for (errno, expected) in [
        (libc::EPERM, REFUSED),
        (libc::EAGAIN, REFUSED),
        (libc::ESRCH, GONE),
    ] {
        let fault = Fault {
            number: libc::SYS_rt_tgsigqueueinfo,
            concerns: ANY,
            first: 1,
            times: FOR_EVER,
            errno,
        };
        if let Some((end, _)) = with(name, fault, nothing, interrupt_only) {
            assert_eq!(end, expected);
        }
    }
}

/// Workers first; then no thread can be started any more, and the driver has not been needed yet.
#[test]
fn without_a_driver_a_raise_nudges_once_and_a_time_limit_is_refused() {
    fn without_a_driver() -> Result<&'static str, String> {
        let pipes: Vec<_> = (0..3).map(|_| std::io::pipe().unwrap()).collect();
        let start = |call: fn(&std::io::PipeReader) -> Option<()>, at: usize| {
            let reader = pipes[at].0.try_clone().unwrap();
            thread::spawn(move || call(&reader))
        };
        let (ours, asleep, libcs) = (start(read_of_ours, 0), start(sleep, 1), start(libcs_read, 2));
        until_blocked(ours.id(), "read(");
        until_blocked(libcs.id(), "read(");
        until_waiting(asleep.id());
        assert!(thread::Builder::new().spawn(|| ()).is_err(), "no more threads");
        for worker in [ours, asleep] {
            assert_eq!(fate(&worker.raise(Stop).unwrap()), ReceiptState::Caught);
            assert_eq!(join(worker), Some(()));
        }
        let receipt = libcs.raise(Stop).unwrap();
        assert_eq!(
            receipt.wait(PATIENCE),
            ReceiptState::Pending,
            "code that retries needs the driver"
        );
        assert_eq!(info(libcs.id()).unwrap().pending, 1);
        let limit = std::panic::catch_unwind(|| throwto::time::timeout(PATIENCE, || 5));
        let panic = limit.expect_err("nobody watches it");
        let told = panic
            .downcast_ref::<String>()
            .cloned()
            .or(panic.downcast_ref::<&str>().map(|s| s.to_string()));
        assert!(told.unwrap().contains("throwto-driver"));
        assert!(throwto::safepoint().is_ok() && throwto::ThreadId::current().is_none());
        // Nothing else is lost: the exception is met when the call returns.
        (&pipes[2].1).write_all(b"!").unwrap();
        assert_eq!(join(libcs), None, "its result is kept");
        assert_eq!(fate(&receipt), ReceiptState::TargetEnded);
        Ok(WORKED)
    }
    let (number, concerns) = NEW_THREAD;
    let fault = Fault {
        number,
        concerns,
        first: 4,
        times: FOR_EVER,
        errno: libc::EAGAIN,
    };
    let name = "without_a_driver_a_raise_nudges_once_and_a_time_limit_is_refused";
    if let Some((end, failed)) = with(name, fault, nothing, without_a_driver) {
        assert!(end == WORKED && failed);
    }
}
