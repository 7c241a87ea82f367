//! A lock that is held for some instructions and never across anything that waits.
//!
//! Owns: the lock's word and the data behind it. Leaves to the module above what the models have in its place, and knowing who is on top
//! of it. Whoever waits polls, with the pauses of [`super::pause`]: no list of waiters has to be kept, and letting go
//! is one plain store.
//!
//! **Signal context:** [`Brief::acquire_if_free`] yes; the rest no.
//!
//! std's lock knows poison, and asks twice whether the thread panics, of a count in another module: a raise and a delivery take this
//! lock once each, when nothing of the program is in the processor's caches, and there each line of code and of data counts.
//!
//! - I1. The data is reached by who holds the lock alone.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | guard's drop Release | `acquire_if_free` Acquire | who gets the lock sees what the last holder did |

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::{AtomicBool, Ordering, UnsafeCell, clear, const_constructor};

/// Data behind a lock.
pub(crate) struct Brief<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by one thread at a time (I1), each of which sees what the last one did; so it needs to be fit
// for being handed from thread to thread, and no more.
unsafe impl<T: Send> Sync for Brief<T> {}

// As std's mutex with its poison disregarded: every critical section of this crate leaves its data whole at each step.
impl<T> std::panic::UnwindSafe for Brief<T> {}
impl<T> std::panic::RefUnwindSafe for Brief<T> {}

/// A lock that is held.
pub(crate) struct BriefGuard<'a, T> {
    lock: &'a Brief<T>,
    /// It stays on its thread, as std's does, which counts the locks that it is at.
    _thread: PhantomData<*const ()>,
}

impl<T> Brief<T> {
    const_constructor! {
        pub(crate) fn new(value: T) -> Self {
            Self {
                held: AtomicBool::new(false),
                value: UnsafeCell::new(value),
            }
        }
    }

    #[inline(always)]
    pub(crate) fn acquire_if_free(&self) -> Option<BriefGuard<'_, T>> {
        // Acquire: partner of the guard's drop.
        let was_held = self.held.swap(true, Ordering::Acquire);
        // Made only then: a guard that is made is dropped, and lets go.
        (!was_held).then(|| BriefGuard {
            lock: self,
            _thread: PhantomData,
        })
    }

    #[inline]
    pub(crate) fn acquire(&self) -> BriefGuard<'_, T> {
        self.acquire_if_free().unwrap_or_else(|| self.acquire_late())
    }

    #[cold]
    fn acquire_late(&self) -> BriefGuard<'_, T> {
        let mut looks = 0;
        loop {
            super::pause(looks);
            looks += 1;
            // Looked at first: a swap takes the line from the holder.
            if !self.held.load(Ordering::Relaxed)
                && let Some(guard) = self.acquire_if_free()
            {
                return guard;
            }
        }
    }
}

impl<T> Deref for BriefGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held by this guard, which is borrowed (I1).
        unsafe { &*self.lock.value.with(|value| value) }
    }
}

impl<T> DerefMut for BriefGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held by this guard, which is borrowed whole (I1).
        unsafe { &mut *self.lock.value.with_mut(|value| value) }
    }
}

impl<T> Drop for BriefGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: partner of `acquire_if_free`.
        clear(&self.lock.held, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Shows sync_shim::brief I1.
    #[test]
    fn holders_come_one_after_the_other_and_see_each_other() {
        const THREADS: u64 = 4;
        const EACH: u64 = 50_000;
        let lock = Brief::new((0, 0));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let lock = &lock;
                scope.spawn(move || {
                    for round in 0..EACH {
                        let guard = if round % 2 == thread % 2 {
                            Some(lock.acquire())
                        } else {
                            lock.acquire_if_free()
                        };
                        let mut both = guard.unwrap_or_else(|| lock.acquire());
                        assert_eq!(both.0, both.1);
                        both.0 += 1;
                        both.1 += 1;
                    }
                });
            }
        });
        assert_eq!(*lock.acquire(), (THREADS * EACH, THREADS * EACH));
    }

    #[test]
    fn what_is_held_is_not_free_until_it_is_let_go() {
        let lock = Brief::new(0);
        let held = lock.acquire_if_free();
        assert!(held.is_some());
        for _ in 0..2 {
            assert!(lock.acquire_if_free().is_none(), "to ask for it changes nothing");
        }
        drop(held);
        assert!(lock.acquire_if_free().is_some());
    }
}
