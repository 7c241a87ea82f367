//! From an interrupted thread's registers up its stack, frame by frame.
//!
//! Owns: [`Walk`]: which function each frame belongs to, where its caller's frame begins, and what the function says of
//! exceptions. Leaves to its user: what a frame means for what is to be done.
//!
//! **Signal context:** yes, this is what it is for. H2 of `handler` holds of everything here: no allocation, lock, panic,
//! thread-local. Arithmetic wraps or is checked; slices are taken by `get`. The stack is read between the two bounds
//! given, word by word, and nowhere else.
//!
//! - I1. Each frame's CFA is higher than the last one's, so a walk ends.
//! - I2. A frame saves registers inside itself: from its red zone to its CFA. A register that is said to be saved elsewhere
//!   becomes unknown, and only who needs it is lost. (GCC says so of the frame pointer, behind the `leave` of a function
//!   that had realigned its frame: the unwinder of the C library then skips frames.)
//! - I3. On a return instruction nothing of the frame is left but the return address, whatever its description says.
//!   (Compilers used to leave epilogues undescribed.)
//!
//! A caller's program counter is a return address: it may lie behind the end of its function, when the call was the last
//! thing in it. So what is looked up is the byte before it, except for the interrupted frame and the one that a signal
//! frame interrupted. ([`Frame::place`] against [`Frame::pc`].)

#![allow(unsafe_code)]

use std::ops::Range;

use gimli::{CfaRule, RegisterRule, UnwindContext, UnwindExpression};

use super::image::Image;
use crate::platform::arch::{Registers, dwarf};

mod description;
mod expression;
#[cfg(test)]
mod tests;

use description::{Description, Small, bytes_of};
pub(crate) use description::{function_around, narrowed};

const WORD: u64 = size_of::<usize>() as u64;

/// One frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) pc: usize,
    /// An address in the instruction that is being executed: `pc`, or the byte before a return address.
    pub(crate) place: usize,
    /// The stack pointer in the caller, before its call: that of the next frame.
    pub(crate) cfa: u64,
    /// The part of the function that is described together (a compiler may have split it).
    pub(crate) function: Range<usize>,
    pub(crate) personality: Option<usize>,
    pub(crate) lsda: Option<usize>,
    pub(crate) image: Image,
}

/// Why a walk went no further, and the program counter of the frame that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It lies in the code of no image: generated code, a broken stack.
    NoImage { pc: usize },
    /// Its image does not describe it.
    NoDescription { pc: usize },
    /// It is described in a way that this walker does not follow.
    TooComplex { pc: usize },
    /// Its caller's frame is not on the stretch of stack that may be read, does not lie higher, or there is none.
    OffTheStack { pc: usize },
}

impl Lost {
    pub(crate) fn pc(self) -> usize {
        match self {
            Self::NoImage { pc }
            | Self::NoDescription { pc }
            | Self::TooComplex { pc }
            | Self::OffTheStack { pc } => pc,
        }
    }
}

/// A walk from the inside to the outside. Some 4 KiB.
pub(crate) struct Walk<F> {
    registers: Registers,
    stack: Range<u64>,
    find: F,
    /// Whether `registers` hold a program counter that is no return address.
    exact: bool,
    /// The last frame's CFA (I1).
    cfa: Option<u64>,
    lost: Option<Lost>,
    room: UnwindContext<usize, Small>,
}

impl<F: Fn(usize) -> Option<Image>> Walk<F> {
    /// `stack` is what may be read: from the interrupted stack pointer (and the red zone below it) to the highest CFA that
    /// a frame may have.
    ///
    /// # Safety
    /// 1. The stack range is mapped, and no thread writes it during the walk.
    /// 2. What `find` gives stays loaded during the walk.
    pub(crate) unsafe fn new(registers: Registers, stack: Range<u64>, find: F) -> Self {
        Self {
            registers,
            stack,
            find,
            exact: true,
            cfa: None,
            lost: None,
            room: UnwindContext::new_in(),
        }
    }

    /// The next frame. Once lost, a walk stays lost.
    pub(crate) fn next(&mut self) -> Result<Frame, Lost> {
        if let Some(lost) = self.lost {
            return Err(lost);
        }
        self.step().inspect_err(|lost| self.lost = Some(*lost))
    }

    /// Where the last frame returns to.
    pub(crate) fn return_address(&self) -> Option<usize> {
        self.registers.pc().map(|pc| pc as usize)
    }

    fn step(&mut self) -> Result<Frame, Lost> {
        let pc = self.registers.pc().unwrap_or(0) as usize;
        let sp = self.registers.get(dwarf::SP).ok_or(Lost::OffTheStack { pc })?;
        let place = if self.exact { pc } else { pc.wrapping_sub(1) };
        let image = (self.find)(place).filter(|image| image.has_code(place));
        let image = image.ok_or(Lost::NoImage { pc })?;
        let description = Description::of(&image, place).ok_or(Lost::NoDescription { pc })?;
        let personality = description.personality(&image);
        let lsda = description.lsda(&image);
        let (Ok(personality), Ok(lsda)) = (personality, lsda) else {
            return Err(Lost::TooComplex { pc });
        };
        let cfa = self.climb(&description, &image, sp, place, pc)?;
        self.exact = description.is_signal_frame();
        Ok(Frame {
            pc,
            place,
            cfa,
            function: description.function(),
            personality,
            lsda,
            image,
        })
    }

    /// Goes on to the caller's registers, and says where the frame ended.
    fn climb(
        &mut self,
        description: &Description,
        image: &Image,
        sp: u64,
        place: usize,
        pc: usize,
    ) -> Result<u64, Lost> {
        let mut own = Stack {
            from: sp.max(self.stack.start).saturating_sub(dwarf::RED_ZONE),
            to: self.stack.end,
        };
        let old = &self.registers;
        let too_complex = Lost::TooComplex { pc };
        let evaluate = |expression: UnwindExpression<usize>, first: Option<u64>, own: Stack| {
            let bytes = bytes_of(&description.section, expression)?;
            expression::value(bytes, first, old, |address| own.load(address))
        };
        let row = description.row(&mut self.room, place).ok_or(too_complex)?;
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                old.get(register.0).map(|base| base.wrapping_add_signed(*offset))
            }
            CfaRule::Expression(expression) => evaluate(*expression, None, own),
        };
        let cfa = cfa.ok_or(too_complex)?;
        let higher = self.cfa.map_or(cfa >= self.stack.start, |last| cfa > last);
        if !higher || cfa > self.stack.end || !cfa.is_multiple_of(WORD) {
            return Err(Lost::OffTheStack { pc });
        }
        let epilogue = self.exact && image.bytes_from(pc).is_some_and(dwarf::is_return);
        if epilogue && cfa != sp.wrapping_add(dwarf::RETURN_ADDRESS) {
            return Err(too_complex);
        }
        own.to = cfa;
        let mut new = *old;
        new.set(dwarf::PC, None);
        new.set(dwarf::SP, Some(cfa));
        for (register, rule) in row.registers() {
            let value = match rule {
                RegisterRule::SameValue => old.get(register.0),
                RegisterRule::Offset(offset) => own.load(cfa.wrapping_add_signed(*offset)),
                RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add_signed(*offset)),
                RegisterRule::Register(other) => old.get(other.0),
                RegisterRule::Expression(expression) => {
                    evaluate(*expression, Some(cfa), own).and_then(|address| own.load(address))
                }
                RegisterRule::ValExpression(expression) => evaluate(*expression, Some(cfa), own),
                RegisterRule::Constant(value) => Some(*value),
                _ => None,
            };
            new.set(register.0, value);
        }
        let back = new.get(description.return_column());
        new.set(dwarf::PC, back.map(dwarf::address));
        self.cfa = Some(cfa);
        self.registers = new;
        Ok(cfa)
    }
}

/// What of the stack may be read for one frame.
#[derive(Clone, Copy)]
struct Stack {
    from: u64,
    to: u64,
}

impl Stack {
    fn load(self, address: u64) -> Option<u64> {
        let last = self.to.checked_sub(WORD)?;
        if address < self.from || address > last || !address.is_multiple_of(WORD) {
            return None;
        }
        // SAFETY: inside the range that `Walk::new` was promised (1), or in the red zone below it where a description says
        // that its function has saved a register; aligned.
        Some(unsafe { (address as usize as *const u64).read_volatile() })
    }
}
