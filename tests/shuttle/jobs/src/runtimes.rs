//! The list of runtimes, as `src/tokio/runtimes.rs` has it: its lock is a static, which would be one for all plays.
//!
//! **Signal context:** no.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::tokio::runtime::Id;

use super::group::Group;

type List = Mutex<Vec<(Id, Arc<Group>)>>;

// All threads of one play run on one thread of the system.
std::thread_local! {
    static RUNTIMES: Cell<Option<&'static List>> = const { Cell::new(None) };
}

/// A list for a new play. Leaked: it is small, and looks like a static to the source.
pub(crate) fn begin() {
    RUNTIMES.set(Some(Box::leak(Box::default())));
}

pub(super) fn runtimes() -> MutexGuard<'static, Vec<(Id, Arc<Group>)>> {
    let list = RUNTIMES.get().expect("a play has begun");
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn are_over() -> bool {
    runtimes().is_empty()
}
