//! Foreign calls: regions of somebody else's code, and the ladder that gets a thread out of them.
//!
//! Owns: [`call`]. Leaves to `call` the builder, to `frame` what lookers see, to `forced` the two rungs that drop frames, to
//! `driver` the climbing. A region is left at once, except while a looker or a hook is at it.
//!
//! **Signal context:** no.

mod call;
mod detached;
mod error;
mod forced;
pub(crate) mod frame;
mod module;
pub(crate) mod poison;

use crate::current;
use crate::mask::enlist;
use crate::protocol::record::{Fences, Owner};
use crate::protocol::word::{Kind, Level};
use crate::raised::Raised;
use crate::region::Crossing;
use crate::runtime;
use crate::safepoint::{Moment, deliverable, take};

pub use crate::region::no_abandon;
pub use crate::rung::{LeftCall, Refusal};
pub use detached::{DetachedError, detached};
pub use error::{CallError, ModuleError};
pub use frame::Call;
pub use module::Module;
pub use poison::{clear_poison, is_poisoned};

/// Runs `f`, which calls into somebody else's code, so that a raise can break it out of a blocking system call (EINTR).
///
/// # Errors
/// The exception, if one was pending before: then `f` did not run. What `f` returns is never thrown away; an exception
/// that came meanwhile stays pending for the next safepoint.
///
/// Costs two stores and a few loads. Off an attached thread it just runs `f`. Nests, and `f` may call back into Rust.
///
/// ```
/// let length = throwto::foreign::call(|| c"text".count_bytes())?;
/// assert_eq!(length, 4);
/// # Ok::<(), throwto::Raised>(())
/// ```
#[inline]
#[track_caller]
pub fn call<T>(f: impl FnOnce() -> T) -> Result<T, Raised> {
    let Some(owner) = current::owner() else {
        return Ok(f());
    };
    run_inside(owner, Kind::Foreign as u64, std::ptr::null_mut(), f)
}

/// `bits` are what the region's word is made of: that it is foreign, and the rungs that it allows.
///
/// Systems without a membarrier have a function of their own, and the others one decision, and none where they leave.
#[inline(always)]
#[track_caller]
fn run_inside<T>(owner: Owner, bits: u64, frame: *mut (), f: impl FnOnce() -> T) -> Result<T, Raised> {
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn fenced<T>(owner: Owner, bits: u64, frame: *mut (), f: impl FnOnce() -> T) -> Result<T, Raised> {
        cross(owner, bits, frame, Fences::Full, f)
    }
    match runtime::fences() {
        Fences::Light => cross(owner, bits, frame, Fences::Light, f),
        Fences::Full => fenced(owner, bits, frame, f),
    }
}

#[inline(always)]
#[track_caller]
fn cross<T>(
    owner: Owner,
    bits: u64,
    frame: *mut (),
    fences: Fences,
    f: impl FnOnce() -> T,
) -> Result<T, Raised> {
    let (crossing, calls) = Crossing::begin(owner, bits, frame, fences);
    if calls && let Some(raised) = raised_before(owner) {
        crossing.end(fences);
        return Err(raised);
    }
    let result = f();
    crossing.end(fences);
    Ok(result)
}

/// A call was there on entry. `None` if it is held back by a mask: then the driver nudges, should the call really block.
#[cold]
#[inline(never)]
#[track_caller]
fn raised_before(owner: Owner) -> Option<Raised> {
    let raised = deliverable(owner, Moment::Running).then(|| take(owner, Moment::Running));
    if let Some(raised) = raised.flatten() {
        return Some(raised);
    }
    if owner.region().level() < Level::Uninterruptible && !std::thread::panicking() {
        enlist(owner);
    }
    None
}
