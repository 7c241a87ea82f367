//! `describe` against real threads that are really blocked.
//!
//! **Signal context:** no, tests.

#![allow(unsafe_code)]

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

/// Shows platform::linux::blocked I2.
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

/// Shows platform::linux::blocked I1.
#[test]
fn sleeping_and_locking_threads_never_wake_between_two_looks() {
    let (tid, _left_to_the_end_of_the_process) = started(|| std::thread::sleep(Duration::from_secs(1000)));
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

#[test]
fn every_way_to_name_a_child_is_told() {
    for (pid, told) in [
        (7, "pid 7"),
        (-1, "any child"),
        (0, "any child of this group"),
        (-7, "process group 7"),
        (i32::MIN, "process group 2147483648"),
    ] {
        assert_eq!(waited_for(pid), told);
    }
    for (kind, told) in [
        (libc::P_PID, "pid 7"),
        (libc::P_PIDFD, "pidfd 7"),
        (libc::P_PGID, "process group 7"),
        (libc::P_ALL, "any child"),
        (99, "any child"),
    ] {
        assert_eq!(waited_for_by_type(kind as i32, 7), told);
    }
}

#[test]
fn a_socket_of_no_known_protocol_is_a_socket() {
    const MPTCP: libc::c_int = 262;
    let made = [
        (libc::SOCK_STREAM, MPTCP),
        (libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        (libc::SOCK_RAW, libc::IPPROTO_ICMP),
    ]
    .map(|(kind, protocol)| {
        // SAFETY: integers.
        unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, protocol) }
    });
    for fd in made.into_iter().filter(|fd| *fd >= 0) {
        let told = socket(fd);
        assert!(told.starts_with("socket 0.0.0.0:"), "{told}");
        // SAFETY: made above.
        unsafe { libc::close(fd) };
    }
    let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(socket(unix.as_raw_fd()), "socket");
}
