//! Who takes an entry out of the slot: the owner, a revoker, a later raise or a clear — exactly one of them.
//!
//! Owns: the models of conservation (P3) and of invariant 2 of `protocol::record`.
//!
//! **Signal context:** no.

use loom::sync::Arc;
use loom::thread;

use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{Fences, Owner};
use crate::protocol::word::Attention;
use crate::stage::{FIRST, Raised, model, raise, record, settle, take_and_catch};

/// Shows protocol::receipt I1.
#[test]
fn an_entry_is_delivered_or_revoked_and_dropped_once() {
    model(None, || {
        let (record, raised) = (record(), Raised::new());
        let _nobody_blocks = raise(record, &raised, Fences::Full);
        let revoker = thread::spawn({
            let raised = raised.clone();
            move || match record.revoke(FIRST, &raised.receipt) {
                Some(entry) => settle(entry, ReceiptState::Revoked),
                None => false,
            }
        });
        let delivered = take_and_catch(Owner::of(record));
        let revoked = revoker.join().unwrap();
        assert!(delivered != revoked, "delivered: {delivered}, revoked: {revoked}");
        let expected = if delivered {
            ReceiptState::Caught
        } else {
            ReceiptState::Revoked
        };
        assert_eq!((raised.state(), raised.drops()), (expected, 1));
        assert!(!record.attention().has(Attention::PENDING));
    });
}

/// A revoke that takes the last entry away as another raise comes must not take its bit with it.
/// Shows protocol::record I2.
#[test]
fn a_revoke_hides_no_other_raise() {
    model(None, || {
        let (record, first, second) = (record(), Raised::new(), Raised::new());
        let _nobody_blocks = raise(record, &first, Fences::Full);
        let revoker = thread::spawn({
            let first = first.clone();
            move || match record.revoke(FIRST, &first.receipt) {
                Some(entry) => settle(entry, ReceiptState::Revoked),
                None => false,
            }
        });
        let _nobody_blocks = raise(record, &second, Fences::Full);
        assert!(record.attention().has(Attention::PENDING));
        let revoked = revoker.join().unwrap();
        let expected = if revoked {
            ReceiptState::Revoked
        } else {
            ReceiptState::Superseded
        };
        assert_eq!((first.state(), first.drops()), (expected, 1));
        assert!(record.attention().has(Attention::PENDING) && second.state() == ReceiptState::Pending);
        assert!(take_and_catch(Owner::of(record)));
        assert!(!record.attention().has(Attention::PENDING));
    });
}

#[test]
fn a_later_raise_supersedes_or_follows() {
    model(None, || {
        let (record, first, second) = (record(), Raised::new(), Raised::new());
        let _nobody_blocks = raise(record, &first, Fences::Full);
        let raiser = thread::spawn({
            let second = second.clone();
            move || {
                let _nobody_blocks = raise(record, &second, Fences::Full);
            }
        });
        let owner = Owner::of(record);
        assert!(take_and_catch(owner), "one of the two was there all the time");
        raiser.join().unwrap();
        let followed = take_and_catch(owner);
        let expected = if followed {
            ReceiptState::Caught
        } else {
            ReceiptState::Superseded
        };
        assert_eq!((first.state(), first.drops()), (expected, 1));
        assert_eq!((second.state(), second.drops()), (ReceiptState::Caught, 1));
        assert!(!record.attention().has(Attention::PENDING));
    });
}

#[test]
fn a_clear_and_a_take_share_the_queue_without_loss() {
    model(None, || {
        let (record, raised) = (record(), Raised::new());
        let _nobody_blocks = raise(record, &raised, Fences::Full);
        let clearer = thread::spawn(move || {
            let cleared = record.clear(FIRST).expect("the generation lasts");
            let count = cleared.len();
            for entry in cleared {
                settle(entry, ReceiptState::Revoked);
            }
            count
        });
        let taken = usize::from(take_and_catch(Owner::of(record)));
        assert_eq!(taken + clearer.join().unwrap(), 1);
        assert_eq!(raised.drops(), 1);
        assert!(raised.state().is_final() && !record.attention().has(Attention::PENDING));
    });
}

/// The face clears no bit itself: what the owner sees without a lock agrees with the slot.
#[test]
fn a_pending_bit_promises_an_entry_to_the_only_taker() {
    model(None, || {
        let (record, raised) = (record(), Raised::new());
        let raiser = thread::spawn({
            let raised = raised.clone();
            move || {
                let _nobody_blocks = raise(record, &raised, Fences::Full);
            }
        });
        let owner = Owner::of(record);
        let seen = record.attention().has(Attention::PENDING);
        let taken = take_and_catch(owner);
        assert!(taken || !seen);
        raiser.join().unwrap();
        assert!(taken || take_and_catch(owner));
    });
}
