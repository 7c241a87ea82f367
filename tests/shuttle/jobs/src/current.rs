//! Who the threads of a play are: ids that are never used twice, and at times none to be had.
//!
//! **Signal context:** no.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;

use crate::error::AttachError;
use crate::protocol::registry::ThreadId;
use crate::scope::mine;

// All threads of one play run on one thread of the system.
std::thread_local! {
    static LIVE: RefCell<HashSet<u64>> = RefCell::default();
    static LAST: Cell<u64> = const { Cell::new(0) };
    static LEFT_BEHIND: Cell<u64> = const { Cell::new(0) };
    static REFUSED: Cell<u32> = const { Cell::new(0) };
}

/// Nobody is attached, and so many are to be refused.
pub(crate) fn begin(refused: u32) {
    LIVE.take();
    LEFT_BEHIND.set(0);
    REFUSED.set(refused);
}

pub(crate) fn live() -> usize {
    LIVE.with_borrow(HashSet::len)
}

pub(crate) fn left_behind() -> u64 {
    LEFT_BEHIND.get()
}

pub(crate) fn is_live(thread: ThreadId) -> bool {
    LIVE.with_borrow(|live| live.contains(&thread.0))
}

pub(crate) fn owner() -> Option<ThreadId> {
    mine(|me| me.id.map(ThreadId))
}

pub(crate) fn register(
    _name: Option<Arc<str>>,
    _: Option<()>,
    _: Option<()>,
) -> Result<ThreadId, AttachError> {
    if let Some(left) = REFUSED.get().checked_sub(1) {
        REFUSED.set(left);
        return Err(AttachError::Refused);
    }
    LAST.set(LAST.get() + 1);
    LIVE.with_borrow_mut(|live| live.insert(LAST.get()));
    Ok(ThreadId(LAST.get()))
}

pub(crate) fn adopt(id: ThreadId) -> Attachment {
    mine(|me| assert!(me.id.replace(id.0).is_none(), "a thread with two ids"));
    Attachment(id)
}

pub(crate) fn attach() -> Result<Attachment, AttachError> {
    register(None, None, None).map(adopt)
}

pub(crate) fn attach_named(_name: Option<&Arc<str>>) -> Result<Attachment, AttachError> {
    attach()
}

pub(crate) struct Attachment(ThreadId);

impl Attachment {
    pub(crate) fn id(&self) -> ThreadId {
        self.0
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        mine(|me| me.id = None);
        LIVE.with_borrow_mut(|live| live.remove(&self.0.0));
    }
}

/// Of no use to a pool of our own.
pub(crate) struct Apart(Attachment);

impl Apart {
    pub(crate) fn id(&self) -> ThreadId {
        self.0.id()
    }
}

pub(crate) fn set_apart(_label: Option<Arc<str>>) -> Result<Apart, AttachError> {
    attach().map(Apart)
}

pub(crate) struct Registry;

pub(crate) static REGISTRY: Registry = Registry;

impl Registry {
    pub(crate) fn leave_behind(&self, _thread: ThreadId) {
        LEFT_BEHIND.set(LEFT_BEHIND.get() + 1);
    }
}
