//! aarch64: the way into a region that may be left by force, and the two ways out of it.
//!
//! Owns: the trampoline, the stub that begins a forced unwinding, the walker's stack switch. Leaves to
//! `linux::forced` the decision, to `aarch64` the other registers.
//! [`enter`] blocks as what it calls does.
//!
//! **Signal context:** [`on_stack`] and the methods of [`Context`] are made for the handler; [`land`] is not for it.
//!
//! ## The trampoline
//!
//! ```text
//!   sp + 16   the caller's frame                       frame +  0   its owner's
//!        8    x30                                               8   FPCR
//!   sp -> 0   the frame   <- the anchor of the region           16   the function
//!                                                               24   its owner's
//!                                                               32   x19 .. x29
//!                                                              120   d8 .. d15 (the lower halves are all that a callee keeps)
//! ```
//!
//! A call leaves its return address in x30, so the frame of the function ends where ours begins: its CFA is the anchor. The
//! function's result passes through in x0, a word for it in x1; on the way back x1 tells whether there is a result.
//!
//! ## The unwinding stub
//!
//! ```text
//!   sp ->    0   the interrupted program counter      (described as the return address, in column 96)
//!            8   the interrupted stack pointer        (described as the CFA)
//!            16  argument
//!            24  the function to call with it, which does not return
//! ```
//!
//! The interrupted function may be a leaf that still needs its x30 as it is. So the return address has a column of its own,
//! the one that GCC reserves for that (`DWARF_ALT_FRAME_RETURN_COLUMN`). All other registers still hold what the
//! interrupted code had in them. `x86_64_forced` has the rest of the reasoning.

#![allow(unsafe_code)]

use std::arch::{asm, global_asm};
use std::mem::MaybeUninit;

use super::aarch64::Context;

global_asm!(
    ".pushsection .text.throwto_forced,\"ax\",@progbits",
    ".p2align 4",
    ".globl throwto_0_1_forced_enter",
    ".hidden throwto_0_1_forced_enter",
    ".type throwto_0_1_forced_enter,@function",
    "throwto_0_1_forced_enter:", // x0: the frame, which has the function. x1: a word for it
    ".cfi_startproc",
    "hint #34", // bti c
    "stp x0, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset x30, -8",
    "stp x19, x20, [x0, #32]",
    "stp x21, x22, [x0, #48]",
    "stp x23, x24, [x0, #64]",
    "stp x25, x26, [x0, #80]",
    "stp x27, x28, [x0, #96]",
    "str x29, [x0, #112]",
    "stp d8, d9, [x0, #120]",
    "stp d10, d11, [x0, #136]",
    "stp d12, d13, [x0, #152]",
    "stp d14, d15, [x0, #168]",
    "ldr x9, [x0, #16]",
    "blr x9",
    ".globl throwto_0_1_forced_return",
    ".hidden throwto_0_1_forced_return",
    "throwto_0_1_forced_return:",
    ".cfi_remember_state",
    "ldp x1, x30, [sp], #16", // the frame: not null
    ".cfi_def_cfa_offset 0",
    ".cfi_restore x30",
    "ret",
    ".cfi_restore_state",
    ".globl throwto_0_1_forced_escape",
    ".hidden throwto_0_1_forced_escape",
    "throwto_0_1_forced_escape:", // sp: the anchor
    "ldr x10, [sp]",
    "ldp x19, x20, [x10, #32]",
    "ldp x21, x22, [x10, #48]",
    "ldp x23, x24, [x10, #64]",
    "ldp x25, x26, [x10, #80]",
    "ldp x27, x28, [x10, #96]",
    "ldr x29, [x10, #112]",
    "ldp d8, d9, [x10, #120]",
    "ldp d10, d11, [x10, #136]",
    "ldp d12, d13, [x10, #152]",
    "ldp d14, d15, [x10, #168]",
    "ldr x9, [x10, #8]",
    "msr fpcr, x9",
    "ldp x1, x30, [sp], #16",
    ".cfi_def_cfa_offset 0",
    ".cfi_restore x30",
    "mov x1, #0",
    "ret",
    ".cfi_endproc",
    ".size throwto_0_1_forced_enter, .-throwto_0_1_forced_enter",
    //
    ".globl throwto_0_1_forced_land",
    ".hidden throwto_0_1_forced_land",
    ".type throwto_0_1_forced_land,@function",
    "throwto_0_1_forced_land:", // x0: the anchor
    ".cfi_startproc",
    "hint #34",
    "mov sp, x0",
    "b throwto_0_1_forced_escape",
    ".cfi_endproc",
    ".size throwto_0_1_forced_land, .-throwto_0_1_forced_land",
    //
    ".globl throwto_0_1_forced_unwind",
    ".hidden throwto_0_1_forced_unwind",
    ".type throwto_0_1_forced_unwind,@function",
    "throwto_0_1_forced_unwind:",
    ".cfi_startproc",
    ".cfi_signal_frame",
    ".cfi_return_column 96",
    // DW_CFA_def_cfa_expression, 3 bytes: DW_OP_breg31 (sp) + 8, DW_OP_deref
    ".cfi_escape 0x0f, 0x03, 0x8f, 0x08, 0x06",
    // DW_CFA_expression of register 96, 2 bytes: saved at DW_OP_breg31 (sp) + 0
    ".cfi_escape 0x10, 0x60, 0x02, 0x8f, 0x00",
    "ldp x0, x9, [sp, #16]",
    "blr x9",
    "brk #1",
    ".cfi_endproc",
    ".size throwto_0_1_forced_unwind, .-throwto_0_1_forced_unwind",
    //
    ".globl throwto_0_1_on_stack",
    ".hidden throwto_0_1_on_stack",
    ".type throwto_0_1_on_stack,@function",
    "throwto_0_1_on_stack:", // x0: function, x1: its argument, x2: the top of the stack
    ".cfi_startproc",
    "hint #34",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset x29, -16",
    ".cfi_offset x30, -8",
    "mov x29, sp",
    ".cfi_def_cfa x29, 16",
    "mov sp, x2",
    "mov x9, x0",
    "mov x0, x1",
    "blr x9",
    "mov sp, x29",
    "ldp x29, x30, [sp], #16",
    ".cfi_def_cfa sp, 0",
    ".cfi_restore x29",
    ".cfi_restore x30",
    "ret",
    ".cfi_endproc",
    ".size throwto_0_1_on_stack, .-throwto_0_1_on_stack",
    ".popsection",
);

/// As the C calling convention returns two words.
#[repr(C)]
struct Returned {
    word: MaybeUninit<usize>,
    /// 0 if the call was left.
    frame: usize,
}

/// What a region that may be left by force calls with its frame and a word. What does not fit a word, either way, is in the frame.
pub(crate) type Function = unsafe extern "C-unwind" fn(*mut (), MaybeUninit<usize>) -> MaybeUninit<usize>;
/// Where in the frame it is, as the trampoline has it.
pub(crate) const FUNCTION: usize = 16;
/// Where in the frame the trampoline looks for the [`controls`] if the call is left.
pub(crate) const CONTROLS: usize = 8;
/// Where in the frame the trampoline keeps what its caller has in registers, as it has it.
pub(crate) const SAVES: usize = 32;
/// How many words.
pub(crate) const SAVED: usize = 19;

unsafe extern "C-unwind" {
    fn throwto_0_1_forced_enter(frame: *mut (), word: MaybeUninit<usize>) -> Returned;
}

unsafe extern "C" {
    fn throwto_0_1_forced_land(anchor: usize) -> !;
    fn throwto_0_1_on_stack(function: unsafe extern "C" fn(*mut ()), argument: *mut (), top: *mut u8);
    safe static throwto_0_1_forced_escape: u8;
    safe static throwto_0_1_forced_return: u8;
    safe static throwto_0_1_forced_unwind: u8;
}

/// The words of the unwinding stub, above.
const STUB_WORDS: usize = 4;

/// Calls the function of `frame` with `frame` and `word`. Gives its result, or `None` if the call was left by force.
///
/// # Safety
/// 1. At [`FUNCTION`] of `frame` there is a [`Function`] that may be called with both; the word at [`CONTROLS`] and the [`SAVED`] words
///    from [`SAVES`] on are nobody else's.
/// 2. Whoever leaves by the anchor does so while the call lasts, on its thread, and only past frames that may be dropped, and has written
///    [`controls`] to that word.
#[inline(always)]
pub(crate) unsafe fn enter(frame: *mut (), word: MaybeUninit<usize>) -> Option<MaybeUninit<usize>> {
    // SAFETY: by 1; the stub follows the C calling convention and describes its frame. By 2 it returns once.
    let Returned { word, frame } = unsafe { throwto_0_1_forced_enter(frame, word) };
    (frame != 0).then_some(word)
}

/// The floating-point control word of the calling thread.
pub(crate) fn controls() -> usize {
    let word;
    // SAFETY: reads a register that every program may read.
    unsafe { asm!("mrs {}, fpcr", out(reg) word, options(nomem, nostack, preserves_flags)) };
    word
}

/// The stack pointer. The address of a variable is elsewhere, where a sanitizer has moved that.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let sp;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

/// Where the function that [`enter`] calls returns to. The frame that does so ends at the anchor.
pub(crate) fn return_address() -> usize {
    (&raw const throwto_0_1_forced_return) as usize
}

/// The frame of the region with this anchor.
///
/// # Safety
/// It is the anchor of a call that lasts.
pub(crate) unsafe fn frame_at(anchor: usize) -> usize {
    // SAFETY: by contract the trampoline has put it there.
    unsafe { (anchor as *const usize).read() }
}

/// Leaves the region with this anchor, from code that it has called.
///
/// # Safety
/// As 2 of [`enter`].
pub(crate) unsafe fn land(anchor: usize) -> ! {
    // SAFETY: by contract.
    unsafe { throwto_0_1_forced_land(anchor) }
}

/// Calls `function(argument)` on the stack that ends at `top`.
///
/// # Safety
/// 1. `function` may be called with `argument`, and does not unwind.
/// 2. Below `top`, 16-byte aligned, there is memory enough that nobody else uses.
pub(crate) unsafe fn on_stack(function: unsafe extern "C" fn(*mut ()), argument: *mut (), top: *mut u8) {
    // SAFETY: by contract; the stub keeps the old stack pointer in a callee-saved register.
    unsafe { throwto_0_1_on_stack(function, argument, top) }
}

impl Context<'_> {
    /// Lets the interrupted thread go on at the trampoline with this anchor, as if its call had returned.
    pub(crate) fn escape_to(&mut self, anchor: usize) {
        self.go_on_at((&raw const throwto_0_1_forced_escape) as u64, anchor as u64);
    }

    /// Lets the interrupted thread go on with `begin(argument)`, in a frame from which an unwinder finds back to where it was.
    ///
    /// # Safety
    /// Below the interrupted stack pointer there is stack enough.
    pub(crate) unsafe fn unwind_by(
        &mut self,
        begin: unsafe extern "C-unwind" fn(*const ()) -> !,
        argument: *const (),
    ) {
        let (pc, sp) = (self.pc() as u64, self.sp());
        let stub = (sp - (STUB_WORDS * size_of::<u64>()) as u64) & !15;
        let words = [pc, sp, argument as u64, begin as *const () as u64];
        // SAFETY: below the stack pointer nothing is kept, and by contract the stack reaches that far; 16-byte aligned.
        unsafe { (stub as *mut [u64; STUB_WORDS]).write(words) };
        self.go_on_at((&raw const throwto_0_1_forced_unwind) as u64, stub);
    }
}

/// Whether the calling thread runs under a shadow stack (GCS), which no frame may be dropped from behind its back.
pub(crate) fn has_shadow_stack() -> bool {
    const PR_GET_SHADOW_STACK_STATUS: libc::c_int = 74;
    let mut status = 0_u64;
    // SAFETY: a query that writes one word; kernels that do not know it say so.
    let answered = unsafe { libc::prctl(PR_GET_SHADOW_STACK_STATUS, &raw mut status, 0, 0, 0) };
    answered == 0 && status & 1 != 0
}

// What a test needs that has to know every register: `lost` gives 0 if all that a callee keeps, set to 1, 2 .. before the call of
// its frame, is there behind it and the call was left; `scrambles` is a function to be called, which changes them all and leaves.
#[cfg(test)]
global_asm!(
    ".globl throwto_0_1_forced_lost",
    "throwto_0_1_forced_lost:", // x0: the frame
    "stp x29, x30, [sp, #-160]!",
    "stp x19, x20, [sp, #16]",
    "stp x21, x22, [sp, #32]",
    "stp x23, x24, [sp, #48]",
    "stp x25, x26, [sp, #64]",
    "stp x27, x28, [sp, #80]",
    "stp d8, d9, [sp, #96]",
    "stp d10, d11, [sp, #112]",
    "stp d12, d13, [sp, #128]",
    "stp d14, d15, [sp, #144]",
    "mov x19, #1",
    "mov x20, #2",
    "mov x21, #3",
    "mov x22, #4",
    "mov x23, #5",
    "mov x24, #6",
    "mov x25, #7",
    "mov x26, #8",
    "mov x27, #9",
    "mov x28, #10",
    "mov x29, #11",
    "fmov d8, x19",
    "fmov d9, x20",
    "fmov d10, x21",
    "fmov d11, x22",
    "fmov d12, x23",
    "fmov d13, x24",
    "fmov d14, x25",
    "fmov d15, x26",
    "bl throwto_0_1_forced_enter",
    "mov x0, x1",
    "sub x19, x19, #1",
    "orr x0, x0, x19",
    "sub x20, x20, #2",
    "orr x0, x0, x20",
    "sub x21, x21, #3",
    "orr x0, x0, x21",
    "sub x22, x22, #4",
    "orr x0, x0, x22",
    "sub x23, x23, #5",
    "orr x0, x0, x23",
    "sub x24, x24, #6",
    "orr x0, x0, x24",
    "sub x25, x25, #7",
    "orr x0, x0, x25",
    "sub x26, x26, #8",
    "orr x0, x0, x26",
    "sub x27, x27, #9",
    "orr x0, x0, x27",
    "sub x28, x28, #10",
    "orr x0, x0, x28",
    "sub x29, x29, #11",
    "orr x0, x0, x29",
    "fmov x9, d8",
    "sub x9, x9, #1",
    "orr x0, x0, x9",
    "fmov x9, d9",
    "sub x9, x9, #2",
    "orr x0, x0, x9",
    "fmov x9, d10",
    "sub x9, x9, #3",
    "orr x0, x0, x9",
    "fmov x9, d11",
    "sub x9, x9, #4",
    "orr x0, x0, x9",
    "fmov x9, d12",
    "sub x9, x9, #5",
    "orr x0, x0, x9",
    "fmov x9, d13",
    "sub x9, x9, #6",
    "orr x0, x0, x9",
    "fmov x9, d14",
    "sub x9, x9, #7",
    "orr x0, x0, x9",
    "fmov x9, d15",
    "sub x9, x9, #8",
    "orr x0, x0, x9",
    "ldp x19, x20, [sp, #16]",
    "ldp x21, x22, [sp, #32]",
    "ldp x23, x24, [sp, #48]",
    "ldp x25, x26, [sp, #64]",
    "ldp x27, x28, [sp, #80]",
    "ldp d8, d9, [sp, #96]",
    "ldp d10, d11, [sp, #112]",
    "ldp d12, d13, [sp, #128]",
    "ldp d14, d15, [sp, #144]",
    "ldp x29, x30, [sp], #160",
    "ret",
    ".globl throwto_0_1_forced_scrambles",
    "throwto_0_1_forced_scrambles:",
    "mov x0, sp",
    "mov x19, #-1",
    "mov x20, #-1",
    "mov x21, #-1",
    "mov x22, #-1",
    "mov x23, #-1",
    "mov x24, #-1",
    "mov x25, #-1",
    "mov x26, #-1",
    "mov x27, #-1",
    "mov x28, #-1",
    "mov x29, #-1",
    "fmov d8, x19",
    "fmov d9, x19",
    "fmov d10, x19",
    "fmov d11, x19",
    "fmov d12, x19",
    "fmov d13, x19",
    "fmov d14, x19",
    "fmov d15, x19",
    "b throwto_0_1_forced_land",
);

#[cfg(test)]
unsafe extern "C" {
    /// As the comment on the assembly says.
    pub(super) fn throwto_0_1_forced_lost(frame: *mut ()) -> usize;
}

#[cfg(test)]
unsafe extern "C-unwind" {
    /// As the comment on the assembly says.
    pub(super) fn throwto_0_1_forced_scrambles(
        frame: *mut (),
        word: MaybeUninit<usize>,
    ) -> MaybeUninit<usize>;
}
