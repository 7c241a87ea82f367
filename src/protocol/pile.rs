//! A stack that everybody may push to and whoever wants it takes as a whole.
//!
//! Owns: that. Leaves to [`super::mail`] and [`super::scope_table`] what is in it.
//! Anyone may call, on any thread, in a signal handler of the program too, on top of itself: that comes before a step or after it. Nothing
//! blocks, a push allocates.
//!
//! **Signal context:** no lock is taken; what allocates is as safe as the allocator.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `push` SeqCst | `take` AcqRel | what was pushed is whole, and handed over |
//! | `push` SeqCst | `is_empty` SeqCst | who pushes and then changes a word, and who changes that word and then looks, do not miss each other |

#![allow(unsafe_code)]

use crate::sync_shim::{AtomicPtr, Ordering, const_constructor};

/// A stack, to be emptied at once.
pub(super) struct Pile<T> {
    top: AtomicPtr<Sheet<T>>,
}

struct Sheet<T> {
    value: T,
    below: *mut Self,
}

impl<T> Pile<T> {
    const_constructor! {
        pub(super) fn new() -> Self { Self { top: AtomicPtr::new(std::ptr::null_mut()) } }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        // SeqCst: see the table.
        self.top.load(Ordering::SeqCst).is_null()
    }

    pub(super) fn push(&self, value: T) {
        let mut top = self.top.load(Ordering::Relaxed);
        let sheet = Box::into_raw(Box::new(Sheet { value, below: top }));
        while let Err(now) = self
            .top
            .compare_exchange_weak(top, sheet, Ordering::SeqCst, Ordering::Relaxed)
        {
            top = now;
            // SAFETY: made above, and nobody else knows of it yet.
            unsafe { (*sheet).below = top };
        }
    }

    /// All of it, the first one first.
    pub(super) fn take(&self) -> Vec<T> {
        let mut values = Vec::new();
        let mut top = self.top.swap(std::ptr::null_mut(), Ordering::AcqRel);
        while !top.is_null() {
            // SAFETY: it comes from `push`, and whoever swaps the top out has all that is below it alone.
            let Sheet { value, below } = *unsafe { Box::from_raw(top) };
            values.push(value);
            top = below;
        }
        values.reverse();
        values
    }
}

impl<T> Pile<T> {
    /// Takes out those of which this holds, the first one first. Meanwhile a signal handler on top finds what it has pushed itself, and
    /// nothing else; the rest keeps its order.
    pub(super) fn take_if(&self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        if self.is_empty() {
            return Vec::new();
        }
        let (wanted, others): (Vec<_>, Vec<_>) = self.take().into_iter().partition(wanted);
        others.into_iter().for_each(|value| self.push(value));
        wanted
    }
}

impl<T> Drop for Pile<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_taken_once_in_its_order() {
        let pile = Pile::new();
        assert!(pile.is_empty() && pile.take().is_empty());
        (0..6).for_each(|n| pile.push(n));
        assert_eq!(pile.take_if(|n| n % 2 == 1), [1, 3, 5]);
        pile.push(6);
        assert!(!pile.is_empty());
        assert_eq!(pile.take(), [0, 2, 4, 6]);
        assert!(pile.is_empty());
    }

    #[test]
    fn what_is_left_in_a_pile_is_dropped_with_it() {
        let shared = std::sync::Arc::new(());
        let pile = Pile::new();
        pile.push(std::sync::Arc::clone(&shared));
        drop(pile);
        assert_eq!(std::sync::Arc::strong_count(&shared), 1);
    }

    #[test]
    fn pushers_lose_nothing_to_each_other_and_to_who_takes() {
        const EACH: u32 = 20_000;
        let pile = Pile::new();
        let mut taken = Vec::new();
        std::thread::scope(|scope| {
            let pushers: Vec<_> = (0..2)
                .map(|n| {
                    let pile = &pile;
                    scope.spawn(move || (0..EACH).for_each(|i| pile.push(n * EACH + i)))
                })
                .collect();
            while pushers.iter().any(|pusher| !pusher.is_finished()) {
                taken.append(&mut pile.take());
            }
        });
        taken.append(&mut pile.take());
        for n in 0..2 {
            let of: Vec<u32> = taken.iter().copied().filter(|value| value / EACH == n).collect();
            assert!(of.into_iter().eq(n * EACH..(n + 1) * EACH), "in order, each once");
        }
    }
}
