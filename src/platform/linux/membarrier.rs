//! The raiser's half of the asymmetric fence.
//!
//! Owns: registering for and issuing `membarrier(PRIVATE_EXPEDITED)`. Anyone may call; a barrier costs some
//! microseconds when other threads run, since it interrupts their processors.
//!
//! **Signal context:** no need.
//!
//! | write | read | why |
//! | --- | --- | --- |
//! | `REGISTERED` Relaxed, once | [`is_registered`] Relaxed | before the first thread attaches; the registry's lock orders it |
//! | target's region store | driver's region load behind [`heavy_fence`] | invariant I1 of `protocol::record` |

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

static REGISTERED: AtomicBool = AtomicBool::new(false);

const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;

/// Asks the kernel for expedited barriers, before the first thread attaches.
pub(crate) fn register() {
    REGISTERED.store(membarrier(REGISTER_PRIVATE_EXPEDITED), Ordering::Relaxed);
}

/// Whether there are any: they are missing in kernels before 4.14 and behind some seccomp filters. One load.
#[inline(always)]
pub(crate) fn is_registered() -> bool {
    REGISTERED.load(Ordering::Relaxed)
}

/// What takes the place of a barrier that is refused. A processor keeps a store to itself for some ten nanoseconds.
const LONG_ENOUGH: Duration = Duration::from_millis(1);

/// A full fence on every thread of the process.
///
/// A sandbox that closes after [`register`] may refuse it, when regions have been entered behind light fences already. Then
/// time does: what any thread had stored before is seen after.
pub(crate) fn heavy_fence() {
    fence(Ordering::SeqCst);
    if !membarrier(PRIVATE_EXPEDITED) && is_registered() {
        std::thread::sleep(LONG_ENOUGH);
    }
    fence(Ordering::SeqCst);
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier takes three integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
