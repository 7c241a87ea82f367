//! The description of one function's frames: finding it, and what it says of a program counter.
//!
//! Owns: the binary search in `.eh_frame_hdr`, and the step from pointers as stored to pointers as meant. Leaves to
//! `gimli`: the format of `.eh_frame`. gimli's own search is not used: it multiplies and subtracts unchecked.
//!
//! **Signal context:** yes: bounded slices, no allocation; see `frames`.

use std::ops::Range;

use gimli::{
    BaseAddresses, EhFrame, EhFrameOffset, EndianSlice, FrameDescriptionEntry, NativeEndian, Pointer, Reader,
    UnwindContext, UnwindContextStorage, UnwindSection, UnwindTableRow,
};

use super::Image;
use crate::platform::arch::dwarf;

pub(super) type Bytes = EndianSlice<'static, NativeEndian>;
pub(super) type Row = UnwindTableRow<usize, Small>;

/// Room for the rules of a frame, in the walker itself. A row for the rules that a function starts with, the present
/// one, and two that were remembered.
pub(super) struct Small;

impl UnwindContextStorage<usize> for Small {
    type Rules = [(gimli::Register, gimli::RegisterRule<usize>); dwarf::RULES];
    type Stack = [UnwindTableRow<usize, Self>; 4];
}

pub(super) struct Description {
    fde: FrameDescriptionEntry<Bytes>,
    pub(super) section: EhFrame<Bytes>,
    section_start: usize,
    bases: BaseAddresses,
}

impl Description {
    /// The description of the function that has `pc`.
    pub(super) fn of(image: &Image, pc: usize) -> Option<Self> {
        let index = image.frame_index()?;
        let (section_start, entry) = Index::of(index, index.as_ptr().addr())?.search(image.rows(), pc)?;
        let section = EhFrame::new(image.bytes_from(section_start)?, NativeEndian);
        let bases = BaseAddresses::default().set_eh_frame(section_start as u64);
        let offset = EhFrameOffset(entry.checked_sub(section_start)?);
        let fde = section
            .fde_from_offset(&bases, offset, EhFrame::cie_from_offset)
            .ok()?;
        fde.contains(pc as u64).then_some(Self {
            fde,
            section,
            section_start,
            bases,
        })
    }

    /// The rules at `pc`.
    pub(super) fn row<'a>(&self, room: &'a mut UnwindContext<usize, Small>, pc: usize) -> Option<&'a Row> {
        self.fde
            .unwind_info_for_address(&self.section, &self.bases, room, pc as u64)
            .ok()
    }

    pub(super) fn function(&self) -> Range<usize> {
        self.fde.initial_address() as usize..self.fde.end_address() as usize
    }

    pub(super) fn is_signal_frame(&self) -> bool {
        self.fde.is_signal_trampoline()
    }

    /// The column whose rule tells where the caller goes on.
    pub(super) fn return_column(&self) -> u16 {
        self.fde.cie().return_address_register().0
    }

    /// `Err` if there is one that cannot be read.
    pub(super) fn personality(&self, image: &Image) -> Result<Option<usize>, ()> {
        self.fde
            .personality()
            .map(|pointer| resolve(image, pointer))
            .transpose()
    }

    /// `Err` if there is one that cannot be read. A pointer that was stored as zero is none; gimli adds what it is relative
    /// to, which is its own place.
    pub(super) fn lsda(&self, image: &Image) -> Result<Option<usize>, ()> {
        let Some(pointer) = self.fde.lsda() else {
            return Ok(None);
        };
        let own = self.section_start.saturating_add(self.fde.offset());
        let own = own..own.saturating_add(self.fde.entry_len()).saturating_add(12);
        let stored = pointer.pointer() as usize;
        if stored == 0 || own.contains(&stored) {
            return Ok(None);
        }
        resolve(image, pointer).map(Some)
    }
}

fn resolve(image: &Image, pointer: Pointer) -> Result<usize, ()> {
    match pointer {
        Pointer::Direct(address) => Ok(address as usize),
        Pointer::Indirect(place) => image.word_at(place as usize).ok_or(()),
    }
}

/// One row: where a function starts, and where its description is.
const ROW: usize = 8;

/// An `.eh_frame_hdr`. Only the encoding that all linkers write is read: a count of 32 bits, rows of two offsets of 32 bits from
/// the header.
struct Index<'a> {
    /// Its own.
    address: usize,
    /// Where `.eh_frame` starts.
    section: usize,
    rows: &'a [[u8; ROW]],
}

impl<'a> Index<'a> {
    fn of(bytes: &'a [u8], address: usize) -> Option<Self> {
        const USUAL: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
        if !bytes.starts_with(&USUAL) {
            return None;
        }
        let word = |at: usize| -> Option<i32> {
            let bytes = bytes.get(at..at.checked_add(4)?)?;
            Some(i32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let count = word(8)? as u32 as usize;
        let rows = bytes.get(12..)?.get(..count.checked_mul(ROW)?)?;
        Some(Self {
            address,
            section: address.checked_add(4)?.wrapping_add_signed(word(4)? as isize),
            rows: rows.as_chunks().0,
        })
    }

    fn start_of(&self, row: &[u8; ROW]) -> usize {
        let [a, b, c, d, ..] = *row;
        self.at(i32::from_ne_bytes([a, b, c, d]))
    }

    fn at(&self, offset: i32) -> usize {
        self.address.wrapping_add_signed(offset as isize)
    }

    /// Where `.eh_frame` starts, and, among these rows, the last description whose function starts at or before `pc`.
    fn search(&self, among: Range<usize>, pc: usize) -> Option<(usize, usize)> {
        let rows = self.rows.get(among.start..among.end.min(self.rows.len()))?;
        let behind = rows.partition_point(|row| self.start_of(row) <= pc);
        let [.., a, b, c, d] = *rows.get(behind.checked_sub(1)?)?;
        Some((self.section, self.at(i32::from_ne_bytes([a, b, c, d]))))
    }

    /// The rows of the functions that have a part of `code`.
    fn rows_of(&self, code: Range<usize>) -> Range<usize> {
        let first = self.rows.partition_point(|row| self.start_of(row) <= code.start);
        let end = self.rows.partition_point(|row| self.start_of(row) < code.end);
        first.saturating_sub(1)..end
    }
}

/// `image`, for looking only at what this part of its code is described by.
pub(crate) fn narrowed(image: Image, code: Range<usize>) -> Image {
    let index = image.frame_index();
    let index = index.and_then(|bytes| Index::of(bytes, bytes.as_ptr().addr()));
    index.map_or(image, |index| image.with_rows(index.rows_of(code)))
}

/// Where the function that has `pc` lies, if it is described.
pub(crate) fn function_around(image: &Image, pc: usize) -> Option<Range<usize>> {
    Description::of(image, pc).map(|description| description.function())
}

/// Reads as many bytes as are there.
pub(super) fn bytes_of(
    section: &EhFrame<Bytes>,
    expression: gimli::UnwindExpression<usize>,
) -> Option<Bytes> {
    let mut bytes = *gimli::Section::reader(section);
    bytes.skip(expression.offset).ok()?;
    bytes.split(expression.length).ok()
}

#[cfg(test)]
mod tests;
