//! x86-64: the window stub, and the registers of an interrupted context.
//!
//! Owns: assembly and register names. Leaves to `linux::handler`: what to do with them.
//! [`window`] blocks as the system call does; the rest is pure.
//!
//! **Signal context:** yes: [`classify`], [`Context`] and [`decode_number`] are made for the handler.
//!
//! ## The window
//!
//! ```text
//!   begin:   test [word], interest     nothing has happened yet: a nudge here moves the program counter to `cancel`
//!            jnz  cancel               "
//!            syscall                   " (a call that is to be restarted is wound back to here)
//!   end:     ret                       the result is in rax: leave it alone
//!   cancel:  mov rax, CANCELLED; ret
//! ```
//!
//! The stub uses no stack but its return address, so its frame description is that of any leaf function.
//! After musl's `syscall_cp.s`, whose three labels these are; the word here is tested under a mask that the caller
//! chooses, so that a masked thread may pass.

#![allow(unsafe_code)]

use std::arch::{asm, global_asm};

use super::super::Spot;

/// What [`window`] returns when a raise came before the system call: no errno has this value.
pub(crate) const CANCELLED: isize = -0x7468;

/// An interrupted context does not tell which call it was: the number's register holds the result.
pub(crate) const TELLS_NUMBER: bool = false;

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
    "mov r11, rdi",         // word
    "mov eax, esi",         // interest, until ecx is free
    "mov rdi, rcx",         // argument 1
    "mov ecx, eax",         // interest
    "mov rax, rdx",         // system call number
    "mov rsi, r8",          // argument 2
    "mov rdx, r9",          // argument 3
    "mov r10, [rsp + 8]",   // argument 4
    "mov r8, [rsp + 16]",   // argument 5
    "mov r9, [rsp + 24]",   // argument 6
    "throwto_0_1_window_begin:",
    "test dword ptr [r11], ecx",
    "jnz throwto_0_1_window_cancel",
    "syscall",
    "throwto_0_1_window_end:",
    "ret",
    "throwto_0_1_window_cancel:",
    "mov rax, {cancelled}",
    "ret",
    ".cfi_endproc",
    ".size throwto_0_1_window, .-throwto_0_1_window",
    ".popsection",
    cancelled = const CANCELLED,
);

/// The instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

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

/// Interrupted code may have asked for alignment checks (the AC flag), and the kernel leaves them on for its handlers.
fn allow_unaligned() {
    // SAFETY: clears that one flag, which no code of ours relies on. It is set again with the interrupted context.
    unsafe { asm!("pushfq", "and dword ptr [rsp], 0xfffbffff", "popfq") };
}

/// The registers that the handler may read, and the two that it may write.
pub(crate) struct Context<'a>(&'a mut libc::ucontext_t);

impl<'a> Context<'a> {
    /// # Safety
    /// `context` is the third argument of a signal handler that is still running, and nobody else uses it.
    pub(crate) unsafe fn of(context: *mut libc::c_void) -> Self {
        allow_unaligned();
        // SAFETY: the kernel wrote a ucontext_t there, and by contract it is ours alone until the handler returns.
        Self(unsafe { &mut *context.cast::<libc::ucontext_t>() })
    }

    pub(super) fn get(&self, register: libc::c_int) -> u64 {
        self.0.uc_mcontext.gregs[register as usize] as u64
    }

    pub(super) fn set(&mut self, register: libc::c_int, value: i64) {
        self.0.uc_mcontext.gregs[register as usize] = value;
    }

    pub(crate) fn pc(&self) -> usize {
        self.get(libc::REG_RIP) as usize
    }

    pub(crate) fn sp(&self) -> u64 {
        self.get(libc::REG_RSP)
    }

    /// The registers by DWARF number, for a walk from here.
    pub(crate) fn registers(&self) -> super::Registers {
        super::Registers::all(super::dwarf::CONTEXT_ORDER.map(|register| self.get(register)))
    }

    /// Sends the interrupted thread to the window's `cancel` label.
    pub(crate) fn cancel_window(&mut self) {
        self.set(libc::REG_RIP, (&raw const throwto_0_1_window_cancel) as i64);
    }

    pub(crate) fn syscall_args(&self) -> [u64; 6] {
        [
            libc::REG_RDI,
            libc::REG_RSI,
            libc::REG_RDX,
            libc::REG_R10,
            libc::REG_R8,
            libc::REG_R9,
        ]
        .map(|r| self.get(r))
    }

    /// Whether the thread stands right behind a system call that the kernel has just given the result `-EINTR`:
    /// rcx == rip (the instruction leaves the return address in rcx), rax == -EINTR, and the bytes `0f 05` before.
    /// The two registers are compared first: only then is it certain that rip lies behind readable code.
    pub(crate) fn after_interrupted_call(&self) -> bool {
        let pc = self.get(libc::REG_RIP);
        if self.get(libc::REG_RAX) as i64 != -i64::from(libc::EINTR) || self.get(libc::REG_RCX) != pc {
            return false;
        }
        code_before::<2>(pc as usize) == SYSCALL
    }

    /// Whether the thread stands right before a system call.
    pub(crate) fn before_call(&self) -> bool {
        let pc = self.get(libc::REG_RIP) as *const [u8; 2];
        // SAFETY: the thread is about to execute the instruction at its program counter, whose page is therefore mapped
        // and, where code is readable at all, readable; a one-byte instruction at the very end of a mapping is the one
        // exception, and no function ends in a byte after which control may return there.
        unsafe { pc.read_volatile() == SYSCALL }
    }

    /// The number of the call it stands before.
    pub(crate) fn number_to_call(&self) -> i64 {
        self.get(libc::REG_RAX) as i64
    }

    /// Goes behind the call it stands before, as if the call had been made and had given `result`.
    pub(crate) fn skip_call(&mut self, result: i64) {
        let behind = self.get(libc::REG_RIP) as i64 + SYSCALL.len() as i64;
        self.set(libc::REG_RIP, behind);
        self.set(libc::REG_RCX, behind);
        self.replace_result(result);
    }

    /// The number of the call it stands behind, where the registers or the code tell it.
    pub(crate) fn syscall_number(&self) -> Option<i64> {
        super::x86_64_number::decode_number(&code_before::<18>(self.pc())[..16])
    }

    pub(crate) fn replace_result(&mut self, result: i64) {
        self.set(libc::REG_RAX, result);
    }

    /// Blocks `signal` in the interrupted context: it stays blocked until the code that put this context on the stack
    /// restores an older mask.
    pub(crate) fn block(&mut self, signal: libc::c_int) {
        // SAFETY: the mask is part of the context, which is ours.
        unsafe { libc::sigaddset(&raw mut self.0.uc_sigmask, signal) };
    }

    /// The alternate stack that the thread has, and will have when the handler returns. The kernel takes no new one from
    /// a handler that runs on the old.
    pub(crate) fn alternate_stack(&mut self) -> &mut libc::stack_t {
        &mut self.0.uc_stack
    }
}

/// The `N` bytes before `pc`.
fn code_before<const N: usize>(pc: usize) -> [u8; N] {
    let start = (pc - N) as *const [u8; N];
    // SAFETY: `pc` is the return address of a system call, so the two bytes before it were executed. Code pages begin
    // with headers or padding; the longest look back, 18 bytes, could leave the mapping only if the call stood at its
    // very start, which no function prologue allows. Reading code as bytes has no alignment to keep.
    unsafe { start.read_volatile() }
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
}
