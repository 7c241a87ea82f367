//! What a C++ (or C) function does when an exception passes through it.
//!
//! Owns: reading the call-site table, the action table and the type table of a language-specific data area, whose format is
//! that of GCC and LLVM (`unwind-pe.h`, "Exception Handling Tables"). Leaves to its user: whether the personality is one that
//! reads this table.
//!
//! **Signal context:** yes: a bounded slice is read through `gimli`'s reader, which checks each length.

use gimli::{EndianSlice, NativeEndian, Reader};

use super::frames::Frame;

/// What awaits an exception, or a forced unwinding, that comes by at a frame's program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    /// No table: it passes.
    NoTable,
    /// The place has an entry: it passes, perhaps after cleanups. Handlers for types may be there; none of them takes a
    /// forced unwinding.
    Covered,
    /// The place has an entry with a handler for everything (`catch (...)`), or with a list of permitted types. A forced
    /// unwinding enters it; a handler that does not throw on ends the process.
    TakesAll,
    /// The place has no entry: under C++ rules `std::terminate` is called (`noexcept`, a destructor). C passes.
    Uncovered,
    Unreadable,
}

type Bytes = EndianSlice<'static, NativeEndian>;

const OMIT: u8 = 0xff;
/// A chain of actions longer than this is taken for broken.
const LONGEST_CHAIN: usize = 64;

/// What `frame`'s function does at the frame's program counter.
pub(crate) fn landing(frame: &Frame) -> Landing {
    let Some(lsda) = frame.lsda else {
        return Landing::NoTable;
    };
    let offset = frame.place.checked_sub(frame.function.start);
    match (frame.image.bytes_from(lsda), offset) {
        (Some(bytes), Some(offset)) => read(bytes, offset as u64).unwrap_or(Landing::Unreadable),
        _ => Landing::Unreadable,
    }
}

struct Types {
    encoding: u8,
    /// From the start of the table to where the types end and the lists of permitted types begin.
    base: usize,
}

/// `offset` is that of the place from the start of its function.
fn read(bytes: &'static [u8], offset: u64) -> Option<Landing> {
    let whole = EndianSlice::new(bytes, NativeEndian);
    let mut rest = whole;
    let pads = rest.read_u8().ok()?;
    if pads != OMIT {
        value(&mut rest, pads)?;
    }
    let encoding = rest.read_u8().ok()?;
    let mut types = None;
    if encoding != OMIT {
        let distance = usize::try_from(rest.read_uleb128().ok()?).ok()?;
        let base = rest.offset_from(whole).checked_add(distance)?;
        types = Some(Types { encoding, base });
    }
    let encoding = rest.read_u8().ok()?;
    let length = usize::try_from(rest.read_uleb128().ok()?).ok()?;
    let mut sites = rest.split(length).ok()?;
    while !sites.is_empty() {
        let start = value(&mut sites, encoding)?;
        let length = value(&mut sites, encoding)?;
        let pad = value(&mut sites, encoding)?;
        let action = sites.read_uleb128().ok()?;
        if offset < start {
            break;
        }
        if offset < start.checked_add(length)? {
            if pad == 0 || action == 0 {
                return Some(Landing::Covered);
            }
            let first = usize::try_from(action).ok()?.checked_sub(1)?;
            let takes_all = takes_all(whole, rest, first, types.as_ref())?;
            return Some(if takes_all {
                Landing::TakesAll
            } else {
                Landing::Covered
            });
        }
    }
    Some(Landing::Uncovered)
}

/// Follows a chain in the action table `actions`, from the record at `at`.
fn takes_all(whole: Bytes, actions: Bytes, mut at: usize, types: Option<&Types>) -> Option<bool> {
    for _ in 0..LONGEST_CHAIN {
        let mut record = actions;
        record.skip(at).ok()?;
        let filter = record.read_sleb128().ok()?;
        let next_from = record.offset_from(actions);
        let next = record.read_sleb128().ok()?;
        if filter < 0 || filter > 0 && is_catch_all(whole, types?, filter as u64)? {
            return Some(true);
        }
        if next == 0 {
            return Some(false);
        }
        at = next_from.checked_add_signed(isize::try_from(next).ok()?)?;
    }
    None
}

/// Types are counted backwards from their base; a null pointer stands for `...`.
fn is_catch_all(whole: Bytes, types: &Types, filter: u64) -> Option<bool> {
    let size = match types.encoding & 0x0f {
        0x00 | 0x04 | 0x0c => 8,
        0x02 | 0x0a => 2,
        0x03 | 0x0b => 4,
        _ => return None,
    };
    let distance = usize::try_from(filter).ok()?.checked_mul(size)?;
    let mut entry = whole;
    entry.skip(types.base.checked_sub(distance)?).ok()?;
    let entry = entry.split(size).ok()?;
    Some(entry.iter().all(|byte| *byte == 0))
}

/// A number in the format that the low half of a pointer encoding names.
fn value(bytes: &mut Bytes, encoding: u8) -> Option<u64> {
    let value = match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => bytes.read_u64(),
        0x01 => bytes.read_uleb128(),
        0x02 => bytes.read_u16().map(u64::from),
        0x03 => bytes.read_u32().map(u64::from),
        0x09 => bytes.read_sleb128().map(|v| v as u64),
        0x0a => bytes.read_i16().map(|v| v as u64),
        0x0b => bytes.read_i32().map(|v| v as u64),
        _ => return None,
    };
    value.ok()
}

#[cfg(test)]
mod tests;
