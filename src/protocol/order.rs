//! The fail order: which blocked system call the handler shall end, and with what result.
//!
//! Owns: one order cell and its three states. Leaves to the platform: reading the blocked call, comparing registers.
//! One writer at a time arms it (the driver, or the holder of a pool cell); the target's handler alone claims it.
//!
//! **Signal context:** yes, [`Order::claim`] is made for it: one compare-and-swap and plain loads.
//!
//! ```text
//!   Idle --(1) arm--> Armed --(2) claim (handler)--> Claimed --(3) Claim::finish--> Idle
//!                       \--(4) arm / withdraw--> Idle
//! ```
//!
//! - I1. The fields change only while the state is `Idle`, so a handler that holds a claim reads one whole order.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `arm` Release | `claim` Acquire | the handler sees the fields of the order it claims |
//! | `finish` Release | `arm`, `withdraw` Acquire | the fields are not overwritten under a reader |

use crate::sync_shim::{AtomicU32, AtomicU64, Ordering, const_constructor};

/// The call that the handler must find, exactly, and the result to put in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) args: [u64; 6],
    pub(crate) sp: u64,
    pub(crate) pc: u64,
    pub(crate) result: i64,
    /// Whether to compare: `false` lets the handler decide by the number that it finds itself.
    pub(crate) exact: bool,
    /// A call was ended before for the same exception: for the handler that decides.
    pub(crate) again: bool,
}

const IDLE: u32 = 0;
const ARMED: u32 = 1;
const CLAIMED: u32 = 2;

/// One order cell.
pub(crate) struct Order {
    state: AtomicU32,
    exact: AtomicU32,
    again: AtomicU32,
    args: [AtomicU64; 6],
    sp: AtomicU64,
    pc: AtomicU64,
    result: AtomicU64,
}

/// A claimed order; only the handler makes one.
pub(crate) struct Claim<'a>(&'a Order);

impl Order {
    const_constructor! {
        pub(crate) fn new() -> Self {
            Self {
                state: AtomicU32::new(IDLE),
                exact: AtomicU32::new(0),
                again: AtomicU32::new(0),
                args: [
                    AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0),
                    AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0),
                ],
                sp: AtomicU64::new(0),
                pc: AtomicU64::new(0),
                result: AtomicU64::new(0),
            }
        }
    }

    /// Replaces whatever order waits. `false` if the handler is reading one right now: try again later.
    #[must_use]
    pub(crate) fn arm(&self, order: &Instruction) -> bool {
        if !self.withdraw() {
            return false;
        }
        for (cell, arg) in self.args.iter().zip(order.args) {
            cell.store(arg, Ordering::Relaxed);
        }
        self.sp.store(order.sp, Ordering::Relaxed);
        self.pc.store(order.pc, Ordering::Relaxed);
        self.result.store(order.result as u64, Ordering::Relaxed);
        self.exact.store(u32::from(order.exact), Ordering::Relaxed);
        self.again.store(u32::from(order.again), Ordering::Relaxed);
        self.state.store(ARMED, Ordering::Release);
        true
    }

    /// Takes back an order that no handler has claimed. `false` if one is being read right now.
    pub(crate) fn withdraw(&self) -> bool {
        !matches!(
            self.state
                .compare_exchange(ARMED, IDLE, Ordering::Acquire, Ordering::Acquire),
            Err(CLAIMED)
        )
    }

    /// The handler's side.
    pub(crate) fn claim(&self) -> Option<Claim<'_>> {
        self.state
            .compare_exchange(ARMED, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then_some(Claim(self))
    }
}

impl Claim<'_> {
    pub(crate) fn instruction(&self) -> Instruction {
        Instruction {
            args: std::array::from_fn(|i| self.0.args[i].load(Ordering::Relaxed)),
            sp: self.0.sp.load(Ordering::Relaxed),
            pc: self.0.pc.load(Ordering::Relaxed),
            result: self.0.result.load(Ordering::Relaxed) as i64,
            exact: self.0.exact.load(Ordering::Relaxed) != 0,
            again: self.0.again.load(Ordering::Relaxed) != 0,
        }
    }

    pub(crate) fn finish(self) {
        self.0.state.store(IDLE, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const FIRST: Instruction = Instruction {
        args: [1; 6],
        sp: 2,
        pc: 3,
        result: -125,
        exact: true,
        again: true,
    };

    #[test]
    fn an_order_is_claimed_once_and_whole() {
        let order = Order::new();
        assert!(order.claim().is_none());
        assert!(order.arm(&FIRST));
        let claim = order.claim().unwrap();
        assert_eq!(claim.instruction(), FIRST);
        assert!(order.claim().is_none());
        assert!(!order.arm(&FIRST), "not under a reader");
        claim.finish();
        assert!(
            order.arm(&FIRST)
                && order.arm(&Instruction {
                    exact: false,
                    ..FIRST
                })
        );
        assert!(order.withdraw() && order.claim().is_none());
    }
}
