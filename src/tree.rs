//! Raising into many threads as one: a thread and all below it, or a group.
//!
//! Owns: [`RaiseTree`], and the raise that groups share. Leaves to `protocol::lineage` who belongs, to `raise` each raise.
//! Blocks on no other thread but for short locks.
//!
//! **Signal context:** no.
//!
//! ## How a child cannot slip away
//!
//! 1. Under the registry's lock the exception is put into the slot of every thread that belongs. Nothing of the
//!    exception's runs there: what it makes for a target is made in the target.
//! 2. The lock is let go; then targets are woken and nudged, and what was pushed aside is dropped.
//! 3. Who is spawned before (1) is in the tree. Who is spawned after it by a thread in whose slot the exception still
//!    waits is born with a copy, under the same lock. Who is spawned later is spawned by a thread that has met the
//!    exception: it has caught it, and knows what it does.
//!
//! So a storm of spawning threads is over as soon as each has come by a safepoint, however long that takes it.

use std::panic::Location;

use crate::current::with_members;
use crate::error::RaiseError;
use crate::exception::{Broadcast, Spreadable};
use crate::protocol::registry::{Members, ThreadId};
use crate::protocol::slot::Policy;
use crate::raise::{Raise, Target, is_alive, push, settle_all};
use crate::receipt::Receipt;

/// A raise that reaches a whole tree: made by [`Raise::tree`].
#[derive(Debug)]
#[must_use = "nothing is raised before `to`"]
pub struct RaiseTree {
    exception: Spreadable,
    policy: Policy,
    at: &'static Location<'static>,
}

impl<E: Broadcast> Raise<E> {
    /// Raises in the target and in every thread below it: its children, theirs, and so on.
    ///
    /// A thread's children are those that it has spawned by this crate while attached. When a thread ends, its children
    /// stay in the trees that it was in: they go to its own parent, as far as that one lives.
    ///
    /// ```
    /// use throwto::{Raise, Stop, thread};
    /// let root = thread::spawn(|| {
    ///     let child = thread::spawn(|| thread::sleep(std::time::Duration::from_secs(3600)));
    ///     let first = thread::park();
    ///     (first, throwto::uninterruptible(|_| child.join()).unwrap())
    /// });
    /// # while !throwto::threads().iter().any(|t| t.parent == Some(root.id())) { std::thread::yield_now() }
    /// let receipts = Raise::new(Stop).tree().to(&root)?;
    /// assert_eq!(receipts.len(), 2);
    /// let (in_root, in_child) = root.join()?;
    /// assert!(in_root.unwrap_err().is::<Stop>() && in_child.unwrap_err().is::<Stop>());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tree(self) -> RaiseTree {
        RaiseTree {
            exception: self.exception.into_broadcast(),
            policy: Policy::of(self.queue),
            at: self.at,
        }
    }
}

impl RaiseTree {
    /// Raises in the one live thread that matches and in every thread below it, all at once. One receipt for each, the
    /// root's first.
    ///
    /// Nobody slips away by being spawned meanwhile. A child spawned later by a thread that has the exception still
    /// pending is born with it too, without a receipt, unless it is spawned in an
    /// [`uninterruptible`](crate::uninterruptible) or shielded part. The caller may be in the tree: it meets the exception
    /// at its own next safepoint.
    ///
    /// # Errors
    /// As [`raise_exc`](crate::raise_exc), for the root. A thread that has ended has no tree: raise into the one above it,
    /// or use a [`ThreadGroup`](crate::thread::ThreadGroup).
    ///
    /// ```
    /// let attachment = throwto::attach()?;
    /// let receipts = throwto::Raise::new(throwto::Stop).tree().to(attachment.id())?;
    /// assert_eq!((receipts.len(), receipts[0].target()), (1, attachment.id()));
    /// assert!(throwto::safepoint().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to(self, target: impl Into<Target>) -> Result<Vec<Receipt>, RaiseError> {
        let target = target.into();
        let mut matched = 0;
        let receipts = spread(&self.exception, self.policy, self.at, |members| {
            let alive: Vec<ThreadId> = target
                .matches(members)
                .map(|m| m.id)
                .filter(|id| is_alive(*id))
                .collect();
            matched = alive.len();
            match alive[..] {
                [root] => members.tree(root),
                _ => Vec::new(),
            }
        });
        match matched {
            0 | 1 if receipts.is_empty() => Err(RaiseError::NoSuchThread { asked: target }),
            1 => Ok(receipts),
            _ => Err(RaiseError::Ambiguous { matched }),
        }
    }
}

/// Raises in all whom `choose` names, as one step for everybody who is born or ends. Who was leaving gets none.
pub(crate) fn spread(
    exception: &Spreadable,
    policy: Policy,
    at: &'static Location<'static>,
    choose: impl FnOnce(&Members) -> Vec<ThreadId>,
) -> Vec<Receipt> {
    let pushed: Vec<_> = with_members(|members| {
        let chosen = choose(members).into_iter();
        chosen
            .filter_map(|id| push(id, None, exception.raisable(), policy, at).ok())
            .collect()
    });
    // All are woken before anything is dropped: a destructor may wait for any of them.
    let (posted, owed): (Vec<_>, Vec<_>) = pushed.into_iter().unzip();
    owed.into_iter().for_each(|owed| owed.perform());
    settle_all(posted)
}
