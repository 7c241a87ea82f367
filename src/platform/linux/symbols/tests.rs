//! Symbol tables that are whole, stripped, cut off and spoilt, byte by byte.
//!
//! **Signal context:** no.

use std::mem::ManuallyDrop;

use super::*;

const SECTIONS: usize = 3;
const ENTRY: usize = 64;
const UNDEFINED: u16 = 0;
const FUNCTION: u8 = 2;
const DATA: u8 = 1;

/// Name, type, section, address, size.
type Defined = (&'static str, u8, u16, u64, u64);

const DEFINED: [Defined; 9] = [
    ("_ZN1a17h0123456789abcdefE", FUNCTION, 1, 0x150, 0x10),
    ("_RNvC1a1b", FUNCTION, 1, 0x100, 0x10),
    ("_RNvC1a1c", FUNCTION, 1, 0x118, 8),
    ("memcpy", FUNCTION, 1, 0x140, 0x10),
    ("_RNvC1a1d", DATA, 1, 0x400, 0x10),
    ("_RNvC1a1e", FUNCTION, UNDEFINED, 0x500, 0x10),
    ("rust_eh_personality", FUNCTION, 1, 0x200, 8),
    ("assembly", FUNCTION, 1, 0x300, 0),
    ("_RNvC1a1f", FUNCTION, 1, u64::MAX - 4, 0x10),
];

/// A file with a header, names, symbols, and sections in this order: nothing, symbols of this kind, names.
fn elf(kind: u32, symbols: &[Defined]) -> Vec<u8> {
    let mut names = vec![0];
    let mut table = vec![0; 24];
    for (name, info, section, value, size) in symbols {
        table.extend((names.len() as u32).to_ne_bytes());
        table.extend([*info, 0]);
        table.extend(section.to_ne_bytes());
        table.extend(value.to_ne_bytes());
        table.extend(size.to_ne_bytes());
        names.extend(name.bytes().chain([0]));
    }
    let names_at = ENTRY;
    let table_at = (names_at + names.len()).next_multiple_of(8);
    let sections_at = table_at + table.len();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([3_u16, 62].map(u16::to_ne_bytes).concat());
    file.extend(1_u32.to_ne_bytes());
    file.extend([0, 0, sections_at as u64].map(u64::to_ne_bytes).concat());
    file.extend(0_u32.to_ne_bytes());
    file.extend(
        [64, 0, 0, ENTRY as u16, SECTIONS as u16, 2]
            .map(u16::to_ne_bytes)
            .concat(),
    );
    file.extend(names.iter());
    file.resize(table_at, 0);
    file.extend(table.iter());
    let section = |kind: u32, at: usize, size: usize, link: u32, entry: u64| {
        [
            &[0, kind].map(u32::to_ne_bytes).concat()[..],
            &[0, 0, at as u64, size as u64].map(u64::to_ne_bytes).concat(),
            &[link, 0].map(u32::to_ne_bytes).concat(),
            &[8, entry].map(u64::to_ne_bytes).concat(),
        ]
        .concat()
    };
    file.extend(section(0, 0, 0, 0, 0));
    file.extend(section(kind, table_at, table.len(), 2, 24));
    file.extend(section(3, names_at, names.len(), 0, 0));
    file
}

/// As if the program had been read from these bytes. Addresses are from its start on.
fn read_from(bytes: &[u8]) -> ManuallyDrop<Program> {
    let bytes = bytes.to_vec().leak();
    let image = Image::program().unwrap();
    ManuallyDrop::new(Program { bytes, image })
}

fn at(address: usize) -> usize {
    Image::program().unwrap().bias().wrapping_add(address)
}

#[cfg(target_endian = "little")]
#[test]
fn a_table_of_symbols_tells_what_is_rust_and_what_lies_between() {
    let text = RustText::read(&read_from(&elf(SHT_SYMTAB, &DEFINED))).unwrap();
    assert!(text.known);
    for (from, to, rust) in [
        (0x100, 0x120, true),
        (0x140, 0x150, false),
        (0x150, 0x160, true),
        (0x200, 0x208, true),
        (0x300, 0x301, false),
        (0x400, 0x410, false),
        (0x500, 0x510, false),
    ] {
        for address in [from, to - 1] {
            assert_eq!(text.contains(at(address)), rust, "{address:#x}");
        }
    }
    assert!(!text.contains(at(0xff)) && !text.contains(at(0x120)) && !text.contains(0));
    assert_eq!(text.personality, Some(at(0x200)));
}

#[test]
fn a_stripped_file_has_no_rust_that_is_known() {
    let exports_only = elf(SHT_DYNSYM, &DEFINED);
    assert!(RustText::read(&read_from(&exports_only)).is_none());
    let program = read_from(&exports_only);
    let exported = program.table_of(SHT_DYNSYM).unwrap();
    assert_eq!(program.functions(&exported).count(), 7);
    let without_sections = &elf(SHT_SYMTAB, &DEFINED)[..ENTRY];
    assert!(RustText::read(&read_from(without_sections)).is_none());
    // Symbols, but none of them Rust's: not known either.
    let of_c = RustText::read(&read_from(&elf(SHT_SYMTAB, &DEFINED[3..4]))).unwrap();
    assert!(!of_c.known && !of_c.contains(at(0x140)));
    let empty = RustText::read(&read_from(&elf(SHT_SYMTAB, &[]))).unwrap();
    assert!(!empty.known);
}

/// Whatever is in the file, all of it is looked at.
#[test]
fn a_misshapen_file_is_read_within_its_bytes() {
    let whole = elf(SHT_SYMTAB, &DEFINED);
    let look = |bytes: &[u8]| {
        let program = read_from(bytes);
        let text = RustText::read(&program);
        for kind in [SHT_SYMTAB, SHT_DYNSYM] {
            if let Some(table) = program.table_of(kind) {
                for function in program.functions(&table) {
                    assert!(function.range.start <= function.range.end);
                    let _any = readable(function.name());
                }
            }
        }
        text.is_some()
    };
    assert!(look(&whole));
    for length in 0..whole.len() {
        assert!(!look(&whole[..length]), "cut to {length} bytes");
    }
    for place in 0..whole.len() {
        for wrong in [0, 1, 7, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[place] = wrong;
            look(&bytes);
        }
    }
}

#[test]
fn rusts_names_are_told_from_all_others() {
    for (name, rust) in [
        ("_RNvC1a1b", true),
        ("_RINvC1a1b", true),
        ("_R1b", true),
        ("_Rabbit", false),
        ("_R", false),
        ("_ZN1a17h0123456789abcdefE", true),
        ("_ZN1a17h0123456789abcdefE.llvm.17", true),
        ("_ZN1a17h0123456789abcdegE", false),
        ("_ZN1a17h0123456789abcdefE17", false),
        ("_ZN3foo3barEv", false),
        ("_ZN", false),
        ("__rust_alloc", true),
        ("__rust", false),
        ("rust_begin_unwind", true),
        ("rusty", false),
        ("", false),
    ] {
        assert_eq!(is_rust(name.as_bytes()), rust, "{name}");
    }
}

#[test]
fn a_place_in_no_image_is_named_by_its_number() {
    assert_eq!(name(8), "0x8 in no image");
}
