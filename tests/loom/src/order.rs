//! The fail order: the handler never reads a torn instruction.
//!
//! Owns: the model of `protocol::order`; the handler is a thread here.
//!
//! **Signal context:** no.

use loom::sync::Arc;
use loom::thread;

use crate::protocol::order::{Instruction, Order};
use crate::stage::model;

fn instruction(all: u64) -> Instruction {
    Instruction {
        args: [all; 6],
        sp: all,
        pc: all,
        result: all as i64,
        exact: all == 1,
        again: all == 1,
    }
}

/// One arms, arms anew and withdraws; the handler may come at any time, twice.
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
        assert!(!withdrawn || order.claim().is_none(), "withdrawn, and yet it waits");
        assert!(order.withdraw() && order.claim().is_none());
    });
}
