//! Foreign calls: regions of somebody else's code, and the ladder that gets a thread out of them.
//!
//! Owns: [`call`], the frame that a region shows to lookers. Leaves to `call` the builder, to `forced` the two rungs that
//! drop frames, to `driver` the climbing, to `protocol::record` the argument that a frame is not read after its region
//! (I4 there). A region is left at once, except while a looker or a hook is at it.
//!
//! **Signal context:** no; of a frame the handler reads the first word only.

#![allow(unsafe_code)]

mod call;
mod detached;
mod error;
mod forced;
mod module;

use std::cell::UnsafeCell;

use crate::current;
use crate::mask::enlist;
use crate::platform::forced::Escape;
use crate::platform::spot::{Refused, Why};
use crate::protocol::ladder::Times;
use crate::protocol::record::{Owner, Record};
use crate::protocol::word::{Kind, Level, Region};
use crate::raised::Raised;
use crate::region::Inside;
use crate::runtime;
use crate::safepoint::{Moment, deliverable, take};

pub use call::Call;
pub use detached::{DetachedError, detached};
pub use error::{CallError, LeftCall, ModuleError, Refusal};
pub(crate) use forced::hold_for_fork;
pub use forced::{clear_poison, is_poisoned, no_abandon};
pub use module::Module;

/// A hook. While a region shows it, the driver alone calls it; at other times its owner alone has it.
type Hook<'a> = UnsafeCell<Box<dyn FnMut() + Send + 'a>>;

/// What lookers may see of a region. Lives on the owner's stack, between entering and leaving: two words, for each is
/// written anew on every entry.
#[repr(C)]
struct Frame<'r, 'h> {
    /// First, where the handler looks for it; null in a region without forced rungs.
    escape: Option<&'r Escape<'r>>,
    /// Borrowed while the region lasts.
    call: &'r Call<'h>,
}

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
    let inside = Inside::enter(owner, Kind::Foreign, 0, std::ptr::null_mut(), runtime::fences());
    run_inside(owner, inside, f)
}

#[inline(always)]
#[track_caller]
fn run_inside<T>(owner: Owner, inside: Inside, f: impl FnOnce() -> T) -> Result<T, Raised> {
    if inside.calls() {
        match raised_before(owner, inside) {
            Ok(inside) => {
                let result = f();
                drop(inside);
                return Ok(result);
            }
            Err(raised) => return Err(raised),
        }
    }
    let result = f();
    drop(inside);
    Ok(result)
}

/// A call was there on entry. Gives the region back if it is held back by a mask: then the driver nudges, should the
/// call really block.
#[cold]
#[inline(never)]
#[track_caller]
fn raised_before(owner: Owner, inside: Inside) -> Result<Inside, Raised> {
    if deliverable(owner, Moment::Running)
        && let Some(raised) = take(owner, Moment::Running)
    {
        drop(inside);
        return Err(raised);
    }
    if owner.region().level() < Level::Uninterruptible && !std::thread::panicking() {
        enlist(owner);
    }
    Ok(inside)
}

/// The label of the region that `record`'s owner is in.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn label_of(record: &Record) -> Option<&'static str> {
    visible_frame(record).map(|frame| frame.call.label)
}

/// Runs the hook of the region that `record`'s owner is in. On the driver only.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn run_hook_of(record: &Record) {
    if let Some(hook) = visible_frame(record).and_then(|frame| frame.call.hook.as_ref()) {
        // SAFETY: only the driver, one thread, comes here. The `Call` that owns the hook is borrowed while one of its
        // regions lasts, and nothing that takes `&Call` touches the hook.
        let hook = unsafe { &mut *hook.get() };
        hook();
    }
}

/// When the forced rungs of the region that `record`'s owner is in are due.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn times_of(record: &Record) -> Times {
    visible_frame(record)
        .map(|frame| frame.call.times)
        .unwrap_or_default()
}

/// The last refusal of a forced rung in the region that `record`'s owner is in.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn refused_in(record: &Record) -> Option<Refused> {
    visible_frame(record)?.escape?.refused()
}

/// Notes that the driver itself refuses a forced rung there.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn refuse_in(record: &Record, why: Why, pc: usize) {
    if let Some(escape) = visible_frame(record).and_then(|frame| frame.escape) {
        escape.refuse(why, pc);
    }
}

fn visible_frame(record: &Record) -> Option<&Frame<'_, '_>> {
    if !record.region().has(Region::FRAMED) {
        return None;
    }
    // SAFETY: by the caller's look and fence and I4 of `protocol::record`, a frame seen now stays until the look goes: its
    // owner would wait in `Inside::drop`, before its stack frame ends. Seeing the pointer of
    // an outer or a further inner region instead is as good, for the same reason.
    unsafe { record.frame().cast::<Frame<'_, '_>>().as_ref() }
}
