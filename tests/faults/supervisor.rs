//! System calls that fail when they are told to: a filter of the kernel's asks a thread of this process about each.
//!
//! The filter is the calling thread's, and of every thread it starts from then on; the supervisor was there before.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Which calls fail: of those with this number that `concerns`, the `first`th (from 1) and those after it, `times` in all.
#[derive(Clone, Copy)]
pub struct Fault {
    pub number: libc::c_long,
    pub concerns: fn(&[u64; 6]) -> bool,
    pub first: u64,
    pub times: u64,
    pub errno: i32,
}

/// How many calls the supervisor was asked about and that concerned it, and how many it has made to fail.
#[derive(Default)]
pub struct Counts {
    pub seen: AtomicU64,
    pub failed: AtomicU64,
}

pub static COUNTS: OnceLock<Arc<Counts>> = OnceLock::new();

pub const ANY: fn(&[u64; 6]) -> bool = |_| true;

/// From now on the calls of this thread, and of those it starts, fail as `fault` says. `false` if the kernel has no such filters.
pub fn watch(fault: Fault) -> bool {
    let counts = Arc::clone(COUNTS.get_or_init(Arc::default));
    let listener = Arc::new(AtomicI32::new(0));
    let theirs = Arc::clone(&listener);
    std::thread::spawn(move || {
        let listener = loop {
            // Not by a lock: its system calls may be what is watched.
            match theirs.load(Ordering::Acquire) {
                0 => std::thread::yield_now(),
                refused if refused < 0 => return,
                listener => break listener,
            }
        };
        supervise(listener, fault, &counts);
    });
    let fd = install(fault.number);
    listener.store(fd, Ordering::Release);
    fd > 0
}

fn install(number: libc::c_long) -> RawFd {
    load(
        number,
        libc::SECCOMP_RET_USER_NOTIF,
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    ) as RawFd
}

/// A filter that gives `verdict` on one call and lets all others through.
fn load(number: libc::c_long, verdict: u32, flags: libc::c_ulong) -> libc::c_long {
    let load_number = libc::sock_filter {
        code: 0x20,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let is_it = libc::sock_filter {
        code: 0x15,
        jt: 0,
        jf: 1,
        k: number as u32,
    };
    let answer = |k| libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = [
        load_number,
        is_it,
        answer(verdict),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the kernel copies the program.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    }
}

fn supervise(listener: RawFd, fault: Fault, counts: &Counts) {
    loop {
        // SAFETY: plain data; the kernel wants zeros.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills the structure.
        if unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) } != 0 {
            continue;
        }
        let mut answer = libc::seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: 0,
            flags: 1,
        };
        if (fault.concerns)(&asked.data.args) {
            let count = counts.seen.fetch_add(1, Ordering::Relaxed) + 1;
            if count >= fault.first && count - fault.first < fault.times {
                answer = libc::seccomp_notif_resp {
                    error: -fault.errno,
                    flags: 0,
                    ..answer
                };
                counts.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        // SAFETY: the kernel reads the structure; who asked may be gone.
        unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    }
}

/// From now on a call fails with `errno` in every thread of the process. `false` if the kernel has no filters.
#[allow(dead_code)]
pub fn forbid(number: libc::c_long, errno: i32) -> bool {
    let answer = libc::SECCOMP_RET_ERRNO | errno as u32;
    load(number, answer, libc::SECCOMP_FILTER_FLAG_TSYNC) == 0
}
