//! Poison: which labels name a library that a call was torn out of.
//!
//! Owns: the set. Leaves to `foreign` when a label is poisoned and what is refused for it.
//! Anyone may call; blocks on one lock, and only once a label has been poisoned.
//!
//! **Signal context:** no.
//!
//! - I1. `any` is 0 while the set is empty and all ones while it is not; both change under the lock.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `any` Relaxed | `lets`, `is_empty`, `has` Relaxed | a thread that was told of a poisoned label by another has synchronized with it |

use crate::sync_shim::{AtomicU64, Guard, Mutex, Ordering, const_constructor, lock};

/// A set of labels that is nearly always empty.
pub(crate) struct Poison {
    any: AtomicU64,
    labels: Mutex<Vec<&'static str>>,
}

impl Poison {
    const_constructor! {
        pub(crate) fn new() -> Self {
            Self {
                any: AtomicU64::new(0),
                labels: Mutex::new(Vec::new()),
            }
        }
    }

    /// Whether nothing is poisoned and `word` is not 0, unless it is all ones: two questions for the price of one.
    #[inline(always)]
    pub(crate) fn lets(&self, word: u64) -> bool {
        word > self.any.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.any.load(Ordering::Relaxed) == 0
    }

    /// One load while nothing is poisoned.
    #[inline(always)]
    pub(crate) fn has(&self, label: &str) -> bool {
        !self.is_empty() && self.lists(label)
    }

    #[cold]
    fn lists(&self, label: &str) -> bool {
        lock(&self.labels).contains(&label)
    }

    pub(crate) fn add(&self, label: &'static str) {
        let mut labels = lock(&self.labels);
        if !labels.contains(&label) {
            labels.push(label);
            self.any.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// Keeps everybody else out while the process forks.
    pub(crate) fn hold(&self) -> Guard<'_, Vec<&'static str>> {
        lock(&self.labels)
    }

    /// `false` if it was not there.
    #[must_use]
    pub(crate) fn remove(&self, label: &str) -> bool {
        let mut labels = lock(&self.labels);
        let before = labels.len();
        labels.retain(|listed| *listed != label);
        if labels.is_empty() {
            self.any.store(0, Ordering::Relaxed);
        }
        labels.len() != before
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Shows protocol::poison I1.
    #[test]
    fn a_label_is_poisoned_once_and_cleared_once() {
        let poison = Poison::new();
        assert!(!poison.has("a") && !poison.remove("a"));
        assert!(poison.lets(1) && !poison.lets(0));
        poison.add("a");
        poison.add("a");
        poison.add("b");
        assert!(poison.has("a") && poison.has("b") && !poison.has("c"));
        assert!(poison.remove("a") && !poison.has("a") && poison.has("b"));
        assert!(!poison.lets(1) && !poison.lets(u64::MAX - 1));
        assert!(!poison.remove("a") && poison.remove("b") && !poison.has("b"));
        assert!(poison.lets(1) && !poison.lets(0));
    }
}
