//! One instruction set: every file here defines the same names.
//!
//! Owns: the choice. The contract: `CANCELLED`, `TELLS_NUMBER`, `window`, `classify`, `Context` with the methods below; `dwarf`
//! with `REGISTERS`, `PC`, `SP`, `RED_ZONE`, `RETURN_ADDRESS`, `RULES`, `is_return`, `address`; for the forced rungs `Function`, `FUNCTION`, `CONTROLS`, `SAVES`, `SAVED`, `enter`,
//! `return_address`, `frame_at`, `land`, `on_stack`, `has_shadow_stack`.
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
//! | `registers` | for a walk up the stack |
//! | `escape_to`, `unwind_by`, `alternate_stack` | goes on at the trampoline; on the unwinding stub; the thread's alternate stack |
//! | `block` | a signal stays blocked in the interrupted code |

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(all(target_arch = "aarch64", throwto_forced))]
mod aarch64_forced;
#[cfg(target_arch = "aarch64")]
#[path = "aarch64_dwarf.rs"]
pub(crate) mod dwarf;
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

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::{CANCELLED, Context, TELLS_NUMBER, classify, window};
#[cfg(all(target_arch = "aarch64", throwto_forced))]
pub(crate) use aarch64_forced::{
    CONTROLS, FUNCTION, Function, SAVED, SAVES, controls, enter, frame_at, has_shadow_stack, land, on_stack,
    return_address, stack_pointer,
};
#[cfg(all(test, target_arch = "aarch64", throwto_forced))]
use aarch64_forced::{throwto_0_1_forced_lost, throwto_0_1_forced_scrambles};
pub(crate) use registers::Registers;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{CANCELLED, Context, TELLS_NUMBER, classify, window};
#[cfg(all(target_arch = "x86_64", throwto_forced))]
pub(crate) use x86_64_forced::{
    CONTROLS, FUNCTION, Function, SAVED, SAVES, controls, enter, frame_at, has_shadow_stack, land, on_stack,
    return_address, stack_pointer,
};
#[cfg(all(test, target_arch = "x86_64", throwto_forced))]
use x86_64_forced::{throwto_0_1_forced_lost, throwto_0_1_forced_scrambles};

#[cfg(all(test, throwto_forced))]
mod forced_tests;
#[cfg(test)]
mod tests;
