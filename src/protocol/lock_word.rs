//! [`LockWord`]: whether a lock is held, and whether somebody may be waiting for it.
//!
//! Owns: the word and its transitions. Leaves to `sync::mutex` the queue, the waiting and the data.
//! Anyone may call, on any thread; nothing blocks or allocates.
//!
//! **Signal context:** no need; nothing here would forbid it.
//!
//! ```text
//!              (1) take                  (2) take_or_mark
//!    free ----------------> held ----------------------------> contended
//!     ^  |                   |                                  |     ^
//!     |  +------- (2) take_or_mark: taken, and contended -------|-----+
//!     +-------- (3) release: Nothing                            |
//!     +-------- (3) release: Notify <---------------------------+
//! ```
//!
//! - I1. *No lost wake-up.* Who waits first joins the queue (under the queue's lock), then marks; who releases first
//!   frees the word, then looks into the queue (under that lock). Both change the one word by read-modify-writes, which
//!   have one order: either the mark comes first, and the release is told to notify and finds the waiter (were its look
//!   before the joining, the queue's lock would put the release before the mark), or the release comes first, and
//!   `take_or_mark` takes the lock.
//! - I2. Who comes from the queue takes the lock as contended, since it does not know whether it was the last: the price
//!   is one look into an empty queue when it was.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `release` Release | `take`, `take_or_mark` Acquire | who takes the lock sees what the last holder did |

use crate::sync_shim::{AtomicU32, Ordering, const_constructor};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// One lock's state.
#[derive(Debug)]
pub(crate) struct LockWord {
    word: AtomicU32,
}

/// What came of trying to take the lock.
#[must_use = "a lock that was taken must be released"]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Take {
    Taken,
    /// Somebody holds it.
    Held,
}

/// What the releaser owes.
#[must_use = "a waiter sleeps until it is woken"]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterRelease {
    Nothing,
    /// Somebody may wait: notify one.
    Notify,
}

impl LockWord {
    const_constructor! {
        pub(crate) fn new() -> Self { Self { word: AtomicU32::new(FREE) } }
    }

    /// Transition (1).
    #[inline(always)]
    pub(crate) fn take(&self) -> Take {
        // Acquire: partner of `release`.
        match self
            .word
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Take::Taken,
            Err(_) => Take::Held,
        }
    }

    /// Transition (2): for who is in the queue. If it is not taken, the holder will notify.
    pub(crate) fn take_or_mark(&self) -> Take {
        // Acquire: partner of `release`.
        if self.word.swap(CONTENDED, Ordering::Acquire) == FREE {
            Take::Taken
        } else {
            Take::Held
        }
    }

    /// Transition (3).
    #[inline(always)]
    pub(crate) fn release(&self) -> AfterRelease {
        // Release: partner of `take` and `take_or_mark`.
        if self.word.swap(FREE, Ordering::Release) == CONTENDED {
            AfterRelease::Notify
        } else {
            AfterRelease::Nothing
        }
    }

    /// Whether it is worth a moment's spinning: held, and nobody waits.
    pub(crate) fn is_merely_held(&self) -> bool {
        self.word.load(Ordering::Relaxed) == HELD
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_a_marked_lock_asks_for_a_notification() {
        let word = LockWord::new();
        assert_eq!(word.take(), Take::Taken);
        assert!(word.is_merely_held());
        assert_eq!(word.release(), AfterRelease::Nothing);
        assert_eq!(word.take(), Take::Taken);
        assert_eq!(word.take_or_mark(), Take::Held);
        assert!(!word.is_merely_held());
        assert_eq!(word.release(), AfterRelease::Notify);
    }

    /// Shows protocol::lock_word I2.
    #[test]
    fn who_comes_from_the_queue_leaves_the_mark_for_the_next() {
        let word = LockWord::new();
        assert_eq!(word.take_or_mark(), Take::Taken);
        assert_eq!(word.take(), Take::Held);
        assert_eq!(word.release(), AfterRelease::Notify);
        assert_eq!(word.take(), Take::Taken);
    }
}
