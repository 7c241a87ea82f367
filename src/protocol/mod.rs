//! The portable core: what a target and its raisers agree on. No operating system, no clock.
//!
//! Owns: records, slots, receipts, the registry, and every transition between their states. Leaves to the face and the
//! platform: performing the duties that transitions return.
//!
//! **Signal context:** see each file.
//!
//! The life of a raise, each arrow with the function that makes it:
//!
//! ```text
//!            (1) Record::raise                 (2) Owner::take_pending         (3) Raised dropped, downcast
//!   raiser ------------------> in the slot --------------------------> Raised -------------------------> Caught
//!                               |   |   |
//!        (4) Record::raise of   |   |   |  (6) Owner::close
//!            the same type      |   |   +-----------------> TargetEnded
//!                               |   |  (5) Record::revoke
//!                  Superseded <-+   +-----------------> Revoked
//! ```
//!
//! The end of a scope (`scope`) is one more way from the slot to `TargetEnded`.
//!
//! The life of a record:
//!
//! ```text
//!   vacant --(a) Registry::register--> open --(b) Owner::begin_exit--> exiting --(c) Owner::close--> closed
//!      ^                                                              (waits for pins)                  |
//!      +---------------------------------(d) Registry::release, next generation -------------------------+
//! ```

pub(crate) mod deadline;
pub(crate) mod duty;
pub(crate) mod entry;
pub(crate) mod flight;
pub(crate) mod ladder;
pub(crate) mod lineage;
pub(crate) mod lock_word;
mod mail;
pub(crate) mod notes;
pub(crate) mod order;
pub(crate) mod owner;
pub(crate) mod payload;
mod pile;
pub(crate) mod pin;
pub(crate) mod poison;
pub(crate) mod receipt;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod scope;
mod scope_table;
pub(crate) mod slot;
pub(crate) mod thread_id;
pub(crate) mod wait;
pub(crate) mod word;

#[allow(unused_imports, reason = "the face's, which models do without")]
pub(crate) use crate::sync_shim::{Guard, Hold, Owing, on_top_of_a_lock};

#[cfg(all(test, not(loom)))]
mod tests;
