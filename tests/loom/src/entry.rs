//! Cells: what only an entry's holder touches, freed once, and kept for the next raise when nobody has it.
//!
//! Owns: the models of `protocol::entry`. The contents are in loom's cell, which reports two accesses that nothing orders.
//!
//! **Signal context:** no.

use std::error::Error;
use std::sync::atomic::{AtomicUsize as Counter, Ordering::SeqCst};

use loom::sync::Arc;
use loom::thread;
use once_cell::race::OnceBox;

use crate::protocol::entry::{Contents, Entry, Payload, ReceiptRef, Spare};
use crate::protocol::receipt::ReceiptState;
use crate::stage::{Counted, contents, model};

/// Nothing to drop in it but the cell.
fn recipe() -> Payload {
    Payload::Make(|| -> Box<dyn Error + Send> { Box::new(Counted(std::sync::Arc::default())) })
}

/// Contents that count when the cell is freed.
fn counting(frees: &std::sync::Arc<Counter>) -> Contents {
    let mut contents = contents(recipe());
    contents.aside = OnceBox::with_value(Box::new(Box::new(Counted(frees.clone()))));
    contents
}

/// Shows protocol::entry I2.
#[test]
fn a_cell_is_freed_by_whoever_goes_last() {
    model(None, || {
        let frees = std::sync::Arc::<Counter>::default();
        let (mut entry, receipt) = Entry::with_receipt(counting(&frees));
        let raiser = thread::spawn(move || {
            let second = receipt.clone();
            drop(receipt);
            second.state()
        });
        entry.rung = 1;
        let _no_waiter = entry.settle(ReceiptState::Superseded);
        drop(entry);
        let seen = raiser.join().unwrap();
        assert!(matches!(seen, ReceiptState::Pending | ReceiptState::Superseded));
        assert_eq!(frees.load(SeqCst), 1);
    });
}

/// The owner keeps a cell that the raiser's receipt leaves just then, and the next raiser fills it.
/// Shows protocol::entry I1, I4.
#[test]
fn a_spare_cell_is_filled_when_its_last_handle_has_gone() {
    model(None, || {
        let spare = Arc::new(Spare::new());
        let (mut entry, receipt) = Entry::with_receipt(contents(recipe()));
        let kept: ReceiptRef = receipt.clone();
        let raiser = thread::spawn({
            let spare = spare.clone();
            move || {
                drop(receipt);
                let (mut next, receipt) = spare.entry_with_receipt(|| contents(recipe()));
                next.rung += 2;
                (next.rung, receipt.state())
            }
        });
        entry.rung = 1;
        drop(entry);
        spare.keep(kept);
        assert_eq!(raiser.join().unwrap(), (2, ReceiptState::Pending));
        let (last, _receipt) = spare.entry_with_receipt(|| contents(recipe()));
        assert_eq!(last.rung, 0, "as new");
    });
}

/// Two who keep and one who takes: no cell is in two places.
/// Shows protocol::entry I4.
#[test]
fn a_spare_cell_is_taken_by_one() {
    // Three threads: bounded.
    model(Some(3), || {
        let spare = Arc::new(Spare::new());
        let keepers = [(); 2].map(|()| {
            let spare = spare.clone();
            thread::spawn(move || spare.keep_entry(Entry::new(contents(recipe()))))
        });
        let (mut first, _one) = spare.entry_with_receipt(|| contents(recipe()));
        let (mut second, _other) = spare.entry_with_receipt(|| contents(recipe()));
        (first.rung, second.rung) = (1, 2);
        assert_eq!((first.rung, second.rung), (1, 2));
        keepers.into_iter().for_each(|keeper| keeper.join().unwrap());
    });
}
