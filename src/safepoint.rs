//! Safepoints: where a running thread meets its exceptions.
//!
//! Owns: the check, the decision whether this is a moment to raise, and both styles of raising. Leaves to `mask` the
//! levels, to `protocol::word` what they let out, to `region` the waits.
//!
//! **Signal context:** no.
//!
//! An exception is delivered when all of this holds:
//!
//! - the attention word calls;
//! - no panic or delivered exception is unwinding this thread (P11);
//! - the mask level allows it: always when unmasked; when masked, only where the thread would really block; never
//!   when uninterruptible;
//! - no shield is in force, or its deadline has passed;
//! - the thread is not in a signal handler of the program on top of its own work in its slot, unless what calls is a scope or the stop
//!   flag: that is not in the slot.

use std::any::Any;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};

use crate::current;
use crate::exception::{Exception, Stop};
use crate::platform::futex;
use crate::protocol::entry::Entry;
use crate::protocol::record::Owner;
pub(crate) use crate::protocol::word::Moment;
use crate::protocol::word::{Attention, Gate};
use crate::raised::Raised;
use crate::receipt::{settle_aside, wake_receipt};
use crate::rung::{POLLED, Rung};
use crate::scope;

/// Delivers the first pending exception, if there is one and no mask holds it back.
///
/// One thread-local pointer, one relaxed load, one predicted branch when nothing is pending, attached or not.
///
/// # Errors
/// The exception. Inside a `Drop` that runs while the thread panics it never raises.
///
/// ```
/// fn count_to(n: u64) -> Result<u64, throwto::Raised> {
///     let mut i = 0;
///     while i < n {
///         throwto::safepoint()?;
///         i += 1;
///     }
///     Ok(i)
/// }
/// assert_eq!(count_to(1000).unwrap(), 1000);
/// ```
#[inline(always)]
pub fn safepoint() -> Result<(), Raised> {
    if current::record().attention().calls() {
        called()
    } else {
        Ok(())
    }
}

#[cold]
#[inline(never)]
fn called() -> Result<(), Raised> {
    match current::owner().and_then(|owner| take(owner, Moment::Running)) {
        Some(raised) => Err(raised),
        None => Ok(()),
    }
}

/// As [`safepoint`], but raises by unwinding: [`catch`] gets it, destructors run on the way.
///
/// The panic hook is not called, so nothing is printed. With `panic = "abort"` there is no unwinding: the process
/// aborts, as for a panic; use [`safepoint`] there.
#[inline(always)]
pub fn safepoint_unwind() {
    if current::record().attention().calls() {
        unwind_if_called();
    }
}

#[cold]
#[inline(never)]
fn unwind_if_called() {
    if let Err(raised) = called() {
        unwind(raised);
    }
}

/// Raises by unwinding.
pub(crate) fn unwind(raised: Raised) -> ! {
    #[cfg(panic = "abort")]
    eprintln!("throwto: safepoint_unwind cannot unwind with panic=abort, use safepoint(): {raised}");
    resume_unwind(Box::new(raised))
}

/// Runs `f` and catches an exception that unwinds out of it. Panics pass through.
///
/// ```
/// let attachment = throwto::attach()?;
/// throwto::raise_exc(attachment.id(), throwto::Stop)?;
/// let raised = throwto::catch(|| loop { throwto::safepoint_unwind() }).unwrap_err();
/// assert!(raised.is::<throwto::Stop>());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The exception.
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Raised> {
    catch_if(f, |_| true)
}

/// As [`catch`], for exceptions of type `E` only. Others pass through, as panics do.
///
/// # Errors
/// The exception.
pub fn catch_only<E: Exception, T>(f: impl FnOnce() -> T) -> Result<T, Raised> {
    catch_if(f, Raised::is::<E>)
}

/// Runs `f`; an exception that unwinds out of it is given to `handler`, which runs masked.
///
/// So a second exception cannot end the handling of the first halfway: it is delivered when the handler really blocks,
/// or after it.
///
/// ```
/// let attachment = throwto::attach()?;
/// throwto::raise_exc(attachment.id(), throwto::Stop)?;
/// let answer = throwto::catch_with(|| { throwto::safepoint_unwind(); 1 }, |_raised| 2);
/// assert_eq!(answer, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn catch_with<T>(f: impl FnOnce() -> T, handler: impl FnOnce(Raised) -> T) -> T {
    catch(f).unwrap_or_else(|raised| crate::mask::mask(|_| handler(raised)))
}

fn catch_if<T>(f: impl FnOnce() -> T, wanted: impl FnOnce(&Raised) -> bool) -> Result<T, Raised> {
    // Unwind safety is the caller's, as for a `?` that leaves `f` halfway: what `f` borrowed may be half done.
    catch_unwind(AssertUnwindSafe(f)).or_else(|payload| match as_raised(payload) {
        Ok(raised) if wanted(&raised) => Err(raised),
        Ok(other) => resume_unwind(Box::new(other)),
        Err(panic) => resume_unwind(panic),
    })
}

/// Tells a delivered exception from a panic.
pub(crate) fn as_raised(payload: Box<dyn Any + Send>) -> Result<Raised, Box<dyn Any + Send>> {
    payload.downcast::<Raised>().map(|raised| *raised)
}

/// Whether an exception waits in the calling thread's slot, or it has been told to stop.
///
/// For callbacks that a library polls (SQLite's progress handler, curl's `XFERINFO`): return "abort" when it is `true`,
/// and the foreign call that is going on ends early. Masks are not considered, except that it is `false` while
/// uninterruptible or shielded, since nothing could be delivered at the end of that call.
///
/// ```
/// assert!(!throwto::pending());
/// ```
#[inline]
pub fn pending() -> bool {
    let record = current::record();
    if !record.attention().calls() {
        return false;
    }
    let Some(owner) = current::owner() else {
        return false;
    };
    let attention = record.attention();
    // A forked child has yet to look at the scopes that it is in.
    let scope_only = !attention.has(Attention::PENDING) && !attention.has(Attention::STOPPED);
    if scope_only && !owner.scope_calls() {
        return false;
    }
    let held = !is_open(owner, Moment::Blocking);
    if !held {
        record.note_rung(POLLED);
    }
    !held
}

/// Whether the masks and the shield in force let an exception through at this moment.
fn is_open(owner: Owner, moment: Moment) -> bool {
    owner.gate(moment, futex::now) == Gate::Open
}

/// Whether an exception would be delivered now. The condition at the head of this file.
pub(crate) fn deliverable(owner: Owner, moment: Moment) -> bool {
    owner.record().attention().calls()
        && is_open(owner, moment)
        && !std::thread::panicking()
        && owner.within_reach()
}

/// Takes the first exception, if it may be delivered now.
#[inline(never)]
#[track_caller]
pub(crate) fn take(owner: Owner, moment: Moment) -> Option<Raised> {
    deliverable(owner, moment).then(|| take_by(owner, 0)).flatten()
}

/// As [`take`], for a wait that has just found the gate open, and that this rung at least has ended.
#[inline(always)]
#[track_caller]
pub(crate) fn take_by(owner: Owner, rung: u32) -> Option<Raised> {
    let record = owner.record();
    if record.attention().has(Attention::PENDING)
        && let Some(entry) = owner.take_pending()
    {
        current::await_nudge(owner);
        let raised = deliver(owner, entry, rung);
        settle_aside(record);
        return Some(raised);
    }
    settle_aside(record);
    take_other(owner, rung)
}

/// What calls without an entry in the slot.
#[cold]
#[track_caller]
fn take_other(owner: Owner, rung: u32) -> Option<Raised> {
    let record = owner.record();
    if record.attention().has(Attention::STOPPED) {
        let rung = record.take_rung().max(rung);
        return Some(Raised::at(Stop, Location::caller()).having_taken(rung));
    }
    if record.attention().has(Attention::SCOPE) {
        return scope::take_call(owner).map(|entry| deliver(owner, entry, rung));
    }
    None
}

/// `entry` has been taken by the calling thread: it has its exception from now on.
#[inline(always)]
fn deliver(owner: Owner, mut entry: Entry, rung: u32) -> Raised {
    wake_receipt(&entry.receipt, entry.receipt.deliver());
    owner.record().flight.note(&entry.receipt);
    entry.rung = owner.record().take_rung().max(rung);
    crate::trace::delivered(&entry.receipt, Rung::noted(entry.rung));
    Raised::deliver(entry)
}
