//! [`Condvar`]: waiting for a condition under a [`Mutex`](super::Mutex), and being raised into meanwhile.
//!
//! Owns: giving the mutex up and taking it back. Leaves to `queue` the waiters and who is notified.
//! The waits block; notifying does not.
//!
//! **Signal context:** no.
//!
//! - I1. A waiter is in line before it unlocks the mutex: who changes the condition under the mutex and then notifies
//!   finds it.
//! - I2. Taking the mutex back raises nothing: the wait is over by then, with its notification.

use std::fmt;
use std::time::Duration;

use super::mutex::MutexGuard;
use super::queue::WaitQueue;
use crate::raised::Raised;
use crate::receipt::deadline_after;
use crate::region::{Raises, Waited};

/// `std::sync::Condvar`, but who waits on it can be raised into.
///
/// [`wait`](Self::wait) takes the guard, as in std; when it is raised into the guard is gone and the mutex is unlocked, so
/// that `guard = condvar.wait(guard)?` leaves nothing locked behind, and a raise does not wait for the mutex.
/// [`wait_held`](Self::wait_held) borrows the guard and has the mutex locked again when the exception arrives, as in Ruby.
///
/// A notification is never lost: if the thread it went to is raised into or out of time at that moment, it goes on to the
/// next. Waits do not end for no reason, but between notification and locking others may change the condition, so
/// test it in a loop, or use [`wait_while`](Self::wait_while). Waiters with different mutexes may share a condvar.
///
/// ```
/// use std::sync::Arc;
/// use throwto::{sync::{Condvar, Mutex}, thread};
/// let pair = Arc::new((Mutex::new(false), Condvar::new()));
/// let waiter = thread::spawn({
///     let pair = Arc::clone(&pair);
///     move || -> Result<(), throwto::Raised> {
///         let (open, changed) = &*pair;
///         let mut guard = open.lock()?;
///         while !*guard {
///             guard = changed.wait(guard)?;
///         }
///         Ok(())
///     }
/// });
/// *pair.0.lock()? = true;
/// pair.1.notify_one();
/// waiter.join()??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Condvar {
    waiters: WaitQueue,
}

/// Whether a wait with a time limit ended because the time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult {
    timed_out: bool,
}

impl WaitTimeoutResult {
    /// Whether the time was over. A wait that was notified at the last moment was notified.
    pub fn timed_out(self) -> bool {
        self.timed_out
    }
}

impl Condvar {
    /// A condvar on which nobody waits.
    ///
    /// ```
    /// static CHANGED: throwto::sync::Condvar = throwto::sync::Condvar::new();
    /// CHANGED.notify_all();
    /// ```
    pub const fn new() -> Self {
        Self {
            waiters: WaitQueue::new(),
        }
    }

    /// Unlocks the mutex, waits to be notified, and locks it again.
    ///
    /// A cancellation point.
    ///
    /// # Errors
    /// The exception; no notification was used up, and the mutex is unlocked.
    ///
    /// ```
    /// use throwto::{Stop, sync::{Condvar, Mutex}};
    /// let attachment = throwto::attach()?;
    /// let (mutex, condvar) = (Mutex::new(()), Condvar::new());
    /// let guard = mutex.lock()?;
    /// throwto::raise_exc(attachment.id(), Stop)?;
    /// assert!(condvar.wait(guard).unwrap_err().is::<Stop>());
    /// assert!(mutex.try_lock().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> Result<MutexGuard<'a, T>, Raised> {
        self.wait_deadline(guard, None).map(|(guard, _)| guard)
    }

    /// As [`wait`](Self::wait), with the mutex locked again whether this returns because of a notification or a raise: for
    /// clean-up that needs what the mutex protects.
    ///
    /// A cancellation point; but the exception arrives only once the mutex is free.
    ///
    /// # Errors
    /// The exception; no notification was used up, and the mutex is locked.
    ///
    /// ```
    /// use throwto::{Stop, sync::{Condvar, Mutex}};
    /// let attachment = throwto::attach()?;
    /// let (mutex, condvar) = (Mutex::new(0), Condvar::new());
    /// let mut guard = mutex.lock()?;
    /// throwto::raise_exc(attachment.id(), Stop)?;
    /// assert!(condvar.wait_held(&mut guard).is_err());
    /// *guard = -1;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn wait_held<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) -> Result<(), Raised> {
        crate::safepoint()?;
        let place = self.waiters.enroll();
        match guard.unlocked(|| place.wait_notified(None, Raises::End)) {
            Waited::Raised(raised) => Err(raised),
            Waited::Ready | Waited::TimedOut => Ok(()),
        }
    }

    /// Waits while `condition` holds.
    ///
    /// A cancellation point, also if it does not hold.
    ///
    /// # Errors
    /// The exception; the mutex is unlocked.
    ///
    /// ```
    /// use throwto::sync::{Condvar, Mutex};
    /// let queue = Mutex::new(vec![1]);
    /// let mut guard = Condvar::new().wait_while(queue.lock()?, |queue| queue.is_empty())?;
    /// assert_eq!(guard.pop(), Some(1));
    /// # Ok::<(), throwto::Raised>(())
    /// ```
    #[track_caller]
    pub fn wait_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Result<MutexGuard<'a, T>, Raised> {
        crate::safepoint()?;
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait`](Self::wait), for at most `limit`, not counting the time to lock the mutex again. A limit of zero only
    /// unlocks and locks; one too long for the clock waits as long as it takes.
    ///
    /// A cancellation point.
    ///
    /// # Errors
    /// The exception; no notification was used up, and the mutex is unlocked.
    ///
    /// ```
    /// use throwto::sync::{Condvar, Mutex};
    /// let mutex = Mutex::new(());
    /// let limit = std::time::Duration::from_millis(1);
    /// let (_guard, result) = Condvar::new().wait_timeout(mutex.lock()?, limit)?;
    /// assert!(result.timed_out());
    /// # Ok::<(), throwto::Raised>(())
    /// ```
    #[track_caller]
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> Result<(MutexGuard<'a, T>, WaitTimeoutResult), Raised> {
        self.wait_deadline(guard, deadline_after(limit))
    }

    /// Waits while `condition` holds, for at most `limit`; it timed out if the condition still held then.
    ///
    /// A cancellation point, also if the condition does not hold.
    ///
    /// # Errors
    /// The exception; the mutex is unlocked.
    ///
    /// ```
    /// use throwto::sync::{Condvar, Mutex};
    /// let ready = Mutex::new(true);
    /// let limit = std::time::Duration::from_secs(3600);
    /// let (_guard, result) = Condvar::new().wait_timeout_while(ready.lock()?, limit, |ready| !*ready)?;
    /// assert!(!result.timed_out());
    /// # Ok::<(), throwto::Raised>(())
    /// ```
    #[track_caller]
    pub fn wait_timeout_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        limit: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Result<(MutexGuard<'a, T>, WaitTimeoutResult), Raised> {
        crate::safepoint()?;
        let deadline = deadline_after(limit);
        let mut result = WaitTimeoutResult { timed_out: false };
        while condition(&mut guard) {
            if result.timed_out {
                return Ok((guard, result));
            }
            (guard, result) = self.wait_deadline(guard, deadline)?;
        }
        Ok((guard, WaitTimeoutResult { timed_out: false }))
    }

    /// Notifies the thread that has waited longest, if any waits. Not a cancellation point.
    ///
    /// ```
    /// throwto::sync::Condvar::new().notify_one();
    /// ```
    pub fn notify_one(&self) {
        self.waiters.notify_one();
    }

    /// Notifies all that wait now. Not a cancellation point.
    ///
    /// ```
    /// throwto::sync::Condvar::new().notify_all();
    /// ```
    pub fn notify_all(&self) {
        self.waiters.notify_all();
    }

    #[track_caller]
    fn wait_deadline<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Option<u64>,
    ) -> Result<(MutexGuard<'a, T>, WaitTimeoutResult), Raised> {
        crate::safepoint()?;
        let mutex = guard.mutex();
        let place = self.waiters.enroll();
        drop(guard);
        let timed_out = match place.wait_notified(deadline, Raises::End) {
            Waited::Raised(raised) => return Err(raised),
            Waited::Ready => false,
            Waited::TimedOut => true,
        };
        Ok((mutex.lock_again(), WaitTimeoutResult { timed_out }))
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}
