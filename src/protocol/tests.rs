//! The state diagrams as tables: every state with every transition, against rows that are written out here.
//!
//! Owns: the tables of duties, of a record's life, of the slot, the order and the ladder. That of needs is in [`needs`], that of a
//! receipt in `receipt`. Each state must match exactly one row, so that no row hides another and no state is forgotten.
//!
//! **Signal context:** no.

use core::time::Duration;
use std::error::Error;
use std::panic::Location;
use std::ptr::null_mut;

use super::deadline::NEVER;
use super::entry::{Contents, Entry, Kind as EntryKind, Origin, Payload};
use super::ladder::{Found, Step, Times};
use super::order::{Act, Instruction, Order};
use super::receipt::ReceiptState;
use super::record::{AfterPush, Duty, Fate, Fences, Owner, Record, Tell};
use super::scope::{ScopeCall, ScopeId};
use super::slot::{Policy, Slot};
use super::word::{Attention, Kind, Level, Region};
use crate::sync_shim::Ordering;

mod letters;
mod needs;
mod on_top;

/// Rows `a b|c * -> result`: a cell is one word, a choice of words, or any.
struct Table(Vec<(Vec<&'static str>, &'static str)>);

impl Table {
    fn new(rows: &'static str) -> Self {
        let rows = rows.lines().map(str::trim).filter(|row| !row.is_empty());
        Self(
            rows.map(|row| {
                let (cells, result) = row.split_once("->").expect("a row has a result");
                (cells.split_whitespace().collect(), result.trim())
            })
            .collect(),
        )
    }

    /// The result of the one row that holds of this state.
    #[track_caller]
    fn of(&self, state: &[&str]) -> &'static str {
        let fits = |cells: &[&str]| {
            assert_eq!(cells.len(), state.len(), "{cells:?}");
            let pairs = cells.iter().zip(state);
            pairs
                .into_iter()
                .all(|(cell, word)| *cell == "*" || cell.split('|').any(|choice| choice == *word))
        };
        let rows: Vec<_> = self.0.iter().filter(|(cells, _)| fits(cells)).collect();
        assert_eq!(rows.len(), 1, "{state:?} has the rows {rows:?}");
        rows[0].1
    }
}

struct First;
struct Other;

fn entry(kind: &'static EntryKind, queued: bool, scope: Option<ScopeId>) -> Entry {
    let origin = Origin {
        kind,
        ..Origin::of::<()>(Location::caller())
    };
    let make = || -> Box<dyn Error + Send> { Box::new(std::fmt::Error) };
    Entry::new(Contents::new(Payload::Make(make), origin, queued, scope))
}

fn first() -> Entry {
    entry(EntryKind::of::<First>(), false, None)
}

fn record() -> &'static Record {
    let record: &'static Record = Box::leak(Box::new(Record::new(0)));
    record.open(1);
    record
}

const YES_NO: [(&str, bool); 2] = [("yes", true), ("no", false)];
const KINDS: [(&str, Kind); 4] = [
    ("running", Kind::Running),
    ("waiting", Kind::Waiting),
    ("window", Kind::Window),
    ("foreign", Kind::Foreign),
];
const LEVELS: [(&str, Level); 3] = [
    ("unmasked", Level::Unmasked),
    ("masked", Level::Masked),
    ("uninterruptible", Level::Uninterruptible),
];

fn name_of(duty: &Duty<'_>) -> &'static str {
    match duty {
        Duty::Nothing => "nothing",
        Duty::Wake => "wake",
        Duty::Nudge {
            tell: Tell::Nothing, ..
        } => "nudge",
        Duty::Nudge { .. } => "nudge and note",
        Duty::Verify => "verify",
        Duty::Later => "later",
    }
}

/// Shows protocol::record I1, I6: what a raiser owes for whatever it finds. The columns: kind, level, shielded, fences, noted (the
/// driver has a note), coming (another raiser's signal is under way).
#[test]
fn a_raiser_owes_what_the_table_of_duties_says() {
    let table = Table::new(
        "
        running         *                *       light   no     *      -> verify
        running         *                *       light   yes    *      -> nothing
        running         *                *       full    *      *      -> nothing
        waiting|window|foreign  uninterruptible  *  light  no   *      -> verify
        waiting|window|foreign  uninterruptible  *  light  yes  *      -> nothing
        waiting|window|foreign  uninterruptible  *  full   *    *      -> nothing
        waiting|window|foreign  unmasked|masked  yes  *    no   *      -> later
        waiting|window|foreign  unmasked|masked  yes  *    yes  *      -> nothing
        waiting         unmasked|masked  no      *       *      *      -> wake
        window|foreign  unmasked|masked  no      *       no     no     -> nudge and note
        window|foreign  unmasked|masked  no      *       yes    no     -> nudge
        window|foreign  unmasked|masked  no      *       no     yes    -> verify
        window|foreign  unmasked|masked  no      *       yes    yes    -> nothing
        ",
    );
    for (kind, in_kind) in KINDS {
        for (level, at_level) in LEVELS {
            for ((shield, shielded), (noted, is_noted)) in pairs(YES_NO) {
                for ((coming, is_coming), (_, light)) in pairs(YES_NO) {
                    let fences = if light {
                        ("light", Fences::Light)
                    } else {
                        ("full", Fences::Full)
                    };
                    let record = record();
                    let owner = Owner::of(record);
                    owner.set_mask(at_level, shielded);
                    let _entered =
                        (in_kind != Kind::Running).then(|| owner.enter(in_kind, 0, null_mut(), Fences::Full));
                    let under_way = is_coming.then(|| record.pin_to_nudge(1).unwrap());
                    if is_noted {
                        assert!(record.enlist());
                    }
                    let AfterPush { fate, duty, .. } = record.raise(1, first(), Policy::Supersede, fences.1);
                    assert_eq!(fate, Fate::Accepted, "the target is alive");
                    let state = [kind, level, shield, fences.0, noted, coming];
                    assert_eq!(name_of(&duty), table.of(&state), "{state:?}");
                    drop((duty, under_way));
                }
            }
        }
    }
}

fn pairs<T: Copy>(of: [T; 2]) -> impl Iterator<Item = (T, T)> {
    of.into_iter()
        .flat_map(move |a| of.into_iter().map(move |b| (a, b)))
}

/// Shows protocol::record I3: what each transition comes to in each part of a record's life. One exception waits and one scope
/// with a deadline is open wherever that can be.
#[test]
fn each_part_of_a_records_life_admits_what_the_table_says() {
    let table = Table::new(
        "
        open     raise|clear|revoke|letter|stop|cancel|visit|pin|look|nudge -> yes
        exiting  raise|clear|revoke                                         -> yes
        exiting  letter|stop|cancel|visit|pin|look|nudge                    -> no
        closed   *                                                          -> no
        ended    *                                                          -> no
        reused   *                                                          -> no
        ",
    );
    let transitions = [
        "raise", "clear", "revoke", "letter", "stop", "cancel", "visit", "pin", "look", "nudge",
    ];
    for state in ["open", "exiting", "closed", "ended", "reused"] {
        for transition in transitions {
            let record = record();
            let owner = Owner::of(record);
            let scope = owner.begin_scope(5, 0, Location::caller()).id;
            owner.told_driver(5);
            let waiting = first();
            let receipt = waiting.receipt.clone();
            let raised = record.raise(1, waiting, Policy::Supersede, Fences::Full);
            assert_eq!(raised.fate, Fate::Accepted);
            let parts = ["exiting", "closed", "ended", "reused"];
            for part in parts.into_iter().take_while(|_| state != "open") {
                match part {
                    "exiting" => owner.begin_exit(),
                    "closed" => assert_eq!(owner.close().len(), 1),
                    "ended" => record.end(2),
                    _ => record.open(2),
                }
                if part == state {
                    break;
                }
            }
            let came = match transition {
                "raise" => {
                    let raised = record.raise(1, first(), Policy::Queue, Fences::Full);
                    raised.fate == Fate::Accepted
                }
                "letter" => {
                    let raised = record.raise_by_mail(1, first(), Policy::Queue, Fences::Full);
                    raised.fate == Fate::Accepted
                }
                "clear" => record.clear(1).is_some(),
                "revoke" => record.revoke(1, &receipt).is_some(),
                "stop" => record.stop(1, Fences::Full).is_some(),
                "cancel" => record
                    .cancel_scope(1, scope, Location::caller(), Fences::Full)
                    .is_some(),
                "visit" => record.visit_deadlines(1, 5, Fences::Full).is_some(),
                "pin" => record.pin(1).is_some(),
                "look" => record.look(1).is_some(),
                _ => record.pin_to_nudge(1).is_some(),
            };
            let expected = table.of(&[state, transition]) == "yes";
            assert_eq!(came, expected, "{transition} of a record that is {state}");
            if state == "reused" {
                assert!(
                    !record.attention().calls(),
                    "{transition} reached the next generation"
                );
            }
            // I2 of `record`: whatever came of it.
            assert_eq!(
                record.attention().has(Attention::PENDING),
                record.pending_count() > 0,
                "{transition}, {state}"
            );
        }
    }
}

/// Shows protocol::slot I1, I2: what a push displaces, and where the new entry stands.
#[test]
fn a_push_displaces_what_the_table_of_the_slot_says() {
    let table = Table::new(
        "
        nothing                                       *          -> nothing, last
        one                                           supersede  -> one, first
        one                                           queue      -> nothing, last
        queued-one|one-of-another-type|one-of-a-scope supersede|queue -> nothing, last
        one|queued-one|one-of-another-type|one-of-a-scope replace -> all, last
        ",
    );
    let owner = Owner::of(record());
    let scope = owner.begin_scope(NEVER, 0, Location::caller()).id;
    let states = [
        "nothing",
        "one",
        "queued-one",
        "one-of-another-type",
        "one-of-a-scope",
    ];
    let policies = [
        ("supersede", Policy::Supersede),
        ("queue", Policy::Queue),
        ("replace", Policy::Replace),
    ];
    for state in states {
        for (name, policy) in policies {
            let mut slot = Slot::new();
            slot.open();
            let there = match state {
                "nothing" => None,
                "one" => Some(first()),
                "queued-one" => Some(entry(EntryKind::of::<First>(), true, None)),
                "one-of-another-type" => Some(entry(EntryKind::of::<Other>(), false, None)),
                _ => Some(entry(EntryKind::of::<First>(), false, Some(scope))),
            };
            let mut all = there.is_some();
            if let Some(there) = there {
                assert_eq!(slot.push(there, Policy::Queue).into_iter().count(), 0);
            }
            // Another type behind it: superseding keeps the place.
            assert_eq!(
                slot.push(entry(EntryKind::of::<u8>(), true, None), Policy::Queue)
                    .into_iter()
                    .count(),
                0
            );
            let new = entry(EntryKind::of::<First>(), policy == Policy::Queue, None);
            let receipt = new.receipt.clone();
            let displaced = slot.push(new, policy).into_iter().count();
            let at = std::iter::from_fn(|| slot.take_first())
                .position(|taken| taken.receipt.is(&receipt))
                .unwrap();
            all &= displaced == 2;
            let seen = match (displaced, at) {
                (0, 1 | 2) => "nothing, last",
                (1, 0) if state == "nothing" => "nothing, last",
                (1, 0) => "one, first",
                (2, 0) if all => "all, last",
                other => panic!("{other:?}"),
            };
            assert_eq!(seen, table.of(&[state, name]), "{state}, {name}");
        }
    }
}

/// Shows protocol::order I1.
#[test]
fn an_order_cell_moves_as_its_table_says() {
    let table = Table::new(
        "
        idle     arm       -> yes, armed
        idle     withdraw  -> yes, idle
        idle     claim     -> no, idle
        armed    arm       -> yes, armed
        armed    withdraw  -> yes, idle
        armed    claim     -> yes, claimed
        claimed  arm       -> no, claimed
        claimed  withdraw  -> no, claimed
        claimed  claim     -> no, idle
        ",
    );
    let blind = Instruction::blind(Act::Unwind);
    for state in ["idle", "armed", "claimed"] {
        for transition in ["arm", "withdraw", "claim"] {
            let order = Order::new();
            if state != "idle" {
                assert!(order.arm(&blind));
            }
            let held = (state == "claimed").then(|| order.claim().unwrap());
            let mut claimed = None;
            let came = match transition {
                "arm" => order.arm(&blind),
                "withdraw" => order.withdraw(),
                _ => {
                    claimed = order.claim();
                    claimed.is_some()
                }
            };
            let next = if order.withdraw() {
                // What was withdrawn just now was armed, unless it had been idle before.
                let was_armed = transition == "arm" && came;
                if was_armed { "armed" } else { "idle" }
            } else {
                "claimed"
            };
            let seen = format!("{}, {next}", if came { "yes" } else { "no" });
            assert_eq!(seen, table.of(&[state, transition]), "{state}, {transition}");
            let _ = (held, claimed);
        }
    }
}

/// Shows protocol::ladder I1, I2, I4. The columns: blocked, level, fail, unwind and abandon (not allowed, early, due), and whether
/// unwind was tried last.
#[test]
fn the_ladder_is_climbed_as_its_table_says() {
    let table = Table::new(
        "
        no       unmasked                *     *         due       *    -> abandon
        no       unmasked                *     *         no|early  *    -> nothing
        no       masked|uninterruptible  *     *         *         *    -> nothing
        yes      unmasked                *     due       due       no   -> unwind
        yes      unmasked                *     due       due       yes  -> abandon
        yes      unmasked                *     due       no|early  *    -> unwind
        yes      unmasked                *     no|early  due       *    -> abandon
        yes      unmasked                yes   no|early  no|early  *    -> fail
        yes      unmasked                no    no|early  no|early  *    -> nudge
        yes      masked|uninterruptible  *     due       *         *    -> unwind
        yes      masked|uninterruptible  yes   no|early  *         *    -> fail
        yes      masked|uninterruptible  no    no|early  *         *    -> nudge
        ",
    );
    let (waited, due, early) = (
        Duration::from_millis(10),
        Duration::from_millis(10),
        Duration::from_millis(11),
    );
    let forced = |bit| [("no", 0, due), ("early", bit, early), ("due", bit, due)];
    for (level, at_level) in LEVELS {
        for ((blocked, is_blocked), (fail, fails)) in pairs(YES_NO) {
            for (unwind, unwind_bit, unwind_at) in forced(Region::UNWIND) {
                for (abandon, abandon_bit, abandon_at) in forced(Region::ABANDON) {
                    for (last, unwind_was_last) in YES_NO {
                        let fail_bit = if fails { Region::FAIL } else { 0 };
                        let times = Times {
                            unwind: Some(unwind_at),
                            abandon: Some(abandon_at),
                        };
                        let step = times.step(Found {
                            region: Region::IDLE
                                .with_mask(at_level, false)
                                .entered(Kind::Foreign, fail_bit | unwind_bit | abandon_bit),
                            blocked: is_blocked,
                            waited,
                            unwind_was_last,
                        });
                        let name = match step {
                            Step::Nothing => "nothing",
                            Step::Nudge => "nudge",
                            Step::Fail => "fail",
                            Step::Unwind => "unwind",
                            Step::Abandon => "abandon",
                        };
                        let state = [blocked, level, fail, unwind, abandon, last];
                        assert_eq!(name, table.of(&state), "{state:?}");
                    }
                }
            }
        }
    }
}

/// Shows protocol::receipt I1, I2: an entry that left the slot by one way leaves it by no other.
#[test]
fn who_takes_an_entry_out_is_the_only_one() {
    for first_way in ["take", "revoke", "clear", "close", "supersede"] {
        for second_way in ["take", "revoke", "clear", "close"] {
            let record = record();
            let owner = Owner::of(record);
            let waiting = first();
            let receipt = waiting.receipt.clone();
            let push = |entry| {
                let raised = record.raise(1, entry, Policy::Supersede, Fences::Full);
                assert_eq!(raised.fate, Fate::Accepted, "the target is alive");
                raised.aside.into_iter().collect::<Vec<_>>()
            };
            assert!(push(waiting).is_empty());
            let leave = |way| -> Vec<Entry> {
                match way {
                    "take" => owner.take_pending().into_iter().collect(),
                    "revoke" => record.revoke(1, &receipt).into_iter().collect(),
                    "clear" => record.clear(1).into_iter().flatten().collect(),
                    "close" => owner.close().into_iter().collect(),
                    _ => push(first()),
                }
            };
            let ours = |out: &Entry| out.receipt.is(&receipt);
            let mut out = leave(first_way);
            assert!(out.len() == 1 && ours(&out[0]), "{first_way}");
            assert!(
                !leave(second_way).iter().any(ours),
                "{first_way}, then {second_way}"
            );
            let after = out[0].settle(ReceiptState::Revoked);
            assert_eq!(after, super::receipt::AfterSettle::Nothing);
            assert_eq!(receipt.state(), ReceiptState::Revoked);
        }
    }
}

/// The owner, or the driver's note, may come between a raiser's two looks at the word.
#[test]
fn a_note_that_came_after_the_raise_will_do() {
    let record = record();
    let before = record.attention();
    assert!(record.enlist());
    assert!(matches!(record.duty(before, 1, Fences::Light), Duty::Nothing));
}

#[test]
fn a_record_without_scopes_has_none_to_close_or_to_raise() {
    let record = record();
    let owner = Owner::of(record);
    let (why, entries) = owner.close_after(ScopeId::NONE);
    assert!(why.is_none() && entries.is_empty());
    let entry = first();
    assert!(matches!(
        owner.take_scope_call(&entry.receipt),
        ScopeCall::Nothing
    ));
    // A bit that has outlived its reason goes, and nothing is raised.
    let open = owner.begin_scope(NEVER, 0, Location::caller());
    assert!(open.visit.is_none());
    record.attention.fetch_or(Attention::SCOPE, Ordering::SeqCst);
    assert!(matches!(
        owner.take_scope_call(&entry.receipt),
        ScopeCall::Nothing
    ));
    assert!(!record.attention().has(Attention::SCOPE));
}

/// Shows protocol::record I5: the owner's view, by which alone the region word is written, cannot leave its thread. If it could,
/// this would not compile: both implementations would fit.
#[test]
fn the_owners_view_of_a_record_stays_on_its_thread() {
    trait Stays<Which> {
        const YES: bool = true;
    }
    struct ByNature;
    struct BecauseItIsSend;
    struct BecauseItIsSync;
    impl<T> Stays<ByNature> for T {}
    impl<T: Send> Stays<BecauseItIsSend> for T {}
    impl<T: Sync> Stays<BecauseItIsSync> for T {}
    const { assert!(<Owner as Stays<_>>::YES) };
}
