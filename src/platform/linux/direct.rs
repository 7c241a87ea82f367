//! Nudging threads that never attached: a small pool of order cells that the handler recognises by address.
//!
//! Owns: the pool, and the send-and-wait loop of `os::interrupt`. Leaves to [`super::fail`]: replacing results.
//! [`interrupt`] may be called by any thread and blocks up to a quarter of a second.
//!
//! **Signal context:** [`nudged`] yes; the rest no.
//!
//! - I1. A cell belongs to one caller from `take` to `give_back`; the handler acts on it only while `os_tid` names its
//!   own thread.
//! - I2. A cell is given back only when its thread has heard the nudge or is known not to be there: a signal still under
//!   way could otherwise act on the next holder's order. A cell that fails this is withdrawn for good.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, Ordering};

use super::fail::{Failed, fail, is_futex};
use super::{futex, nudge, probe, substitute};
use crate::platform::{InterruptFailed, arch, spot::Why};
use crate::protocol::order::{Act, Instruction, Order};

struct Cell {
    taken: AtomicBool,
    os_tid: AtomicI32,
    heard: AtomicU32,
    failed: AtomicBool,
    /// The number of a call that the handler has refused to make fail.
    refused: AtomicI64,
    order: Order,
}

/// No call has this number.
const NONE: i64 = -1;

const CELLS: usize = 64;
static POOL: [Cell; CELLS] = [const {
    Cell {
        taken: AtomicBool::new(false),
        os_tid: AtomicI32::new(0),
        heard: AtomicU32::new(0),
        failed: AtomicBool::new(false),
        refused: AtomicI64::new(NONE),
        order: Order::new(),
    }
}; CELLS];

/// A nudge that carries the address of a pool cell. `false` if the address is not one. Nothing fails unless it `may_fail`.
pub(super) fn nudged(address: usize, may_fail: bool, context: &mut arch::Context<'_>) -> bool {
    let offset = address.wrapping_sub(POOL.as_ptr() as usize);
    let Some(cell) = POOL.get(offset / size_of::<Cell>()) else {
        return false;
    };
    if !offset.is_multiple_of(size_of::<Cell>()) {
        return false;
    }
    if cell.os_tid.load(Ordering::Acquire) == nudge::os_tid() {
        let order = cell.order.take().filter(|_| may_fail);
        match order.map(|wanted| fail(&wanted, context)) {
            Some(Failed::Replaced) => cell.failed.store(true, Ordering::Relaxed),
            Some(Failed::Never(number)) => cell.refused.store(number, Ordering::Relaxed),
            Some(Failed::Not) | None => {}
        }
        cell.heard.fetch_add(1, Ordering::Release);
    }
    true
}

/// Nudges the thread `os_tid` of this process, and with `fail` ends the system call it is blocked in.
pub(crate) fn interrupt(os_tid: i32, signal: libc::c_int, fail: bool) -> Result<(), InterruptFailed> {
    if super::blocked::signal_blocked(os_tid, signal) == Some(true) {
        return Err(InterruptFailed::SignalBlocked);
    }
    let cell = POOL
        .iter()
        .find(|cell| !cell.taken.swap(true, Ordering::Acquire))
        .ok_or(InterruptFailed::Busy)?;
    cell.failed.store(false, Ordering::Relaxed);
    cell.refused.store(NONE, Ordering::Relaxed);
    cell.os_tid.store(os_tid, Ordering::Release);
    let mut result = Err(InterruptFailed::NotBlocked);
    for pause_ms in [0, 1, 2, 4, 8, 16, 32, 64, 128] {
        futex::wait_on(&AtomicU32::new(0), 0, Some(futex::now() + pause_ms * 1_000_000));
        match attempt(cell, os_tid, signal, fail) {
            Err(InterruptFailed::NotBlocked) => {}
            decided => {
                result = decided;
                break;
            }
        }
    }
    cell.os_tid.store(0, Ordering::Release);
    cell.order.withdraw();
    if result != Err(InterruptFailed::Unheard) {
        cell.taken.store(false, Ordering::Release);
    }
    result
}

fn attempt(cell: &Cell, os_tid: i32, signal: libc::c_int, fail: bool) -> Result<(), InterruptFailed> {
    let looked = probe::probe(os_tid);
    match looked {
        probe::Probe::Gone => return Err(InterruptFailed::NoSuchThread),
        probe::Probe::Running | probe::Probe::Elsewhere if fail => return Err(InterruptFailed::NotBlocked),
        _ => {}
    }
    if fail && !arm(&cell.order, looked, false)? {
        return Err(InterruptFailed::NotBlocked);
    }
    let heard = cell.heard.load(Ordering::Acquire);
    match nudge::send_value(std::ptr::from_ref(cell) as usize, os_tid, signal) {
        0 => {}
        libc::ESRCH => return Err(InterruptFailed::NoSuchThread),
        errno => return Err(InterruptFailed::Os { errno }),
    }
    let late = futex::now() + 50_000_000;
    while cell.heard.load(Ordering::Acquire) == heard {
        let now = futex::now();
        if now >= late {
            return match probe::probe(os_tid) {
                probe::Probe::Gone => Err(InterruptFailed::NoSuchThread),
                _ => Err(InterruptFailed::Unheard),
            };
        }
        futex::wait_on(&cell.heard, heard, Some(now + 100_000));
    }
    if !fail || cell.failed.load(Ordering::Relaxed) {
        return Ok(());
    }
    match cell.refused.load(Ordering::Relaxed) {
        NONE => Err(InterruptFailed::NotBlocked),
        number => Err(never(number)),
    }
}

fn never(number: i64) -> InterruptFailed {
    InterruptFailed::Never {
        call: substitute::name(number).unwrap_or("this call"),
    }
}

/// Orders the frames above the blocked call in `looked` to be unwound.
///
/// # Errors
/// The place and the reason if that must not be.
pub(crate) fn arm_unwind(order: &Order, looked: probe::Probe) -> Result<(), (usize, Why)> {
    match looked {
        probe::Probe::Blocked(call) if is_futex(call.number) => Err((call.pc as usize, Why::Futex)),
        probe::Probe::Blocked(call) => {
            // Not armed while the handler reads one: the next attempt will do it.
            let _armed = order.arm(&Instruction {
                args: call.args,
                sp: call.sp,
                pc: call.pc,
                act: Act::Unwind,
            });
            Ok(())
        }
        // The handler decides by the number that it finds.
        _ if arch::TELLS_NUMBER => {
            let _armed = order.arm(&Instruction::blind(Act::Unwind));
            Ok(())
        }
        _ => Err((0, Why::Unseen)),
    }
}

/// Orders the region to be left from wherever the thread is in it.
pub(crate) fn arm_abandon(order: &Order) {
    let _armed = order.arm(&Instruction::blind(Act::Abandon));
}

/// Writes the order that ends the call seen in `looked`; `again` if it was ended once and the thread makes it anew.
/// `Ok(false)` if there is none to end now. Where the interrupted context tells its call's number, or where nothing was to
/// be seen, the handler is left to decide.
pub(crate) fn arm(order: &Order, looked: probe::Probe, again: bool) -> Result<bool, InterruptFailed> {
    let instruction = match looked {
        probe::Probe::Blocked(call) => match substitute::table(again)(call.number, call.args).value() {
            Some(result) => Instruction {
                args: call.args,
                sp: call.sp,
                pc: call.pc,
                act: if arch::TELLS_NUMBER {
                    Act::Decide { again }
                } else {
                    Act::Replace(result as i64)
                },
            },
            None => return Err(never(call.number)),
        },
        probe::Probe::Unreadable => Instruction::blind(Act::Decide { again }),
        _ => return Ok(false),
    };
    Ok(order.arm(&instruction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::linux::probe::{BlockedCall, Probe};

    fn blocked_in(number: i64) -> Probe {
        Probe::Blocked(BlockedCall {
            number,
            args: [0; 6],
            sp: 8,
            pc: 16,
        })
    }

    #[test]
    fn what_was_seen_decides_what_is_ordered() {
        let order = Order::new();
        let seen = [
            (blocked_in(libc::SYS_read), Ok(true)),
            (blocked_in(libc::SYS_close), Err(never(libc::SYS_close))),
            (blocked_in(libc::SYS_futex), Err(never(libc::SYS_futex))),
            (blocked_in(-1), Err(InterruptFailed::Never { call: "this call" })),
            (Probe::Unreadable, Ok(true)),
            (Probe::Running, Ok(false)),
            (Probe::Elsewhere, Ok(false)),
            (Probe::Gone, Ok(false)),
        ];
        for (looked, armed) in seen {
            assert_eq!(arm(&order, looked, false), armed, "{looked:?}");
            assert_eq!(order.take().is_some(), armed == Ok(true), "{looked:?}");
        }
    }

    #[test]
    fn a_wait_for_a_lock_is_not_unwound_nor_what_is_not_seen() {
        let order = Order::new();
        for number in [libc::SYS_futex, libc::SYS_futex_waitv] {
            assert_eq!(arm_unwind(&order, blocked_in(number)), Err((16, Why::Futex)));
        }
        assert!(order.take().is_none());
        for unseen in [Probe::Running, Probe::Elsewhere, Probe::Unreadable, Probe::Gone] {
            let armed = arm_unwind(&order, unseen);
            assert_eq!(
                armed.is_ok(),
                arch::TELLS_NUMBER,
                "the handler decides, or nobody does"
            );
            assert!(armed.is_ok() || armed == Err((0, Why::Unseen)));
            assert_eq!(order.take().is_some(), arch::TELLS_NUMBER);
        }
        assert_eq!(arm_unwind(&order, blocked_in(libc::SYS_read)), Ok(()));
        assert_eq!(order.take().unwrap().act, Act::Unwind);
    }

    #[test]
    fn only_the_beginning_of_a_cell_is_an_address_of_the_pool() {
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut context: libc::ucontext_t = unsafe { std::mem::zeroed() };
        // SAFETY: of this function alone.
        let mut context = unsafe { arch::Context::of((&raw mut context).cast()) };
        let (first, size) = (POOL.as_ptr() as usize, size_of::<Cell>());
        for inside in [first, first + size, first + (CELLS - 1) * size] {
            assert!(nudged(inside, true, &mut context));
            for off in [1, 8, size - 1] {
                assert!(!nudged(inside + off, true, &mut context));
            }
        }
        for outside in [0, first - size, first + CELLS * size, usize::MAX] {
            assert!(!nudged(outside, true, &mut context));
        }
    }
}
