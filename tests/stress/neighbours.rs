//! Others in the same process: a library with a signal handler of its own, one that forks, one that looks at everybody.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use throwto::{Stop, attach};

use crate::books::{Books, bytes_left};
use crate::stage::*;
use crate::watchdog::Beat;

static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn handler(_: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// One handler that restarts calls, and one that does not.
pub fn install() {
    for (signal, flags) in [
        (Signal::SIGUSR1, SaFlags::SA_RESTART),
        (Signal::SIGUSR2, SaFlags::empty()),
    ] {
        let action = SigAction::new(
            SigHandler::Handler(handler),
            flags | SaFlags::SA_ONSTACK,
            SigSet::empty(),
        );
        // SAFETY: the handler adds to an atomic.
        unsafe { sigaction(signal, &action) }.unwrap();
    }
}

/// Signals of others, to attached threads at random. A thread that has ended meanwhile is not there to be hit.
pub fn signal_everybody(books: &Books, seed: u64, beat: &Beat) {
    let mut dice = Dice::new(seed);
    while !books.over() {
        let everybody = throwto::threads();
        for _ in 0..50 {
            beat.step(0);
            let Some(thread) = everybody.get(dice.roll(everybody.len().max(1) as u64) as usize) else {
                break;
            };
            let signal = if dice.roll(2) == 0 {
                Signal::SIGUSR1
            } else {
                Signal::SIGUSR2
            };
            let tid = thread.os_tid.as_raw();
            if tid != 0 {
                // SAFETY: the handlers do no harm to whichever thread of this process has that number now.
                unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, signal as i32) };
            }
            std::thread::sleep(Duration::from_micros(dice.roll(300)));
        }
    }
}

/// Looks at everybody, and keeps the pipe and the channel from staying empty or full, so that whoever waits there can end.
pub fn look_on(books: &Books, beat: &Beat) {
    while !books.gone() {
        beat.step(0);
        books.let_go();
        let _ = (
            throwto::threads(),
            throwto::report().to_string(),
            throwto::stats(),
        );
        for _ in 0..20 {
            match bytes_left(books.reader.get_ref()) {
                0 => {
                    let written = books.writer.get_ref().write(b"!").unwrap();
                    books.bytes_in.fetch_add(written as u64, Ordering::Relaxed);
                }
                left @ 8192.. => {
                    // Others read too: no more than is surely there for everybody.
                    let mut room = vec![0; left as usize / 2];
                    let read = books.reader.get_ref().read(&mut room).unwrap();
                    books.bytes_out.fetch_add(read as u64, Ordering::Relaxed);
                }
                _ => {}
            }
            if let Some(receiver) = books.receiver.try_lock()
                && receiver.try_recv().is_ok()
            {
                books.values_out.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Forks while raises are pending in everybody; the child is alone, has no exception and can be raised into.
pub fn fork_amid_all(books: &Books, beat: &Beat) {
    while !books.over() {
        let attachment = attach().unwrap();
        books.live.lock().unwrap().push(attachment.id());
        for _ in 0..4 {
            beat.step(0);
            one_child();
            books.note("forks");
            while let Err(raised) = throwto::safepoint() {
                books.meet(&raised);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        books.live.lock().unwrap().retain(|id| *id != attachment.id());
        while let Err(raised) = throwto::safepoint() {
            books.meet(&raised);
        }
        drop(attachment);
    }
}

fn one_child() {
    // SAFETY: the child allocates, which glibc holds its locks over a fork for, starts no thread and prints nothing.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let alone = !throwto::pending() && throwto::threads().len() == 1;
            let me = throwto::ThreadId::current();
            let raised =
                me.is_some_and(|me| throwto::raise_exc(me, Stop).is_ok() && throwto::safepoint().is_err());
            // SAFETY: ends the child without running anything that belongs to the parent.
            unsafe { libc::_exit(i32::from(!alone) + 2 * i32::from(!raised)) }
        }
        ForkResult::Parent { child } => {
            let deadline = Instant::now() + Duration::from_secs(50);
            loop {
                match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
                    WaitStatus::StillAlive if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_micros(200))
                    }
                    WaitStatus::StillAlive => {
                        let told = |what| {
                            std::fs::read_to_string(format!("/proc/{child}/{what}")).unwrap_or_default()
                        };
                        let place = (told("syscall"), told("wchan"));
                        kill(child, Signal::SIGKILL).unwrap();
                        waitpid(child, None).unwrap();
                        panic!("the child hangs: {place:?}");
                    }
                    status => break assert_eq!(status, WaitStatus::Exited(child, 0)),
                }
            }
        }
    }
}
