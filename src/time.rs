//! Time limits: a closure that may take so long and no longer, wherever it is stuck.
//!
//! Owns: [`timeout`], [`Deadline`], [`Limit`]: what a duration means as a deadline. Leaves to `scope` running the closure
//! and telling its own exception, to `driver` the clockwork.
//! Setting a limit and dropping it makes no system call unless the driver must be woken, because nothing is due as soon.
//!
//! **Signal context:** no.

use std::cmp::Ordering;
use std::panic::Location;
use std::time::{Duration, Instant};

use crate::exception::TimedOut;
use crate::platform::futex;
use crate::protocol::deadline::NEVER;
use crate::receipt::deadline_after;
use crate::scope::{OpenScope, Own, attached};

/// Runs `f` for at most `limit`, on the calling thread, which is attached for that time if it was not.
///
/// After that, every safepoint and every blocking call in `f` raises [`TimedOut`], and a foreign call is broken by the rungs
/// that it allows. `f` may let it out in either style, by `?` in whatever error type, or by unwinding: this limit
/// turns its own exception, and no other, into `Err(TimedOut)`. So limits nest: the nearest passes first, and the
/// exception of an outer one passes through the inner ones.
///
/// A limit that has passed stays passed. A body that swallows the exception meets it again at the next safepoint; clean-up
/// that must block goes into a [`shield`](crate::shield). A body that returns a result all the same has it returned,
/// however late: results win. Nothing is raised after the end.
///
/// Zero has passed at once: `f` runs up to its first safepoint. A limit too long for the clock never passes. For "none", a
/// number of seconds, or a deadline to be moved, see [`Deadline`]. A limit belongs to its thread; threads that `f` starts
/// have none. It may be set in a signal handler of the program, on top of whatever that has interrupted: see `docs/limitations.md`
/// about the allocator.
///
/// # Errors
/// [`TimedOut`] if the exception of this limit came out of `f`; [`Scope::run`](crate::scope::Scope::run) has the exact rule.
///
/// # Panics
/// If the thread cannot be attached ([`AttachError`](crate::AttachError)), or the driver's thread, which the first limit of a
/// process starts, cannot be started.
///
/// The name and the identity rule are GHC's, that a passed limit stays passed is Trio's.
///
/// ```
/// use std::time::Duration;
/// use throwto::{Raised, TimedOut, thread, time::timeout};
///
/// // An hour's sleep, with `?`.
/// let slept = timeout(Duration::from_millis(10), || {
///     thread::sleep(Duration::from_secs(3600))?;
///     Ok::<_, Raised>("rested")
/// });
/// assert_eq!(slept.unwrap_err(), TimedOut);
///
/// // A loop, by unwinding.
/// let spun: Result<(), TimedOut> = timeout(Duration::from_millis(10), || loop { throwto::safepoint_unwind() });
/// assert_eq!(spun, Err(TimedOut));
///
/// assert_eq!(timeout(Duration::from_secs(10), || 6 * 7), Ok(42));
/// ```
#[inline]
#[track_caller]
pub fn timeout<T>(limit: Duration, f: impl FnOnce() -> T) -> Result<T, TimedOut> {
    let _attachment = attached();
    let now = futex::now();
    let limit = u64::try_from(limit.as_nanos()).unwrap_or(NEVER);
    let open = OpenScope::begin(now.saturating_add(limit), now, Location::caller());
    open.run(f).map_err(|Own| TimedOut)
}

/// A point in time at which a limit passes, or never.
///
/// Deadlines are ordered by what passes first; [`Deadline::NEVER`] is the last.
///
/// ```
/// use std::time::Duration;
/// use throwto::time::Deadline;
/// assert!(Deadline::after(Duration::ZERO).has_passed());
/// assert!(Deadline::after(Duration::from_secs(1)) < Deadline::NEVER);
/// assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
/// assert!(Deadline::after_secs(-1.0).has_passed());
/// assert_eq!(Deadline::after_secs(f64::INFINITY), Deadline::NEVER);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(u64);

impl Deadline {
    /// No limit.
    pub const NEVER: Self = Self(NEVER);

    /// This long from now. Too long for the clock is [`NEVER`](Self::NEVER).
    pub fn after(limit: Duration) -> Self {
        Self(deadline_after(limit).unwrap_or(NEVER))
    }

    /// At `when`.
    pub fn at(when: Instant) -> Self {
        Self::after(when.saturating_duration_since(Instant::now()))
    }

    /// This many seconds from now. Zero and less, minus infinity included, has passed; what is too long for the clock, infinity
    /// included, is [`NEVER`](Self::NEVER).
    ///
    /// # Panics
    /// If `seconds` is not a number: a limit that nobody can have meant must not pass for one that never ends.
    ///
    /// ```should_panic
    /// throwto::time::Deadline::after_secs(f64::NAN);
    /// ```
    #[track_caller]
    pub fn after_secs(seconds: f64) -> Self {
        match seconds.partial_cmp(&0.0) {
            None => panic!("a time limit of NaN seconds"),
            Some(Ordering::Less | Ordering::Equal) => Self::after(Duration::ZERO),
            Some(Ordering::Greater) => Duration::try_from_secs_f64(seconds).map_or(Self::NEVER, Self::after),
        }
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.0 <= futex::now()
    }

    /// How long until then: zero once it has passed, `None` if it never will.
    ///
    /// ```
    /// use throwto::time::Deadline;
    /// assert_eq!(Deadline::NEVER.remaining(), None);
    /// ```
    pub fn remaining(self) -> Option<Duration> {
        (self.0 != NEVER).then(|| Duration::from_nanos(self.0.saturating_sub(futex::now())))
    }

    /// Runs `f` until this deadline: [`timeout`], for a point in time. `f` is given the limit, and may move it.
    ///
    /// # Errors
    /// As [`timeout`].
    ///
    /// # Panics
    /// As [`timeout`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use throwto::{thread, time::Deadline};
    /// let outcome = Deadline::after(Duration::from_secs(3600)).run(|limit| {
    ///     // Every sign of life would earn it another minute; this is a short one.
    ///     limit.move_to(Deadline::after(Duration::from_millis(5)));
    ///     thread::sleep(Duration::from_secs(3600))
    /// });
    /// assert!(outcome.is_err());
    /// ```
    #[track_caller]
    pub fn run<T>(self, f: impl FnOnce(&Limit<'_>) -> T) -> Result<T, TimedOut> {
        let _attachment = attached();
        let open = OpenScope::begin(self.0, futex::now(), Location::caller());
        open.run_with(|open| f(&Limit { open })).map_err(|Own| TimedOut)
    }
}

impl std::fmt::Debug for Deadline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.remaining() {
            None => f.write_str("Deadline(never)"),
            Some(Duration::ZERO) => f.write_str("Deadline(passed)"),
            Some(left) => write!(f, "Deadline(in {left:?})"),
        }
    }
}

/// The limit that a body runs under, given to it by [`Deadline::run`]. Belongs to its thread.
///
/// ```compile_fail,E0277
/// use throwto::time::Deadline;
/// let _ = Deadline::NEVER.run(|limit| {
///     std::thread::scope(|s| s.spawn(|| limit.move_to(Deadline::NEVER)).join())
/// });
/// ```
///
/// Nor does it outlive the body:
///
/// ```compile_fail,E0521
/// use throwto::time::Deadline;
/// let mut kept = None;
/// let _ = Deadline::NEVER.run(|limit| kept = Some(limit));
/// ```
pub struct Limit<'a> {
    open: &'a OpenScope,
}

impl Limit<'_> {
    /// Moves the deadline, earlier or later. A limit that has passed and been noticed stays passed.
    ///
    /// # Panics
    /// If the driver's thread, which the first limit of a process starts, cannot be started.
    #[track_caller]
    pub fn move_to(&self, deadline: Deadline) {
        self.open.move_deadline(deadline.0, futex::now());
    }

    /// The deadline in force for this limit; an outer one may pass before.
    ///
    /// ```
    /// use throwto::time::Deadline;
    /// let outcome = Deadline::NEVER.run(|limit| limit.deadline() == Deadline::NEVER && !limit.has_passed());
    /// assert_eq!(outcome, Ok(true));
    /// ```
    pub fn deadline(&self) -> Deadline {
        Deadline(self.open.state().0)
    }

    /// Whether safepoints in the body raise because of this limit.
    pub fn has_passed(&self) -> bool {
        self.open.state().1
    }
}

impl std::fmt::Debug for Limit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limit")
            .field("deadline", &self.deadline())
            .finish()
    }
}
