//! Foreign calls: regions of somebody else's code, and the ladder that gets a thread out of them.
//!
//! Owns: [`call`], [`Call`], the frame that a region shows to lookers. Leaves to `driver` the climbing, to
//! `protocol::record` the argument that a frame is not read after its region (I4 there).
//! A region is left at once, except while a looker or a hook is at it.
//!
//! **Signal context:** no; the handler reads the region word only.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use crate::current;
use crate::mask::enlist;
use crate::protocol::record::{Owner, Record};
use crate::protocol::word::{Kind, Level, Region};
use crate::raised::Raised;
use crate::region::Inside;
use crate::runtime;
use crate::safepoint::{Moment, deliverable, take};

/// A hook. While a region shows it, the driver alone calls it; at other times its owner alone has it.
type Hook<'a> = UnsafeCell<Box<dyn FnMut() + Send + 'a>>;

/// What lookers may see of a region. Lives on the owner's stack, between entering and leaving.
struct Frame<'r, 'h> {
    label: &'static str,
    hook: Option<&'r Hook<'h>>,
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

/// Why a [`Call::try_run`] has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError<E> {
    /// An exception was raised: before the call, or during it and the call failed for that reason.
    #[error("raised into: {0}")]
    Raised(Raised),
    /// The call failed by itself.
    #[error(transparent)]
    Failed(E),
}

/// So that `?` works in functions that return an `io::Result`; [`Raised::from_io`] gets an exception back.
impl From<CallError<std::io::Error>> for std::io::Error {
    fn from(error: CallError<Self>) -> Self {
        match error {
            CallError::Raised(raised) => raised.into(),
            CallError::Failed(error) => error,
        }
    }
}

/// A foreign call with a label and the rungs it allows. Built once, it may be run many times.
///
/// The nudge is always allowed. Rungs are climbed in the order nudge, fail, hook: the nudge at once, the others by the
/// driver within about a millisecond, then all again after 1, 2, 4 .. 50 ms until the call returns, the exception is
/// revoked or the region ends.
///
/// ```
/// use throwto::foreign::Call;
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let worker = throwto::thread::spawn(move || {
///     Call::new("accept").fail_syscalls().try_run(|| listener.accept()).map(drop)
/// });
/// worker.raise(throwto::Stop)?;
/// let error = worker.join()?.unwrap_err();
/// assert!(matches!(error, throwto::foreign::CallError::Raised(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Call<'a> {
    label: &'static str,
    hook: Option<Hook<'a>>,
    fail: bool,
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { label, hook, fail } = self;
        f.debug_struct("Call")
            .field("label", label)
            .field("hook", &hook.is_some())
            .field("fail", fail)
            .finish()
    }
}

impl<'a> Call<'a> {
    /// A call that [`threads`](crate::threads) shows under `label`.
    pub fn new(label: &'static str) -> Self {
        Self {
            label,
            hook: None,
            fail: false,
        }
    }

    /// Lets the driver run `hook` to make the library return, `sqlite3_interrupt` for one.
    ///
    /// It runs on the driver's thread, while the call is going on and never after it has ended: leaving the region
    /// waits for a hook that is running. It may run more than once, must be quick, must not wait for the target, and a
    /// panic in it is reported and counted ([`stats`](crate::stats)), then the ladder goes on.
    #[must_use]
    pub fn unblock(mut self, hook: impl FnMut() + Send + 'a) -> Self {
        self.hook = Some(UnsafeCell::new(Box::new(hook)));
        self
    }

    /// Allows the rung *fail*: a system call that the foreign code is blocked in returns `ECANCELED` (or "timed out",
    /// for sleeps and polls) instead of EINTR, which ends code that retries EINTR for ever, std included.
    ///
    /// `docs/limitations.md` has the table. Waits on a futex, `close` and unknown calls are never touched.
    #[must_use]
    pub fn fail_syscalls(mut self) -> Self {
        self.fail = true;
        self
    }

    /// Runs `f` in the region.
    ///
    /// # Errors
    /// The exception, if one was pending before: then `f` did not run. A result is never thrown away.
    #[inline]
    #[track_caller]
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T, Raised> {
        let Some(owner) = current::owner() else {
            return Ok(f());
        };
        let mut ladder = Region::FRAMED;
        if self.fail {
            ladder |= Region::FAIL;
        }
        if self.hook.is_some() {
            ladder |= Region::HOOK;
        }
        let frame = Frame {
            label: self.label,
            hook: self.hook.as_ref(),
        };
        let pointer = (&raw const frame).cast_mut().cast();
        let inside = Inside::enter(owner, Kind::Foreign, ladder, pointer, runtime::fences());
        run_inside(owner, inside, f)
    }

    /// Runs `f` in the region and tells an interrupted call from a failed one.
    ///
    /// A good result is kept, whatever is pending. An error becomes [`CallError::Raised`] only if we interrupted the
    /// call: a signal, a hook or a callback that polled [`pending`](crate::pending) has acted in this region and the
    /// exception can be delivered. Every other error is [`CallError::Failed`], and an exception stays pending.
    ///
    /// # Errors
    /// [`CallError`].
    #[inline]
    #[track_caller]
    pub fn try_run<T, E>(&self, f: impl FnOnce() -> Result<T, E>) -> Result<T, CallError<E>> {
        let Some(owner) = current::owner() else {
            return f().map_err(CallError::Failed);
        };
        let record = owner.record();
        let heard = record.heard();
        // What has acted before this region, for an outer one or under a mask, has not made `f` fail.
        let before = if record.rung() == 0 { 0 } else { record.take_rung() };
        match self.run(f) {
            Err(raised) => Err(CallError::Raised(raised)),
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => {
                let acted = record.heard() != heard || record.rung() != 0;
                record.note_rung(before);
                match acted.then(|| take(owner, Moment::Blocking)).flatten() {
                    Some(raised) => Err(CallError::Raised(raised)),
                    None => Err(CallError::Failed(error)),
                }
            }
        }
    }
}

/// The label of the region that `record`'s owner is in.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn label_of(record: &Record) -> Option<&'static str> {
    visible_frame(record).map(|frame| frame.label)
}

/// Runs the hook of the region that `record`'s owner is in. On the driver only.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn run_hook_of(record: &Record) {
    if let Some(hook) = visible_frame(record).and_then(|frame| frame.hook) {
        // SAFETY: only the driver, one thread, comes here. The `Call` that owns the hook is borrowed while one of its
        // regions lasts, and nothing that takes `&Call` touches the hook.
        let hook = unsafe { &mut *hook.get() };
        hook();
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
