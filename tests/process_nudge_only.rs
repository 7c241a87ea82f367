//! Systems with signals and without a window, played on this one: `THROWTO_NUDGE_ONLY=1 cargo test` (see build.rs).
//!
//! A process of its own, since it chooses a signal and fills the table by which the handler finds a thread's record.

#![cfg(all(throwto_nudge, not(throwto_ladder)))]

#[path = "it/stage.rs"]
mod stage;

use std::io;
use std::sync::{Arc, Barrier};

use throwto::foreign::{self, Call, CallError};
use throwto::os::{self, OsTid};
use throwto::{Config, RaiseError, Rung, Stop, Unsupported, attach, thread};

use stage::*;

/// More threads than the handler's table has cells, so that many share one.
const CROWD: usize = 1_500;
const SIGNAL: i32 = libc::SIGUSR1;

fn ready() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| Config::new().nudge_signal(SIGNAL).apply().unwrap());
}

#[test]
fn a_rung_that_cannot_be_had_is_an_error_and_the_call_is_not_made() {
    ready();
    let never = || -> Result<(), io::Error> { panic!("the call was made") };
    let check = || {
        assert!(!Call::supports(Rung::Fail) && Call::supports(Rung::Nudge));
        match Call::new("read").fail_syscalls().try_run(never) {
            Err(CallError::Unsupported { capability: told }) => assert!(told.starts_with("fail")),
            other => panic!("{other:?}"),
        }
        let told = Call::new("read").fail_syscalls().run(never).unwrap_err();
        assert!(told.is::<Unsupported>(), "{told}");
        let told: io::Error = Call::new("read")
            .fail_syscalls()
            .try_run(never)
            .unwrap_err()
            .into();
        assert_eq!(told.kind(), io::ErrorKind::Unsupported);
    };
    // Nobody is attached, then this thread is.
    check();
    let _attachment = attach().unwrap();
    check();
    for rung in [Rung::Nudge, Rung::Fail, Rung::Hook] {
        assert!(matches!(
            os::interrupt(OsTid::current(), rung),
            Err(RaiseError::Unsupported { .. })
        ));
    }
    assert!(throwto::safepoint().is_ok(), "nothing was raised");
}

/// A nudge that comes too late looks like a stranger's, so the default action must not be carried out.
#[test]
fn a_signal_whose_default_is_death_ends_nobody() {
    ready();
    let _attachment = attach().unwrap();
    let before = throwto::stats().foreign_signals;
    // SAFETY: a signal to this thread, which has a handler for it.
    assert_eq!(unsafe { libc::raise(SIGNAL) }, 0);
    assert!(throwto::stats().foreign_signals > before);
    assert!(!throwto::pending() && throwto::safepoint().is_ok());
}

#[test]
fn every_one_of_many_blocked_threads_hears_its_own_nudge() {
    ready();
    let (reader, _writer) = io::pipe().unwrap();
    let reader = Arc::new(reader);
    let inside = Arc::new(Barrier::new(CROWD + 1));
    let workers: Vec<_> = (0..CROWD)
        .map(|_| {
            let (reader, inside) = (Arc::clone(&reader), Arc::clone(&inside));
            thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    inside.wait();
                    Call::new("read").try_run(|| raw_read(&*reader))
                })
                .unwrap()
        })
        .collect();
    inside.wait();
    // From two threads at once and from both ends, so that one sender overwrites what the other has noted.
    std::thread::scope(|s| {
        s.spawn(|| workers.iter().step_by(2).for_each(|w| drop(w.raise(Stop))));
        s.spawn(|| {
            workers
                .iter()
                .skip(1)
                .step_by(2)
                .rev()
                .for_each(|w| drop(w.raise(Stop)))
        });
    });
    for worker in workers {
        match join(worker) {
            Err(CallError::Raised(raised)) => assert!(raised.is::<Stop>()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_nudge_that_fell_before_the_call_is_followed_by_another() {
    ready();
    let (reader, _writer) = io::pipe().unwrap();
    for _ in 0..20 {
        let reader = reader.try_clone().unwrap();
        let heard = Arc::new(Barrier::new(2));
        let worker = {
            let heard = Arc::clone(&heard);
            thread::spawn(move || {
                foreign::call(|| {
                    heard.wait();
                    // The raise, and its first nudge, come before the read.
                    heard.wait();
                    raw_read(&reader)
                })
                .unwrap()
            })
        };
        heard.wait();
        worker.raise(Stop).unwrap();
        heard.wait();
        assert_eq!(join(worker), Err(libc::EINTR));
    }
}

#[test]
fn a_signal_of_the_program_is_raised_as_an_exception() {
    ready();
    let worker = thread::spawn(|| thread::sleep(FOREVER));
    let _usr2 = throwto::signal::on(libc::SIGUSR2, worker.id(), throwto::ExcType::of::<Stop>()).unwrap();
    // SAFETY: a signal that has a handler by now.
    assert_eq!(unsafe { libc::kill(std::process::id() as i32, libc::SIGUSR2) }, 0);
    assert!(join(worker).unwrap_err().is::<Stop>());
    let taken = throwto::signal::on(SIGNAL, "nobody", throwto::ExcType::of::<Stop>());
    assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}
