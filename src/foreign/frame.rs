//! Frames: what a region of a foreign call shows to lookers.
//!
//! Owns: [`Call`]'s parts, and reading a frame from outside: a [`Key`] alone, or with an [`Escape`] behind it. Leaves to `call` the building, to
//! `protocol::record` the argument that a frame is not read after its region (I4 there).
//!
//! **Signal context:** no; of a frame the handler reads the key, and the escape if it is one's.

#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};

use crate::platform::forced::{Escape, Terms};
use crate::platform::spot::{Key, Refused, Why};
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
#[repr(C)]
pub struct Call<'a> {
    /// First: an escape's key leads to both.
    pub(crate) terms: Terms,
    /// What its region word is made of, once all that a forced run of it needs was found to be there, which does not change. 0 before.
    /// Its owner's alone; lookers do not read it.
    pub(super) fit: Cell<u64>,
    pub(crate) label: &'static str,
    pub(crate) hook: Option<Hook<'a>>,
    /// What its region word is made of: that it is foreign, and the rungs that it allows.
    pub(super) bits: u64,
    /// Those of them that harm nobody: what the word of a plain run is made of.
    pub(super) harmless: u64,
    pub(crate) times: Times,
}

const _: () = assert!(std::mem::offset_of!(Call<'_>, terms) == 0);

/// A hook. While a region shows it, the driver alone calls it; at other times its owner alone has it.
pub(super) type Hook<'a> = UnsafeCell<Box<dyn FnMut() + Send + 'a>>;

/// The label of the region that `record`'s owner is in.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn label_of(record: &Record) -> Option<&'static str> {
    visible_call(record).map(|call| call.label)
}

/// Runs the hook of the region that `record`'s owner is in. On the driver only.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn run_hook_of(record: &Record) {
    if let Some(hook) = visible_call(record).and_then(|call| call.hook.as_ref()) {
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
    visible_call(record).map(|call| call.times).unwrap_or_default()
}

/// The last refusal of a forced rung in the region that `record`'s owner is in.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn refused_in(record: &Record) -> Option<Refused> {
    visible_escape(record)?.refused()
}

/// Notes that the driver itself refuses a forced rung there.
///
/// The caller holds a look and has made a heavy fence since.
pub(crate) fn refuse_in(record: &Record, why: Why, pc: usize) {
    if let Some(escape) = visible_escape(record) {
        escape.refuse(why, pc);
    }
}

/// The frame of a foreign call; null if there is none. By the caller's look and fence and I4 of `protocol::record`, one that is seen
/// now stays until the look goes: its owner would wait in `Inside::drop`, before its stack frame ends. Seeing the pointer of an
/// outer or a further inner region instead is as good, for the same reason.
fn visible_frame(record: &Record) -> *const () {
    if record.region().has(Region::FRAMED) {
        record.frame()
    } else {
        std::ptr::null()
    }
}

fn visible_call(record: &Record) -> Option<&Call<'_>> {
    // SAFETY: `visible_frame` says how long it lasts; it begins with a key.
    let key = unsafe { visible_frame(record).cast::<Key>().as_ref() }?;
    // SAFETY: the key of a call, which is borrowed while the region lasts.
    Some(unsafe { &*key.call().cast::<Call<'_>>() })
}

fn visible_escape(record: &Record) -> Option<&Escape<'_>> {
    // SAFETY: `visible_frame` says how long it lasts; it begins with a key, and behind that of an escape is the escape.
    unsafe { Escape::of(visible_frame(record)) }
}
