//! Where a walk is tried out: a signal handler on a painted stack, the C library's unwinder beside it, a count of allocations.
//!
//! Owns: [`Stage`], one at a time; [`reference`] and the comparison with it. Leaves to the tests what is interrupted.
//!
//! **Signal context:** the closures given to [`Stage::perform`] run in a handler. They interrupt C code that allocates nothing,
//! so they may allocate.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::super::image::{find_now, prepare};
use super::super::super::symbols;
use super::super::{Frame, Lost, Walk};
use crate::platform::arch::{Context, Registers, dwarf};

// ---- counting allocations -------------------------------------------------------------------------------------------

struct Counting;

thread_local! {
    pub(super) static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
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

pub(super) struct Stage {
    stack: Vec<u8>,
    before: libc::stack_t,
    actions: [(c_int, libc::sigaction); 2],
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    pub(super) fn set() -> Self {
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
        let actions = [libc::SIGUSR1, libc::SIGTRAP].map(|signal| {
            // SAFETY: plain data, twice.
            let [mut action, mut old]: [libc::sigaction; 2] = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: a handler with the signature that SA_SIGINFO wants.
            let failed = unsafe { libc::sigaction(signal, &raw const action, &raw mut old) };
            assert_eq!(failed, 0);
            (signal, old)
        });
        Self {
            stack,
            before,
            actions,
            _alone: alone,
        }
    }

    /// Runs `play`, during which each signal runs `job`.
    pub(super) fn perform(&self, job: &mut dyn FnMut(Registers), play: impl FnOnce()) {
        let mut job: Job<'_> = job;
        JOB.store((&raw mut job).cast(), Ordering::Relaxed);
        play();
        JOB.store(std::ptr::null_mut(), Ordering::Relaxed);
    }

    /// Bytes of the handler's stack that have been written since the last call.
    pub(super) fn used(&mut self) -> usize {
        let clean = self.stack.iter().take_while(|byte| **byte == PAINT).count();
        self.stack.fill(PAINT);
        self.stack.len() - clean
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (signal, action) in &self.actions {
            // SAFETY: what was there before.
            unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
        }
        // SAFETY: what was there before; no handler is running.
        unsafe { libc::sigaltstack(&raw const self.before, std::ptr::null_mut()) };
    }
}

pub(super) fn interrupt_me() {
    // SAFETY: its handler was installed by `Stage::set`.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
}

// ---- the reference --------------------------------------------------------------------------------------------------

unsafe extern "C" {
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut (), *mut c_void) -> c_int, argument: *mut c_void)
    -> c_int;
    fn _Unwind_GetIP(context: *mut ()) -> usize;
    fn _Unwind_GetCFA(context: *mut ()) -> usize;
    fn _Unwind_GetRegionStart(context: *mut ()) -> usize;
    fn _Unwind_GetLanguageSpecificData(context: *mut ()) -> usize;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    pc: usize,
    sp: u64,
    function: usize,
    lsda: usize,
}

impl Seen {
    fn of(frame: &Frame, sp: u64) -> Self {
        Self {
            pc: frame.pc,
            sp,
            function: frame.function.start,
            lsda: frame.lsda.unwrap_or(0),
        }
    }
}

/// Every frame of this thread as the C library's unwinder sees it, this function's first.
fn reference() -> Vec<Seen> {
    extern "C" fn visit(context: *mut (), seen: *mut c_void) -> c_int {
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
pub(super) fn walked(registers: Registers, end: u64) -> (Vec<Frame>, Lost) {
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

/// Walks from `registers` and compares each frame with the reference. Gives the functions, inside out, or what stopped the
/// walk before `end`.
#[track_caller]
pub(super) fn same_as_the_reference(registers: Registers, end: u64, note: &str) -> Result<Vec<usize>, Lost> {
    let (frames, lost) = walked(registers, end);
    let reference = reference();
    let from = reference
        .iter()
        .position(|seen| Some(seen.pc as u64) == registers.pc() && Some(seen.sp) == registers.get(dwarf::SP));
    let reference = &reference[from.expect("the reference passes the interrupted frame")..];
    let own = registers.get(dwarf::SP).expect("a stack pointer");
    let stack_pointers = std::iter::once(own).chain(frames.iter().map(|frame| frame.cfa));
    let ours: Vec<Seen> = frames
        .iter()
        .zip(stack_pointers)
        .map(|(f, sp)| Seen::of(f, sp))
        .collect();
    let name = symbols::name(registers.pc().unwrap() as usize);
    assert_eq!(ours, reference[..ours.len()], "{note}, at {name}");
    match frames.last() {
        Some(last) if last.cfa == end => {
            assert!(
                matches!(lost, Lost::OffTheStack { .. }),
                "{note}, at {name}: {lost:?} behind the end"
            );
            Ok(frames.iter().map(|frame| frame.function.start).collect())
        }
        _ => Err(lost),
    }
}

/// Runs `body` with the stack pointer that its caller had, as a trampoline would know it.
#[inline(never)]
pub(super) fn with_end(body: impl FnOnce(u64)) {
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
