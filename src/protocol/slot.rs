//! The slot: the queue of exceptions that wait for one target.
//!
//! Owns: order, superseding, revoking, closing. Leaves to [`super::record`]: the lock around it and the `PENDING` bit.
//! Called with the record's slot lock held; allocates at most the queue's growth, drops no exception.
//!
//! **Signal context:** no, it is behind a lock.
//!
//! - I1. First in, first out.
//! - I2. At most one entry of a type and scope, unless it was raised with `queue`.
//! - I3. Every entry that leaves is handed to the caller, who settles and drops it outside the lock: no exception's
//!   `Drop` runs in here, and none runs twice.
//! - I4. The scope that an entry is addressed to is open: what comes too late is not let in (`Record::admits`), and the end
//!   of a scope takes its entries out.

use std::any::TypeId;
use std::collections::VecDeque;
use std::error::Error;
use std::panic::Location;

use super::receipt::{AfterSettle, ReceiptCell, ReceiptState};
use super::registry::ThreadId;
use super::scope::ScopeId;
use crate::sync_shim::Arc;

/// An exception on its way: a value, or the recipe that makes it in the target.
pub(crate) enum Payload {
    Value(Box<dyn Error + Send>),
    Make(fn() -> Box<dyn Error + Send>),
    /// For a whole tree or group: each target makes its own, and who is spawned while it waits inherits it.
    Spread(std::sync::Arc<dyn Fn() -> Box<dyn Error + Send> + Send + Sync>),
}

/// What is known of a raise beside the exception itself.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// The exception's type, by which a later raise supersedes an earlier one.
    pub(crate) kind: TypeId,
    pub(crate) type_name: &'static str,
    pub(crate) raised_by: Option<ThreadId>,
    pub(crate) raised_at: &'static Location<'static>,
}

/// One raised exception in a slot.
pub(crate) struct Entry {
    pub(crate) payload: Payload,
    pub(crate) origin: Origin,
    pub(crate) receipt: Arc<ReceiptCell>,
    /// Neither supersedes nor is superseded.
    pub(crate) queued: bool,
    /// The scope of the target that it is addressed to; `None` for the thread as a whole.
    pub(crate) scope: Option<ScopeId>,
}

impl Entry {
    /// A copy for a child, if the exception is one that children inherit.
    fn inherited(&self) -> Option<Self> {
        let Payload::Spread(make) = &self.payload else {
            return None;
        };
        Some(Self {
            payload: Payload::Spread(std::sync::Arc::clone(make)),
            origin: self.origin,
            receipt: Arc::new(ReceiptCell::new()),
            queued: self.queued,
            // A copy belongs to no scope: its thread is in none.
            scope: None,
        })
    }

    /// Ends an entry that left the slot undelivered. The payload is dropped here: call it with no lock held.
    pub(crate) fn settle(self, outcome: ReceiptState) -> (Arc<ReceiptCell>, AfterSettle) {
        let Self { payload, receipt, .. } = self;
        // First: who sees the outcome may rely on the destructor having run.
        drop(payload);
        let after = receipt.advance(outcome);
        (receipt, after)
    }
}

/// How a raise treats what already waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Take the place of an entry of the same type.
    Supersede,
    /// Join the end of the queue.
    Queue,
    /// Replace the whole queue, as `PyThreadState_SetAsyncExc` does.
    Replace,
}

impl Policy {
    pub(crate) fn of(queue: bool) -> Self {
        if queue { Self::Queue } else { Self::Supersede }
    }
}

/// What a push has put out of the slot.
#[must_use = "displaced entries must be settled"]
pub(crate) enum Displaced {
    Nothing,
    One(Entry),
    All(VecDeque<Entry>),
}

impl IntoIterator for Displaced {
    type Item = Entry;
    type IntoIter =
        std::iter::Chain<std::option::IntoIter<Entry>, std::collections::vec_deque::IntoIter<Entry>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, all) = match self {
            Self::Nothing => (None, VecDeque::new()),
            Self::One(entry) => (Some(entry), VecDeque::new()),
            Self::All(entries) => (None, entries),
        };
        one.into_iter().chain(all)
    }
}

/// The queue of P5.
pub(crate) struct Slot {
    queue: VecDeque<Entry>,
    /// How many entries were ever put in, modulo 2^32.
    pushes: u32,
    closed: bool,
}

impl Slot {
    pub(crate) const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            pushes: 0,
            closed: true,
        }
    }

    pub(crate) fn open(&mut self) {
        self.closed = false;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn pushes(&self) -> u32 {
        self.pushes
    }

    /// Copies of what a child inherits.
    pub(crate) fn inheritance(&self) -> Vec<Entry> {
        self.queue.iter().filter_map(Entry::inherited).collect()
    }

    /// Puts `entry` in. Gives back what it displaced, for the caller to settle as superseded.
    pub(crate) fn push(&mut self, mut entry: Entry, policy: Policy) -> Displaced {
        self.pushes = self.pushes.wrapping_add(1);
        match policy {
            Policy::Replace => {
                let displaced = std::mem::take(&mut self.queue);
                self.queue.push_back(entry);
                Displaced::All(displaced)
            }
            Policy::Supersede => {
                let twin = self
                    .queue
                    .iter_mut()
                    .find(|e| !e.queued && e.origin.kind == entry.origin.kind && e.scope == entry.scope);
                if let Some(place) = twin {
                    std::mem::swap(place, &mut entry);
                    Displaced::One(entry)
                } else {
                    self.queue.push_back(entry);
                    Displaced::Nothing
                }
            }
            Policy::Queue => {
                self.queue.push_back(entry);
                Displaced::Nothing
            }
        }
    }

    pub(crate) fn take_first(&mut self) -> Option<Entry> {
        self.queue.pop_front()
    }

    /// Takes out what is addressed to `scope`.
    #[must_use = "what is taken out must be settled"]
    pub(crate) fn take_of(&mut self, scope: ScopeId) -> VecDeque<Entry> {
        if self.queue.iter().all(|entry| entry.scope != Some(scope)) {
            return VecDeque::new();
        }
        let (of, others) = self.queue.drain(..).partition(|entry| entry.scope == Some(scope));
        self.queue = others;
        of
    }

    /// The entry of this receipt, if it still waits.
    pub(crate) fn remove(&mut self, receipt: &Arc<ReceiptCell>) -> Option<Entry> {
        let at = self
            .queue
            .iter()
            .position(|entry| Arc::ptr_eq(&entry.receipt, receipt))?;
        self.queue.remove(at)
    }

    #[must_use = "drained entries must be settled"]
    pub(crate) fn drain(&mut self) -> VecDeque<Entry> {
        std::mem::take(&mut self.queue)
    }

    /// Refuses every later push and hands over what waits.
    #[must_use = "drained entries must be settled"]
    pub(crate) fn close(&mut self) -> VecDeque<Entry> {
        self.closed = true;
        self.drain()
    }
}
