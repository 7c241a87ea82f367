//! Duties: what a raise owes its target, done at once.
//!
//! Owns: the wake and the first nudge. Leaves to `protocol::record` which of them it is, to the module above what takes time. On the
//! raiser's thread, or the driver's; blocks for short locks only.
//!
//! **Signal context:** no.

use super::{note, nudged};
use crate::current::release;
use crate::platform::{futex, nudge};
use crate::protocol::record::{Duty, Record};
use crate::protocol::registry::ThreadId;
use crate::runtime;

/// Does what a raise owes its target.
#[inline(always)]
pub(crate) fn perform(record: &'static Record, id: ThreadId, duty: Duty<'_>) {
    match duty {
        Duty::Nothing => {}
        Duty::Wake => futex::wake(record.attention_word()),
        duty => perform_more(record, id, duty),
    }
}

fn perform_more(record: &'static Record, id: ThreadId, duty: Duty<'_>) {
    match duty {
        Duty::Nothing | Duty::Wake => {}
        Duty::Nudge { pin, tell } => {
            if !nudge::send(record, pin.sender(), record.os_tid(), runtime::signal()) {
                record.unsent();
            }
            release(pin);
            nudged(id, tell);
        }
        Duty::Verify | Duty::Later => note(id),
    }
}
