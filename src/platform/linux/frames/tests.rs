//! The walker against the C library's unwinder, at every instruction; and where there is nothing to walk.
//!
//! Owns: the promises. Leaves to [`stage`] how a walk is tried out.
//!
//! **Signal context:** as said there.

#![allow(unsafe_code)]

use std::ffi::{c_long, c_void};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use throwto_fixtures::frames::{DEPTH, FORMS, Frames, PLACES, Watch};

use super::super::image::{Image, Kind, find_now, prepare};
use super::super::lsda::{Landing, landing};
use super::super::symbols::{self, Personalities, Personality};
use super::{Lost, WORD, Walk, function_around};
use crate::platform::arch::{Registers, dwarf};

mod stage;

use stage::{ALLOCATIONS, Stage, interrupt_me, same_as_the_reference, walked, with_end};

/// On an arm64 kernel libgcc's own walk did not come past the signal frame, so there was nothing to compare with.
#[cfg(target_arch = "x86_64")]
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

/// From the `leave` of a function that realigned its frame to its `ret`, GCC describes the frame pointer wrongly (I2).
/// `both` and `realigned` have up to three such instructions, of which those count whose callers need a frame pointer.
const WRONG_IN_GCC: usize = 6;

/// Shows platform::linux::frames I2, I3.
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

// A function as older compilers describe it: nothing is said of its epilogue.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.throwto_no_epilogue,\"ax\",@progbits",
    ".globl throwto_no_epilogue",
    ".hidden throwto_no_epilogue",
    "throwto_no_epilogue:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "nop",
    "pop rbp",
    ".globl throwto_no_epilogue_return",
    ".hidden throwto_no_epilogue_return",
    "throwto_no_epilogue_return:",
    "ret",
    ".cfi_endproc",
    // Its caller keeps a frame pointer, so that the wrong description leads to the caller's caller.
    ".globl throwto_no_epilogue_caller",
    ".hidden throwto_no_epilogue_caller",
    "throwto_no_epilogue_caller:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "call throwto_no_epilogue",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
    ".popsection",
);

#[test]
#[cfg(target_arch = "x86_64")]
fn a_return_that_is_described_as_something_else_is_lost() {
    unsafe extern "C" {
        safe static throwto_no_epilogue: u8;
        fn throwto_no_epilogue_caller(watch: &Watch, x: c_long) -> c_long;
        safe static throwto_no_epilogue_return: u8;
    }
    let returns = (&raw const throwto_no_epilogue_return) as usize;
    let begins = (&raw const throwto_no_epilogue) as usize;
    let stage = Stage::set();
    let mut walks = Vec::new();
    with_end(|end| {
        let mut job = |registers: Registers| {
            let pc = registers.pc().unwrap() as usize;
            if (begins..=returns).contains(&pc) {
                let (frames, lost) = walked(registers, end);
                let whole = frames.last().is_some_and(|frame| frame.cfa == end);
                walks.push((pc, if whole { Ok(()) } else { Err(lost) }));
            }
        };
        stage.perform(&mut job, || {
            step_by_step(throwto_no_epilogue_caller, &Watch::default(), 0)
        });
    });
    assert_eq!(walks.len(), 5);
    for (pc, walk) in walks {
        let expected = if pc == returns {
            Err(Lost::TooComplex { pc })
        } else {
            Ok(())
        };
        assert_eq!(walk, expected, "{:#x} behind the start", pc - begins);
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
            let failed = unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGUSR1) };
            assert_eq!(failed, 0);
        });
        // SAFETY: the fixture reads and writes `watch` only.
        unsafe { frames(watch, 3) };
    });
}

/// Spoils the word above which a frame ends: the return address, which aarch64 keeps elsewhere.
/// Shows platform::linux::frames I1.
#[cfg(target_arch = "x86_64")]
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
            // SAFETY: between the interrupted frame and one further out, which stand still while their thread is here.
            let stack = unsafe { std::slice::from_raw_parts(sp as *const u64, words) };
            let mut copy = stack.to_vec();
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
    // Too complex where the place of the caller's frame is itself read from behind the cut.
    assert!(
        reached
            .iter()
            .all(|(_, lost)| matches!(lost, Lost::OffTheStack { .. } | Lost::TooComplex { .. }))
    );
}

#[test]
fn what_awaits_an_exception_is_read_from_the_tables() {
    let stage = Stage::set();
    let personalities = Personalities::look();
    let rust = symbols::rust_text();
    let expected = |name| match name {
        "plain" => Landing::NoTable,
        "guarded" | "typed" => Landing::Covered,
        "rethrows" => Landing::TakesAll,
        _ => Landing::Uncovered,
    };
    extern "C" fn visit(_: *mut c_void) {
        interrupt_me();
    }
    for (name, place) in PLACES
        .iter()
        .flat_map(|(name, places)| places.map(|place| (*name, place)))
    {
        let mut seen = Vec::new();
        with_end(|end| {
            let mut job = |registers: Registers| {
                let (frames, _) = walked(registers, end);
                let own = place as usize;
                let at = frames
                    .iter()
                    .position(|frame| frame.function.start == own)
                    .expect(name);
                // A destructor may have a frame of its own.
                let of_cxx = frames[..=at]
                    .iter()
                    .filter(|f| !rust.contains(f.pc) && f.image == frames[at].image);
                seen.extend(of_cxx.map(|f| (landing(f), f.personality.map(|p| personalities.of(p)))));
            };
            stage.perform(&mut job, || {
                // SAFETY: `visit` takes any argument.
                unsafe { place(visit, std::ptr::null_mut()) };
            });
        });
        seen.retain(|(landing, _)| *landing != Landing::NoTable);
        match expected(name) {
            Landing::NoTable => assert_eq!(seen, [], "{name}"),
            landing => assert_eq!(seen, [(landing, Some(Some(Personality::Cxx)))], "{name}"),
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
            now.frame_index().map(<[u8]>::as_ptr),
            image.frame_index().map(<[u8]>::as_ptr),
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

fn end_of(function: usize) -> usize {
    let image = Image::containing(function).unwrap();
    function_around(&image, function).unwrap().end
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
    let end = end_of(own);
    assert!(end > own && rust.contains(end - 1));
    assert!(
        symbols::rust_inside(own..end)
            .unwrap()
            .contains("rust_is_told_from_c")
    );
    assert!(symbols::name(own + 1).starts_with(
        "throwto::platform::linux::frames::tests::rust_is_told_from_c_by_its_symbols+0x1 in throwto"
    ));
    for (form, frames) in FORMS {
        let start = frames as *const () as usize;
        assert!(!rust.contains(start), "{form}");
        assert_eq!(symbols::rust_inside(start..end_of(start)), None, "{form}");
        assert!(
            symbols::name(start).starts_with(&format!("throwto_frames_{form} in ")),
            "{form}"
        );
    }
    assert!(symbols::name(libc::getpid as *const () as usize).ends_with("getpid in libc.so.6"));
    assert_eq!(symbols::name(8), "0x8 in no image");
}
