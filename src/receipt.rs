//! [`Receipt`]: what a raiser holds.
//!
//! Owns: waiting for a raise's fate, taking a raise back, and settling what ends undelivered. Leaves to `protocol::receipt`
//! the states.
//! [`Receipt::wait`] blocks, and cannot be raised into: its time limit bounds it.
//!
//! **Signal context:** no.

use std::hint::cold_path;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::current::REGISTRY;
use crate::platform::futex;
use crate::protocol::entry::{Entry, ReceiptRef};
use crate::protocol::receipt::{AfterSettle, ReceiptCell, ReceiptState};
use crate::protocol::record::Record;
use crate::protocol::registry::ThreadId;
use crate::trace;

/// Tells what became of a raise. Dropping it changes nothing.
#[derive(Clone)]
pub struct Receipt {
    target: ThreadId,
    /// `None` only while it is dropped.
    cell: Option<ReceiptRef>,
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipt")
            .field("target", &self.target)
            .field("state", &self.state())
            .finish()
    }
}

impl Receipt {
    pub(crate) fn new(target: ThreadId, cell: ReceiptRef) -> Self {
        Self {
            target,
            cell: Some(cell),
        }
    }

    fn cell(&self) -> &ReceiptRef {
        self.cell.as_ref().expect("it is there until the drop")
    }

    /// The thread that was raised into.
    pub fn target(&self) -> ThreadId {
        self.target
    }

    /// The state now.
    pub fn state(&self) -> ReceiptState {
        self.cell().state()
    }

    /// Waits for a final state, at most for `limit`, and returns the state at the end.
    ///
    /// [`Pending`](ReceiptState::Pending) after that: not yet delivered. [`Delivered`](ReceiptState::Delivered): the
    /// target has it and is not done with it. A limit too long for the clock waits as long as it takes.
    ///
    /// Not a cancellation point: an exception raised into the waiting thread stays pending.
    ///
    /// ```
    /// use std::time::Duration;
    /// use throwto::{ReceiptState, Stop, raise_exc, thread};
    /// let worker = thread::spawn(|| thread::sleep(Duration::from_secs(3600)).is_err());
    /// let receipt = raise_exc(&worker, Stop)?;
    /// assert_eq!(receipt.wait(Duration::from_secs(10)), ReceiptState::Caught);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(&self, limit: Duration) -> ReceiptState {
        let deadline = deadline_after(limit);
        loop {
            match self.cell().prepare_wait() {
                Ok(state) => return state,
                Err(word) => {
                    if deadline.is_some_and(|at| futex::now() >= at) {
                        return self.state();
                    }
                    futex::wait_on(self.cell().word(), word, deadline);
                }
            }
        }
    }

    /// Takes the raise back. `true` if it was still pending: then it will never be delivered, and the exception has been
    /// dropped. A nudge already sent may still end one system call of the target with EINTR.
    pub fn revoke(&self) -> bool {
        let Some(record) = REGISTRY.record(self.target.index()) else {
            return false;
        };
        let revoked = record.revoke(self.target.generation(), self.cell());
        settle_aside(record);
        match revoked {
            Some(entry) => {
                drop(settle_one(entry, ReceiptState::Revoked));
                true
            }
            None => {
                trace::too_late(self.target, self.cell());
                false
            }
        }
    }
}

impl Drop for Receipt {
    /// The last who knows of a raise leaves its cell to the next into that record.
    #[inline]
    fn drop(&mut self) {
        let last = self.cell.take_if(|cell| cell.is_alone());
        if let Some(cell) = last
            && let Some(record) = REGISTRY.record(self.target.index())
        {
            record.spare.keep(cell);
        }
    }
}

/// Ends undelivered entries: each exception's destructor, then its receipt. Called with no lock and no pin held. A
/// destructor that panics is let through once all are settled.
pub(crate) fn settle(entries: impl IntoIterator<Item = Entry>, outcome: ReceiptState) {
    let mut first_panic = None;
    for mut entry in entries {
        let settled = catch_unwind(AssertUnwindSafe(|| entry.settle(outcome)));
        let after = settled.unwrap_or_else(|panic| {
            first_panic.get_or_insert(panic);
            entry.receipt.advance(outcome)
        });
        wake_receipt(&entry.receipt, after);
    }
    if let Some(panic) = first_panic {
        resume_unwind(panic);
    }
}

/// As [`settle`], for one, which comes back empty: a destructor that panics is let through.
#[inline]
pub(crate) fn settle_one(mut entry: Entry, outcome: ReceiptState) -> Entry {
    let after = if entry.payload.has_destructor() {
        settle_value(&mut entry, outcome)
    } else {
        entry.settle(outcome)
    };
    wake_receipt(&entry.receipt, after);
    entry
}

/// One whose destructor may panic: it is let through when the receipt has been told.
#[inline(never)]
fn settle_value(entry: &mut Entry, outcome: ReceiptState) -> AfterSettle {
    catch_unwind(AssertUnwindSafe(|| entry.settle(outcome))).unwrap_or_else(|panic| {
        wake_receipt(&entry.receipt, entry.receipt.advance(outcome));
        resume_unwind(panic)
    })
}

/// Ends what letters have put out of a slot. Called with no lock and no pin held.
#[inline]
pub(crate) fn settle_aside(record: &Record) {
    if record.has_aside() {
        settle_what_is_aside(record);
    }
}

#[cold]
fn settle_what_is_aside(record: &Record) {
    for (entry, outcome) in record.take_aside() {
        settle([entry], outcome);
    }
}

#[inline]
pub(crate) fn wake_receipt(receipt: &ReceiptCell, after: AfterSettle) {
    trace::advanced(receipt);
    if after == AfterSettle::Wake {
        cold_path();
        futex::wake_all(receipt.word());
    }
}

/// The clock's value after `limit`; `None` when that is beyond the clock.
pub(crate) fn deadline_after(limit: Duration) -> Option<u64> {
    let limit = u64::try_from(limit.as_nanos()).ok()?;
    futex::now().checked_add(limit).filter(|at| *at < u64::MAX / 2)
}
