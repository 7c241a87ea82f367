//! An allocator that a signal handler may use on top of itself: the C library's has locks, and would have these tests hang for
//! reasons of its own.
//!
//! Free blocks of each power of two are a stack, whose top is swapped with a count beside it. Nothing is given back to the system.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

const UNIT: usize = 16;
const ARENA: usize = 4 << 30;
/// Blocks of 16 bytes up to half a megabyte; larger ones come from the system.
const CLASSES: usize = 16;

struct Stacks {
    arena: AtomicUsize,
    used: AtomicUsize,
    /// Of free blocks: the count of changes, and the first one's place in units, plus one.
    free: [AtomicU64; CLASSES],
}

#[global_allocator]
static MEMORY: Stacks = Stacks {
    arena: AtomicUsize::new(0),
    used: AtomicUsize::new(0),
    free: [const { AtomicU64::new(0) }; CLASSES],
};

fn class(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(UNIT).next_power_of_two();
    let class = (size / UNIT).trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

impl Stacks {
    fn arena(&self) -> usize {
        let there = self.arena.load(Ordering::Acquire);
        if there != 0 {
            return there;
        }
        // SAFETY: new memory, which nobody else uses.
        let made = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                ARENA,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        } as usize;
        // One that came second is left alone.
        match self
            .arena
            .compare_exchange(0, made, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => made,
            Err(theirs) => theirs,
        }
    }

    fn next_of(&self, place: u32) -> &AtomicU32 {
        let address = self.arena() + (place as usize - 1) * UNIT;
        // SAFETY: in the arena, where blocks begin; whoever reads one that is in use throws away what it reads.
        unsafe { &*(address as *const AtomicU32) }
    }
}

// SAFETY: a block is in one hand: it comes from the end of the arena once, and from a stack by a swap of its top that fails if the
// top has changed in between. Blocks are as large and as aligned as their power of two.
unsafe impl GlobalAlloc for Stacks {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else {
            // SAFETY: as the caller's.
            return unsafe { System.alloc(layout) };
        };
        let mut top = self.free[class].load(Ordering::Acquire);
        while top as u32 != 0 {
            let next = self.next_of(top as u32).load(Ordering::Relaxed);
            let changed = ((top >> 32) + 1) << 32 | u64::from(next);
            match self.free[class].compare_exchange_weak(top, changed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return (self.arena() + (top as u32 as usize - 1) * UNIT) as *mut u8,
                Err(now) => top = now,
            }
        }
        let size = UNIT << class;
        let mut at = self.used.load(Ordering::Relaxed);
        loop {
            let from = at.next_multiple_of(size);
            if from + size > ARENA {
                return std::ptr::null_mut();
            }
            match self
                .used
                .compare_exchange_weak(at, from + size, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return (self.arena() + from) as *mut u8,
                Err(now) => at = now,
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class(layout) else {
            // SAFETY: as the caller's.
            return unsafe { System.dealloc(block, layout) };
        };
        let place = (block as usize - self.arena()) / UNIT + 1;
        let mut top = self.free[class].load(Ordering::Acquire);
        loop {
            self.next_of(place as u32).store(top as u32, Ordering::Relaxed);
            let changed = ((top >> 32) + 1) << 32 | place as u64;
            match self.free[class].compare_exchange_weak(top, changed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }
}
