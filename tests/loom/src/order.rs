//! The order: the handler never reads a torn instruction.
//!
//! Owns: the model of `protocol::order`; the handler is a thread here.
//!
//! **Signal context:** no.

use loom::sync::Arc;
use loom::thread;

use crate::protocol::order::{Act, Instruction, Order};
use crate::stage::model;

fn instruction(all: u64) -> Instruction {
    Instruction {
        args: [all; 6],
        sp: all,
        pc: all,
        act: if all == 1 { Act::Replace(1) } else { Act::Abandon },
    }
}

/// One arms, arms anew and withdraws; the handler may come at any time, twice.
/// Shows protocol::order I1.
#[test]
fn a_claimed_order_is_whole() {
    // A dozen cells: bounded.
    model(Some(3), || {
        let order = Arc::new(Order::new());
        let handler = thread::spawn({
            let order = order.clone();
            move || {
                for _ in 0..2 {
                    if let Some(claim) = order.claim() {
                        let read = claim.instruction();
                        assert!([1, 2].map(instruction).contains(&read), "torn: {read:?}");
                        claim.finish();
                    }
                }
            }
        });
        let _armed = order.arm(&instruction(1));
        let _armed = order.arm(&instruction(2));
        let withdrawn = order.withdraw();
        handler.join().unwrap();
        assert!(
            !withdrawn || order.claim().is_none(),
            "withdrawn, and yet it waits"
        );
        assert!(order.withdraw() && order.claim().is_none());
    });
}
