//! [`Call`]: a foreign call with a label and the rungs it allows.
//!
//! Owns: the builder, [`Call::run`] and [`Call::try_run`], telling an interrupted call from a failed one. Leaves to the
//! module above the regions, to `forced` the runs that may be left by force.
//!
//! **Signal context:** no.

use std::cell::{Cell, UnsafeCell};
use std::time::Duration;

use super::forced::prepared;
use super::{Call, CallError, Module, run_inside};
use crate::current;
use crate::error::Unsupported;
use crate::platform::{self, forced::Terms, spot::Key};
use crate::protocol::ladder::Times;
use crate::protocol::record::Owner;
use crate::protocol::word::{Kind, Region};
use crate::raised::{Raised, Rung};
use crate::safepoint::{Moment, take};
use crate::trace::region::region;

const NO_FAIL: &str = "fail needs a system where the result of a blocked call can be replaced";

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            label,
            hook,
            bits,
            harmless: _,
            times,
            terms,
            fit: _,
        } = self;
        let fail = bits & Region::FAIL != 0;
        f.debug_struct("Call")
            .field("label", label)
            .field("hook", &hook.is_some())
            .field("fail", &fail)
            .field("unwind_after", &times.unwind)
            .field("abandon_after", &times.abandon)
            .field("modules", &terms.allowed.len())
            .finish()
    }
}

impl<'a> Call<'a> {
    /// A call that [`threads`](crate::threads) shows under `label`.
    pub const fn new(label: &'static str) -> Self {
        Self {
            label,
            hook: None,
            bits: Region::FRAMED | Kind::Foreign as u64,
            harmless: Region::FRAMED | Kind::Foreign as u64,
            times: Times {
                unwind: None,
                abandon: None,
            },
            terms: Terms::new(),
            fit: Cell::new(0),
        }
    }

    /// Allows a rung, which is to be looked into.
    const fn allowing(mut self, rung: u64) -> Self {
        self.bits |= rung;
        self.harmless = harmless(self.bits);
        self.fit = Cell::new(0);
        self
    }

    /// Lets the driver run `hook` to make the library return, `sqlite3_interrupt` for one.
    ///
    /// It runs on the driver's thread, while the call is going on and never after it has ended: leaving the region
    /// waits for a hook that is running. It may run more than once, must be quick, must not wait for the target, and a
    /// panic in it is reported and counted ([`stats`](crate::stats)), then the ladder goes on.
    #[must_use]
    pub fn unblock(mut self, hook: impl FnMut() + Send + 'a) -> Self {
        self.hook = Some(UnsafeCell::new(Box::new(hook)));
        self.allowing(Region::HOOK)
    }

    /// Allows the rung *fail*: a system call that the foreign code is blocked in returns `ECANCELED` (or "timed out",
    /// for sleeps and polls) instead of EINTR, which ends code that retries EINTR for ever, std included.
    ///
    /// `docs/limitations.md` has the table. Waits on a futex, `close` and unknown calls are never touched.
    ///
    /// Where no result can be replaced the call is not made, and the answer is [`CallError::Unsupported`] (of
    /// [`run`](Self::run), the exception [`Unsupported`]): without this rung, code that retries EINTR would never come
    /// back. Ask [`supports`](Self::supports) before.
    #[must_use]
    pub fn fail_syscalls(self) -> Self {
        self.allowing(Region::FAIL)
    }

    /// Allows the rung *unwind*, this long after the driver has first looked at the thread that was raised into.
    ///
    /// From a blocked system call the frames of foreign code are unwound by force, as `pthread_exit` does it: C++ destructors
    /// and cleanup attributes run. Acts in [`run_forced`](Self::run_forced) and
    /// [`try_run_forced`](Self::try_run_forced) only.
    #[must_use]
    pub const fn unwind_after(mut self, after: Duration) -> Self {
        self.times.unwind = Some(after);
        self.allowing(Region::UNWIND)
    }

    /// Allows the rung *abandon*, this long after the driver has first looked at the thread that was raised into.
    ///
    /// The thread leaves the call wherever it is, if that is in the modules that are [allowed](Self::allow): no cleanup
    /// runs. Afterwards the label is poisoned. With zero the signal that any raise sends is enough. Acts in [`run_forced`](Self::run_forced) and
    /// [`try_run_forced`](Self::try_run_forced) only.
    #[must_use]
    pub const fn abandon_after(mut self, after: Duration) -> Self {
        self.times.abandon = Some(after);
        self.terms.at_once = after.is_zero();
        self.allowing(Region::ABANDON)
    }

    /// Names code that the call may be abandoned in. May be called several times.
    #[must_use]
    pub fn allow(mut self, module: &Module) -> Self {
        self.terms.allowed.push(module.0);
        self
    }

    /// Whether foreign calls can have `rung` on this system.
    ///
    /// ```
    /// use throwto::{Rung, foreign::Call};
    /// let mut call = Call::new("read");
    /// if Call::supports(Rung::Fail) {
    ///     call = call.fail_syscalls();
    /// }
    /// assert_eq!(call.run(|| 5)?, 5);
    /// # Ok::<(), throwto::Raised>(())
    /// ```
    pub fn supports(rung: Rung) -> bool {
        match rung {
            Rung::Safepoint | Rung::Wake | Rung::Hook => true,
            Rung::Nudge => platform::HAS_NUDGE,
            Rung::Fail => platform::HAS_FAIL,
            Rung::Unwind => prepared().is_ok_and(|facts| facts.no_unwind().is_none()),
            Rung::Abandon => prepared().is_ok(),
        }
    }

    /// Whether the rung fail was allowed and cannot be had.
    #[inline(always)]
    const fn lacks_fail(&self) -> bool {
        self.bits & Region::FAIL != 0 && !platform::HAS_FAIL
    }

    /// Runs `f` in the region.
    ///
    /// # Errors
    /// The exception, if one was pending before: then `f` did not run. A rung that cannot be had is an exception too,
    /// [`Unsupported`], raised by the call itself. A result is never thrown away.
    #[inline]
    #[track_caller]
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T, Raised> {
        if self.lacks_fail() {
            return Err(Raised::here(Unsupported { capability: NO_FAIL }));
        }
        match current::owner() {
            Some(owner) => self.run_attached(owner, f),
            None => Ok(f()),
        }
    }

    #[inline(always)]
    #[track_caller]
    fn run_attached<T>(&self, owner: Owner, f: impl FnOnce() -> T) -> Result<T, Raised> {
        let _span = region(self.label);
        let frame = Key::of_call(self);
        let pointer = (&raw const frame).cast_mut().cast();
        run_inside(owner, self.harmless, pointer, f)
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
        if self.is_poisoned() {
            return Err(CallError::Poisoned { label: self.label });
        }
        if self.lacks_fail() {
            return Err(CallError::Unsupported { capability: NO_FAIL });
        }
        let Some(owner) = current::owner() else {
            return f().map_err(CallError::Failed);
        };
        let acted = Acted::begin(owner);
        match self.run_attached(owner, f) {
            Err(raised) => Err(CallError::Raised(raised)),
            Ok(result) => acted.judge(result),
        }
    }
}

/// The bits of the rungs that harm nobody, and all others.
pub(super) const fn harmless(bits: u64) -> u64 {
    bits & !Region::FORCED
}

/// Tells whether anything has acted in a region.
pub(super) struct Acted {
    owner: Owner,
    /// What has acted before this region, for an outer one or under a mask, has not made the call fail.
    before: u32,
}

impl Acted {
    #[inline(always)]
    pub(super) fn begin(owner: Owner) -> Self {
        Self {
            owner,
            before: owner.record().take_rung(),
        }
    }

    /// A good result is kept; an error that comes of our acting is the exception.
    #[inline(always)]
    #[track_caller]
    pub(super) fn judge<T, E>(self, result: Result<T, E>) -> Result<T, CallError<E>> {
        match result {
            Ok(result) => Ok(result),
            Err(error) => {
                let record = self.owner.record();
                let acted = record.rung() != 0;
                record.note_rung(self.before);
                match acted.then(|| take(self.owner, Moment::Blocking)).flatten() {
                    Some(raised) => Err(CallError::Raised(raised)),
                    None => Err(CallError::Failed(error)),
                }
            }
        }
    }
}
