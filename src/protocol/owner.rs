//! The owner's side of a record: regions, masks, taking what was raised, and the way out.
//!
//! Owns: steps (a) to (e) of [`super::record`]'s table, and the region word. Leaves to [`super::record`] the raisers' steps
//! and the invariants, which are numbered there.
//! Only the thread whose record it is calls this. Nothing blocks but the slot's lock, and nothing is dropped under it.
//!
//! **Signal context:** no.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `enter`'s frame store Release | `Record::frame` Acquire | a looker that sees the outer region's word may get the inner region's frame, and finds it complete |
//! | unpin Release | `leave`'s attention load Acquire | what a looker or a hook did under a pin that is gone by now is done |
//! | `Record::notify` Release | `consume`, `take_notice` Acquire | who set the bit has done what it tells of |
//! | `change_region`'s swap SeqCst, its attention load SeqCst | `Record::duty`'s attention RMW SeqCst, its region load SeqCst | the halves of I1 where the owner fences fully: a store and a fence in one, which costs less than both |
//! | `change_region`'s swap and load, SeqCst | looker's pin SeqCst, full fence, region load | the same for I4 |
//! | `set_mask`'s region store, full fence | `Record::duty`'s fence, region load | a mask put away inside a region: the owner sees the call, or the raiser sees the mask gone (I1) |

use super::entry::Entry;
use super::record::{Fences, Record};
use super::scope_table::ScopeTable;
use super::slot::{Queue, Slot};
use super::word::{Attention, Gate, Kind, Level, Moment, Region};
use crate::sync_shim::{
    Hold, Ordering, fence, light_fence, load_after_rmw, on_top_of_a_lock, on_top_of_duties,
};

/// What leaving a region asks of the owner.
#[must_use = "a frame must outlive whoever looks at it"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterLeave {
    Nothing,
    Owes {
        /// Somebody may look at the region, or nudge it: wait until [`Owner::await_looks`] is `None`.
        await_looks: bool,
        /// Back in an outer region with a call there: tell the driver. Who raised may have woken the inner wait only,
        /// and has gone.
        note: bool,
    },
}

/// The owner's view of its own record: the only way to the region word (I5).
///
/// Not `Send`: it is made from the calling thread's own record and never leaves it.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(super) record: &'static Record,
    _thread: std::marker::PhantomData<*const ()>,
}

/// A region that was entered, to be handed back to [`Owner::leave`].
#[must_use = "a region must be left"]
pub(crate) struct Entered {
    outer: Region,
    frame: *mut (),
    /// Whether a safepoint would have something to look at.
    pub(crate) calls: bool,
}

impl Entered {
    /// What is put back on leaving: the word and the frame that were there on entry.
    #[inline(always)]
    pub(crate) fn outer(&self) -> (Region, *mut ()) {
        (self.outer, self.frame)
    }

    /// The region that was entered from there.
    #[inline(always)]
    pub(crate) fn from_outer((outer, frame): (Region, *mut ())) -> Self {
        Self {
            outer,
            frame,
            calls: false,
        }
    }
}

impl Owner {
    /// The caller is the thread that `record` is for.
    pub(crate) const fn of(record: &'static Record) -> Self {
        Self {
            record,
            _thread: std::marker::PhantomData,
        }
    }

    pub(crate) fn record(self) -> &'static Record {
        self.record
    }

    #[inline(always)]
    pub(crate) fn region(self) -> Region {
        Region(self.record.region.load(Ordering::Relaxed))
    }

    /// Step (a). `frame` is what pinned lookers may read while the region lasts; null for none.
    #[inline(always)]
    pub(crate) fn enter(self, kind: Kind, ladder: u64, frame: *mut (), fences: Fences) -> Entered {
        let record = self.record;
        let outer = self.region();
        let outer_frame = record.frame.load(Ordering::Relaxed);
        debug_assert_eq!(ladder & Region::FRAMED == 0, frame.is_null());
        if !frame.is_null() {
            record.frame.store(frame, Ordering::Release);
        }
        // Full: pairs with the RMW and the load in `Record::duty` (I1).
        let attention = self.change_region(outer.entered(kind, ladder), fences);
        Entered {
            outer,
            frame: outer_frame,
            calls: attention.calls(),
        }
    }

    /// The store, the fence and the load of (a) and (d). A full fence costs least as a part of the store.
    #[inline(always)]
    fn change_region(self, region: Region, fences: Fences) -> Attention {
        let record = self.record;
        Attention(match fences {
            Fences::Light => {
                record.region.store(region.0, Ordering::Release);
                light_fence();
                record.attention.load(Ordering::Acquire)
            }
            Fences::Full => {
                record.region.swap(region.0, Ordering::SeqCst);
                load_after_rmw(&record.attention)
            }
        })
    }

    /// Step (d). Puts back the word that was there on entry, and the frame if that word tells of one; the inner frame may go once
    /// what is owed is paid. Reads nothing of the inner region: reading back what was just stored would be the longest part of a short
    /// foreign call. Masks restore their level before.
    #[inline(always)]
    pub(crate) fn leave(self, entered: &Entered, fences: Fences) -> AfterLeave {
        let record = self.record;
        if entered.outer.has(Region::FRAMED) {
            // Before the region word: a looker that the check below misses sees the outer word, and must not find the inner
            // frame with it. One that sees the inner word with the outer frame is as well off: that one lives on.
            record.frame.store(entered.frame, Ordering::Release);
        }
        // Full: pairs with the looker's pin and full fence (I4), and with the raiser's RMW and load (I1): one who sees this
        // region as it was before is seen by the next.
        let attention = self.change_region(entered.outer, fences);
        if !attention.has(Attention::LOOKS | Attention::NUDGE | Attention::CALLS) {
            return AfterLeave::Nothing;
        }
        // The end of most waits.
        let outermost = entered.outer.kind() == Kind::Running;
        if outermost && !attention.has(Attention::LOOKS | Attention::NUDGE) {
            return AfterLeave::Nothing;
        }
        AfterLeave::Owes {
            await_looks: attention.held(),
            note: attention.calls() && !outermost,
        }
    }

    /// Step (e), waiting for those whom the region must outlast: the word to sleep on, or `None` once they are gone.
    pub(crate) fn await_looks(self) -> Option<Attention> {
        // Pairs with the last looker's unpin..
        // On top of a raise of this thread's own, that a signal was sent is not waited for: it may be this thread that sends it. The frame of the
        // region that is left is waited for in any case: nobody looks at that with handlers of the program on top.
        let waits = if on_top_of_duties() {
            Attention::looked_at
        } else {
            Attention::held
        };
        if !waits(Attention(self.record.attention.load(Ordering::Acquire))) {
            return None;
        }
        self.announce(waits)
    }

    /// After taking an entry: waits for a signal that its raiser has decided on and not sent, lest it fall into the next
    /// call. `NUDGE` was set under the slot's lock, which the taking took later, so it is seen here.
    pub(crate) fn await_nudge(self) -> Option<Attention> {
        if self.record.attention().nudge_to_come() && !on_top_of_duties() {
            self.announce(Attention::nudge_to_come)
        } else {
            None
        }
    }

    /// Whether a signal is to be sent or was sent, and has not arrived: it waits for this thread to enter the kernel, or another processor's
    /// interrupt is on its way. False in nearly every delivery without a signal, and after nearly every one with.
    #[inline(always)]
    pub(crate) fn nudge_is_on_its_way(self) -> bool {
        // Pairs with the raiser's unpin: the kernel is entered after it has made the signal pending.
        Attention(self.record.attention.load(Ordering::Acquire)).has(Attention::NUDGE)
    }

    /// Announces that the owner waits for the pins to go: the word to sleep on, or `None` once they are gone.
    pub(crate) fn await_pins(self) -> Option<Attention> {
        self.announce(Attention::pinned)
    }

    fn announce(self, waits: impl Fn(Attention) -> bool) -> Option<Attention> {
        let word = Attention(
            self.record
                .attention
                .fetch_or(Attention::AWAITED, Ordering::Acquire)
                | Attention::AWAITED,
        );
        if waits(word) {
            return Some(word);
        }
        self.record
            .attention
            .fetch_and(!Attention::AWAITED, Ordering::Acquire);
        None
    }

    /// Puts a level and a shield in force and returns those before. Lowering them inside a region fences: look for a call afterwards.
    #[inline(always)]
    pub(crate) fn set_mask(self, level: Level, shielded: bool) -> (Level, bool) {
        let region = self.region();
        let outer = (region.level(), region.has(Region::SHIELDED));
        self.record
            .region
            .store(region.with_mask(level, shielded).0, Ordering::Release);
        let lowered = level < outer.0 || outer.1 && !shielded;
        if lowered && region.kind() != Kind::Running {
            // Pairs with the fence in `Record::duty` (I1).
            fence(Ordering::SeqCst);
        }
        outer
    }

    /// Takes rungs out of the region in force, and returns the word before, for [`Owner::allow`]. The handler, on this
    /// thread, sees the store before whatever the caller does next.
    pub(crate) fn forbid(self, rungs: u64) -> Region {
        let before = self.region();
        self.put(before.without(rungs));
        before
    }

    /// Puts back the word of before [`Owner::forbid`].
    pub(crate) fn allow(self, before: Region) {
        self.put(before);
    }

    fn put(self, region: Region) {
        self.record.region.store(region.0, Ordering::Release);
        light_fence();
    }

    pub(crate) fn set_shield(self, until: u64) {
        self.record.shield_until.store(until, Ordering::Relaxed);
    }

    /// Whether an exception may come out at this moment.
    #[inline]
    pub(crate) fn gate(self, moment: Moment, now: impl FnOnce() -> u64) -> Gate {
        self.region().gate(moment, self.record.shield_until(), now)
    }

    /// Clears `bit` and tells whether it was set.
    pub(crate) fn consume(self, bit: u64) -> bool {
        self.record.attention().has(bit)
            && Attention(self.record.attention.fetch_and(!bit, Ordering::Acquire)).has(bit)
    }

    /// Clears `NOTIFIED`, and returns the word as it is without it.
    #[inline]
    pub(super) fn take_notice(self) -> Attention {
        let word = self.record.attention();
        if !word.has(Attention::NOTIFIED) {
            return word;
        }
        // Pairs with `Record::notify`.
        let before = self
            .record
            .attention
            .fetch_and(!Attention::NOTIFIED, Ordering::Acquire);
        Attention(before & !Attention::NOTIFIED)
    }

    /// Step (b): the first deliverable entry.
    #[inline(always)]
    pub(crate) fn take_pending(self) -> Option<Entry> {
        // In a handler on top of this thread's own work in there: not now.
        let mut slot = self.record.with_mail(self.record.slot.lock_or_leave()?);
        let entry = slot.take_first();
        self.record.settle_pending_bit(&slot);
        if let (Some(entry), Some(scopes)) = (&entry, self.record.scopes.get())
            && let Some(scope) = entry.scope
        {
            scopes.note_delivered(scope, &entry.receipt);
        }
        entry
    }

    /// How many exceptions were put into the slot so far, modulo 2^32. `None` in a handler on top of this thread's own work in there.
    pub(crate) fn raises(self) -> Option<u32> {
        Some(self.record.with_mail(self.record.slot.lock_or_leave()?).pushes())
    }

    /// Whether something that calls can be delivered here. Not so in a signal handler on top of this thread's own work in the slot, if what
    /// calls is in there: it waits for the handler's end.
    #[inline]
    pub(crate) fn within_reach(self) -> bool {
        !on_top_of_a_lock() || self.within_reach_on_top()
    }

    #[cold]
    fn within_reach_on_top(self) -> bool {
        let attention = self.record.attention();
        attention.has(Attention::STOPPED)
            || attention.has(Attention::SCOPE) && self.scope_calls()
            || attention.has(Attention::PENDING) && self.record.slot.lock_if_free().is_some()
    }

    /// The first step out: no new pins. Then wait until [`Owner::await_pins`] is `None`.
    pub(crate) fn begin_exit(self) {
        self.record
            .attention
            .fetch_or(Attention::EXITING, Ordering::SeqCst);
    }

    /// The last step out: hands over what will not be delivered.
    #[must_use = "undelivered entries must be settled"]
    pub(crate) fn close(self) -> Queue {
        let mut slot = self.record.with_mail(self.record.slot.lock());
        let drained = slot.close();
        self.record
            .attention
            .fetch_and(!Attention::CALLS, Ordering::SeqCst);
        drained
    }

    /// In a forked child: forgets raisers, pins and the queue that belong to the parent. The entries are leaked: the
    /// parent delivers and drops them, and a destructor must not run in two processes. The owner's scopes are on its stack
    /// and so in the child as well; `SCOPE` makes its next safepoint tell the child's driver of their deadlines. Without the slot,
    /// which the owner is in the middle of changing, what waits there is the child's too.
    pub(crate) fn reset_after_fork(self, slot: Option<Hold<'_, Slot>>) {
        let attention = self.record.attention();
        let open = self.record.scopes.get().is_some_and(ScopeTable::after_fork);
        let mut calls = if open { Attention::SCOPE } else { 0 };
        match slot {
            Some(mut slot) => std::mem::forget(slot.drain()),
            None => calls |= attention.0 & Attention::PENDING,
        }
        self.record.attention.store(
            Attention::idle(attention.generation()).0 | calls,
            Ordering::SeqCst,
        );
        self.record.order.withdraw();
    }
}
