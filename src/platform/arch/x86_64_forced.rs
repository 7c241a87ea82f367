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
//!   sp + 16   the caller's frame                       frame +  0   its owner's
//!        8    return address of `enter`                         8   MXCSR, x87 control word
//!   sp -> 0   the frame   <- the anchor of the region           16   the function
//!       - 8   return address of the function:                   24   its owner's
//!             `throwto_0_1_forced_return`                       32   rbx, rbp, r12, r13, r14, r15
//! ```
//!
//! All that a C function may expect of its callee is behind that one address: by way of the frame, which its owner has further out on the
//! stack, the callee-saved registers and the floating-point control words, by way of the stack pointer everything else. So leaving
//! takes one register. The direction flag and the x87 register stack, which the ABI wants clear and empty, are made so.
//!
//! Who returns needs nothing of that: the function has kept the registers itself. So they are stored and not loaded, and
//! to an unwinder they have the same value here as in the caller. The control words are not even stored on the way in: to Rust, which
//! calls, they are what the thread was given, and [`controls`] was asked for once. Who leaves puts them there.
//!
//! The anchor is not kept anywhere: it is where the frame ends that returns to [`return_address`], which who leaves must walk
//! up to anyway. The registers are kept although that walk recovers them as well: a function that never returns need not
//! save what it changes, and some compilers make use of that. Who leaves anything by an anchor has read the frame there, and knows that
//! it is the region's. A word for the function passes through in rsi, its result in rax; rdx tells whether there is one.
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

use std::arch::{asm, global_asm};
use std::mem::MaybeUninit;

use super::x86_64::Context;

global_asm!(
    ".pushsection .text.throwto_forced,\"ax\",@progbits",
    ".p2align 6",
    ".globl throwto_0_1_forced_enter",
    ".hidden throwto_0_1_forced_enter",
    ".type throwto_0_1_forced_enter,@function",
    "throwto_0_1_forced_enter:", // rdi: the frame, which has the function. rsi: a word for it
    ".cfi_startproc",
    "push rdi",
    ".cfi_def_cfa_offset 16",
    "mov [rdi + 32], rbx",
    "mov [rdi + 40], rbp",
    "mov [rdi + 48], r12",
    "mov [rdi + 56], r13",
    "mov [rdi + 64], r14",
    "mov [rdi + 72], r15",
    "call [rdi + 16]",
    ".globl throwto_0_1_forced_return",
    ".hidden throwto_0_1_forced_return",
    "throwto_0_1_forced_return:",
    "pop rdx", // the frame: not null
    ".cfi_def_cfa_offset 8",
    "ret",
    ".cfi_def_cfa_offset 16",
    ".globl throwto_0_1_forced_escape",
    ".hidden throwto_0_1_forced_escape",
    "throwto_0_1_forced_escape:", // rsp: the anchor
    "mov rcx, [rsp]",
    "mov rbx, [rcx + 32]",
    "mov rbp, [rcx + 40]",
    "mov r12, [rcx + 48]",
    "mov r13, [rcx + 56]",
    "mov r14, [rcx + 64]",
    "mov r15, [rcx + 72]",
    "cld",
    "fninit", // empties the register stack
    "fldcw [rcx + 12]",
    "ldmxcsr [rcx + 8]",
    "pop rdx",
    ".cfi_def_cfa_offset 8",
    "xor edx, edx",
    "ret",
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
pub(crate) const SAVED: usize = 6;

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

/// What the compiler may keep below the stack pointer of a leaf function.
const RED_ZONE: u64 = 128;
/// The words of the unwinding stub, above.
const STUB_WORDS: u64 = 4;
/// Direction, alignment check, trap.
const FLAGS_TO_CLEAR: i64 = 1 << 10 | 1 << 18 | 1 << 8;

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

/// The floating-point control words of the calling thread, as they lie in a frame.
pub(crate) fn controls() -> usize {
    let mut words = 0_usize;
    // SAFETY: stores four bytes and then two, to a place of eight.
    unsafe {
        asm!("stmxcsr [{0}]", "fnstcw [{0} + 4]", in(reg) &raw mut words, options(nostack, preserves_flags))
    };
    words
}

/// The stack pointer. The address of a variable is elsewhere, where a sanitizer has moved that.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let sp;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
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

// What a test needs that has to know every register: `lost` gives 0 if all that a callee keeps, set to 1, 2 .. before the call of
// its frame, is there behind it and the call was left; `scrambles` is a function to be called, which changes them all and leaves.
#[cfg(test)]
global_asm!(
    ".globl throwto_0_1_forced_lost",
    "throwto_0_1_forced_lost:", // rdi: the frame
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "mov ebx, 1",
    "mov ebp, 2",
    "mov r12d, 3",
    "mov r13d, 4",
    "mov r14d, 5",
    "mov r15d, 6",
    "call throwto_0_1_forced_enter",
    "mov rax, rdx",
    "sub rbx, 1",
    "or rax, rbx",
    "sub rbp, 2",
    "or rax, rbp",
    "sub r12, 3",
    "or rax, r12",
    "sub r13, 4",
    "or rax, r13",
    "sub r14, 5",
    "or rax, r14",
    "sub r15, 6",
    "or rax, r15",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".globl throwto_0_1_forced_scrambles",
    "throwto_0_1_forced_scrambles:",
    "lea rdi, [rsp + 8]",
    "mov rbx, -1",
    "mov rbp, rbx",
    "mov r12, rbx",
    "mov r13, rbx",
    "mov r14, rbx",
    "mov r15, rbx",
    "jmp throwto_0_1_forced_land",
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
