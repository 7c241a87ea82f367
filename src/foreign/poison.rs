//! Labels of calls that were abandoned, until somebody says that their library has been set up anew.
//!
//! Owns: the process's list. Leaves to `protocol::poison` its two words, to `forced` adding to it.
//!
//! **Signal context:** no.

use crate::protocol::poison::Poison;

pub(super) static POISON: Poison = Poison::new();

/// Whether a call with this label was abandoned, and nobody has [cleared](clear_poison) that.
///
/// ```
/// assert!(!throwto::foreign::is_poisoned("sqlite3_step"));
/// ```
#[inline(always)]
pub fn is_poisoned(label: &str) -> bool {
    POISON.has(label)
}

/// Says that the library behind `label` has been set up anew, or does not mind having been left in the middle of a call.
/// `false` if it was not poisoned.
///
/// ```
/// assert!(!throwto::foreign::clear_poison("sqlite3_step"));
/// ```
pub fn clear_poison(label: &str) -> bool {
    POISON.remove(label)
}

/// Keeps everybody out of the poisoned labels while the process forks.
pub(crate) fn hold_for_fork() -> crate::protocol::Guard<'static, Vec<&'static str>> {
    POISON.hold()
}
