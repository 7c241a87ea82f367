//! The result a blocked system call may be given instead of `-EINTR`: the table of the fail rung, and the
//! reader of machine code that finds the call's number where the kernel does not tell it.
//!
//! Owns the judgement "which number, which value" and the names of calls. Applying a value to an interrupted
//! context (with its checks of PC, SP and arguments) belongs to the handler; reading the number from `/proc`
//! to `probe`.
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
//! - I2: `decode_number` returns the number that a straight run into the instruction loads, or `None`; it
//!   never guesses.

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

/// The value for a call known with its arguments.
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

/// How far before the instruction the number is looked for.
#[cfg(target_arch = "x86_64")]
const REACH: usize = 32;

/// The call number that the code in front of a `syscall` instruction loads; `code` ends right before its
/// `0f 05`. Sixteen bytes are enough for most calls: a load counts only with six bytes before it.
///
/// Instructions can only be read forwards. So each place that looks like a load of EAX is tried as a start,
/// and counts when (1) the bytes before it cannot make it the tail of a longer instruction
/// (`tail_of_longer`), and (2) from there on instructions that leave RAX alone (`harmless`) end exactly at
/// the `syscall`. No such place, or two that disagree: `None`.
///
/// What bytes cannot show is a jump between the load and the `syscall`. Of 1078 `syscall` instructions in the
/// 271 binaries of a Debian 12 none has one; there this gives 870 numbers, all right, and refuses 81 it could
/// have known. glibc 2.36 has 526: in 436 `mov eax, imm32` stands directly before (read, accept, poll, ..),
/// in 3 `xor eax, eax`, in the rest the number comes out of a register (thread cancellation, `syscall(3)`:
/// `None`), or loads of ESI, EDI, EDX and R8 to R10 stand between.
#[cfg(target_arch = "x86_64")]
pub(crate) fn decode_number(code: &[u8]) -> Option<i64> {
    let mut found = None;
    for start in code.len().saturating_sub(REACH)..code.len() {
        let (before, rest) = code.split_at_checked(start)?;
        let Some((number, after)) = loads_number(rest) else {
            continue;
        };
        if tail_of_longer(before, rest) || !only_harmless(after) {
            continue;
        }
        if found.is_some_and(|other| other != number) {
            return None;
        }
        found = Some(number);
    }
    found
}

/// `mov eax, imm32`, `mov rax, imm32` or `xor eax, eax`, and the code after it. Numbers end well below 1024;
/// higher ones are the x32 interface or no numbers at all.
#[cfg(target_arch = "x86_64")]
fn loads_number(code: &[u8]) -> Option<(i64, &[u8])> {
    match code {
        [0xb8, a, b @ 0..=3, 0, 0, after @ ..] | [0x48, 0xc7, 0xc0, a, b @ 0..=3, 0, 0, after @ ..] => {
            Some((i64::from(u16::from_le_bytes([*a, *b])), after))
        }
        [0x31, 0xc0, after @ ..] => Some((0, after)),
        _ => None,
    }
}

/// Whether the load at the head of `rest` could be the last bytes of a longer instruction that begins in
/// `before`; true as well when too little of `before` is there to tell.
///
/// Left out, because nobody writes them: displacements and jumps of more than 1 GB backwards (their top bytes
/// would be `b8` or `c0`), and operands in memory based on RAX, which at the `syscall` would be an address
/// and no number.
#[cfg(target_arch = "x86_64")]
fn tail_of_longer(before: &[u8], rest: &[u8]) -> bool {
    // Opcodes whose operand is followed by an imm32 (`mov`, group 1, `imul`, `test`) or by an imm8 (group 1,
    // shifts, `imul`..).
    const IMM32: [u8; 4] = [0xc7, 0x81, 0x69, 0xf7];
    const IMM8: [u8; 7] = [0x80, 0x83, 0xc0, 0xc1, 0x6b, 0xc6, 0xf6];
    let [.., p6, p5, p4, p3, p2, p1] = *before else {
        return true;
    };
    let extends_base = |prefix: u8| prefix & 0xf1 == 0x41;
    let sib_follows = |modrm: u8, mode: u8| modrm & 0xc7 == mode << 6 | 4;
    match rest {
        [0xb8, ..] => {
            // mov r8d, imm32
            extends_base(p1) && p1 & 8 == 0
                // as ModRM: an operand [r8 + disp32], plain, 0f, 0f 38, VEX or EVEX; lea from RAX
                || extends_base(p2) || p2 == 0x0f && extends_base(p3) || p3 == 0x0f && extends_base(p4)
                || p4 == 0xc4 || p6 == 0x62 || p1 == 0x8d
                // as SIB: [r8 + rdi * 4 + disp32]; mov [r8 + rdi * 4], imm32
                || sib_follows(p1, 2) || IMM32.contains(&p2) && sib_follows(p1, 0)
                // as disp8 before an imm32: mov dword [rbp - 0x48], imm32
                || IMM32.contains(&p2) && p1 >> 6 == 1 || IMM32.contains(&p3) && sib_follows(p2, 1)
                // inside an imm64
                || p5 & 0xf8 == 0x48 && p4 & 0xf8 == 0xb8
        }
        [0x31, ..] => {
            // xor of other registers; `48` is still RAX
            p1 & 0xf0 == 0x40 && p1 != 0x48
                // as ModRM or SIB, c0 being an imm8 or disp8: add dword [rcx], -64; mov ecx, [rcx + rsi - 64]
                || IMM8.contains(&p1) || p2 == 0x0f || sib_follows(p1, 1)
                // as disp8 before an imm8
                || IMM8.contains(&p2) && p1 >> 6 == 1 || IMM8.contains(&p3) && sib_follows(p2, 1)
        }
        _ => false,
    }
}

/// Whether `code` is nothing but instructions that leave RAX alone and fall through.
#[cfg(target_arch = "x86_64")]
fn only_harmless(mut code: &[u8]) -> bool {
    while !code.is_empty() {
        match harmless(code) {
            Some(rest) => code = rest,
            None => return false,
        }
    }
    true
}

/// Steps over one instruction that fills another register than RAX: `mov` from register, memory or imm32,
/// `lea`, `xor` between registers.
#[cfg(target_arch = "x86_64")]
fn harmless(code: &[u8]) -> Option<&[u8]> {
    let (rex, code) = match code {
        [rex @ 0x40..=0x4f, rest @ ..] => (*rex, rest),
        _ => (0, code),
    };
    let (&opcode, rest) = code.split_first()?;
    if matches!(opcode, 0xb8..=0xbf) {
        let imm64 = rex & 8 != 0;
        return if imm64 || opcode == 0xb8 && rex & 1 == 0 {
            None
        } else {
            rest.get(4..)
        };
    }
    let (&modrm, rest) = rest.split_first()?;
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let (fills_rax, operand) = match (opcode, mode) {
        (0x89 | 0x31, 3) => (rm == 0 && rex & 1 == 0, 0),
        (0x8b | 0x33, 3) => (reg == 0 && rex & 4 == 0, 0),
        (0x8b | 0x8d, 0..=2) => {
            let sib = if rm == 4 { Some(*rest.first()?) } else { None };
            let displacement = match mode {
                0 if rm == 5 || sib.is_some_and(|sib| sib & 7 == 5) => 4,
                0 => 0,
                1 => 1,
                _ => 4,
            };
            (
                reg == 0 && rex & 4 == 0,
                displacement + usize::from(sib.is_some()),
            )
        }
        _ => return None,
    };
    if fills_rax { None } else { rest.get(operand..) }
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
    fn names_are_those_of_the_manual_and_unique() {
        assert_eq!(name(libc::SYS_read), Some("read"));
        assert_eq!(name(libc::SYS_clock_nanosleep), Some("clock_nanosleep"));
        assert_eq!((name(-1), name(999)), (None, None));
        let mut numbers: Vec<_> = NAMES.iter().chain(OLD_NAMES).map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[cfg(target_arch = "x86_64")]
    mod machine_code {
        use super::super::*;

        /// `80 3d 81 06 0d 00 00 | 41 89 ca | ..` as hexadecimal text.
        fn bytes(text: &str) -> Vec<u8> {
            let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
            digits
                .chunks(2)
                .map(|pair| (pair[0] << 4 | pair[1]) as u8)
                .collect()
        }

        #[test]
        fn glibc_2_36_gives_its_numbers_away() {
            let table = [
                (
                    "1f 84 00 00 00 00 00 80 3d 31 33 0e 00 00 74 17 31 c0",
                    libc::SYS_read,
                ),
                (
                    "8b 54 24 18 48 8b 74 24 10 41 89 c0 8b 7c 24 08 31 c0",
                    libc::SYS_read,
                ),
                (
                    "48 8b 74 24 10 41 89 c0 48 8b 7c 24 08 b8 07 00 00 00",
                    libc::SYS_poll,
                ),
                (
                    "54 24 10 41 89 c0 8b 74 24 0c 8b 3c 24 b8 e6 00 00 00",
                    libc::SYS_clock_nanosleep,
                ),
                (
                    "18 41 89 c0 48 8b 74 24 10 8b 7c 24 0c b8 e8 00 00 00",
                    libc::SYS_epoll_wait,
                ),
                (
                    "8b 54 24 10 48 8b 74 24 08 b8 19 01 00 00 8b 7c 24 04",
                    libc::SYS_epoll_pwait,
                ),
                (
                    "18 48 8b 74 24 10 41 89 c0 8b 7c 24 0c b8 2b 00 00 00",
                    libc::SYS_accept,
                ),
                (
                    "10 41 89 c0 48 8b 74 24 08 8b 7c 24 18 b8 20 01 00 00",
                    libc::SYS_accept4,
                ),
                (
                    "14 41 89 c0 48 8b 74 24 08 8b 7c 24 10 b8 3d 00 00 00",
                    libc::SYS_wait4,
                ),
                (
                    "41 89 c1 44 8b 54 24 1c 48 8b 54 24 10 b8 f7 00 00 00",
                    libc::SYS_waitid,
                ),
                (
                    "02 b8 ff ff ff ff eb d4 e8 50 f9 01 00 b8 49 00 00 00",
                    libc::SYS_flock,
                ),
                (
                    "24 0c 48 8b 34 24 41 89 c0 8b 7c 24 08 b8 2a 00 00 00",
                    libc::SYS_connect,
                ),
                (
                    "00 00 41 89 ca 74 1c 45 31 c9 45 31 c0 b8 2d 00 00 00",
                    libc::SYS_recvfrom,
                ),
                (
                    "24 0c 48 8b 34 24 41 89 c0 8b 7c 24 08 b8 2f 00 00 00",
                    libc::SYS_recvmsg,
                ),
            ];
            for (code, number) in table {
                assert_eq!(decode_number(&bytes(code)), Some(number), "{code}");
            }
        }

        #[test]
        fn moves_into_other_registers_may_stand_between() {
            let between = [
                "",
                "49 89 ca",
                "4c 89 c2 31 f6",
                "41 b8 01 00 00 00",
                "48 8b 7c 24 08 8b 34 24",
                "be 80 00 00 00",
            ];
            for moves in between {
                for (load, number) in [
                    ("b8 17 00 00 00", 23),
                    ("31 c0", 0),
                    ("48 31 c0", 0),
                    ("48 c7 c0 0e 01 00 00", 270),
                ] {
                    let code = format!("5d 41 5c c3 90 90 90 90 {load} {moves}");
                    assert_eq!(decode_number(&bytes(&code)), Some(number), "{code}");
                }
            }
        }

        #[test]
        fn what_could_be_read_another_way_is_not_guessed() {
            let table = [
                ("", "nothing"),
                (
                    "44 89 c0",
                    "mov eax, r8d: cancellable calls of the loader, syscall(3)",
                ),
                ("b8 07 00 00 00 44 89 c0", "EAX filled again"),
                ("b8 07 00 00 00 8b 04 24", "EAX filled again from memory"),
                ("b8 07 00 00 00 83 c0 01", "EAX changed"),
                ("b8 07 00 00 00 e8 00 00 00 00", "a call between"),
                ("b8 07 00 00 00 74 05", "a jump between"),
                ("b8 07 00 00 00 48 8b", "cut"),
                ("b8 07 00 00 40", "x32"),
                ("b8 ff ff ff ff", "no number"),
                ("41 b8 07 00 00 00", "mov r8d, 7"),
                (
                    "74 41 b8 e6 00 00 00",
                    "je +41; mov eax, 230 or mov r8d, 230 (glibc, the path of single-threaded programs)",
                ),
                ("41 8b b8 07 00 00 00", "mov edi, [r8 + 7]"),
                ("41 0f b6 b8 07 00 00 00", "movzx edi, byte [r8 + 7]"),
                ("41 8b bc b8 07 00 00 00", "mov edi, [r8 + rdi * 4 + 7]"),
                ("8d b8 07 00 00 00", "lea edi, [rax + 7]"),
                ("c7 45 b8 07 00 00 00", "mov dword [rbp - 0x48], 7"),
                ("c7 44 24 b8 07 00 00 00", "mov dword [rsp - 0x48], 7"),
                ("41 c7 04 b8 07 00 00 00", "mov dword [r8 + rdi * 4], 7"),
                ("48 bf 00 00 00 b8 07 00 00 00", "mov rdi, 0x7b8000000"),
                ("45 31 c0", "xor r8d, r8d"),
                ("83 31 c0", "xor dword [rcx], -64"),
                ("8b 4c 31 c0", "mov ecx, [rcx + rsi - 64]"),
                ("83 7c 24 31 c0", "cmp dword [rsp + 0x31], -64"),
            ];
            for (code, meaning) in table {
                assert_eq!(
                    decode_number(&bytes(&format!("90 90 90 90 90 90 {code}"))),
                    None,
                    "{meaning}"
                );
                assert_eq!(decode_number(&bytes(code)), None, "{meaning}, alone");
            }
        }

        #[test]
        fn any_bytes_have_an_answer() {
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            for length in (0..48).cycle().take(100_000) {
                let code: Vec<u8> = (0..length)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        // Half of the bytes out of the decoder's own vocabulary.
                        let random = (state >> 33) as usize;
                        let known = [0xb8, 0x31, 0xc0, 0x48, 0x89, 0x8b, 0, 0];
                        if random & 8 == 0 {
                            known[random & 7]
                        } else {
                            (random >> 8) as u8
                        }
                    })
                    .collect();
                assert!(decode_number(&code).is_none_or(|number| (0..1024).contains(&number)));
            }
        }
    }
}
