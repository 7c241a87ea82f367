//! The parts of those who raise: by id, by name, into scopes, instead of all, and those who take it back.
//!
//! Owns: one function for each. Leaves to [`crate::play`] the account of it.
//!
//! **Signal context:** no.

use std::panic::Location;

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::thread;

use crate::driver::{Driver, release};
use crate::kernel::Reach;
use crate::play::{Ledger, Raised};
use crate::protocol::entry::{Entry, Kind, ReceiptRef};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{AfterPush, Fate, Fences, Pin};
use crate::protocol::scope::ScopeId;
use crate::protocol::slot::Policy;

/// The name that two of the targets share for a while.
pub(crate) const NAME: &str = "worker";

struct First;
struct Second;

fn entry(raised: &Raised, policy: Policy, scope: Option<ScopeId>) -> Entry {
    let kind = match raised.number {
        Some(number) if number % 2 == 0 => Kind::of::<First>(),
        _ => Kind::of::<Second>(),
    };
    let mut entry = raised.entry();
    entry.origin.kind = kind;
    entry.queued = policy == Policy::Queue;
    entry.scope = scope;
    entry
}

/// Raises into one thread. Whether that thread was there, leaving included.
fn push(
    driver: &Driver,
    ledger: &Ledger,
    reach: &Reach,
    raised: &Raised,
    policy: Policy,
    scope: Option<ScopeId>,
) -> bool {
    let record = driver
        .registry
        .record(reach.id.index())
        .expect("it was registered");
    let entry = entry(raised, policy, scope);
    let AfterPush { fate, aside, duty } = record.raise(reach.id.generation(), entry, policy, Fences::Light);
    driver.perform(reach, duty, raised.number);
    let outcome = match fate {
        Fate::Accepted => ReceiptState::Superseded,
        Fate::Ended => ReceiptState::TargetEnded,
        Fate::Gone => return false,
    };
    for entry in aside {
        ledger.settle(entry, outcome);
    }
    true
}

fn somebody(ledger: &Ledger) -> Option<Reach> {
    let live = ledger.live.lock().unwrap();
    let among = live.len();
    (among > 0).then(|| live[thread_rng().gen_range(0..among)].clone())
}

/// The last raise of a play: whoever gets it ends.
pub(crate) fn stop(driver: &Driver, ledger: &Ledger, reach: &Reach) {
    let raised = ledger.new_raise(true);
    let there = push(driver, ledger, reach, &raised, Policy::Queue, None);
    ledger.raised(raised, there);
}

pub(crate) fn raise_some(driver: &Arc<Driver>, ledger: &Arc<Ledger>, rounds: u32) {
    for _ in 0..rounds {
        let raised = ledger.new_raise(false);
        let accepted = match thread_rng().gen_range(0..6) {
            0 => by_name(driver, ledger, &raised),
            1 => into_a_scope(driver, ledger, &raised),
            2 => somebody(ledger)
                .is_some_and(|reach| push(driver, ledger, &reach, &raised, Policy::Queue, None)),
            3 => somebody(ledger)
                .is_some_and(|reach| push(driver, ledger, &reach, &raised, Policy::Replace, None)),
            _ => somebody(ledger)
                .is_some_and(|reach| push(driver, ledger, &reach, &raised, Policy::Supersede, None)),
        };
        ledger.raised(raised, accepted);
        thread::yield_now();
    }
}

/// As `Raise::to` does with a name.
fn by_name(driver: &Driver, ledger: &Ledger, raised: &Raised) -> bool {
    let known: Vec<Reach> = ledger.live.lock().unwrap().clone();
    let reserved: Vec<(Reach, Pin<'static>)> = {
        let members = driver.registry.members();
        let named = members
            .iter()
            .filter(|member| member.name.as_deref() == Some(NAME));
        named
            .filter_map(|member| {
                let reach = known.iter().find(|reach| reach.id == member.id)?;
                Some((reach.clone(), driver.registry.pin(member.id)?))
            })
            .collect()
    };
    let accepted = match &reserved[..] {
        [(reach, _)] => {
            let there = push(driver, ledger, reach, raised, Policy::Supersede, None);
            assert!(there, "a reservation keeps the only match");
            there
        }
        _ => false,
    };
    for (reach, pin) in reserved {
        release(pin, &reach);
    }
    accepted
}

/// As `Raise::to_scope` does.
fn into_a_scope(driver: &Driver, ledger: &Ledger, raised: &Raised) -> bool {
    let scope = ledger.scopes.lock().unwrap().last().cloned();
    let Some((reach, cell)) = scope else { return false };
    match cell.place() {
        Some(place) => push(
            driver,
            ledger,
            &reach,
            raised,
            Policy::Supersede,
            Some(place.scope),
        ),
        None => false,
    }
}

/// Revokes what there is, clears, and cancels scopes.
pub(crate) fn take_back(driver: &Arc<Driver>, ledger: &Arc<Ledger>, rounds: u32) {
    for _ in 0..rounds {
        match thread_rng().gen_range(0..4) {
            0 => {
                if let Some(reach) = somebody(ledger) {
                    let record = driver.registry.record(reach.id.index()).unwrap();
                    for entry in record.clear(reach.id.generation()).into_iter().flatten() {
                        ledger.settle(entry, ReceiptState::Revoked);
                    }
                }
            }
            1 => cancel_the_latest(driver, ledger),
            _ => revoke_one(driver, ledger),
        }
        thread::yield_now();
    }
}

fn cancel_the_latest(driver: &Driver, ledger: &Ledger) {
    let scope = ledger.scopes.lock().unwrap().last().cloned();
    let Some((reach, cell)) = scope else { return };
    let Some(place) = cell.cancel() else { return };
    let record = driver.registry.record(place.index).unwrap();
    let duty = record.cancel_scope(place.generation, place.scope, Location::caller(), Fences::Light);
    if let Some(duty) = duty {
        driver.perform(&reach, duty, None);
    }
}

fn revoke_one(driver: &Driver, ledger: &Ledger) {
    let receipt: Option<ReceiptRef> = {
        let made = ledger.receipts.lock().unwrap();
        let among = made.len();
        (among > 0).then(|| made[thread_rng().gen_range(0..among)].clone())
    };
    let Some(receipt) = receipt else { return };
    let live: Vec<Reach> = ledger.live.lock().unwrap().clone();
    for reach in live {
        let record = driver.registry.record(reach.id.index()).unwrap();
        if let Some(entry) = record.revoke(reach.id.generation(), &receipt) {
            ledger.settle(entry, ReceiptState::Revoked);
            return;
        }
    }
}
