//! What holds for the trampoline on every processor.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, offset_of};

use super::{
    CONTROLS, FUNCTION, Function, SAVED, SAVES, controls, enter, frame_at, land, on_stack, return_address,
    throwto_0_1_forced_lost, throwto_0_1_forced_scrambles,
};

/// What [`enter`] wants, and a word for the function.
#[repr(C)]
struct Frame {
    first: usize,
    controls: usize,
    function: Function,
    more: usize,
    saved: [usize; SAVED],
}

const _: () = assert!(offset_of!(Frame, controls) == CONTROLS && offset_of!(Frame, function) == FUNCTION);
const _: () = assert!(offset_of!(Frame, saved) == SAVES);

impl Frame {
    fn calling(function: Function) -> Self {
        Self {
            first: 0,
            controls: controls(),
            function,
            more: 0,
            saved: [0; SAVED],
        }
    }

    /// # Safety
    /// The function may be called.
    unsafe fn enter(&mut self) -> Option<usize> {
        // SAFETY: it has the function where that belongs.
        let word = unsafe { enter(std::ptr::from_mut(self).cast(), MaybeUninit::new(GIVEN)) }?;
        // SAFETY: the functions below give a word back.
        Some(unsafe { word.assume_init() })
    }
}

/// The word that goes in.
const GIVEN: usize = usize::MAX / 3;

unsafe extern "C-unwind" fn returns(frame: *mut (), word: MaybeUninit<usize>) -> MaybeUninit<usize> {
    // SAFETY: the test hands over a frame.
    let frame = unsafe { &mut *frame.cast::<Frame>() };
    frame.more += 1;
    // SAFETY: `Frame::enter` hands over a number.
    MaybeUninit::new(unsafe { word.assume_init() } ^ 5)
}

/// Where the frame ends that returns to the trampoline, as the C library's unwinder finds it.
fn anchor() -> usize {
    unsafe extern "C" {
        fn _Unwind_Backtrace(
            each: extern "C" fn(*mut (), *mut c_void) -> c_int,
            argument: *mut c_void,
        ) -> c_int;
        fn _Unwind_GetIP(context: *mut ()) -> usize;
        fn _Unwind_GetCFA(context: *mut ()) -> usize;
    }
    extern "C" fn each(context: *mut (), anchor: *mut c_void) -> c_int {
        const CONTINUE: c_int = 0;
        const STOP: c_int = 4;
        // SAFETY: the unwinder's own context.
        if unsafe { _Unwind_GetIP(context) } != return_address() {
            return CONTINUE;
        }
        // SAFETY: see above.
        let cfa = unsafe { _Unwind_GetCFA(context) };
        // SAFETY: the word below.
        unsafe { *anchor.cast::<usize>() = cfa };
        STOP
    }
    let mut anchor = 0_usize;
    // SAFETY: `each` gets the word that it wants.
    unsafe { _Unwind_Backtrace(each, (&raw mut anchor).cast()) };
    anchor
}

unsafe extern "C-unwind" fn leaves(frame: *mut (), _: MaybeUninit<usize>) -> MaybeUninit<usize> {
    let anchor = anchor();
    assert!(anchor != 0 && anchor.is_multiple_of(16), "{anchor:#x}");
    // SAFETY: the anchor of this call.
    assert_eq!(unsafe { frame_at(anchor) }, frame.addr());
    // SAFETY: the anchor of this call, past this frame only.
    unsafe { land(anchor) }
}

#[test]
fn a_call_that_returns_is_told_from_one_that_was_left() {
    let mut frame = Frame::calling(returns);
    // SAFETY: `returns` wants a frame.
    let word = unsafe { frame.enter() };
    assert_eq!((word, frame.more), (Some(GIVEN ^ 5), 1));
    let mut frame = Frame::calling(leaves);
    for _ in 0..1000 {
        // SAFETY: `leaves` ignores its frame.
        assert_eq!(unsafe { frame.enter() }, None);
    }
}

#[test]
fn what_a_callee_keeps_is_as_it_was_behind_a_call_that_was_left() {
    let mut frame = Frame::calling(throwto_0_1_forced_scrambles);
    // SAFETY: the frame of a function that leaves past itself only.
    let lost = unsafe { throwto_0_1_forced_lost((&raw mut frame).cast()) };
    assert_eq!(lost, 0, "bits in which a register differs from what it was");
}

#[test]
fn a_panic_passes_through_the_trampoline() {
    unsafe extern "C-unwind" fn panics(_: *mut (), _: MaybeUninit<usize>) -> MaybeUninit<usize> {
        std::panic::resume_unwind(Box::new(7_u8));
    }
    let mut frame = Frame::calling(panics);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: `panics` ignores its argument.
        unsafe { frame.enter() }
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
