//! The runtimes that have blocking tasks of ours.
//!
//! Owns: the list. Leaves to `live` who comes in and who goes. Blocks for a short lock.
//!
//! **Signal context:** no.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::tokio::runtime::Id;

use super::group::Group;

/// Each with its tasks. A process has few: looked through from the front.
static RUNTIMES: Mutex<Vec<(Id, Arc<Group>)>> = Mutex::new(Vec::new());

pub(super) fn runtimes() -> MutexGuard<'static, Vec<(Id, Arc<Group>)>> {
    RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner)
}
