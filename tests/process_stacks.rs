//! Nudges and stacks: alternate, nearly exhausted, coroutines'. Each case in a process: what goes wrong is death by SIGSEGV.

#![cfg(throwto_ladder)]

#[path = "it/stage.rs"]
mod stage;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use throwto::foreign::{Call, CallError};
use throwto::{Rung, Stop, ThreadId, attach, foreign, thread};

use stage::*;

const CASE: &str = "THROWTO_CASE";

/// In the child started for it, runs `body`; else starts that child and tells how it ended.
fn ended(name: &str, body: impl FnOnce()) -> Option<ExitStatus> {
    if std::env::var(CASE).is_ok_and(|case| case == name) {
        body();
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name]).env(CASE, name);
    Some(command.status().unwrap())
}

#[track_caller]
fn survives(name: &str, body: impl FnOnce()) {
    if let Some(status) = ended(name, body) {
        assert!(status.success(), "{name}: {status}");
    }
}

static INNERMOST: AtomicUsize = AtomicUsize::new(0);
static GO_ON: AtomicBool = AtomicBool::new(false);
static TOLD: OnceLock<ThreadId> = OnceLock::new();

/// A handler of another library: the first one down waits, the others send the next signal to their own thread.
extern "C" fn nested(signal: i32) {
    // A handler that does anything at all uses some of its stack.
    let mut used = [0_u8; 256];
    std::hint::black_box(&mut used);
    if signal == libc::SIGUSR1 {
        // SAFETY: a signal that has a handler, which runs on top of this one.
        unsafe { libc::raise(libc::SIGUSR2) };
    } else {
        INNERMOST.fetch_add(1, Ordering::SeqCst);
        while !GO_ON.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
    }
}

fn install(signal: Signal) {
    let flags = SaFlags::SA_ONSTACK | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::Handler(nested), flags, SigSet::empty());
    // SAFETY: `nested` touches atomics only.
    unsafe { sigaction(signal, &action) }.unwrap();
}

fn signal_thread(id: ThreadId, signal: i32) {
    let tid = info(id).unwrap().os_tid.as_raw();
    // SAFETY: the thread is alive, blocked until this test lets it go.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, signal) };
    assert_eq!(sent, 0);
}

/// Raises on top of two handlers that run one on the other, on the alternate stack that std gives its threads.
fn two_deep_on_the_alternate_stack(id: ThreadId) {
    install(Signal::SIGUSR1);
    install(Signal::SIGUSR2);
    until_blocked(id, "read(");
    signal_thread(id, libc::SIGUSR1);
    until("two deep", || INNERMOST.load(Ordering::SeqCst) == 1);
    let receipt = throwto::raise_exc(id, Stop).unwrap();
    until("the nudge arrived on top", || !nudge_under_way(id));
    assert_eq!(receipt.state(), throwto::ReceiptState::Pending);
    GO_ON.store(true, Ordering::SeqCst);
}

/// Whether SIGURG waits for the thread.
fn nudge_under_way(id: ThreadId) -> bool {
    let tid = info(id).unwrap().os_tid;
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let pending = status
        .lines()
        .find_map(|line| line.strip_prefix("SigPnd:"))
        .unwrap();
    let blocked = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))
        .unwrap();
    let set = |text: &str| u64::from_str_radix(text.trim(), 16).unwrap();
    set(pending) & !set(blocked) & 1 << (libc::SIGURG - 1) != 0
}

#[test]
fn a_nudge_on_two_handlers_has_room_in_a_foreign_call() {
    survives("a_nudge_on_two_handlers_has_room_in_a_foreign_call", || {
        let (reader, _writer) = io::pipe().unwrap();
        let worker = thread::spawn(move || foreign::call(|| raw_read(&reader)).unwrap());
        two_deep_on_the_alternate_stack(worker.id());
        assert_eq!(join(worker), Err(libc::EINTR));
    });
}

#[test]
fn a_nudge_on_two_handlers_has_room_in_a_call_of_ours() {
    survives("a_nudge_on_two_handlers_has_room_in_a_call_of_ours", || {
        let (reader, _writer) = io::pipe().unwrap();
        let worker = std::thread::spawn(move || {
            let attachment = attach().unwrap();
            TOLD.set(attachment.id()).unwrap();
            io::Read::read(&mut throwto::io::Interruptible::new(reader), &mut [0; 8]).is_err()
        });
        until("attached", || TOLD.get().is_some());
        two_deep_on_the_alternate_stack(*TOLD.get().unwrap());
        assert!(worker.join().unwrap());
    });
}

/// The lowest address of the calling thread's stack.
fn stack_end() -> usize {
    // SAFETY: plain data, filled below.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    // SAFETY: no arguments.
    let me = unsafe { libc::pthread_self() };
    // SAFETY: writes the attributes of the calling thread.
    assert_eq!(unsafe { libc::pthread_getattr_np(me, &raw mut attributes) }, 0);
    let (mut start, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: reads what was filled above, which owns nothing else than a few bytes.
    unsafe { libc::pthread_attr_getstack(&raw const attributes, &raw mut start, &raw mut size) };
    start as usize
}

/// Runs `bottom` with at most `left` bytes of stack left.
#[inline(never)]
fn deep(end: usize, left: usize, bottom: &mut dyn FnMut()) {
    let frame = [0_u8; 128];
    if (&raw const frame) as usize <= end + left {
        bottom();
    } else {
        deep(end, left, bottom);
    }
    std::hint::black_box(&frame);
}

/// Less than a signal's frame takes on this processor, and enough for `read(2)`.
fn little() -> usize {
    // SAFETY: a lookup in the vector that the kernel gave the process.
    let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    frame.clamp(2048, 16384) - 512
}

/// A blocked read at the bottom of a stack that is nearly used up.
fn read_at_the_bottom(reader: &io::PipeReader) -> Result<usize, i32> {
    let mut read = Ok(0);
    let end = stack_end();
    foreign::call(|| deep(end, little(), &mut || read = raw_read(reader))).unwrap();
    read
}

#[test]
fn a_nudge_deep_in_recursion_runs_on_the_alternate_stack() {
    survives("a_nudge_deep_in_recursion_runs_on_the_alternate_stack", || {
        let (reader, _writer) = io::pipe().unwrap();
        let worker = thread::spawn(move || read_at_the_bottom(&reader));
        until_blocked(worker.id(), "read(");
        worker.raise(Stop).unwrap();
        assert_eq!(join(worker), Err(libc::EINTR));
    });
}

/// A thread that C started has no alternate stack: `body` runs in one.
fn in_a_thread_of_c(body: fn()) -> libc::pthread_t {
    extern "C" fn run(body: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the pointer below is a `fn()`.
        let body: fn() = unsafe { std::mem::transmute(body) };
        body();
        std::ptr::null_mut()
    }
    let mut thread = 0;
    // SAFETY: `run` takes the function that is handed over.
    let started =
        unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), run, body as *mut libc::c_void) };
    assert_eq!(started, 0);
    thread
}

fn blocked_at_the_bottom() {
    let (reader, _writer) = io::pipe().unwrap();
    let attachment = attach().unwrap();
    TOLD.set(attachment.id()).unwrap();
    assert_eq!(read_at_the_bottom(&reader), Err(libc::EINTR));
    assert!(throwto::safepoint().is_err());
}

#[test]
fn a_thread_without_an_alternate_stack_has_one_while_attached() {
    survives(
        "a_thread_without_an_alternate_stack_has_one_while_attached",
        || {
            let thread = in_a_thread_of_c(blocked_at_the_bottom);
            until("attached", || TOLD.get().is_some());
            let id = *TOLD.get().unwrap();
            until_blocked(id, "read(");
            throwto::raise_exc(id, Stop).unwrap();
            // SAFETY: started above, joined once.
            assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
        },
    );
}

/// What any signal does to a thread that has neither: the honest limit.
#[test]
fn who_takes_it_away_dies_of_any_signal_at_the_bottom_of_the_stack() {
    let status = ended(
        "who_takes_it_away_dies_of_any_signal_at_the_bottom_of_the_stack",
        || {
            let (reader, _writer) = io::pipe().unwrap();
            let worker = thread::spawn(move || {
                let disable = stack(std::ptr::null_mut(), 0, libc::SS_DISABLE);
                alternate(Some(&disable));
                read_at_the_bottom(&reader)
            });
            until_blocked(worker.id(), "read(");
            worker.raise(Stop).unwrap();
            let _ = join(worker);
        },
    );
    // The emulated aarch64 processor's frames are small enough to fit where there should be no room.
    let lucky = |s: ExitStatus| s.success() && !cfg!(target_arch = "x86_64");
    assert!(
        status.is_none_or(|s| s.signal() == Some(libc::SIGSEGV) || lucky(s)),
        "{status:?}"
    );
}

fn stack(start: *mut libc::c_void, size: usize, flags: i32) -> libc::stack_t {
    libc::stack_t {
        ss_sp: start,
        ss_flags: flags,
        ss_size: size,
    }
}

/// Changes the alternate stack, if asked to, and returns the one before.
fn alternate(new: Option<&libc::stack_t>) -> libc::stack_t {
    let mut before = stack(std::ptr::null_mut(), 0, 0);
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: reads and writes one structure each; a new stack outlives its use.
    assert_eq!(unsafe { libc::sigaltstack(new, &raw mut before) }, 0);
    before
}

#[test]
fn a_large_alternate_stack_is_kept_and_a_small_one_put_back() {
    survives("a_large_alternate_stack_is_kept_and_a_small_one_put_back", || {
        let places = |stack: libc::stack_t| (stack.ss_sp as usize, stack.ss_size);
        let stds = alternate(None);
        let attachment = attach().unwrap();
        assert!(alternate(None).ss_size >= 65536);
        drop(attachment);
        assert_eq!(places(alternate(None)), places(stds), "put back");
        let mut own = vec![0_u8; 1 << 17];
        let large = stack(own.as_mut_ptr().cast(), own.len(), 0);
        alternate(Some(&large));
        let attachment = attach().unwrap();
        assert_eq!(places(alternate(None)), places(large));
        drop(attachment);
        assert_eq!(places(alternate(Some(&stds))), places(large));
        // A library that brings its own while we are attached keeps it.
        let attachment = attach().unwrap();
        alternate(Some(&large));
        drop(attachment);
        assert_eq!(places(alternate(Some(&stds))), places(large));
    });
}

#[test]
fn a_call_on_a_coroutines_stack_comes_free() {
    survives("a_call_on_a_coroutines_stack_comes_free", || {
        for (fail, rung) in [(false, Rung::Nudge), (true, Rung::Fail)] {
            let (reader, _writer) = io::pipe().unwrap();
            let worker = thread::spawn(move || {
                let call = Call::new("coroutine");
                let call = if fail { call.fail_syscalls() } else { call };
                // Less than a signal's frame and a handler need: glibc's swapcontext takes some of it, too.
                call.try_run(|| throwto_fixtures::coroutine_read(reader.as_fd(), 2048, 100))
            });
            until_blocked(worker.id(), "read(");
            worker.raise(Stop).unwrap();
            match join(worker) {
                Err(CallError::Raised(raised)) if fail => assert!(raised.rung() >= Rung::Nudge),
                Err(CallError::Raised(raised)) => assert_eq!(raised.rung(), rung),
                other => panic!("{other:?}"),
            }
        }
    });
}
