//! The rung *fail* in the handler: whether the interrupted call is the one that was meant, and what it returns instead.
//!
//! Owns: holding an order against an interrupted context, and replacing the result. Leaves to [`super::substitute`] the values,
//! to [`super::direct`] and `driver` giving orders, to the handler when to look at one.
//!
//! **Signal context:** yes, made for it: registers of the context and pure functions.

use super::substitute::table;
use crate::platform::arch::{Context, TELLS_NUMBER};
use crate::protocol::order::{Act, Instruction};

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    Replaced,
    /// No interrupted call, another call than the one that was seen, or one that could not be told.
    Not,
    /// The interrupted call, of this number, must not be made to fail.
    Never(i64),
}

/// Replaces the result of the interrupted call if it is the one that is `wanted`, or one that may fail where the order leaves
/// that to us.
pub(super) fn fail(wanted: &Instruction, context: &mut Context<'_>) -> Failed {
    let result = match wanted.act {
        Act::Replace(result) if is_the_call(wanted, context) => result,
        Act::Decide { again } if context.after_interrupted_call() => {
            let Some(number) = context.syscall_number() else {
                return Failed::Not;
            };
            match table(again)(number, context.syscall_args()).value() {
                Some(result) => result as i64,
                None => return Failed::Never(number),
            }
        }
        _ => return Failed::Not,
    };
    context.replace_result(result);
    Failed::Replaced
}

/// Whether the thread stands right behind the very call that the order's giver has seen, which was interrupted.
fn is_the_call(wanted: &Instruction, context: &Context<'_>) -> bool {
    // The first argument is lost to the result where the number is told.
    let seen = usize::from(TELLS_NUMBER);
    context.after_interrupted_call()
        && context.pc() as u64 == wanted.pc
        && context.sp() == wanted.sp
        && context.syscall_args()[seen..] == wanted.args[seen..]
}

/// Whether the thread stands behind an interrupted call that its frames may be unwound from. Where the context tells the call's
/// number, what the giver has seen is not needed.
#[cfg(throwto_forced)]
pub(super) fn may_be_left(wanted: &Instruction, context: &Context<'_>) -> bool {
    if TELLS_NUMBER {
        let number = context.syscall_number();
        context.after_interrupted_call() && number.is_some_and(|number| !is_futex(number))
    } else {
        is_the_call(wanted, context)
    }
}

/// Waits for locks, and on words like them.
pub(super) fn is_futex(number: i64) -> bool {
    number == libc::SYS_futex || number == libc::SYS_futex_waitv
}
