//! Whom a signal is raised in: threads that match, a group, or a tree.
//!
//! Owns: [`Reach`], who is there at a press, and the raise into them. Leaves to `raise` and `tree` each raise, to
//! `signal::presses` the counting. Called by the subscription's thread, which is attached nowhere: it reaches nobody by
//! accident.
//!
//! **Signal context:** no.

use std::panic::Location;

use crate::current::with_members;
use crate::exception::{Broadcast, ExcType};
use crate::protocol::registry::{Members, ThreadId};
use crate::protocol::slot::Policy;
use crate::raise::{Target, is_alive, raise_all};
use crate::receipt::Receipt;
use crate::thread::ThreadGroup;
use crate::tree::spread;

/// Whom a signal is raised in. Made from whatever is a [`Target`], from a [`ThreadGroup`], or by [`Reach::tree`].
///
/// Who belongs is asked at each arrival of the signal, so threads that are started later belong too.
///
/// ```
/// use throwto::{signal::Reach, thread::ThreadGroup};
/// let by_name = Reach::from("worker");
/// let group = Reach::from(&ThreadGroup::new());
/// let all_below = Reach::tree("main");
/// # drop((by_name, group, all_below));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reach {
    /// Every attached thread that matches.
    Matches(Target),
    /// Every thread of the group, as [`ThreadGroup::raise`] reaches them.
    Group(ThreadGroup),
    /// Every attached thread that matches, and all below it, as [`Raise::tree`](crate::Raise::tree) reaches them.
    Tree(Target),
}

impl<T: Into<Target>> From<T> for Reach {
    fn from(target: T) -> Self {
        Self::Matches(target.into())
    }
}

impl From<ThreadGroup> for Reach {
    fn from(group: ThreadGroup) -> Self {
        Self::Group(group)
    }
}

impl From<&ThreadGroup> for Reach {
    fn from(group: &ThreadGroup) -> Self {
        Self::Group(group.clone())
    }
}

impl Reach {
    /// A thread and all below it. A thread that has ended has no tree: for threads that outlive whoever spawned them use
    /// a [`ThreadGroup`].
    ///
    /// ```
    /// use throwto::{ExcType, Interrupted, signal, thread};
    /// const SIGINT: i32 = 2;
    /// let root = thread::spawn(|| {
    ///     let child = thread::spawn(thread::park);
    ///     let mine = thread::park();
    ///     (mine, throwto::uninterruptible(|_| child.join()).unwrap())
    /// });
    /// # while !throwto::threads().iter().any(|t| t.parent == Some(root.id())) { std::thread::yield_now() }
    /// let _ctrl_c = signal::on(SIGINT, signal::Reach::tree(&root), ExcType::of::<Interrupted>())?;
    /// signal_hook::low_level::raise(SIGINT)?;
    /// let (root, child) = root.join().unwrap();
    /// assert!(root.is_err() && child.is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn tree(root: impl Into<Target>) -> Self {
        Self::Tree(root.into())
    }

    /// Who is there now.
    pub(super) fn resolve(&self) -> Vec<ThreadId> {
        let mut there = match self {
            Self::Matches(target) => return target.resolve(),
            Self::Group(group) => group.ids(),
            Self::Tree(roots) => with_members(|members| trees(roots, members)),
        };
        there.retain(|id| is_alive(*id));
        there
    }

    /// Raises in all of them: in a group and in trees as one step for everybody who is born.
    #[track_caller]
    pub(super) fn raise(&self, exc: ExcType) -> Vec<Receipt> {
        match self {
            Self::Matches(target) => raise_all(target.clone(), exc),
            Self::Group(group) => group.raise(exc),
            Self::Tree(roots) => spread(
                &exc.into_broadcast(),
                Policy::Supersede,
                Location::caller(),
                |members| trees(roots, members),
            ),
        }
    }
}

/// Each thread once, should one root be in the tree of another.
fn trees(roots: &Target, members: &Members) -> Vec<ThreadId> {
    let mut all: Vec<ThreadId> = Vec::new();
    for root in roots.matches(members) {
        // A tree that is in another one brings nobody new.
        if !all.contains(&root.id) {
            let below = members.tree(root.id);
            all.retain(|id| !below.contains(id));
            all.extend(below);
        }
    }
    all
}
