//! One instruction set: every file here defines the same names.
//!
//! Owns: the choice. The contract: `CANCELLED`, `TELLS_NUMBER`, `window`, `classify`, `Context` with the methods below.
//!
//! **Signal context:** see each file.
//!
//! | `Context` | contract |
//! | --- | --- |
//! | `pc`, `sp` | as interrupted |
//! | `cancel_window` | goes on at the window's `cancel` label |
//! | `after_interrupted_call` | stands right behind a call that has just got `-EINTR`; never true for one that got anything else |
//! | `syscall_number`, `syscall_args` | of that call. `TELLS_NUMBER`: the number is always told, exactly; then the first argument may be lost to the result, and nobody may decide by it. Otherwise the number is decoded where it can be, and all arguments are there |
//! | `replace_result` | that call returns this instead |
//! | `before_call`, `number_to_call`, `skip_call` | stands right before a call; which; as if it had been made |
//! | `block` | a signal stays blocked in the interrupted code |

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
mod x86_64_number;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::{CANCELLED, Context, TELLS_NUMBER, classify, window};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{CANCELLED, Context, TELLS_NUMBER, classify, window};

#[cfg(test)]
mod tests;
