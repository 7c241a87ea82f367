//! x86-64: what a frame description needs to know of the registers.
//!
//! Owns: DWARF numbers, after the System V ABI's figure "DWARF Register Number Mapping".
//!
//! **Signal context:** yes: constants, and a look at two bytes.

/// General registers, and the return address's column behind them.
pub(crate) const REGISTERS: usize = 17;
/// The column of the program counter: here the return address has a column of its own.
pub(crate) const PC: u16 = 16;
pub(crate) const SP: u16 = 7;
/// What lies below the stack pointer and belongs to the frame: a leaf saves registers there, and behind the `pop`s of an
/// epilogue the description still finds them there. The kernel keeps clear of it.
pub(crate) const RED_ZONE: u64 = 128;
/// What a call leaves on the stack.
pub(crate) const RETURN_ADDRESS: u64 = 8;
/// More register rules than one row of a description has: the signal frame of the C library has one for each.
pub(crate) const RULES: usize = REGISTERS + 3;

/// Whether `code` begins with a return: `ret`, or `rep ret` as older compilers write it.
pub(crate) fn is_return(code: &[u8]) -> bool {
    matches!(code, [0xc3, ..] | [0xf3, 0xc3, ..])
}

/// A return address is a plain one.
pub(crate) fn address(plain: u64) -> u64 {
    plain
}

/// Where each stands in an interrupted context.
pub(super) const CONTEXT_ORDER: [libc::c_int; REGISTERS] = [
    libc::REG_RAX,
    libc::REG_RDX,
    libc::REG_RCX,
    libc::REG_RBX,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_RBP,
    libc::REG_RSP,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
    libc::REG_RIP,
];
