//! The cancellation-point matrix: every blocking call of this crate, and every one that the fail rung knows, in four
//! situations. It writes `docs/cancellation-points.md`, and fails when that page says anything else than was measured;
//! `THROWTO_BLESS=1` writes the page anew.
//!
//! In a process of its own: it counts descriptors, children and threads, and installs a signal handler. Each race is run
//! for some dozen rounds, `THROWTO_ROUNDS` for more.

#![cfg(all(throwto_ladder, target_arch = "x86_64"))]
#![allow(unsafe_code)]

#[path = "matrix/foreign.rs"]
mod foreign_calls;
#[path = "matrix/ours.rs"]
mod ours;
#[path = "matrix/scene.rs"]
mod scene;
#[path = "it/stage.rs"]
mod stage;
#[path = "matrix/table.rs"]
mod table;
#[path = "matrix/things.rs"]
mod things;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use throwto::foreign::Call;
use throwto::{Raised, Rung, Stop, ThreadId, raise_exc, thread};

use scene::{End, How, Row, Scene};
use stage::*;
use table::Measured;

/// Whether the sleeps of the next scenes are to end by themselves.
static RACING: AtomicBool = AtomicBool::new(false);

/// How long a call sleeps.
fn nap() -> Duration {
    if RACING.load(Ordering::SeqCst) {
        Duration::from_micros(400)
    } else {
        FOREVER
    }
}

static RESTARTED: AtomicU32 = AtomicU32::new(0);

extern "C" fn restarting(_: i32) {
    RESTARTED.fetch_add(1, Ordering::SeqCst);
}

/// What a worker saw of its one call.
struct Seen {
    end: End,
    /// What the code that made the call was told.
    told: String,
    /// What delivered the exception.
    rung: Rung,
    /// Whether the call was made at all, as far as can be told from the worker.
    made: bool,
}

/// Makes the call of a row once, in the thread that is raised into, and takes the exception wherever it comes out.
fn make(row: &Row, call: &mut (dyn FnMut() -> io::Result<isize> + Send)) -> Seen {
    if row.how == How::Ours {
        return match call() {
            Ok(done) => Seen {
                end: End::Done(done),
                told: "its result".into(),
                rung: late(),
                made: true,
            },
            Err(error) => {
                let raised = Raised::from_io(error).unwrap_or_else(|error| panic!("{}: {error}", row.call));
                assert!(raised.is::<Stop>() && !throwto::pending(), "{}", row.call);
                Seen {
                    end: End::Broken,
                    told: "raised".into(),
                    rung: raised.rung(),
                    made: true,
                }
            }
        };
    }
    let region = Call::new("matrix").fail_syscalls();
    let mut made = false;
    let result = region.run(|| {
        loop {
            made = true;
            match call() {
                Err(error) if row.how == How::Stubborn && error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    });
    let sleep = row.place.ends_with("nanosleep");
    let zero = sleep || row.place.contains("poll");
    let (end, told) = match result {
        Err(raised) => {
            assert!(raised.is::<Stop>() && !made, "{}", row.call);
            return Seen {
                end: End::Broken,
                told: "not made".into(),
                rung: raised.rung(),
                made,
            };
        }
        Ok(Ok(0)) if sleep && RACING.load(Ordering::SeqCst) => (End::Either, "0".into()),
        Ok(Ok(0)) if zero => (End::Broken, "0".into()),
        Ok(Ok(done)) => (End::Done(done), "its result".into()),
        Ok(Err(error)) => (End::Broken, errno_name(&error)),
    };
    let rung = match end {
        End::Broken => throwto::safepoint().expect_err("it came from nowhere").rung(),
        _ => late(),
    };
    Seen {
        end,
        told,
        rung,
        made,
    }
}

fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ECANCELED) => "ECANCELED".into(),
        Some(libc::EINTR) => "EINTR".into(),
        _ => panic!("neither of the two that a raise may cause: {error}"),
    }
}

/// The call has its result: the exception is pending, or comes yet.
fn late() -> Rung {
    thread::sleep(LIMIT).expect_err("the exception is lost").rung()
}

/// A worker that makes the call, after `before`; it says when it is about to.
fn worker(
    row: &'static Row,
    mut call: Box<dyn FnMut() -> io::Result<isize> + Send>,
    before: fn(),
) -> (thread::JoinHandle<Seen>, Arc<AtomicBool>) {
    let ready = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&ready);
    let worker = thread::spawn(move || {
        before();
        tell.store(true, Ordering::SeqCst);
        make(row, &mut *call)
    });
    (worker, ready)
}

fn nothing() {}

/// Waits until the thread is seen in the system call.
#[track_caller]
fn until_at(id: ThreadId, place: &str) {
    until(place, || {
        info(id).is_some_and(|thread| is_at(&thread.where_blocked, place))
    });
}

fn is_at(told: &str, place: &str) -> bool {
    told.strip_prefix(place)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['(', ' ']))
}

/// Blocked, then raised into.
fn blocked_first(row: &'static Row) -> Seen {
    let Scene {
        call,
        mut complete,
        settle,
    } = (row.scene)();
    let (worker, _) = worker(row, call, nothing);
    until_at(worker.id(), row.place);
    worker.raise(Stop).unwrap();
    let seen = join(worker);
    assert_eq!(seen.end, End::Broken, "{}", row.call);
    complete();
    settle(seen.end);
    seen
}

/// Raised into before the call.
fn raised_first(row: &'static Row) -> Seen {
    let Scene {
        call,
        mut complete,
        settle,
    } = (row.scene)();
    let raise = || drop(raise_exc(ThreadId::current().unwrap(), Stop).unwrap());
    let (worker, _) = worker(row, call, raise);
    let seen = join(worker);
    assert_eq!(seen.end, End::Broken, "{}", row.call);
    assert_eq!(seen.rung, Rung::Safepoint, "{}: nobody had to wake it", row.call);
    complete();
    settle(seen.end);
    seen
}

fn signal(id: ThreadId) {
    if let Some(tid) = info(id).map(|thread| thread.os_tid.as_raw()) {
        // SAFETY: it names a thread of this process, or none, or one that has just got the number: that one ignores it.
        unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, libc::SIGUSR1) };
    }
}

/// Blocked, its calls restarted by somebody else's handler, before the raise and while it works.
fn restarted(row: &'static Row) -> Seen {
    let Scene {
        call,
        mut complete,
        settle,
    } = (row.scene)();
    let (worker, _) = worker(row, call, nothing);
    let id = worker.id();
    for _ in 0..2 {
        until_at(id, row.place);
        let handled = RESTARTED.load(Ordering::SeqCst);
        signal(id);
        until("the handler", || RESTARTED.load(Ordering::SeqCst) > handled);
    }
    until_at(id, row.place);
    worker.raise(Stop).unwrap();
    while worker.is_alive() {
        signal(id);
    }
    let seen = join(worker);
    assert_eq!(seen.end, End::Broken, "{}", row.call);
    complete();
    settle(seen.end);
    seen
}

/// Completed and raised into at the same time. Returns whether the result has won.
fn race(row: &'static Row, dice: &mut Dice) -> bool {
    let Scene {
        call,
        mut complete,
        settle,
    } = (row.scene)();
    let (worker, ready) = worker(row, call, nothing);
    let id = worker.id();
    if dice.roll(2) == 0 {
        // A sleep may be over before it has been seen, and a thread that ends is seen no more.
        until("blocked or over", || {
            info(id).is_none_or(|t| {
                is_at(&t.where_blocked, row.place) || t.state == throwto::ThreadState::Waiting
            })
        });
    } else {
        until("it has begun", || ready.load(Ordering::SeqCst));
    }
    // The fail rung takes about a millisecond: a completion that is to meet it must come later.
    let span = if row.how == How::Ours { 60 } else { 1500 };
    let (completed, raised) = (dice.roll(span), dice.roll(60));
    let completer = std::thread::spawn(move || {
        wait_for_micros(completed);
        complete();
    });
    wait_for_micros(raised);
    // It cannot have ended: without the exception it waits for it.
    worker.raise(Stop).unwrap();
    let seen = join(worker);
    completer.join().unwrap();
    settle(seen.end);
    seen.end != End::Broken
}

fn wait_for_micros(time: u64) {
    let end = Instant::now() + Duration::from_micros(time);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

fn entries(of: &str) -> usize {
    std::fs::read_dir(of).unwrap().count()
}

/// Descriptors and threads that the process has.
fn belongings() -> (usize, usize) {
    (entries("/proc/self/fd"), entries("/proc/self/task"))
}

fn measure(row: &'static Row, dice: &mut Dice) -> Measured {
    let before = belongings();
    let began = Instant::now();
    let blocked = blocked_first(row);
    let raised = raised_first(row);
    let restarted = (row.rounds > 0).then(|| restarted(row));
    RACING.store(true, Ordering::SeqCst);
    let rounds = if row.rounds > 0 { rounds(row.rounds) } else { 0 };
    let won = (0..rounds).filter(|_| race(row, dice)).count() as u64;
    RACING.store(false, Ordering::SeqCst);
    // A thread that was joined may take a moment to leave the kernel.
    until("descriptors and threads balance", || belongings() == before);
    let children = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    assert_eq!(children, Err(nix::Error::ECHILD), "{}: a child is left", row.call);
    println!(
        "{:40} {won:4} of {rounds:4} results won, {:.2?}",
        row.call,
        began.elapsed()
    );
    WON.fetch_add(won, Ordering::Relaxed);
    LOST.fetch_add(rounds - won, Ordering::Relaxed);
    if let Some(restarted) = &restarted {
        assert_eq!(blocked.told, restarted.told, "{}", row.call);
    }
    Measured {
        told: blocked.told,
        rung: blocked.rung,
        before: if raised.made { "raised".into() } else { raised.told },
        restarted: restarted.map(|seen| seen.told),
        raced: rounds > 0,
    }
}

static WON: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

#[test]
fn every_cancellation_point_does_what_the_page_says() {
    in_own_process("every_cancellation_point_does_what_the_page_says", the_matrix);
}

fn the_matrix() {
    let action = SigAction::new(
        SigHandler::Handler(restarting),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler adds to an atomic.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    // What the process opens and starts once, such as the driver, is there from here on.
    let warm: &Row = Box::leak(Box::new(foreign_calls::rows().swap_remove(0)));
    blocked_first(warm);
    let seed = seed();
    println!("THROWTO_SEED={seed}");
    let mut dice = Dice::new(seed);
    let rows = || Box::leak(ours::rows().into_boxed_slice()).iter();
    let ours: Vec<(&Row, Measured)> = rows().map(|row| (row, measure(row, &mut dice))).collect();
    let rows = Box::leak(foreign_calls::rows().into_boxed_slice()).iter();
    let theirs: Vec<(&Row, Measured)> = rows.map(|row| (row, measure(row, &mut dice))).collect();
    let (won, lost) = (WON.load(Ordering::Relaxed), LOST.load(Ordering::Relaxed));
    println!("in all, {won} results and {lost} exceptions came first");
    assert!(won > 0 && lost > 0, "no race at all");
    table::compare(&table::page(&ours, &theirs));
}

/// Every point that POSIX demands is in a row, or in the list of those that have none.
#[test]
fn every_point_of_posix_is_accounted_for_once() {
    let rows = ours::rows().into_iter().chain(foreign_calls::rows());
    let named = rows.filter_map(|row| row.posix);
    let mut told: Vec<&str> = named
        .chain(table::NO_ROW.iter().map(|(names, ..)| *names))
        .flat_map(|names| names.split(", "))
        .collect();
    told.sort_unstable();
    let mut demanded: Vec<&str> = table::POSIX.split_whitespace().collect();
    demanded.sort_unstable();
    let told: Vec<&str> = told.iter().map(|name| name.split(' ').next().unwrap()).collect();
    assert_eq!(told, demanded);
}

/// Every call that the fail rung knows is in a row, or in the list of those that cannot be made to wait here.
#[test]
fn every_call_of_the_fail_table_is_measured_or_excused() {
    let rows = foreign_calls::rows();
    let stubborn = rows.iter().filter(|row| row.how == How::Stubborn);
    let measured: BTreeSet<String> = stubborn.map(|row| row.place.to_owned()).collect();
    let excused: BTreeSet<String> = table::UNMEASURED
        .iter()
        .flat_map(|(calls, _)| calls.split(", "))
        .map(str::to_owned)
        .collect();
    assert!(measured.is_disjoint(&excused), "measured after all");
    let known = table::fail_table(include_str!("../src/platform/linux/substitute.rs"));
    assert!(known.len() > 40, "{known:?}");
    assert_eq!(measured.union(&excused).cloned().collect::<BTreeSet<_>>(), known);
}
