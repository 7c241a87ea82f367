//! Regions: where the owner tells its raisers that it needs help, and the waits that need no system call but a futex.
//!
//! Owns: [`Inside`] and [`Crossing`], the guards that leave a region on every way out, and [`wait_until`]. Leaves to `window` the system
//! calls, to `foreign` foreign code, to `protocol::record` the order of stores, loads and fences, to `protocol::wait` what a
//! wait looks at, and in which order.
//!
//! **Signal context:** no.
//!
//! A wait is a cancellation point: unmasked, it raises at once if an exception is pending, whether it would have blocked
//! or not; masked, only when it would really block. "Raised" means that the operation did not happen.

use std::mem::ManuallyDrop;
use std::thread::panicking;

use crate::current;
use crate::mask::enlist;
use crate::platform::futex;
use crate::protocol::record::{AfterLeave, Entered, Fences, Owner};
use crate::protocol::wait::NextStep;
pub(crate) use crate::protocol::wait::Raises;
use crate::protocol::word::{Kind, Region};
use crate::raised::Raised;
use crate::rung::WOKEN;
use crate::safepoint::take_by;

/// A region that ends when this is dropped, on every way out.
pub(crate) struct Inside {
    owner: Owner,
    entered: Entered,
    fences: Fences,
}

impl Inside {
    #[inline(always)]
    pub(crate) fn enter(owner: Owner, kind: Kind, ladder: u64, frame: *mut (), fences: Fences) -> Self {
        Self {
            owner,
            entered: owner.enter(kind, ladder, frame, fences),
            fences,
        }
    }

    /// Whether a call was there on entry.
    #[inline(always)]
    pub(crate) fn calls(&self) -> bool {
        self.entered.calls
    }

    /// As the drop, in line: for the usual way out.
    #[inline(always)]
    fn end(self) {
        let this = ManuallyDrop::new(self);
        leave(this.owner, &this.entered, this.fences);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        leave(self.owner, &self.entered, self.fences);
    }
}

#[inline(always)]
fn leave(owner: Owner, entered: &Entered, fences: Fences) {
    if let AfterLeave::Owes { await_looks, note } = owner.leave(entered, fences) {
        pay(owner, await_looks, note);
    }
}

/// As [`Inside`], for the shortest of calls: three words that need no memory, for leaving is in line at [`end`](Self::end) and
/// a call of a function on every other way.
pub(crate) struct Crossing {
    owner: Owner,
    outer: (Region, *mut ()),
}

impl Crossing {
    /// The region, and whether a call was there on entry. `bits` are its kind and its ladder.
    #[inline(always)]
    pub(crate) fn begin(owner: Owner, bits: u64, frame: *mut (), fences: Fences) -> (Self, bool) {
        // The kind that adds no bits to those.
        let entered = owner.enter(Kind::Running, bits, frame, fences);
        let outer = entered.outer();
        (Self { owner, outer }, entered.calls)
    }

    #[inline(always)]
    pub(crate) fn end(self, fences: Fences) {
        let this = ManuallyDrop::new(self);
        leave(this.owner, &Entered::from_outer(this.outer), fences);
    }
}

impl Drop for Crossing {
    #[inline(always)]
    fn drop(&mut self) {
        #[cold]
        #[inline(never)]
        fn leave_late(owner: Owner, outer: Region, frame: *mut ()) {
            // A full fence does whatever a light one does.
            leave(owner, &Entered::from_outer((outer, frame)), Fences::Full);
        }
        let (outer, frame) = self.outer;
        leave_late(self.owner, outer, frame);
    }
}

/// What the end of a region owes: waiting for lookers, and a note to the driver when the thread goes back into an outer
/// region with an exception pending.
#[cold]
fn pay(owner: Owner, await_looks: bool, note: bool) {
    if await_looks {
        current::await_looks(owner);
    }
    if note {
        enlist(owner);
    }
}

/// Runs `f`, a callback of a foreign call into Rust, so that neither forced rung acts inside it. The other rungs do.
///
/// A callback that is not guarded is not abandoned either as long as its Rust frames are known for what they are: by
/// the program's symbols (see `docs/limitations.md` about stripped programs). The guard costs two stores.
///
/// ```
/// extern "C" fn progress(done: u32) -> u32 {
///     throwto::foreign::no_abandon(|| done + 1)
/// }
/// assert_eq!(progress(1), 2);
/// ```
pub fn no_abandon<T>(f: impl FnOnce() -> T) -> T {
    struct Guard(Owner, Region);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.allow(self.1);
        }
    }
    let _guard = current::owner().map(|owner| Guard(owner, owner.forbid(Region::FORCED)));
    f()
}

/// Why a wait came back.
#[derive(Debug)]
pub(crate) enum Waited {
    Ready,
    TimedOut,
    Raised(Raised),
}

/// Waits on the calling thread's attention word until `ready()`, `deadline` or a raise.
///
/// Whoever makes `ready` true must then set `NOTIFIED` (or another bit that `ready` consumes) and wake the word.
/// The caller is attached. `ready` is called with no lock of this crate held, any number of times, and does not wait on
/// the word itself.
#[track_caller]
pub(crate) fn wait_until(
    owner: Owner,
    deadline: Option<u64>,
    raises: Raises,
    mut ready: impl FnMut() -> bool,
) -> Waited {
    let record = owner.record();
    // Nothing is raised while something unwinds (P11).
    let raises = if panicking() { Raises::Stay } else { raises };
    loop {
        let inside = Inside::enter(owner, Kind::Waiting, 0, std::ptr::null_mut(), Fences::Full);
        let (mut slept, mut woken) = (0, false);
        let end = loop {
            // Who was woken was not late, so any time before that will do.
            let now = || if woken { 0 } else { futex::now() };
            match owner.next_step(deadline, raises, &mut ready, now) {
                NextStep::Sleep { word, until } => {
                    woken = futex::wait(record.attention_word(), word.futex(), until);
                    slept = WOKEN;
                }
                end => break end,
            }
        };
        inside.end();
        match end {
            NextStep::Raise if raises == Raises::Show => {
                record.note_rung(slept);
                return Waited::Ready;
            }
            NextStep::Raise => {
                if let Some(raised) = take_by(owner, slept) {
                    return Waited::Raised(raised);
                }
                // Taken back in this very moment: wait on.
            }
            NextStep::TimedOut => return Waited::TimedOut,
            NextStep::Ready | NextStep::Sleep { .. } => return Waited::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::protocol::word::Attention;
    use crate::receipt::deadline_after;

    /// Shows protocol::wait I1.
    #[test]
    fn a_token_that_comes_right_behind_the_look_for_it_is_not_slept_on() {
        let _attachment = crate::attach().unwrap();
        let owner = current::owner().unwrap();
        // The wait looks once more at its limit, and finds the token then: what tells is the time.
        const LIMIT: Duration = Duration::from_secs(30);
        let (began, limit) = (Instant::now(), deadline_after(LIMIT));
        let mut looks = 0;
        let waited = wait_until(owner, limit, Raises::End, || {
            let came = owner.consume(Attention::UNPARKED);
            looks += 1;
            if looks == 1 {
                owner.record().notify(Attention::UNPARKED);
            }
            came
        });
        assert!(matches!(waited, Waited::Ready), "{waited:?} after {looks} looks");
        assert!(
            began.elapsed() < LIMIT,
            "slept on its token to the end of its time"
        );
    }

    /// Shows protocol::record I7.
    #[test]
    fn a_raise_that_finds_another_pending_is_not_slept_on_by_a_wait_that_outlasts_raises() {
        let attachment = crate::attach().unwrap();
        let owner = current::owner().unwrap();
        const LIMIT: Duration = Duration::from_secs(30);
        let (began, limit) = (Instant::now(), deadline_after(LIMIT));
        // Both raises come right behind a look, so that the driver is not asked to help. The second supersedes: the word has its
        // bit already.
        let mut seen = owner.raises();
        let mut news = 0;
        let waited = wait_until(owner, limit, Raises::Stay, || {
            let raises = owner.raises();
            news += u32::from(raises != std::mem::replace(&mut seen, raises));
            if news < 2 {
                let _receipt = crate::raise_exc(attachment.id(), crate::Stop).unwrap();
            }
            news == 2
        });
        assert!(
            matches!(waited, Waited::Ready),
            "{waited:?} after {news} of 2 raises"
        );
        assert!(
            began.elapsed() < LIMIT,
            "slept on the raise to the end of its time"
        );
        assert!(crate::safepoint().is_err());
    }
}
