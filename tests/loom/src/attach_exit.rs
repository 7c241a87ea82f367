//! Attaching and leaving versus raising by id: a raise meets the thread it was meant for, or nobody.
//!
//! Owns: the models of identity (P4) and of invariant 3 of `protocol::record`, through the registry.
//!
//! **Signal context:** no.

use loom::sync::Arc;
use loom::thread;

use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{AfterPush, Duty, Fate, Fences, Owner, Record};
use crate::protocol::registry::{Registry, ThreadId};
use crate::protocol::slot::Policy;
use crate::protocol::word::{Attention, Kind};
use crate::stage::{Bell, Futex, Raised, model, release, settle, take_and_catch};

/// As `current::end` does.
pub fn end(registry: &Registry, id: ThreadId, owner: Owner, futex: &Futex) {
    owner.begin_exit();
    while let Some(word) = owner.await_pins() {
        futex.wait(owner.record().attention_word(), word.futex());
    }
    for entry in owner.close() {
        settle(entry, ReceiptState::TargetEnded);
    }
    registry.release(id);
}

pub fn attach(registry: &Registry, name: Option<&str>) -> (ThreadId, &'static Record) {
    let id = registry.register(name.map(Into::into), None, None, 4).unwrap();
    (id, registry.record(id.index()).unwrap())
}

/// As `raise::raise_by_id` does. Whether the id was still good.
pub fn raise_by_id(record: &'static Record, id: ThreadId, raised: &Raised, futex: &Futex) -> bool {
    let AfterPush { fate, aside, duty } =
        record.raise(id.generation(), raised.entry(), Policy::Supersede, Fences::Full);
    match fate {
        Fate::Accepted => {
            assert!(aside.is_empty());
            if let Duty::Nudge { pin, .. } = duty {
                assert_eq!(
                    record.attention().generation(),
                    id.generation(),
                    "nudged somebody else"
                );
                release(pin, futex);
            }
            true
        }
        Fate::Ended => aside
            .into_iter()
            .all(|entry| settle(entry, ReceiptState::TargetEnded)),
        Fate::Gone => false,
    }
}

/// One raises by id; the target leaves, and the next thread gets its record.
fn a_raise_during_exit(last_steps: fn(Owner)) {
    let (registry, futex, raised) = (
        Arc::new(Registry::new()),
        Arc::new(Futex::default()),
        Raised::new(),
    );
    let (id, record) = attach(&registry, None);
    let target = thread::spawn({
        let (registry, futex) = (registry.clone(), futex.clone());
        move || {
            let owner = Owner::of(record);
            last_steps(owner);
            end(&registry, id, owner, &futex);
            let (next, reused) = attach(&registry, None);
            assert!(std::ptr::eq(record, reused) && next != id);
            assert!(!record.attention().calls(), "raised into the next owner");
            next
        }
    });
    let good = raise_by_id(record, id, &raised, &futex);
    let next = target.join().unwrap();
    assert_eq!(raised.drops(), 1);
    assert_eq!(raised.state().is_final(), good, "{:?}", raised.state());
    assert!(!record.attention().calls() && record.pending_count() == 0);
    assert!(record.pin(id.generation()).is_none());
    release(
        record.pin(next.generation()).expect("the next owner is alive"),
        &futex,
    );
}

#[test]
fn a_stale_id_never_reaches_the_next_owner() {
    model(None, || a_raise_during_exit(|_| {}));
}

/// The target has a last safepoint and a last window on its way.
#[test]
fn a_raise_during_exit_is_delivered_or_ended_and_dropped_once() {
    model(Some(3), || {
        a_raise_during_exit(|owner| {
            let entered = owner.enter(Kind::Window, 0, std::ptr::null_mut(), Fences::Full);
            let _no_frame = owner.leave(&entered, Fences::Full);
            take_and_catch(owner);
        });
    });
}

/// Two lookers; the owner goes to sleep until both have let go.
/// Shows protocol::record I3.
#[test]
fn the_last_pin_wakes_the_leaving_owner() {
    // Three threads: bounded.
    model(Some(3), || {
        let (registry, futex) = (Arc::new(Registry::new()), Arc::new(Futex::default()));
        let (id, record) = attach(&registry, None);
        let lookers = [(); 2].map(|()| {
            let (registry, futex) = (registry.clone(), futex.clone());
            thread::spawn(move || {
                if let Some(pin) = registry.pin(id) {
                    thread::yield_now();
                    assert_eq!(
                        pin.record().attention().generation(),
                        id.generation(),
                        "recycled under a pin"
                    );
                    release(pin, &futex);
                }
            })
        });
        end(&registry, id, Owner::of(record), &futex);
        assert!(registry.pin(id).is_none());
        lookers.into_iter().for_each(|looker| looker.join().unwrap());
        assert_eq!(record.attention().0 & (Attention::PINS | Attention::AWAITED), 0);
    });
}
