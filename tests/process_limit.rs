//! Configuration: applied once, before use. Each case runs in a process of its own, which is this one started again.

#[path = "it/stage.rs"]
mod stage;

use throwto::foreign::Call;
use throwto::{AttachError, Config, ConfigError, attach, thread};

use stage::in_own_process;

#[test]
fn the_attach_limit_is_an_error_and_ended_threads_do_not_count() {
    in_own_process(
        "the_attach_limit_is_an_error_and_ended_threads_do_not_count",
        || {
            Config::new().attach_limit(2).apply().unwrap();
            let mine = attach().unwrap();
            let nested = attach().unwrap();
            let worker = thread::spawn(thread::park);
            let refused = thread::Builder::new().spawn(|| ()).unwrap_err();
            let error = refused.get_ref().and_then(|e| e.downcast_ref::<AttachError>());
            assert_eq!(error, Some(&AttachError::Limit { limit: 2 }));
            let refused = std::thread::spawn(|| attach().err()).join().unwrap();
            assert_eq!(refused, Some(AttachError::Limit { limit: 2 }));
            assert_eq!(throwto::threads().len(), 2);
            worker.unpark();
            worker.join().unwrap().unwrap();
            for _ in 0..100 {
                thread::spawn(|| ()).join().unwrap();
            }
            drop((mine, nested));
        },
    );
}

#[test]
fn a_limit_of_nothing_attaches_nobody() {
    in_own_process("a_limit_of_nothing_attaches_nobody", || {
        Config::new().attach_limit(0).apply().unwrap();
        assert_eq!(attach().err(), Some(AttachError::Limit { limit: 0 }));
        assert!(throwto::safepoint().is_ok());
    });
}

#[test]
fn a_configuration_after_use_comes_too_late() {
    in_own_process("a_configuration_after_use_comes_too_late", || {
        let attachment = attach().unwrap();
        assert_eq!(Config::new().attach_limit(1).apply(), Err(ConfigError::TooLate));
        drop(attachment);
        assert_eq!(Config::new().apply(), Err(ConfigError::TooLate));
    });
}

#[test]
fn a_configuration_is_applied_once() {
    in_own_process("a_configuration_is_applied_once", || {
        Config::new().nudge_signal(libc::SIGUSR1).apply().unwrap();
        assert_eq!(Config::new().apply(), Err(ConfigError::TooLate));
        let (reader, _writer) = std::io::pipe().unwrap();
        let worker = thread::spawn(move || {
            let mut call = Call::new("read");
            if Call::supports(throwto::Rung::Fail) {
                call = call.fail_syscalls();
            }
            call.run(|| std::io::Read::read(&mut { reader }, &mut [0]))
        });
        worker.raise(throwto::Stop).unwrap();
        let ended = worker.join().unwrap();
        assert!(
            ended.is_err() || ended.is_ok_and(|read| read.is_err()),
            "another signal nudges as well"
        );
    });
}

#[test]
fn a_signal_that_cannot_be_caught_is_an_error_at_attach_every_time() {
    const NAME: &str = "a_signal_that_cannot_be_caught_is_an_error_at_attach_every_time";
    in_own_process(NAME, || {
        for signal in [0, -1, libc::SIGKILL, libc::SIGSTOP, 65, i32::MAX] {
            // SAFETY: the child runs a few calls of ours and exits; this process has no other threads but libtest's.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let held = std::panic::catch_unwind(|| {
                    Config::new().nudge_signal(signal).apply().unwrap();
                    for _ in 0..2 {
                        match attach() {
                            Err(AttachError::Signal { signal: told, .. }) => assert_eq!(told, signal),
                            other => panic!("{signal}: {other:?}"),
                        }
                        assert!(thread::Builder::new().spawn(|| ()).is_err());
                        assert!(throwto::safepoint().is_ok());
                    }
                });
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(held.is_err())) };
            }
            let mut status = 0;
            // SAFETY: waits for the child above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!(status, 0, "signal {signal}");
        }
    });
}

#[test]
fn a_detached_call_without_a_thread_to_be_had_is_an_error() {
    use throwto::foreign::{DetachedError, detached};
    in_own_process("a_detached_call_without_a_thread_to_be_had_is_an_error", || {
        let attachment = attach().unwrap();
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
        // Room for some stacks, so that the C library's stock of old ones is used up too.
        let most = pages * 4096 + (64 << 20);
        let limit = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        // SAFETY: reads one rlimit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
        let mut parked = Vec::new();
        while let Ok(worker) = thread::Builder::new().spawn(thread::park) {
            parked.push(worker);
            assert!(parked.len() < 1000);
        }
        let held = std::sync::Arc::new(());
        let theirs = std::sync::Arc::clone(&held);
        match detached(move || drop(theirs)) {
            Err(DetachedError::NotStarted(error)) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            std::sync::Arc::strong_count(&held),
            1,
            "the call was dropped, once"
        );
        for worker in parked {
            worker.unpark();
            worker.join().unwrap().unwrap();
        }
        assert_eq!(detached(|| 42).unwrap(), 42);
        assert_eq!(throwto::stats().left_behind, 0);
        drop(attachment);
    });
}

#[test]
fn detached_calls_one_after_the_other_never_meet_the_attach_limit() {
    use throwto::foreign::{DetachedError, detached};
    in_own_process(
        "detached_calls_one_after_the_other_never_meet_the_attach_limit",
        || {
            Config::new().attach_limit(2).apply().unwrap();
            let mine = attach().unwrap();
            for round in 0..2000 {
                assert_eq!(detached(move || round).unwrap(), round);
            }
            let other = thread::spawn(thread::park);
            let refused = detached(|| ()).unwrap_err();
            assert!(matches!(refused, DetachedError::NotStarted(_)), "{refused:?}");
            other.unpark();
            other.join().unwrap().unwrap();
            drop(mine);
        },
    );
}
