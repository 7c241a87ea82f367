//! One instruction set: every file here defines the same names.
//!
//! Owns: the choice. The contract: `CANCELLED`, `window`, `classify`, `Context` with `pc`, `sp`, `cancel_window`,
//! `syscall_args`, `after_interrupted_call`, `syscall_number`, `replace_result`, `block`, `registers`; `dwarf` with
//! `REGISTERS`, `PC`, `SP`, `RED_ZONE`, `RETURN_ADDRESS`, `RULES`, `is_return`.
//!
//! **Signal context:** see each file.

#[cfg(target_arch = "x86_64")]
#[path = "x86_64_dwarf.rs"]
pub(crate) mod dwarf;
mod registers;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(all(target_arch = "x86_64", throwto_forced))]
mod x86_64_forced;
#[cfg(target_arch = "x86_64")]
mod x86_64_number;

pub(crate) use registers::Registers;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{CANCELLED, Context, classify, window};
#[cfg(all(target_arch = "x86_64", throwto_forced))]
pub(crate) use x86_64_forced::{enter, has_shadow_stack, land, on_stack};
