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
//!   sp + 176   the caller's frame
//!        160   FPCR
//!         96   d8 .. d15      (the lower halves are all that a callee keeps)
//!         16   x19 .. x28
//!   sp ->  0   x29, x30       <- what `*save` gets: the anchor of the region
//! ```
//!
//! A call leaves its return address in x30, so the shim's frame ends where ours begins: its CFA is the anchor.
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

use std::arch::global_asm;

use super::aarch64::Context;

global_asm!(
    ".pushsection .text.throwto_forced,\"ax\",@progbits",
    ".p2align 4",
    ".globl throwto_0_1_forced_enter",
    ".hidden throwto_0_1_forced_enter",
    ".type throwto_0_1_forced_enter,@function",
    "throwto_0_1_forced_enter:", // x0: function, x1: its argument, x2: where the anchor goes
    ".cfi_startproc",
    "hint #34", // bti c
    "stp x29, x30, [sp, #-176]!",
    ".cfi_def_cfa_offset 176",
    ".cfi_offset x29, -176",
    ".cfi_offset x30, -168",
    "mov x29, sp",
    ".cfi_def_cfa x29, 176",
    "stp x19, x20, [sp, #16]",
    ".cfi_offset x19, -160",
    ".cfi_offset x20, -152",
    "stp x21, x22, [sp, #32]",
    ".cfi_offset x21, -144",
    ".cfi_offset x22, -136",
    "stp x23, x24, [sp, #48]",
    ".cfi_offset x23, -128",
    ".cfi_offset x24, -120",
    "stp x25, x26, [sp, #64]",
    ".cfi_offset x25, -112",
    ".cfi_offset x26, -104",
    "stp x27, x28, [sp, #80]",
    ".cfi_offset x27, -96",
    ".cfi_offset x28, -88",
    "stp d8, d9, [sp, #96]",
    ".cfi_offset d8, -80",
    ".cfi_offset d9, -72",
    "stp d10, d11, [sp, #112]",
    ".cfi_offset d10, -64",
    ".cfi_offset d11, -56",
    "stp d12, d13, [sp, #128]",
    ".cfi_offset d12, -48",
    ".cfi_offset d13, -40",
    "stp d14, d15, [sp, #144]",
    ".cfi_offset d14, -32",
    ".cfi_offset d15, -24",
    "mrs x9, fpcr",
    "str x9, [sp, #160]",
    "str x29, [x2]",
    "mov x9, x0",
    "mov x0, x1",
    "blr x9",
    "mov x0, #0",
    "2:",
    "ldp x19, x20, [sp, #16]",
    "ldp x21, x22, [sp, #32]",
    "ldp x23, x24, [sp, #48]",
    "ldp x25, x26, [sp, #64]",
    "ldp x27, x28, [sp, #80]",
    "ldp d8, d9, [sp, #96]",
    "ldp d10, d11, [sp, #112]",
    "ldp d12, d13, [sp, #128]",
    "ldp d14, d15, [sp, #144]",
    "ldp x29, x30, [sp], #176",
    ".cfi_remember_state",
    ".cfi_def_cfa sp, 0",
    ".cfi_restore x29",
    ".cfi_restore x30",
    "ret",
    ".cfi_restore_state",
    ".globl throwto_0_1_forced_escape",
    ".hidden throwto_0_1_forced_escape",
    "throwto_0_1_forced_escape:", // sp: the anchor
    "mov x29, sp",
    "ldr x9, [sp, #160]",
    "msr fpcr, x9",
    "mov x0, #1",
    "b 2b",
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

unsafe extern "C-unwind" {
    fn throwto_0_1_forced_enter(
        function: unsafe extern "C-unwind" fn(*mut ()),
        argument: *mut (),
        save: *mut usize,
    ) -> usize;
}

unsafe extern "C" {
    fn throwto_0_1_forced_land(anchor: usize) -> !;
    fn throwto_0_1_on_stack(function: unsafe extern "C" fn(*mut ()), argument: *mut (), top: *mut u8);
    safe static throwto_0_1_forced_escape: u8;
    safe static throwto_0_1_forced_unwind: u8;
}

/// The words of the unwinding stub, above.
const STUB_WORDS: usize = 4;

/// Calls `function(argument)`; the anchor is in `*save` before. Tells whether the call was left by force.
///
/// # Safety
/// 1. `function` may be called with `argument`.
/// 2. `save` may be written to.
/// 3. Whoever leaves by the anchor does so while the call lasts, on its thread, and only past frames that may be dropped.
pub(crate) unsafe fn enter(
    function: unsafe extern "C-unwind" fn(*mut ()),
    argument: *mut (),
    save: *mut usize,
) -> bool {
    // SAFETY: by 1 and 2; the stub follows the C calling convention and describes its frame. By 3 it returns once.
    unsafe { throwto_0_1_forced_enter(function, argument, save) != 0 }
}

/// Leaves the region with this anchor, from code that it has called.
///
/// # Safety
/// As 3 of [`enter`].
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
