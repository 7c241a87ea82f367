//! The signal handler: what a nudge does when it arrives. Mostly it has done its work by arriving: the call that it
//! interrupted returns EINTR.
//!
//! Owns: telling our signals from others, noting that one was heard. Leaves to `platform::disposition` the installing and what
//! becomes of other signals, to [`super::nudge`] sending. To the owner: taking the exception; the handler never touches a slot, nor
//! a register.
//!
//! **Signal context:** yes, this is it. The rules, for everything reachable from [`on_signal`]:
//!
//! - H1. errno is kept. H2. No allocation, lock, panic, lazy initialisation, thread-local access. `pthread_self` is a
//!   read of the thread pointer; what was installed stands in a cell that was set before the handler was.
//! - H3. A signal that is not ours goes to the handler that was there before.
//! - H4. A signal says nothing by itself. It is ours if the record of this thread waits for one: `NUDGE` is set, or a
//!   raise is pending. A stranger's signal that comes at that moment counts as the nudge, as if the kernel had merged
//!   the two, which it does with signals of one number.
//!
//! By H4 a nudge that comes after its exception was taken looks like a stranger's. So a default action that would end
//! the process is not carried out: see docs/limitations.md.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | owner's region, attention | handler | same thread: program order |
//! | raiser's attention RMWs SeqCst | handler | before its `pthread_kill`, which the kernel orders before the handler |

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use super::addressee;
use crate::platform::disposition::{self, Installed, KeepErrno, forward};
pub(crate) use crate::platform::disposition::{
    DEFAULT_SIGNAL, InstallFailed, note_process, process, this_thread,
};
use crate::protocol::record::Record;
use crate::protocol::word::{Attention, Kind, Level, Sender};

/// The rung as the handler notes it in [`Record::rung`].
const RUNG_NUDGE: u32 = 2;

/// Signals that reached the handler and that nobody waited for.
static FOREIGN: AtomicU64 = AtomicU64::new(0);

/// Installs the handler for `signal`, once per process. `of_token` maps a token to a record, `of_thread` a
/// `pthread_self` value; both must keep the rules of the header.
pub(crate) fn install(
    signal: libc::c_int,
    of_token: fn(usize) -> Option<&'static Record>,
    of_thread: fn(usize) -> Option<&'static Record>,
) -> Result<(), InstallFailed> {
    disposition::install(signal, on_signal, of_token, of_thread)
}

/// (requeued, foreign, forged) signals so far. The first needs a window, the last a signal that carries something.
pub(crate) fn counts() -> (u64, u64, u64) {
    (0, FOREIGN.load(Ordering::Relaxed), 0)
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let _errno = KeepErrno::new();
    if let Some(installed) = disposition::installed()
        && !heard(installed)
    {
        FOREIGN.fetch_add(1, Ordering::Relaxed);
        // A default action is not carried out, whatever it is: it may have been a late nudge (H4).
        forward(installed, signal, info, context, |_default| {});
    }
}

/// Whether the signal was for this thread's record (H4); if so, says that it has come.
fn heard(installed: &Installed) -> bool {
    let thread = this_thread();
    let hint = addressee::hint(thread);
    let hinted = (installed.of_token)(hint).filter(|record| record.is_owned_by(thread));
    let from = hinted.map_or(Sender::Other, |_| Sender::of_bits(hint));
    let Some(record) = hinted.or_else(|| (installed.of_thread)(thread)) else {
        return false;
    };
    let waits = |word: Attention| word.has(Attention::NUDGE) || word.calls();
    if !waits(record.attention()) {
        return false;
    }
    let word = record.hear(from);
    let region = record.region();
    if word.calls() && region.kind() == Kind::Foreign && region.level() != Level::Uninterruptible {
        record.note_rung(RUNG_NUDGE);
    }
    true
}
