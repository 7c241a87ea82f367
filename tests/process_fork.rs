//! P13: what a forked child starts with. A process of its own, since it forks while raisers hammer.
//!
//! Each test has a process of its own besides: std holds a lock of its own while a thread starts or ends, another test's
//! as well, and a child that is forked at that moment can start none (docs/limitations.md). A child tells by its exit
//! status what it found; a child that hangs is killed and fails the test.

#[path = "it/child.rs"]
mod child;
#[path = "it/stage.rs"]
mod stage;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use throwto::os::OsTid;
use throwto::{
    Interrupted, Raise, RaiseError, ReceiptState, Stop, ThreadId, attach, foreign, raise_exc, thread,
};

use child::*;
use stage::*;

#[test]
fn a_child_holds_itself_alone_with_an_empty_queue() {
    in_own_process("a_child_holds_itself_alone_with_an_empty_queue", || {
        let ledger = Ledger::new();
        let attachment = attach().unwrap();
        let me = attachment.id();
        let other = thread::spawn(thread::park);
        until_waiting(other.id());
        let mine = Raise::new(Numbered::new(&ledger)).queue().to(me).unwrap();
        let theirs = throwto::uninterruptible(|_| other.raise(Interrupted));
        let theirs = theirs.unwrap();
        in_child(|| {
            let seen = throwto::threads();
            check("alone", seen.len() == 1 && seen[0].id == me)?;
            check("found by its new number", seen[0].os_tid == OsTid::current())?;
            check(
                "an empty queue",
                !throwto::pending() && throwto::safepoint().is_ok(),
            )?;
            check("the parent's value is not dropped here", ledger.drops_of(0) == 0)?;
            check("the parent's receipt says nothing here", !mine.revoke())?;
            check(
                "the other is gone",
                matches!(raise_exc(other.id(), Stop), Err(RaiseError::NoSuchThread { .. })),
            )?;
            for target in [throwto::Target::from(me), OsTid::current().into()] {
                raise_exc(target, Stop).map_err(|e| e.to_string())?;
                check(
                    "raised into",
                    throwto::safepoint().is_err_and(|raised| raised.is::<Stop>()),
                )?;
            }
            Ok(())
        });
        assert_eq!(
            mine.state(),
            ReceiptState::Pending,
            "the parent's own is as it was"
        );
        assert_eq!(number_of(&throwto::safepoint().unwrap_err()), 0);
        assert_eq!(mine.state(), ReceiptState::Caught);
        assert!(join(other).is_err());
        assert_eq!(fate(&theirs), ReceiptState::Caught);
        ledger.balance();
    });
}

/// Threads, nudges, hooks and the driver, anew in the child.
fn everything_works() -> Result<(), String> {
    let (reader, _writer) = std::io::pipe().map_err(|e| e.to_string())?;
    let fd = reader.as_raw_fd();
    let worker =
        thread::spawn(move || with_fail(foreign::Call::new("read"), true).run(|| breakable_read(&reader)));
    until_blocked(worker.id(), &format!("read(fd {fd}"));
    let receipt = worker.raise(Stop).map_err(|e| e.to_string())?;
    let read = join(worker).map_err(|e| e.to_string())?;
    check("it came free", read == Err(BROKEN))?;
    check("its receipt", fate(&receipt) == ReceiptState::TargetEnded)?;
    let asleep = thread::spawn(|| thread::sleep(FOREVER));
    until_waiting(asleep.id());
    asleep.raise(Stop).map_err(|e| e.to_string())?;
    check("woken", join(asleep).is_err())
}

#[test]
fn a_handle_of_the_parents_says_in_a_child_that_its_thread_is_not_here() {
    in_own_process(
        "a_handle_of_the_parents_says_in_a_child_that_its_thread_is_not_here",
        || {
            let _attachment = attach().unwrap();
            let other = thread::spawn(|| thread::park().is_ok());
            until_waiting(other.id());
            let mut handle = Some(other);
            in_child(|| {
                let other = handle.take().unwrap();
                check("not alive here", !other.is_alive())?;
                check(
                    "joined at once, with an error",
                    matches!(other.join(), Err(thread::JoinError::Panicked(_))),
                )
            });
            let other = handle.take().unwrap();
            assert!(other.is_alive());
            other.unpark();
            assert!(join(other));
        },
    );
}

#[test]
fn a_child_can_do_everything() {
    in_own_process("a_child_can_do_everything", || {
        // The driver runs in the parent before the fork.
        everything_works().unwrap();
        let attachment = attach().unwrap();
        in_child(everything_works);
        drop(attachment);
        in_child(|| {
            check(
                "unattached",
                ThreadId::current().is_none() && throwto::threads().is_empty(),
            )?;
            let _attachment = attach().map_err(|e| e.to_string())?;
            everything_works()
        });
        in_child(|| {
            in_child(everything_works);
            Ok(())
        });
        everything_works().unwrap();
    });
}

/// Whatever lock of ours somebody else holds at the fork, the child must not wait for it.
#[test]
fn a_fork_amid_raisers_lookers_and_exits_leaves_a_child_that_works() {
    in_own_process(
        "a_fork_amid_raisers_lookers_and_exits_leaves_a_child_that_works",
        forks_amid_all,
    );
}

fn forks_amid_all() {
    let ledger = Ledger::new();
    let over = AtomicBool::new(false);
    let attachment = attach().unwrap();
    let me = attachment.id();
    let busy = thread::spawn(|| while !throwto::safepoint().is_err_and(|raised| raised.is::<Stop>()) {});
    let id = busy.id();
    let old = raise_exc(id, Interrupted).unwrap();
    // A child that is forked while a thread starts can start none: see the head of this file. So all run, the driver too.
    everything_works().unwrap();
    fate(&old);
    let running = AtomicUsize::new(0);
    let runs = || running.fetch_add(1, Ordering::SeqCst);
    let mut met = 0_u64;
    std::thread::scope(|s| {
        let end = Over(&over);
        let raisers: Vec<_> = [me, id]
            .map(|target| {
                let (ledger, over, runs) = (&ledger, &over, &runs);
                s.spawn(move || {
                    runs();
                    let mut receipts = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        receipts.push(Raise::new(Numbered::new(ledger)).queue().to(target).unwrap());
                        std::thread::sleep(std::time::Duration::from_micros(5));
                    }
                    receipts
                })
            })
            .into();
        s.spawn(|| {
            runs();
            while !over.load(Ordering::Relaxed) {
                let _ = throwto::threads();
                let _ = raise_exc("no such name", Stop);
            }
        });
        s.spawn(|| {
            runs();
            while !over.load(Ordering::Relaxed) {
                // Not a thread of its own each time, for the same reason.
                drop(attach().unwrap());
            }
        });
        for _ in 0..2 {
            // Without a pause, so that the slot's lock is held at many a fork.
            s.spawn(|| {
                runs();
                // The target may be gone by the time that they see the end.
                while !over.load(Ordering::Relaxed) && raise_exc(id, Interrupted).is_ok() {
                    std::hint::spin_loop();
                }
            });
        }
        until("all run", || running.load(Ordering::SeqCst) == 6);
        for round in 0..60 {
            in_child(|| {
                check("an empty queue", !throwto::pending())?;
                check("alone", throwto::threads().len() == 1)?;
                for _ in 0..10 {
                    // Their locks may have been held by threads that are not here.
                    check("gone", raise_exc(id, Stop).is_err() && !old.revoke())?;
                    check("gone", throwto::set_async_exc(id, None) == 0)?;
                }
                raise_exc(me, Stop).map_err(|e| e.to_string())?;
                check("raised into", throwto::safepoint().is_err())?;
                if round % 10 == 0 {
                    everything_works()
                } else {
                    join_one()
                }
            });
            while throwto::safepoint().is_err() {
                met += 1;
            }
        }
        drop(end);
        let receipts: Vec<_> = raisers.into_iter().map(|r| r.join().unwrap()).collect();
        while throwto::safepoint().is_err() {
            met += 1;
        }
        assert_eq!(
            receipts[0].len() as u64,
            met,
            "the parent met each of its own once"
        );
        assert!(receipts[0].iter().all(|r| r.state() == ReceiptState::Caught));
        busy.raise(Stop).unwrap();
        assert!(receipts[1].iter().all(|r| fate(r).is_final()));
    });
    join(busy);
    ledger.balance();
}

#[test]
fn what_was_left_behind_stays_in_the_parent() {
    in_own_process("what_was_left_behind_stays_in_the_parent", || {
        let attachment = attach().unwrap();
        let library = std::sync::Arc::new(throwto_fixtures::LockedLibrary::new());
        let held = library.hold();
        let theirs = std::sync::Arc::clone(&library);
        let worker = thread::spawn(move || foreign::detached(move || theirs.call()));
        // Not on a lock of the thread's start: in its call.
        until("the call is stuck", || {
            throwto::threads().iter().any(|t| {
                t.parent == Some(worker.id())
                    && t.state == throwto::ThreadState::Foreign
                    && place_of(t).starts_with("futex wait")
            })
        });
        worker.raise(Stop).unwrap();
        let left = join(worker).unwrap_err().left_behind().unwrap();
        until("the worker is gone", || throwto::threads().len() == 2);
        in_child(|| {
            check("none left", throwto::stats().left_running == 0)?;
            check("alone", throwto::threads().len() == 1)?;
            check("gone", raise_exc(left, Stop).is_err())?;
            check(
                "a call of its own",
                foreign::detached(|| 5).is_ok_and(|five| five == 5),
            )
        });
        assert!(info(left).unwrap().left_behind && throwto::stats().left_running == 1);
        drop(held);
        until("it ends", || throwto::stats().left_running == 0);
        drop(attachment);
    });
}

#[test]
fn a_child_keeps_the_limits_that_it_is_in_and_only_those() {
    in_own_process("a_child_keeps_the_limits_that_it_is_in_and_only_those", || {
        let soon = std::time::Duration::from_millis(50);
        // The driver runs and has this deadline in the parent; the child must tell its own.
        let outcome = throwto::time::timeout(soon, || {
            in_child(|| {
                check(
                    "not passed yet, or passed",
                    throwto::pending() || throwto::safepoint().is_ok(),
                )?;
                let raised = throwto::thread::sleep(FOREVER).unwrap_err();
                check("the limit passes in the child", raised.is::<throwto::TimedOut>())
            });
            throwto::thread::sleep(FOREVER)
        });
        assert!(outcome.is_err(), "and in the parent");
        in_child(|| {
            check(
                "no limit is left",
                throwto::safepoint().is_ok() && !throwto::pending(),
            )?;
            check(
                "a limit of its own",
                throwto::time::timeout(soon, || throwto::thread::sleep(FOREVER)).is_err(),
            )
        });
    });
}

fn join_one() -> Result<(), String> {
    check("a thread of the child ends", join(thread::spawn(|| 5)) == 5)
}

/// All that may be going on at once: limits and scopes in each other, raises pending for the thread and for a scope, a driver with
/// deadlines and a ladder to climb, a journal that is being kept.
#[test]
fn a_fork_amid_limits_scopes_pending_raises_a_ladder_and_a_journal() {
    in_own_process(
        "a_fork_amid_limits_scopes_pending_raises_a_ladder_and_a_journal",
        forks_amid_limits,
    );
}

fn forks_amid_limits() {
    let attachment = attach().unwrap();
    let me = attachment.id();
    let (reader, writer) = std::io::pipe().unwrap();
    let stubborn = thread::spawn(move || foreign::call(|| stubborn_read(&reader)));
    until_blocked(stubborn.id(), "read(");
    let stubborn_id = stubborn.id();
    let until_dead = std::thread::spawn(move || {
        let for_ever = throwto::Retry {
            every: std::time::Duration::from_millis(1),
            give_up_after: FOREVER,
        };
        throwto::raise_until_dead(stubborn_id, throwto::ExcType::of::<Stop>(), for_ever).is_ok()
    });
    until("the ladder is climbed", || throwto::stats().renudges > 2);
    let soon = std::time::Duration::from_millis(500);
    let (scope, handle) = throwto::scope::Scope::new();
    let (cancelled, cancel) = throwto::scope::Scope::new();
    let outcome = throwto::time::timeout(soon, || {
        scope.run(|| {
            let for_scope = throwto::uninterruptible(|_| handle.raise(Interrupted)).unwrap();
            let for_thread = raise_exc(me, Stop).unwrap();
            for round in 0..20 {
                in_child(|| {
                    // On a slow machine the limit has passed by now: that is all there may be.
                    let met = throwto::safepoint().err();
                    let met = met.is_none_or(|raised| raised.is::<throwto::TimedOut>());
                    check("nothing pending", met)?;
                    check("theirs", !for_scope.revoke() && !for_thread.revoke())?;
                    // The scope is open here too, and takes what is raised here.
                    let mine = handle.raise(Stop).map_err(|e| e.to_string())?;
                    check(
                        "in the scope",
                        throwto::safepoint().is_err_and(|raised| raised.is::<Stop>()),
                    )?;
                    check("caught", mine.state() == ReceiptState::Caught)?;
                    check(
                        "not here",
                        !throwto::threads().iter().any(|t| t.id == stubborn_id),
                    )?;
                    if round < 19 {
                        return Ok(());
                    }
                    // The limit around all passes in the child as well.
                    let raised = thread::sleep(FOREVER).unwrap_err();
                    check("the limit", raised.is::<throwto::TimedOut>())?;
                    // A shield has work done under a limit that has passed.
                    throwto::shield(FOREVER, everything_works)
                });
            }
            let met = [(); 2].map(|()| throwto::safepoint().unwrap_err());
            assert_eq!(for_scope.state(), ReceiptState::Delivered);
            assert_eq!(for_thread.state(), ReceiptState::Delivered);
            met.iter()
                .all(|raised| raised.is::<Stop>() || raised.is::<Interrupted>())
        })
    });
    assert_eq!(outcome, Ok(Ok(true)), "the parent has its own");
    // A scope that was cancelled before the fork is cancelled in the child.
    cancel.cancel();
    let ended = cancelled.run(|| {
        in_child(|| {
            let raised = throwto::safepoint().map_err(drop).err();
            check("cancelled", raised.is_some() && throwto::pending())
        });
    });
    assert!(ended.is_ok() && throwto::safepoint().is_ok());
    drop(writer);
    let (read, _) = join(stubborn).unwrap();
    assert_eq!(read, Ok(0));
    assert!(until_dead.join().unwrap());
}

/// What a program is started with: its blocked, ignored and caught signals, as the kernel prints them.
fn signals_of(status: &str) -> Vec<String> {
    let lines = status.lines().filter(|line| {
        ["SigPnd:", "SigBlk:", "SigIgn:", "SigCgt:"]
            .iter()
            .any(|name| line.starts_with(name))
    });
    lines.map(str::to_owned).collect()
}

fn started() -> Vec<String> {
    let mut cat = std::process::Command::new("/bin/cat");
    let output = cat.arg("/proc/self/status").output().unwrap();
    assert!(output.status.success());
    signals_of(&String::from_utf8(output.stdout).unwrap())
}

/// The same by `execve` alone, which resets nothing but handlers.
fn replaced() -> Vec<String> {
    let (mut told, tell) = std::io::pipe().unwrap();
    // SAFETY: the child makes two system calls.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            // SAFETY: descriptors that are open.
            unsafe { libc::dup2(tell.as_raw_fd(), 1) };
            let words = [
                c"/bin/cat".as_ptr(),
                c"/proc/self/status".as_ptr(),
                std::ptr::null(),
            ];
            // SAFETY: strings that end, and an array that does.
            unsafe { libc::execv(words[0], words.as_ptr()) };
            // SAFETY: ends the child without running anything that belongs to the parent.
            unsafe { libc::_exit(1) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(tell);
            let mut status = String::new();
            std::io::Read::read_to_string(&mut told, &mut status).unwrap();
            nix::sys::wait::waitpid(child, None).unwrap();
            signals_of(&status)
        }
    }
}

#[test]
fn programs_are_started_with_the_signals_that_they_would_have_without_us() {
    in_own_process(
        "programs_are_started_with_the_signals_that_they_would_have_without_us",
        || {
            let (plain_start, plain_exec) = (started(), replaced());
            assert_eq!(plain_start.len(), 4);
            everything_works().unwrap();
            let from_attached = || {
                // Raised into, by a nudge too, and with an exception pending.
                let me = ThreadId::current().unwrap();
                let (reader, _writer) = std::io::pipe().unwrap();
                let other = thread::spawn(move || {
                    until_blocked(me, "read(");
                    raise_exc(me, Interrupted).map(drop)
                });
                assert!(foreign::Call::new("read").try_run(|| raw_read(&reader)).is_err());
                throwto::uninterruptible(|_| other.join()).unwrap().unwrap();
                throwto::uninterruptible(|_| raise_exc(me, Stop)).unwrap();
                throwto::uninterruptible(|_| (started(), replaced()))
            };
            assert_eq!(
                join(thread::spawn(from_attached)),
                (plain_start.clone(), plain_exec)
            );
        },
    );
}

/// A call of the program's own library that polls must not be told to give up because its process is a child.
#[test]
fn nothing_is_pending_in_a_child_inside_a_limit() {
    in_own_process("nothing_is_pending_in_a_child_inside_a_limit", || {
        let outcome = throwto::time::timeout(FOREVER, || {
            in_child(|| check("before its first safepoint", !throwto::pending()));
        });
        assert!(outcome.is_ok());
    });
}

/// `daemon(3)` forks and lets the parent end; a daemon that forks once more is no session leader.
#[test]
fn a_daemon_can_do_everything_and_its_limits_pass() {
    in_own_process("a_daemon_can_do_everything_and_its_limits_pass", || {
        let _attachment = attach().unwrap();
        everything_works().unwrap();
        for again in [false, true] {
            let (mut told, mut tell) = std::io::pipe().unwrap();
            let soon = std::time::Duration::from_millis(50);
            let limited = throwto::time::timeout(soon, || {
                // `daemon` ends the process that calls it, so that is a child.
                in_child(|| {
                    raise_exc(ThreadId::current().unwrap(), Stop).map_err(|e| e.to_string())?;
                    // SAFETY: keeps the directory and the standard streams.
                    check("a daemon", unsafe { libc::daemon(1, 1) } == 0)?;
                    let as_daemon = || {
                        check(
                            "nothing pending but the limit",
                            !throwto::safepoint().is_err_and(|r| r.is::<Stop>()),
                        )?;
                        let raised = thread::sleep(FOREVER).unwrap_err();
                        check("the limit passes", raised.is::<throwto::TimedOut>())?;
                        throwto::shield(FOREVER, everything_works)
                    };
                    let end = match if again { daemon_again() } else { true } {
                        true => as_daemon(),
                        // The first of the two has nothing more to do.
                        false => return Ok(()),
                    };
                    let told = end.err().unwrap_or_else(|| "well".into());
                    std::io::Write::write_all(&mut tell, told.as_bytes()).map_err(|e| e.to_string())
                });
                drop(tell);
                let mut said = String::new();
                std::io::Read::read_to_string(&mut told, &mut said).unwrap();
                said
            });
            assert_eq!(limited.as_deref(), Ok("well"), "again: {again}");
        }
    });
}

/// Whether this is the second daemon.
fn daemon_again() -> bool {
    // SAFETY: the child goes on as its parent would.
    unsafe { nix::unistd::fork() }.unwrap().is_child()
}
