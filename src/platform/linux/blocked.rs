//! Where a thread is blocked, in words, read from what the system shows of it under `/proc/self/task/TID`.
//!
//! Owns the sentence `where_blocked` carries, and two facts for those who wait for a thread: whether it holds
//! a signal back, whether it woke between two looks. Reading `syscall` belongs to `probe`, the names of calls
//! to `substitute`.
//!
//! For reports: any thread may call, about any thread of this process. It opens files, allocates, and may
//! block for as long as the kernel takes to print them; errno is not kept. Everything told is a snapshot.
//! Nothing of the target is dereferenced: what a pointer argument points to is read as a file
//! (`/proc/self/mem`), which can fail but not fault.
//!
//! **Signal context:** no, it allocates and locks.
//!
//! Invariants:
//! - I1: a call is described only when two looks, one before and one after its details were gathered, agree;
//!   a thread that moves on every time is `running`.
//! - I2: no look changes anything: no descriptor of the target is duplicated, kept or closed.
#![allow(unsafe_code)]

use super::probe::{BlockedCall, Probe, probe};
use super::substitute::name;
use std::fs;
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

/// What a thread waits for that has left its call and must not go on yet.
const HELD: &str = "held by a hook or a look at it";

/// Looks at a thread that keeps changing calls before it counts as running.
const LOOKS: usize = 4;

/// One phrase: `read(fd 3, pipe)`, `accept4(fd 5, tcp 127.0.0.1:4321)`, `futex wait`, `running`, `ended`.
pub(crate) fn describe(tid: i32) -> String {
    describe_attached(tid, &|_| false)
}

/// As [`describe`]; a futex wait on a word that is `held` is one of our own making, for those who look at the thread or
/// run a hook of it, and is called [`HELD`].
pub(crate) fn describe_attached(tid: i32, held: &dyn Fn(u64) -> bool) -> String {
    // Of itself a thread would see the read by which it looks.
    if tid == super::nudge::os_tid() {
        return "running".into();
    }
    for _ in 0..LOOKS {
        let seen = probe(tid);
        let told = match &seen {
            Probe::Blocked(call) if call.is_futex() && held(call.args[0]) => HELD.into(),
            _ => words(tid, &seen),
        };
        if probe(tid) == seen {
            return told;
        }
    }
    "running".into()
}

/// Whether `signal` is in the thread's blocked mask; `None` when that cannot be read.
pub(crate) fn signal_blocked(tid: i32, signal: i32) -> Option<bool> {
    let mask = u64::from_str_radix(&status(tid, "SigBlk:")?, 16).ok()?;
    let bit = u32::try_from(signal).ok()?.checked_sub(1)?;
    Some(mask.checked_shr(bit)? & 1 == 1)
}

/// Voluntary context switches so far: equal numbers at two looks mean that the thread never woke between
/// them.
pub(crate) fn voluntary_switches(tid: i32) -> Option<u64> {
    status(tid, "voluntary_ctxt_switches:")?.parse().ok()
}

/// One file of the thread's directory.
fn file(tid: i32, what: &str) -> Option<Vec<u8>> {
    fs::read(format!("/proc/self/task/{tid}/{what}")).ok()
}

/// The value of one line of `status`.
fn status(tid: i32, key: &str) -> Option<String> {
    let status = file(tid, "status")?;
    let text = String::from_utf8_lossy(&status);
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(value.trim().into())
}

fn words(tid: i32, seen: &Probe) -> String {
    match seen {
        Probe::Gone => "ended".into(),
        Probe::Running => "running".into(),
        Probe::Blocked(call) => {
            let call = Call {
                call,
                fd: &|fd| descriptor(tid, fd),
                first_polled: &first_polled,
            };
            asleep(state(tid), Some(call.words()), None)
        }
        Probe::Elsewhere | Probe::Unreadable => asleep(state(tid), None, wchan(tid)),
    }
}

/// The sentence for a sleeping thread: its state letter, its call or else the kernel function it sleeps in.
fn asleep(state: Option<u8>, call: Option<String>, wchan: Option<String>) -> String {
    let place = wchan.map(|wchan| format!(" (wchan {wchan})")).unwrap_or_default();
    match (state, call) {
        (Some(b'T'), _) => "stopped".into(),
        (Some(b't'), _) => "stopped by a tracer".into(),
        (Some(b'Z' | b'X'), _) => "ended".into(),
        (Some(b'R'), None) => "running".into(),
        (Some(b'D'), Some(call)) => format!("uninterruptible kernel sleep in {call}"),
        (Some(b'D'), None) => format!("uninterruptible kernel sleep{place}"),
        (_, Some(call)) => call,
        (Some(_), None) => format!("asleep in the kernel{place}"),
        (None, None) => "unknown".into(),
    }
}

/// The letter after the name, which stands in parentheses and may hold some itself.
fn state(tid: i32) -> Option<u8> {
    let stat = file(tid, "stat")?;
    let name_ends = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(name_ends + 2).copied()
}

/// The kernel function the thread sleeps in. Kernels that keep it secret say `0` or nothing.
fn wchan(tid: i32) -> Option<String> {
    let wchan = String::from_utf8(file(tid, "wchan")?).ok()?;
    let wchan = wchan.trim();
    (!wchan.is_empty() && wchan != "0").then(|| wchan.into())
}

impl BlockedCall {
    fn is_futex(&self) -> bool {
        matches!(name(self.number), Some("futex" | "futex_waitv"))
    }
}

/// A blocked call with the two questions its words may need answered.
struct Call<'a> {
    call: &'a BlockedCall,
    fd: &'a dyn Fn(i32) -> Option<String>,
    first_polled: &'a dyn Fn(u64) -> Option<i32>,
}

impl Call<'_> {
    fn words(&self) -> String {
        let [first, second, ..] = self.call.args;
        let number = self.call.number;
        let Some(name) = name(number) else {
            return format!("system call {number}");
        };
        match name {
            // Their first argument is a clock, an address or nothing: no descriptor to name.
            "nanosleep" | "clock_nanosleep" | "restart_syscall" => name.into(),
            "futex" | "futex_waitv" => "futex wait".into(),
            "wait4" => format!("wait4({})", waited_for(first as i32)),
            "waitid" => format!("waitid({})", waited_for_by_type(first as i32, second as i32)),
            "poll" | "ppoll" => format!("{name}({})", self.polled(first, second)),
            _ if FIRST_IS_FD.contains(&name) => format!("{name}({})", self.named(first as i32)),
            _ => name.into(),
        }
    }

    fn named(&self, fd: i32) -> String {
        match (self.fd)(fd) {
            Some(kind) => format!("fd {fd}, {kind}"),
            None => format!("fd {fd}"),
        }
    }

    fn polled(&self, array: u64, count: u64) -> String {
        let fds = if count == 1 {
            "1 fd".into()
        } else {
            format!("{count} fds")
        };
        match (count, (self.first_polled)(array)) {
            (0, _) | (_, None | Some(..0)) => fds,
            (1, Some(fd)) => self.named(fd),
            (_, Some(fd)) => format!("{fds}, first {}", self.named(fd)),
        }
    }
}

/// Calls whose first argument is the descriptor they wait on.
#[rustfmt::skip]
const FIRST_IS_FD: &[&str] = &[
    "read", "pread64", "readv", "preadv", "preadv2", "write", "pwrite64", "writev", "pwritev", "pwritev2",
    "recvfrom", "recvmsg", "recvmmsg", "sendto", "sendmsg", "sendmmsg", "accept", "accept4", "connect",
    "shutdown", "sendfile", "splice", "tee", "vmsplice", "copy_file_range", "flock", "fcntl", "ioctl",
    "close", "mq_timedsend", "mq_timedreceive", "epoll_wait", "epoll_pwait", "epoll_pwait2",
    "io_uring_enter", "fsync", "fdatasync", "sync_file_range", "syncfs", "fallocate", "ftruncate",
    "getdents", "getdents64", "fstat",
];

/// `wait4`'s first argument.
fn waited_for(pid: i32) -> String {
    match pid {
        1.. => format!("pid {pid}"),
        -1 => "any child".into(),
        0 => "any child of this group".into(),
        _ => format!("process group {}", pid.unsigned_abs()),
    }
}

/// `waitid`'s first two.
fn waited_for_by_type(id_type: i32, id: i32) -> String {
    match id_type as libc::idtype_t {
        libc::P_PID => format!("pid {id}"),
        libc::P_PIDFD => format!("pidfd {id}"),
        libc::P_PGID => format!("process group {id}"),
        _ => "any child".into(),
    }
}

/// The descriptor at the head of a `pollfd` array of this process, if that address can be read.
fn first_polled(array: u64) -> Option<i32> {
    let mut fd = [0; 4];
    fs::File::open("/proc/self/mem")
        .ok()?
        .read_exact_at(&mut fd, array)
        .ok()?;
    Some(i32::from_ne_bytes(fd))
}

/// What kind of thing a descriptor of the thread is: `pipe`, `eventfd`, `tcp 127.0.0.1:4321`, a path.
fn descriptor(tid: i32, fd: i32) -> Option<String> {
    let link = fs::read_link(format!("/proc/self/task/{tid}/fd/{fd}")).ok()?;
    let text = link.to_string_lossy();
    if let Some(kind) = text.strip_prefix("anon_inode:") {
        let kind = kind.trim_matches(['[', ']']);
        return Some(if kind == "eventpoll" {
            "epoll".into()
        } else {
            kind.into()
        });
    }
    if text.starts_with("socket:[") {
        // The same number may be another file here when the thread has a descriptor table of its own.
        let shared = fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|here| here == link);
        return Some(if shared { socket(fd) } else { "socket".into() });
    }
    match text.split_once(":[") {
        Some((kind, _)) if !text.starts_with('/') => Some(kind.into()),
        _ => Some(text.into()),
    }
}

/// Protocol and addresses of a socket, as far as it is an internet socket.
fn socket(fd: i32) -> String {
    // SAFETY: a descriptor number that belongs to somebody else, borrowed to ask two addresses:
    // `ManuallyDrop` never closes it, and a number closed or reused meanwhile gives an error or a wrong
    // address, which I1 sorts out.
    let socket = ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(fd) });
    let Ok(local) = socket.local_addr() else {
        return "socket".into();
    };
    let protocol = match protocol(fd) {
        Some(libc::IPPROTO_TCP) => "tcp",
        Some(libc::IPPROTO_UDP) => "udp",
        _ => "socket",
    };
    match socket.peer_addr() {
        Ok(peer) => format!("{protocol} {local} to {peer}"),
        Err(_) => format!("{protocol} {local}"),
    }
}

fn protocol(fd: i32) -> Option<i32> {
    let mut protocol = 0i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    let value = (&raw mut protocol).cast();
    // SAFETY: `value` points to `length` writable bytes, `length` to itself, both for the whole call; `fd` is
    // only asked.
    let failed = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL, value, &raw mut length) };
    (failed == 0).then_some(protocol)
}

#[cfg(test)]
mod tests;
