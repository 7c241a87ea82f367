//! Steps of one's own thread: with the processor's trap flag set, SIGTRAP comes behind each instruction.

use std::arch::asm;

/// The flag.
const TRAP: i64 = 0x100;

/// A handler of SIGTRAP.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t);

/// Has `handler` called behind each step.
pub fn each_step(handler: Handler) {
    // SAFETY: all zero is an action with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler has the signature that SA_SIGINFO wants.
    let installed = unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
}

#[inline(always)]
pub fn steps_begin() {
    // SAFETY: sets one flag of the processor, which traps into the handler.
    unsafe { asm!("pushfq", "or dword ptr [rsp], 0x100", "popfq") };
}

#[inline(always)]
pub fn steps_end() {
    // SAFETY: as above.
    unsafe { asm!("pushfq", "and dword ptr [rsp], 0xfffffeff", "popfq") };
}

/// For the handler: it is not called again in these steps.
///
/// # Safety
/// `context` is the handler's own.
pub unsafe fn no_more_steps(context: *mut libc::ucontext_t) {
    // SAFETY: by contract; the kernel reads it when the handler returns.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP };
}
