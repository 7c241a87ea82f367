//! Room for the handler: an alternate signal stack for attached threads that have none, or one that is too small.
//!
//! Owns: the memory of these stacks, installing and taking them away. Leaves to `current` when. Called by the thread
//! itself, outside of signal handlers; some system calls, nothing blocks.
//!
//! **Signal context:** no. The handler runs on what is installed here.
//!
//! Why: on a processor with AVX-512 a signal's frame takes 3.4 KiB, with AMX 11. std gives its threads 8 KiB or the size of
//! one frame, whichever is more. Two handlers of others, one on top of the other, fit; a nudge on top of them did not,
//! and the kernel ends the process for that. A thread that C has started has none at all, and a nudge near the end of
//! its stack was the end of it, too.
//!
//! A stack belongs to a record's index, as long as the process lives: nothing is mapped or given back when threads come
//! and go, and 10,000 threads take some hundred mappings instead of 20,000. What was never touched takes no memory.
//! There is no guard page: the kernel itself refuses to build a frame beyond the end.
//!
//! - I1. Who has a stack of its own that is large keeps it; what was there before is put back, unless somebody has put
//!   something else in place meanwhile, which is left alone.
//! - I2. A stack is in use by one thread: the owner of the record.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `CHUNKS` set Release | Acquire | the mapping is there before its address is used |

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicPtr, Ordering};

/// Room for five frames of the largest kind known, and what their handlers do.
const SIZE: usize = 64 << 10;
/// A stack of at least this is left in place.
const ENOUGH: usize = 32 << 10;
/// Stacks to a mapping.
const PER_CHUNK: usize = 64;
/// A million threads; the ones beyond keep what they have.
const MOST_CHUNKS: usize = 1 << 14;

static CHUNKS: [AtomicPtr<u8>; MOST_CHUNKS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST_CHUNKS];

/// Our stack in force in the calling thread. Dropped on the same thread, which gets its former one back.
pub(crate) struct Widened {
    before: libc::stack_t,
    start: *mut u8,
}

/// Gives the calling thread, the owner of the record at `index`, an alternate stack with room for a nudge. `None` if it has
/// one, or without memory.
pub(crate) fn widen(index: u32) -> Option<Widened> {
    let before = change(None)?;
    let has_one = before.ss_flags & libc::SS_DISABLE == 0;
    // On it right now, in a handler: it cannot be changed.
    if before.ss_flags & libc::SS_ONSTACK != 0 || has_one && before.ss_size >= ENOUGH {
        return None;
    }
    let start = place(index as usize)?;
    let ours = libc::stack_t {
        ss_sp: start.cast(),
        ss_flags: 0,
        ss_size: SIZE,
    };
    change(Some(&ours))?;
    Some(Widened { before, start })
}

impl Drop for Widened {
    fn drop(&mut self) {
        // I1. At a thread's end std has disabled and unmapped its own already: then there is nothing to put back.
        if change(None).is_some_and(|now| now.ss_sp == self.start.cast()) {
            let _ = change(Some(&self.before));
        }
    }
}

/// Where the stack of `index` begins.
fn place(index: usize) -> Option<*mut u8> {
    let chunk = CHUNKS.get(index / PER_CHUNK)?;
    let mut start = chunk.load(Ordering::Acquire);
    if start.is_null() {
        let fresh = map()?;
        let null = std::ptr::null_mut();
        start = match chunk.compare_exchange(null, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(theirs) => {
                // SAFETY: mapped above, and nobody has seen it.
                unsafe { libc::munmap(fresh.cast(), PER_CHUNK * SIZE) };
                theirs
            }
        };
    }
    Some(start.wrapping_add(index % PER_CHUNK * SIZE))
}

fn map() -> Option<*mut u8> {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh anonymous mapping touches nothing that exists.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), PER_CHUNK * SIZE, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    // Else the first signal in the first of them takes 2 MiB.
    // SAFETY: advice about the mapping made above; refused where there are no huge pages.
    unsafe { libc::madvise(start, PER_CHUNK * SIZE, libc::MADV_NOHUGEPAGE) };
    Some(start.cast())
}

/// Puts `new` in force, if given, and tells what was before. `None` if the kernel refuses.
fn change(new: Option<&libc::stack_t>) -> Option<libc::stack_t> {
    let mut before = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: reads one structure and writes another. What `new` names is one of ours, which is never unmapped, or what
    // was in force before.
    let changed = unsafe { libc::sigaltstack(new, &raw mut before) };
    #[cfg(throwto_forced)]
    super::forced::forget();
    (changed == 0).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows platform::linux::signal_stack I2.
    #[test]
    fn every_record_has_a_stack_of_its_own() {
        let places: Vec<usize> = (0..200).map(|index| place(index).unwrap() as usize).collect();
        for pair in places.windows(2) {
            assert!(pair[0].abs_diff(pair[1]) >= SIZE);
        }
        assert_eq!(place(150).unwrap() as usize, places[150]);
        assert!(place(PER_CHUNK * MOST_CHUNKS).is_none());
    }

    /// Shows platform::linux::signal_stack I1.
    #[test]
    fn what_was_before_is_put_back() {
        let seen = || change(None).map(|stack| (stack.ss_sp as usize, stack.ss_size));
        let before = seen();
        let widened = widen(999).unwrap();
        assert_eq!(seen(), Some((widened.start as usize, SIZE)));
        assert!(widen(998).is_none(), "it has one");
        drop(widened);
        assert_eq!(seen(), before);
    }
}
