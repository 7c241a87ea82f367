//! The raiser's half of the asymmetric fence.
//!
//! Owns: registering for and issuing `membarrier(PRIVATE_EXPEDITED)`. Anyone may call; a barrier costs some
//! microseconds when other threads run, since it interrupts their processors.
//!
//! **Signal context:** no need.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | target's region store | driver's region load behind [`heavy_fence`] | invariant I1 of `protocol::record` |

#![allow(unsafe_code)]

use std::sync::atomic::{Ordering, fence};

const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;

/// Asks the kernel for expedited barriers. `false` where they are missing (kernels before 4.14, some seccomp filters).
pub(crate) fn register() -> bool {
    membarrier(REGISTER_PRIVATE_EXPEDITED)
}

/// A full fence on every thread of the process.
pub(crate) fn heavy_fence() {
    fence(Ordering::SeqCst);
    membarrier(PRIVATE_EXPEDITED);
    fence(Ordering::SeqCst);
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier takes three integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
