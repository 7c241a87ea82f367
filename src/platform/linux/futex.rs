//! Futex waits with an absolute deadline on the monotonic clock.
//!
//! Owns: the futex calls. Leaves to the callers: what the words mean; every return is only a hint to look again.
//! Anyone may call; [`wait`] blocks until woken, changed, interrupted or late.
//!
//! **Signal context:** [`wake`] would be safe there; nothing calls it so.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock writes one timespec, and it exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

/// The calling thread's waits end when they are due. By default the kernel may add 50 us to each (its timer slack).
pub(crate) fn be_punctual() {
    // One nanosecond: zero would mean the default. Refused by a sandbox at most, and then they are late.
    let _ = nix::sys::prctl::set_timerslack(1);
}

/// Sleeps while the low half of `word` is `expected`, at most until `deadline` (nanoseconds of [`now`]; `None` waits for
/// ever). `true` if it was woken, and so before the deadline.
pub(crate) fn wait(word: &AtomicU64, expected: u32, deadline: Option<u64>) -> bool {
    sleep(low_half(word), expected, deadline)
}

/// Wakes one thread that sleeps on the low half of `word`.
pub(crate) fn wake(word: &AtomicU64) {
    rouse(low_half(word), 1);
}

/// [`wait`] on a 32-bit word.
pub(crate) fn wait_on(word: &AtomicU32, expected: u32, deadline: Option<u64>) {
    sleep(word.as_ptr(), expected, deadline);
}

/// Wakes everybody who sleeps on a 32-bit word.
pub(crate) fn wake_all(word: &AtomicU32) {
    rouse(word.as_ptr(), i32::MAX);
}

/// Whether a thread that sleeps on the futex at `address` sleeps on `word`.
pub(crate) fn is_word(word: &AtomicU64, address: u64) -> bool {
    low_half(word) as u64 == address
}

/// The half of a word that a futex compares: the low one.
pub(super) fn low_half(word: &AtomicU64) -> *const u32 {
    let half = if cfg!(target_endian = "little") { 0 } else { 1 };
    std::ptr::from_ref(word).cast::<u32>().wrapping_add(half)
}

fn sleep(word: *const u32, expected: u32, deadline: Option<u64>) -> bool {
    let limit = deadline.map(|at| libc::timespec {
        tv_sec: (at / 1_000_000_000) as libc::time_t,
        tv_nsec: (at % 1_000_000_000) as libc::c_long,
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the kernel reads `*word` atomically, or fails with EFAULT; WAIT_BITSET takes an absolute deadline.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
            expected,
            limit,
            std::ptr::null::<u32>(),
            u32::MAX,
        ) == 0
    }
}

fn rouse(word: *const u32, count: i32) {
    // SAFETY: a wake uses the address as a key only; a stale one wakes nobody.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            count,
        )
    };
}
