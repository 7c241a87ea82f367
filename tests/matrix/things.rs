//! What calls block on: pipes without data or room, locks that somebody holds, children that live. Each comes with a way to let
//! the call complete, and with an account of what must be there afterwards.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use crate::scene::{End, Scene, answer, drain, fill};

/// How much was taken: all that came if the call was broken, or less what the call reports.
#[track_caller]
fn less_what_was_done(all: usize, end: End) -> usize {
    match end {
        End::Done(done) => all - usize::try_from(done).unwrap(),
        End::Broken => all,
        End::Either => panic!("its end must be known"),
    }
}

/// A call that takes the one byte that `complete` writes.
pub fn taking(
    (reader, writer): (OwnedFd, OwnedFd),
    mut call: impl FnMut(&OwnedFd) -> io::Result<isize> + Send + 'static,
) -> Scene {
    let reader = Arc::new(reader);
    let mine = Arc::clone(&reader);
    Scene::new(
        move || call(&mine),
        move || {
            // SAFETY: one byte, borrowed for the call.
            let written = unsafe { libc::write(writer.as_raw_fd(), c"!".as_ptr().cast(), 1) };
            assert_eq!(written, 1);
        },
        move |end| assert_eq!(drain(&*reader, 16), less_what_was_done(1, end), "bytes left"),
    )
}

/// A call that waits for the one byte, says 1, and leaves it.
pub fn watching(
    pair: (OwnedFd, OwnedFd),
    call: impl FnMut(&OwnedFd) -> io::Result<isize> + Send + 'static,
) -> Scene {
    let Scene {
        call,
        complete,
        settle,
    } = taking(pair, call);
    let none_taken = |end| match end {
        End::Done(1) => End::Done(0),
        other => other,
    };
    Scene {
        call,
        complete,
        settle: Box::new(move |end| settle(none_taken(end))),
    }
}

/// A call that adds bytes to what is full; `complete` makes room.
pub fn giving(
    (reader, writer): (OwnedFd, OwnedFd),
    mut call: impl FnMut(&OwnedFd) -> io::Result<isize> + Send + 'static,
) -> Scene {
    let filled = fill(&writer);
    let (reader, writer) = (Arc::new(reader), Arc::new(writer));
    let (there, mine) = (Arc::clone(&reader), Arc::clone(&writer));
    let drained = Arc::new(AtomicUsize::new(0));
    let taken = Arc::clone(&drained);
    Scene::new(
        move || call(&mine),
        move || {
            taken.fetch_add(drain(&*there, 3 * 4096), Ordering::SeqCst);
        },
        move |end| {
            let all = drained.load(Ordering::SeqCst) + drain(&*reader, 1 << 22);
            assert_eq!(filled, less_what_was_done(all, end), "bytes that went through");
            drop(writer);
        },
    )
}

fn datagrams(socket: &UnixDatagram) -> usize {
    socket.set_nonblocking(true).unwrap();
    let count = std::iter::from_fn(|| socket.recv(&mut [0; 16]).ok()).count();
    socket.set_nonblocking(false).unwrap();
    count
}

/// A call that sends one datagram (and says 1) where the queue is full.
pub fn sending(mut call: impl FnMut(&UnixDatagram) -> io::Result<isize> + Send + 'static) -> Scene {
    let (here, there) = UnixDatagram::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    let filled = std::iter::from_fn(|| here.send(b"full").ok()).count();
    here.set_nonblocking(false).unwrap();
    let there = Arc::new(there);
    let other = Arc::clone(&there);
    Scene::new(
        move || call(&here),
        move || {
            other.recv(&mut [0; 16]).unwrap();
        },
        move |end| {
            assert_eq!(
                filled - 1,
                less_what_was_done(datagrams(&there), end),
                "datagrams left"
            )
        },
    )
}

/// A call that receives the one datagram, and says 1.
pub fn receiving(mut call: impl FnMut(&UnixDatagram) -> io::Result<isize> + Send + 'static) -> Scene {
    let (here, there) = UnixDatagram::pair().unwrap();
    let here = Arc::new(here);
    let mine = Arc::clone(&here);
    Scene::new(
        move || call(&mine),
        move || {
            there.send(b"!").unwrap();
        },
        move |end| assert_eq!(datagrams(&here), less_what_was_done(1, end), "datagrams left"),
    )
}

fn waiting_connections(listener: &UnixListener) -> Vec<std::os::unix::net::UnixStream> {
    listener.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| listener.accept().ok())
        .map(|(stream, _)| stream)
        .collect()
}

/// A call that accepts the one connection, and says 1.
pub fn accepting(mut call: impl FnMut(&UnixListener) -> io::Result<isize> + Send + 'static) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = Arc::new(UnixListener::bind(&path).unwrap());
    let mine = Arc::clone(&listener);
    let clients = Arc::new(Mutex::new(Vec::new()));
    let coming = Arc::clone(&clients);
    Scene::new(
        move || call(&mine),
        move || {
            coming
                .lock()
                .unwrap()
                .push(std::os::unix::net::UnixStream::connect(&path).unwrap())
        },
        move |end| {
            assert_eq!(
                waiting_connections(&listener).len(),
                less_what_was_done(1, end),
                "connections left"
            );
            drop((clients, dir));
        },
    )
}

/// A call that connects, and says 1, to a listener whose queue is full.
pub fn connecting(mut call: impl FnMut(&Path) -> io::Result<OwnedFd> + Send + 'static) -> Scene {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let addr = UnixAddr::new(&path).unwrap();
    let stream = |flags| socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    let listener = stream(SockFlag::SOCK_CLOEXEC);
    socket::bind(listener.as_raw_fd(), &addr).unwrap();
    socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
    let mut queue = Vec::new();
    loop {
        let client = stream(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
        match socket::connect(client.as_raw_fd(), &addr) {
            Ok(()) => queue.push(client),
            Err(_) => break,
        }
    }
    let listener = Arc::new(UnixListener::from(listener));
    let other = Arc::clone(&listener);
    let streams = Arc::new(Mutex::new(Vec::new()));
    let made = Arc::clone(&streams);
    Scene::new(
        move || {
            let stream = call(&path)?;
            made.lock().unwrap().push(stream);
            Ok(1)
        },
        move || drop(other.accept().unwrap()),
        move |end| {
            let left = waiting_connections(&listener).len();
            assert_eq!(
                queue.len() - 1,
                less_what_was_done(left, end),
                "connections in the queue"
            );
            drop((streams, dir));
        },
    )
}

/// A call that waits for a child, and says 1 once it has reaped it.
pub fn parent(mut call: impl FnMut(&mut Child) -> io::Result<isize> + Send + 'static) -> Scene {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let child = Arc::new(Mutex::new(child));
    let mine = Arc::clone(&child);
    Scene::new(
        move || call(&mut mine.lock().unwrap()),
        move || nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap(),
        move |end| {
            use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
            if end == End::Broken {
                // Still there, for whoever waits for it next.
                assert!(matches!(waitpid(pid, None), Ok(WaitStatus::Signaled(..))));
            }
            assert_eq!(
                waitpid(pid, Some(WaitPidFlag::WNOHANG)),
                Err(nix::Error::ECHILD),
                "reaped once"
            );
            drop(child);
        },
    )
}

/// A call that takes the lock of a file and keeps it, where somebody else holds it.
pub fn locking(mut call: impl FnMut(&File) -> io::Result<isize> + Send + 'static) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let open = |dir: &TempDir| {
        let path = dir.path().join("file");
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap()
    };
    let (owner, other, third) = (open(&dir), Arc::new(open(&dir)), open(&dir));
    owner.lock().unwrap();
    assert!(range_lock(&owner, libc::F_OFD_SETLK, libc::F_WRLCK).is_ok());
    // Nothing may close the file meanwhile: that would end the locks that `fcntl` has given this process.
    let (mine, owner) = (Arc::clone(&other), Arc::new(owner));
    let open = Arc::clone(&owner);
    Scene::new(
        move || call(&mine),
        move || {
            owner.unlock().unwrap();
            range_lock(&owner, libc::F_OFD_SETLK, libc::F_UNLCK).unwrap();
        },
        move |end| {
            let free =
                third.try_lock().is_ok() && range_lock(&third, libc::F_OFD_SETLK, libc::F_WRLCK).is_ok();
            assert_eq!(free, end == End::Broken, "the lock is free");
            drop((other, open, dir));
        },
    )
}

/// A lock on the whole file by `fcntl`.
pub fn range_lock(file: &File, command: i32, kind: i32) -> io::Result<isize> {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the structure is borrowed for the call.
    answer(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) } as isize)
}

fn open_on(path: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter(|link| std::fs::read_link(link.as_ref().unwrap().path()).is_ok_and(|to| to == path))
        .count()
}

/// A call that opens a FIFO without anybody at its other end.
pub fn opening(mut call: impl FnMut(&Path) -> io::Result<OwnedFd> + Send + 'static) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    let (mine, theirs) = (path.clone(), path.clone());
    let (ours, both) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let (opened, peer) = (Arc::clone(&ours), Arc::clone(&both));
    Scene::new(
        move || {
            let fd = call(&mine)?;
            *opened.lock().unwrap() = Some(fd);
            Ok(1)
        },
        move || {
            // As both reader and writer one never waits, and is what everybody waits for.
            let both = File::options().read(true).write(true).open(&theirs).unwrap();
            *peer.lock().unwrap() = Some(both);
        },
        move |end| {
            let expected = if end == End::Broken { 1 } else { 2 };
            assert_eq!(open_on(&path), expected, "descriptors on the FIFO");
            drop((ours, both, dir));
        },
    )
}
