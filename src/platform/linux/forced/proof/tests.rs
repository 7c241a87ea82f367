//! Each make of frame by hand, and who gets a stack to walk on.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use throwto_fixtures::stuck::Library;

use std::mem::MaybeUninit;

use super::super::{Beginning, Ready, Terms};
use super::*;
use crate::platform::linux::module::Module;
use crate::protocol::record::Record;

const POINT: usize = 0x5000;
const RUST: usize = 0x6001;
const C: usize = 0x6002;
const CXX: usize = 0x6003;

/// Call sites: the first four bytes are covered, the rest are not. Then a table in no known encoding.
static TABLE: [u8; 8] = [0xff, 0xff, 0x01, 4, 0, 4, 0, 0];
static GARBLED: [u8; 8] = [0xff, 0xff, 0x05, 4, 0, 4, 0, 0];

fn facts(rust: &'static RustText) -> &'static Facts {
    let libc = Image::all().into_iter().find(|(_, kind)| *kind == Kind::Libc);
    Box::leak(Box::new(Facts {
        own: Image::program().unwrap(),
        rust,
        points: vec![POINT],
        never: vec![libc.unwrap().0],
        personalities: Personalities {
            rust: Some(RUST),
            c: Some(C),
            cxx: Some(CXX),
        },
        no_unwind: None,
    }))
}

unsafe extern "C-unwind" fn shim(_: *mut (), _: MaybeUninit<usize>) -> MaybeUninit<usize> {
    MaybeUninit::uninit()
}

/// What hand-made frames are held against.
struct Region<'a> {
    facts: &'static Facts,
    escape: Box<MaybeUninit<Escape<'a>>>,
}

impl<'a> Region<'a> {
    fn on(facts: &'static Facts, terms: &'a Terms) -> Self {
        let record = Box::leak(Box::new(Record::new(0)));
        let mut escape = Box::new(MaybeUninit::uninit());
        // SAFETY: room for one; terms begin with themselves.
        unsafe { Escape::put(escape.as_mut_ptr(), Ready(record), terms, &Beginning::of(shim)) };
        Self { facts, escape }
    }

    fn escape(&self) -> &Escape<'a> {
        // SAFETY: put there above; what that has left out may be anything.
        unsafe { self.escape.assume_init_ref() }
    }
}

/// What `make` says of a frame in `image`, `offset` bytes into a function at `start`.
fn made(
    region: &Region<'_>,
    rung: u32,
    (image, start, offset): (Image, usize, usize),
    personality: Option<usize>,
    lsda: Option<usize>,
) -> Result<&'static str, Why> {
    let frame = Frame {
        pc: start + offset,
        place: start + offset,
        cfa: 0,
        function: start..start + 16,
        personality,
        lsda,
        image,
    };
    let case = Case {
        escape: region.escape(),
        facts: region.facts,
        registers: Registers::all([0; arch::dwarf::REGISTERS]),
        stack: 0..0,
        unwind: rung == RUNG_UNWIND,
        verdict: Err((Why::Busy, 0)),
    };
    match case.make(&frame) {
        Ok(Make::Foreign) => Ok("foreign"),
        Ok(Make::Point) => Ok("point"),
        Ok(Make::Own) => Ok("own"),
        Err((why, pc)) => {
            assert_eq!(pc, frame.pc, "the frame itself is blamed");
            Err(why)
        }
    }
}

/// Shows platform::linux::forced::proof I1, as far as single frames go.
#[test]
fn each_frame_is_allowed_foreign_own_or_refused_with_its_reason() {
    Library::open().unwrap();
    let library = Module::loaded(Library::NAME).unwrap();
    let facts = facts(symbols::rust_text());
    let (own, libc) = (facts.own, facts.never[0]);
    let there = library.image().range().start;
    let of_library = (library.image(), there, 0);
    let rust = (own, made as *const () as usize, 0);
    let shims = (own, shim as *const () as usize, 0);
    // Nobody's function, in the program.
    let c = (own, 0x4000, 2);
    let uncovered = (own, 0x4000, 5);
    let (table, garbled) = ((&raw const TABLE) as usize, (&raw const GARBLED) as usize);
    let nothing = Terms::new();
    let with_library = Terms {
        allowed: vec![library],
        at_once: false,
    };

    let (strict, lax) = (Region::on(facts, &nothing), Region::on(facts, &with_library));
    for escape in [&strict, &lax] {
        for rung in [RUNG_UNWIND, super::super::RUNG_ABANDON] {
            assert_eq!(made(escape, rung, rust, None, None), Ok("own"));
            assert_eq!(made(escape, rung, shims, None, None), Ok("own"));
        }
        let unwind = |at, personality, lsda| made(escape, RUNG_UNWIND, at, personality, lsda);
        assert_eq!(unwind((libc, POINT, 3), None, None), Ok("point"));
        assert_eq!(
            unwind((libc, POINT + 1, 3), None, None),
            Err(Why::NotACancellationPoint)
        );
        assert_eq!(unwind(of_library, None, None), Ok("foreign"));
        assert_eq!(
            unwind(c, None, Some(garbled)),
            Ok("foreign"),
            "nobody reads the table"
        );
        assert_eq!(unwind(c, Some(RUST), None), Err(Why::ThroughRust));
        assert_eq!(unwind(uncovered, Some(C), Some(table)), Ok("foreign"), "C passes");
        for personality in [CXX, 0x6004] {
            assert_eq!(unwind(c, Some(personality), None), Ok("foreign"), "no table");
            assert_eq!(unwind(c, Some(personality), Some(table)), Ok("foreign"));
            assert_eq!(
                unwind(uncovered, Some(personality), Some(table)),
                Err(Why::Terminates)
            );
            for unreadable in [garbled, 8] {
                let said = unwind(c, Some(personality), Some(unreadable));
                assert_eq!(said, Err(Why::NoDescription));
            }
        }
    }
    let abandon = |escape, at| made(escape, super::super::RUNG_ABANDON, at, Some(RUST), None);
    assert_eq!(
        abandon(&lax, of_library),
        Ok("foreign"),
        "whose personality does not matter"
    );
    for (escape, at) in [
        (&strict, of_library),
        (&strict, c),
        (&lax, c),
        (&lax, (libc, POINT, 0)),
    ] {
        assert_eq!(abandon(escape, at), Err(Why::NotAllowed));
    }
}

#[test]
fn in_a_stripped_program_only_the_shim_is_known_to_be_own() {
    let facts = facts(Box::leak(Box::new(RustText::UNKNOWN)));
    let nothing = Terms::new();
    let escape = Region::on(facts, &nothing);
    let shims = (facts.own, shim as *const () as usize, 0);
    let rust = (facts.own, made as *const () as usize, 0);
    assert_eq!(made(&escape, RUNG_UNWIND, shims, None, None), Ok("own"));
    assert_eq!(
        made(&escape, RUNG_UNWIND, rust, None, None),
        Err(Why::ThroughRust)
    );
}

/// Shows platform::linux::forced::proof I2.
#[test]
fn a_walk_takes_place_on_an_alternate_stack_that_has_room() {
    let here = arch::stack_pointer();
    let stack = |start: usize, size, flags| libc::stack_t {
        ss_sp: start as *mut libc::c_void,
        ss_flags: flags,
        ss_size: size,
    };
    // Less than a page is what a call takes here.
    const PAGE: usize = 4096;
    for (expected, start, size, flags) in [
        (true, here - ROOM - PAGE, 2 * ROOM, 0),
        (true, here - ROOM - PAGE, 2 * ROOM, libc::SS_ONSTACK),
        (false, here - ROOM - PAGE, 2 * ROOM, libc::SS_DISABLE),
        (false, here - ROOM + PAGE, 2 * ROOM, 0),
        (false, here - 2 * ROOM, ROOM, 0),
        (false, here + PAGE, 2 * ROOM, 0),
        (false, 0, 0, 0),
    ] {
        assert_eq!(
            has_room(&stack(start, size, flags)),
            expected,
            "{start:#x} {size:#x} {flags:#x}, at {here:#x}"
        );
    }
}

/// Shows platform::linux::forced::proof I2.
#[test]
fn each_walk_has_a_stack_of_its_own_and_without_one_none_begins() {
    struct Depth(Vec<usize>);
    unsafe extern "C" fn deeper(depth: *mut ()) {
        let here = 0_u8;
        // SAFETY: passed below, and used by one of these at a time.
        let depth = unsafe { &mut *depth.cast::<Depth>() };
        depth.0.push((&raw const here) as usize);
        // SAFETY: as below.
        unsafe { in_a_room(deeper, std::ptr::from_mut(depth).cast()) };
    }
    let mut depth = Depth(Vec::new());
    // SAFETY: `deeper` takes a `Depth`, and allocates no more than a vector's few words.
    let began = unsafe { in_a_room(deeper, (&raw mut depth).cast()) };
    assert!(began);
    assert_eq!(depth.0.len(), STACKS);
    let room = |at: &usize| (at - ROOMS.as_ptr() as usize) / STACK;
    let mut rooms: Vec<usize> = depth.0.iter().map(room).collect();
    rooms.sort_unstable();
    assert_eq!(rooms, (0..STACKS).collect::<Vec<_>>());
    assert!(TAKEN.iter().all(|taken| !taken.load(Ordering::Relaxed)));
}

// Code that nothing describes.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.throwto_unknown_frame,\"ax\",@progbits",
    ".hidden throwto_unknown_frame",
    ".globl throwto_unknown_frame",
    ".p2align 4",
    "throwto_unknown_frame:",
    "ud2",
    ".zero 30",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
#[test]
fn a_frame_that_cannot_be_walked_past_is_blamed() {
    unsafe extern "C" {
        safe static throwto_unknown_frame: u8;
    }
    let facts = facts(symbols::rust_text());
    let nothing = Terms::new();
    let region = Region::on(facts, &nothing);
    let undescribed = (&raw const throwto_unknown_frame) as usize;
    for (pc, why) in [(undescribed, Why::NoDescription), (8, Why::NotAllowed)] {
        let mut registers = Registers::all([0; arch::dwarf::REGISTERS]);
        registers.set(arch::dwarf::PC, Some(pc as u64));
        let case = Case {
            escape: region.escape(),
            facts,
            registers,
            stack: 0..0,
            unwind: false,
            verdict: Err((Why::Busy, 0)),
        };
        assert_eq!(case.walk().map(|_| ()), Err((why, pc)));
    }
}
