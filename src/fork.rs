//! fork: what a child starts with (P13).
//!
//! Owns: holding this crate's locks over a fork and putting the child in order: only the forking thread exists, its
//! queue is empty, the driver is not running. Leaves to each module the resetting of its own.
//! A child made by a bare `clone` or `vfork` system call runs none of this: see docs/limitations.md.
//!
//! **Signal context:** no, but the child of a process with threads may do little else than a handler: it allocates
//! nothing here, and drops nothing that others put in.

use std::cell::RefCell;
use std::sync::MutexGuard;

use crate::current::{self, REGISTRY};
use crate::driver;
use crate::foreign::poison;
use crate::journal::{self, Shelf};
use crate::platform::{fork, handler, nudge};
use crate::protocol::registry::{Members, ThreadId};
use crate::protocol::slot::Slot;
use crate::protocol::{Guard, Hold, on_top_of_a_lock};
use crate::{runtime, status};

struct Held {
    members: Guard<'static, Members>,
    slot: Option<Hold<'static, Slot>>,
    _ends: runtime::HeldEnds,
    _seen: status::HeldSeen,
    _journals: MutexGuard<'static, Shelf>,
    _poison: Guard<'static, Vec<&'static str>>,
    // The last to go: no handler of the program runs on top of these locks.
    _quiet: nudge::Quiet,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// Registers for every later fork. `false` without memory.
pub(crate) fn register() -> bool {
    fork::at_fork(before, in_parent, in_child)
}

extern "C" fn before() {
    let quiet = nudge::quiet();
    let on_top = on_top_of_a_lock();
    let members = REGISTRY.members();
    let slot = current::owner().and_then(|owner| owner.record().hold_slot(on_top));
    let held = Held {
        members,
        slot,
        _ends: runtime::hold_for_fork(),
        _seen: status::hold_for_fork(),
        _journals: journal::hold_for_fork(),
        _poison: poison::hold_for_fork(),
        _quiet: quiet,
    };
    let _ = HELD.try_with(|place| place.replace(Some(held)));
}

extern "C" fn in_parent() {
    let _ = HELD.try_with(|place| place.take());
}

extern "C" fn in_child() {
    handler::note_process();
    let held = HELD.try_with(|place| place.take()).ok().flatten();
    let Some(Held {
        mut members, slot, ..
    }) = held
    else {
        return;
    };
    let survivor = ThreadId::current();
    REGISTRY.reset_after_fork(&mut members, survivor);
    if let Some(owner) = current::owner() {
        owner.reset_after_fork(slot);
        owner.record().begin(handler::this_thread(), nudge::os_tid());
    }
    if let Some(id) = survivor {
        members.rebind(id, nudge::os_tid());
    }
    driver::reset_after_fork();
}
