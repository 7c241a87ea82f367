//! `pthread_atfork`: telling the face that the process forks.
//!
//! Owns: registering three functions, once. Leaves to `crate::fork`: what they do.
//!
//! **Signal context:** no, though the child of a threaded process is nearly as restricted.

#![allow(unsafe_code)]

/// Registers what runs before a fork in the parent, and after it in parent and child. `false` if there was no memory.
pub(crate) fn at_fork(
    before: extern "C" fn(),
    in_parent: extern "C" fn(),
    in_child: extern "C" fn(),
) -> bool {
    unsafe extern "C" {
        fn pthread_atfork(
            prepare: Option<unsafe extern "C" fn()>,
            parent: Option<unsafe extern "C" fn()>,
            child: Option<unsafe extern "C" fn()>,
        ) -> libc::c_int;
    }
    // SAFETY: three functions that live as long as the process.
    unsafe { pthread_atfork(Some(before), Some(in_parent), Some(in_child)) == 0 }
}
