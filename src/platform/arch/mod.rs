//! One instruction set: every file here defines the same names.
//!
//! Owns: the choice. The contract: `CANCELLED`, `window`, `classify`, `Context` with `pc`, `sp`, `cancel_window`,
//! `syscall_args`, `after_interrupted_call`, `syscall_number`, `replace_result`, `block`.
//!
//! **Signal context:** see each file.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
mod x86_64_number;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{CANCELLED, Context, classify, window};
