//! Lineage: whose child a thread is, and which groups it belongs to.
//!
//! Owns: the tree of living threads and the chain of groups. Leaves to [`super::registry`] the members and the lock that
//! all of this is read and changed under, to [`super::record`] what a child inherits. Nothing here blocks; birth into a
//! group may allocate.
//!
//! **Signal context:** no, it is behind a lock.
//!
//! - I1. An ancestor is a member: when one ends, its children go to its own ancestor. So they stay in every tree that they
//!   were in whose root still lives.
//! - I2. A child is in every group of its parent, whatever became of the parent since, and in the group that it was
//!   spawned in.
//! - I3. Who raises into a tree or a group pushes into every slot of it under the registry's lock, and who is born takes
//!   over under the same lock what waits for the tree in its parent's slot. So nobody is born between the two.

use std::sync::Arc;

use super::registry::{Member, Members, ThreadId};

/// What makes a group one: its address.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Option<String>,
}

/// A group that a thread belongs to by being spawned in it.
pub(crate) type GroupKey = Arc<Group>;

/// The groups of a thread, the latest first. Shared with its children.
#[derive(Clone)]
struct Chain {
    group: GroupKey,
    outer: Option<Arc<Chain>>,
}

/// A member's place among the others.
#[derive(Clone, Default)]
pub(crate) struct Lineage {
    /// Who spawned it, as long as it lives.
    pub(super) parent: Option<ThreadId>,
    /// The nearest of its parents that is a member.
    pub(super) ancestor: Option<ThreadId>,
    /// How many members have this one as their ancestor.
    heirs: u32,
    groups: Option<Arc<Chain>>,
}

impl Lineage {
    fn is_in(&self, group: &GroupKey) -> bool {
        let mut chain = self.groups.as_ref();
        while let Some(link) = chain {
            if Arc::ptr_eq(&link.group, group) {
                return true;
            }
            chain = link.outer.as_ref();
        }
        false
    }
}

impl Members {
    /// The lineage of a child that is about to be registered.
    pub(super) fn born(&mut self, parent: Option<ThreadId>, group: Option<&GroupKey>) -> Lineage {
        let mut lineage = Lineage {
            parent,
            ..Lineage::default()
        };
        if let Some(elder) = parent.and_then(|id| self.member_mut(id)) {
            elder.lineage.heirs += 1;
            lineage.ancestor = parent;
            lineage.groups.clone_from(&elder.lineage.groups);
        }
        if let Some(group) = group.filter(|group| !lineage.is_in(group)) {
            lineage.groups = Some(Arc::new(Chain {
                group: Arc::clone(group),
                outer: lineage.groups.take(),
            }));
        }
        lineage
    }

    /// Keeps I1 when `dead` has been taken out. Looks at all members if it had children.
    pub(super) fn died(&mut self, dead: &Member) {
        let next = dead.lineage.ancestor;
        if dead.lineage.heirs > 0 {
            for member in self.by_index.iter_mut().flatten() {
                if member.lineage.ancestor == Some(dead.id) {
                    member.lineage.ancestor = next;
                }
            }
        }
        if let Some(elder) = next.and_then(|id| self.member_mut(id)) {
            elder.lineage.heirs += dead.lineage.heirs;
            elder.lineage.heirs -= 1;
        }
    }

    fn member_mut(&mut self, id: ThreadId) -> Option<&mut Member> {
        let place = self.by_index.get_mut(id.index() as usize)?;
        place.as_mut().filter(|member| member.id == id)
    }

    /// `root`, if it is a member, and all whose ancestors lead to it.
    pub(crate) fn tree(&self, root: ThreadId) -> Vec<ThreadId> {
        if self.get(root).is_none() {
            return Vec::new();
        }
        // Each member is passed once: a way up ends where the answer is known.
        let mut known = vec![None; self.by_index.len()];
        known[root.index() as usize] = Some(true);
        let mut way = Vec::new();
        for member in self.iter() {
            let mut at = Some(member);
            let inside = loop {
                let Some(here) = at else { break false };
                let index = here.id.index() as usize;
                if let Some(answer) = known[index] {
                    break answer;
                }
                way.push(index);
                at = here.lineage.ancestor.and_then(|id| self.get(id));
            };
            for index in way.drain(..) {
                known[index] = Some(inside);
            }
        }
        let inside = |member: &&Member| known[member.id.index() as usize] == Some(true);
        let below = self.iter().filter(inside).map(|member| member.id);
        std::iter::once(root)
            .chain(below.filter(|id| *id != root))
            .collect()
    }

    /// The members of a group.
    pub(crate) fn in_group(&self, group: &GroupKey) -> impl Iterator<Item = &Member> {
        self.iter().filter(move |member| member.lineage.is_in(group))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::protocol::registry::Registry;
    use std::collections::HashSet;

    fn group() -> GroupKey {
        Arc::new(Group { name: None })
    }

    fn set(ids: impl IntoIterator<Item = ThreadId>) -> HashSet<ThreadId> {
        ids.into_iter().collect()
    }

    #[test]
    fn a_tree_is_its_root_and_all_below_it() {
        let registry = Registry::new();
        let birth = |parent| registry.register(None, parent, None, 100).unwrap();
        let [root, other] = [birth(None), birth(None)];
        let [a, b] = [birth(Some(root)), birth(Some(root))];
        let below = birth(Some(a));
        birth(Some(other));
        let members = registry.members();
        assert_eq!(set(members.tree(root)), set([root, a, b, below]));
        assert_eq!(members.tree(root)[0], root);
        assert_eq!(set(members.tree(a)), set([a, below]));
    }

    /// Shows protocol::lineage I1.
    #[test]
    fn orphans_stay_in_the_tree_of_the_ancestor_that_lives() {
        let registry = Registry::new();
        let birth = |parent| registry.register(None, parent, None, 100).unwrap();
        let root = birth(None);
        let mut line = vec![root];
        for _ in 0..50 {
            line.push(birth(line.last().copied()));
        }
        let last = *line.last().unwrap();
        // From both ends of the middle, so that heirs are handed on twice.
        for id in line[1..25].iter().chain(line[25..50].iter().rev()) {
            registry.release(*id);
            assert!(registry.members().tree(root).contains(&last));
        }
        assert_eq!(registry.members().tree(root), [root, last]);
        // Another thread in an old record is nobody's ancestor.
        let stranger = birth(None);
        assert_eq!(registry.members().tree(stranger), [stranger]);
        registry.release(root);
        assert!(registry.members().tree(root).is_empty());
        assert_eq!(registry.members().tree(last), [last]);
    }

    /// Shows protocol::lineage I2.
    #[test]
    fn a_child_is_in_all_groups_of_its_parent_and_in_its_own() {
        let registry = Registry::new();
        let birth = |parent, group| registry.register(None, parent, group, 100).unwrap();
        let (outer, inner) = (group(), group());
        let first = birth(None, Some(&outer));
        let second = birth(Some(first), Some(&inner));
        let third = birth(Some(second), Some(&outer));
        let stranger = birth(None, None);
        registry.release(first);
        registry.release(second);
        let late = birth(Some(third), None);
        let members = registry.members();
        let of = |group| set(members.in_group(group).map(|m| m.id));
        assert_eq!(of(&outer), set([third, late]));
        assert_eq!(of(&inner), set([third, late]));
        assert!(members.get(stranger).is_some() && of(&group()).is_empty());
    }
}
