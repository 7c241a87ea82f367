//! DWARF expressions, as far as frame descriptions use them.
//!
//! Owns: a stack machine for the operations that GCC, LLVM and the linkers write: registers with offsets, loads from the
//! stack, constants, sums, masks, shifts, comparisons. Realigned frames, the linkage table and the C library's signal
//! frame need no others. No jumps, so it ends.
//!
//! **Signal context:** yes: eight words of stack, nothing else.

use gimli::{Encoding, Expression, Format, Operation, UnitOffset};

use super::description::Bytes;
use crate::platform::arch::Registers;

const ENCODING: Encoding = Encoding {
    format: Format::Dwarf32,
    version: 4,
    address_size: size_of::<usize>() as u8,
};

/// An address-sized number. Values of other types need the program's debugging information.
const PLAIN: UnitOffset<usize> = UnitOffset(0);

struct Stack {
    words: [u64; 8],
    depth: usize,
}

impl Stack {
    fn push(&mut self, word: u64) -> Option<()> {
        *self.words.get_mut(self.depth)? = word;
        self.depth = self.depth.checked_add(1)?;
        Some(())
    }

    fn pop(&mut self) -> Option<u64> {
        self.depth = self.depth.checked_sub(1)?;
        self.words.get(self.depth).copied()
    }
}

/// The value of `expression` with `first` on the stack; `None` if it uses what is not supported, or memory that `load`
/// does not give.
pub(super) fn value(
    expression: Bytes,
    first: Option<u64>,
    registers: &Registers,
    load: impl Fn(u64) -> Option<u64>,
) -> Option<u64> {
    let mut stack = Stack {
        words: [0; 8],
        depth: 0,
    };
    if let Some(first) = first {
        stack.push(first)?;
    }
    let mut operations = Expression(expression).operations(ENCODING);
    while let Some(operation) = operations.next().ok()? {
        let result = match operation {
            Operation::RegisterOffset {
                register,
                offset,
                base_type: PLAIN,
            } => registers.get(register.0)?.wrapping_add_signed(offset),
            Operation::Deref {
                size: 8,
                space: false,
                base_type: PLAIN,
            } => load(stack.pop()?)?,
            Operation::UnsignedConstant { value } => value,
            Operation::SignedConstant { value } => value as u64,
            Operation::PlusConstant { value } => stack.pop()?.wrapping_add(value),
            Operation::Nop => continue,
            two => {
                let (right, left) = (stack.pop()?, stack.pop()?);
                of_two(&two, left, right)?
            }
        };
        stack.push(result)?;
    }
    stack.pop()
}

fn of_two(operation: &Operation<Bytes>, left: u64, right: u64) -> Option<u64> {
    let shift = u32::try_from(right).unwrap_or(u32::MAX);
    let (signed_left, signed_right) = (left as i64, right as i64);
    Some(match operation {
        Operation::Plus => left.wrapping_add(right),
        Operation::Minus => left.wrapping_sub(right),
        Operation::And => left & right,
        Operation::Or => left | right,
        Operation::Shl => left.checked_shl(shift).unwrap_or(0),
        Operation::Shr => left.checked_shr(shift).unwrap_or(0),
        Operation::Ge => u64::from(signed_left >= signed_right),
        Operation::Gt => u64::from(signed_left > signed_right),
        Operation::Le => u64::from(signed_left <= signed_right),
        Operation::Lt => u64::from(signed_left < signed_right),
        Operation::Eq => u64::from(left == right),
        Operation::Ne => u64::from(left != right),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use gimli::{EndianSlice, NativeEndian};

    use super::*;
    use crate::platform::arch::dwarf::REGISTERS;

    /// Where the memory of these tests lies, and what is in it.
    const PLACE: u64 = 0x100;
    const THERE: u64 = 7;

    fn run(bytes: &[u8], first: Option<u64>) -> Option<u64> {
        let expression = EndianSlice::new(bytes.to_vec().leak(), NativeEndian);
        let registers = Registers::all(std::array::from_fn(|register| 1000 + register as u64));
        let load = |address| (address == PLACE).then_some(THERE);
        value(expression, first, &registers, load)
    }

    /// An operand in each width and sign.
    const OPERANDS: [(&[u8], u64); 13] = [
        (&[0x30], 0),
        (&[0x4f], 31),
        (&[0x08, 0xff], 0xff),
        (&[0x09, 0xff], u64::MAX),
        (&[0x0a, 0xfe, 0xff], 0xfffe),
        (&[0x0b, 0xfe, 0xff], u64::MAX - 1),
        (&[0x0c, 0, 0, 0, 0x80], 0x8000_0000),
        (&[0x0d, 0, 0, 0, 0x80], 0xffff_ffff_8000_0000),
        (&[0x0e, 0, 0, 0, 0, 0, 0, 0, 0x80], 1 << 63),
        (&[0x0f, 1, 0, 0, 0, 0, 0, 0, 0x80], (1 << 63) + 1),
        (&[0x10, 0xe5, 0x8e, 0x26], 624_485),
        (&[0x11, 0x80, 0x7f], -128_i64 as u64),
        (&[0x73, 0x70], 1003 - 16),
    ];

    #[cfg(target_endian = "little")]
    #[test]
    fn every_kind_of_operand_is_read() {
        for (bytes, expected) in OPERANDS {
            assert_eq!(run(bytes, None), Some(expected), "{bytes:x?}");
            for cut in 0..bytes.len() {
                assert_eq!(run(&bytes[..cut], None), None, "{bytes:x?} cut at {cut}");
            }
        }
        // A register by number, the last one, and one that is not kept.
        let last = REGISTERS as u8 - 1;
        assert_eq!(run(&[0x92, last, 8], None), Some(1008 + u64::from(last)));
        assert_eq!(run(&[0x92, REGISTERS as u8, 0], None), None);
        assert_eq!(run(&[0x92, 0xff, 0x7f, 0], None), None);
    }

    #[test]
    fn every_operation_computes_what_dwarf_says() {
        const MINUS_ONE: u64 = u64::MAX;
        let of_two = [
            (0x22, MINUS_ONE, 2, 1),
            (0x1c, 1, 2, MINUS_ONE),
            (0x1a, 0b1100, 0b1010, 0b1000),
            (0x21, 0b1100, 0b1010, 0b1110),
            (0x24, 3, 4, 48),
            (0x24, 1, 64, 0),
            (0x24, 1, MINUS_ONE, 0),
            (0x25, 48, 4, 3),
            (0x25, MINUS_ONE, 63, 1),
            (0x25, MINUS_ONE, 64, 0),
            (0x29, 5, 5, 1),
            (0x29, 5, 6, 0),
            (0x2a, MINUS_ONE, 1, 0),
            (0x2a, 1, 1, 1),
            (0x2b, 1, MINUS_ONE, 1),
            (0x2b, 1, 1, 0),
            (0x2c, MINUS_ONE, 1, 1),
            (0x2c, 1, MINUS_ONE, 0),
            (0x2d, MINUS_ONE, 1, 1),
            (0x2d, 1, 1, 0),
            (0x2e, 5, 6, 1),
            (0x2e, 5, 5, 0),
        ];
        for (operation, left, right, expected) in of_two {
            // The left operand is there from the start, the right one is a constant of eight bytes.
            let bytes = [&[0x0e], &right.to_ne_bytes()[..], &[operation]].concat();
            let name = format!("{left} {operation:#x} {right}");
            assert_eq!(run(&bytes, Some(left)), Some(expected), "{name}");
            assert_eq!(run(&bytes, None), None, "{name}, without the left one");
        }
        assert_eq!(run(&[0x23, 2], Some(MINUS_ONE)), Some(1), "plus a constant");
        assert_eq!(run(&[0x96], Some(3)), Some(3), "nothing");
    }

    #[test]
    fn only_whole_words_of_the_stack_are_loaded() {
        assert_eq!(run(&[0x06], Some(PLACE)), Some(THERE));
        assert_eq!(run(&[0x94, 8], Some(PLACE)), Some(THERE));
        for size in [0, 1, 2, 4, 7, 9, 0xff] {
            assert_eq!(run(&[0x94, size], Some(PLACE)), None, "{size} bytes");
        }
        assert_eq!(run(&[0x06], Some(PLACE + 1)), None, "not on the stack");
        assert_eq!(run(&[0x06], None), None, "no address");
        assert_eq!(run(&[0x32, 0x18], Some(PLACE)), None, "another address space");
    }

    #[test]
    fn the_stack_has_eight_words_and_an_end() {
        assert_eq!(run(&[], None), None);
        assert_eq!(run(&[], Some(3)), Some(3));
        assert_eq!(run(&[0x31; 8], None), Some(1));
        assert_eq!(run(&[0x31; 9], None), None);
        assert_eq!(run(&[0x31; 8], Some(3)), None);
    }

    /// Whatever an operation is, and whatever follows it: an answer, and for all that is not in the list of this file, none.
    #[test]
    fn every_other_operation_is_refused_and_nothing_panics() {
        let known = |operation: u8, argument: u8| {
            let plain_type = matches!(operation, 0xa5 | 0xa6 | 0xf5 | 0xf6) && argument == 0;
            let operand = matches!(operation, 0x08..=0x11 | 0x30..=0x4f | 0x70..=0x8f | 0x92);
            let computes = matches!(operation, 0x06 | 0x1a | 0x1c | 0x21..=0x25 | 0x29..=0x2e | 0x94 | 0x96);
            operand || computes || plain_type
        };
        for operation in 0..=u8::MAX {
            for argument in [0, 1, 8, 0x7f, 0x80, 0xff] {
                for length in 0..=12 {
                    let bytes = [&[0x30, 0x31, operation], &vec![argument; length][..]].concat();
                    let result = run(&bytes, Some(PLACE));
                    assert!(
                        known(operation, argument) || result.is_none(),
                        "{bytes:x?}: {result:?}"
                    );
                }
            }
        }
    }
}
