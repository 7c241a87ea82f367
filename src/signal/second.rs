//! What a second press does beside raising again: it tells who is stuck, and has their blocking calls fail.
//!
//! Owns: the words, and the rung *fail* for who is stuck outside of every call of this crate, or in one that allows less. Leaves
//! to `os::interrupt` the failing, to `signal` the presses. On a thread of its own ([`answer`] starts it): standard error may be
//! what everybody is stuck in, and each thread takes up to half a second.
//!
//! **Signal context:** no.

use std::io::{self, Write};

use super::name_of;
use crate::current::{REGISTRY, release};
use crate::os::{OsTid, interrupt};
use crate::protocol::registry::ThreadId;
use crate::rung::Rung;
use crate::status::{MaskState, ThreadInfo, ThreadState, info};

/// How many threads a second press names.
const NAMED: usize = 8;

/// Answers a second press of `signal`. `stuck` are those that have caught nothing of the first.
pub(super) fn answer(signal: i32, stuck: Vec<ThreadId>) {
    let thread = std::thread::Builder::new().name("throwto-pressed".into());
    // Where no thread can be had the press has been raised all the same.
    drop(thread.spawn(move || {
        let seen: Vec<ThreadInfo> = stuck.iter().filter_map(|id| info(*id)).collect();
        tell(complaint(signal, &seen));
        let failed: Vec<&ThreadInfo> = seen.iter().filter(|seen| is_made_to_fail(seen)).collect();
        if !failed.is_empty() {
            tell(format!("throwto: made to fail: {}\n", listed(&failed)));
        }
    }));
}

/// Has the blocking call of a thread fail that no rung gets at otherwise: it holds nothing back, and is in no wait of this
/// crate, which a raise ends by itself.
fn is_made_to_fail(seen: &ThreadInfo) -> bool {
    let reachable = matches!(seen.state, ThreadState::Running | ThreadState::Foreign);
    if !reachable || seen.mask != MaskState::Unmasked {
        return false;
    }
    // Pinned, the thread cannot end, nor its number become another's.
    let Some(pin) = REGISTRY.pin(seen.id) else {
        return false;
    };
    let os_tid = OsTid::from_raw(pin.record().os_tid());
    let failed = interrupt(os_tid, Rung::Fail).is_ok();
    release(pin);
    failed
}

fn complaint(signal: i32, stuck: &[ThreadInfo]) -> String {
    let what = name_of(signal);
    let whom = if stuck.is_empty() {
        ", and nobody is there to raise it in".to_owned()
    } else {
        format!("; raised again in {}", listed(&stuck.iter().collect::<Vec<_>>()))
    };
    format!("throwto: {what} again{whom}; once more ends the process\n")
}

/// The first of them with where they are, and how many more.
fn listed(threads: &[&ThreadInfo]) -> String {
    let named: Vec<String> = threads.iter().take(NAMED).map(|seen| seen.to_string()).collect();
    let more = threads.len().saturating_sub(NAMED);
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    named.join(", ") + &more
}

/// One write, so that two reports do not mix. A standard error that is closed hears nothing.
pub(super) fn tell(what: String) {
    let _ = io::stderr().write_all(what.as_bytes());
}
