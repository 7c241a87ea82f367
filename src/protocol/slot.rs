//! The slot: the queue of exceptions that wait for one target.
//!
//! Owns: order, superseding, revoking, closing. Leaves to [`super::record`]: the lock around it and the `PENDING` bit.
//! Called with the record's slot lock held; allocates for a second entry and the queue's growth behind it, drops no exception.
//!
//! **Signal context:** no, it is behind a lock.
//!
//! - I1. First in, first out.
//! - I2. At most one entry of a type and scope, unless it was raised with `queue`.
//! - I3. Every entry that leaves is handed to the caller, who settles and drops it outside the lock: no exception's
//!   `Drop` runs in here, and none runs twice.
//! - I4. The scope that an entry is addressed to is open: what comes too late is not let in (`Record::admits`), and the end
//!   of a scope takes its entries out.

use std::collections::VecDeque;
use std::hint::cold_path;

use super::entry::{Entry, ReceiptRef};
use super::scope::ScopeId;

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

/// Entries in their order: those in a slot, or what has left it at once. Most queues are of one: the first is in place, and only those behind it allocate room.
#[must_use = "what has left a slot must be settled"]
pub(crate) struct Queue {
    /// `None` if the queue is empty, and then `rest` is empty too.
    first: Option<Entry>,
    #[expect(
        clippy::box_collection,
        reason = "a record has one word for it, which nearly none of them needs"
    )]
    rest: Option<Box<VecDeque<Entry>>>,
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            rest: None,
        }
    }

    #[inline]
    pub(crate) const fn of(entry: Entry) -> Self {
        Self {
            first: Some(entry),
            rest: None,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Itself, if there is anything in it. Most are empty: for those nothing is to be dropped either.
    #[inline(always)]
    pub(crate) fn unless_empty(self) -> Option<Self> {
        if self.first.is_none() && self.rest.is_none() {
            std::mem::forget(self);
            None
        } else {
            Some(self)
        }
    }

    /// The only one, or the queue again if it is not of one.
    #[inline]
    pub(crate) fn single(self) -> Result<Entry, Self> {
        match self {
            Self {
                first: Some(only),
                rest: None,
            } => Ok(only),
            queue => Err(queue),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.first
            .iter()
            .chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    #[inline]
    fn push_back(&mut self, entry: Entry) {
        if self.first.is_none() {
            self.first = Some(entry);
        } else {
            self.rest.get_or_insert_default().push_back(entry);
        }
    }

    #[inline]
    fn pop_front(&mut self) -> Option<Entry> {
        let first = self.first.take();
        if let Some(rest) = &mut self.rest {
            cold_path();
            self.first = rest.pop_front();
        }
        first
    }

    /// The entry that a raise of this one supersedes.
    #[inline]
    fn twin(&mut self, of: &Entry) -> Option<&mut Entry> {
        let is = |e: &Entry| !e.queued && e.origin.kind.is(of.origin.kind) && e.scope == of.scope;
        match (&mut self.first, &mut self.rest) {
            (Some(first), _) if is(first) => Some(first),
            (_, Some(rest)) => rest.iter_mut().find(|entry| is(entry)),
            (_, None) => None,
        }
    }

    fn remove(&mut self, receipt: &ReceiptRef) -> Option<Entry> {
        if self.first.as_ref()?.receipt.is(receipt) {
            return self.pop_front();
        }
        let rest = self.rest.as_mut()?;
        let at = rest.iter().position(|entry| entry.receipt.is(receipt))?;
        rest.remove(at)
    }
}

impl IntoIterator for Queue {
    type Item = Entry;
    type IntoIter =
        std::iter::Chain<std::option::IntoIter<Entry>, std::collections::vec_deque::IntoIter<Entry>>;

    fn into_iter(self) -> Self::IntoIter {
        let rest = self.rest.map(|rest| *rest).unwrap_or_default();
        self.first.into_iter().chain(rest)
    }
}

impl Extend<Entry> for Queue {
    fn extend<T: IntoIterator<Item = Entry>>(&mut self, entries: T) {
        entries.into_iter().for_each(|entry| self.push_back(entry));
    }
}

impl FromIterator<Entry> for Queue {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut queue = Self::new();
        queue.extend(entries);
        queue
    }
}

/// The queue of P5.
pub(crate) struct Slot {
    queue: Queue,
    /// How many entries were ever put in, modulo 2^32.
    pushes: u32,
    closed: bool,
}

impl Slot {
    pub(crate) const fn new() -> Self {
        Self {
            queue: Queue::new(),
            pushes: 0,
            closed: true,
        }
    }

    pub(crate) fn open(&mut self) {
        self.closed = false;
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
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
    #[inline(always)]
    pub(crate) fn push(&mut self, entry: Entry, policy: Policy) -> Queue {
        self.pushes = self.pushes.wrapping_add(1);
        if self.queue.is_empty() {
            self.queue.first = Some(entry);
            Queue::new()
        } else {
            self.push_to_others(entry, policy)
        }
    }

    #[inline(never)]
    fn push_to_others(&mut self, mut entry: Entry, policy: Policy) -> Queue {
        match policy {
            Policy::Replace => return std::mem::replace(&mut self.queue, Queue::of(entry)),
            Policy::Supersede => {
                if let Some(place) = self.queue.twin(&entry) {
                    std::mem::swap(place, &mut entry);
                    return Queue::of(entry);
                }
            }
            Policy::Queue => {}
        }
        self.queue.push_back(entry);
        Queue::new()
    }

    #[inline]
    pub(crate) fn take_first(&mut self) -> Option<Entry> {
        self.queue.pop_front()
    }

    /// Takes out what is addressed to `scope`.
    #[must_use = "what is taken out must be settled"]
    pub(crate) fn take_of(&mut self, scope: ScopeId) -> Queue {
        if self.queue.iter().all(|entry| entry.scope != Some(scope)) {
            return Queue::new();
        }
        let (of, others) = self
            .drain()
            .into_iter()
            .partition::<Vec<_>, _>(|entry| entry.scope == Some(scope));
        self.queue.extend(others);
        of.into_iter().collect()
    }

    /// The entry of this receipt, if it still waits.
    pub(crate) fn remove(&mut self, receipt: &ReceiptRef) -> Option<Entry> {
        self.queue.remove(receipt)
    }

    #[must_use = "drained entries must be settled"]
    pub(crate) fn drain(&mut self) -> Queue {
        std::mem::replace(&mut self.queue, Queue::new())
    }

    /// Refuses every later push and hands over what waits.
    #[must_use = "drained entries must be settled"]
    pub(crate) fn close(&mut self) -> Queue {
        self.closed = true;
        self.drain()
    }
}
