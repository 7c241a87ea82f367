//! The blocking calls of this crate.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use throwto::io::{Interruptible, PollFd, poll, wait_readable};
use throwto::sync::{RecvError, SendError, channel, sync_channel};
use throwto::thread::JoinError;
use throwto::{ThreadId, foreign, fs, process, thread};

use crate::nap;
use crate::scene::{End, How, Row, Scene, pipe};
use crate::things::*;

const BYTES_STAY: &str = "the byte, for the next reader";
const NOTHING_WENT: &str = "nothing of it went through";
const UNLOCKED: &str = "no lock";

const fn row(
    posix: Option<&'static str>,
    call: &'static str,
    place: &'static str,
    leaves: &'static str,
    scene: fn() -> Scene,
) -> Row {
    Row {
        posix,
        call,
        how: How::Ours,
        place,
        leaves,
        rounds: 150,
        scene,
    }
}

pub fn rows() -> Vec<Row> {
    let cheap = vec![
        row(
            Some("read"),
            "io::Interruptible::read",
            "read",
            BYTES_STAY,
            || {
                taking(pipe(), |fd| {
                    count(Interruptible::new(fd.try_clone()?.into_file()).read(&mut [0; 8]))
                })
            },
        ),
        row(
            Some("readv"),
            "io::Interruptible::read_vectored",
            "readv",
            BYTES_STAY,
            || {
                taking(pipe(), |fd| {
                    let mut room = [0; 8];
                    let mut reader = Interruptible::new(fd.try_clone()?.into_file());
                    count(reader.read_vectored(&mut [IoSliceMut::new(&mut room)]))
                })
            },
        ),
        row(
            Some("write"),
            "io::Interruptible::write",
            "write",
            NOTHING_WENT,
            || {
                giving(pipe(), |fd| {
                    count(Interruptible::new(fd.try_clone()?.into_file()).write(b"no room"))
                })
            },
        ),
        row(
            Some("writev"),
            "io::Interruptible::write_vectored",
            "writev",
            NOTHING_WENT,
            || {
                giving(pipe(), |fd| {
                    let mut writer = Interruptible::new(fd.try_clone()?.into_file());
                    count(writer.write_vectored(&[IoSlice::new(b"no room")]))
                })
            },
        ),
        row(
            None,
            "io::Interruptible::accept (Unix)",
            "accept4",
            "the connection, in the queue",
            || accepting(|listener| Interruptible::new(listener.try_clone()?).accept().map(|_| 1)),
        ),
        row(
            Some("accept"),
            "io::Interruptible::accept (TCP)",
            "accept4",
            "the connection, in the queue",
            tcp,
        ),
        row(
            Some("connect"),
            "io::connect_unix",
            "connect",
            "no connection, no descriptor",
            || {
                connecting(|path| {
                    throwto::io::connect_unix(path).map(|stream| OwnedFd::from(stream.into_inner()))
                })
            },
        ),
        row(
            Some("recv"),
            "io::Interruptible::recv",
            "recvfrom",
            "the datagram, in the queue",
            || {
                receiving(|socket| {
                    Interruptible::new(socket.try_clone()?)
                        .recv(&mut [0; 8])
                        .map(|_| 1)
                })
            },
        ),
        row(
            Some("recvfrom"),
            "io::Interruptible::recv_from",
            "recvfrom",
            "the datagram, in the queue",
            udp,
        ),
        row(
            Some("send"),
            "io::Interruptible::send",
            "sendto",
            "no datagram",
            || {
                sending(|socket| {
                    Interruptible::new(socket.try_clone()?)
                        .send(b"no room")
                        .map(|_| 1)
                })
            },
        ),
        row(Some("poll"), "io::poll", "ppoll", "what is ready", || {
            watching(pipe(), |fd| count(poll(&mut [PollFd::readable(fd)], None)))
        }),
        row(None, "io::wait_readable", "ppoll", "what is ready", || {
            watching(pipe(), |fd| wait_readable(fd, None).map(isize::from))
        }),
        row(None, "fs::lock", "flock", UNLOCKED, || {
            locking(|file| fs::lock(file).map(std::mem::forget).map(|()| 1))
        }),
        row(None, "fs::lock_shared", "flock", UNLOCKED, || {
            locking(|file| fs::lock_shared(file).map(std::mem::forget).map(|()| 1))
        }),
        row(
            Some("open, openat"),
            "fs::open",
            "openat",
            "no descriptor",
            || opening(|path| fs::open(path).map(OwnedFd::from)),
        ),
        row(None, "fs::open_write", "openat", "no descriptor", || {
            opening(|path| fs::open_write(path).map(OwnedFd::from))
        }),
        row(
            Some("sleep, nanosleep, clock_nanosleep"),
            "thread::sleep",
            "futex wait",
            "nothing",
            || {
                // How long it slept is all that it does.
                Scene::new(
                    || thread::sleep(nap()).map_err(io::Error::from).map(|()| 1),
                    || (),
                    |_| (),
                )
            },
        ),
        row(None, "thread::park", "futex wait", "nothing", || {
            parking(|| thread::park().map(|()| true))
        }),
        row(None, "thread::park_timeout", "futex wait", "nothing", || {
            parking(|| thread::park_timeout(crate::stage::FOREVER).map(|()| true))
        }),
        row(
            Some("pthread_join"),
            "thread::JoinHandle::join",
            "futex wait",
            "the handle, to join again",
            joining,
        ),
        row(None, "sync::Mutex::lock", "futex wait", UNLOCKED, mutex),
        row(
            Some("pthread_cond_wait, pthread_cond_timedwait"),
            "sync::Condvar::wait",
            "futex wait",
            UNLOCKED,
            condvar,
        ),
        row(
            None,
            "sync::Receiver::recv",
            "futex wait",
            "the value, in the channel",
            receiver,
        ),
        row(
            None,
            "sync::SyncSender::send",
            "futex wait",
            "the value, with the sender",
            sender,
        ),
        row(
            None,
            "foreign::detached",
            "futex wait",
            "the call, which goes on without its caller",
            detached,
        ),
    ];
    let dear = [
        Row {
            rounds: 10,
            ..row(
                None,
                "io::connect (TCP)",
                "connect",
                "no connection, no descriptor",
                tcp_connect,
            )
        },
        Row {
            rounds: 25,
            ..row(
                Some("wait, waitpid, waitid"),
                "process::wait",
                "waitid",
                "the child, to be reaped",
                || parent(|child| process::wait(child).map(|_| 1)),
            )
        },
        Row {
            rounds: 25,
            ..row(
                None,
                "process::wait_timeout",
                "ppoll",
                "the child, to be reaped",
                || {
                    parent(|child| {
                        process::wait_timeout(child, crate::stage::FOREVER)
                            .map(|ended| ended.map_or(0, |_| 1))
                    })
                },
            )
        },
    ];
    cheap.into_iter().chain(dear).collect()
}

/// A descriptor as something to read from and write to.
trait IntoFile {
    fn into_file(self) -> std::fs::File;
}

impl IntoFile for OwnedFd {
    fn into_file(self) -> std::fs::File {
        self.into()
    }
}

fn count(result: io::Result<usize>) -> io::Result<isize> {
    result.map(|count| count as isize)
}

fn left_after(end: End) -> usize {
    usize::from(end == End::Broken)
}

fn tcp() -> Scene {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = Arc::new(Interruptible::new(listener));
    let mine = Arc::clone(&listener);
    let client = Arc::new(Mutex::new(None));
    let coming = Arc::clone(&client);
    Scene::new(
        move || mine.accept().map(|_| 1),
        move || *coming.lock().unwrap() = Some(TcpStream::connect(addr).unwrap()),
        move |end| {
            listener.get_ref().set_nonblocking(true).unwrap();
            let left = std::iter::from_fn(|| listener.get_ref().accept().ok()).count();
            assert_eq!(left, left_after(end), "connections left");
            drop(client);
        },
    )
}

/// A listener whose queue is full makes the kernel try again after a second.
fn tcp_connect() -> Scene {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
    use std::os::fd::AsRawFd;
    let stream = |flags| socket::socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    let listener = stream(SockFlag::SOCK_CLOEXEC);
    socket::bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
    let bound: SockaddrIn = socket::getsockname(listener.as_raw_fd()).unwrap();
    let client = |_| {
        let client = stream(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
        let _ = socket::connect(client.as_raw_fd(), &bound);
        client
    };
    let queue: Vec<_> = (0..2).map(client).collect();
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(true).unwrap();
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], bound.port()));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let taking = Arc::clone(&taken);
    Scene::new(
        move || throwto::io::connect(addr).map(|_| 1),
        move || {
            taking
                .lock()
                .unwrap()
                .extend(std::iter::from_fn(|| listener.accept().ok()))
        },
        move |_| drop((queue, taken)),
    )
}

fn udp() -> Scene {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let socket = Arc::new(Interruptible::new(socket));
    let mine = Arc::clone(&socket);
    Scene::new(
        move || mine.recv_from(&mut [0; 8]).map(|_| 1),
        move || {
            UdpSocket::bind("127.0.0.1:0")
                .unwrap()
                .send_to(b"!", addr)
                .unwrap();
        },
        move |end| {
            socket.get_ref().set_nonblocking(true).unwrap();
            let left = std::iter::from_fn(|| socket.get_ref().recv(&mut [0; 8]).ok()).count();
            assert_eq!(left, left_after(end), "datagrams left");
        },
    )
}

/// Whether a token is left can be seen in the thread alone.
fn parking(mut park: impl FnMut() -> Result<bool, throwto::Raised> + Send + 'static) -> Scene {
    let id = Arc::new(OnceLock::new());
    let told = Arc::clone(&id);
    Scene::new(
        move || {
            told.get_or_init(|| ThreadId::current().unwrap());
            assert!(park()?, "nobody unparked it");
            Ok(1)
        },
        move || {
            crate::stage::until("who parks", || id.get().is_some());
            thread::unpark(*id.get().unwrap());
        },
        |_| (),
    )
}

fn joining() -> Scene {
    let (let_go, held) = mpsc::channel::<()>();
    let other = thread::spawn(move || held.recv().is_err());
    let other = Arc::new(Mutex::new(Some(other)));
    let mine = Arc::clone(&other);
    let mut let_go = Some(let_go);
    Scene::new(
        move || {
            let handle = mine.lock().unwrap().take().unwrap();
            match handle.join() {
                Ok(_) => Ok(1),
                Err(JoinError::Interrupted(raised, handle)) => {
                    *mine.lock().unwrap() = Some(handle);
                    Err(raised.into())
                }
                Err(other) => panic!("{other}"),
            }
        },
        move || drop(let_go.take()),
        move |end| {
            let left = other.lock().unwrap().take();
            assert_eq!(left.is_some(), end == End::Broken, "a handle is left");
            left.into_iter()
                .for_each(|handle| assert!(crate::stage::join(handle)));
        },
    )
}

fn mutex() -> Scene {
    let lock = Arc::new(throwto::sync::Mutex::new(0_u32));
    let (mine, theirs) = (Arc::clone(&lock), Arc::clone(&lock));
    let ((let_go, told), (tell, held)) = (mpsc::channel::<()>(), mpsc::channel());
    let holder = std::thread::spawn(move || {
        let guard = theirs.lock();
        tell.send(()).unwrap();
        let _ = told.recv();
        drop(guard);
    });
    held.recv().unwrap();
    let mut holder = Some((let_go, holder));
    Scene::new(
        move || {
            *mine.lock()? += 1;
            Ok(1)
        },
        move || {
            let (let_go, holder) = holder.take().unwrap();
            drop(let_go);
            holder.join().unwrap();
        },
        move |end| {
            let count = *lock.try_lock().expect("the lock is free");
            assert_eq!(count as usize, 1 - left_after(end), "entered");
        },
    )
}

fn condvar() -> Scene {
    let pair = Arc::new((throwto::sync::Mutex::new(false), throwto::sync::Condvar::new()));
    let (mine, theirs) = (Arc::clone(&pair), Arc::clone(&pair));
    Scene::new(
        move || {
            let mut ready = mine.0.lock()?;
            while !*ready {
                ready = mine.1.wait(ready)?;
            }
            Ok(1)
        },
        move || {
            // Notified outside the lock and without an attachment: nothing of this can be raised into.
            loop {
                if let Some(mut ready) = theirs.0.try_lock() {
                    *ready = true;
                    break;
                }
                std::thread::yield_now();
            }
            theirs.1.notify_all();
        },
        move |_| assert!(*pair.0.try_lock().expect("the lock is free")),
    )
}

fn receiver() -> Scene {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let mine = Arc::clone(&receiver);
    Scene::new(
        move || match mine.lock().unwrap().recv() {
            Ok(value) => Ok(value),
            Err(RecvError::Raised(raised)) => Err(raised.into()),
            Err(other) => panic!("{other}"),
        },
        move || sender.send(1).unwrap(),
        move |end| {
            let left = receiver.lock().unwrap().try_recv().is_ok();
            assert_eq!(usize::from(left), left_after(end), "a value is left");
        },
    )
}

fn sender() -> Scene {
    let (sender, receiver) = sync_channel(1);
    sender.try_send(0).unwrap();
    let receiver = Arc::new(Mutex::new(receiver));
    let theirs = Arc::clone(&receiver);
    Scene::new(
        move || match sender.send(1) {
            Ok(()) => Ok(1),
            Err(SendError::Raised(raised, 1)) => Err(raised.into()),
            Err(other) => panic!("{other:?}"),
        },
        move || assert_eq!(theirs.lock().unwrap().try_recv().ok(), Some(0)),
        move |end| {
            let sent = receiver.lock().unwrap().try_recv().is_ok();
            assert_eq!(usize::from(!sent), left_after(end), "a value was sent");
        },
    )
}

fn detached() -> Scene {
    let (let_go, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let ended = Arc::new(AtomicUsize::new(0));
    let ends = Arc::clone(&ended);
    let mut let_go = Some(let_go);
    Scene::new(
        move || {
            let (held, ends) = (Arc::clone(&held), Arc::clone(&ends));
            let call = foreign::detached(move || {
                let _ = held.lock().unwrap().recv();
                ends.fetch_add(1, Ordering::SeqCst);
            });
            call.map(|()| 1).map_err(io::Error::from)
        },
        move || drop(let_go.take()),
        move |_| {
            let gone = || throwto::stats().left_running == 0;
            crate::stage::until("the call that was left behind ends", gone);
            assert!(ended.load(Ordering::SeqCst) <= 1, "it ran once at most");
        },
    )
}
