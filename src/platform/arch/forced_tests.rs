//! What holds for the trampoline on every processor.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use super::{enter, land, on_stack};

unsafe extern "C-unwind" fn returns(argument: *mut ()) {
    // SAFETY: the test hands over a u32.
    unsafe { *argument.cast::<u32>() += 1 };
}

unsafe extern "C-unwind" fn leaves(argument: *mut ()) {
    // SAFETY: the test hands over the word that `enter` has put the anchor in.
    let anchor = unsafe { *argument.cast::<usize>() };
    // SAFETY: still in that call, past this frame only.
    unsafe { land(anchor) }
}

#[test]
fn a_call_that_returns_is_told_from_one_that_was_left() {
    let (mut count, mut anchor) = (0_u32, 0_usize);
    // SAFETY: `returns` wants a u32, and nobody leaves.
    let left = unsafe { enter(returns, (&raw mut count).cast(), &raw mut anchor) };
    assert_eq!((left, count, anchor % 16), (false, 1, 0));
    for _ in 0..1000 {
        // SAFETY: `leaves` wants the anchor.
        assert!(unsafe { enter(leaves, (&raw mut anchor).cast(), &raw mut anchor) });
    }
}

#[test]
fn a_panic_passes_through_the_trampoline() {
    unsafe extern "C-unwind" fn panics(_: *mut ()) {
        std::panic::resume_unwind(Box::new(7_u8));
    }
    let mut anchor = 0_usize;
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: `panics` ignores its argument.
        unsafe { enter(panics, std::ptr::null_mut(), &raw mut anchor) }
    }));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&7_u8));
}

#[test]
fn a_function_runs_on_the_stack_it_is_given() {
    unsafe extern "C" fn where_am_i(argument: *mut ()) {
        let here = 0_u8;
        // SAFETY: the test hands over a usize.
        unsafe { *argument.cast::<usize>() = (&raw const here) as usize };
    }
    let mut stack = vec![0_u128; 4096];
    let range = stack.as_mut_ptr_range();
    let mut seen = 0_usize;
    // SAFETY: 64 KiB of our own, aligned to 16 bytes.
    unsafe { on_stack(where_am_i, (&raw mut seen).cast(), range.end.cast()) };
    assert!((range.start as usize..range.end as usize).contains(&seen));
}
