//! DWARF expressions, as far as frame descriptions use them.
//!
//! Owns: a stack machine for the operations that GCC, LLVM and the linkers write: registers with offsets, loads from the
//! stack, constants, sums, masks, shifts, comparisons. Realigned frames, the linkage table and the C library's signal
//! frame need no others. No jumps, so it ends.
//!
//! **Signal context:** yes: eight words of stack, nothing else.

use gimli::{Encoding, Expression, Format, Operation};

use super::description::Bytes;
use crate::platform::arch::Registers;

const ENCODING: Encoding = Encoding {
    format: Format::Dwarf32,
    version: 4,
    address_size: size_of::<usize>() as u8,
};

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
            Operation::RegisterOffset { register, offset, .. } => {
                registers.get(register.0)?.wrapping_add_signed(offset)
            }
            Operation::Deref {
                size: 8,
                space: false,
                ..
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
