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
