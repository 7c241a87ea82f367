//! The unwinding: what runs on the thread once the handler has put it on the stub.
//!
//! Owns: the exception object, the stop function, what must be put right after libc's own cancellation points.
//! Leaves to the system's unwinder (libgcc) walking the frames and running their cleanups.
//!
//! **Signal context:** no: the handler has returned, its mask and stack are gone. What runs here runs as if the foreign code
//! had called it instead of getting its result.
//!
//! The frames' personalities see a forced unwinding by somebody unknown, as from `pthread_exit`: destructors and cleanup
//! attributes run; `catch (...)` gets it and is to throw it on. If it does not, the C++ runtime deletes the exception, which we
//! take for the news that it was swallowed.

#![allow(unsafe_code)]

use std::sync::atomic::Ordering;

use super::{Escape, SWALLOWED, UNWINDING};
use crate::platform::arch;

/// `struct _Unwind_Exception` of the Itanium C++ ABI, and the way from it to its escape.
#[repr(C, align(16))]
pub(super) struct Exception {
    class: u64,
    cleanup: Option<unsafe extern "C" fn(i32, *mut Exception)>,
    private: [usize; 6],
    escape: *const (),
}

/// "THROWTO" and a zero: no runtime's own.
const CLASS: u64 = u64::from_be_bytes(*b"THROWTO\0");
const CONTINUE: i32 = 0;
const END_OF_STACK: i32 = 16;

unsafe extern "C-unwind" {
    fn _Unwind_ForcedUnwind(
        exception: *mut Exception,
        stop: unsafe extern "C" fn(i32, i32, u64, *mut Exception, *mut (), *const ()) -> i32,
        argument: *const (),
    ) -> i32;
}

unsafe extern "C" {
    fn _Unwind_GetCFA(context: *mut ()) -> usize;
}

impl Exception {
    pub(super) const fn new() -> Self {
        Self {
            class: CLASS,
            cleanup: None,
            private: [0; 6],
            escape: std::ptr::null(),
        }
    }
}

/// Unwinds from the stub to the region of this escape.
///
/// # Safety
/// 1. `escape` points to an `Escape` in the state `Unwinding`, of a call that lasts.
/// 2. Its proof holds for the frames above the stub.
pub(super) unsafe extern "C-unwind" fn begin(escape: *const ()) -> ! {
    // SAFETY: by 1.
    let escape = unsafe { &*escape.cast::<Escape<'static>>() };
    let exception = escape.exception.get().cast::<Exception>();
    let fresh = Exception {
        cleanup: Some(swallowed),
        escape: std::ptr::from_ref(escape).cast(),
        ..Exception::new()
    };
    // SAFETY: in this state nobody else uses it (I1 of the module above).
    unsafe { exception.write(fresh) };
    // SAFETY: the exception lives as long as the region, and the stop function ends the walk there.
    unsafe { _Unwind_ForcedUnwind(exception, stop, std::ptr::from_ref(escape).cast()) };
    // The unwinder could not go on, which the proof has excluded. The frames are as they were: leave them.
    // SAFETY: the handler has passed this spot, on this thread.
    let anchor = unsafe { escape.left() }.anchor;
    // SAFETY: the call lasts, and its frames may be dropped (2 of `Escape::call`).
    unsafe { arch::land(anchor) }
}

/// Called by the unwinder before each frame.
///
/// # Safety
/// As the unwinder calls it.
unsafe extern "C" fn stop(
    _version: i32,
    actions: i32,
    _class: u64,
    _exception: *mut Exception,
    context: *mut (),
    escape: *const (),
) -> i32 {
    // SAFETY: as given to the unwinder by `begin`.
    let escape = unsafe { &*escape.cast::<Escape<'static>>() };
    // SAFETY: the handler has passed this spot, on this thread.
    let left = unsafe { escape.left() };
    // SAFETY: the unwinder's own context.
    let here = unsafe { _Unwind_GetCFA(context) };
    if actions & END_OF_STACK == 0 && here < left.boundary {
        return CONTINUE;
    }
    // SAFETY: every foreign frame has been cleaned up; what is left are the shim's.
    unsafe { arch::land(left.anchor) }
}

/// A handler kept the exception to itself.
///
/// # Safety
/// As a language runtime calls it: with the exception of [`begin`].
unsafe extern "C" fn swallowed(_reason: i32, exception: *mut Exception) {
    // SAFETY: `begin` has put it there; the region lasts, since its call does.
    let place = unsafe { (*exception).escape };
    // SAFETY: see above.
    let escape = unsafe { &*place.cast::<Escape<'static>>() };
    let state = escape
        .state
        .compare_exchange(UNWINDING, SWALLOWED, Ordering::Relaxed, Ordering::Relaxed);
    if state.is_ok() {
        // SAFETY: the handler has passed this spot, on this thread.
        let left = unsafe { escape.left() };
        escape.refuse(crate::platform::spot::Why::Swallowed, left.pc);
    }
}

/// libc makes the thread's cancellation asynchronous around a blocking call and back after it, which was not reached.
pub(super) fn tidy_up() {
    unsafe extern "C" {
        fn pthread_setcanceltype(kind: libc::c_int, old: *mut libc::c_int) -> libc::c_int;
    }
    const PTHREAD_CANCEL_DEFERRED: libc::c_int = 0;
    let mut old = 0;
    // SAFETY: sets the calling thread's type to the one it begins with.
    unsafe { pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &raw mut old) };
}
