//! `Interruptible`: pipes, sockets, connecting, readiness.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
use throwto::io::{Interruptible, PollFd, connect, connect_timeout, poll, wait_readable, wait_writable};
use throwto::{Stop, ThreadId, raise_exc, thread};

use crate::stage::full_listener;
use crate::stuck::{
    HANGS, Op, assert_raised, each_is_broken, each_is_broken_under_a_mask, each_raises_at_entry, join,
    wait_until_blocked,
};

fn raise_here() {
    raise_exc(ThreadId::current().unwrap(), Stop).unwrap();
}

/// A pipe without room.
fn full_pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let twin = Interruptible::new(writer.try_clone().unwrap());
    while wait_writable(&twin, Some(Duration::ZERO)).unwrap() {
        (&twin).write_all(&[0; 4096]).unwrap();
    }
    (reader, writer)
}

fn full_datagrams() -> (UnixDatagram, UnixDatagram) {
    let (here, there) = UnixDatagram::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    while here.send(&[0; 1024]).is_ok() {}
    here.set_nonblocking(false).unwrap();
    (here, there)
}

fn udp() -> Interruptible<UdpSocket> {
    Interruptible::new(UdpSocket::bind("127.0.0.1:0").unwrap())
}

/// Every operation of `throwto::io`, about to block for ever.
/// Binds to a path that fills the kernel's field to the last byte. std makes no address of such a path.
fn bind_to_the_longest_path(socket: &impl AsRawFd, dir: &Path) -> Vec<u8> {
    let mut name = dir.join("").into_os_string().into_vec();
    // SAFETY: a structure of plain numbers.
    let mut addr: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
    name.resize(addr.sun_path.len(), b'n');
    for (to, from) in addr.sun_path.iter_mut().zip(&name) {
        *to = *from as libc::c_char;
    }
    let length = size_of_val(&addr) as libc::socklen_t;
    // SAFETY: reads an address of that length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), length) };
    assert_eq!(bound, 0, "{}", io::Error::last_os_error());
    name
}

#[test]
fn no_connection_or_datagram_is_lost_for_the_name_of_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("here");
    let listener = Interruptible::new(UnixListener::bind(&here).unwrap());
    let stream = SockFlag::SOCK_CLOEXEC;
    let client = socket::socket(AddressFamily::Unix, SockType::Stream, stream, None).unwrap();
    let name = bind_to_the_longest_path(&client, dir.path());
    socket::connect(client.as_raw_fd(), &socket::UnixAddr::new(&here).unwrap()).unwrap();
    std::fs::File::from(client).write_all(b"hello").unwrap();
    let (mut accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer.as_pathname().unwrap().as_os_str().as_bytes(), name);
    let mut heard = String::new();
    accepted.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");

    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("here");
    let receiver = Interruptible::new(UnixDatagram::bind(&here).unwrap());
    let sender = UnixDatagram::unbound().unwrap();
    bind_to_the_longest_path(&sender, dir.path());
    sender.send_to(b"datagram", &here).unwrap();
    let mut buffer = [0; 16];
    let (size, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..size], b"datagram");
    assert!(from.is_unnamed());
}

fn ops() -> Vec<Op> {
    let dir = tempfile::tempdir().unwrap();
    let (empty, full) = (|| io::pipe().unwrap(), full_pipe);
    let (a, b, c, d) = (empty(), empty(), full(), full());
    let (e, f, g) = (empty(), full(), empty());
    let (udp1, udp2, udp3, udp4) = (udp(), udp(), udp(), udp());
    let datagrams = UnixDatagram::pair().unwrap();
    let (sender, receiver) = full_datagrams();
    let (slow, slower) = (full_listener(), full_listener());
    let tcp = Interruptible::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let tcp2 = Interruptible::new(
        TcpListener::bind("[::1]:0")
            .or(TcpListener::bind("127.0.0.1:0"))
            .unwrap(),
    );
    let unix = Interruptible::new(UnixListener::bind(dir.path().join("socket")).unwrap());
    vec![
        Op::new("read", move || {
            (Interruptible::new(&a.0).read(&mut [0; 8]), &a.1).0
        }),
        Op::new("readv", move || {
            let mut buffer = [0; 8];
            let read = (&Interruptible::new(&b.0)).read_vectored(&mut [IoSliceMut::new(&mut buffer)]);
            (read, &b.1).0
        }),
        Op::new("write", move || {
            (Interruptible::new(&c.1).write(b"no room"), &c.0).0
        }),
        Op::new("writev", move || {
            (
                Interruptible::new(&d.1).write_vectored(&[IoSlice::new(b"no room")]),
                &d.0,
            )
                .0
        }),
        Op::new("accept4", move || tcp.accept()),
        Op::new("accept4", move || tcp2.incoming().next().unwrap()),
        Op::new("accept4", move || (unix.accept(), dir).0),
        Op::new("recvfrom", move || udp1.recv(&mut [0; 8])),
        Op::new("recvfrom", move || udp2.recv_from(&mut [0; 8])),
        Op::new("recvfrom", move || udp3.peek(&mut [0; 8])),
        Op::new("recvfrom", move || udp4.peek_from(&mut [0; 8])),
        Op::new("recvfrom", move || {
            (Interruptible::new(datagrams.0).recv(&mut [0; 8]), datagrams.1).0
        }),
        Op::new("sendto", move || {
            (Interruptible::new(sender).send(b"no room"), receiver).0
        }),
        Op::new("connect", move || (connect(slow.1), slow).0),
        Op::new("ppoll", move || {
            (connect_timeout(&slower.1, HANGS * 10), slower).0
        }),
        Op::new("ppoll", move || (wait_readable(&e.0, None), &e.1).0),
        Op::new("ppoll", move || {
            (wait_writable(&f.1, Some(Duration::MAX)), &f.0).0
        }),
        Op::new("ppoll", move || {
            (poll(&mut [PollFd::readable(&g.0)], Some(HANGS * 10)), &g.1).0
        }),
    ]
}

#[test]
fn every_blocked_operation_is_broken_by_a_raise() {
    each_is_broken(ops());
}

#[test]
fn every_operation_raises_at_entry_what_is_pending() {
    each_raises_at_entry(ops());
}

#[test]
fn every_blocked_operation_is_broken_under_a_mask() {
    each_is_broken_under_a_mask(ops(), ops());
}

#[test]
fn a_pending_raise_wins_at_entry_over_data_and_loses_under_a_mask() {
    let _attachment = throwto::attach().unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"abc").unwrap();
    let mut reader = Interruptible::new(reader);
    let mut buffer = [0; 8];
    raise_here();
    assert_raised(reader.read(&mut buffer));
    raise_here();
    throwto::mask(|_| assert_eq!(reader.read(&mut buffer).unwrap(), 3));
    assert_eq!(&buffer[..3], b"abc");
    assert!(throwto::safepoint().is_err());
}

#[test]
fn an_uninterruptible_read_waits_for_its_data() {
    let (reader, mut writer) = io::pipe().unwrap();
    let worker = thread::spawn(move || {
        let read = throwto::uninterruptible(|_| Interruptible::new(reader).read(&mut [0; 8]));
        (read, throwto::safepoint().is_err())
    });
    wait_until_blocked(worker.id(), "read");
    worker.raise(Stop).unwrap();
    // The raise needs no time to be ignored: it is in the slot, and the driver has nothing to do with this thread.
    writer.write_all(b"data").unwrap();
    let (read, raised_after) = join(worker);
    assert_eq!(read.unwrap(), 4);
    assert!(raised_after);
}

#[test]
fn a_shielded_read_is_broken_when_the_shield_ends() {
    let (reader, writer) = io::pipe().unwrap();
    let worker = thread::spawn(move || {
        raise_here();
        let began = Instant::now();
        let shield = Duration::from_millis(30);
        let read = throwto::shield(shield, || Interruptible::new(&reader).read(&mut [0; 8]));
        assert!(began.elapsed() >= shield);
        read
    });
    assert_raised(join(worker));
    drop(writer);
}

#[test]
fn off_attached_threads_it_is_plain_input_and_output() {
    let (reader, writer) = io::pipe().unwrap();
    Interruptible::new(writer).write_all(b"plain").unwrap();
    let mut text = String::new();
    Interruptible::new(reader).read_to_string(&mut text).unwrap();
    assert_eq!(text, "plain");
}

#[test]
fn descriptors_that_do_not_block_would_block() {
    let _attachment = throwto::attach().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = Interruptible::new(listener);
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let socket = udp();
    socket.get_ref().set_nonblocking(true).unwrap();
    assert_eq!(
        socket.recv(&mut [0; 8]).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
}

#[test]
fn time_limits_hold_whether_zero_short_or_endless() {
    let (reader, mut writer) = io::pipe().unwrap();
    assert!(!wait_readable(&reader, Some(Duration::ZERO)).unwrap());
    let began = Instant::now();
    assert!(!wait_readable(&reader, Some(Duration::from_millis(20))).unwrap());
    assert!(began.elapsed() >= Duration::from_millis(20));
    writer.write_all(b"!").unwrap();
    assert!(wait_readable(&reader, Some(Duration::MAX)).unwrap());
    let slow = full_listener();
    let error = connect_timeout(&slow.1, Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let error = connect_timeout(&slow.1, Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_refused_connection_says_so() {
    // Bound, so that nobody else gets the port, and not listening.
    let silent = socket::socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    socket::bind(silent.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let bound: SockaddrIn = socket::getsockname(silent.as_raw_fd()).unwrap();
    let gone = SocketAddr::from(([127, 0, 0, 1], bound.port()));
    assert_eq!(
        connect(gone).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    let error = connect_timeout(&gone, HANGS).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(connect(&[][..]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_connection_blocks_again_after_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = connect_timeout(&listener.local_addr().unwrap(), HANGS).unwrap();
    let worker = thread::spawn(move || stream.read(&mut [0; 8]));
    wait_until_blocked(worker.id(), "read");
    worker.raise(Stop).unwrap();
    assert_raised(join(worker));
}

#[test]
fn an_accepted_stream_is_closed_on_exec() {
    let listener = Interruptible::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let client = TcpStream::connect(listener.get_ref().local_addr().unwrap()).unwrap();
    let (stream, peer) = listener.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    let flags = nix::fcntl::fcntl(&stream, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(
        flags & nix::fcntl::FdFlag::FD_CLOEXEC.bits(),
        nix::fcntl::FdFlag::FD_CLOEXEC.bits()
    );
}

#[test]
fn a_read_inside_a_foreign_region_is_broken_in_its_own_window() {
    let (reader, _writer) = io::pipe().unwrap();
    let worker = thread::spawn(move || {
        // As a library would that calls back into Rust.
        let read = || Interruptible::new(&reader).read(&mut [0; 8]);
        throwto::foreign::Call::new("library")
            .fail_syscalls()
            .run(read)
            .unwrap()
    });
    wait_until_blocked(worker.id(), "read");
    worker.raise(Stop).unwrap();
    assert_eq!(assert_raised(join(worker)).rung(), throwto::Rung::Nudge);
}

#[test]
fn a_stopped_thread_leaves_its_read_and_every_later_one() {
    let (reader, _writer) = io::pipe().unwrap();
    let (tell, told) = mpsc::channel();
    let worker = thread::StoppableThread::spawn(move || {
        let mut reader = Interruptible::new(reader);
        for _ in 0..3 {
            assert_raised(reader.read(&mut [0; 8]));
        }
        tell.send(()).unwrap();
    });
    wait_until_blocked(worker.id(), "read");
    worker.stop();
    told.recv_timeout(HANGS).unwrap();
}

/// A destructor that runs while its thread panics is left alone, also when it blocks: it gets its data.
#[test]
fn a_read_in_a_drop_during_a_panic_is_not_broken() {
    struct Drain(io::PipeReader, mpsc::Sender<io::Result<usize>>);
    impl Drop for Drain {
        fn drop(&mut self) {
            let read = Interruptible::new(&self.0).read(&mut [0; 8]);
            self.1.send(read).unwrap();
        }
    }
    let (reader, mut writer) = io::pipe().unwrap();
    let (tell, told) = mpsc::channel();
    let worker = thread::spawn(move || {
        let _drain = Drain(reader, tell);
        std::panic::resume_unwind(Box::new("a panic without noise"));
    });
    wait_until_blocked(worker.id(), "read");
    let receipt = worker.raise(Stop).unwrap();
    // The nudge interrupts the read, which goes on: the thread hears it and blocks again.
    wait_until_blocked(worker.id(), "read");
    writer.write_all(b"data").unwrap();
    assert_eq!(told.recv_timeout(HANGS).unwrap().unwrap(), 4);
    assert!(worker.join().is_err());
    assert_eq!(receipt.wait(HANGS), throwto::ReceiptState::TargetEnded);
}

/// The end of a thread under fire: what it met, it tells. Dropped when the thread ends, which ends the raises.
struct Fire(mpsc::Sender<()>);

/// The raiser's end.
struct UnderFire(mpsc::Receiver<()>);

impl Fire {
    fn new() -> (Self, UnderFire) {
        let (tell, told) = mpsc::channel();
        (Self(tell), UnderFire(told))
    }

    fn met(&self, error: io::Error) {
        assert_raised::<()>(Err(error));
        self.0.send(()).unwrap();
    }
}

impl UnderFire {
    /// Raises into the thread until it ends; returns once the thread, with nothing else to do yet, has met a raise.
    fn begin(self, id: ThreadId) -> std::thread::JoinHandle<()> {
        let (tell, told) = mpsc::channel();
        let raiser = std::thread::spawn(move || {
            loop {
                match self.0.try_recv() {
                    Ok(()) => drop(tell.send(())),
                    Err(mpsc::TryRecvError::Disconnected) => return,
                    Err(mpsc::TryRecvError::Empty) => {}
                }
                if let Ok(receipt) = raise_exc(id, Stop) {
                    receipt.wait(HANGS);
                }
            }
        });
        told.recv_timeout(HANGS).unwrap();
        raiser
    }
}

/// Accepts in a thread under fire. A descriptor that leaked would keep its client waiting.
#[test]
fn accept_under_fire_loses_no_connection_and_leaks_no_descriptor() {
    const CLIENTS: usize = 500;
    let listener = Interruptible::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.get_ref().local_addr().unwrap();
    let (fire, under_fire) = Fire::new();
    let worker = thread::spawn(move || {
        let mut connections = 0;
        while connections < CLIENTS {
            match listener.accept() {
                Ok((stream, _)) => {
                    drop(stream);
                    connections += 1;
                }
                Err(error) => fire.met(error),
            }
        }
        connections
    });
    let raiser = under_fire.begin(worker.id());
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(addr).unwrap();
        client.set_read_timeout(Some(HANGS)).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "accepted, and never closed");
    }
    assert_eq!(join(worker), CLIENTS);
    raiser.join().unwrap();
}

/// Reads numbered bytes under fire: what is raised has read nothing, what was read is returned.
#[test]
fn no_byte_is_lost_or_doubled_by_a_raise_while_reading() {
    const BYTES: usize = 20_000;
    let (reader, mut writer) = io::pipe().unwrap();
    let mut reader = Interruptible::new(reader);
    let (fire, under_fire) = Fire::new();
    let worker = thread::spawn(move || {
        let mut read = 0;
        while read < BYTES {
            let mut buffer = [0; 7];
            match reader.read(&mut buffer) {
                Ok(n) => {
                    assert!(n > 0);
                    for byte in &buffer[..n] {
                        assert_eq!(*byte, (read % 251) as u8, "byte {read}");
                        read += 1;
                    }
                }
                Err(error) => fire.met(error),
            }
        }
    });
    let raiser = under_fire.begin(worker.id());
    let mut random = Random::new();
    for at in 0..BYTES {
        writer.write_all(&[(at % 251) as u8]).unwrap();
        random.spin();
    }
    join(worker);
    raiser.join().unwrap();
}

/// Writes numbered bytes into a full pipe under fire.
#[test]
fn no_byte_is_lost_or_doubled_by_a_raise_while_writing() {
    const BYTES: usize = 2_000_000;
    let (mut reader, writer) = io::pipe().unwrap();
    let mut writer = Interruptible::new(writer);
    let (fire, under_fire) = Fire::new();
    let worker = thread::spawn(move || {
        let mut written = 0;
        let numbered: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        while written < BYTES {
            match writer.write(&numbered[written..]) {
                Ok(n) => written += n,
                Err(error) => fire.met(error),
            }
        }
    });
    let raiser = under_fire.begin(worker.id());
    let mut random = Random::new();
    let (mut read, mut buffer) = (0, [0; 1000]);
    while read < BYTES {
        let n = reader.read(&mut buffer).unwrap();
        assert!(n > 0, "the writer ended after {read} bytes");
        for byte in &buffer[..n] {
            assert_eq!(*byte, (read % 251) as u8, "byte {read}");
            read += 1;
        }
        random.spin();
    }
    join(worker);
    raiser.join().unwrap();
}

/// Enough of a generator to vary delays. Its seed is printed: the test harness shows it on failure.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let seed = now.as_nanos() as u64 | 1;
        println!("seed {seed}");
        Self(seed)
    }

    fn spin(&mut self) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        for _ in 0..self.0 % 2000 {
            std::hint::spin_loop();
        }
    }
}
