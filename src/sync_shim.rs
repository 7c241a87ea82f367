//! The one switch between std's atomics and locks, loom's and shuttle's.
//!
//! Owns: `cfg(loom)` and `cfg(shuttle)`, which stand in no other file. Leaves to others: every protocol decision.
//! Anyone may call, on any thread; [`lock`] blocks as its mutex does.
//!
//! **Signal context:** the atomics yes, the mutex no.
//!
//! ## The asymmetric fence pair
//!
//! [`light_fence`] is the owner's half of the store-buffer race: only the compiler is held back, the machine is
//! ordered by the raiser's half, `membarrier(PRIVATE_EXPEDITED)`, which acts as a full fence on every running
//! thread of the process. Under loom it is what the model in charge says ([`in_models`]): a full fence, none at all, or
//! a point at which the owner takes a remote fence that was asked for. Only the last is true to a membarrier: a full
//! fence in every [`light_fence`] would order more than the machine does and hide races. Under shuttle all accesses have
//! one order, and fences do nothing.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell;

/// `std::cell::UnsafeCell` with the names of loom's, which finds two accesses that nothing orders.
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    #[inline(always)]
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with<R>(&self, use_: impl FnOnce(*const T) -> R) -> R {
        use_(self.0.get())
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, use_: impl FnOnce(*mut T) -> R) -> R {
        use_(self.0.get())
    }
}

/// Locks and disregards poison: every critical section of this crate leaves its data whole at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// The owner's half of the asymmetric pair; see the header.
#[inline(always)]
pub(crate) fn light_fence() {
    #[cfg(not(loom))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(loom)]
    in_models::LIGHT_FENCE.get()();
}

/// Keeps the order of stores for a signal handler on the same thread, which no model plays.
#[inline(always)]
pub(crate) fn handler_fence() {
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

/// `usual`, except in models, where what is many only costs time.
pub(crate) const fn sized(usual: usize, in_models: usize) -> usize {
    if cfg!(any(loom, shuttle)) {
        in_models
    } else {
        usual
    }
}

/// What a model may set for itself. All threads of one model run on one thread of the system.
#[cfg(loom)]
pub(crate) mod in_models {
    std::thread_local! {
        /// What [`light_fence`](super::light_fence) does.
        pub(crate) static LIGHT_FENCE: std::cell::Cell<fn()> =
            const { std::cell::Cell::new(|| super::fence(super::Ordering::SeqCst)) };
    }
}

/// The load of a SeqCst read-modify-write followed by a load, as the raiser's half of the store-buffer race: a SeqCst
/// load, which pairs with a `fence(SeqCst)` on the other side as a fence and a relaxed load would (C++20, S is one total
/// order), and is a plain load on x86-64. Loom takes SeqCst accesses for weaker than they are, so there it is the fence.
#[inline(always)]
pub(crate) fn load_after_rmw(word: &AtomicU64) -> u64 {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
    word.load(Ordering::SeqCst)
}

/// Defines constructors that are `const` except under loom, whose atomics have none.
macro_rules! const_constructor {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$meta])* $vis const fn $name($($arg: $ty),*) -> $ret $body
        #[cfg(loom)]
        $(#[$meta])* $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}
pub(crate) use const_constructor;
