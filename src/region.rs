//! Blocking: the waits and windows in which the owner tells its raisers that it needs help.
//!
//! Owns: [`wait_until`] (waits on the attention word) and [`system_call`] (the window). Leaves to `protocol::record` the
//! order of stores, loads and fences; to `platform` the futex and the stub.
//!
//! **Signal context:** no; the handler meets a thread in the middle of [`system_call`], see `linux::handler`.
//!
//! Both are cancellation points: unmasked, they raise at once if an exception is pending, whether they would have
//! blocked or not; masked, only when they would really block. "Raised" means that the operation did not happen.

use crate::current;
use crate::mask::enlist;
use crate::platform::{arch, calls::{self, Call}, futex, nudge};
use crate::protocol::record::{AfterLeave, Entered, Fences, Owner};
use crate::protocol::word::{Attention, Kind, Level, Region};
use crate::raised::Raised;
use crate::runtime;
use crate::safepoint::{Moment, WOKEN, deliverable, take};

/// A region that ends when this is dropped, on every way out.
pub(crate) struct Inside {
    owner: Owner,
    entered: Option<Entered>,
    fences: Fences,
}

impl Inside {
    #[inline(always)]
    pub(crate) fn enter(owner: Owner, kind: Kind, ladder: u64, frame: *mut (), fences: Fences) -> Self {
        Self { owner, entered: Some(owner.enter(kind, ladder, frame, fences)), fences }
    }

    /// Whether a call was there on entry.
    #[inline(always)]
    pub(crate) fn calls(&self) -> bool {
        self.entered.as_ref().is_some_and(|entered| entered.calls)
    }
}

impl Drop for Inside {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(entered) = self.entered.take() {
            let after = self.owner.leave(&entered, self.fences);
            if let AfterLeave::Owes { await_pins, note } = after {
                pay(self.owner, await_pins, note);
            }
        }
    }
}

/// What the end of a region owes: waiting for lookers, and a note to the driver when the thread goes back into an outer
/// region with an exception pending.
#[cold]
fn pay(owner: Owner, await_pins: bool, note: bool) {
    if await_pins {
        current::await_pins(owner);
    }
    if note {
        enlist(owner);
    }
}

/// Why a wait came back.
#[derive(Debug)]
pub(crate) enum Waited {
    Ready,
    TimedOut,
    Raised(Raised),
}

/// What a raise does to a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raises {
    /// It ends the wait.
    End,
    /// It stays pending: for waits that must not be left, such as taking a mutex back after a condition wait.
    Stay,
}

/// Waits on the calling thread's attention word until `ready()`, `deadline` or a raise.
///
/// Whoever makes `ready` true must then set `NOTIFIED` (or another bit that `ready` consumes) and wake the word.
/// The caller is attached. `ready` is called with no lock of this crate held, any number of times.
#[track_caller]
pub(crate) fn wait_until(
    owner: Owner,
    deadline: Option<u64>,
    raises: Raises,
    mut ready: impl FnMut() -> bool,
) -> Waited {
    let record = owner.record();
    let word = record.attention_word();
    let inside = Inside::enter(owner, Kind::Waiting, 0, std::ptr::null_mut(), Fences::Full);
    let mut slept = false;
    loop {
        owner.consume(Attention::NOTIFIED);
        if ready() {
            return Waited::Ready;
        }
        let attention = record.attention();
        if raises == Raises::End && deliverable(owner, Moment::Blocking) {
            if slept {
                record.note_rung(WOKEN);
            }
            drop(inside);
            return match take(owner, Moment::Blocking) {
                Some(raised) => Waited::Raised(raised),
                // Revoked in this very moment: wait on.
                None => wait_until(owner, deadline, raises, ready),
            };
        }
        let limit = match (deadline, shield_end(owner)) {
            (Some(at), Some(shield)) => Some(at.min(shield)),
            (at, shield) => at.or(shield),
        };
        if deadline.is_some_and(|at| futex::now() >= at) {
            return Waited::TimedOut;
        }
        if !attention.has(Attention::NOTIFIED) {
            futex::wait(futex::low_half(word), attention.futex(), limit);
            slept = true;
        }
    }
}

/// When the shield in force ends, if that is still to come and something is held back by it.
fn shield_end(owner: Owner) -> Option<u64> {
    let record = owner.record();
    let shielded = owner.region().level() == Level::Shielded && record.attention().calls();
    shielded.then(|| record.shield_until()).filter(|until| *until != u64::MAX && *until > futex::now())
}

/// How a system call of ours ended.
#[derive(Debug)]
pub(crate) enum Called {
    /// Its result, or minus an errno other than EINTR.
    Done(isize),
    /// A handler of the program ran, and nothing was raised: EINTR, for the caller to retry or to look at the clock.
    Interrupted,
    /// Nothing happened.
    Raised(Raised),
}

/// Makes a system call through the window.
///
/// `args` must be right for the call `number` and point to what outlives it: the safe wrappers in `platform` build them.
#[track_caller]
pub(crate) fn system_call(call: &Call<'_>) -> Called {
    let Some(owner) = current::owner() else {
        return settled(call.unchecked());
    };
    let record = owner.record();
    loop {
        let inside = Inside::enter(owner, Kind::Window, 0, std::ptr::null_mut(), Fences::Full);
        let mut interest = Attention::CALLS as u32;
        if inside.calls() {
            if deliverable(owner, Moment::Running) {
                drop(inside);
                if let Some(raised) = take(owner, Moment::Running) {
                    return Called::Raised(raised);
                }
                continue;
            }
            // Something is pending and held back. Masked: go in, and have the driver nudge us if we really block. Under
            // a shield: the driver nudges at its end. Uninterruptible, or unwinding: go in and be left alone.
            interest = 0;
            if owner.region().level() < Level::Uninterruptible && !std::thread::panicking() {
                enlist(owner);
            }
        } else if owner.region().level() != Level::Unmasked {
            interest = 0;
        }
        let result = call.in_window(record.attention_word(), interest);
        drop(inside);
        if record.take_requeued() {
            nudge::unblock(runtime::signal());
        }
        let interrupted = result == -(calls::EINTR);
        if result != arch::CANCELLED && !interrupted {
            return settled(result);
        }
        let moment = if interrupted { Moment::Blocking } else { Moment::Running };
        if let Some(raised) = take(owner, moment) {
            return Called::Raised(raised);
        }
        if interrupted {
            return Called::Interrupted;
        }
    }
}

fn settled(result: isize) -> Called {
    if result == -(calls::EINTR) { Called::Interrupted } else { Called::Done(result) }
}

/// Whether `region` is one that a signal could break.
pub(crate) fn is_breakable(region: Region) -> bool {
    matches!(region.kind(), Kind::Window | Kind::Foreign)
}
