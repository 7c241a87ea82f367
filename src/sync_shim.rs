//! The one switch between std's atomics and locks, loom's and shuttle's.
//!
//! Owns: `cfg(loom)` and `cfg(shuttle)`, which stand in no other file; [`lock`], and knowing whether the caller is on top of
//! one. Leaves to others: every protocol decision. Anyone may call, on any thread; [`lock`] blocks as its mutex does.
//!
//! **Signal context:** the atomics yes; of the locks [`Brief::lock_if_free`] alone.
//!
//! ## On top of a lock
//!
//! A signal handler of the program may run between any two instructions of its thread, also while that holds one of these
//! locks, and may call this crate. Whoever waits for the lock there waits for the thread that it stands on. So each thread counts
//! the locks that it is at, from before it asks for one until after it has let go: where the count is not zero,
//! the caller is on top of one and takes what it gets at once ([`Brief::lock_if_free`]), or goes another way.
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
    atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
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

std::thread_local! {
    /// Locks that this thread is at. Constant and without a destructor, so that a handler may read it.
    static AT_LOCKS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    /// How often this thread is between deciding on a duty and having done it.
    static OWING: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// From before a duty is decided on until it is done: a note that is only announced may never be left, if a signal handler runs in between
/// and waits for what would come of it.
#[must_use]
pub(crate) struct Owing(std::marker::PhantomData<*const ()>);

impl Owing {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        OWING.with(|count| count.set(count.get() + 1));
        handler_fence();
        Self(std::marker::PhantomData)
    }
}

impl Drop for Owing {
    #[inline(always)]
    fn drop(&mut self) {
        handler_fence();
        OWING.with(|count| count.set(count.get() - 1));
    }
}

/// Whether the caller, who owes nothing itself, is on top of somebody who does. No model plays that.
#[inline(always)]
pub(crate) fn on_top_of_duties() -> bool {
    !cfg!(any(loom, shuttle)) && OWING.get() > 0
}

/// Whether the caller, who owes something itself, may be on top of somebody who does. No model plays that.
#[inline(always)]
pub(crate) fn on_top_of_a_duty() -> bool {
    !cfg!(any(loom, shuttle)) && OWING.get() > 1
}

/// One more lock that the thread is at, until the drop; or something else that it must not be waited for on top of.
#[must_use]
pub(crate) struct AtLock(std::marker::PhantomData<*const ()>);

impl AtLock {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        AT_LOCKS.with(|count| count.set(count.get() + 1));
        handler_fence();
        Self(std::marker::PhantomData)
    }
}

impl Drop for AtLock {
    #[inline(always)]
    fn drop(&mut self) {
        handler_fence();
        AT_LOCKS.with(|count| count.set(count.get() - 1));
    }
}

/// A lock that is held, and counted.
pub(crate) struct Counted<G> {
    // Dropped in this order: the thread is at the lock until it has let go of it.
    inner: G,
    _at: AtLock,
}

/// A [`Mutex`] that is held.
pub(crate) type Guard<'a, T> = Counted<MutexGuard<'a, T>>;

/// A [`Brief`] that is held.
pub(crate) type Hold<'a, T> = Counted<BriefGuard<'a, T>>;

impl<G: std::ops::Deref> std::ops::Deref for Counted<G> {
    type Target = G::Target;

    #[inline(always)]
    fn deref(&self) -> &G::Target {
        &self.inner
    }
}

impl<G: std::ops::DerefMut> std::ops::DerefMut for Counted<G> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.inner
    }
}

/// Whether the caller runs in a signal handler on top of one of these locks. No model plays that, and all threads of a
/// model share one count.
#[inline(always)]
pub(crate) fn on_top_of_a_lock() -> bool {
    !cfg!(any(loom, shuttle)) && AT_LOCKS.get() != 0
}

/// Locks and disregards poison: every critical section of this crate leaves its data whole at each step.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
    let at = AtLock::new();
    let inner = match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    };
    Counted { inner, _at: at }
}

#[cfg(not(shuttle))]
#[path = "sync_shim/brief.rs"]
pub(crate) mod brief;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use brief::{Brief, BriefGuard};

/// In models it is the mutex that they know, but in those of [`brief`] itself: who polls has many interleavings.
#[cfg(any(loom, shuttle))]
pub(crate) struct Brief<T>(Mutex<T>);
#[cfg(any(loom, shuttle))]
pub(crate) use self::MutexGuard as BriefGuard;

#[cfg(any(loom, shuttle))]
impl<T> Brief<T> {
    const_constructor! {
        pub(crate) fn new(value: T) -> Self { Self(Mutex::new(value)) }
    }

    fn acquire(&self) -> BriefGuard<'_, T> {
        self.0.lock().expect("a model that fails ends")
    }

    fn acquire_if_free(&self) -> Option<BriefGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}

impl<T> Brief<T> {
    /// Waits for it.
    #[inline]
    pub(crate) fn lock(&self) -> Hold<'_, T> {
        let at = AtLock::new();
        let inner = self.acquire();
        Counted { inner, _at: at }
    }

    /// If nobody holds it.
    #[inline(always)]
    pub(crate) fn lock_if_free(&self) -> Option<Hold<'_, T>> {
        let at = AtLock::new();
        let inner = self.acquire_if_free()?;
        Some(Counted { inner, _at: at })
    }

    /// [`lock`](Self::lock), or [`lock_if_free`](Self::lock_if_free) where waiting could be for ever.
    #[inline(always)]
    pub(crate) fn lock_or_leave(&self) -> Option<Hold<'_, T>> {
        // No model plays that.
        if cfg!(any(loom, shuttle)) {
            return Some(self.lock());
        }
        self.lock_if_free().or_else(|| self.lock_or_leave_late())
    }

    #[cold]
    fn lock_or_leave_late(&self) -> Option<Hold<'_, T>> {
        (!on_top_of_a_lock()).then(|| self.lock())
    }

    /// [`lock`](Self::lock), if that can be had within some milliseconds: who holds it may be under a signal handler, which takes as long
    /// as it takes. In a handler on top of a lock, at once or not.
    #[inline(always)]
    pub(crate) fn lock_in_time(&self) -> Option<Hold<'_, T>> {
        // No model plays that.
        if cfg!(any(loom, shuttle)) {
            return Some(self.lock());
        }
        self.lock_if_free().or_else(|| self.lock_in_time_late())
    }

    #[cold]
    fn lock_in_time_late(&self) -> Option<Hold<'_, T>> {
        if on_top_of_a_lock() {
            None
        } else {
            self.lock_patiently()
        }
    }

    /// [`lock`](Self::lock), for who was `on_top` of one before it took others itself: then for some milliseconds only.
    pub(crate) fn lock_unless(&self, on_top: bool) -> Option<Hold<'_, T>> {
        if on_top {
            self.lock_patiently()
        } else {
            Some(self.lock())
        }
    }

    fn lock_patiently(&self) -> Option<Hold<'_, T>> {
        (0..LOOKS).find_map(|looks| {
            pause(looks);
            self.lock_if_free()
        })
    }
}

/// Some milliseconds of [`pause`].
const LOOKS: u32 = 600;

/// A pause between two looks at what another thread is about to do, within some instructions. `looks` were there before.
#[cold]
pub(crate) fn pause(looks: u32) {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
    #[cfg(not(any(loom, shuttle)))]
    match looks {
        0..64 => std::hint::spin_loop(),
        64..512 => std::thread::yield_now(),
        // It waits for a processor, or a signal handler runs on top of it.
        _ => std::thread::sleep(std::time::Duration::from_micros(50)),
    }
    #[cfg(any(loom, shuttle))]
    let _ = looks;
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

/// [`load_after_rmw`], of half a word.
#[inline(always)]
pub(crate) fn load_half_after_rmw(word: &AtomicU32) -> u32 {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
    word.load(Ordering::SeqCst)
}

/// Stores `false`, where others swap. Loom has no order between the two, and takes a swap that came before the store for one that may
/// come after it, for ever: so there it is a swap as well, of the same ordering.
#[cfg(not(shuttle))]
#[inline(always)]
pub(crate) fn clear(flag: &AtomicBool, order: Ordering) {
    #[cfg(not(loom))]
    flag.store(false, order);
    #[cfg(loom)]
    flag.swap(false, order);
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

/// An array of atomics that are 0.
macro_rules! atomics {
    ($kind:ident; $count:expr) => {{
        #[cfg(not(loom))]
        let atomics = [const { $kind::new(0) }; $count];
        #[cfg(loom)]
        let atomics = std::array::from_fn(|_| $kind::new(0));
        atomics
    }};
}
pub(crate) use atomics;
