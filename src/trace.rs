//! Events for the `tracing` crate: what happens to each raise.
//!
//! Owns: the queue of what there is to tell, and the thread that tells it. Leaves to `journal` what `raise_until_dead` reports.
//! Without the feature `tracing` every function here is empty; this is the only file that asks for the feature.
//!
//! **Signal context:** no. What the handler does is told by those who meet its effect.
//!
//! A subscriber may block, lock and panic, and the thread that is stuck may be the one whose lock it waits for. So nobody who
//! raises, is raised into or climbs a ladder calls it: they leave a note in a bounded queue, without waiting, and the thread
//! `throwto-trace` turns notes into events.
//!
//! - I1. Leaving a note takes no lock that is held while a subscriber runs. A full queue loses the note, and says so later.
//! - I2. In the child of a process that has told anything nothing is told: the thread is not there, and the queue may be in
//!   any state. Who has something to tell says first whose process it is: a child that is forked while the thread is being
//!   started finds that said, and does not wait for the start.
//!
//! The spans of foreign calls are another matter: see `trace::region`.

use crate::journal;
use crate::platform::spot::Refused;
use crate::protocol::registry::ThreadId;
use crate::rung::Rung;

#[cfg(feature = "tracing")]
pub(crate) mod region;

#[cfg(feature = "tracing")]
pub(crate) use on::{advanced, delivered, forget, raise, refused, too_late};

#[cfg(not(feature = "tracing"))]
pub(crate) use off::{advanced, delivered, forget, raise, refused, too_late};

/// A rung was tried on a thread.
pub(crate) fn rung(id: ThreadId, rung: Rung, refused: Option<Refused>) {
    journal::note(id, rung, refused);
    #[cfg(feature = "tracing")]
    on::rung(id, rung, refused);
}

#[cfg(not(feature = "tracing"))]
pub(crate) mod region {
    pub(crate) struct InSpan;

    #[inline(always)]
    pub(crate) fn region(_label: &'static str) -> InSpan {
        InSpan
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use crate::error::RaiseError;
    use crate::protocol::entry::{Kind, ReceiptRef};
    use crate::protocol::receipt::ReceiptCell;
    use crate::protocol::registry::ThreadId;
    use crate::rung::Rung;

    #[inline(always)]
    pub(crate) fn raise(_id: ThreadId, _receipt: &ReceiptRef, _exception: &'static Kind) {}

    #[inline(always)]
    pub(crate) fn forget(_receipt: &ReceiptCell) {}

    #[inline(always)]
    pub(crate) fn too_late(_id: ThreadId, _receipt: &ReceiptCell) {}

    #[inline(always)]
    pub(crate) fn refused(_exception: &'static Kind, error: RaiseError) -> RaiseError {
        error
    }

    #[inline(always)]
    pub(crate) fn delivered(_receipt: &ReceiptCell, _rung: Rung) {}

    #[inline(always)]
    pub(crate) fn advanced(_receipt: &ReceiptCell) {}
}

#[cfg(feature = "tracing")]
mod on {
    use std::collections::HashMap;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
    use std::time::Instant;

    use once_cell::race::OnceBox;
    use tracing::level_filters::LevelFilter;
    use tracing::{Level, debug, warn};

    use crate::current::{REGISTRY, release, with_members};
    use crate::error::RaiseError;
    use crate::exception::name_of;
    use crate::foreign::frame;
    use crate::platform::{membarrier, nudge, spot};
    use crate::protocol::entry::{Kind, ReceiptRef};
    use crate::protocol::receipt::{ReceiptCell, ReceiptState};
    use crate::protocol::registry::ThreadId;
    use crate::rung::{Refusal, Rung};

    /// How many notes may wait.
    const ROOM: usize = 4096;

    /// A receipt's address, which tells it from all others as long as it lives.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Key(usize);

    impl Key {
        fn of(receipt: &ReceiptCell) -> Self {
            Self(std::ptr::from_ref(receipt) as usize)
        }
    }

    enum What {
        Raise(ReceiptRef, ThreadId, &'static str),
        /// Of a raise that was told of and has not taken place.
        Forget(Key),
        Refused(&'static str, String),
        TooLate(Key, ThreadId, ReceiptState),
        Rung(ThreadId, Rung, Option<spot::Refused>),
        Delivered(Key, Rung),
        Ended(Key, ReceiptState),
    }

    struct Note {
        what: What,
        at: Instant,
    }

    /// The way to the telling thread; `None` if it could not be started.
    type Queue = Option<SyncSender<Note>>;

    static QUEUE: OnceLock<Queue> = OnceLock::new();
    /// The process that has told something. Set before the queue is, and nobody ever waits for it.
    static HOME: OnceBox<u32> = OnceBox::new();
    /// How many notes a full queue has lost and nobody has told of.
    static LOST: Mutex<u64> = Mutex::new(0);

    /// Whether this is the process that has told something, or nobody has told anything.
    pub(super) fn at_home() -> bool {
        let process = std::process::id();
        *HOME.get_or_init(|| Box::new(process)) == process
    }

    fn leave(what: What) {
        let note = Note {
            what,
            at: Instant::now(),
        };
        // The queue has locks of its own, which a handler of the program, or the driver, must not find held under a handler.
        let _quiet = nudge::quiet();
        if at_home()
            && let Some(notes) = QUEUE.get_or_init(start)
            && notes.try_send(note).is_err()
        {
            // The subscriber is slower than what it is told of.
            *lost() += 1;
        }
    }

    fn lost() -> MutexGuard<'static, u64> {
        LOST.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted() -> bool {
        LevelFilter::current() >= Level::DEBUG
    }

    fn start() -> Queue {
        let (notes, told) = sync_channel(ROOM);
        let thread = std::thread::Builder::new().name("throwto-trace".into());
        let started = thread.spawn(move || tell(&told)).is_ok();
        started.then_some(notes)
    }

    pub(crate) fn raise(id: ThreadId, receipt: &ReceiptRef, exception: &'static Kind) {
        if wanted() {
            leave(What::Raise(receipt.clone(), id, name_of(exception)));
        }
    }

    /// It did not take place: its target's id was an old one.
    pub(crate) fn forget(receipt: &ReceiptCell) {
        if wanted() {
            leave(What::Forget(Key::of(receipt)));
        }
    }

    /// Somebody wanted to take it back.
    pub(crate) fn too_late(id: ThreadId, receipt: &ReceiptCell) {
        if wanted() {
            leave(What::TooLate(Key::of(receipt), id, receipt.state()));
        }
    }

    pub(crate) fn refused(exception: &'static Kind, error: RaiseError) -> RaiseError {
        if wanted() {
            leave(What::Refused(name_of(exception), error.to_string()));
        }
        error
    }

    pub(super) fn rung(id: ThreadId, rung: Rung, refused: Option<spot::Refused>) {
        if wanted() {
            leave(What::Rung(id, rung, refused));
        }
    }

    pub(crate) fn delivered(receipt: &ReceiptCell, rung: Rung) {
        if wanted() {
            leave(What::Delivered(Key::of(receipt), rung));
        }
    }

    /// A receipt may have come to its end.
    pub(crate) fn advanced(receipt: &ReceiptCell) {
        let state = receipt.state();
        if state.is_final() && wanted() {
            leave(What::Ended(Key::of(receipt), state));
        }
    }

    /// A raise that has not come to its end.
    struct Open {
        /// Keeps the key from meaning another one, should its end be lost.
        receipt: ReceiptRef,
        id: ThreadId,
        exception: &'static str,
        label: Option<&'static str>,
        since: Instant,
    }

    fn tell(notes: &Receiver<Note>) {
        nudge::block_all();
        let mut open = HashMap::new();
        for note in notes {
            let lost = std::mem::take(&mut *lost());
            if lost > 0 {
                // The ends of some raises, too.
                open.retain(|_, raise: &mut Open| !raise.receipt.state().is_final());
                let told = catch_unwind(|| warn!(target: "throwto", notes = lost, "lost"));
                drop(told);
            }
            // A subscriber that panics loses this one.
            let told = catch_unwind(AssertUnwindSafe(|| event(note, &mut open)));
            if let Err(panic) = told {
                drop(panic);
            }
        }
    }

    fn event(note: Note, open: &mut HashMap<Key, Open>) {
        let at = note.at;
        let latency = |raise: &Open| at.saturating_duration_since(raise.since).as_micros() as u64;
        match note.what {
            What::Raise(receipt, id, exception) => {
                let key = Key::of(&receipt);
                let raise = Open {
                    receipt,
                    id,
                    exception,
                    label: label(id),
                    since: at,
                };
                debug!(target: "throwto", thread = %id, name = name(id), label = raise.label, exception, "raise");
                open.insert(key, raise);
            }
            What::Forget(key) => drop(open.remove(&key)),
            What::TooLate(key, id, state) => {
                let exception = open.get(&key).map(|raise| raise.exception);
                let why = "taken back too late";
                debug!(target: "throwto", thread = %id, name = name(id), exception, why, state = ?state, "refused");
            }
            What::Refused(exception, why) => warn!(target: "throwto", exception, why, "refused"),
            What::Rung(id, rung, refused) => {
                let refused = refused.map(|refused| Refusal::of(refused).to_string());
                let (label, name) = (label(id), name(id));
                if rung == Rung::Nudge {
                    debug!(target: "throwto", thread = %id, name, label, "nudge");
                } else {
                    debug!(target: "throwto", thread = %id, name, label, rung = %rung, refused, "rung");
                }
            }
            What::Delivered(key, rung) => {
                if let Some(raise) = open.get(&key) {
                    let latency_us = latency(raise);
                    let Open {
                        id, exception, label, ..
                    } = raise;
                    debug!(target: "throwto", thread = %id, label, exception, rung = %rung, latency_us, "deliver");
                }
            }
            What::Ended(key, state) => {
                // The end may be told twice: by the exception and by the end of its thread.
                if let Some(raise) = open.remove(&key) {
                    let Open {
                        id, exception, label, ..
                    } = raise;
                    let latency_us = latency(&raise);
                    match state {
                        ReceiptState::Caught => {
                            debug!(target: "throwto", thread = %id, label, exception, latency_us, "caught");
                        }
                        _ => {
                            debug!(target: "throwto", thread = %id, label, exception, state = ?state, latency_us, "ended");
                        }
                    }
                }
            }
        }
    }

    fn name(id: ThreadId) -> Option<String> {
        with_members(|members| members.get(id)?.name.as_deref().map(str::to_owned))
    }

    /// The foreign call that the thread is in now.
    fn label(id: ThreadId) -> Option<&'static str> {
        let pin = REGISTRY.look(id)?;
        membarrier::heavy_fence();
        let label = frame::label_of(pin.record());
        release(pin);
        label
    }
}
