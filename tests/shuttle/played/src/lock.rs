//! A mutex and a condition that shuttle schedules, and the order in which locks are taken.
//!
//! Owns: [`Mutex`], [`Condvar`], [`held`], and the rule that no two locks are ever taken in both orders. A lock is known by the type that it guards.
//!
//! **Signal context:** no.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockResult};

use shuttle::thread::{ThreadId, current};

type Name = &'static str;

// All threads of one play run on one thread of the system.
std::thread_local! {
    static HELD: RefCell<Vec<(ThreadId, Name)>> = const { RefCell::new(Vec::new()) };
    static ORDER: RefCell<HashSet<(Name, Name)>> = RefCell::default();
}

/// The locks that the calling thread of the play has.
pub fn held() -> Vec<Name> {
    let me = current().id();
    HELD.with_borrow(|held| {
        let mine = held.iter().filter(|(whose, _)| *whose == me);
        mine.map(|(_, name)| *name).collect()
    })
}

/// Which locks were taken while which others were held, in all plays so far of this thread of the system.
pub fn order() -> HashSet<(Name, Name)> {
    ORDER.with_borrow(Clone::clone)
}

pub(crate) fn forget_held() {
    HELD.take();
}

/// std's mutex to its users.
#[derive(Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let name = type_name::<T>();
        let before = held();
        ORDER.with_borrow_mut(|order| {
            for other in before {
                assert!(other != name, "{name} is locked twice by one thread");
                assert!(
                    !order.contains(&(name, other)),
                    "{name} and {other} are locked in both orders"
                );
                order.insert((other, name));
            }
        });
        let locked = self.0.lock();
        HELD.with_borrow_mut(|held| held.push((current().id(), name)));
        match locked {
            Ok(inner) => Ok(MutexGuard { inner: Some(inner) }),
            Err(poisoned) => {
                let inner = poisoned.into_inner();
                Err(PoisonError::new(MutexGuard { inner: Some(inner) }))
            }
        }
    }

    /// For a forked child, which no play has.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        unreachable!("in a play nobody tries")
    }

    pub fn into_inner(self) -> LockResult<T> {
        self.0.into_inner()
    }
}

pub struct MutexGuard<'a, T> {
    /// `None` while its thread waits for a condition.
    inner: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        let mine = (current().id(), type_name::<T>());
        HELD.with_borrow_mut(|held| {
            let at = held.iter().rposition(|other| *other == mine);
            at.map(|at| held.swap_remove(at));
        });
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("only a wait takes it")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("only a wait takes it")
    }
}

/// std's condition to its users. No wait of it has a time limit in a play.
#[derive(Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub const fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let inner = guard.inner.take().expect("it is held");
        // Nothing else is locked by a thread that sleeps here: what it has stays in the list of what is held.
        let inner = self.0.wait(inner).unwrap_or_else(PoisonError::into_inner);
        guard.inner = Some(inner);
        Ok(guard)
    }

    pub fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut waits: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while waits(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// # Panics
    /// Always: see above.
    pub fn wait_timeout_while<'a, T>(
        &self,
        _guard: MutexGuard<'a, T>,
        _limit: std::time::Duration,
        _waits: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        panic!("who is not attached has no time limit in a play")
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
