//! Mail: raises into a slot whose lock cannot be had.
//!
//! Owns: the letters that wait for whoever gets the slot's lock next, and what those have put aside for somebody who holds none. Leaves to
//! [`super::record`] who writes letters and who reads them. Anyone may write, on any thread, in a signal handler of the
//! program too; nothing blocks, a letter allocates.
//!
//! **Signal context:** no lock is taken; what allocates is as safe as the allocator.
//!
//! A handler of the program that raises, on top of its own thread's work in the same slot, would wait for ever for the lock; and
//! a raiser that meets such a handler on its way, for as long as that handler takes. Both write a letter, and go on.
//!
//! - I1. Letters are read in the order in which they were written, under the slot's lock, before anything else is done in there.
//! - I2. A letter is read: who writes one sets `PENDING` after it, under a pin, and `PENDING` stays until it is read. So the target's
//!   next safepoint reads it, or its end.
//! - I3. What is put aside is settled by who has read the letter, once it holds no lock: a take, a raise, a revoke, the end of a scope or of a
//!   thread, the birth of a child, a parent that waits for its scope. Nobody else comes for it: `PENDING` may be clear by then.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `push` SeqCst | `take` AcqRel | the letter is complete; its exception is handed over |
//! | `push` SeqCst, `PENDING` RMW | `PENDING` cleared, `is_empty` load SeqCst | I2: `PENDING` is put back, or the writer sets it later |

use super::entry::Entry;
use super::pile::Pile;
use super::pin::AfterUnpin;
use super::receipt::ReceiptState;
use super::record::{AfterPush, Duty, Fate, Fences, Record};
use super::scope_table::ScopeTable;
use super::slot::{Policy, Queue, Slot};
use super::word::Attention;
use crate::sync_shim::Hold;

/// What is to be done in a slot.
pub(super) enum Letter {
    Raise(Entry, Policy),
    Clear,
}

/// Of one record.
pub(super) struct Mail {
    letters: Pile<Letter>,
    aside: Pile<(Entry, ReceiptState)>,
}

impl Mail {
    pub(super) fn new() -> Self {
        Self {
            letters: Pile::new(),
            aside: Pile::new(),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    pub(super) fn write(&self, letter: Letter) {
        self.letters.push(letter);
    }

    /// Under the slot's lock (I1).
    pub(super) fn read(&self) -> Vec<Letter> {
        self.letters.take()
    }

    pub(super) fn put_aside(&self, entry: Entry, outcome: ReceiptState) {
        self.aside.push((entry, outcome));
    }

    #[must_use = "what was put aside must be settled"]
    pub(super) fn take_aside(&self) -> Vec<(Entry, ReceiptState)> {
        self.aside.take_if(|_| true)
    }
}

impl Record {
    /// The slot, with its mail read.
    #[inline]
    pub(super) fn with_mail<'a>(&self, mut slot: Hold<'a, Slot>) -> Hold<'a, Slot> {
        if self.has_mail() {
            self.read_mail(&mut slot);
        }
        slot
    }

    #[inline]
    pub(super) fn has_mail(&self) -> bool {
        self.scopes.get().is_some_and(|beside| !beside.mail.is_empty())
    }

    #[cold]
    fn read_mail(&self, slot: &mut Slot) {
        let Some(mail) = self.scopes.get().map(|beside| &beside.mail) else {
            return;
        };
        for letter in mail.read() {
            let (aside, outcome) = match letter {
                Letter::Clear => (slot.drain(), ReceiptState::Revoked),
                Letter::Raise(entry, _) if slot.is_closed() || !self.admits(entry.scope) => {
                    (Queue::of(entry), ReceiptState::TargetEnded)
                }
                Letter::Raise(entry, policy) => (slot.push(entry, policy), ReceiptState::Superseded),
            };
            aside.into_iter().for_each(|entry| mail.put_aside(entry, outcome));
        }
        self.settle_pending_bit(slot);
    }

    /// Writes a letter, and does the rest of a raise. `None` if the target is past its last safepoint.
    #[cold]
    fn write(&self, generation: u32, letter: Letter, fences: Fences) -> Result<Duty<'_>, Letter> {
        // It does not end before the letter is there to be read.
        let Some(pin) = self.pin(generation) else {
            return Err(letter);
        };
        let beside = self.scopes.get_or_init(|| Box::new(ScopeTable::new()));
        beside.mail.write(letter);
        let duty = self.call(generation, Attention::PENDING, fences);
        let after = pin.release();
        // Without a duty it has begun to end, and may wait for the pin.
        Ok(duty.unwrap_or(match after {
            AfterUnpin::Wake => Duty::Wake,
            AfterUnpin::Nothing => Duty::Nothing,
        }))
    }

    /// Whether letters have put anything out of the slot.
    #[inline]
    pub(crate) fn has_aside(&self) -> bool {
        self.scopes
            .get()
            .is_some_and(|beside| !beside.mail.aside.is_empty())
    }

    /// What was put out of the slot by letters, with what becomes of it.
    #[must_use = "what was put aside must be settled"]
    pub(crate) fn take_aside(&self) -> Vec<(Entry, ReceiptState)> {
        self.scopes
            .get()
            .map(|beside| beside.mail.take_aside())
            .unwrap_or_default()
    }

    #[cold]
    pub(crate) fn raise_by_mail(
        &self,
        generation: u32,
        entry: Entry,
        policy: Policy,
        fences: Fences,
    ) -> AfterPush<'_> {
        match self.write(generation, Letter::Raise(entry, policy), fences) {
            Ok(duty) => AfterPush {
                fate: Fate::Accepted,
                aside: Queue::new(),
                duty,
            },
            Err(Letter::Raise(entry, _)) => AfterPush::refused(Fate::Ended, entry),
            Err(Letter::Clear) => unreachable!("it was a raise"),
        }
    }

    /// Has whoever reads it clear the slot: nothing is handed over now.
    #[cold]
    pub(crate) fn clear_by_mail(&self, generation: u32) -> Option<Queue> {
        self.write(generation, Letter::Clear, Fences::Full)
            .ok()
            .map(|_target_finds_nothing| Queue::new())
    }
}
