//! x86-64: the way into a region that may be left by force, and the two ways out of it.
//!
//! Owns: the trampoline, the stub that begins a forced unwinding, the walker's stack switch. Leaves to
//! `linux::forced` the decision, to `x86_64` the other registers.
//! [`enter`] blocks as what it calls does.
//!
//! **Signal context:** [`on_stack`] and the methods of [`Context`] are made for the handler; [`land`] is not for it.
//!
//! ## The trampoline
//!
//! ```text
//!            rbp + 8   return address of `enter`
//!   rbp ->   rbp       the caller's rbp
//!            rbp - 8   rbx, r12, r13, r14, r15
//!            ..        8 bytes: MXCSR, x87 control word
//!   sp  ->   rbp - 48  <- what `*save` gets: the anchor of the region
//!            sp  - 8   return address of the shim
//! ```
//!
//! All that a C function may expect of its callee is behind that one address: the callee-saved registers, the floating-point
//! control words, and by way of the stack pointer everything else. So leaving takes one register, and nothing has to be
//! copied on entry. The direction flag and the x87 register stack, which the ABI wants clear and empty, are made so.
//!
//! ## The unwinding stub
//!
//! The handler puts the interrupted thread on it, below its red zone, as if a signal handler without a kernel frame ran there:
//!
//! ```text
//!   sp ->    0   the interrupted program counter      (described as the return address)
//!            8   the interrupted stack pointer        (described as the CFA)
//!            16  argument
//!            24  the function to call with it, which does not return
//! ```
//!
//! All other registers still hold what the interrupted code had in them, which is what "same value", the default rule of the
//! frame description, says. `.cfi_signal_frame` tells unwinders that the return address is an instruction to be executed next
//! and not the one behind a call.
//!
//! After corosensei's `x86_64.rs` (a return point found from a stack pointer alone) and glibc's `__restore_rt` (the description).

#![allow(unsafe_code)]

use std::arch::global_asm;

use super::x86_64::Context;

global_asm!(
    ".pushsection .text.throwto_forced,\"ax\",@progbits",
    ".p2align 4",
    ".globl throwto_0_1_forced_enter",
    ".hidden throwto_0_1_forced_enter",
    ".type throwto_0_1_forced_enter,@function",
    "throwto_0_1_forced_enter:", // rdi: function, rsi: its argument, rdx: where the anchor goes
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "push rbx",
    ".cfi_offset rbx, -24",
    "push r12",
    ".cfi_offset r12, -32",
    "push r13",
    ".cfi_offset r13, -40",
    "push r14",
    ".cfi_offset r14, -48",
    "push r15",
    ".cfi_offset r15, -56",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "mov [rdx], rsp",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "xor eax, eax",
    "2:",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    ".cfi_remember_state",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_restore_state",
    ".globl throwto_0_1_forced_escape",
    ".hidden throwto_0_1_forced_escape",
    "throwto_0_1_forced_escape:", // rsp: the anchor
    "lea rbp, [rsp + 48]",
    "cld",
    "fninit", // empties the register stack
    "fldcw [rsp + 4]",
    "ldmxcsr [rsp]",
    "mov eax, 1",
    "jmp 2b",
    ".cfi_endproc",
    ".size throwto_0_1_forced_enter, .-throwto_0_1_forced_enter",
    //
    ".globl throwto_0_1_forced_land",
    ".hidden throwto_0_1_forced_land",
    ".type throwto_0_1_forced_land,@function",
    "throwto_0_1_forced_land:", // rdi: the anchor
    ".cfi_startproc",
    "mov rsp, rdi",
    "jmp throwto_0_1_forced_escape",
    ".cfi_endproc",
    ".size throwto_0_1_forced_land, .-throwto_0_1_forced_land",
    //
    ".globl throwto_0_1_forced_unwind",
    ".hidden throwto_0_1_forced_unwind",
    ".type throwto_0_1_forced_unwind,@function",
    "throwto_0_1_forced_unwind:",
    ".cfi_startproc",
    ".cfi_signal_frame",
    // DW_CFA_def_cfa_expression, 3 bytes: DW_OP_breg7 (rsp) + 8, DW_OP_deref
    ".cfi_escape 0x0f, 0x03, 0x77, 0x08, 0x06",
    // DW_CFA_expression of register 16 (rip), 2 bytes: saved at DW_OP_breg7 (rsp) + 0
    ".cfi_escape 0x10, 0x10, 0x02, 0x77, 0x00",
    "mov rdi, [rsp + 16]",
    "call [rsp + 24]",
    "ud2",
    ".cfi_endproc",
    ".size throwto_0_1_forced_unwind, .-throwto_0_1_forced_unwind",
    //
    ".globl throwto_0_1_on_stack",
    ".hidden throwto_0_1_on_stack",
    ".type throwto_0_1_on_stack,@function",
    "throwto_0_1_on_stack:", // rdi: function, rsi: its argument, rdx: the top of the stack
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "mov rsp, rdx",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "mov rsp, rbp",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
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

/// What the compiler may keep below the stack pointer of a leaf function.
const RED_ZONE: u64 = 128;
/// The words of the unwinding stub, above.
const STUB_WORDS: u64 = 4;
/// Direction, alignment check, trap.
const FLAGS_TO_CLEAR: i64 = 1 << 10 | 1 << 18 | 1 << 8;

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
        self.set(libc::REG_RIP, (&raw const throwto_0_1_forced_escape) as i64);
        self.set(libc::REG_RSP, anchor as i64);
        let flags = self.get(libc::REG_EFL) as i64 & !FLAGS_TO_CLEAR;
        self.set(libc::REG_EFL, flags);
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
        let (pc, sp) = (self.get(libc::REG_RIP), self.get(libc::REG_RSP));
        let stub = (sp - RED_ZONE - STUB_WORDS * 8) & !15;
        let words = [pc, sp, argument as u64, begin as *const () as u64];
        // SAFETY: below the red zone nothing is kept, and by contract the stack reaches that far; 16-byte aligned.
        unsafe { (stub as *mut [u64; STUB_WORDS as usize]).write(words) };
        self.set(libc::REG_RIP, (&raw const throwto_0_1_forced_unwind) as i64);
        self.set(libc::REG_RSP, stub as i64);
        let flags = self.get(libc::REG_EFL) as i64 & !FLAGS_TO_CLEAR;
        self.set(libc::REG_EFL, flags);
    }
}

/// Whether the calling thread runs under a shadow stack, which no frame may be dropped from behind its back.
pub(crate) fn has_shadow_stack() -> bool {
    const ARCH_SHSTK_STATUS: libc::c_int = 0x5005;
    let mut features = 0_u64;
    // SAFETY: a query that writes one word; kernels that do not know it say so.
    let answered = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SHSTK_STATUS, &raw mut features) };
    answered == 0 && features & 1 != 0
}
