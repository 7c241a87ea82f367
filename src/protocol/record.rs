//! The record: all that a target and its raisers must agree on, and the raisers' transitions of it.
//!
//! Owns: the attention word, the region word, the slot, and the invariants of the three files that work on them. Leaves
//! to [`super::owner`] the owner's transitions, to [`super::pin`] pinning, to others making system calls (transitions
//! return the caller's next duty), clocks, and who may be attached ([`super::registry`]).
//! [`Record`] methods may be called by any thread. Nothing here blocks but the slot's lock, and nothing is dropped under
//! it.
//!
//! **Signal context:** [`Record::attention`], [`Record::region`] and the `pub(crate)` fields marked *handler*; the rest no.
//!
//! ```text
//!   raiser                                          owner
//!   (1) lock slot, check generation                 (a) enter: store region; fence; load attention
//!   (2) push entry                                  (b) if a call is there: leave, take, raise
//!   (3) RMW attention |= PENDING                    (c) block
//!   (4) SeqCst load of region -> duty               (d) leave: store region; fence; load attention
//!   (5) unlock; perform the duty                    (e) if held: wait until nobody looks at the region
//! ```
//!
//! - I1. *No lost wake-up.* (3) before (4) and the two halves of (a) form the store-buffer litmus test: not both may
//!   miss. Windows and waits fence fully in (a) and (d), as a part of the store; foreign regions fence lightly, and the raiser who sees a reason to do
//!   nothing, `Running` or `Uninterruptible`, owes a *verify*: one `membarrier`, then (4) again. A mask lowered inside a
//!   region fences fully. In (d), back in an outer region with a call there, the owner leaves a note itself: (5) may
//!   have been a mere wake.
//! - I2. `PENDING` is set while the slot or its mail ([`super::mail`]) is not empty. It is cleared under the slot's lock.
//! - I3. A generation ends only after `EXITING` is set, pins are zero and the slot is closed: what is pinned, or
//!   locked with its slot open, is alive and cannot become another thread.
//! - I4. A frame seen in the region word under a look, after a full fence, stays valid until the unpin, since its owner
//!   waits in (e). By the same argument as I1, with the look in the place of `PENDING` and (d) in the place of (a). (d)
//!   puts the outer frame back before the outer region, if that is `FRAMED`: no such word is seen with a frame that is further in
//!   and gone, and with any other nobody reads one.
//! - I5. The region word has one writer, the owner.
//! - I6. *No nudge after its exception.* A raiser's signal falls neither into a region after the one that it was meant for,
//!   nor into anything after its exception was taken: the owner waits while a raiser is `SENDING` and its signal has
//!   not arrived. `NUDGE` goes only when that signal has arrived, not with another's that came before it; the driver
//!   sends under a look (I4).
//! - I7. *Each raise is seen by a wait that outlasts raises.* A raise that finds a call in the word changes no bit of it, so the futex
//!   would let the owner sleep on. It sets `NOTIFIED` as well if it sees the wait; if not, the owner enters after (4), and finds
//!   under the slot's lock, in its first look, what was pushed.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | owner's region store Release | raiser's region load SeqCst, looker's Acquire | the frame behind it is complete |
//! | owner's frame store Release | looker's frame load Acquire | an inner region's frame is complete even if only the outer word is seen |
//! | raiser's attention RMW SeqCst | owner's attention load, Relaxed at safepoints, SeqCst in (a) and (d) | ordered by the fences of I1; the slot's lock carries the data |
//! | unpin Release | owner's `await_looks`, `await_pins` RMW and its load in (d), Acquire | the looker is done with the frame (I4) |
//! | `rung`, `REQUEUED` RMW Relaxed | owner | same thread as the handler, or ordered by the slot's lock |
//! | raisers' attention RMWs SeqCst | handler's `hear` RMW Acquire | who found `NUDGE` set has its raise seen |

use once_cell::race::OnceBox;

pub(crate) use super::duty::{Duty, Need, Tell};
use super::entry::{Entry, ReceiptRef, Spare};
use super::flight::Flight;
use super::order::LazyOrder;
pub(crate) use super::owner::{AfterLeave, Entered, Owner};
pub(crate) use super::pin::{AfterUnpin, Look, Pin};
use super::scope_table::ScopeTable;
use super::slot::{Policy, Queue, Slot};
use super::word::{Attention, Level, Region, Sender};
use crate::sync_shim::{
    AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Brief, Hold, Ordering, const_constructor,
};

/// Which half-fences close the race of I1 for foreign regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fences {
    /// The owner's fence is for the compiler only; raisers owe a `membarrier`.
    Light,
    /// Both sides fence fully: no `membarrier` on this system.
    Full,
}

/// All that one attached thread shares with its raisers.
#[repr(C, align(64))]
pub(crate) struct Record {
    pub(super) attention: AtomicU64,
    pub(super) region: AtomicU64,
    pub(super) frame: AtomicPtr<()>,
    /// Until when the innermost shield holds, in nanoseconds of the platform's monotonic clock.
    pub(super) shield_until: AtomicU64,
    /// *handler*: `pthread_self` of the owner, by which the handler knows that a signal is meant for it.
    pub(crate) thread: AtomicUsize,
    pub(crate) os_tid: AtomicI32,
    /// *handler*: the strongest rung that has acted since the last delivery.
    pub(crate) rung: AtomicU32,
    /// *handler*: nudges that reached the handler, modulo 2^32.
    heard: AtomicU32,
    index: u32,
    /// *handler*: the fail order.
    pub(crate) order: LazyOrder,
    pub(super) slot: Brief<Slot>,
    /// The cell of an earlier raise, for the next.
    pub(crate) spare: Spare,
    pub(crate) flight: Flight,
    pub(super) scopes: OnceBox<ScopeTable>,
}

/// What came of a raise: three words of one shape, whatever it was, so that none of them goes through memory.
#[must_use = "the target may sleep until the duty is done"]
pub(crate) struct AfterPush<'a> {
    pub(crate) fate: Fate,
    /// What is to be settled: what was displaced, or the entry itself if it is not in the slot.
    pub(crate) aside: Queue,
    pub(crate) duty: Duty<'a>,
}

/// Whether an entry is in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Accepted,
    /// The target is past its last safepoint, or the scope is not open: settle the entry as `TargetEnded`.
    Ended,
    /// That generation is over: nobody was raised into, and the entry is only to be dropped.
    Gone,
}

impl AfterPush<'_> {
    /// Of an entry that is not in the slot.
    #[inline(always)]
    pub(super) fn refused(fate: Fate, entry: Entry) -> Self {
        Self {
            fate,
            aside: Queue::of(entry),
            duty: Duty::Nothing,
        }
    }
}

/// The slot of a generation.
enum Found<'a> {
    Slot(Hold<'a, Slot>),
    Over,
    /// Its lock cannot be had: the caller is on top of whoever holds it, or its holder does not come on.
    Busy,
}

impl Record {
    const_constructor! {
        pub(crate) fn new(index: u32) -> Record {
            Record {
                attention: AtomicU64::new(Attention::idle(0).0),
                region: AtomicU64::new(Region::IDLE.0),
                frame: AtomicPtr::new(std::ptr::null_mut()),
                shield_until: AtomicU64::new(0),
                thread: AtomicUsize::new(0),
                os_tid: AtomicI32::new(0),
                rung: AtomicU32::new(0),
                heard: AtomicU32::new(0),
                index,
                order: LazyOrder::new(),
                slot: Brief::new(Slot::new()),
                spare: Spare::new(),
                flight: Flight::new(),
                scopes: OnceBox::new(),
            }
        }
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// How a signal names this record and its sender: odd, so that it is no address.
    pub(crate) fn token(&self, from: Sender) -> usize {
        (self.index as usize) << 3 | from.bits() | 1
    }

    #[inline(always)]
    pub(crate) fn attention(&self) -> Attention {
        Attention(self.attention.load(Ordering::Relaxed))
    }

    pub(crate) fn attention_word(&self) -> &AtomicU64 {
        &self.attention
    }

    #[inline(always)]
    pub(crate) fn region(&self) -> Region {
        Region(self.region.load(Ordering::Acquire))
    }

    pub(crate) fn frame(&self) -> *const () {
        self.frame.load(Ordering::Acquire)
    }

    pub(crate) fn shield_until(&self) -> u64 {
        self.shield_until.load(Ordering::Relaxed)
    }

    /// Whether this is the live record of the thread with this `pthread_self`.
    pub(crate) fn is_owned_by(&self, thread: usize) -> bool {
        self.thread.load(Ordering::Relaxed) == thread && !self.attention().has(Attention::EXITING)
    }

    /// The new owner's first step.
    pub(crate) fn begin(&self, thread: usize, os_tid: i32) {
        self.thread.store(thread, Ordering::Relaxed);
        self.os_tid.store(os_tid, Ordering::Release);
    }

    /// Its kernel thread has died without leaving: nobody is signalled in its name any more.
    pub(crate) fn lose_thread(&self) {
        self.thread.store(0, Ordering::Relaxed);
        self.os_tid.store(0, Ordering::Release);
    }

    /// 0 until the thread runs.
    pub(crate) fn os_tid(&self) -> i32 {
        self.os_tid.load(Ordering::Acquire)
    }

    /// Nudges that reached the handler so far.
    #[inline]
    pub(crate) fn heard(&self) -> u32 {
        self.heard.load(Ordering::Relaxed)
    }

    /// The handler's first step: a nudge has arrived. Returns the word as it was then.
    pub(crate) fn hear(&self, from: Sender) -> Attention {
        self.heard.fetch_add(1, Ordering::Relaxed);
        let mut word = self.attention();
        // Acquire pairs with the raiser's RMWs: whoever found `NUDGE` set relies on what this reads.
        while let Err(now) = self.attention.compare_exchange_weak(
            word.0,
            word.heard(from).0,
            Ordering::Acquire,
            Ordering::Relaxed,
        ) {
            word = Attention(now);
        }
        word
    }

    /// A nudge was not sent after all.
    pub(crate) fn unsent(&self) {
        self.attention.fetch_and(!Attention::NUDGE, Ordering::Relaxed);
    }

    /// Notes that a rung has acted.
    pub(crate) fn note_rung(&self, rung: u32) {
        self.rung.fetch_max(rung, Ordering::Relaxed);
    }

    /// The strongest rung that has acted since the last delivery; starts anew.
    #[inline]
    pub(crate) fn take_rung(&self) -> u32 {
        if self.rung() == 0 { 0 } else { self.reset_rung() }
    }

    #[cold]
    fn reset_rung(&self) -> u32 {
        self.rung.swap(0, Ordering::Relaxed)
    }

    /// The strongest rung that has acted since the last delivery.
    #[inline]
    pub(crate) fn rung(&self) -> u32 {
        self.rung.load(Ordering::Relaxed)
    }

    /// *handler*: notes that it has blocked our signal in this thread to outlast another handler.
    pub(crate) fn note_requeued(&self) {
        self.attention.fetch_or(Attention::REQUEUED, Ordering::Relaxed);
    }

    pub(crate) fn pending_count(&self) -> usize {
        match self.slot.lock_in_time() {
            Some(slot) => slot.len() + usize::from(self.has_mail()),
            // Some, at least.
            None => usize::from(self.attention().has(Attention::PENDING)),
        }
    }

    /// Opens a new generation. Called under the registry's lock, with nobody attached.
    pub(crate) fn open(&self, generation: u32) {
        // Nothing, but after a thread that has died without leaving.
        drop(self.flight.take());
        let mut slot = self.slot.lock();
        self.region.store(Region::IDLE.0, Ordering::Relaxed);
        self.thread.store(0, Ordering::Relaxed);
        self.os_tid.store(0, Ordering::Relaxed);
        self.rung.store(0, Ordering::Relaxed);
        self.attention
            .store(Attention::idle(generation).0, Ordering::SeqCst);
        slot.open();
        if let Some(scopes) = self.scopes.get() {
            scopes.forget_all();
        }
    }

    /// Ends the generation: later raises through its id are `Gone`. Called with the slot closed and no pins (I3).
    pub(crate) fn end(&self, next_generation: u32) {
        let _slot = self.slot.lock();
        self.attention.store(
            Attention::idle(next_generation).0 | Attention::EXITING,
            Ordering::SeqCst,
        );
    }

    /// Keeps raisers out while the owner forks. `None` if it forks on top of its own work in there, which does that too.
    pub(crate) fn hold_slot(&self, on_top: bool) -> Option<Hold<'_, Slot>> {
        self.slot.lock_unless(on_top)
    }

    /// In a forked child: ends a generation whose thread is not here. The slot's lock may be held for ever.
    pub(crate) fn abandon(&self, next_generation: u32) {
        self.attention.store(
            Attention::idle(next_generation).0 | Attention::EXITING,
            Ordering::SeqCst,
        );
    }

    /// Locks the slot if `generation` is not over. Looks before it locks, too: in a forked child the lock of an abandoned
    /// record may be held for ever.
    #[inline(always)]
    fn slot_of(&self, generation: u32) -> Found<'_> {
        let over = || self.attention().generation() != generation;
        if over() {
            return Found::Over;
        }
        let Some(slot) = self.slot.lock_in_time() else {
            return Found::Busy;
        };
        if over() {
            Found::Over
        } else {
            Found::Slot(self.with_mail(slot))
        }
    }

    /// Raises into this record's `generation`.
    #[inline(always)]
    pub(crate) fn raise(
        &self,
        generation: u32,
        entry: Entry,
        policy: Policy,
        fences: Fences,
    ) -> AfterPush<'_> {
        let mut slot = match self.slot_of(generation) {
            Found::Slot(slot) => slot,
            Found::Over => return AfterPush::refused(Fate::Gone, entry),
            Found::Busy => return self.raise_by_mail(generation, entry, policy, fences),
        };
        if slot.is_closed() || !self.admits(entry.scope) {
            return AfterPush::refused(Fate::Ended, entry);
        }
        if slot.is_empty() {
            // What acted on an earlier raise that was revoked says nothing about this one.
            self.rung.store(0, Ordering::Relaxed);
        }
        let aside = slot.push(entry, policy);
        let before = Attention(self.attention.fetch_or(Attention::PENDING, Ordering::SeqCst));
        AfterPush {
            fate: Fate::Accepted,
            aside,
            duty: self.duty(before, generation, fences),
        }
    }

    /// Puts in what a child of `parent`, the calling thread, is born with: nothing if it is spawned where the parent must
    /// not be raised into. Called under the registry's lock, before the child's thread starts: there is nobody to wake.
    pub(crate) fn inherit(&self, parent: &Self, on_top: bool) {
        let region = parent.region();
        let protected = region.level() == Level::Uninterruptible || region.has(Region::SHIELDED);
        if protected || !parent.attention().has(Attention::PENDING) {
            return;
        }
        // In a handler on top of the parent's own work in there it inherits nothing.
        let Some(inherited) = parent
            .slot
            .lock_unless(on_top)
            .map(|slot| parent.with_mail(slot).inheritance())
        else {
            return;
        };
        let mut slot = self.slot.lock();
        for entry in inherited {
            // Distinct types, or queued: in a slot that was empty nothing is displaced.
            let displaced = slot.push(entry, Policy::Queue);
            debug_assert!(displaced.is_empty());
            self.attention.fetch_or(Attention::PENDING, Ordering::SeqCst);
        }
    }

    /// Empties the slot without raising. `None` if the generation is over.
    pub(crate) fn clear(&self, generation: u32) -> Option<Queue> {
        match self.slot_of(generation) {
            Found::Slot(slot) if slot.is_closed() => None,
            Found::Slot(mut slot) => {
                let drained = slot.drain();
                self.settle_pending_bit(&slot);
                Some(drained)
            }
            Found::Over => None,
            // Whoever reads it drains.
            Found::Busy => self.clear_by_mail(generation),
        }
    }

    /// Takes one raise back, if it still waits.
    pub(crate) fn revoke(&self, generation: u32, receipt: &ReceiptRef) -> Option<Entry> {
        let Found::Slot(mut slot) = self.slot_of(generation) else {
            return None;
        };
        let entry = slot.remove(receipt);
        self.settle_pending_bit(&slot);
        entry
    }

    /// Sets the level flag that makes every later safepoint raise `Stop`. `None` if the generation is over.
    pub(crate) fn stop(&self, generation: u32, fences: Fences) -> Option<Duty<'_>> {
        self.call(generation, Attention::STOPPED, fences)
    }

    /// Whether this generation has not begun to end.
    pub(super) fn is_alive(&self, generation: u32) -> bool {
        let word = self.attention();
        word.generation() == generation && !word.has(Attention::EXITING)
    }

    /// Sets a bit, and what that owes; `None` if the generation is ending or over. No lock: the word says whose it is.
    pub(super) fn call(&self, generation: u32, bit: u64, fences: Fences) -> Option<Duty<'_>> {
        let mut word = self.attention();
        loop {
            if word.generation() != generation || word.has(Attention::EXITING) {
                return None;
            }
            match self.attention.compare_exchange_weak(
                word.0,
                word.0 | bit,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(self.duty(word, generation, fences)),
                Err(now) => word = Attention(now),
            }
        }
    }

    /// Sets one attention bit without a duty to follow but a wake: `NOTIFIED`, `UNPARKED`.
    pub(crate) fn notify(&self, bit: u64) {
        self.attention.fetch_or(bit, Ordering::Release);
    }

    /// Keeps I2. Called under the slot's lock.
    #[inline]
    pub(super) fn settle_pending_bit(&self, slot: &Slot) {
        if slot.is_empty() && self.attention().has(Attention::PENDING) {
            self.attention.fetch_and(!Attention::PENDING, Ordering::SeqCst);
            // Who has written a letter since sets the bit later, or this sees the letter.
            if self.has_mail() {
                self.attention.fetch_or(Attention::PENDING, Ordering::SeqCst);
            }
        }
    }
}
