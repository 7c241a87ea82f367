//! Tables of call sites in every encoding, cut off, and spoilt byte by byte.
//!
//! **Signal context:** no.

use super::*;

/// Filter 2 of these entries is a type, filter 1 is `...`: counted backwards from their end.
const CATCHES: [u64; 2] = [0x11, 0];

/// A chain for a type; a cleanup with a link to `...`; `...`; a list of permitted types; a type that is followed by itself.
const ACTIONS: [u8; 10] = [2, 0, 0, 1, 1, 0, 0x7f, 0, 2, 0x7f];
const TYPED: u64 = 1;
const CLEANUP_THEN_ALL: u64 = 3;
const ALL: u64 = 5;
const PERMITTED: u64 = 7;
const ENDLESS: u64 = 9;

fn leb(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Small enough that both kinds of LEB128 write it alike.
fn encoded(encoding: u8, value: u64) -> Vec<u8> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => value.to_ne_bytes().to_vec(),
        0x02 | 0x0a => (value as u16).to_ne_bytes().to_vec(),
        0x03 | 0x0b => (value as u32).to_ne_bytes().to_vec(),
        _ => leb(value),
    }
}

/// A table of call sites (start, length, landing pad, action), with types in the encoding `types`.
fn table(sites: u8, rows: &[[u64; 4]], types: u8) -> Vec<u8> {
    let rows: Vec<u8> = rows
        .iter()
        .flat_map(|[start, length, pad, action]| {
            let fields = [*start, *length, *pad].map(|field| encoded(sites, field));
            [fields.concat(), leb(*action)].concat()
        })
        .collect();
    let rest = [&[sites], &leb(rows.len() as u64)[..], &rows, &ACTIONS].concat();
    if types == OMIT {
        return [&[OMIT, OMIT], &rest[..]].concat();
    }
    let entries: Vec<u8> = CATCHES.iter().flat_map(|entry| encoded(types, *entry)).collect();
    let distance = leb((rest.len() + entries.len()) as u64);
    [&[OMIT, types], &distance[..], &rest, &entries].concat()
}

fn said(bytes: &[u8], offset: u64) -> Option<Landing> {
    read(bytes.to_vec().leak(), offset)
}

const ROWS: [[u64; 4]; 6] = [
    [0, 4, 0, 0],
    [4, 4, 9, 0],
    [8, 4, 9, TYPED],
    [12, 4, 9, CLEANUP_THEN_ALL],
    [16, 4, 9, ALL],
    [24, 4, 9, PERMITTED],
];

fn truth(offset: u64) -> Landing {
    match offset {
        0..12 => Landing::Covered,
        12..20 | 24..28 => Landing::TakesAll,
        _ => Landing::Uncovered,
    }
}

#[test]
fn every_encoding_of_sites_and_of_types_is_read() {
    for sites in [0x00, 0x01, 0x02, 0x03, 0x04, 0x09, 0x0a, 0x0b, 0x0c, 0x1b] {
        for types in [0x00, 0x02, 0x03, 0x04, 0x0a, 0x0b, 0x0c, 0x9b] {
            let bytes = table(sites, &ROWS, types);
            for offset in 0..32 {
                let expected = Some(truth(offset));
                assert_eq!(said(&bytes, offset), expected, "{sites:#x}, {types:#x}, {offset}");
            }
        }
    }
}

#[test]
fn a_base_for_landing_pads_is_passed_over() {
    let bytes = table(0x01, &ROWS, 0x03);
    for pads in [0x00, 0x01, 0x03, 0x1b] {
        let with_base = [&[pads], &encoded(pads, 7)[..], &bytes[1..]].concat();
        assert_eq!(said(&with_base, 16), Some(Landing::TakesAll), "{pads:#x}");
    }
}

#[test]
fn what_is_not_understood_is_unreadable() {
    for unknown in [0x05, 0x06, 0x07, 0x08, 0x0d, 0x0e, 0x0f] {
        let pads = [&[unknown], &table(0x01, &ROWS, 0x03)[1..]].concat();
        assert_eq!(said(&pads, 0), None, "pads in {unknown:#x}");
        assert_eq!(
            said(&table(unknown, &ROWS, 0x03), 0),
            None,
            "sites in {unknown:#x}"
        );
        let types = table(0x01, &ROWS, unknown);
        assert_eq!(said(&types, 0), Some(Landing::Covered), "nobody asks for a type");
        assert_eq!(said(&types, 8), None, "types in {unknown:#x}");
    }
    let behind = ACTIONS.len() as u64 + 100;
    for action in [ENDLESS, behind, u64::MAX] {
        let bytes = table(0x01, &[[0, 4, 9, action]], 0x03);
        assert_eq!(said(&bytes, 0), None, "action {action}");
    }
    assert_eq!(said(&table(0x01, &ROWS, OMIT), 8), None, "a type without types");
    // A site that ends behind the last number, and a length that no table has.
    let bytes = table(0x00, &[[1, u64::MAX, 9, 0]], 0x03);
    assert_eq!(said(&bytes, 2), None);
    let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(said(&[&[OMIT, OMIT, 0x01], &longest[..]].concat(), 0), None);
    assert_eq!(said(&[&[OMIT, 0x03], &longest[..]].concat(), 0), None);
    let overlong = [0x80; 12];
    assert_eq!(said(&[&[OMIT, OMIT, 0x01], &overlong[..]].concat(), 0), None);
}

#[test]
fn a_table_that_is_cut_off_says_the_truth_or_nothing() {
    let whole = table(0x03, &ROWS, 0x03);
    for length in 0..whole.len() {
        for offset in 0..32 {
            let cut = said(&whole[..length], offset);
            assert!(
                [None, Some(truth(offset))].contains(&cut),
                "{length}: {cut:?} at {offset}"
            );
        }
    }
}

#[test]
fn no_spoilt_byte_makes_a_panic() {
    let whole = table(0x01, &ROWS, 0x03);
    for at in 0..whole.len() {
        for wrong in 0..=u8::MAX {
            let mut bytes = whole.clone();
            bytes[at] = wrong;
            let bytes: &'static [u8] = bytes.leak();
            for offset in [0, 8, 12, 24, 40] {
                let _any = read(bytes, offset);
            }
        }
    }
}
