//! Where the kernel says a thread is: one look at `/proc/self/task/TID/syscall`.
//!
//! Owns the reading and parsing of that one line. What the answer means (which result a blocked call may be
//! given, how it reads in words) is for `substitute` and `blocked`.
//!
//! Any thread may call, about any thread of this process. `probe` does not allocate, keeps errno, and blocks
//! no longer than the kernel needs to print the line. A look is a snapshot: the thread may have moved on
//! before the caller reads it, so an order made from it must be checked again where it is carried out (the
//! handler compares PC, SP and arguments).
//!
//! **Signal context:** no. Nothing here would be unsound there, but the handler already has the registers,
//! and the kernel may sleep on the target's exec lock while it answers.
//!
//! Invariants:
//! - I1: `Blocked` is only ever read from a complete, well-formed line; anything else is `Unreadable`, never
//!   a guess.
//! - I2: `Gone` is said only when the kernel says so; a missing or forbidden `/proc` is `Unreadable`.
//! - I3: `Blocked` is only said where the file is known to tell of this program's own calls. Under an emulator (qemu-user)
//!   it tells of the emulator's, with another processor's numbers: whether a thread runs is then all that is believed.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use crate::platform::disposition::KeepErrno;

/// A system call a thread sleeps in, as the kernel prints it: the registers at entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockedCall {
    /// The call's number. After a stop and continue it may be `SYS_restart_syscall`, with the first call's
    /// arguments.
    pub number: i64,
    pub args: [u64; 6],
    pub sp: u64,
    /// The address after the `syscall` (or `svc`) instruction.
    pub pc: u64,
}

/// The answer of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// On a processor or waiting for one, in user space or in the kernel.
    Running,
    Blocked(BlockedCall),
    /// Asleep, but not in a system call: a page fault, a stop.
    Elsewhere,
    /// The kernel does not tell: no such file, no permission, a line that is not understood.
    Unreadable,
    /// The thread has ended.
    Gone,
}

/// The longest line is a number and eight hexadecimal words: 20 + 8 * 19 + newline.
const LINE: usize = 256;
/// `/proc/self/task/` + ten digits + `/syscall` + NUL is 35.
const PATH: usize = 40;

/// Looks once at thread `tid` of this process. About the calling thread itself the answer is its own `read`.
pub(crate) fn probe(tid: i32) -> Probe {
    let _errno = KeepErrno::new();
    // Zero would name ourselves and a negative number nobody.
    if tid <= 0 {
        return Probe::Gone;
    }
    let mut line = [0u8; LINE];
    match read_once(&path(tid), &mut line) {
        Ok(length) => believed(parse(line.get(..length).unwrap_or(&[])), tells_our_calls),
        Err(libc::ESRCH) => Probe::Gone,
        Err(libc::ENOENT) if !exists(tid) => Probe::Gone,
        Err(_) => Probe::Unreadable,
    }
}

/// What is left of a look where the file may tell of another program's calls (I3).
fn believed(seen: Probe, tells_our_calls: impl FnOnce() -> bool) -> Probe {
    match seen {
        Probe::Blocked(_) if !tells_our_calls() => Probe::Unreadable,
        seen => seen,
    }
}

/// Whether the file tells of the calls that this program makes (I3). Of itself a thread sees the very `read` by which it
/// looks, so that every field is known beforehand. Asked once; no answer is no reason for doubt.
fn tells_our_calls() -> bool {
    const UNKNOWN: u32 = 0;
    const YES: u32 = 1;
    const NO: u32 = 2;
    static ANSWER: AtomicU32 = AtomicU32::new(UNKNOWN);
    match ANSWER.load(Ordering::Relaxed) {
        UNKNOWN => {}
        known => return known == YES,
    }
    let mut line = [0u8; LINE];
    let buffer = line.as_ptr() as u64;
    let told = read_once(&path(super::nudge::os_tid()), &mut line);
    let ours = is_this_look(
        told.map(|length| parse(line.get(..length).unwrap_or(&[]))),
        buffer,
    );
    if let Some(ours) = ours {
        ANSWER.store(if ours { YES } else { NO }, Ordering::Relaxed);
    }
    ours.unwrap_or(true)
}

/// Whether what a thread was told of itself is the `read` into `buffer` by which it has asked; `None` without an answer.
fn is_this_look(told: Result<Probe, i32>, buffer: u64) -> Option<bool> {
    let Ok(Probe::Blocked(call)) = told else {
        return None;
    };
    let [_, place, room, ..] = call.args;
    Some((call.number, place, room) == (libc::SYS_read, buffer, LINE as u64))
}

/// Reads one line of that file. Total: every input has an answer.
pub(crate) fn parse(line: &[u8]) -> Probe {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line == b"running" {
        return Probe::Running;
    }
    let mut fields = line.split(|&byte| byte == b' ');
    let first = fields.next().unwrap_or(&[]);
    if let Some(number) = first.strip_prefix(b"-") {
        let (Some(_), Some([sp, pc])) = (decimal(number), words(fields)) else {
            return Probe::Unreadable;
        };
        // A thread whose kernel stack is already freed (a main thread that ended before the others) has no
        // registers left.
        return if sp == 0 && pc == 0 {
            Probe::Gone
        } else {
            Probe::Elsewhere
        };
    }
    let (Some(number), Some([a, b, c, d, e, f, sp, pc])) = (decimal(first), words(fields)) else {
        return Probe::Unreadable;
    };
    Probe::Blocked(BlockedCall {
        number,
        args: [a, b, c, d, e, f],
        sp,
        pc,
    })
}

/// Exactly `N` hexadecimal words and nothing after them.
fn words<'a, const N: usize>(mut fields: impl Iterator<Item = &'a [u8]>) -> Option<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        *word = hexadecimal(fields.next()?)?;
    }
    fields.next().is_none().then_some(words)
}

fn decimal(digits: &[u8]) -> Option<i64> {
    number(digits, 10).and_then(|value| i64::try_from(value).ok())
}

fn hexadecimal(word: &[u8]) -> Option<u64> {
    number(word.strip_prefix(b"0x")?, 16)
}

/// Stricter than `from_str_radix`: no sign, no empty string.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// `/proc/self/task/TID/syscall`, NUL-terminated, without allocation.
fn path(tid: i32) -> [u8; PATH] {
    let mut digits = [0u8; 10];
    let mut first = digits.len();
    let mut rest = tid.unsigned_abs();
    while let Some(slot) = first.checked_sub(1) {
        first = slot;
        digits[slot] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let mut path = [0u8; PATH];
    let parts = [b"/proc/self/task/".as_slice(), &digits[first..], b"/syscall"];
    for (to, from) in path.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    path
}

/// Opens, reads and closes: the bytes read, or the errno. The kernel prints the whole line in one read.
fn read_once(path: &[u8; PATH], line: &mut [u8; LINE]) -> Result<usize, i32> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: `path` is NUL-terminated (35 of its 40 bytes are used at most) and outlives the call.
    let fd = retry(|| unsafe { libc::open(path.as_ptr().cast(), flags) } as isize)? as i32;
    // SAFETY: `line` is exclusively ours for the call and LINE bytes long.
    let read = retry(|| unsafe { libc::read(fd, line.as_mut_ptr().cast(), LINE) });
    // Never retried: Linux frees the number even when it says EINTR.
    // SAFETY: `fd` was opened above and nobody else knows it.
    unsafe { libc::close(fd) };
    read.map(|length| length as usize)
}

/// Repeats a call that a signal interrupted; any other failure is its errno.
fn retry(mut call: impl FnMut() -> isize) -> Result<isize, i32> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result);
        }
        match Errno::last_raw() {
            libc::EINTR => {}
            error => return Err(error),
        }
    }
}

/// Whether the thread is alive, asked without `/proc`: signal 0 is checked for and never sent. Only ESRCH is
/// a no; a filter that forbids the question is not an answer to it.
fn exists(tid: i32) -> bool {
    // SAFETY: passes integers only, and signal 0 touches nobody.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, 0) };
    sent == 0 || Errno::last_raw() != libc::ESRCH
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    fn own_tid() -> i32 {
        // SAFETY: always callable.
        unsafe { libc::gettid() }
    }

    fn eventually(tid: i32, wanted: impl Fn(Probe) -> bool) -> Probe {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = probe(tid);
            if wanted(seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "last look: {seen:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn every_line_of_the_kernel_is_understood() {
        assert_eq!(parse(b"running\n"), Probe::Running);
        assert_eq!(parse(b"-1 0x7ffd2d5f5318 0x7f0e1d0eb2ad\n"), Probe::Elsewhere);
        assert_eq!(parse(b"-1 0x0 0x0\n"), Probe::Gone);
        let call = BlockedCall {
            number: 0,
            args: [3, 0x7f2bc180a000, 0x20000, 0, u64::MAX, 5],
            sp: 0x7ffd,
            pc: 0x7f2b,
        };
        assert_eq!(
            parse(b"0 0x3 0x7f2bc180a000 0x20000 0x0 0xffffffffffffffff 0x5 0x7ffd 0x7f2b\n"),
            Probe::Blocked(call)
        );
    }

    /// Shows platform::linux::probe I1.
    #[test]
    fn garbage_is_unreadable_and_never_a_call() {
        let lines: [&[u8]; 17] = [
            b"",
            b"\n",
            b" ",
            b"runnin",
            b"running ",
            b"-1",
            b"- 0x1 0x2",
            b"-1 0x1",
            b"-1 0x1 0x2 0x3",
            b"0",
            b"0 0x1 0x2 0x3 0x4 0x5 0x6 0x7",
            b"0 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8 0x9",
            b"0 1 2 3 4 5 6 7 8",
            b"0 0x 0x2 0x3 0x4 0x5 0x6 0x7 0x8",
            b"+1 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8",
            b"0 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x10000000000000000",
            b"99999999999999999999 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8",
        ];
        for line in lines {
            assert_eq!(parse(line), Probe::Unreadable, "{}", line.escape_ascii());
        }
        let whole = b"0 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8";
        for cut in 0..whole.len() - 1 {
            assert_eq!(parse(&whole[..cut]), Probe::Unreadable, "cut at {cut}");
        }
    }

    /// Shows platform::linux::probe I2.
    #[test]
    fn a_thread_in_read_is_seen_with_its_arguments_then_gone() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let fd = reader.as_raw_fd();
        let (send, receive) = channel();
        let thread = std::thread::spawn(move || {
            send.send(own_tid()).unwrap();
            let mut byte = [0];
            std::io::Read::read(&mut reader, &mut byte).unwrap()
        });
        let tid = receive.recv().unwrap();
        let in_read = |seen| matches!(seen, Probe::Blocked(call) if call.number == libc::SYS_read);
        let Probe::Blocked(call) = eventually(tid, in_read) else {
            unreachable!()
        };
        assert_eq!((call.args[0], call.args[2]), (fd as u64, 1));
        assert!(call.pc != 0 && call.sp != 0);
        assert_eq!(
            probe(tid),
            Probe::Blocked(call),
            "two looks at a sleeping thread agree"
        );
        writer.write_all(b"x").unwrap();
        assert_eq!(thread.join().unwrap(), 1);
        eventually(tid, |seen| seen == Probe::Gone);
    }

    /// Shows platform::linux::probe I3, with what an emulator's process is told: its own calls.
    #[test]
    fn where_the_file_tells_of_another_program_only_running_is_believed() {
        let call = |number, place, room| {
            Probe::Blocked(BlockedCall {
                number,
                args: [3, place, room, 0, 0, 0],
                sp: 8,
                pc: 8,
            })
        };
        let look = call(libc::SYS_read, 0x1000, LINE as u64);
        assert_eq!(is_this_look(Ok(look), 0x1000), Some(true));
        for other in [
            call(libc::SYS_read + 1, 0x1000, LINE as u64),
            call(libc::SYS_read, 0x2000, LINE as u64),
            call(libc::SYS_read, 0x1000, LINE as u64 + 1),
        ] {
            assert_eq!(is_this_look(Ok(other), 0x1000), Some(false));
        }
        for nothing in [Ok(Probe::Unreadable), Ok(Probe::Running), Err(libc::EACCES)] {
            assert_eq!(is_this_look(nothing, 0x1000), None);
        }
        assert_eq!(believed(look, || true), look);
        assert_eq!(believed(look, || false), Probe::Unreadable);
        for seen in [Probe::Running, Probe::Elsewhere, Probe::Gone, Probe::Unreadable] {
            assert_eq!(believed(seen, || false), seen);
        }
    }

    #[test]
    fn an_interrupted_call_is_made_again_and_any_other_failure_is_told() {
        let mut results = [(-1, libc::EINTR), (-1, libc::EINTR), (5, 0), (-1, libc::EACCES)].into_iter();
        let mut call = || {
            let (result, errno) = results.next().unwrap();
            Errno::set_raw(errno);
            result
        };
        assert_eq!(retry(&mut call), Ok(5));
        assert_eq!(retry(&mut call), Err(libc::EACCES));
    }

    #[test]
    fn no_thread_has_these_numbers() {
        for tid in [0, -1, i32::MIN, i32::MAX] {
            assert_eq!(probe(tid), Probe::Gone, "{tid}");
        }
    }

    #[test]
    fn the_path_fits_for_every_tid() {
        for tid in [1, 10, 4_194_304, i32::MAX] {
            let text = format!("/proc/self/task/{tid}/syscall\0");
            assert!(path(tid).starts_with(text.as_bytes()), "{tid}");
        }
    }

    #[test]
    fn errno_is_kept() {
        Errno::EXDEV.set();
        probe(i32::MAX);
        assert_eq!(Errno::last(), Errno::EXDEV);
    }
}
