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

/// Looks at a thread that keeps changing calls before it counts as running.
const LOOKS: usize = 4;

/// One phrase: `read(fd 3, pipe)`, `accept4(fd 5, tcp 127.0.0.1:4321)`, `futex wait`, `running`, `ended`.
pub(crate) fn describe(tid: i32) -> String {
    for _ in 0..LOOKS {
        let seen = probe(tid);
        let told = words(tid, &seen);
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
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::thread::{Builder, JoinHandle};
    use std::time::{Duration, Instant};

    /// A thread that runs `body`, whose name is as misleading as names can be.
    fn started<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> (i32, JoinHandle<T>) {
        let (send, receive) = channel();
        let run = move || {
            let own = fs::read_link("/proc/thread-self").unwrap();
            send.send(own.file_name().unwrap().to_str().unwrap().parse().unwrap())
                .unwrap();
            body()
        };
        let thread = Builder::new().name(") R 1 (".into()).spawn(run).unwrap();
        (receive.recv().unwrap(), thread)
    }

    fn eventually(tid: i32, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let told = describe(tid);
            if wanted(&told) {
                return told;
            }
            assert!(Instant::now() < deadline, "last look: {told}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_read_names_its_pipe_and_its_end_is_told() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let expected = format!("read(fd {}, pipe)", reader.as_raw_fd());
        let (tid, thread) = started(move || reader.read(&mut [0]).unwrap());
        eventually(tid, |told| told == expected);
        drop(writer);
        assert_eq!(thread.join().unwrap(), 0);
        eventually(tid, |told| told == "ended");
        assert_eq!((signal_blocked(tid, 1), voluntary_switches(tid)), (None, None));
    }

    #[test]
    fn sockets_tell_protocol_and_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let expected = format!("(fd {}, tcp {address})", listener.as_raw_fd());
        let (tid, thread) = started(move || listener.accept().unwrap());
        eventually(tid, |told| {
            told.starts_with("accept") && told.ends_with(&expected)
        });
        let client = TcpStream::connect(address).unwrap();
        let (server, peer) = thread.join().unwrap();

        let expected = format!("recvfrom(fd {}, tcp {address} to {peer})", server.as_raw_fd());
        let (tid, thread) = started(move || (&server).read(&mut [0]).unwrap());
        eventually(tid, |told| told == expected);
        drop(client);
        assert_eq!(thread.join().unwrap(), 0);

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let expected = format!("recvfrom(fd {}, udp {address})", udp.as_raw_fd());
        let (tid, thread) = started(move || udp.recv(&mut [0]).unwrap());
        eventually(tid, |told| told == expected);
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .send_to(b"x", address)
            .unwrap();
        assert_eq!(thread.join().unwrap(), 1);
    }

    #[test]
    fn a_flock_names_its_file() {
        let path = std::env::temp_dir().join(format!("throwto blocked {}.lock", std::process::id()));
        let first = fs::File::create(&path).unwrap();
        first.lock().unwrap();
        let second = fs::File::open(&path).unwrap();
        let expected = format!("flock(fd {}, {})", second.as_raw_fd(), path.display());
        let (tid, thread) = started(move || second.lock().unwrap());
        eventually(tid, |told| told == expected);
        first.unlock().unwrap();
        thread.join().unwrap();
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_wait_names_its_child() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (pid, stdin) = (child.id(), child.stdin.take());
        let (tid, thread) = started(move || child.wait().unwrap());
        let by_pid = [format!("wait4(pid {pid})"), format!("waitid(pid {pid})")];
        eventually(tid, |told| {
            by_pid.iter().any(|wait| wait == told) || told.starts_with("waitid(pidfd ")
        });
        drop(stdin);
        assert!(thread.join().unwrap().success());
    }

    #[test]
    fn sleeping_and_locking_threads_never_wake_between_two_looks() {
        let (tid, _left_to_the_end_of_the_process) =
            started(|| std::thread::sleep(Duration::from_secs(1000)));
        eventually(tid, |told| told == "clock_nanosleep");
        let lock = std::sync::Arc::new(Mutex::new(()));
        let held = lock.lock().unwrap();
        let (tid, thread) = started({
            let lock = lock.clone();
            move || drop(lock.lock())
        });
        // On its way to the lock it may meet another futex, the allocator's for one; in ours it stays.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            eventually(tid, |told| told == "futex wait");
            let before = voluntary_switches(tid).unwrap();
            if describe(tid) == "futex wait" && voluntary_switches(tid) == Some(before) {
                break;
            }
            assert!(Instant::now() < deadline);
        }
        drop(held);
        thread.join().unwrap();
    }

    #[test]
    fn a_poll_names_its_first_descriptor() {
        let (reader, writer) = std::io::pipe().unwrap();
        let fd = reader.as_raw_fd();
        for (count, expected) in [
            (1, format!("poll(fd {fd}, pipe)")),
            (2, format!("poll(2 fds, first fd {fd}, pipe)")),
        ] {
            let (tid, thread) = started(move || {
                let mut fds = [fd, -1].map(|fd| libc::pollfd {
                    fd,
                    events: libc::POLLIN,
                    revents: 0,
                });
                // SAFETY: `fds` has at least `count` elements and outlives the call.
                unsafe { libc::poll(fds.as_mut_ptr(), count, -1) }
            });
            eventually(tid, |told| {
                told == expected || told.strip_prefix('p') == Some(&expected)
            });
            std::io::Write::write_all(&mut &writer, b"x").unwrap();
            assert_eq!(thread.join().unwrap(), 1);
            (&reader).read_exact(&mut [0]).unwrap();
        }
    }

    #[test]
    fn an_uninterruptible_sleep_is_told_as_such() {
        // A parent in vfork sleeps in state D until its child ends.
        let (reader, writer) = std::io::pipe().unwrap();
        let (read, write) = (reader.as_raw_fd(), writer.as_raw_fd());
        let (tid, thread) = started(move || {
            let flags = libc::CLONE_VFORK | libc::SIGCHLD;
            // SAFETY: without CLONE_VM the child has memory of its own, as after fork, and makes system calls
            // only.
            let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
            if child == 0 {
                // SAFETY: the child's own copy, so that the parent's is the last writer.
                unsafe { libc::close(write) };
                // SAFETY: one byte into a buffer of one.
                unsafe { libc::read(read, [0u8].as_mut_ptr().cast(), 1) };
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { libc::_exit(0) };
            }
            // SAFETY: a child of this process; its status is not wanted.
            unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), 0) }
        });
        eventually(tid, |told| told == "uninterruptible kernel sleep in clone");
        std::io::Write::write_all(&mut &writer, b"x").unwrap();
        assert!(thread.join().unwrap() > 0);
    }

    #[test]
    fn a_blocked_signal_is_seen_in_that_thread_only() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let (tid, thread) = started(move || {
            let mut mask = std::mem::MaybeUninit::uninit();
            // SAFETY: initializes `mask`.
            unsafe { libc::sigemptyset(mask.as_mut_ptr()) };
            // SAFETY: initialized above.
            unsafe { libc::sigaddset(mask.as_mut_ptr(), libc::SIGURG) };
            // SAFETY: a valid set; the old one is not wanted.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, mask.as_ptr(), std::ptr::null_mut()) };
            reader.read(&mut [0]).unwrap()
        });
        eventually(tid, |told| told.starts_with("read"));
        assert_eq!(signal_blocked(tid, libc::SIGURG), Some(true));
        assert_eq!(signal_blocked(tid, libc::SIGUSR1), Some(false));
        assert_eq!(
            [0, -1, 65, i32::MAX].map(|signal| signal_blocked(tid, signal)),
            [None; 4]
        );
        let (free, other) = started(std::thread::park);
        assert_eq!(signal_blocked(free, libc::SIGURG), Some(false));
        other.thread().unpark();
        drop(writer);
        thread.join().unwrap();
        other.join().unwrap();
    }

    #[test]
    fn a_busy_thread_is_running() {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (tid, thread) = started({
            let stop = stop.clone();
            move || while !stop.load(std::sync::atomic::Ordering::Relaxed) {}
        });
        eventually(tid, |told| told == "running");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn every_state_has_a_sentence() {
        let table = [
            (
                Some(b'S'),
                None,
                Some("pipe_read"),
                "asleep in the kernel (wchan pipe_read)",
            ),
            (Some(b'S'), None, None, "asleep in the kernel"),
            (Some(b'S'), Some("read(fd 3)"), None, "read(fd 3)"),
            (
                Some(b'D'),
                None,
                Some("io_schedule"),
                "uninterruptible kernel sleep (wchan io_schedule)",
            ),
            (
                Some(b'D'),
                Some("read(fd 3)"),
                None,
                "uninterruptible kernel sleep in read(fd 3)",
            ),
            (Some(b'T'), Some("read(fd 3)"), None, "stopped"),
            (Some(b't'), None, None, "stopped by a tracer"),
            (Some(b'Z'), None, None, "ended"),
            (Some(b'R'), None, None, "running"),
            (None, Some("read(fd 3)"), None, "read(fd 3)"),
            (None, None, None, "unknown"),
        ];
        for (state, call, wchan, expected) in table {
            assert_eq!(
                asleep(state, call.map(String::from), wchan.map(String::from)),
                expected
            );
        }
    }

    #[test]
    fn every_call_has_words() {
        let any = -1i32 as u64;
        let table = [
            (libc::SYS_read, [3, 0], "read(fd 3, pipe)"),
            (libc::SYS_read, [9, 0], "read(fd 9)"),
            (libc::SYS_wait4, [any, 0], "wait4(any child)"),
            (libc::SYS_wait4, [-42i32 as u64, 0], "wait4(process group 42)"),
            (libc::SYS_waitid, [libc::P_PIDFD.into(), 7], "waitid(pidfd 7)"),
            (libc::SYS_waitid, [libc::P_ALL.into(), 0], "waitid(any child)"),
            (libc::SYS_ppoll, [1000, 0], "ppoll(0 fds)"),
            (libc::SYS_ppoll, [1000, 1], "ppoll(fd 3, pipe)"),
            (libc::SYS_ppoll, [0, 3], "ppoll(3 fds)"),
            (libc::SYS_rt_sigsuspend, [0, 0], "rt_sigsuspend"),
            (999, [0, 0], "system call 999"),
        ];
        for (number, [first, second], expected) in table {
            let call = BlockedCall {
                number,
                args: [first, second, 0, 0, 0, 0],
                sp: 1,
                pc: 1,
            };
            let fd = |fd| (fd == 3).then(|| "pipe".into());
            let first_polled = |array| (array != 0).then_some(3);
            assert_eq!(
                Call {
                    call: &call,
                    fd: &fd,
                    first_polled: &first_polled
                }
                .words(),
                expected
            );
        }
    }
}
