//! Frames: what a region of a foreign call shows to lookers.
//!
//! Owns: [`Call`]'s parts, the frame that points to them, and reading a frame from outside. Leaves to `call` the building, to
//! `protocol::record` the argument that a frame is not read after its region (I4 there).
//!
//! **Signal context:** no; of a frame the handler reads the first word only.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use crate::platform::forced::{Escape, Terms};
use crate::platform::spot::{Refused, Why};
use crate::protocol::ladder::Times;
use crate::protocol::record::Record;
use crate::protocol::word::Region;

/// A foreign call with a label and the rungs it allows. Built once, it may be run many times.
///
/// The nudge is always allowed. Rungs are climbed in the order nudge, fail, hook: the nudge at once, the others by the
/// driver within about a millisecond, then all again after 1, 2, 4 .. 50 ms until the call returns, the exception is
/// revoked or the region ends. The two forced rungs, unwind and abandon, follow at times of your choosing, in
/// [`run_forced`](Call::run_forced) only.
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
    pub(crate) label: &'static str,
    pub(crate) hook: Option<Hook<'a>>,
    /// The rungs it allows, as the region word has them.
    pub(crate) ladder: u64,
    pub(crate) times: Times,
    pub(crate) terms: Terms,
}

/// A hook. While a region shows it, the driver alone calls it; at other times its owner alone has it.
pub(super) type Hook<'a> = UnsafeCell<Box<dyn FnMut() + Send + 'a>>;

/// What lookers may see of a region. Lives on the owner's stack, between entering and leaving: two words, for each is
/// written anew on every entry.
#[repr(C)]
pub(super) struct Frame<'r, 'h> {
    /// First, where the handler looks for it; null in a region without forced rungs.
    pub(super) escape: Option<&'r Escape<'r>>,
    /// Borrowed while the region lasts.
    pub(super) call: &'r Call<'h>,
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
