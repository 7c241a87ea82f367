//! Raising by id: one raise from its exception to the slot of one record, and what is owed after that.
//!
//! Owns: the making of the entry, the order of the steps after the push. Leaves to the module above who is meant, to
//! `protocol::record` the push, to `driver` the duties. Nothing here blocks but short locks.
//!
//! **Signal context:** no.

use std::panic::Location;

use crate::current::{self, REGISTRY};
use crate::driver::perform;
use crate::exception::Raisable;
use crate::protocol::Owing;
use crate::protocol::entry::{Contents, Entry, Origin, ReceiptRef};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{AfterPush, Duty, Fate, Fences, Record};
use crate::protocol::registry::ThreadId;
use crate::protocol::scope::ScopeId;
use crate::protocol::slot::{Policy, Queue};
use crate::receipt::{Receipt, settle, settle_aside, settle_one};
use crate::runtime;

/// That generation is over; the exception has been dropped.
pub(crate) struct Gone;

/// The whole of a raise in one function, for what is done most: its parts are inlined so that nothing is handed from one to
/// the other through memory, and what is rare is apart, so that the rest is close together.
#[inline(always)]
pub(crate) fn raise_by_id(
    id: ThreadId,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<Receipt, Gone> {
    let record = REGISTRY.record(id.index()).ok_or(Gone)?;
    let (entry, receipt) = prepare(record, id, None, exception, policy, at);
    let owing = Owing::new();
    let AfterPush { fate, aside, duty } = record.raise(id.generation(), entry, policy, fences_to(record));
    perform(record, id, duty);
    drop(owing);
    if fate == Fate::Gone {
        return Err(gone(&receipt, aside));
    }
    if let Some(aside) = aside.unless_empty() {
        settle_pushed_aside(record, aside, fate);
    }
    settle_aside(record);
    Ok(Receipt::new(id, receipt))
}

/// The end of a raise that has not taken place.
#[cold]
fn gone(receipt: &ReceiptRef, entry: Queue) -> Gone {
    crate::trace::forget(receipt);
    drop(entry);
    Gone
}

/// The entry of a raise, not yet in the slot.
#[inline(always)]
fn prepare(
    record: &'static Record,
    id: ThreadId,
    scope: Option<ScopeId>,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> (Entry, ReceiptRef) {
    let origin = Origin {
        kind: exception.kind,
        raised_by: ThreadId::current(),
        raised_at: at,
    };
    let contents = || Contents::new(exception.payload, origin, policy == Policy::Queue, scope);
    let (entry, receipt) = record.spare.entry_with_receipt(contents);
    crate::trace::raise(id, &receipt, origin.kind);
    (entry, receipt)
}

/// A raise that has been made; what it pushed aside is still to be dropped.
#[must_use = "what was pushed aside must be settled"]
pub(crate) struct Posted {
    receipt: Receipt,
    fate: Fate,
    aside: Queue,
    record: &'static Record,
}

impl Posted {
    /// Drops what was pushed aside, or the exception itself if the target was leaving. Called with no pin held.
    pub(super) fn settle(self) -> Receipt {
        settle_pushed_aside(self.record, self.aside, self.fate);
        settle_aside(self.record);
        self.receipt
    }

    /// Whether it got into the slot.
    pub(super) fn is_accepted(&self) -> bool {
        self.fate == Fate::Accepted
    }
}

/// Drops what a raise has displaced, or the exception itself if it did not get into the slot.
#[inline(never)]
fn settle_pushed_aside(record: &Record, aside: Queue, fate: Fate) {
    let outcome = match fate {
        Fate::Accepted => ReceiptState::Superseded,
        Fate::Ended | Fate::Gone => ReceiptState::TargetEnded,
    };
    match aside.single() {
        Ok(entry) => record.spare.keep_entry(settle_one(entry, outcome)),
        Err(others) => settle(others, outcome),
    }
}

/// As [`Posted::settle`], for all raises of one broadcast. Returns the receipts of those that got into their slots.
pub(crate) fn settle_all(posted: Vec<Posted>) -> Vec<Receipt> {
    let (accepted, ended): (Vec<_>, Vec<_>) = posted.into_iter().partition(Posted::is_accepted);
    // These cannot panic: the raiser still holds what they share.
    settle(
        ended.into_iter().flat_map(|posted| posted.aside),
        ReceiptState::TargetEnded,
    );
    let (receipts, aside): (Vec<_>, Vec<_>) = accepted
        .into_iter()
        .map(|posted| (posted.receipt, posted.aside))
        .unzip();
    settle(aside.into_iter().flatten(), ReceiptState::Superseded);
    for receipt in &receipts {
        if let Some(record) = REGISTRY.record(receipt.target().index()) {
            settle_aside(record);
        }
    }
    receipts
}

/// What a raiser owes to a slot that it has pushed into.
#[must_use = "the target may sleep until the duty is done"]
pub(crate) struct Owed {
    record: &'static Record,
    id: ThreadId,
    duty: Duty<'static>,
    _owing: Owing,
}

impl Owed {
    pub(crate) fn perform(self) {
        perform(self.record, self.id, self.duty);
    }
}

pub(super) fn post(
    id: ThreadId,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<Posted, Gone> {
    let (posted, owed) = push(id, None, exception, policy, at)?;
    owed.perform();
    Ok(posted)
}

/// The first half of a raise: it is in the slot. Runs nothing of the exception's, nor of what it pushes aside.
pub(crate) fn push(
    id: ThreadId,
    scope: Option<ScopeId>,
    exception: Raisable,
    policy: Policy,
    at: &'static Location<'static>,
) -> Result<(Posted, Owed), Gone> {
    let record = REGISTRY.record(id.index()).ok_or(Gone)?;
    let (entry, receipt) = prepare(record, id, scope, exception, policy, at);
    let owing = Owing::new();
    let AfterPush { fate, aside, duty } = record.raise(id.generation(), entry, policy, fences_to(record));
    if fate == Fate::Gone {
        return Err(gone(&receipt, aside));
    }
    let posted = Posted {
        receipt: Receipt::new(id, receipt),
        fate,
        aside,
        record,
    };
    let owed = Owed {
        record,
        id,
        duty,
        _owing: owing,
    };
    Ok((posted, owed))
}

/// How a raise into this record is fenced against its owner. The owner itself knows what region it is in: what it sees
/// needs no verifying.
#[inline(always)]
fn fences_to(record: &Record) -> Fences {
    if std::ptr::eq(record, current::record()) {
        Fences::Full
    } else {
        runtime::fences()
    }
}

/// Sets the stop flag of `id`. `false` if it has ended.
pub(crate) fn stop(id: ThreadId) -> bool {
    let Some(record) = REGISTRY.record(id.index()) else {
        return false;
    };
    let _owing = Owing::new();
    match record.stop(id.generation(), runtime::fences()) {
        Some(duty) => {
            perform(record, id, duty);
            true
        }
        None => false,
    }
}
