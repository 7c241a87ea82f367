//! Hostile neighbours: floods of the nudge signal, sandboxes, a missing `/proc`, ten thousand threads, debuggers.
//!
//! Each in a process of its own. Handlers of others are in `process_signals`, `process_taken`, `process_chained` and
//! `process_restart_handler`, `RLIMIT_SIGPENDING` in `process_sigpending`.

#![cfg(throwto_ladder)]
#![allow(unsafe_code)]

#[path = "it/stage.rs"]
mod stage;
#[path = "faults/supervisor.rs"]
#[allow(dead_code)]
mod supervisor;

use std::io::{self, PipeReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use throwto::foreign::{Call, CallError};
use throwto::io::Interruptible;
use throwto::os::{OsTid, interrupt};
use throwto::thread::JoinHandle;
use throwto::{AttachError, Config, RaiseError, Raised, ReceiptState, Rung, Stop, stats, thread};

use stage::*;

fn ours(reader: &PipeReader) -> Result<usize, Raised> {
    Interruptible::new(reader)
        .read(&mut [0])
        .map_err(|error| Raised::from_io(error).unwrap())
}

fn libcs(reader: &PipeReader) -> Result<usize, Raised> {
    match Call::new("read")
        .fail_syscalls()
        .try_run(|| stubborn_read(reader).0)
    {
        Ok(count) => Ok(count),
        Err(CallError::Raised(raised)) => Err(raised),
        Err(other) => panic!("{other:?}"),
    }
}

fn slept(_: &PipeReader) -> Result<usize, Raised> {
    thread::sleep(FOREVER).map(|()| 0)
}

type Work = fn(&PipeReader) -> Result<usize, Raised>;
const WORKS: [Work; 3] = [ours, libcs, slept];

/// Raises into each kind of work, at no moment in particular, and again.
fn raises_work(rounds: u64) {
    let seed = seed();
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    for round in 0..rounds {
        let (reader, _writer) = io::pipe().unwrap();
        let work = WORKS[round as usize % 3];
        let begun = std::sync::Arc::new(AtomicBool::new(false));
        let told = std::sync::Arc::clone(&begun);
        let worker = thread::spawn(move || {
            told.store(true, Ordering::Release);
            work(&reader).map_err(|raised| raised.is::<Stop>())
        });
        until("begun", || begun.load(Ordering::Acquire));
        for _ in 0..dice.roll(20_000) {
            std::hint::spin_loop();
        }
        let receipt = worker.raise(Stop).unwrap();
        assert_eq!(fate(&receipt), ReceiptState::Caught, "round {round}");
        assert_eq!(join(worker), Err(true));
    }
}

fn every_thread() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// As Go's runtime does to its own threads: SIGURG, to every thread, as fast as it goes.
#[test]
fn a_flood_of_the_nudge_signal_raises_nothing_and_stops_nothing() {
    const BYTES: usize = 300;
    static OVER: AtomicBool = AtomicBool::new(false);
    static SENT: AtomicU64 = AtomicU64::new(0);
    // Each with a byte at a time: every read blocks.
    let reader = |work: Work| -> (JoinHandle<usize>, io::PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        let worker = thread::spawn(move || {
            let mut count = 0;
            while count < BYTES {
                count += work(&reader).expect("nobody raises");
            }
            count
        });
        (worker, writer)
    };
    let workers = [reader(ours), reader(libcs)];
    let computing = thread::spawn(|| {
        let mut rounds = 0_u64;
        while !OVER.load(Ordering::Relaxed) {
            throwto::safepoint().expect("nobody raises");
            rounds += 1;
        }
        rounds
    });
    let before = stats();
    let began = Instant::now();
    std::thread::scope(|s| {
        let _over = Over(&OVER);
        s.spawn(|| {
            let mut turn = 0_u64;
            let mut tids = Vec::new();
            while !OVER.load(Ordering::Relaxed) {
                if turn.is_multiple_of(16) {
                    tids = every_thread();
                }
                turn += 1;
                for tid in &tids {
                    // SAFETY: a signal that has a handler. A thread that has ended gets none.
                    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), *tid, libc::SIGURG) };
                }
                SENT.fetch_add(tids.len() as u64, Ordering::Relaxed);
                // Of signals that come while one waits the kernel keeps none: who is hit must get to run, and with a processor
                // free for this loop alone it would not.
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        for turn in 0..BYTES {
            for (_, writer) in &workers {
                let mut writer = writer;
                writer.write_all(&[turn as u8]).unwrap();
            }
        }
        for (worker, _writer) in workers {
            assert_eq!(join(worker), BYTES);
        }
        raises_work(rounds(60));
        until("a hundred thousand sent, a thousand handled", || {
            let handled = stats().foreign_signals - before.foreign_signals;
            SENT.load(Ordering::Relaxed) >= 100_000 && handled >= 1000
        });
    });
    assert!(join(computing) > 0);
    let after = stats();
    let (sent, heard) = (
        SENT.load(Ordering::Relaxed),
        after.foreign_signals - before.foreign_signals,
    );
    println!(
        "{sent} signals in {:?}, {heard} handled and passed on",
        began.elapsed()
    );
    assert_eq!(after.forged_signals, before.forged_signals);
}

/// The whole of a test in a process of its own that `prepare` has changed before it begins. `None` in that process.
fn in_a_process(name: &str, prepare: fn() -> io::Result<()>, body: fn()) {
    const ALONE: &str = "THROWTO_NEIGHBOUR";
    if std::env::var(ALONE).is_ok_and(|alone| alone == name) {
        return body();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--nocapture"]).env(ALONE, name);
    // SAFETY: the functions make system calls only.
    unsafe { child.pre_exec(prepare) };
    match child.spawn() {
        Ok(mut child) => {
            let deadline = Instant::now() + LIMIT;
            while child.try_wait().unwrap().is_none() {
                if Instant::now() > deadline {
                    child.kill().unwrap();
                    panic!("{name} hangs");
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(child.wait().unwrap().success(), "{name}");
        }
        Err(error) => eprintln!("NOT RUN: {name}: this system does not let it be prepared ({error})"),
    }
}

fn without_membarrier() -> io::Result<()> {
    forbid_membarrier(libc::ENOSYS)
}

fn forbid_membarrier(errno: i32) -> io::Result<()> {
    if supervisor::forbid(libc::SYS_membarrier, errno) {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[test]
fn on_a_kernel_without_membarrier_no_raise_is_lost() {
    in_a_process(
        "on_a_kernel_without_membarrier_no_raise_is_lost",
        without_membarrier,
        || raises_work(rounds(600)),
    );
}

/// The process attaches, works, and then closes its sandbox, as servers do.
#[test]
fn a_sandbox_that_closes_later_and_refuses_membarrier_loses_no_raise() {
    in_a_process(
        "a_sandbox_that_closes_later_and_refuses_membarrier_loses_no_raise",
        || Ok(()),
        || {
            raises_work(3);
            if let Err(error) = forbid_membarrier(libc::EPERM) {
                eprintln!("NOT RUN: this kernel has no filters ({error})");
                return;
            }
            raises_work(rounds(600));
        },
    );
}

/// An empty directory in the place of `/proc`, for one process.
fn hide_proc() -> io::Result<()> {
    let checked = |result: libc::c_int| {
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: an integer.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        // SAFETY: an integer. Who is not root needs a world in which it is.
        checked(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) })?;
    }
    let none = std::ptr::null();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: strings that end.
    checked(unsafe { libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()) })?;
    let tmpfs = c"tmpfs".as_ptr();
    // SAFETY: strings that end.
    checked(unsafe { libc::mount(tmpfs, c"/proc".as_ptr(), tmpfs, 0, std::ptr::null()) })
}

#[test]
fn without_proc_raises_work_and_what_cannot_be_seen_is_said() {
    in_a_process(
        "without_proc_raises_work_and_what_cannot_be_seen_is_said",
        hide_proc,
        || {
            assert!(
                std::fs::read_dir("/proc").unwrap().next().is_none(),
                "/proc is empty"
            );
            raises_work(rounds(300));
            let (reader, mut writer) = io::pipe().unwrap();
            let worker = thread::spawn(move || throwto::uninterruptible(|_| ours(&reader)).unwrap());
            until("in its read", || {
                info(worker.id()).unwrap().state == throwto::ThreadState::Blocked
            });
            let told = info(worker.id()).unwrap();
            println!("{:?}", told.where_blocked);
            assert!(!told.where_blocked.is_empty() && !told.where_blocked.contains("read("));
            match interrupt(OsTid::current(), Rung::Fail) {
                Err(RaiseError::NotBlocked { .. } | RaiseError::NoSuchThread { .. }) => {}
                other => panic!("{other:?}"),
            }
            writer.write_all(b"!").unwrap();
            assert_eq!(join(worker), 1);
            the_code_tells_what_may_fail();
        },
    );
}

/// Nothing shows which call a thread is in: the handler reads it from the instructions before it.
fn the_code_tells_what_may_fail() {
    let (send, tids) = std::sync::mpsc::channel();
    let tell = send.clone();
    let (reader, _writer) = io::pipe().unwrap();
    let reads = std::thread::spawn(move || {
        tell.send(OsTid::current()).unwrap();
        stubborn_read(&reader).0
    });
    let tid = tids.recv().unwrap();
    until("failed", || interrupt(tid, Rung::Fail).is_ok());
    assert_eq!(reads.join().unwrap(), Err(libc::ECANCELED));

    // A call that must never be made to fail.
    let over = std::sync::Arc::new(AtomicBool::new(false));
    let told = std::sync::Arc::clone(&over);
    let waits = std::thread::spawn(move || {
        send.send(OsTid::current()).unwrap();
        while !told.load(Ordering::SeqCst) {
            // Whatever signal comes, none is held back.
            let _interrupted = nix::sys::signal::SigSet::empty().suspend();
        }
    });
    let tid = tids.recv().unwrap();
    let mut refused = None;
    until("refused", || match interrupt(tid, Rung::Fail) {
        Err(RaiseError::Refused { call, .. }) => refused.replace(call).is_none(),
        Err(RaiseError::NotBlocked { .. }) => false,
        other => panic!("{other:?}"),
    });
    assert_eq!(refused, Some("rt_sigsuspend"));
    over.store(true, Ordering::SeqCst);
    until("over", || {
        interrupt(tid, Rung::Nudge).is_err() || waits.is_finished()
    });
    waits.join().unwrap();
}

#[test]
fn a_real_time_nudge_signal_without_room_is_an_error_at_attach() {
    in_a_process(
        "a_real_time_nudge_signal_without_room_is_an_error_at_attach",
        || {
            let nothing = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: reads one rlimit.
            match unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const nothing) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        },
        || {
            let signal = libc::SIGRTMIN() + 3;
            Config::new().nudge_signal(signal).apply().unwrap();
            let errno = libc::EAGAIN;
            assert_eq!(
                throwto::attach().err(),
                Some(AttachError::SignalRefused { signal, errno })
            );
        },
    );
}

#[test]
fn ten_thousand_threads_are_raised_into_and_each_comes_free() {
    in_a_process(
        "ten_thousand_threads_are_raised_into_and_each_comes_free",
        || Ok(()),
        || {
            let many = rounds(10_000).min(10_000);
            let (reader, _writer) = io::pipe().unwrap();
            let reader: &'static PipeReader = Box::leak(Box::new(reader));
            let began = Instant::now();
            let mut workers = Vec::new();
            for number in 0..many {
                let work = WORKS[number as usize % 3];
                let builder = thread::Builder::new()
                    .name("one of many".into())
                    .stack_size(128 << 10);
                match builder.spawn(move || work(reader).map_err(|raised| raised.is::<Stop>())) {
                    Ok(worker) => workers.push(worker),
                    Err(error) => {
                        eprintln!("NOT RUN with {many} threads, {number}: {error}");
                        break;
                    }
                }
            }
            let started = began.elapsed();
            let receipts = throwto::raise_all("one of many", throwto::ExcType::of::<Stop>());
            assert_eq!(receipts.len(), workers.len());
            for worker in workers {
                assert_eq!(join(worker), Err(true));
            }
            for receipt in &receipts {
                assert_eq!(receipt.state(), ReceiptState::Caught);
            }
            println!(
                "{} threads started in {started:?}, free after {:?}",
                receipts.len(),
                began.elapsed()
            );
            assert!(throwto::threads().is_empty());
        },
    );
}

/// Runs [`what_is_watched`] below another program.
fn below(watcher: &str, arguments: &[&str]) {
    let version = Command::new(watcher)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !version.is_ok_and(|status| status.success()) {
        eprintln!("NOT RUN: {watcher} is not installed");
        return;
    }
    let mut child = Command::new(watcher)
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "what_is_watched", "--nocapture"])
        .env(WATCHED, "yes")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Read beside: a debugger that says much would wait for room.
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |from: &mut dyn Read| {
        let mut text = Vec::new();
        from.read_to_end(&mut text)
            .map(|_| String::from_utf8_lossy(&text).into_owned())
            .unwrap()
    };
    let (out, err) = std::thread::scope(|s| {
        let (out, err) = (s.spawn(move || read(&mut out)), s.spawn(move || read(&mut err)));
        let deadline = Instant::now() + LIMIT;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("below {watcher} it hangs");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        (out.join().unwrap(), err.join().unwrap())
    });
    if err.contains("ptrace: Operation not permitted") || err.contains("PTRACE_TRACEME") {
        eprintln!("NOT RUN: {watcher} may not trace here: {err}");
        return;
    }
    assert!(
        out.contains("all raises were met"),
        "below {watcher}: {out}\n{err}"
    );
}

const WATCHED: &str = "THROWTO_WATCHED";

#[test]
fn what_is_watched() {
    if std::env::var_os(WATCHED).is_some() {
        raises_work(rounds(90));
        println!("all raises were met");
    }
}

#[test]
fn below_strace_every_raise_is_met() {
    below("strace", &["-f", "-o", "/dev/null"]);
}

#[test]
fn below_gdb_every_raise_is_met() {
    below(
        "gdb",
        &[
            "-nx",
            "-batch",
            "-ex",
            "set debuginfod enabled off",
            "-ex",
            "run",
            "--args",
        ],
    );
}
