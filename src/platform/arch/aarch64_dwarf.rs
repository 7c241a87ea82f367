//! aarch64: what a frame description needs to know of the registers.
//!
//! Owns: DWARF numbers, after "DWARF for the Arm 64-bit Architecture". A frame's return address is in x30, the link register;
//! the program counter has a number of its own beside it.
//!
//! **Signal context:** yes: constants.

/// x0 to x30, the stack pointer, the program counter.
pub(crate) const REGISTERS: usize = 33;
pub(crate) const PC: u16 = 32;
pub(crate) const SP: u16 = 31;
/// Nothing below the stack pointer belongs to anybody.
pub(crate) const RED_ZONE: u64 = 0;
/// What a call leaves on the stack.
pub(crate) const RETURN_ADDRESS: u64 = 0;
/// More register rules than one row of a description has.
pub(crate) const RULES: usize = REGISTERS + 3;

/// Whether `code` begins with a return: `ret` through the link register, or one that authenticates it.
pub(crate) fn is_return(code: &[u8]) -> bool {
    const RET: [u8; 4] = 0xd65f_03c0_u32.to_le_bytes();
    const RETAA: [u8; 4] = 0xd65f_0bff_u32.to_le_bytes();
    const RETAB: [u8; 4] = 0xd65f_0fff_u32.to_le_bytes();
    [RET, RETAA, RETAB]
        .iter()
        .any(|instruction| code.starts_with(instruction))
}

/// A return address without the signature that a function may keep in its upper bits (pointer authentication). Programs have
/// the lower 48, unless they ask for more.
pub(crate) fn address(signed: u64) -> u64 {
    signed & ((1 << 48) - 1)
}
