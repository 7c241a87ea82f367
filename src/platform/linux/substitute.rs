//! The result a blocked system call may be given instead of `-EINTR`: the table of the fail rung.
//!
//! Owns the judgement "which number, which value" and the names of calls. Applying a value to an interrupted
//! context (with its checks of PC, SP and arguments) belongs to the handler; reading the number from `/proc`
//! to `probe`, from machine code to `arch`.
//!
//! Pure functions of their arguments: any thread may call; nothing here blocks, allocates, panics or reads
//! memory it was not handed.
//!
//! **Signal context:** yes, because every function is pure, indexes nothing, and touches neither errno nor
//! thread-locals.
//!
//! Why a replacement is sound at all: the kernel has already answered `-EINTR`, so whatever the call did or
//! did not do is settled, and the caller was owed an error. Three questions remain for each call, and one bad
//! answer makes it `Never`:
//!
//! - Q1: does some caller trust that this call cannot end so (a futex in glibc aborts, `pause` has no other
//!   result)?
//! - Q2: is the kernel still working for the caller afterwards (asynchronous I/O into buffers an error path
//!   would free)?
//! - Q3: would the value claim something untrue (an `fsync` that fails means data lost; a timed-out `select`
//!   clears its sets)?
//!
//! Invariants:
//! - I1: a number that is not listed is `Never`.

/// What the handler may store in the result register of an interrupted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Substitute {
    /// `-ECANCELED`: the call did not happen. No code retries it, none confuses it with success.
    Fail,
    /// 0: the time is over; slept, or nothing became ready.
    Zero,
    /// Leave the `-EINTR` alone.
    Never,
}

impl Substitute {
    /// The register's new content, as the kernel would have left it.
    pub(crate) const fn value(self) -> Option<isize> {
        match self {
            Self::Fail => Some(-(libc::ECANCELED as isize)),
            Self::Zero => Some(0),
            Self::Never => None,
        }
    }
}

/// The value for a call known by its number alone. Where the arguments decide (`fcntl`, `ioctl`) this is
/// `Never`.
pub(crate) const fn substitute(number: i64) -> Substitute {
    use Substitute::{Fail, Never, Zero};
    match number {
        // Data in and out, also of pipes, terminals, eventfd, inotify, signalfd, timerfd. The kernel says
        // EINTR only when nothing moved; after the first byte or message the result is a count, and a count
        // is never replaced.
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_readv | libc::SYS_preadv | libc::SYS_preadv2 => Fail,
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
            Fail
        }
        libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_recvmmsg => Fail,
        libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg => Fail,
        // The same rule: bytes already copied are reported as a count.
        libc::SYS_sendfile | libc::SYS_splice | libc::SYS_tee | libc::SYS_vmsplice => Fail,
        libc::SYS_copy_file_range => Fail,
        // No connection is taken off the queue. `connect` goes on in the background as after any EINTR; an
        // error path closes the socket, and that ends it.
        libc::SYS_accept | libc::SYS_accept4 | libc::SYS_connect => Fail,
        // No child is reaped, whatever names it (pid, group, pidfd): the next wait finds it.
        libc::SYS_wait4 | libc::SYS_waitid => Fail,
        // Not locked. The caller must expect errors (ENOLCK; EIDRM for semaphores: the set was removed
        // meanwhile), and of a semaphore operation all or nothing happened.
        libc::SYS_flock | libc::SYS_semop | libc::SYS_semtimedop => Fail,
        // A FIFO without a peer, a lease, FUSE: no descriptor was made.
        libc::SYS_openat | libc::SYS_openat2 | libc::SYS_open_by_handle_at => Fail,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open | libc::SYS_creat => Fail,
        // A message was moved whole or not at all.
        libc::SYS_msgsnd | libc::SYS_msgrcv | libc::SYS_mq_timedsend | libc::SYS_mq_timedreceive => Fail,
        // Waits without bound only before the pool is seeded; nothing was written.
        libc::SYS_getrandom => Fail,
        // std asserts that a failed sleep failed with EINTR; "slept" is the only other answer it takes.
        libc::SYS_nanosleep | libc::SYS_clock_nanosleep => Zero,
        // Their output already says "nothing ready" (poll writes zeroed `revents` before EINTR, epoll wrote
        // nothing), and event loops take 0 in their stride where several stop the program at an unknown
        // error.
        libc::SYS_ppoll | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => Zero,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll | libc::SYS_epoll_wait => Zero,
        // On EINTR the sets still hold the question, so 0 would read as "all ready" (Q3).
        libc::SYS_pselect6 => Fail,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select => Fail,

        // Named only to say why; the last arm would do.
        // Q1: glibc aborts at a futex error it does not know, and a lock that "failed" would be entered.
        libc::SYS_futex | libc::SYS_futex_waitv => Never,
        // Q1: the descriptor is already gone, whatever the result; nobody may be led to close it again.
        libc::SYS_close | libc::SYS_dup3 => Never,
        // Q1: EINTR *is* their answer, a signal is what they wait for.
        libc::SYS_rt_sigsuspend | libc::SYS_rt_sigtimedwait => Never,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_pause => Never,
        // A sleep, poll or futex that was stopped and continued: the number hides which. The instruction
        // still loads the first number, so `decode_number` can tell.
        libc::SYS_restart_syscall => Never,
        // Q2: the operations in flight own the caller's buffers, which an error path frees under them.
        libc::SYS_io_getevents | libc::SYS_io_uring_enter => Never,
        // Q3: an error means that data was lost; databases stop the process for it.
        libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_sync_file_range | libc::SYS_msync => Never,
        // Q3: half of the work may be done, so "did not happen" is untrue; and it is work, not a wait.
        libc::SYS_fallocate | libc::SYS_ftruncate | libc::SYS_truncate => Never,
        _ => Never,
    }
}

/// libc gives this number a type of its own on each of its platforms.
const TCSBRK: u32 = 0x5409;

/// The value for a call known with its arguments. The first one decides nothing: on some processors the result has
/// taken its place by the time the handler looks.
pub(crate) const fn substitute_call(number: i64, args: [u64; 6]) -> Substitute {
    let [_, command, argument, ..] = args;
    match number {
        // Waiting for a record lock: not locked. Every other command is quick, or answers EINTR for reasons
        // of its own.
        libc::SYS_fcntl => match command as i32 {
            libc::F_SETLKW | libc::F_OFD_SETLKW => Substitute::Fail,
            _ => Substitute::Never,
        },
        // Thousands of requests, some with meanings of their own for ECANCELED (graphics: context lost). One
        // is a plain wait: `tcdrain`, which is TCSBRK with an argument that is not zero (zero sends a break).
        libc::SYS_ioctl => match (command as u32 == TCSBRK, argument as i32) {
            (true, 1..) => Substitute::Fail,
            _ => Substitute::Never,
        },
        _ => substitute(number),
    }
}

/// The value for a call when the thread's calls have been made to fail before for the same exception: a poll whose caller
/// has taken 0 for a spurious return and polls on is told `-ECANCELED`.
pub(crate) const fn substitute_again(number: i64, args: [u64; 6]) -> Substitute {
    match number {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => Substitute::Fail,
        libc::SYS_ppoll => Substitute::Fail,
        _ => substitute_call(number, args),
    }
}

/// The table for a thread whose calls have, or have not, been made to fail before for the same exception.
pub(crate) const fn table(again: bool) -> fn(i64, [u64; 6]) -> Substitute {
    if again { substitute_again } else { substitute_call }
}

macro_rules! named {
    ($($call:ident)*) => { &[$((libc::$call, stringify!($call))),*] };
}

/// Calls that block, and calls a thread is often seen in.
#[rustfmt::skip]
const NAMES: &[(i64, &str)] = named! {
    SYS_read SYS_pread64 SYS_readv SYS_preadv SYS_preadv2 SYS_write SYS_pwrite64 SYS_writev SYS_pwritev
    SYS_pwritev2 SYS_recvfrom SYS_recvmsg SYS_recvmmsg SYS_sendto SYS_sendmsg SYS_sendmmsg SYS_accept
    SYS_accept4 SYS_connect SYS_bind SYS_listen SYS_socket SYS_shutdown SYS_getsockopt SYS_setsockopt
    SYS_sendfile SYS_splice SYS_tee SYS_vmsplice SYS_copy_file_range SYS_wait4 SYS_waitid SYS_flock
    SYS_fcntl SYS_ioctl SYS_semop SYS_semtimedop SYS_semctl SYS_openat SYS_openat2 SYS_open_by_handle_at
    SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_pipe2 SYS_msgsnd SYS_msgrcv SYS_mq_timedsend
    SYS_mq_timedreceive SYS_getrandom SYS_nanosleep SYS_clock_nanosleep SYS_clock_gettime SYS_ppoll
    SYS_pselect6 SYS_epoll_pwait SYS_epoll_pwait2 SYS_epoll_ctl SYS_futex SYS_futex_waitv SYS_rt_sigsuspend
    SYS_rt_sigtimedwait SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_tgsigqueueinfo
    SYS_tgkill SYS_kill SYS_restart_syscall SYS_io_getevents SYS_io_submit SYS_io_uring_enter SYS_fsync
    SYS_fdatasync SYS_sync SYS_syncfs SYS_sync_file_range SYS_msync SYS_fallocate SYS_ftruncate SYS_truncate
    SYS_lseek SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_faccessat SYS_readlinkat SYS_getdents64
    SYS_mkdirat SYS_unlinkat SYS_renameat2 SYS_linkat SYS_getcwd SYS_chdir SYS_mount SYS_umount2 SYS_mmap
    SYS_munmap SYS_mprotect SYS_mremap SYS_madvise SYS_brk SYS_mlock SYS_clone SYS_clone3 SYS_execve
    SYS_exit SYS_exit_group SYS_sched_yield SYS_getpid SYS_gettid SYS_prctl SYS_ptrace SYS_process_vm_readv
    SYS_membarrier SYS_request_key SYS_finit_module
};

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD_NAMES: &[(i64, &str)] = named! {
    SYS_open SYS_creat SYS_poll SYS_select SYS_epoll_wait SYS_pause SYS_stat SYS_lstat SYS_access
    SYS_readlink SYS_mkdir SYS_rmdir SYS_unlink SYS_rename SYS_getdents SYS_dup2 SYS_pipe SYS_fork SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
const OLD_NAMES: &[(i64, &str)] = &[];

/// The call's name as its manual page has it, for the calls worth naming.
pub(crate) fn name(number: i64) -> Option<&'static str> {
    let (_, name) = NAMES
        .iter()
        .chain(OLD_NAMES)
        .find(|(listed, _)| *listed == number)?;
    name.strip_prefix("SYS_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Substitute::{Fail, Never, Zero};

    #[test]
    fn each_value_is_what_the_kernel_would_store() {
        assert_eq!(
            (Fail.value(), Zero.value(), Never.value()),
            (Some(-125), Some(0), None)
        );
    }

    /// Shows platform::linux::substitute I1.
    #[test]
    fn listed_calls_get_their_value_and_everything_else_never() {
        for (number, name) in NAMES.iter().chain(OLD_NAMES) {
            #[rustfmt::skip]
            let expected = match name.strip_prefix("SYS_").unwrap() {
                "read" | "pread64" | "readv" | "preadv" | "preadv2" | "write" | "pwrite64" | "writev"
                | "pwritev" | "pwritev2" | "recvfrom" | "recvmsg" | "recvmmsg" | "sendto" | "sendmsg"
                | "sendmmsg" | "accept" | "accept4" | "connect" | "sendfile" | "splice" | "tee" | "vmsplice"
                | "copy_file_range" | "wait4" | "waitid" | "flock" | "semop" | "semtimedop" | "open"
                | "creat" | "openat" | "openat2" | "open_by_handle_at" | "msgsnd" | "msgrcv"
                | "mq_timedsend" | "mq_timedreceive" | "getrandom" | "select" | "pselect6" => Fail,
                "nanosleep" | "clock_nanosleep" | "poll" | "ppoll" | "epoll_wait" | "epoll_pwait"
                | "epoll_pwait2" => Zero,
                _ => Never,
            };
            assert_eq!(substitute(*number), expected, "{name}");
        }
        for number in [-1, i64::MIN, 1000, 0x4000_0000, i64::MAX] {
            assert_eq!(substitute(number), Never, "{number}");
        }
    }

    #[test]
    fn arguments_decide_for_fcntl_and_ioctl() {
        let call =
            |number, command: i32, argument| substitute_call(number, [3, command as u64, argument, 0, 0, 0]);
        for (command, expected) in [
            (libc::F_SETLKW, Fail),
            (libc::F_OFD_SETLKW, Fail),
            (libc::F_SETLK, Never),
            (libc::F_GETFL, Never),
        ] {
            assert_eq!(call(libc::SYS_fcntl, command, 0x7ffd_0000), expected, "{command}");
        }
        assert_eq!(call(libc::SYS_ioctl, TCSBRK as i32, 1), Fail);
        assert_eq!(call(libc::SYS_ioctl, TCSBRK as i32, 0), Never);
        assert_eq!(call(libc::SYS_ioctl, 0x541b, 1), Never);
        assert_eq!(call(libc::SYS_read, 0, 0), Fail);
        assert_eq!(
            (substitute(libc::SYS_fcntl), substitute(libc::SYS_ioctl)),
            (Never, Never)
        );
    }

    #[test]
    fn the_first_argument_never_decides() {
        for number in -1..600 {
            for command in [0, 1, 7, 38, u64::from(TCSBRK)] {
                let with = |first| [first, command, 1, 2, 3, 4];
                for again in [false, true] {
                    let decide = |first| table(again)(number, with(first));
                    assert_eq!(decide(3), decide(-4_i64 as u64), "{number} {command}");
                    assert_eq!(decide(3), decide(0), "{number} {command}");
                }
            }
        }
    }

    #[test]
    fn only_a_poll_is_ended_otherwise_the_second_time() {
        for number in (0..500).chain([libc::SYS_nanosleep, libc::SYS_futex]) {
            let (once, again) = (substitute_call(number, [1; 6]), substitute_again(number, [1; 6]));
            match name(number) {
                Some("poll" | "ppoll") => assert_eq!((once, again), (Zero, Fail)),
                _ => assert_eq!(once, again, "{number}"),
            }
        }
    }

    #[test]
    fn names_are_those_of_the_manual_and_unique() {
        assert_eq!(name(libc::SYS_read), Some("read"));
        assert_eq!(name(libc::SYS_clock_nanosleep), Some("clock_nanosleep"));
        assert_eq!((name(-1), name(999)), (None, None));
        let mut numbers: Vec<_> = NAMES.iter().chain(OLD_NAMES).map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
