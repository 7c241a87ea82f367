//! What needs no system of its own, and what cannot be had without one.
//!
//! Owns: the parts of the contract that are the same on every system but the full ones: waits by address on plain std,
//! full fences on both sides, and honest answers where nothing can be seen or interrupted.
//!
//! **Signal context:** no; no handler comes here.

pub(crate) mod futex {
    //! Waits by address in a table of condition variables, as WebKit's parking lot has it.
    //!
    //! A waker takes the bucket's lock after changing the word; a sleeper holds it from its test of the word to its
    //! sleep: no wake-up falls between.

    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
    use std::time::{Duration, Instant};

    static BUCKETS: [(Mutex<()>, Condvar); 64] = [const { (Mutex::new(()), Condvar::new()) }; 64];

    fn bucket(address: usize) -> &'static (Mutex<()>, Condvar) {
        &BUCKETS[(address >> 4) % BUCKETS.len()]
    }

    /// Nanoseconds since the first call.
    pub(crate) fn now() -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    /// The calling thread's waits are as punctual as the system has them.
    pub(crate) fn be_punctual() {}

    /// `true` if it was woken, and so before the deadline: that is not known here.
    pub(crate) fn wait(word: &AtomicU64, expected: u32, deadline: Option<u64>) -> bool {
        let address = std::ptr::from_ref(word) as usize;
        sleep(
            address,
            || word.load(Ordering::SeqCst) as u32 == expected,
            deadline,
        );
        false
    }

    pub(crate) fn wake(word: &AtomicU64) {
        rouse(std::ptr::from_ref(word) as usize);
    }

    pub(crate) fn is_word(word: &AtomicU64, address: u64) -> bool {
        std::ptr::from_ref(word) as u64 == address
    }

    pub(crate) fn wait_on(word: &AtomicU32, expected: u32, deadline: Option<u64>) {
        let address = std::ptr::from_ref(word) as usize;
        sleep(address, || word.load(Ordering::SeqCst) == expected, deadline);
    }

    pub(crate) fn wake_all(word: &AtomicU32) {
        rouse(std::ptr::from_ref(word) as usize);
    }

    fn sleep(address: usize, unchanged: impl Fn() -> bool, deadline: Option<u64>) {
        let (lock, condvar) = bucket(address);
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if unchanged() {
            match deadline {
                None => drop(condvar.wait(guard)),
                Some(at) => drop(condvar.wait_timeout(guard, Duration::from_nanos(at.saturating_sub(now())))),
            }
        }
    }

    /// The lock of one bucket. Nobody takes another lock under it.
    pub(crate) type Held = MutexGuard<'static, ()>;

    /// Keeps every sleeper and waker out while the process forks.
    pub(crate) fn hold() -> Vec<Held> {
        let lock = |bucket: &'static (Mutex<()>, Condvar)| bucket.0.lock();
        BUCKETS
            .iter()
            .map(|bucket| lock(bucket).unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    fn rouse(address: usize) {
        let (lock, condvar) = bucket(address);
        drop(lock.lock().unwrap_or_else(PoisonError::into_inner));
        condvar.notify_all();
    }
}

pub(crate) mod membarrier {
    //! No remote fence: both sides of the race fence fully.

    use std::sync::atomic::{Ordering, fence};

    pub(crate) fn register() {}

    pub(crate) fn is_registered() -> bool {
        false
    }

    pub(crate) fn heavy_fence() {
        fence(Ordering::SeqCst);
    }
}

pub(crate) mod probe {
    //! Nothing can be seen of another thread.

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Probe {
        /// No signal could do anything for it.
        Running,
        /// It may be blocked: a signal may help, and costs little.
        Unknown,
    }

    pub(crate) fn probe(_os_tid: i32) -> Probe {
        if crate::platform::HAS_NUDGE {
            Probe::Unknown
        } else {
            Probe::Running
        }
    }
}

pub(crate) mod direct {
    //! Nothing can be interrupted by its number alone, and no result can be replaced.

    use super::probe::Probe;
    use crate::platform::InterruptFailed;
    use crate::platform::spot::Why;
    use crate::protocol::order::Order;

    pub(crate) fn arm_unwind(_order: &Order, _looked: Probe) -> Result<(), (usize, Why)> {
        Err((0, Why::Unseen))
    }

    pub(crate) fn arm_abandon(_order: &Order) {}

    pub(crate) fn interrupt(_os_tid: i32, _signal: i32, _fail: bool) -> Result<(), InterruptFailed> {
        Err(InterruptFailed::Unsupported)
    }

    pub(crate) fn arm(_order: &Order, _looked: Probe, _again: bool) -> Result<bool, InterruptFailed> {
        Err(InterruptFailed::Unsupported)
    }
}

pub(crate) mod blocked {
    //! Nothing is known.

    pub(crate) fn describe(_os_tid: i32) -> String {
        "not known on this system".to_owned()
    }

    pub(crate) fn describe_attached(os_tid: i32, _held: &dyn Fn(u64) -> bool) -> String {
        describe(os_tid)
    }

    pub(crate) fn signal_blocked(_os_tid: i32, _signal: i32) -> Option<bool> {
        None
    }

    pub(crate) fn voluntary_switches(_os_tid: i32) -> Option<u64> {
        None
    }
}

pub(crate) mod signal_stack {
    //! The handler, where there is one, needs no more room than any other.

    pub(crate) struct Widened;

    pub(crate) fn widen(_index: u32) -> Option<Widened> {
        None
    }
}
