//! Birth against a raise into a tree: nobody is born between the two.
//!
//! Owns: the models of invariant 3 of `protocol::lineage`, through the registry and `Record::inherit`.
//!
//! **Signal context:** no.

use loom::sync::Arc;
use loom::thread;

use crate::attach_exit::end;
use crate::protocol::entry::{Entry, Payload};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{Duty, Fences, Owner, Record};
use crate::protocol::registry::{Registry, ThreadId};
use crate::protocol::slot::Policy;
use crate::stage::{Counted, Futex, contents, duty, model, release, settle, take_and_catch};

/// The exception for a whole tree, as `Spreadable::raisable` makes it.
fn spread_entry() -> Entry {
    let make = || -> Box<dyn std::error::Error + Send> { Box::new(Counted(std::sync::Arc::default())) };
    Entry::new(contents(Payload::Spread(std::sync::Arc::new(make))))
}

fn born(registry: &Registry, parent: Option<ThreadId>) -> (ThreadId, &'static Record) {
    let id = registry.register(None, parent, None, 4).unwrap();
    (id, registry.record(id.index()).unwrap())
}

/// As `tree::spread` does, under the registry's lock. The duties are done after it.
fn raise_into_tree(registry: &Registry, root: ThreadId, futex: &Futex) {
    let members = registry.members();
    let chosen = members.tree(root);
    let duties: Vec<_> = chosen.into_iter().filter_map(|id| push(registry, id)).collect();
    drop(members);
    perform(duties, futex);
}

fn push(registry: &Registry, id: ThreadId) -> Option<Duty<'static>> {
    let record = registry.record(id.index())?;
    duty(record.raise(id.generation(), spread_entry(), Policy::Supersede, Fences::Full))
}

fn perform(duties: Vec<Duty<'static>>, futex: &Futex) {
    for duty in duties {
        if let Duty::Nudge { pin, .. } = duty {
            release(pin, futex);
        }
    }
}

/// Ends what still waits. How many there were.
fn leave(record: &'static Record) -> usize {
    let entries = Owner::of(record).close();
    entries
        .into_iter()
        .map(|entry| settle(entry, ReceiptState::TargetEnded))
        .count()
}

/// A parent that comes by a safepoint, has a child, and comes by another.
fn a_birth_amid(raise: fn(&Registry, ThreadId, &Futex)) {
    let (registry, futex) = (Arc::new(Registry::new()), Arc::new(Futex::default()));
    let (root, record) = born(&registry, None);
    let raiser = thread::spawn({
        let (registry, futex) = (registry.clone(), futex.clone());
        move || raise(&registry, root, &futex)
    });
    let owner = Owner::of(record);
    let met_before = take_and_catch(owner);
    let (_, child) = born(&registry, Some(root));
    let met_after = take_and_catch(owner);
    raiser.join().unwrap();
    let late = leave(record);
    assert_eq!(
        usize::from(met_before) + usize::from(met_after) + late,
        1,
        "the parent has it once"
    );
    assert_eq!(
        leave(child),
        usize::from(!met_before),
        "a child has it once, unless its parent had met it before the birth"
    );
}

#[test]
fn a_child_has_what_its_parent_had_not_met() {
    model(Some(3), || a_birth_amid(raise_into_tree));
}

/// Teeth: a raiser that lets go of the lock between looking and pushing misses who is born then.
#[test]
#[should_panic(expected = "a child has it once")]
fn without_the_lock_from_the_look_to_the_push_a_child_slips_away() {
    model(Some(3), || {
        a_birth_amid(|registry, root, futex| {
            let chosen = registry.members().tree(root);
            let duties = chosen.into_iter().filter_map(|id| push(registry, id)).collect();
            perform(duties, futex);
        });
    });
}

/// A grandchild that is born while the thread between is ending: it stays in the tree, by its heir.
#[test]
fn an_orphan_is_reached_by_its_grandparent() {
    model(Some(2), || {
        let (registry, futex) = (Arc::new(Registry::new()), Arc::new(Futex::default()));
        let (root, record) = born(&registry, None);
        let (parent, between) = born(&registry, Some(root));
        let raiser = thread::spawn({
            let (registry, futex) = (registry.clone(), futex.clone());
            move || raise_into_tree(&registry, root, &futex)
        });
        let met = take_and_catch(Owner::of(between));
        let (_, child) = born(&registry, Some(parent));
        end(&registry, parent, Owner::of(between), &futex);
        raiser.join().unwrap();
        assert_eq!(leave(record), 1);
        assert_eq!(
            leave(child),
            usize::from(!met),
            "an orphan has what its parent had not met"
        );
    });
}
