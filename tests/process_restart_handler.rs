//! Signal handlers of other libraries on top of a blocked call, in a process of its own: handlers are process-wide.

#![cfg(throwto_ladder)]
#![allow(unsafe_code)]

#[path = "it/stage.rs"]
mod stage;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use throwto::io::{Interruptible, wait_readable};
use throwto::thread::JoinHandle;
use throwto::{Raised, ReceiptState, Stop, ThreadId, raise_exc, stats, thread, threads};

use stage::full_listener;

/// Nothing here takes that long unless it hangs: it can only fail a test.
const HANGS: Duration = Duration::from_secs(180);

/// One foreign handler: each test has a signal of its own.
struct Foreign {
    started: AtomicU32,
    /// How many calls of it may return.
    released: AtomicU32,
    ended: AtomicU32,
}

impl Foreign {
    const fn new() -> Self {
        Self {
            started: AtomicU32::new(0),
            released: AtomicU32::new(0),
            ended: AtomicU32::new(0),
        }
    }

    /// Keeps its thread until it is released.
    fn run(&self) {
        let call = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        while self.released.load(Ordering::SeqCst) < call {
            std::hint::spin_loop();
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

static RESTARTING: Foreign = Foreign::new();
static PLAIN: Foreign = Foreign::new();
static BLOCKING: Foreign = Foreign::new();
static BRIEF: AtomicU32 = AtomicU32::new(0);

extern "C" fn restarting(_: i32) {
    RESTARTING.run();
}

extern "C" fn plain(_: i32) {
    PLAIN.run();
}

extern "C" fn blocking(_: i32) {
    BLOCKING.run();
}

extern "C" fn brief(_: i32) {
    BRIEF.fetch_add(1, Ordering::SeqCst);
}

fn install(signal: Signal, handler: extern "C" fn(i32), flags: SaFlags, mask: SigSet) {
    let action = SigAction::new(SigHandler::Handler(handler), flags, mask);
    // SAFETY: the handlers above touch atomics and the clock only.
    unsafe { sigaction(signal, &action) }.unwrap();
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < HANGS,
            "still waiting for: {what}; {:#?}",
            threads()
        );
        std::thread::yield_now();
    }
}

fn wait_until_blocked(id: ThreadId, call: &str) {
    wait_for(call, || {
        threads()
            .iter()
            .any(|t| t.id == id && t.where_blocked.starts_with(call))
    });
}

fn join<T>(worker: JoinHandle<T>) -> T {
    match worker.join_timeout(HANGS) {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => panic!("it hangs: {:#?}", threads()),
        Err(error) => panic!("{error}"),
    }
}

fn signal_thread(id: ThreadId, signal: Signal) {
    let tid = threads().iter().find(|t| t.id == id).unwrap().os_tid.as_raw();
    // SAFETY: the thread is alive: its id is listed, and it ends only when this test lets it.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, signal as i32) };
    assert_eq!(sent, 0);
}

fn assert_raised<T>(result: io::Result<T>) {
    let Err(error) = result else {
        panic!("it was not raised into")
    };
    assert!(Raised::from_io(error).unwrap().is::<Stop>());
}

/// What becomes of a nudge that comes while a handler runs.
#[derive(PartialEq)]
enum Nudge {
    /// It finds the handler on top of the call, and is sent again.
    Requeued,
    /// The handler's mask holds it back.
    HeldBack,
}

/// Raises into a blocked read while the handler of `signal` runs on top of it.
fn raised_on_top(foreign: &'static Foreign, signal: Signal, mask: bool, nudge: Nudge) {
    // The counter of requeued nudges is everybody's.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    for round in 1..=3 {
        let (reader, _writer) = io::pipe().unwrap();
        let worker = thread::spawn(move || {
            let read = || Interruptible::new(&reader).read(&mut [0; 8]);
            let result = if mask { throwto::mask(|_| read()) } else { read() };
            (result, foreign.ended.load(Ordering::SeqCst))
        });
        wait_until_blocked(worker.id(), "read(");
        signal_thread(worker.id(), signal);
        wait_for("the handler", || foreign.started.load(Ordering::SeqCst) == round);
        let requeued = stats().requeued;
        let receipt = worker.raise(Stop).unwrap();
        if nudge == Nudge::Requeued {
            wait_for("the nudge on top of the handler", || stats().requeued > requeued);
        }
        let before_end = receipt.state();
        foreign.released.store(round, Ordering::SeqCst);
        let (result, ends) = join(worker);
        assert_raised(result);
        assert_eq!(before_end, ReceiptState::Pending, "delivered inside the handler");
        assert_eq!(ends, round, "delivered before the handler had returned");
    }
}

#[test]
fn a_handler_that_restarts_calls_loses_no_raise() {
    install(Signal::SIGUSR1, restarting, SaFlags::SA_RESTART, SigSet::empty());
    raised_on_top(&RESTARTING, Signal::SIGUSR1, false, Nudge::Requeued);
    // Nothing of it is left in the process: a fresh thread is broken as ever.
    let (mut reader, _writer) = io::pipe().map(|(r, w)| (Interruptible::new(r), w)).unwrap();
    let worker = thread::spawn(move || {
        assert_raised(reader.read(&mut [0; 8]));
        assert_raised(reader.read(&mut [0; 8]));
    });
    for _ in 0..2 {
        wait_until_blocked(worker.id(), "read(");
        assert_eq!(worker.raise(Stop).unwrap().wait(HANGS), ReceiptState::Caught);
    }
    join(worker);
}

#[test]
fn a_handler_that_does_not_restart_calls_loses_no_raise() {
    install(Signal::SIGUSR2, plain, SaFlags::empty(), SigSet::empty());
    raised_on_top(&PLAIN, Signal::SIGUSR2, false, Nudge::Requeued);
}

#[test]
fn a_handler_that_blocks_every_signal_delays_a_raise_to_its_end() {
    install(Signal::SIGALRM, blocking, SaFlags::SA_RESTART, SigSet::all());
    raised_on_top(&BLOCKING, Signal::SIGALRM, false, Nudge::HeldBack);
}

#[test]
fn a_masked_read_below_a_restarting_handler_is_broken_too() {
    static MASKED: Foreign = Foreign::new();
    extern "C" fn masked(_: i32) {
        MASKED.run();
    }
    install(Signal::SIGVTALRM, masked, SaFlags::SA_RESTART, SigSet::empty());
    raised_on_top(&MASKED, Signal::SIGVTALRM, true, Nudge::Requeued);
}

/// Signals of others end nothing: reads go on, and time limits are neither cut nor prolonged.
/// Shows io::readiness I1.
#[test]
fn signals_that_raise_nothing_are_retried_and_do_not_move_a_deadline() {
    install(Signal::SIGWINCH, brief, SaFlags::empty(), SigSet::empty());
    const LIMIT: Duration = Duration::from_millis(200);
    static OVER: AtomicBool = AtomicBool::new(false);
    let (reader, mut writer) = io::pipe().unwrap();
    let worker = thread::spawn(move || {
        let began = Instant::now();
        assert!(!wait_readable(&reader, Some(LIMIT)).unwrap());
        let waited = began.elapsed();
        OVER.store(true, Ordering::SeqCst);
        let mut four = [0; 4];
        Interruptible::new(&reader).read_exact(&mut four).unwrap();
        (waited, four)
    });
    wait_until_blocked(worker.id(), "ppoll(");
    // Were each signal to begin the time anew, it would not end.
    wait_for("the limit", || {
        signal_thread(worker.id(), Signal::SIGWINCH);
        OVER.load(Ordering::SeqCst)
    });
    for byte in *b"data" {
        wait_until_blocked(worker.id(), "read(");
        let handled = BRIEF.load(Ordering::SeqCst);
        signal_thread(worker.id(), Signal::SIGWINCH);
        wait_for("the signal", || BRIEF.load(Ordering::SeqCst) > handled);
        writer.write_all(&[byte]).unwrap();
    }
    let (waited, four) = join(worker);
    assert!(waited >= LIMIT, "{waited:?}");
    assert_eq!(&four, b"data");
}

/// A connect that a signal ends goes on: its outcome is waited for, not lost and not asked for twice.
#[test]
fn a_connect_below_a_signal_keeps_its_outcome_and_can_be_raised_into() {
    install(Signal::SIGPROF, brief, SaFlags::empty(), SigSet::empty());
    let listener = full_listener();
    let addr = listener.1;
    let worker = thread::spawn(move || throwto::io::connect(addr));
    wait_until_blocked(worker.id(), "connect(");
    signal_thread(worker.id(), Signal::SIGPROF);
    wait_until_blocked(worker.id(), "ppoll(");
    // Room in the queue: the kernel's next attempt succeeds.
    listener.0.set_nonblocking(true).unwrap();
    let (stop, stopped) = mpsc::channel::<()>();
    let accepting = std::thread::spawn(move || {
        let mut taken = Vec::new();
        while stopped.try_recv().is_err() {
            taken.extend(listener.0.accept());
            std::thread::yield_now();
        }
        (taken, listener)
    });
    let stream = join(worker).unwrap();
    assert_eq!(stream.get_ref().peer_addr().unwrap(), addr);
    stop.send(()).unwrap();
    drop(accepting.join().unwrap());

    let listener = full_listener();
    let worker = thread::spawn(move || throwto::io::connect(listener.1));
    wait_until_blocked(worker.id(), "connect(");
    signal_thread(worker.id(), Signal::SIGPROF);
    wait_until_blocked(worker.id(), "ppoll(");
    worker.raise(Stop).unwrap();
    assert_raised(join(worker));
}

/// While the thread itself blocks the nudge signal, only another signal can end its call; then the raise is met at once,
/// and the nudge that comes with the unblocking breaks nothing.
#[test]
fn a_raise_behind_a_blocked_nudge_signal_is_met_at_the_next_chance() {
    install(Signal::SIGIO, brief, SaFlags::empty(), SigSet::empty());
    let (reader, mut writer) = io::pipe().unwrap();
    let mut reader = Interruptible::new(reader);
    let worker = thread::spawn(move || {
        let mut nudge = SigSet::empty();
        nudge.add(Signal::SIGURG);
        nudge.thread_block().unwrap();
        let first = reader.read(&mut [0; 8]);
        nudge.thread_unblock().unwrap();
        let second = reader.read(&mut [0; 8]);
        (first, second)
    });
    let id = worker.id();
    wait_until_blocked(id, "read(");
    let receipt = raise_exc(id, Stop).unwrap();
    assert!(
        threads()
            .iter()
            .any(|t| t.id == id && t.nudge_blocked && t.pending == 1)
    );
    assert_eq!(receipt.state(), ReceiptState::Pending);
    signal_thread(id, Signal::SIGIO);
    wait_for("the delivery", || receipt.state() != ReceiptState::Pending);
    wait_until_blocked(id, "read(");
    writer.write_all(b"data").unwrap();
    let (first, second) = join(worker);
    assert_raised(first);
    assert_eq!(second.unwrap(), 4);
}
