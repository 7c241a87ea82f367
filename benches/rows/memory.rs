//! Row 7: what an attached thread costs beside its stack, as the allocator sees it.
//!
//! Threads are attached in small numbers up to a large one; the growth of the heap with unattached threads that do the
//! same is taken off. Everything counts: the record, its place in the registry, what the registry keeps in reserve.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use crate::table::{Budget, Table};

struct Counting;

/// What was allocated, less what was given back, while counting: modulo 2^64, as differences are all that is asked for.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// The other rows of the same program pay one load for an allocation, and no more.
static COUNTING: AtomicBool = AtomicBool::new(false);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's contract is ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if COUNTING.load(Ordering::Relaxed) {
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's contract is ours.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STACK: usize = 64 << 10;

/// Bytes on the heap while `count` threads stand still, attached or not, after `before_standing` in each.
fn held(count: usize, attached: bool, raised: bool) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    let barrier = Arc::new(Barrier::new(count + 1));
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            let body = move || {
                let attachment = attached.then(|| throwto::attach().expect("attached"));
                if let Some(attachment) = attachment.as_ref().filter(|_| raised) {
                    throwto::raise_exc(attachment.id(), throwto::Stop).expect("raised at itself");
                    drop(throwto::safepoint());
                }
                barrier.wait();
                barrier.wait();
            };
            thread::Builder::new()
                .stack_size(STACK)
                .spawn(body)
                .expect("a thread")
        })
        .collect();
    barrier.wait();
    let during = LIVE.load(Ordering::Relaxed);
    barrier.wait();
    for thread in threads {
        thread.join().expect("it only waits");
    }
    during.wrapping_sub(before)
}

pub fn measure(table: &mut Table) {
    COUNTING.store(true, Ordering::Relaxed);
    measure_counting(table);
    COUNTING.store(false, Ordering::Relaxed);
}

fn measure_counting(table: &mut Table) {
    drop(throwto::attach().expect("attached"));
    let mut seen = 0;
    // Growing: what an earlier round has left in the registry is counted as this round's too.
    for count in [10, 100, 960, 1_000, 4_032, 10_000] {
        let bare = held(count, false, false);
        let kept = LIVE.load(Ordering::Relaxed);
        let attached = held(count, true, false) + seen;
        seen += LIVE.load(Ordering::Relaxed).wrapping_sub(kept);
        let each = (attached.saturating_sub(bare)) as f64 / count as f64;
        table.row(
            &format!("memory per thread, {count} attached"),
            "bytes",
            bare as f64 / count as f64,
            each,
            Budget::Absolute(256.0),
        );
    }
    let count = 1_000;
    let kept = LIVE.load(Ordering::Relaxed);
    held(count, true, true);
    let grown = LIVE.load(Ordering::Relaxed).wrapping_sub(kept);
    table.note(format!(
        "kept in the record after a raise was delivered: {} bytes a thread",
        grown / count
    ));
}
