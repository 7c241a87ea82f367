//! The order: what the handler shall do to the thread it finds, and which blocked system call it must find for that.
//!
//! Owns: one order cell and its three states, and its making. Leaves to the platform: reading the blocked call, comparing registers.
//! One writer at a time arms it (the driver, or the holder of a pool cell); the target's handler alone claims it.
//!
//! **Signal context:** yes, [`Order::claim`] is made for it: one compare-and-swap and plain loads.
//!
//! ```text
//!   Idle --(1) arm--> Armed --(2) claim (handler)--> Claimed --(3) Claim::finish--> Idle
//!                       \--(4) arm / withdraw--> Idle
//!   Claimed --(5) claim (a later handler)--> Idle
//! ```
//!
//! (5): another signal's handler ran on top of ours and left by `siglongjmp`, so that (3) never came. On one thread a
//! second handler of ours finds a claim in no other way.
//!
//! A record has an order cell from its first order on ([`LazyOrder`]): it is longer than the rest of what a handler reads, and most
//! threads are never given one.
//!
//! - I1. The fields change only while the state is `Idle`, so a handler that holds a claim reads one whole order.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `arm` Release | `claim` Acquire | the handler sees the fields of the order it claims |
//! | `finish` Release | `arm`, `withdraw` Acquire | the fields are not overwritten under a reader |
//! | `LazyOrder::cell` Release (`OnceBox`) | `LazyOrder::take`, `withdraw` Acquire | the handler finds a whole cell |

use once_cell::race::OnceBox;

use crate::sync_shim::{AtomicPtr, AtomicU32, AtomicU64, Ordering, const_constructor};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Put this result in the place of the call's, if it is exactly the call that was seen.
    Replace(i64),
    /// Decide by the number that is found at the call, and look the result up; `again` if a call was ended before for the same
    /// exception.
    Decide { again: bool },
    /// Unwind the frames above the call that was seen, up to the region.
    Unwind,
    /// Leave the region, wherever in it the thread is. Nothing was seen.
    Abandon,
}

/// The act, and the call that the handler must find, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) args: [u64; 6],
    pub(crate) sp: u64,
    pub(crate) pc: u64,
    pub(crate) act: Act,
}

impl Instruction {
    /// Nothing was seen.
    pub(crate) const fn blind(act: Act) -> Self {
        Self {
            args: [0; 6],
            sp: 0,
            pc: 0,
            act,
        }
    }
}

impl Act {
    const fn packed(self) -> (u32, i64) {
        match self {
            Self::Replace(result) => (0, result),
            Self::Decide { again } => (1, again as i64),
            Self::Unwind => (2, 0),
            Self::Abandon => (3, 0),
        }
    }

    const fn unpacked(kind: u32, result: i64) -> Self {
        match kind {
            0 => Self::Replace(result),
            1 => Self::Decide { again: result != 0 },
            2 => Self::Unwind,
            _ => Self::Abandon,
        }
    }
}

const IDLE: u32 = 0;
const ARMED: u32 = 1;
const CLAIMED: u32 = 2;

/// One order cell.
pub(crate) struct Order {
    state: AtomicU32,
    kind: AtomicU32,
    args: [AtomicU64; 6],
    sp: AtomicU64,
    pc: AtomicU64,
    result: AtomicU64,
    /// The owner's: where it says what it was given, for orders to leave a call by force.
    given: AtomicPtr<()>,
}

/// A record's order cell, made for the first order and never freed, as its record.
pub(crate) struct LazyOrder(OnceBox<Order>);

impl LazyOrder {
    pub(crate) const fn new() -> Self {
        Self(OnceBox::new())
    }

    /// For who gives orders: makes the cell if need be.
    pub(crate) fn cell(&self) -> &Order {
        self.0.get_or_init(|| Box::new(Order::new()))
    }

    /// The handler's side: [`Order::take`], behind one load.
    pub(crate) fn take(&self) -> Option<Instruction> {
        self.0.get()?.take()
    }

    /// The handler's: what [`Order::put_given`] has put there.
    pub(crate) fn given(&self) -> *const () {
        let cell = self.0.get();
        cell.map_or(std::ptr::null(), |order| order.given.load(Ordering::Relaxed))
    }

    /// As [`Order::withdraw`].
    pub(crate) fn withdraw(&self) -> bool {
        self.0.get().is_none_or(Order::withdraw)
    }
}

/// A claimed order; only the handler makes one.
pub(crate) struct Claim<'a>(&'a Order);

impl Order {
    const_constructor! {
        pub(crate) fn new() -> Self {
            Self {
                state: AtomicU32::new(IDLE),
                kind: AtomicU32::new(0),
                args: [
                    AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0),
                    AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0),
                ],
                sp: AtomicU64::new(0),
                pc: AtomicU64::new(0),
                result: AtomicU64::new(0),
                given: AtomicPtr::new(std::ptr::null_mut()),
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
        let (kind, result) = order.act.packed();
        self.result.store(result as u64, Ordering::Relaxed);
        self.kind.store(kind, Ordering::Relaxed);
        self.state.store(ARMED, Ordering::Release);
        true
    }

    /// The owner's. Only its own handler reads it.
    pub(crate) fn put_given(&self, given: *mut ()) {
        self.given.store(given, Ordering::Relaxed);
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
        match self
            .state
            .compare_exchange(ARMED, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Some(Claim(self)),
            Err(CLAIMED) => {
                // Transition (5), for the one that was jumped out of.
                Claim(self).finish();
                None
            }
            Err(_) => None,
        }
    }

    /// The handler's side in one step.
    pub(crate) fn take(&self) -> Option<Instruction> {
        let claim = self.claim()?;
        let instruction = claim.instruction();
        claim.finish();
        Some(instruction)
    }
}

impl Claim<'_> {
    pub(crate) fn instruction(&self) -> Instruction {
        Instruction {
            args: std::array::from_fn(|i| self.0.args[i].load(Ordering::Relaxed)),
            sp: self.0.sp.load(Ordering::Relaxed),
            pc: self.0.pc.load(Ordering::Relaxed),
            act: Act::unpacked(
                self.0.kind.load(Ordering::Relaxed),
                self.0.result.load(Ordering::Relaxed) as i64,
            ),
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
        act: Act::Replace(-125),
    };

    #[test]
    fn a_claim_that_was_jumped_out_of_does_not_block_later_orders() {
        let order = Order::new();
        assert!(order.arm(&FIRST));
        let _never_finished = order.claim().unwrap();
        assert!(!order.arm(&FIRST));
        assert!(order.claim().is_none(), "the next nudge sets it free");
        assert!(order.arm(&FIRST) && order.claim().is_some());
    }

    #[test]
    fn an_order_is_claimed_once_and_whole() {
        let order = Order::new();
        assert!(order.claim().is_none());
        assert!(order.arm(&FIRST));
        let claim = order.claim().unwrap();
        assert_eq!(claim.instruction(), FIRST);
        assert!(!order.arm(&FIRST), "not under a reader");
        claim.finish();
        assert!(order.arm(&FIRST) && order.arm(&Instruction::blind(Act::Abandon)));
        assert!(order.withdraw() && order.claim().is_none());
    }

    #[test]
    fn every_act_survives_the_packing() {
        for act in [
            Act::Replace(-125),
            Act::Replace(0),
            Act::Decide { again: false },
            Act::Decide { again: true },
            Act::Unwind,
            Act::Abandon,
        ] {
            let order = Order::new();
            assert!(order.arm(&Instruction { act, ..FIRST }));
            assert_eq!(order.take().map(|taken| taken.act), Some(act));
            assert_eq!(order.take(), None);
        }
    }
}
