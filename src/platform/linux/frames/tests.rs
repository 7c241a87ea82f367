//! The walker against the C library's unwinder, at every instruction; and where there is nothing to walk.
//!
//! Owns: the stage on which a signal handler walks. The handler's alternate stack is painted, so that its use can be read.
//!
//! **Signal context:** the closures given to [`Stage`] run in a handler; they interrupt C code that allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use throwto_fixtures::frames::{DEPTH, FORMS, Frames, PLACES, Watch};

use super::super::image::{Kind, find_now, prepare};
use super::super::lsda::{Landing, landing};
use super::super::symbols::{self, Personalities, Personality};
use super::*;
use crate::platform::arch::Context;

// ---- counting allocations -------------------------------------------------------------------------------------------

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, and a counter that needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

// ---- the stage ------------------------------------------------------------------------------------------------------

type Job<'a> = &'a mut dyn FnMut(Registers);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static JOB: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, raw: *mut c_void) {
    let job = JOB.load(Ordering::Relaxed).cast::<Job<'_>>();
    // SAFETY: this handler's context argument.
    let context = unsafe { Context::of(raw) };
    if !job.is_null() {
        // SAFETY: set by `Stage::perform` on this thread, for as long as it waits for the signal.
        let job = unsafe { &mut *job };
        job(context.registers());
    }
}

const PAINT: u8 = 0xa5;

struct Stage {
    stack: Vec<u8>,
    before: libc::stack_t,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    fn set() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(prepare(), "this C library has _dl_find_object");
        let mut stack = vec![PAINT; 256 << 10];
        let new = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: stack.len(),
        };
        // SAFETY: plain data.
        let mut before: libc::stack_t = unsafe { std::mem::zeroed() };
        // SAFETY: the stack outlives its use: `drop` puts the old one back.
        assert_eq!(unsafe { libc::sigaltstack(&raw const new, &raw mut before) }, 0);
        for signal in [libc::SIGUSR1, libc::SIGTRAP] {
            // SAFETY: plain data.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: a handler with the signature that SA_SIGINFO wants.
            assert_eq!(
                unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) },
                0
            );
        }
        Self {
            stack,
            before,
            _alone: alone,
        }
    }

    /// Runs `play`, during which each signal runs `job`.
    fn perform(&self, job: &mut dyn FnMut(Registers), play: impl FnOnce()) {
        let mut job: Job<'_> = job;
        JOB.store((&raw mut job).cast(), Ordering::Relaxed);
        play();
        JOB.store(std::ptr::null_mut(), Ordering::Relaxed);
    }

    /// Bytes of the handler's stack that have been written since the last call.
    fn used(&mut self) -> usize {
        let clean = self.stack.iter().take_while(|byte| **byte == PAINT).count();
        self.stack.fill(PAINT);
        self.stack.len() - clean
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // SAFETY: what was there before; no handler is running.
        unsafe { libc::sigaltstack(&raw const self.before, std::ptr::null_mut()) };
    }
}

fn interrupt_me() {
    // SAFETY: its handler was installed by `Stage::set`.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
}

// ---- the reference --------------------------------------------------------------------------------------------------

unsafe extern "C" {
    fn _Unwind_Backtrace(
        visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetCFA(context: *mut c_void) -> usize;
    fn _Unwind_GetRegionStart(context: *mut c_void) -> usize;
    fn _Unwind_GetLanguageSpecificData(context: *mut c_void) -> usize;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    pc: usize,
    sp: u64,
    function: usize,
    lsda: usize,
}

impl From<&Frame> for Seen {
    fn from(frame: &Frame) -> Self {
        Self {
            pc: frame.pc,
            sp: frame.sp,
            function: frame.function.start,
            lsda: frame.lsda.unwrap_or(0),
        }
    }
}

/// Every frame of this thread as the C library's unwinder sees it, this function's first.
fn reference() -> Vec<Seen> {
    extern "C" fn visit(context: *mut c_void, seen: *mut c_void) -> c_int {
        // SAFETY: the vector below.
        let seen = unsafe { &mut *seen.cast::<Vec<Seen>>() };
        // SAFETY: the unwinder's own context, here and below.
        let pc = unsafe { _Unwind_GetIP(context) };
        // SAFETY: see above.
        let sp = unsafe { _Unwind_GetCFA(context) } as u64;
        // SAFETY: see above.
        let function = unsafe { _Unwind_GetRegionStart(context) };
        // SAFETY: see above.
        let lsda = unsafe { _Unwind_GetLanguageSpecificData(context) };
        seen.push(Seen {
            pc,
            sp,
            function,
            lsda,
        });
        0
    }
    let mut seen = Vec::<Seen>::new();
    // SAFETY: `visit` has the signature.
    unsafe { _Unwind_Backtrace(visit, (&raw mut seen).cast()) };
    seen
}

/// All frames up to `end`, which is the stack pointer of one of them.
fn walked(registers: Registers, end: u64) -> (Vec<Frame>, Lost) {
    let sp = registers.get(dwarf::SP).unwrap();
    // SAFETY: 1. from the interrupted frame to one further out on the same stack. 2. Nothing is unloaded in these tests.
    let mut walk = unsafe { Walk::new(registers, sp..end, find_now) };
    let mut frames = Vec::new();
    loop {
        match walk.next() {
            Ok(frame) => frames.push(frame),
            Err(lost) => return (frames, lost),
        }
    }
}

/// Walks from `registers`, compares each frame with the reference, and gives their number. The last frame before `end` must
/// have been reached.
#[track_caller]
fn same_as_the_reference(registers: Registers, end: u64, note: &str) -> usize {
    let (frames, lost) = walked(registers, end);
    let reference = reference();
    let from = reference
        .iter()
        .position(|seen| Some(seen.pc as u64) == registers.pc() && Some(seen.sp) == registers.get(dwarf::SP));
    let reference = &reference[from.expect("the reference passes the interrupted frame")..];
    let ours: Vec<Seen> = frames.iter().map(Seen::from).collect();
    let name = symbols::name(frames.first().map_or(0, |frame| frame.pc));
    assert_eq!(ours, reference[..ours.len()], "{note}, at {name}");
    assert!(matches!(lost, Lost::OffTheStack { .. }), "{note}, at {name}: {lost:?}");
    let last = frames.last().expect("a first frame");
    assert_eq!(last.cfa, end, "{note}, at {name}: stopped early");
    ours.len()
}

/// Runs `body` with the stack pointer that its caller had, as a trampoline would know it.
#[inline(never)]
fn with_end(body: impl FnOnce(u64)) {
    let own = with_end_frame();
    body(own);
    std::hint::black_box(());
}

/// The stack pointer of the frame three above: what `with_end`'s caller has.
#[inline(never)]
fn with_end_frame() -> u64 {
    let here = reference();
    // 0 is `reference`, 1 this function, 2 `with_end`, 3 its caller.
    here[3].sp
}

// ---- promises -------------------------------------------------------------------------------------------------------

#[test]
fn a_loop_in_c_is_walked_as_the_unwinder_walks_it() {
    let stage = Stage::set();
    for (form, frames) in FORMS {
        let watch = Watch::default();
        with_end(|end| {
            // SAFETY: reads the calling thread's handle.
            let me = unsafe { libc::pthread_self() } as usize;
            let mut depth = 0;
            let mut job = |registers: Registers| {
                depth = same_as_the_reference(registers, end, form);
                watch.stop.store(1, Ordering::Relaxed);
            };
            stage.perform(&mut job, || {
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        while watch.turns.load(Ordering::Relaxed) < 1000 {
                            std::thread::yield_now();
                        }
                        // SAFETY: the thread is in the scope's parent, which waits for this one.
                        assert_eq!(unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGUSR1) }, 0);
                    });
                    // SAFETY: the fixture reads and writes `watch` only.
                    unsafe { frames(&watch, 3) };
                });
            });
            assert!(depth > DEPTH, "{form}: {depth} frames");
        });
    }
}

/// Runs `frames` with the processor's trap flag set: SIGTRAP behind each instruction.
#[cfg(target_arch = "x86_64")]
fn step_by_step(frames: Frames, watch: &Watch, x: c_long) {
    // SAFETY: sets the trap flag, whose signal has a handler; pushes are allowed, since `nostack` is not given.
    unsafe { std::arch::asm!("pushfq", "or dword ptr [rsp], 0x100", "popfq") };
    // SAFETY: as in the test above.
    unsafe { frames(watch, x) };
    // SAFETY: clears it again.
    unsafe { std::arch::asm!("pushfq", "and dword ptr [rsp], 0xfffffeff", "popfq") };
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_instruction_of_every_shape_of_frame_is_walked() {
    let stage = Stage::set();
    let rust = symbols::rust_text();
    assert!(rust.known, "the test binary has symbols");
    for (form, frames) in FORMS {
        let watch = Watch::default();
        watch.stop.store(1, Ordering::Relaxed);
        let mut places = std::collections::BTreeSet::new();
        let mut deepest = 0;
        with_end(|end| {
            let mut job = |registers: Registers| {
                let pc = registers.pc().unwrap() as usize;
                if !rust.contains(pc) {
                    places.insert(pc);
                    deepest = deepest.max(same_as_the_reference(registers, end, form));
                }
            };
            stage.perform(&mut job, || {
                for x in [3, 101] {
                    step_by_step(frames, &watch, x);
                }
            });
        });
        assert!(places.len() > 150, "{form}: {} instructions", places.len());
        assert!(deepest > DEPTH, "{form}: {deepest} frames");
    }
}
