//! [`Mutex`]: a lock whose waiters can be raised into.
//!
//! Owns: the data, the guard, and when to wait. Leaves to `protocol::lock_word` the lock's state, to `queue` the
//! waiters. [`Mutex::lock`] blocks; nothing allocates without contention.
//!
//! **Signal context:** no.
//!
//! - I1. The data is reached through `&mut Mutex`, or through a guard; a guard exists only between a `take` of the word
//!   that succeeded and its `release`, except that [`MutexGuard::unlocked`] has the guard borrowed while it is released.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::queue::WaitQueue;
use crate::protocol::lock_word::{AfterRelease, LockWord, Take};
use crate::raised::Raised;
use crate::receipt::deadline_after;
use crate::region::{Raises, Waited};

/// How often a lock that is held, with nobody waiting, is looked at again before its thread joins the queue. As in std.
const SPINS: u32 = 100;

/// `std::sync::Mutex`, but who waits for it can be raised into.
///
/// Without contention, locking is a safepoint and one compare-and-swap. A waiter is woken by a raise at once and without
/// a signal; the lock and its other waiters do not notice. Not fair: who comes by may overtake who waits, as in std.
///
/// *No poison.* A panic or an exception that unwinds through a guard unlocks the mutex and leaves the data as it is, as in
/// `parking_lot`. Exceptions are ordinary here: poison would let each raise that meets a holder break the lock for
/// everybody, for good. A critical section that must not be left halfway contains no cancellation point, or runs under
/// [`mask`](crate::mask) or [`uninterruptible`](crate::uninterruptible).
///
/// ```
/// use std::sync::Arc;
/// use throwto::{Stop, sync::Mutex, thread};
/// let mutex = Arc::new(Mutex::new(0));
/// let guard = mutex.lock()?;
/// let waiter = thread::spawn({
///     let mutex = Arc::clone(&mutex);
///     move || mutex.lock().map(|_guard| ())
/// });
/// waiter.raise(Stop)?;
/// assert!(waiter.join()?.unwrap_err().is::<Stop>());
/// drop(guard);
/// assert_eq!(*mutex.lock()?, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Mutex<T: ?Sized> {
    word: LockWord,
    waiters: WaitQueue,
    data: UnsafeCell<T>,
}

// SAFETY: the mutex owns its data and can go where the data can go; the rest of it is `Send`.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: through a shared mutex the data is reached by one guard at a time (I1), that is by one thread after the other,
// which is what `Send` allows; the word orders them.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

/// Keeps a [`Mutex`] locked, and unlocks it when dropped.
#[must_use = "the mutex is unlocked when the guard is dropped"]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// As std's guard, it stays on its thread.
    _thread: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives out `&T` and nothing else.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    /// An unlocked mutex around `data`.
    ///
    /// ```
    /// static COUNT: throwto::sync::Mutex<u32> = throwto::sync::Mutex::new(0);
    /// *COUNT.lock()? += 1;
    /// # Ok::<(), throwto::Raised>(())
    /// ```
    pub const fn new(data: T) -> Self {
        Self {
            word: LockWord::new(),
            waiters: WaitQueue::new(),
            data: UnsafeCell::new(data),
        }
    }

    /// The data, for good. Nobody can hold the lock. Not a cancellation point.
    ///
    /// ```
    /// assert_eq!(throwto::sync::Mutex::new(7).into_inner(), 7);
    /// ```
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks the mutex; waits while it is held. A thread that already holds it waits for itself, until raised into.
    ///
    /// A cancellation point.
    ///
    /// # Errors
    /// The exception; the lock was not taken.
    ///
    /// ```
    /// let mutex = throwto::sync::Mutex::new(vec![1]);
    /// mutex.lock()?.push(2);
    /// assert_eq!(*mutex.lock()?, [1, 2]);
    /// # Ok::<(), throwto::Raised>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, Raised> {
        crate::safepoint()?;
        match self.word.take() {
            Take::Taken => Ok(self.guard()),
            Take::Held => match self.wait_for_it(None, Raises::End) {
                Waited::Raised(raised) => Err(raised),
                Waited::Ready | Waited::TimedOut => Ok(self.guard()),
            },
        }
    }

    /// As [`lock`](Self::lock), for at most `limit`; `None` if the time was over. A limit of zero does not wait, one too
    /// long for the clock waits as long as it takes.
    ///
    /// A cancellation point.
    ///
    /// # Errors
    /// The exception; the lock was not taken.
    ///
    /// ```
    /// let mutex = throwto::sync::Mutex::new(());
    /// let guard = mutex.lock()?;
    /// assert!(mutex.lock_timeout(std::time::Duration::from_millis(1))?.is_none());
    /// # drop(guard);
    /// # Ok::<(), throwto::Raised>(())
    /// ```
    #[track_caller]
    pub fn lock_timeout(&self, limit: Duration) -> Result<Option<MutexGuard<'_, T>>, Raised> {
        crate::safepoint()?;
        if self.word.take() == Take::Taken {
            return Ok(Some(self.guard()));
        }
        match self.wait_for_it(deadline_after(limit), Raises::End) {
            Waited::Ready => Ok(Some(self.guard())),
            Waited::TimedOut => Ok(None),
            Waited::Raised(raised) => Err(raised),
        }
    }

    /// Locks the mutex if nobody holds it, else `None`. Not a cancellation point.
    ///
    /// ```
    /// let mutex = throwto::sync::Mutex::new(());
    /// let guard = mutex.try_lock().unwrap();
    /// assert!(mutex.try_lock().is_none());
    /// # drop(guard);
    /// ```
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.word.take() {
            Take::Taken => Some(self.guard()),
            Take::Held => None,
        }
    }

    /// The data; nobody can hold the lock. Not a cancellation point.
    ///
    /// ```
    /// let mut mutex = throwto::sync::Mutex::new(1);
    /// *mutex.get_mut() = 2;
    /// assert_eq!(mutex.into_inner(), 2);
    /// ```
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// The caller has taken the word.
    fn guard(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            _thread: PhantomData,
        }
    }

    /// Locks; raises nothing. For taking the lock back after a condition wait.
    pub(super) fn lock_again(&self) -> MutexGuard<'_, T> {
        self.take_again();
        self.guard()
    }

    fn take_again(&self) {
        if self.word.take() == Take::Held {
            // Neither timed nor raised: it ends when the word is taken.
            let _taken = self.wait_for_it(None, Raises::Stay);
        }
    }

    /// `Ready`: the word is taken.
    #[cold]
    #[track_caller]
    fn wait_for_it(&self, deadline: Option<u64>, raises: Raises) -> Waited {
        let mut spins = SPINS;
        while spins > 0 && self.word.is_merely_held() {
            std::hint::spin_loop();
            spins -= 1;
        }
        self.waiters
            .wait_until(deadline, raises, || self.word.take_or_mark() == Take::Taken)
    }

    #[inline]
    fn release(&self) {
        if self.word.release() == AfterRelease::Notify {
            self.waiters.notify_one();
        }
    }
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// The mutex it keeps locked.
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }

    /// Runs `f` with the mutex unlocked, and locks it again on every way out, raising nothing.
    pub(super) fn unlocked<R>(&mut self, f: impl FnOnce() -> R) -> R {
        struct TakeAgain<'m, T: ?Sized>(&'m Mutex<T>);
        impl<T: ?Sized> Drop for TakeAgain<'_, T> {
            fn drop(&mut self) {
                self.0.take_again();
            }
        }
        let _again = TakeAgain(self.mutex);
        self.mutex.release();
        f()
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the word is taken while the guard can be used (I1), so nobody has a `&mut` to the data.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the word is taken while the guard can be used (I1), and the guard is borrowed mutably.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.release();
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(data: T) -> Self {
        Self::new(data)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Mutex");
        match self.try_lock() {
            Some(guard) => out.field("data", &&*guard),
            None => out.field("data", &format_args!("<locked>")),
        };
        out.finish()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
