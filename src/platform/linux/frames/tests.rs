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

/// Walks from `registers` and compares each frame with the reference. Gives the functions, inside out, or what stopped the
/// walk before `end`.
#[track_caller]
fn same_as_the_reference(registers: Registers, end: u64, note: &str) -> Result<Vec<usize>, Lost> {
    let (frames, lost) = walked(registers, end);
    let reference = reference();
    let from = reference
        .iter()
        .position(|seen| Some(seen.pc as u64) == registers.pc() && Some(seen.sp) == registers.get(dwarf::SP));
    let reference = &reference[from.expect("the reference passes the interrupted frame")..];
    let ours: Vec<Seen> = frames.iter().map(Seen::from).collect();
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
            let mut depth = 0;
            let mut job = |registers: Registers| {
                depth = same_as_the_reference(registers, end, form).unwrap().len();
                watch.stop.store(1, Ordering::Relaxed);
            };
            stage.perform(&mut job, || in_c(frames, &watch));
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

/// Behind a `leave` of a function that realigned its frame, GCC describes the frame pointer wrongly: `both` and `realigned`
/// have two such instructions each (I2).
const WRONG_IN_GCC: usize = 4;

#[test]
#[cfg(target_arch = "x86_64")]
fn every_instruction_of_every_shape_of_frame_is_walked() {
    let stage = Stage::set();
    let rust = symbols::rust_text();
    assert!(rust.known, "the test binary has symbols");
    for (form, frames) in FORMS {
        let watch = Watch::default();
        watch.stop.store(1, Ordering::Relaxed);
        let mut walks = std::collections::BTreeMap::new();
        with_end(|end| {
            let mut job = |registers: Registers| {
                let pc = registers.pc().unwrap() as usize;
                if !rust.contains(pc) {
                    walks
                        .entry(pc)
                        .or_insert_with(|| same_as_the_reference(registers, end, form));
                }
            };
            stage.perform(&mut job, || {
                for x in [3, 101] {
                    step_by_step(frames, &watch, x);
                }
            });
        });
        assert!(walks.len() > 150, "{form}: {} instructions", walks.len());
        let deepest = walks.values().flatten().max_by_key(|walk| walk.len()).unwrap();
        assert!(deepest.len() > DEPTH, "{form}: {} frames", deepest.len());
        let mut lost = Vec::new();
        for (pc, walk) in &walks {
            match walk {
                Ok(walk) => assert!(
                    deepest.ends_with(walk),
                    "{form}, at {}: frames were skipped",
                    symbols::name(*pc)
                ),
                Err(why) => lost.push((symbols::name(*pc), why)),
            }
        }
        assert!(lost.len() <= WRONG_IN_GCC, "{form}: {lost:#?}");
        println!("{form}: {} instructions, lost at {lost:?}", walks.len());
    }
}

/// Numbers that a handler may write down: no memory is asked for.
struct Noted {
    walks: usize,
    frames: usize,
    allocations: usize,
    took: Duration,
}

#[test]
fn a_walk_allocates_nothing() {
    let mut stage = Stage::set();
    let (_, frames) = FORMS[2];
    let mut noted = Noted {
        walks: 0,
        frames: 0,
        allocations: 0,
        took: Duration::ZERO,
    };
    let mut stacks = [0; 2];
    for (walks, stack) in [0, 1].into_iter().zip(&mut stacks) {
        noted = in_the_loop(&stage, frames, walks);
        assert_eq!(noted.allocations, 0);
        *stack = stage.used();
    }
    assert!(noted.walks == 1 && noted.frames > DEPTH);
    println!(
        "{} frames, {} bytes of stack for the signal, {} for the walk",
        noted.frames,
        stacks[0],
        stacks[1] - stacks[0]
    );
    let timed = in_the_loop(&stage, frames, 2000);
    println!("{:?} per frame", timed.took / timed.frames as u32);
}

/// Walks so many times from the loop in C.
#[inline(never)]
fn in_the_loop(stage: &Stage, frames: Frames, walks: usize) -> Noted {
    let watch = Watch::default();
    let mut noted = Noted {
        walks,
        frames: 0,
        allocations: 0,
        took: Duration::ZERO,
    };
    with_end(|end| {
        let mut job = |registers: Registers| {
            let before = ALLOCATIONS.get();
            let began = Instant::now();
            for _ in 0..walks {
                let sp = registers.get(dwarf::SP).unwrap();
                // SAFETY: as in `walked`.
                let mut walk = unsafe { Walk::new(registers, sp..end, find_now) };
                while let Ok(frame) = walk.next() {
                    noted.frames += 1;
                    std::hint::black_box(landing(&frame));
                }
            }
            noted.took = began.elapsed();
            noted.allocations = ALLOCATIONS.get() - before;
            watch.stop.store(1, Ordering::Relaxed);
        };
        stage.perform(&mut job, || in_c(frames, &watch));
    });
    noted
}

/// Runs `frames`, and interrupts them in their loop.
fn in_c(frames: Frames, watch: &Watch) {
    // SAFETY: reads the calling thread's handle.
    let me = unsafe { libc::pthread_self() } as usize;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while watch.turns.load(Ordering::Relaxed) < 1000 {
                std::thread::yield_now();
            }
            // SAFETY: the thread is the scope's parent, which waits for this one.
            assert_eq!(
                unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGUSR1) },
                0
            );
        });
        // SAFETY: the fixture reads and writes `watch` only.
        unsafe { frames(watch, 3) };
    });
}

#[test]
fn a_broken_stack_is_lost_not_followed() {
    let stage = Stage::set();
    let watch = Watch::default();
    let mut ends = Vec::new();
    with_end(|end| {
        let mut job = |registers: Registers| {
            let sp = registers.get(dwarf::SP).unwrap();
            let (frames, _) = walked(registers, end);
            // A stack that holds a copy of the frames, so that words can be spoilt.
            let words = ((end - sp) / WORD) as usize;
            let mut copy: Vec<u64> = (0..words)
                // SAFETY: between the interrupted frame and one further out.
                .map(|word| unsafe { (sp as *const u64).add(word).read_volatile() })
                .collect();
            let moved = (copy.as_ptr() as u64).wrapping_sub(sp);
            let mut at_copy = registers;
            at_copy.set(dwarf::SP, Some(sp.wrapping_add(moved)));
            let first = frames[0].cfa - WORD;
            let place = ((first - sp) / WORD) as usize;
            let intact = copy[place];
            for wrong in [
                0,
                1,
                7,
                sp,
                u64::MAX,
                intact ^ (1 << 46),
                (&raw const watch) as u64,
            ] {
                copy[place] = wrong;
                let range = copy.as_ptr_range();
                // SAFETY: 1. the copy. 2. nothing is unloaded.
                let mut walk = unsafe { Walk::new(at_copy, range.start as u64..range.end as u64, find_now) };
                let first = walk.next().map(|frame| frame.pc as u64);
                ends.push((
                    first == Ok(registers.pc().unwrap()),
                    wrong,
                    walk.next().map(|_| ()),
                ));
                assert_eq!(walk.next().err(), ends.last().unwrap().2.err(), "lost stays lost");
            }
            watch.stop.store(1, Ordering::Relaxed);
        };
        let (_, frames) = FORMS[3];
        stage.perform(&mut job, || in_c(frames, &watch));
    });
    assert_eq!(ends.len(), 7);
    for (first, wrong, second) in ends {
        assert!(first, "{wrong:#x}");
        let pc = wrong as usize;
        assert_eq!(second, Err(Lost::NoImage { pc }), "{wrong:#x}");
    }
}

#[test]
fn a_stack_that_is_cut_off_is_not_read_beyond() {
    let stage = Stage::set();
    let watch = Watch::default();
    let mut reached = Vec::new();
    with_end(|end| {
        let mut job = |registers: Registers| {
            let sp = registers.get(dwarf::SP).unwrap();
            for to in (sp..=end).step_by(8) {
                let (frames, lost) = walked(registers, to);
                assert!(frames.iter().all(|frame| frame.cfa <= to));
                reached.push((frames.len(), lost));
            }
            watch.stop.store(1, Ordering::Relaxed);
        };
        let (_, frames) = FORMS[2];
        stage.perform(&mut job, || in_c(frames, &watch));
    });
    assert_eq!(reached.first().unwrap().0, 0);
    assert!(reached.last().unwrap().0 > DEPTH);
    assert!(
        reached.is_sorted_by_key(|(frames, _)| *frames),
        "more stack, no fewer frames"
    );
    assert!(
        reached
            .iter()
            .all(|(_, lost)| matches!(lost, Lost::OffTheStack { .. }))
    );
}

#[test]
fn what_awaits_an_exception_is_read_from_the_tables() {
    let stage = Stage::set();
    let personalities = Personalities::look();
    let expected = |name| match name {
        "plain" => Landing::NoTable,
        "guarded" | "typed" => Landing::Covered,
        "rethrows" => Landing::TakesAll,
        _ => Landing::Uncovered,
    };
    extern "C" fn visit(_: *mut c_void) {
        interrupt_me();
    }
    for (name, place) in PLACES {
        let mut seen = None;
        with_end(|end| {
            let mut job = |registers: Registers| {
                let (frames, _) = walked(registers, end);
                let own = place as usize;
                let frame = frames
                    .iter()
                    .find(|frame| frame.function.start == own)
                    .expect(name);
                seen = Some((
                    landing(frame),
                    frame.personality.and_then(|p| personalities.of(p)),
                ));
            };
            stage.perform(&mut job, || {
                // SAFETY: `visit` takes any argument.
                unsafe { place(visit, std::ptr::null_mut()) };
            });
        });
        let (landing, personality) = seen.expect("the handler ran");
        assert_eq!(landing, expected(name), "{name}");
        if landing != Landing::NoTable {
            assert_eq!(personality, Some(Personality::Cxx), "{name}");
        }
    }
}

#[test]
fn both_ways_to_find_an_image_agree() {
    assert!(prepare());
    let here = both_ways_to_find_an_image_agree as *const () as usize;
    let images = Image::all();
    let kinds: Vec<Kind> = images.iter().map(|(_, kind)| *kind).collect();
    for kind in [
        Kind::Executable,
        Kind::Libc,
        Kind::Loader,
        Kind::Unwinder,
        Kind::Vdso,
        Kind::CxxRuntime,
    ] {
        assert_eq!(
            kinds.iter().filter(|k| **k == kind).count(),
            1,
            "{kind:?} of {kinds:?}"
        );
    }
    for (image, kind) in &images {
        let name = image.name();
        let code = (image.range())
            .step_by(4096)
            .find(|pc| image.has_code(*pc))
            .expect("some code");
        let now = find_now(code).unwrap_or_else(|| panic!("{name} by _dl_find_object"));
        assert_eq!(now.range(), image.range(), "{name}");
        assert_eq!(now.bias(), image.bias(), "{name}");
        assert_eq!(
            now.frame_index().map(|i| i.0),
            image.frame_index().map(|i| i.0),
            "{name}"
        );
        assert_eq!(Image::containing(code), Some(*image), "{name}");
        if *kind != Kind::Executable {
            assert_eq!(Image::loaded(&name), Some(*image), "{name}");
        }
    }
    assert_eq!(Image::containing(here), Image::program());
    assert_eq!(
        Image::loaded("libc.so.6").map(|image| image.kind()),
        Some(Kind::Libc)
    );
    assert_eq!(Image::loaded("libno_such_thing.so"), None);
    for nowhere in [0, 4096, (&raw const images) as usize, usize::MAX] {
        assert_eq!(find_now(nowhere), None);
        assert_eq!(Image::containing(nowhere), None);
    }
}

#[test]
fn rust_is_told_from_c_by_its_symbols() {
    let began = Instant::now();
    let rust = symbols::rust_text();
    println!(
        "{:?} for {} bytes",
        began.elapsed(),
        std::fs::metadata("/proc/self/exe").unwrap().len()
    );
    assert!(rust.known);
    let own = rust_is_told_from_c_by_its_symbols as *const () as usize;
    assert!(rust.contains(own));
    let end = symbols::function_end(own).unwrap();
    assert!(end > own && rust.contains(end - 1));
    assert!(
        symbols::rust_inside(own..end)
            .unwrap()
            .contains("rust_is_told_from_c")
    );
    assert!(symbols::name(own + 1).starts_with(
        "throwto::platform::linux::frames::tests::rust_is_told_from_c_by_its_symbols+0x1 in throwto-"
    ));
    for (form, frames) in FORMS {
        let start = frames as *const () as usize;
        assert!(!rust.contains(start), "{form}");
        assert_eq!(
            symbols::rust_inside(start..symbols::function_end(start).unwrap()),
            None,
            "{form}"
        );
        assert!(
            symbols::name(start).starts_with(&format!("throwto_frames_{form} in ")),
            "{form}"
        );
    }
    assert!(symbols::name(libc::getpid as *const () as usize).ends_with("getpid in libc.so.6"));
    assert_eq!(symbols::name(8), "0x8 in no image");
}
