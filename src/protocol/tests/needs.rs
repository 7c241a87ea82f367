//! The table of needs: what the driver finds that a thread needs of it, and what it is told of a ladder.
//!
//! **Signal context:** no.

use super::*;
use crate::protocol::record::Need;

/// Shows protocol::record I1: what is verified. The columns: called (an exception is pending), kind, level, shield.
#[test]
fn a_looker_finds_what_the_table_of_needs_says() {
    let table = Table::new(
        "
        no   *                       *                *          -> nothing
        yes  running                 *                *          -> nothing
        yes  waiting|window|foreign  uninterruptible  *          -> nothing
        yes  waiting|window|foreign  unmasked|masked  endless    -> nothing
        yes  waiting|window|foreign  unmasked|masked  holding    -> later
        yes  waiting                 unmasked|masked  none|over  -> wake
        yes  window|foreign          unmasked|masked  none|over  -> break
        ",
    );
    const NOW: u64 = 100;
    let shields = [
        ("none", None),
        ("over", Some(NOW)),
        ("holding", Some(NOW + 1)),
        ("endless", Some(NEVER)),
    ];
    for (called, is_called) in YES_NO {
        for (kind, in_kind) in KINDS {
            for (level, at_level) in LEVELS {
                for (shield, until) in shields {
                    let record = record();
                    let owner = Owner::of(record);
                    owner.set_shield(until.unwrap_or(0));
                    owner.set_mask(at_level, until.is_some());
                    let _entered =
                        (in_kind != Kind::Running).then(|| owner.enter(in_kind, 0, null_mut(), Fences::Full));
                    if is_called {
                        drop(record.raise(1, first(), Policy::Supersede, Fences::Full));
                    }
                    let need = match record.need(|| NOW) {
                        Need::Nothing => "nothing",
                        Need::Wake => "wake",
                        Need::Later(end) => {
                            assert_eq!(Some(end), until);
                            "later"
                        }
                        Need::Break(region) => {
                            assert_eq!(region, record.region());
                            "break"
                        }
                    };
                    let state = [called, kind, level, shield];
                    assert_eq!(need, table.of(&state), "{state:?}");
                }
            }
        }
    }
}

/// The note that is on its way may have been left where a signal was enough, for a driver that need not come at once.
#[test]
fn a_ladder_is_told_of_whatever_note_is_on_its_way() {
    for (ladder, told) in [
        (0, Tell::Nothing),
        (Region::ABANDON, Tell::Nothing),
        (Region::FAIL, Tell::Ladder),
        (Region::HOOK, Tell::Ladder),
        (Region::UNWIND, Tell::Ladder),
    ] {
        let record = record();
        assert!(record.enlist());
        let _inside = Owner::of(record).enter(Kind::Foreign, ladder, null_mut(), Fences::Full);
        let duty = record.raise(1, first(), Policy::Supersede, Fences::Full).duty;
        assert!(
            matches!(duty, Duty::Nudge { tell, .. } if tell == told),
            "{ladder:#x}"
        );
    }
}
