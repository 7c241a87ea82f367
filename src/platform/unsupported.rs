//! Everything else: cooperative delivery on plain std.
//!
//! Owns: the contract of `platform` for systems without a backend of their own. Safepoints, masks, receipts and the
//! waits of this crate work; there are no signals, so what blocks elsewhere stays blocked.
//!
//! **Signal context:** no, there is no handler.

#![allow(
    clippy::unnecessary_wraps,
    reason = "the contract has the backends' signatures"
)]

pub(crate) mod futex {
    //! Waits by address in a table of condition variables, as WebKit's parking lot has it.
    //!
    //! A waker takes the bucket's lock after changing the word; a sleeper holds it from its test of the word to its
    //! sleep: no wake-up falls between.

    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
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

    pub(crate) fn wait(word: &AtomicU64, expected: u32, deadline: Option<u64>) {
        let address = std::ptr::from_ref(word) as usize;
        sleep(
            address,
            || word.load(Ordering::SeqCst) as u32 == expected,
            deadline,
        );
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

pub(crate) mod handler {
    //! No handler.

    use crate::protocol::record::Record;

    pub(crate) const DEFAULT_SIGNAL: i32 = 0;

    /// Never made: nothing is installed, so nothing fails.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct InstallFailed {
        pub(crate) errno: i32,
    }

    pub(crate) fn install(
        _signal: i32,
        _of_token: fn(usize) -> Option<&'static Record>,
        _of_thread: fn(usize) -> Option<&'static Record>,
    ) -> Result<(), InstallFailed> {
        Ok(())
    }

    pub(crate) fn note_process() {}

    pub(crate) fn process() -> i32 {
        0
    }

    pub(crate) fn counts() -> (u64, u64, u64) {
        (0, 0, 0)
    }

    pub(crate) fn this_thread() -> usize {
        super::nudge::os_tid() as usize
    }
}

pub(crate) mod nudge {
    //! No directed signal. Threads are numbered as they come.

    use std::sync::atomic::{AtomicI32, Ordering};

    use crate::protocol::record::Record;
    use crate::protocol::word::Sender;

    thread_local! {
        static NUMBER: i32 = {
            static NEXT: AtomicI32 = AtomicI32::new(1);
            NEXT.fetch_add(1, Ordering::Relaxed)
        };
    }

    pub(crate) fn os_tid() -> i32 {
        NUMBER.with(|number| *number)
    }

    pub(crate) fn send(_record: &Record, _from: Sender, _os_tid: i32, _signal: i32) -> bool {
        false
    }

    pub(crate) fn reaches_me(_record: &Record, _signal: i32) -> bool {
        true
    }

    pub(crate) fn is_blocked(_signal: i32) -> bool {
        false
    }

    pub(crate) fn unblock(_signal: i32) {}

    pub(crate) fn take_pending() {}

    pub(crate) fn block_all() {}
}

pub(crate) mod probe {
    //! Nothing can be seen of another thread.

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Probe {
        Running,
    }

    pub(crate) fn probe(_os_tid: i32) -> Probe {
        Probe::Running
    }
}

pub(crate) mod direct {
    //! Nothing can be interrupted.

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

pub(crate) mod fork {
    //! No notice of forks.

    pub(crate) fn at_fork(
        _before: extern "C" fn(),
        _parent: extern "C" fn(),
        _child: extern "C" fn(),
    ) -> bool {
        true
    }
}

pub(crate) mod signal_stack {
    //! No handler, so no room for one.

    pub(crate) struct Widened;

    pub(crate) fn widen(_index: u32) -> Option<Widened> {
        None
    }
}
