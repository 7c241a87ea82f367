//! `pthread_atfork`: telling the face that the process forks, and keeping the table of waits in order.
//!
//! Owns: registering, once, and holding the locks of [`crate::platform::portable::futex`] over a fork: another thread may
//! have one at that moment, and the child would wait for it for ever. They are taken last, since nobody takes another
//! lock under one, and let go first. Leaves to `crate::fork`: everything else that a child needs.
//!
//! **Signal context:** no, though the child of a threaded process is nearly as restricted: it frees nothing here.

#![allow(unsafe_code)]

use std::cell::Cell;

use crate::platform::portable::futex::{self, Held};

thread_local! {
    static HELD: Cell<Option<Vec<Held>>> = const { Cell::new(None) };
}

/// Registers what runs before a fork in the parent, and after it in parent and child. `false` if there was no memory.
pub(crate) fn at_fork(
    before: extern "C" fn(),
    in_parent: extern "C" fn(),
    in_child: extern "C" fn(),
) -> bool {
    // What is registered first runs last before the fork, and first after it.
    register(hold, let_go, let_go_in_child) && register(before, in_parent, in_child)
}

fn register(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) -> bool {
    // SAFETY: three functions that live as long as the process.
    unsafe { libc::pthread_atfork(Some(as_c(before)), Some(as_c(in_parent)), Some(as_c(in_child))) == 0 }
}

/// The same function, as the C library's declaration wants it.
fn as_c(f: extern "C" fn()) -> unsafe extern "C" fn() {
    f
}

extern "C" fn hold() {
    let _ = HELD.try_with(|place| place.set(Some(futex::hold())));
}

extern "C" fn let_go() {
    let _ = HELD.try_with(Cell::take);
}

extern "C" fn let_go_in_child() {
    if let Some(mut held) = HELD.try_with(Cell::take).ok().flatten() {
        held.drain(..).for_each(drop);
        // The allocator of a forked child is left alone: a kilobyte per fork stays behind.
        std::mem::forget(held);
    }
}
