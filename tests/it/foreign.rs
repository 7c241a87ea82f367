//! Foreign calls: raised before or never after a result, the rungs, hooks that stay in their region, nesting.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use throwto::foreign::{self, Call, CallError};
use throwto::os::{self, OsTid};
use throwto::{
    RaiseError, Raised, Rung, Stop, ThreadState, TimedOut, attach, mask, raise_exc, thread, uninterruptible,
};

use crate::stage::*;

#[test]
fn a_pending_exception_is_raised_before_entry_and_the_call_is_not_made() {
    let attachment = attach().unwrap();
    raise_exc(attachment.id(), Stop).unwrap();
    let mut made = false;
    assert!(foreign::call(|| made = true).unwrap_err().is::<Stop>());
    raise_exc(attachment.id(), Stop).unwrap();
    assert!(Call::new("never made").run(|| made = true).is_err());
    raise_exc(attachment.id(), Stop).unwrap();
    let tried = Call::new("never made").try_run(|| {
        made = true;
        Err::<(), _>(io::Error::last_os_error())
    });
    assert!(matches!(tried, Err(CallError::Raised(_))));
    assert!(!made);
}

#[test]
fn a_result_is_never_thrown_away() {
    let attachment = attach().unwrap();
    let me = attachment.id();
    let result = foreign::call(|| {
        raise_exc(me, Stop).unwrap();
        7
    });
    assert_eq!(result.unwrap(), 7);
    assert!(throwto::safepoint().is_err(), "the exception stayed pending");
    let result = with_fail(Call::new("good"), true).try_run(|| {
        raise_exc(me, Stop).unwrap();
        assert!(throwto::pending());
        Ok::<_, ()>(8)
    });
    assert_eq!(result.unwrap(), 8);
    assert!(throwto::safepoint().is_err());
}

#[test]
fn an_error_of_the_librarys_own_is_not_turned_into_raised() {
    let attachment = attach().unwrap();
    let me = attachment.id();
    // Something acted once, for a raise that was taken back.
    let revoked = raise_exc(me, TimedOut).unwrap();
    assert!(throwto::pending());
    revoked.revoke();
    let own = Call::new("fails by itself").try_run(|| {
        // Uninterruptible, so that no signal comes.
        uninterruptible(|_| raise_exc(me, Stop)).unwrap();
        Err::<(), _>("disk full")
    });
    assert!(matches!(own, Err(CallError::Failed("disk full"))), "{own:?}");
    assert!(throwto::safepoint().is_err(), "the exception stayed pending");

    // A callback that polled before the call has not interrupted it.
    mask(|_| {
        raise_exc(me, Stop).unwrap();
        assert!(throwto::pending());
        let own = Call::new("fails by itself").try_run(|| Err::<(), _>("disk full"));
        assert!(matches!(own, Err(CallError::Failed("disk full"))), "{own:?}");
    });
    assert!(throwto::safepoint().is_err());
}

#[test]
fn a_call_that_fails_because_a_callback_polled_is_raised() {
    let attachment = attach().unwrap();
    let me = attachment.id();
    let outcome = Call::new("polls").try_run(|| {
        assert!(!throwto::pending());
        raise_exc(me, Stop).unwrap();
        if throwto::pending() {
            Err("interrupted")
        } else {
            Ok(())
        }
    });
    assert!(matches!(outcome, Err(CallError::Raised(raised)) if raised.is::<Stop>()));
}

/// Raises into a worker that `body` blocks at `place`, and returns what it returned.
fn broken<T: Send + 'static>(place: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let worker = thread::spawn(body);
    until_blocked(worker.id(), place);
    let receipt = worker.raise(Stop).unwrap();
    let result = join(worker);
    assert!(fate(&receipt).is_final());
    result
}

#[test]
fn the_nudge_breaks_a_raw_read() {
    let (reader, _writer) = io::pipe().unwrap();
    let (read, after) = broken("read(", move || {
        (foreign::call(|| raw_read(&reader)).unwrap(), spin())
    });
    assert_eq!((read, after.rung()), (Err(libc::EINTR), Rung::Nudge));
}

#[cfg(throwto_ladder)]
fn failing<T>(f: impl FnOnce() -> T) -> T {
    Call::new("stubborn").fail_syscalls().run(f).unwrap()
}

#[cfg(throwto_ladder)]
#[test]
fn the_fail_rung_ends_a_stubborn_read_whose_pipe_still_works() {
    let (reader, mut writer) = io::pipe().unwrap();
    let worker = thread::spawn(move || {
        let (end, _) = failing(|| stubborn_read(&reader));
        let rung = spin().rung();
        (end, rung, raw_read(&reader))
    });
    until_blocked(worker.id(), "read(");
    assert_eq!(fate(&worker.raise(Stop).unwrap()), throwto::ReceiptState::Caught);
    io::Write::write_all(&mut writer, b"x").unwrap();
    assert_eq!(join(worker), (Err(libc::ECANCELED), Rung::Fail, Ok(1)));
}

#[cfg(throwto_ladder)]
#[test]
fn the_fail_rung_ends_the_accept_of_std() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (error, listener) = broken("accept", move || {
        let error = failing(|| listener.accept()).unwrap_err();
        spin();
        (error, listener)
    });
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
    let client = std::net::TcpStream::connect(address).unwrap();
    assert_eq!(
        listener.accept().unwrap().1,
        client.local_addr().unwrap(),
        "the listener works on"
    );
}

#[cfg(throwto_ladder)]
#[test]
fn the_fail_rung_ends_polls_and_sleeps_as_timed_out() {
    let (reader, _writer) = io::pipe().unwrap();
    let polled = broken("poll(", move || {
        let mut poll = libc::pollfd {
            fd: reader.as_raw_fd(),
            events: libc::POLLIN,
            revents: 7,
        };
        let ready = failing(|| {
            loop {
                // SAFETY: one pollfd, borrowed for the call.
                let ready = unsafe { libc::poll(&raw mut poll, 1, -1) };
                if ready >= 0 || errno() != libc::EINTR {
                    break ready;
                }
            }
        });
        (ready, poll.revents)
    });
    assert_eq!(polled, (0, 0));

    let start = Instant::now();
    broken("clock_nanosleep", || failing(|| std::thread::sleep(FOREVER)));
    assert!(start.elapsed() < FOREVER);
}

#[cfg(throwto_ladder)]
#[test]
fn the_fail_rung_ends_the_wait_of_std_and_the_child_can_still_be_waited_for() {
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let (error, mut child) = broken("wait", move || {
        let error = failing(|| child.wait()).unwrap_err();
        (error, child)
    });
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[cfg(throwto_ladder)]
#[test]
fn the_fail_rung_ends_a_poll_whose_caller_takes_a_time_out_for_nothing() {
    let errno = broken("poll(", || {
        failing(|| {
            loop {
                // SAFETY: no descriptors, so nothing is touched.
                let ready = unsafe { libc::poll(std::ptr::null_mut(), 0, -1) };
                if ready == -1 && errno() != libc::EINTR {
                    break errno();
                }
            }
        })
    });
    assert_eq!(errno, libc::ECANCELED);
}

#[cfg(throwto_ladder)]
#[test]
fn the_fail_rung_ends_a_connect_of_std_that_polls_with_its_own_limit() {
    let (_listener, addr, _queued) = full_listener();
    let error = broken("poll(", move || {
        failing(|| std::net::TcpStream::connect_timeout(&addr, FOREVER)).unwrap_err()
    });
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
}

#[cfg(throwto_ladder)]
#[test]
fn the_fail_rung_ends_a_flock_loop() {
    let path = std::env::temp_dir().join(format!("throwto-flock-{}", std::process::id()));
    let held = std::fs::File::create(&path).unwrap();
    held.lock().unwrap();
    let wanted = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (error, wanted) = broken("flock(", move || {
        let locked = failing(|| {
            loop {
                match wanted.lock() {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    end => break end,
                }
            }
        });
        (locked.unwrap_err(), wanted)
    });
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
    held.unlock().unwrap();
    wanted.lock().unwrap();
}

#[cfg(throwto_ladder)]
#[test]
fn the_same_thread_is_freed_again_and_again() {
    let (reader, _writer) = io::pipe().unwrap();
    let worker = thread::spawn(move || {
        (0..50)
            .map(|_| {
                Call::new("read")
                    .fail_syscalls()
                    .try_run(|| match stubborn_read(&reader).0 {
                        Ok(read) => Ok(read),
                        Err(errno) => Err(io::Error::from_raw_os_error(errno)),
                    })
            })
            .filter(|read| matches!(read, Err(CallError::Raised(raised)) if raised.is::<Stop>()))
            .count()
    });
    let mut raised = 0;
    while raised < 50 {
        until_blocked(worker.id(), "read(");
        let receipt = worker.raise(Stop).unwrap();
        assert_eq!(fate(&receipt), throwto::ReceiptState::Caught);
        raised += 1;
    }
    assert_eq!(join(worker), 50);
}

/// A flag that C code would look at: blocks in a futex, which no rung but the hook may end.
#[derive(Default)]
struct Library {
    told: Mutex<Told>,
    changed: std::sync::Condvar,
}

#[derive(Default)]
struct Told {
    interrupted: bool,
    working: bool,
}

impl Library {
    fn interrupt(&self) {
        self.told.lock().unwrap().interrupted = true;
        self.changed.notify_all();
    }

    fn work(&self) -> Result<(), &'static str> {
        let mut told = self.told.lock().unwrap();
        told.working = true;
        while !told.interrupted {
            told = self.changed.wait(told).unwrap();
        }
        *told = Told::default();
        Err("interrupted")
    }

    /// Waits until the thread is blocked in [`Library::work`]. A futex wait alone would not tell: a thread also sleeps so
    /// on the locks of its start, and at the end of a region while somebody looks at that.
    #[track_caller]
    fn until_at_work(&self, id: throwto::ThreadId) {
        until("the library works", || self.told.lock().unwrap().working);
        until_blocked(id, "futex wait");
    }
}

#[test]
fn the_hook_ends_a_call_that_no_signal_can() {
    let library = Arc::new(Library::default());
    let worker = {
        let library = Arc::clone(&library);
        thread::spawn(move || {
            Call::new("library")
                .unblock(|| library.interrupt())
                .try_run(|| library.work())
        })
    };
    library.until_at_work(worker.id());
    assert_eq!(info(worker.id()).unwrap().region, Some("library"));
    worker.raise(Stop).unwrap();
    match join(worker) {
        Err(CallError::Raised(raised)) => assert_eq!(raised.rung(), Rung::Hook),
        other => panic!("{other:?}"),
    }
}

/// Shows driver I2: whatever lock the driver held would be asked for a second time.
#[test]
fn a_hook_may_ask_for_everything_that_the_driver_uses() {
    let library = Arc::new(Library::default());
    let other = thread::spawn(|| thread::sleep(FOREVER));
    let (worker, seen) = {
        let (library, other) = (Arc::clone(&library), other.id());
        let (tell, seen) = std::sync::mpsc::channel();
        let worker = thread::spawn(move || {
            let hook = || {
                let raised = throwto::raise_exc(other, Stop).is_ok();
                tell.send((raised, throwto::stats().nudges, throwto::threads().len()))
                    .unwrap();
                library.interrupt();
            };
            Call::new("library")
                .unblock(hook)
                .try_run(|| library.work())
                .is_err()
        });
        (worker, seen)
    };
    library.until_at_work(worker.id());
    worker.raise(Stop).unwrap();
    assert!(join(worker));
    let (raised, _nudges, there) = seen.recv_timeout(LIMIT).unwrap();
    assert!(raised && there >= 2);
    assert!(join(other).is_err());
}

/// A report is not to say "futex wait" of a thread that only the report, or a hook, keeps from going on.
#[cfg(throwto_ladder)]
#[test]
fn a_thread_that_its_hook_keeps_at_the_end_of_its_call_is_shown_so() {
    let (enter, entered) = std::sync::mpsc::channel();
    let (begin, began) = std::sync::mpsc::channel();
    let (let_go, until_let_go) = std::sync::mpsc::channel::<()>();
    let worker = thread::spawn(move || {
        let hook = move || {
            let _ = begin.send(());
            let _ = until_let_go.recv();
        };
        Call::new("library").unblock(hook).try_run(|| {
            enter.send(()).unwrap();
            began.recv().map_or(Ok(()), |()| Err("interrupted"))
        })
    });
    entered.recv().unwrap();
    worker.raise(Stop).unwrap();
    until_blocked(worker.id(), "held by a hook or a look at it");
    assert_eq!(info(worker.id()).unwrap().state, ThreadState::Running);
    drop(let_go);
    assert!(matches!(join(worker), Err(CallError::Raised(raised)) if raised.rung() == Rung::Hook));
}

#[test]
fn a_hook_that_panics_is_counted_and_the_ladder_goes_on() {
    let before = throwto::stats().hook_panics;
    let library = Arc::new(Library::default());
    let worker = {
        let library = Arc::clone(&library);
        let mut runs = 0;
        thread::spawn(move || {
            let hook = || {
                runs += 1;
                if runs < 3 {
                    std::panic::resume_unwind(Box::new("a bad hook"));
                }
                library.interrupt();
            };
            Call::new("bad hook")
                .unblock(hook)
                .try_run(|| library.work())
                .is_err()
        })
    };
    library.until_at_work(worker.id());
    worker.raise(Stop).unwrap();
    assert!(join(worker));
    assert!(throwto::stats().hook_panics >= before + 2);
}

/// Each call checks a flag of its own that is down outside the region: a hook that runs too late sees it.
/// Shows driver I1.
#[test]
fn a_hook_never_runs_after_its_region_ended() {
    let over = Arc::new(AtomicBool::new(false));
    let late = Arc::new(AtomicUsize::new(0));
    let ran = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (over, late, ran) = (Arc::clone(&over), Arc::clone(&late), Arc::clone(&ran));
            thread::spawn(move || {
                let mut calls = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    // On the stack and gone after the call: the hook borrows it.
                    let inside = AtomicBool::new(true);
                    let hook = || {
                        ran.fetch_add(1, Ordering::Relaxed);
                        for _ in 0..50 {
                            if !inside.load(Ordering::SeqCst) {
                                late.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    };
                    let call = Call::new("short").unblock(hook);
                    let spins = calls % 300;
                    let _ = call.run(|| {
                        for _ in 0..spins {
                            std::hint::spin_loop();
                        }
                        if spins == 7 {
                            std::thread::yield_now();
                        }
                    });
                    inside.store(false, Ordering::SeqCst);
                    let _ = throwto::safepoint();
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let end = Instant::now() + Duration::from_millis(1500);
    until("a while of raising, and a hook that ran", || {
        for worker in &workers {
            worker.raise(Stop).unwrap();
        }
        let _ = throwto::threads();
        Instant::now() > end && ran.load(Ordering::Relaxed) > 0
    });
    over.store(true, Ordering::Relaxed);
    assert!(workers.into_iter().map(join).sum::<u64>() > 0);
    assert_eq!(late.load(Ordering::SeqCst), 0, "a hook ran after its call");
}

#[test]
fn regions_nest_and_each_is_left_as_it_was_entered() {
    let _attachment = attach().unwrap();
    let seen = Mutex::new(Vec::new());
    let me = throwto::ThreadId::current().unwrap();
    let look = || {
        seen.lock()
            .unwrap()
            .push(info(me).map(|t| (t.state, t.region)).unwrap())
    };
    look();
    Call::new("outer")
        .run(|| {
            look();
            let inner = Call::new("inner").run(|| {
                look();
                mask(|_| foreign::call(look)).unwrap();
                look();
            });
            inner.unwrap();
            look();
        })
        .unwrap();
    look();
    let seen = seen.into_inner().unwrap();
    let foreign = |label| (ThreadState::Foreign, Some(label));
    assert_eq!(seen[0], (ThreadState::Running, None));
    assert_eq!(seen[1], foreign("outer"));
    assert_eq!(seen[2], foreign("inner"));
    assert_eq!(seen[3], (ThreadState::Foreign, None));
    assert_eq!(
        seen[4..],
        [foreign("inner"), foreign("outer"), (ThreadState::Running, None)]
    );
}

#[test]
fn an_outer_hook_works_again_after_an_inner_region() {
    let library = Arc::new(Library::default());
    let worker = {
        let library = Arc::clone(&library);
        thread::spawn(move || {
            Call::new("outer").unblock(|| library.interrupt()).try_run(|| {
                Call::new("inner").run(|| ()).unwrap();
                foreign::call(|| ()).unwrap();
                library.work()
            })
        })
    };
    library.until_at_work(worker.id());
    worker.raise(Stop).unwrap();
    assert!(matches!(join(worker), Err(CallError::Raised(_))));
}

#[test]
fn a_panic_inside_leaves_every_region() {
    let _attachment = attach().unwrap();
    let me = throwto::ThreadId::current().unwrap();
    let panic = std::panic::catch_unwind(|| {
        foreign::call(|| {
            Call::new("inner")
                .unblock(|| ())
                .run(|| std::panic::resume_unwind(Box::new(())))
        })
    });
    let panic: Result<Result<Result<(), Raised>, Raised>, _> = panic;
    assert!(panic.is_err());
    assert_eq!(info(me).unwrap().state, ThreadState::Running);
}

#[test]
fn a_callback_that_polls_pending_ends_a_call_that_computes() {
    let polls = Arc::new(AtomicU64::new(0));
    let worker = {
        let polls = Arc::clone(&polls);
        thread::spawn(move || {
            Call::new("computes").try_run(|| {
                while !throwto::pending() {
                    polls.fetch_add(1, Ordering::Relaxed);
                }
                Err::<(), _>("interrupted by its callback")
            })
        })
    };
    until("the callback polls", || polls.load(Ordering::Relaxed) > 1000);
    worker.raise(Stop).unwrap();
    // Where nobody can see that the thread computes, a nudge comes too, and is named.
    let strongest = if cfg!(throwto_ladder) {
        Rung::Safepoint
    } else {
        Rung::Nudge
    };
    assert!(matches!(join(worker), Err(CallError::Raised(raised)) if raised.rung() <= strongest));
}

extern "C" fn restarting(_signal: libc::c_int) {}

/// Another library's handler with `SA_RESTART` keeps interrupting the same call.
#[cfg(throwto_ladder)]
#[test]
fn a_restarting_handler_of_somebody_else_keeps_nobody_stuck() {
    // SAFETY: all zero is a sigaction without flags; the handler does nothing.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = restarting as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: installs the handler above; nobody else here uses SIGUSR2.
    let set = unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let (reader, _writer) = io::pipe().unwrap();
    let worker = thread::spawn(move || failing(|| stubborn_read(&reader)).0);
    until_blocked(worker.id(), "read(");
    let tid = info(worker.id()).unwrap().os_tid.as_raw();
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let _over = Over(&over);
        s.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // SAFETY: sends a signal that has a handler; the worker is joined after this thread.
                unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, libc::SIGUSR2) };
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        worker.raise(Stop).unwrap();
        until("the read has ended", || !worker.is_alive());
    });
    assert_eq!(join(worker), Err(libc::ECANCELED));
}

/// Shows platform::linux::direct I1.
#[cfg(throwto_ladder)]
#[test]
fn a_thread_that_never_attached_is_interrupted_by_its_number() {
    let (send, tid) = std::sync::mpsc::channel();
    let (reader, mut writer) = io::pipe().unwrap();
    let other = std::thread::spawn(move || {
        send.send(OsTid::current()).unwrap();
        (raw_read(&reader), stubborn_read(&reader).0, raw_read(&reader))
    });
    let tid = tid.recv().unwrap();
    let until_ok = |rung| {
        until("interrupted", || match os::interrupt(tid, rung) {
            Ok(()) => true,
            Err(RaiseError::NotBlocked { .. }) => false,
            Err(other) => panic!("{other}"),
        });
    };
    until_in_read(tid);
    until_ok(Rung::Nudge);
    until_in_read(tid);
    until_ok(Rung::Fail);
    io::Write::write_all(&mut writer, b"x").unwrap();
    let (first, second, third) = other.join().unwrap();
    assert_eq!(second, Err(libc::ECANCELED));
    assert_eq!((first, third), (Err(libc::EINTR), Ok(1)));
    // The kernel shows a thread for a moment longer than std joins it.
    until("gone", || {
        matches!(
            os::interrupt(tid, Rung::Nudge),
            Err(RaiseError::NoSuchThread { .. })
        )
    });
    assert!(matches!(
        os::interrupt(tid, Rung::Hook),
        Err(RaiseError::Unsupported { .. })
    ));
}

/// Waits behind a child that has this thread's memory, until somebody writes: no signal reaches the thread meanwhile.
#[cfg(throwto_ladder)]
fn read_in_a_child(reader: &io::PipeReader) {
    extern "C" fn child(fd: *mut libc::c_void) -> libc::c_int {
        // SAFETY: integers. Else it would outlive a parent that fails.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let mut byte = 0_u8;
        // SAFETY: one byte of this stack; the parent's pipe is open here too.
        unsafe { libc::read(fd as usize as libc::c_int, (&raw mut byte).cast(), 1) as libc::c_int }
    }
    let mut stack = vec![0_u128; 4096];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument = reader.as_raw_fd() as usize as *mut libc::c_void;
    // SAFETY: the child has a stack of its own, and has ended when this returns.
    let pid = unsafe { libc::clone(child, stack.as_mut_ptr_range().end.cast(), flags, argument) };
    assert!(pid > 0, "{}", io::Error::last_os_error());
    let mut status = 0;
    // SAFETY: our own child, and a word for its status.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(libc::WEXITSTATUS(status), 1);
}

/// A process of its own: the orders that are lost here are lost for good.
/// Shows platform::linux::direct I2.
#[cfg(throwto_ladder)]
#[test]
fn an_order_whose_signal_is_still_on_its_way_is_never_given_to_another() {
    in_own_process(
        "foreign::an_order_whose_signal_is_still_on_its_way_is_never_given_to_another",
        || {
            let (send, tid) = std::sync::mpsc::channel();
            let (reader, mut writer) = io::pipe().unwrap();
            let deaf = std::thread::spawn(move || {
                send.send(OsTid::current()).unwrap();
                read_in_a_child(&reader);
            });
            let tid = tid.recv().unwrap();
            let unheard = || match os::interrupt(tid, Rung::Nudge) {
                Ok(()) => false,
                Err(RaiseError::Unheard { reason, .. }) => {
                    assert!(reason.contains("within 50 ms"), "{reason}");
                    true
                }
                Err(other) => panic!("{other}"),
            };
            // Until it is behind the child it hears.
            until("unheard", unheard);
            for _ in 1..64 {
                assert!(unheard());
            }
            let none_left = |tid| {
                let refused = os::interrupt(tid, Rung::Nudge);
                assert!(
                    matches!(refused, Err(RaiseError::Unsupported { .. })),
                    "{refused:?}"
                );
            };
            none_left(tid);
            // All of them may still act.
            io::Write::write_all(&mut writer, b"x").unwrap();
            deaf.join().unwrap();
            none_left(OsTid::current());
        },
    );
}

#[cfg(throwto_ladder)]
#[test]
fn a_thread_that_blocks_the_signal_is_not_sent_one() {
    let (send, tid) = std::sync::mpsc::channel();
    let (reader, mut writer) = io::pipe().unwrap();
    let deaf = std::thread::spawn(move || {
        use nix::sys::signal::{SigSet, Signal};
        SigSet::from(Signal::SIGURG).thread_block().unwrap();
        send.send(OsTid::current()).unwrap();
        raw_read(&reader)
    });
    let tid = tid.recv().unwrap();
    for rung in [Rung::Nudge, Rung::Fail] {
        match os::interrupt(tid, rung) {
            Err(RaiseError::Unheard { os_tid, reason, .. }) => {
                assert_eq!((os_tid, reason), (tid, "its signal mask blocks it"));
            }
            other => panic!("{other:?}"),
        }
    }
    io::Write::write_all(&mut writer, b"x").unwrap();
    assert_eq!(deaf.join().unwrap(), Ok(1));
}

#[cfg(throwto_ladder)]
#[test]
fn a_thread_that_computes_has_no_call_to_fail() {
    let (send, tid) = std::sync::mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let busy = std::thread::spawn(move || {
        send.send(OsTid::current()).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    let tid = tid.recv().unwrap();
    // It may still be on its way out of `send`.
    until("it computes", || {
        std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall"))
            .is_ok_and(|line| line.starts_with("running"))
    });
    let refused = os::interrupt(tid, Rung::Fail);
    assert!(
        matches!(refused, Err(RaiseError::NotBlocked { os_tid, .. }) if os_tid == tid),
        "{refused:?}"
    );
    assert_eq!(os::interrupt(tid, Rung::Nudge), Ok(()));
    stop.store(true, Ordering::Relaxed);
    busy.join().unwrap();
}

fn until_in_read(tid: OsTid) {
    until_in_call("in read", tid, libc::SYS_read);
}

fn until_in_call(what: &str, tid: OsTid, number: i64) {
    let (path, number) = (format!("/proc/self/task/{tid}/syscall"), format!("{number} "));
    until(what, || {
        std::fs::read_to_string(&path).is_ok_and(|line| line.starts_with(&number))
    });
}

#[cfg(throwto_ladder)]
#[test]
fn a_lock_inside_a_library_is_refused_by_name() {
    let (send, tid) = std::sync::mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let other = {
        let gate = Arc::clone(&gate);
        std::thread::spawn(move || {
            send.send(OsTid::current()).unwrap();
            drop(gate.lock());
        })
    };
    let tid = tid.recv().unwrap();
    until("refused", || match os::interrupt(tid, Rung::Fail) {
        Err(RaiseError::Refused { call: "futex", .. }) => true,
        // On its way to the lock.
        Err(RaiseError::NotBlocked { .. }) => false,
        other => panic!("{other:?}"),
    });
    drop(held);
    other.join().unwrap();
}

/// Each raise leaves a note and a signal; if the note had the hook run again at once, std's sleep would be broken without end.
#[test]
fn a_hook_that_raises_into_its_own_thread_runs_no_oftener_than_any_other() {
    const NAP: Duration = Duration::from_millis(100);
    let worker = thread::spawn(|| {
        let me = throwto::ThreadId::current().unwrap();
        let runs = AtomicUsize::new(0);
        let hook = || {
            runs.fetch_add(1, Ordering::SeqCst);
            raise_exc(me, Stop).unwrap();
        };
        let began = Instant::now();
        let slept = Call::new("nap").unblock(hook).run(|| {
            raise_exc(me, Stop).unwrap();
            std::thread::sleep(NAP);
        });
        assert!(slept.is_ok() && throwto::safepoint().is_err());
        (runs.into_inner() as u128, began.elapsed().as_millis())
    });
    // After 0, 1, 2, 4, 8, 16, 32 ms, and then every 50.
    let (runs, lasted) = worker.join().unwrap();
    assert!(
        (1..=8 + lasted / 50).contains(&runs),
        "{runs} times in {lasted} ms"
    );
}
