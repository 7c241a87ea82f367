//! Calls that may be left by force: the rungs *unwind* and *abandon*.
//!
//! Owns: the runs that allow them, the checks before, what becomes of the exception after; poison. Leaves to the platform
//! the trampoline and the proof that a spot is safe, to `protocol::ladder` when a rung is due.
//!
//! **Signal context:** no. What is between the trampoline and the foreign code, [`shim`] and the closure, may be dropped by
//! the handler or the stop function: it owns nothing that must not be leaked.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use super::call::{Acted, harmless};
use super::poison::POISON;
use super::{Call, CallError, LeftCall, raised_before};
use crate::current;
use crate::driver;
use crate::exception::{Cancelled, Interrupted, TimedOut};
use crate::platform::forced::{self, Beginning, Escape, Facts, Ready};
use crate::protocol::record::{Fences, Owner};
use crate::protocol::scope::Why;
use crate::protocol::word::Region;
use crate::raised::Raised;
use crate::region::Crossing;
use crate::rung::{ABANDONED, UNWOUND};
use crate::runtime;
use crate::safepoint::{Moment, take};
use crate::scope::Mark;
use crate::trace::region::region as span;

/// What forced rungs need, or why there are none. The driver is at work before the first such call: a thread that is stuck in
/// `dlopen` would keep it from starting.
#[inline(always)]
pub(super) fn prepared() -> Result<&'static Facts, &'static str> {
    forced::prepare(driver::be_there)
}

/// What a region shows, and behind it the closure and the place for its result, as the trampoline's callee finds them.
#[repr(C)]
struct Job<'r, F, T> {
    escape: Escape<'r>,
    /// Of more than a word, as the result. Others go in, and come back, as words do.
    f: F,
    result: T,
}

impl<F: FnOnce() -> T, T> Job<'_, F, T> {
    const BEGINNING: &'static Beginning = &Beginning::of(shim::<F, T>);
}

/// # Safety
/// `job` points to a `Job<F, T>`, whose closure was handed over with this word. It is taken.
unsafe extern "C-unwind" fn shim<F: FnOnce() -> T, T>(
    job: *mut (),
    word: MaybeUninit<usize>,
) -> MaybeUninit<usize> {
    let job = job.cast::<Job<'_, F, T>>();
    // SAFETY: by contract. Lookers have the escape only.
    let place = unsafe { &raw mut (*job).f };
    // SAFETY: by contract.
    let f = unsafe { take_over(word, place) };
    // SAFETY: as above.
    let place = unsafe { &raw mut (*job).result };
    // SAFETY: a place for it.
    unsafe { hand_over(f(), place) }
}

/// Puts a value where it gets to the other side of the trampoline: into the word that goes through, or into `place`.
///
/// # Safety
/// `place` may be written to.
#[inline(always)]
unsafe fn hand_over<T>(value: T, place: *mut T) -> MaybeUninit<usize> {
    let mut word = MaybeUninit::<usize>::uninit();
    let place = if fits_word::<T>() {
        word.as_mut_ptr().cast()
    } else {
        place
    };
    // SAFETY: a word with room for it, or by contract.
    unsafe { place.write_unaligned(value) };
    word
}

/// What was handed over on the other side.
///
/// # Safety
/// [`hand_over`] was given such a value and this place, and has given this word. To be taken once.
#[inline(always)]
unsafe fn take_over<T>(word: MaybeUninit<usize>, place: *const T) -> T {
    let place = if fits_word::<T>() {
        word.as_ptr().cast()
    } else {
        place
    };
    // SAFETY: by contract it is there.
    unsafe { place.read_unaligned() }
}

const fn fits_word<T>() -> bool {
    size_of::<T>() <= size_of::<usize>()
}

/// A call that a destructor makes during a panic is not left by force: nothing could be raised after it.
#[inline(always)]
fn in_a_panic(region: u64) -> u64 {
    if std::thread::panicking() {
        harmless(region)
    } else {
        region
    }
}

impl Call<'_> {
    /// Runs `f` in the region, with every rung that the call allows, the forced ones too.
    ///
    /// # Errors
    /// [`CallError::Raised`] if an exception was pending before (then `f` did not run), or if the call was left by force:
    /// [`Raised::rung`](crate::Raised::rung) and [`Raised::left`](crate::Raised::left) tell. Should that exception be revoked while the
    /// thread is being brought out, [`Interrupted`] stands for it; if it was that of a time limit or a scope inside `f`, which
    /// is over with the call, [`TimedOut`] or [`Cancelled`] that belongs to nobody. [`CallError::Poisoned`],
    /// [`CallError::Unsupported`] and [`CallError::NoModule`] come before the call is made. A result is never thrown away.
    ///
    /// # Safety
    /// 1. Between `f` and wherever the thread may be found there are only frames that may be dropped ("plain old frames",
    ///    RFC 2945): foreign code, and of Rust only `f` itself and functions it calls on the way, which at that time own
    ///    nothing with a destructor that must run. What `f` has moved into itself is leaked.
    /// 2. With [`abandon_after`](Self::abandon_after): the code of the allowed modules may stop between any two instructions and
    ///    never go on. What it leaves half done is yours to discard: the label is poisoned until you say so.
    /// 3. With [`unwind_after`](Self::unwind_after): the foreign code bears being unwound from a blocking call as it would
    ///    bear `pthread_exit` there.
    /// 4. Callbacks into Rust that have unmangled names (`#[no_mangle]`) are guarded with [`no_abandon`](super::no_abandon).
    ///
    /// ```
    /// use throwto::foreign::{Call, CallError};
    /// use std::time::Duration;
    /// let call = Call::new("strlen").unwind_after(Duration::from_millis(50));
    /// // SAFETY: one function of the C library, which calls nobody.
    /// let length = unsafe { call.run_forced(|| c"text".count_bytes()) };
    /// assert!(matches!(length, Ok(4) | Err(CallError::Unsupported { .. })));
    /// ```
    #[inline]
    #[track_caller]
    pub unsafe fn run_forced<T>(&self, f: impl FnOnce() -> T) -> Result<T, CallError> {
        // SAFETY: by contract.
        unsafe { self.force(f) }
    }

    /// As [`run_forced`](Self::run_forced), and tells an interrupted call from a failed one as
    /// [`try_run`](Self::try_run) does.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Safety
    /// As [`run_forced`](Self::run_forced).
    ///
    /// ```
    /// use throwto::foreign::{Call, CallError};
    /// let call = Call::new("fails").fail_syscalls();
    /// // SAFETY: no forced rung is allowed.
    /// let error = unsafe { call.try_run_forced(|| Err::<(), _>("its own error")) }.unwrap_err();
    /// assert!(matches!(error, CallError::Failed("its own error")));
    /// ```
    #[inline]
    #[track_caller]
    pub unsafe fn try_run_forced<T, E>(&self, f: impl FnOnce() -> Result<T, E>) -> Result<T, CallError<E>> {
        let acted = current::owner().map(Acted::begin);
        // SAFETY: by contract.
        let result = unsafe { self.force(f) }?;
        match acted {
            Some(acted) => acted.judge(result),
            None => result.map_err(CallError::Failed),
        }
    }

    /// # Safety
    /// As [`Call::run_forced`].
    #[inline(always)]
    #[track_caller]
    unsafe fn force<T, E, F: FnOnce() -> T>(&self, f: F) -> Result<T, CallError<E>> {
        let region = self.fit.get();
        if POISON.lets(region) {
            if let Some(ready) = forced::ready() {
                // SAFETY: by contract.
                return unsafe { self.cross(ready, region, Fences::Light, f) }.map_err(CallError::Raised);
            }
            if current::owner().is_none() {
                return Ok(f());
            }
        }
        // SAFETY: by contract.
        unsafe { self.check_and_cross(f) }?.map_err(CallError::Raised)
    }

    /// The first time, and wherever something stands in the way of the short one.
    ///
    /// # Safety
    /// As [`Call::run_forced`].
    #[cold]
    #[inline(never)]
    #[track_caller]
    unsafe fn check_and_cross<T, E, F: FnOnce() -> T>(
        &self,
        f: F,
    ) -> Result<Result<T, Raised>, CallError<E>> {
        let facts = self.check()?;
        let Some(owner) = current::owner() else {
            return Ok(Ok(f()));
        };
        let fences = runtime::fences();
        let ready = forced::get_ready(facts, owner.record(), fences == Fences::Light);
        // SAFETY: by contract.
        Ok(unsafe { self.cross(ready, self.bits, fences, f) })
    }

    /// The call itself, on a thread that is [`ready`](forced::ready).
    ///
    /// # Safety
    /// As [`Call::run_forced`].
    #[inline(always)]
    #[track_caller]
    unsafe fn cross<T, F: FnOnce() -> T>(
        &self,
        ready: Ready,
        region: u64,
        fences: Fences,
        f: F,
    ) -> Result<T, Raised> {
        let owner = Owner::of(ready.record());
        let _span = span(self.label);
        let mut job = MaybeUninit::<Job<'_, F, T>>::uninit();
        let frame = job.as_mut_ptr();
        // SAFETY: a place of ours, which begins with one.
        unsafe { Escape::put(frame.cast(), ready, self, Job::<F, T>::BEGINNING) };
        let (crossing, calls) = Crossing::begin(owner, in_a_panic(region), frame.cast(), fences);
        if calls && let Some(raised) = raised_before(owner) {
            crossing.end(fences);
            return Err(raised);
        }
        let mark = Mark::now();
        // SAFETY: the job is ours; of it lookers have the escape only.
        let place = unsafe { &raw mut (*frame).f };
        // SAFETY: a place for it.
        let word = unsafe { hand_over(f, place) };
        // SAFETY: the shim gets the job it is made for, once; the frames are as the caller has promised; a call begins with
        // its terms.
        match unsafe { Escape::call(frame.cast(), word) } {
            Some(word) => {
                crossing.end(fences);
                // SAFETY: the job is ours.
                let place = unsafe { &raw const (*frame).result };
                // SAFETY: the shim has returned, so it has handed its result over.
                Ok(unsafe { take_over(word, place) })
            }
            None => {
                // SAFETY: it has just been left.
                let passed = unsafe { Escape::landed(frame.cast()) };
                drop(crossing);
                Err(self.left(owner, mark, LeftCall::of(self.label, passed)))
            }
        }
    }

    /// As [`is_poisoned`]; the label is not even read while nothing is.
    #[inline(always)]
    pub(super) fn is_poisoned(&self) -> bool {
        #[cold]
        #[inline(never)]
        fn listed(call: &Call<'_>) -> bool {
            POISON.has(call.label)
        }
        !POISON.is_empty() && listed(self)
    }

    /// What must be so before the call is made. But for poison none of it changes once it was so.
    fn check<E>(&self) -> Result<&'static Facts, CallError<E>> {
        if self.is_poisoned() {
            return Err(CallError::Poisoned { label: self.label });
        }
        let facts = prepared().map_err(|capability| CallError::Unsupported { capability })?;
        if self.bits & Region::UNWIND != 0
            && let Some(capability) = facts.no_unwind()
        {
            return Err(CallError::Unsupported { capability });
        }
        if self.bits & Region::ABANDON != 0 && self.terms.allowed.is_empty() {
            return Err(CallError::NoModule { label: self.label });
        }
        self.fit.set(self.bits);
        Ok(facts)
    }

    /// The call is gone: poison what it leaves, and raise what has ended it.
    #[cold]
    #[track_caller]
    fn left(&self, owner: Owner, mark: Mark, left: LeftCall) -> Raised {
        let rung = match left.rung {
            crate::Rung::Unwind => UNWOUND,
            _ => {
                POISON.add(self.label);
                ABANDONED
            }
        };
        owner.record().note_rung(rung);
        let inside = mark.close_inside(owner);
        let raised = take(owner, Moment::Blocking).unwrap_or_else(|| {
            // Revoked meanwhile, or ended with a scope inside. What has brought the thread here has nothing to do with its
            // next exception.
            owner.record().take_rung();
            match inside {
                Some(Why::TimedOut) => Raised::here(TimedOut),
                Some(Why::Cancelled) => Raised::here(Cancelled),
                None => Raised::here(Interrupted),
            }
        });
        raised.having_left(left)
    }
}
