//! aarch64: the window stub, and the registers of an interrupted context.
//!
//! Owns: assembly and register names. Leaves to `linux::handler`: what to do with them.
//! [`window`] blocks as the system call does; the rest is pure but for `code_at`, which asks the kernel.
//!
//! **Signal context:** yes: [`classify`] and [`Context`] are made for the handler.
//!
//! ## The window
//!
//! ```text
//!   begin:   ldr  w11, [word]          nothing has happened yet: a nudge here moves the program counter to `cancel`
//!            tst  w11, interest        "
//!            b.ne cancel               "
//!            svc  #0                   " (a call that is to be restarted is wound back to here, x0 as it was)
//!   end:     ret                       the result is in x0: leave it alone
//!   cancel:  mov x0, CANCELLED; ret
//! ```
//!
//! The stub touches neither the stack nor the link register, so its frame description is that of any leaf function. Only
//! its entry may be branched to through a register, and has the landing pad for that; the program counter comes to
//! `cancel` by a return from a signal, which needs none.
//!
//! ## What a call leaves behind
//!
//! x8 still holds the number: the handler needs nobody to tell it which call was interrupted ([`TELLS_NUMBER`]). x0, the
//! first argument, holds the result. x1 to x5 are as they were.

#![allow(unsafe_code)]

use std::arch::{asm, global_asm};

use super::super::Spot;

/// What [`window`] returns when a raise came before the system call: no errno has this value.
pub(crate) const CANCELLED: isize = -0x7468;

/// An interrupted context tells which call it was, surely.
pub(crate) const TELLS_NUMBER: bool = true;

global_asm!(
    ".pushsection .text.throwto_window,\"ax\",@progbits",
    ".p2align 4",
    ".globl throwto_0_1_window",
    ".hidden throwto_0_1_window",
    ".globl throwto_0_1_window_begin",
    ".hidden throwto_0_1_window_begin",
    ".globl throwto_0_1_window_end",
    ".hidden throwto_0_1_window_end",
    ".globl throwto_0_1_window_cancel",
    ".hidden throwto_0_1_window_cancel",
    ".type throwto_0_1_window,@function",
    "throwto_0_1_window:",
    ".cfi_startproc",
    "hint #34",      // bti c: a landing pad, and nothing on processors that know none
    "mov x9, x0",    // word
    "mov w10, w1",   // interest
    "mov x8, x2",    // system call number
    "mov x0, x3",    // argument 1
    "mov x1, x4",    // argument 2
    "mov x2, x5",    // argument 3
    "mov x3, x6",    // argument 4
    "mov x4, x7",    // argument 5
    "ldr x5, [sp]",  // argument 6
    "throwto_0_1_window_begin:",
    "ldr w11, [x9]",
    "tst w11, w10",
    "b.ne throwto_0_1_window_cancel",
    "svc #0",
    "throwto_0_1_window_end:",
    "ret",
    "throwto_0_1_window_cancel:",
    "mov x0, #{cancelled}",
    "ret",
    ".cfi_endproc",
    ".size throwto_0_1_window, .-throwto_0_1_window",
    ".popsection",
    cancelled = const CANCELLED,
);

/// `svc #0`.
const SVC: u32 = 0xd400_0001;
const INSTRUCTION: u64 = size_of::<u32>() as u64;

unsafe extern "C" {
    fn throwto_0_1_window(
        word: *const u32,
        interest: u32,
        number: isize,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        e: usize,
        f: usize,
    ) -> isize;
    safe static throwto_0_1_window_begin: u8;
    safe static throwto_0_1_window_end: u8;
    safe static throwto_0_1_window_cancel: u8;
}

/// Makes a system call unless `*word & interest` is set before it starts.
///
/// # Safety
/// 1. `word` is valid for the whole call.
/// 2. The arguments are what the call named `number` wants, and what they point to lives as long as the call.
pub(crate) unsafe fn window(word: *const u32, interest: u32, number: isize, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the stub reads `word` (1) and makes the call (2); it follows the C calling convention.
    unsafe { throwto_0_1_window(word, interest, number, a, b, c, d, e, f) }
}

/// Where `pc` lies with respect to the window.
pub(crate) fn classify(pc: usize) -> Spot {
    let begin = (&raw const throwto_0_1_window_begin) as usize;
    let end = (&raw const throwto_0_1_window_end) as usize;
    if pc >= begin && pc < end {
        Spot::Before
    } else if pc == end {
        Spot::After
    } else {
        Spot::Outside
    }
}

/// The registers that the handler may read, and the two that it may write.
pub(crate) struct Context<'a>(&'a mut libc::ucontext_t);

impl<'a> Context<'a> {
    /// # Safety
    /// `context` is the third argument of a signal handler that is still running, and nobody else uses it.
    pub(crate) unsafe fn of(context: *mut libc::c_void) -> Self {
        // SAFETY: the kernel wrote a ucontext_t there, and by contract it is ours alone until the handler returns.
        Self(unsafe { &mut *context.cast::<libc::ucontext_t>() })
    }

    fn x(&self, register: usize) -> u64 {
        self.0.uc_mcontext.regs[register]
    }

    pub(crate) fn pc(&self) -> usize {
        self.0.uc_mcontext.pc as usize
    }

    pub(crate) fn sp(&self) -> u64 {
        self.0.uc_mcontext.sp
    }

    /// The registers by DWARF number, for a walk from here.
    #[cfg(throwto_forced)]
    pub(crate) fn registers(&self) -> super::Registers {
        use super::dwarf::{PC, SP};
        let mut registers = super::Registers::all([0; super::dwarf::REGISTERS]);
        for (number, value) in (0..).zip(self.0.uc_mcontext.regs) {
            registers.set(number, Some(value));
        }
        registers.set(SP, Some(self.sp()));
        registers.set(PC, Some(self.pc() as u64));
        registers
    }

    /// The alternate stack that the thread has, and will have when the handler returns.
    #[cfg(throwto_forced)]
    pub(crate) fn alternate_stack(&mut self) -> &mut libc::stack_t {
        &mut self.0.uc_stack
    }

    /// Lets the interrupted thread go on at `pc`, with this stack pointer, and no mark of a branch that wants a landing pad.
    #[cfg(throwto_forced)]
    pub(super) fn go_on_at(&mut self, pc: u64, sp: u64) {
        const BRANCH_TYPE: u64 = 0b11 << 10;
        self.0.uc_mcontext.pc = pc;
        self.0.uc_mcontext.sp = sp;
        self.0.uc_mcontext.pstate &= !BRANCH_TYPE;
    }

    /// Sends the interrupted thread to the window's `cancel` label.
    pub(crate) fn cancel_window(&mut self) {
        self.0.uc_mcontext.pc = (&raw const throwto_0_1_window_cancel) as u64;
    }

    /// x0 to x5; behind a call the first one is its result.
    pub(crate) fn syscall_args(&self) -> [u64; 6] {
        std::array::from_fn(|register| self.x(register))
    }

    /// Whether the thread stands right behind a system call that the kernel has just given the result `-EINTR`: x0 is
    /// `-EINTR`, and the word before is `svc #0`. A jump to behind an `svc` with that very value in x0 would look the
    /// same; then x8 must happen to hold the number of a call that may fail, for anything to come of it.
    pub(crate) fn after_interrupted_call(&self) -> bool {
        self.x(0) as i64 == -i64::from(libc::EINTR)
            && code_at(self.0.uc_mcontext.pc.wrapping_sub(INSTRUCTION)) == Some(SVC)
    }

    /// Whether the thread stands right before a system call.
    pub(crate) fn before_call(&self) -> bool {
        code_at(self.0.uc_mcontext.pc) == Some(SVC)
    }

    /// The number of the call it stands before.
    pub(crate) fn number_to_call(&self) -> i64 {
        self.x(8) as i64
    }

    /// Goes behind the call it stands before, as if the call had been made and had given `result`.
    pub(crate) fn skip_call(&mut self, result: i64) {
        self.0.uc_mcontext.pc += INSTRUCTION;
        self.replace_result(result);
    }

    /// The number of the call it stands behind.
    pub(crate) fn syscall_number(&self) -> Option<i64> {
        Some(self.x(8) as i64)
    }

    pub(crate) fn replace_result(&mut self, result: i64) {
        self.0.uc_mcontext.regs[0] = result as u64;
    }

    /// Blocks `signal` in the interrupted context: it stays blocked until the code that put this context on the stack
    /// restores an older mask.
    pub(crate) fn block(&mut self, signal: libc::c_int) {
        // SAFETY: the mask is part of the context, which is ours.
        unsafe { libc::sigaddset(&raw mut self.0.uc_sigmask, signal) };
    }
}

/// The instruction at `address`, if it can be read. The word before a program counter may lie on a page that is not
/// there, since nothing but its own value tells that it was executed; and code may be executable only, which kernels
/// grant on this architecture. So the kernel is asked first: `rt_sigprocmask` without a known `how` looks at a set and
/// refuses it (EINVAL), or cannot look at it (EFAULT). It costs one quick system call, in the handler only.
fn code_at(address: u64) -> Option<u32> {
    const NO_HOW: libc::c_int = -1;
    const SET: usize = 8;
    if !address.is_multiple_of(INSTRUCTION) {
        return None;
    }
    // Eight aligned bytes lie on one page, and the word is one half of them.
    let set = address & !(SET as u64 - 1);
    let answer: i64;
    // Not through `window`: a nudge on top of this would take the thread for one that is about to block.
    // SAFETY: the kernel checks the address that it reads, and changes nothing for an unknown `how`.
    unsafe {
        asm!(
            "svc #0",
            in("x8") libc::SYS_rt_sigprocmask,
            inlateout("x0") i64::from(NO_HOW) => answer,
            in("x1") set,
            in("x2") 0,
            in("x3") SET,
            options(nostack),
        );
    }
    if answer != -i64::from(libc::EINVAL) {
        return None;
    }
    // SAFETY: the kernel has just read these bytes, and code that a thread is executing is not unmapped under it.
    Some(unsafe { (address as *const u32).read_volatile() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_window_is_classified() {
        let begin = (&raw const throwto_0_1_window_begin) as usize;
        let end = (&raw const throwto_0_1_window_end) as usize;
        let cancel = (&raw const throwto_0_1_window_cancel) as usize;
        assert!(begin < end && end < cancel);
        let start = throwto_0_1_window as *const () as usize;
        for pc in start - 16..cancel + 16 {
            let expected = match pc {
                _ if pc < begin => Spot::Outside,
                _ if pc < end => Spot::Before,
                _ if pc == end => Spot::After,
                _ => Spot::Outside,
            };
            assert_eq!(classify(pc), expected, "{pc:#x}");
        }
    }

    const NOP: u32 = 0xd503_201f;

    fn at(code: &[u32], index: usize, x0: i64) -> libc::ucontext_t {
        // SAFETY: plain data, for which all zero is a value.
        let mut context: libc::ucontext_t = unsafe { std::mem::zeroed() };
        context.uc_mcontext.pc = &raw const code[index] as u64;
        context.uc_mcontext.regs[0] = x0 as u64;
        context.uc_mcontext.regs[8] = libc::SYS_read as u64;
        context
    }

    #[test]
    fn only_minus_eintr_behind_an_svc_is_an_interrupted_call() {
        let eintr = -i64::from(libc::EINTR);
        let code = [NOP, SVC, NOP, NOP];
        for (index, x0, behind, before) in [
            (2, eintr, true, false),
            (2, 0, false, false),
            (2, i64::from(eintr as u32), false, false),
            (3, eintr, false, false),
            (1, eintr, false, true),
            (1, 7, false, true),
        ] {
            let mut raw = at(&code, index, x0);
            let context = Context(&mut raw);
            let seen = (context.after_interrupted_call(), context.before_call());
            assert_eq!(seen, (behind, before), "{index} {x0}");
            assert_eq!(context.syscall_number(), Some(libc::SYS_read));
        }
    }

    #[test]
    fn a_call_is_skipped_by_one_instruction() {
        let code = [SVC, NOP];
        let mut raw = at(&code, 0, 7);
        Context(&mut raw).skip_call(-125);
        assert_eq!(raw.uc_mcontext.pc, &raw const code[1] as u64);
        assert_eq!(raw.uc_mcontext.regs[0] as i64, -125);
    }

    #[test]
    fn code_that_cannot_be_read_is_no_call_and_no_fault() {
        let code = [SVC];
        let good = &raw const code[0] as u64;
        assert_eq!(code_at(good), Some(SVC));
        for address in [0, 4, good + 1, good + 2, u64::MAX - 3, 1 << 60] {
            assert_eq!(code_at(address), None, "{address:#x}");
        }
    }
}
