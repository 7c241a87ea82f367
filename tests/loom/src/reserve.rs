//! Raising by name: in exactly one thread or in none, however the name comes and goes meanwhile.
//!
//! Owns: the models of P1: reserve all matches under the registry's lock, commit to the only one, or revert.
//!
//! **Signal context:** no.

use loom::sync::Arc;
use loom::thread;

use crate::attach_exit::{attach, end, raise_by_id};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{Owner, Pin, Record};
use crate::protocol::registry::{Registry, ThreadId};
use crate::stage::{Futex, Raised, model, release};

const NAME: &str = "worker";

/// As `Raise::to` does. How many matched, and whether the raise was accepted.
fn raise_by_name(registry: &Registry, raised: &Raised, futex: &Futex) -> (usize, bool) {
    let reserved: Vec<(ThreadId, Pin<'static>)> = {
        let members = registry.members();
        let named = members
            .iter()
            .filter(|member| member.name.as_deref() == Some(NAME));
        named
            .filter_map(|member| Some((member.id, registry.pin(member.id)?)))
            .collect()
    };
    let matched = reserved.len();
    let accepted = match &reserved[..] {
        [(id, pin)] => raise_by_id(pin.record(), *id, raised, futex),
        _ => false,
    };
    for (_, pin) in reserved {
        release(pin, futex);
    }
    (matched, accepted)
}

/// A second thread takes the name and the first gives it up, while somebody raises by it.
#[test]
fn a_name_that_changes_hands_is_raised_once_or_not_at_all() {
    model(Some(3), || {
        let (registry, futex, raised) = (
            Arc::new(Registry::new()),
            Arc::new(Futex::default()),
            Raised::new(),
        );
        let (first, record) = attach(&registry, Some(NAME));
        let raiser = thread::spawn({
            let (registry, futex, raised) = (registry.clone(), futex.clone(), raised.clone());
            move || raise_by_name(&registry, &raised, &futex)
        });
        let (_, second) = attach(&registry, Some(NAME));
        end(&registry, first, Owner::of(record), &futex);
        let (matched, accepted) = raiser.join().unwrap();
        assert_eq!(accepted, matched == 1, "a reservation kept the only match alive");
        let ended = raised.state() == ReceiptState::TargetEnded;
        let pending = second.pending_count();
        assert_eq!(record.pending_count(), 0);
        assert_eq!(usize::from(accepted), usize::from(ended) + pending);
        // What still waits would be delivered: settle it.
        for entry in Owner::of(second).close() {
            crate::stage::settle(entry, ReceiptState::TargetEnded);
        }
        drop(raised.clone());
    });
}

/// Two threads of one name, two raisers: nobody ever sees anything.
#[test]
fn an_ambiguous_raise_is_seen_by_nobody() {
    model(Some(3), || {
        let (registry, futex) = (Arc::new(Registry::new()), Arc::new(Futex::default()));
        let targets = [(); 2].map(|()| attach(&registry, Some(NAME)).1);
        let raisers = [(); 2].map(|()| {
            let (registry, futex) = (registry.clone(), futex.clone());
            thread::spawn(move || assert_eq!(raise_by_name(&registry, &Raised::new(), &futex), (2, false)))
        });
        let unseen = |record: &&'static Record| !record.attention().calls() && record.pending_count() == 0;
        assert!(targets.iter().all(unseen));
        raisers.into_iter().for_each(|raiser| raiser.join().unwrap());
        assert!(targets.iter().all(unseen));
        assert!(
            targets.iter().all(|record| !record.attention().pinned()),
            "reverted"
        );
    });
}

/// Three threads of one name, two of which leave while somebody raises by it: once in the last one, in one that leaves only
/// when it was alone, or nowhere.
#[test]
fn a_name_that_three_share_for_a_while_is_raised_once_or_not_at_all() {
    // Four threads: bounded.
    model(Some(2), || {
        let (registry, futex, raised) = (
            Arc::new(Registry::new()),
            Arc::new(Futex::default()),
            Raised::new(),
        );
        let targets = [(); 3].map(|()| attach(&registry, Some(NAME)));
        let leaving = [targets[0], targets[1]].map(|(id, record)| {
            let (registry, futex) = (registry.clone(), futex.clone());
            thread::spawn(move || {
                assert!(!record.attention().calls(), "a reservation is not seen");
                end(&registry, id, Owner::of(record), &futex);
            })
        });
        let (matched, accepted) = raise_by_name(&registry, &raised, &futex);
        leaving.into_iter().for_each(|leaving| leaving.join().unwrap());
        assert_eq!(accepted, matched == 1);
        let pending: Vec<usize> = targets.iter().map(|(_, record)| record.pending_count()).collect();
        assert_eq!(pending, [0, 0, usize::from(accepted)]);
        for entry in Owner::of(targets[2].1).close() {
            crate::stage::settle(entry, ReceiptState::TargetEnded);
        }
        assert!(!targets[2].1.attention().pinned(), "reverted");
    });
}

/// Raising by name without reserving: the second match comes between the look and the push.
#[test]
#[should_panic(expected = "raised into one of two")]
fn without_the_reservation_an_id_may_be_anybodys() {
    model(Some(2), || {
        let (registry, futex, raised) = (
            Arc::new(Registry::new()),
            Arc::new(Futex::default()),
            Raised::new(),
        );
        let (first, record) = attach(&registry, Some(NAME));
        let others = thread::spawn({
            let (registry, futex) = (registry.clone(), futex.clone());
            move || end(&registry, first, Owner::of(record), &futex)
        });
        let found = registry.members().iter().next().map(|member| member.id);
        let accepted = found.is_some_and(|id| raise_by_id(record, id, &raised, &futex));
        others.join().unwrap();
        assert_eq!(found.is_some(), accepted, "raised into one of two");
    });
}
