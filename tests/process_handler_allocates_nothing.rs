//! The handler allocates nothing, whatever it has to do: every allocator of the process aborts inside it.
//!
//! A process of its own: it puts its own `malloc` in front of the C library's, for everybody, and its own handler in front of
//! ours, which it calls. Between the two it knows that ours is running. A library's first touch of its thread-locals
//! allocates by the same `malloc`, so a lazy one in the handler would be seen, too.

#![cfg(throwto_forced)]
#![allow(unsafe_code)]

#[path = "it/forced.rs"]
mod forced;
#[path = "it/stage.rs"]
mod stage;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Read;
use std::mem::transmute;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use throwto::foreign::{Call, CallError, Module, clear_poison};
use throwto::io::Interruptible;
use throwto::{Raised, ReceiptState, Rung, Stop, thread};
use throwto_fixtures::stuck::{LET_GO, Stage, linked};

use forced::*;
use stage::*;

thread_local! {
    /// How deep in our handler: one may come on top of another.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

static OURS: OnceLock<usize> = OnceLock::new();
/// Handlers that have run, those for signals of others, and allocations that were looked at.
static RUN: AtomicU64 = AtomicU64::new(0);
static PASSED_ON: AtomicU64 = AtomicU64::new(0);
static LOOKED: AtomicU64 = AtomicU64::new(0);

fn look(what: &str) {
    LOOKED.fetch_add(1, Ordering::Relaxed);
    if INSIDE.get() != 0 {
        for text in [what, " inside the signal handler\n"] {
            // SAFETY: writes bytes that are there.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        }
        // SAFETY: ends the process.
        unsafe { libc::abort() };
    }
}

struct Watched;

// SAFETY: the system's allocator, looked at.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        look("alloc");
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        look("dealloc");
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        look("realloc");
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static WATCHED: Watched = Watched;

/// The C library's own, under the names that it keeps for those who stand in front of it.
mod glibc {
    use libc::{c_void, size_t};

    unsafe extern "C" {
        pub fn __libc_malloc(size: size_t) -> *mut c_void;
        pub fn __libc_calloc(count: size_t, size: size_t) -> *mut c_void;
        pub fn __libc_realloc(place: *mut c_void, size: size_t) -> *mut c_void;
        pub fn __libc_memalign(align: size_t, size: size_t) -> *mut c_void;
        pub fn __libc_free(place: *mut c_void);
    }
}

macro_rules! in_front {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $behind:ident;)*) => {$(
        // SAFETY: a name of the C library's, with its meaning.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            look(stringify!($name));
            // SAFETY: the caller's promise.
            unsafe { glibc::$behind($($argument),*) }
        }
    )*};
}

in_front! {
    malloc(size: usize) -> *mut libc::c_void, __libc_malloc;
    calloc(count: usize, size: usize) -> *mut libc::c_void, __libc_calloc;
    realloc(place: *mut libc::c_void, size: usize) -> *mut libc::c_void, __libc_realloc;
    memalign(align: usize, size: usize) -> *mut libc::c_void, __libc_memalign;
    aligned_alloc(align: usize, size: usize) -> *mut libc::c_void, __libc_memalign;
    free(place: *mut libc::c_void), __libc_free;
}

// SAFETY: a name of the C library's, with its meaning.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(place: *mut *mut libc::c_void, align: usize, size: usize) -> libc::c_int {
    look("posix_memalign");
    // SAFETY: the caller's promise.
    let got = unsafe { glibc::__libc_memalign(align, size) };
    if got.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { *place = got };
    0
}

/// Stands in front of ours.
extern "C" fn stands_in_front(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    if let Some(ours) = OURS.get() {
        // SAFETY: the handler that throwto installed, which it did with SA_SIGINFO.
        let ours: Handler = unsafe { transmute(*ours) };
        INSIDE.set(INSIDE.get() + 1);
        ours(signal, info, context);
        INSIDE.set(INSIDE.get() - 1);
        RUN.fetch_add(1, Ordering::Relaxed);
    }
}

/// There before us.
extern "C" fn before(_: i32) {
    PASSED_ON.fetch_add(1, Ordering::Relaxed);
}

fn install(action: usize, flags: i32) -> usize {
    // SAFETY: plain data.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = action;
    new.sa_flags = flags;
    // SAFETY: plain data.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both handlers here have the signature that their flags ask for.
    let installed = unsafe { libc::sigaction(libc::SIGURG, &raw const new, &raw mut old) };
    assert_eq!(installed, 0);
    old.sa_sigaction
}

fn ready() {
    install(before as *const () as usize, 0);
    drop(throwto::attach().unwrap());
    OURS.set(install(
        stands_in_front as *const () as usize,
        libc::SA_SIGINFO | libc::SA_ONSTACK,
    ))
    .unwrap();
}

/// Signals of others, with and without our code, with hardly a pause.
fn hail(tid: i32, over: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        // SAFETY: a signal that has a handler; a thread that has ended gets none.
        unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, libc::SIGURG) };
        let mut forged = [0_u64; 16];
        (forged[0], forged[1]) = (libc::SIGURG as u64, u64::from(-0x7474_i32 as u32));
        (forged[2], forged[3]) = (u64::from(std::process::id()), sent % 64);
        // SAFETY: the kernel reads 128 bytes.
        unsafe {
            libc::syscall(
                libc::SYS_rt_tgsigqueueinfo,
                std::process::id(),
                tid,
                libc::SIGURG,
                forged.as_ptr(),
            )
        };
        sent += 1;
        // Who is hit must get to run between two of them, also where a processor is free for this loop alone.
        std::thread::sleep(Duration::from_micros(20));
    }
    sent
}

/// Raises into `body` in a thread of its own, below a hail, and tells which rung got it out.
fn under_a_hail(place: &str, body: impl FnOnce() -> Raised + Send + 'static) -> Rung {
    let worker = thread::spawn(body);
    let id = worker.id();
    until("there", || {
        info(id).is_some_and(|t| begins_at(&t.where_blocked, place))
    });
    let tid = info(id).unwrap().os_tid.as_raw();
    let over = AtomicBool::new(false);
    let (raised, sent) = std::thread::scope(|s| {
        let hail = s.spawn(|| hail(tid, &over));
        let over = Over(&over);
        let run = RUN.load(Ordering::Relaxed);
        until("the hail has begun", || RUN.load(Ordering::Relaxed) > run + 10);
        let receipt = worker.raise(Stop).unwrap();
        let raised = join(worker);
        drop(over);
        let rung = raised.rung();
        drop(raised);
        assert_eq!(fate(&receipt), ReceiptState::Caught);
        (rung, hail.join().unwrap())
    });
    assert!(sent > 0);
    raised
}

fn raised<T: std::fmt::Debug, E: std::fmt::Debug>(end: Result<T, CallError<E>>) -> Raised {
    match end {
        Err(CallError::Raised(raised)) => raised,
        other => panic!("{other:?}"),
    }
}

fn read_of_ours() -> Rung {
    let (reader, _writer) = std::io::pipe().unwrap();
    under_a_hail("read(", move || {
        Raised::from_io(Interruptible::new(reader).read(&mut [0]).unwrap_err()).unwrap()
    })
}

fn libcs_read() -> Rung {
    let (reader, _writer) = std::io::pipe().unwrap();
    under_a_hail("read(", move || {
        raised(
            Call::new("read")
                .fail_syscalls()
                .try_run(|| stubborn_read(&reader).0),
        )
    })
}

fn left_by_force(
    name: &'static str,
    place_name: &str,
    call: fn(&'static str) -> Call<'static>,
    at: &str,
) -> Rung {
    let (reader, _writer) = std::io::pipe().unwrap();
    let place = place(place_name);
    let rung = under_a_hail(at, move || {
        enter(&call(name), place, &Stage::new().at(&reader)).unwrap_err()
    });
    clear_poison(name);
    rung
}

/// A thread in code that was not allowed: each try is refused by a proof in the handler.
fn refusals() {
    let range = Module::from_symbols(linked::FIRST as *const (), linked::LAST as *const ()).unwrap();
    let call = Call::new("not allowed").abandon_after(SOON).allow(&range);
    let visitor = Visitor::start(call, "not allowed", linked::SPIN_O2, Stage::new());
    visitor.until_spinning();
    visitor.raise();
    visitor.until_refused_for(|refused| refused.times >= 20);
    visitor.stage.let_go();
    assert_eq!(visitor.leave().unwrap(), LET_GO);
}

#[test]
fn no_allocator_is_called_in_the_handler_whatever_it_does() {
    ready();
    let mut seen = Vec::new();
    for _ in 0..rounds(30) {
        seen.extend([read_of_ours(), libcs_read()]);
        seen.push(left_by_force("unwound", "read_for_ever", unwound, "read("));
        seen.push(left_by_force("abandoned", "spin_o2", abandoned, "running"));
    }
    // The hail may have had the thread out of its call when the raise came.
    for rung in [Rung::Nudge, Rung::Fail, Rung::Unwind, Rung::Abandon] {
        assert!(seen.contains(&rung), "{rung:?} in {seen:?}");
    }
    refusals();
    // The kernel delivers without details: the handler looks for its record.
    let nothing = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads one rlimit.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const nothing) };
    assert_eq!(set, 0);
    for _ in 0..rounds(30) {
        read_of_ours();
        libcs_read();
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} signals handled, {} of them passed on, {} allocations outside",
        count(&RUN),
        count(&PASSED_ON),
        count(&LOOKED)
    );
    let enough = |usual| usual * rounds(30).min(30) / 30;
    assert!(count(&RUN) > enough(1000) && count(&PASSED_ON) > enough(100) && count(&LOOKED) > 1000);
    // The check bites: what the C library allocates for itself is seen, and what is inside is not survived.
    let looked = count(&LOOKED);
    // SAFETY: copies a string.
    let copy = unsafe { libc::strdup(c"copied".as_ptr()) };
    // SAFETY: allocated above.
    unsafe { libc::free(copy.cast()) };
    assert_eq!(count(&LOOKED), looked + 2);
    assert!(dies_of(|| INSIDE.set(1)));
}

/// Whether a child that allocates after `prepare` is ended by an allocator.
fn dies_of(prepare: fn()) -> bool {
    // SAFETY: the child allocates once and ends, one way or the other.
    let child = unsafe { libc::fork() };
    if child == 0 {
        prepare();
        std::hint::black_box(Box::new(1));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT
}
