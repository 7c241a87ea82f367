//! The index of descriptions, whole, cut off and spoilt; a description without a data area.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use super::*;

const AT: usize = 0x10_0000;

/// An index at `AT` of functions that begin at these offsets from it; the description of the Nth is at `N << 8`.
fn index(functions: &[i32]) -> Vec<u8> {
    let mut bytes = vec![1, 0x1b, 0x03, 0x3b];
    bytes.extend((-0x104_i32).to_ne_bytes());
    bytes.extend((functions.len() as u32).to_ne_bytes());
    for (at, function) in functions.iter().enumerate() {
        bytes.extend(function.to_ne_bytes());
        bytes.extend((at as i32 * 0x100).to_ne_bytes());
    }
    bytes
}

fn search(bytes: &[u8], address: usize, pc: usize) -> Option<(usize, usize)> {
    Index::of(bytes, address)?.search(0..usize::MAX, pc)
}

#[test]
fn among_the_rows_of_a_range_of_code_what_it_is_described_by_is_found() {
    let bytes = index(&[-0x1000, -0x800, 0x40, 0x80]);
    let index = Index::of(&bytes, AT).unwrap();
    for (code, rows) in [
        (AT - 0x1000..AT - 0x800, 0..1),
        (AT - 0x1000..AT - 0x7ff, 0..2),
        (AT - 0x900..AT, 0..2),
        (AT - 0x800..AT + 0x40, 1..2),
        (AT + 0x41..AT + 0x50, 2..3),
        (AT + 0x80..usize::MAX, 3..4),
        (0..AT - 0x1000, 0..0),
    ] {
        assert_eq!(index.rows_of(code.clone()), rows, "{code:#x?}");
        for pc in [code.start, code.end - 1] {
            assert_eq!(index.search(rows.clone(), pc), search(&bytes, AT, pc), "{pc:#x}");
        }
    }
    assert_eq!(index.search(1..2, AT - 0x1000), None);
    assert_eq!(index.search(5..9, AT), None, "rows that are not there");
}

#[test]
fn the_last_function_at_or_before_an_address_is_found() {
    let bytes = index(&[-0x1000, -0x800, 0x40]);
    let found = |pc| search(&bytes, AT, pc);
    let section = AT - 0x100;
    assert_eq!(found(AT - 0x1001), None);
    assert_eq!(found(AT - 0x1000), Some((section, AT)));
    assert_eq!(found(AT - 0x801), Some((section, AT)));
    assert_eq!(found(AT - 0x800), Some((section, AT + 0x100)));
    assert_eq!(found(AT + 0x3f), Some((section, AT + 0x100)));
    assert_eq!(found(usize::MAX), Some((section, AT + 0x200)));
    assert_eq!(search(&index(&[]), AT, AT), None);
}

#[test]
fn an_index_that_is_cut_off_spoilt_or_of_another_kind_finds_nothing() {
    let whole = index(&[-0x1000, -0x800]);
    for length in 0..whole.len() {
        assert_eq!(search(&whole[..length], AT, AT), None, "{length} bytes");
    }
    for kind in 0..4 {
        for other in (0..=u8::MAX).filter(|byte| *byte != whole[kind]) {
            let mut bytes = whole.clone();
            bytes[kind] = other;
            assert_eq!(search(&bytes, AT, AT), None, "byte {kind} is {other:#x}");
        }
    }
    let mut endless = whole.clone();
    endless[8..12].fill(0xff);
    assert_eq!(search(&endless, AT, AT), None, "more rows than there are");
    for at in 4..whole.len() {
        for wrong in 0..=u8::MAX {
            let mut bytes = whole.clone();
            bytes[at] = wrong;
            for (address, pc) in [(AT, AT), (0, 0), (usize::MAX - 2, usize::MAX), (AT, 0)] {
                let _any = search(&bytes, address, pc);
            }
        }
    }
}

// A personality, here the function itself, and a pointer to a data area that was stored as zero.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.throwto_without_area,\"ax\",@progbits",
    ".hidden throwto_without_area",
    ".globl throwto_without_area",
    ".set throwto_no_area, 0",
    "throwto_without_area:",
    ".cfi_startproc",
    ".cfi_personality 0x1b, throwto_without_area",
    ".cfi_lsda 0x03, throwto_no_area",
    "ret",
    ".cfi_endproc",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
#[test]
fn a_data_area_that_was_stored_as_zero_is_none() {
    unsafe extern "C" {
        safe static throwto_without_area: u8;
    }
    let here = (&raw const throwto_without_area) as usize;
    let image = Image::containing(here).unwrap();
    let description = Description::of(&image, here).unwrap();
    assert_eq!(description.personality(&image), Ok(Some(here)));
    assert_eq!(description.lsda(&image), Ok(None));
}
