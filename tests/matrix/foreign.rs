//! The blocking calls of the fail rung's table, made by the C library or as bare system calls in a foreign region, and those
//! that only a nudge ends.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::nap;
use crate::scene::{End, How, Row, Scene, answer, owned, pipe};
use crate::things::*;

const BYTE: &str = "the byte, for the next reader";
const NOTHING_WENT: &str = "nothing of it went through";
const UNLOCKED: &str = "no lock";
const READY: &str = "what is ready";
const DATAGRAM: &str = "the datagram, in the queue";
const CONNECTION: &str = "the connection, in the queue";
const CHILD: &str = "the child, to be reaped";
const NO_FD: &str = "no descriptor";
const MESSAGE: &str = "the message, in the queue";

fn row(
    posix: Option<&'static str>,
    call: &'static str,
    place: &'static str,
    leaves: &'static str,
    scene: fn() -> Scene,
) -> Row {
    let how = How::Stubborn;
    Row {
        posix,
        call,
        how,
        place,
        leaves,
        rounds: 60,
        scene,
    }
}

/// A system call or a function of the C library, as std would have it.
macro_rules! c {
    ($($call:tt)*) => {
        // SAFETY: descriptors are borrowed, buffers live for the statement and have the sizes that are told.
        answer(unsafe { libc::$($call)* } as isize)
    };
}

fn number(fd: &impl AsRawFd) -> RawFd {
    fd.as_raw_fd()
}

fn vector(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

fn message(vector: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a structure of numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vector;
    message.msg_iovlen = 1;
    message
}

fn several(vector: &mut libc::iovec) -> libc::mmsghdr {
    libc::mmsghdr {
        msg_hdr: message(vector),
        msg_len: 0,
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

pub fn rows() -> Vec<Row> {
    [
        bytes(),
        sockets(),
        processes_and_locks(),
        opens(),
        messages(),
        waits(),
        only_nudged(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn bytes() -> Vec<Row> {
    vec![
        row(None, "read", "read", BYTE, || {
            taking(pipe(), |fd| {
                c!(read(number(fd), [0_u8; 8].as_mut_ptr().cast(), 8))
            })
        }),
        row(None, "readv", "readv", BYTE, || {
            taking(pipe(), |fd| c!(readv(number(fd), &vector(&mut [0; 8]), 1)))
        }),
        row(None, "preadv2", "preadv2", BYTE, || {
            taking(pipe(), |fd| {
                c!(preadv2(number(fd), &vector(&mut [0; 8]), 1, -1, 0))
            })
        }),
        row(None, "write", "write", NOTHING_WENT, || {
            giving(pipe(), |fd| c!(write(number(fd), b"no room".as_ptr().cast(), 7)))
        }),
        row(None, "writev", "writev", NOTHING_WENT, || {
            giving(pipe(), |fd| {
                c!(writev(number(fd), &vector(&mut b"no room".to_owned()), 1))
            })
        }),
        row(None, "pwritev2", "pwritev2", NOTHING_WENT, || {
            giving(pipe(), |fd| {
                c!(pwritev2(
                    number(fd),
                    &vector(&mut b"no room".to_owned()),
                    1,
                    -1,
                    0
                ))
            })
        }),
        row(None, "sendfile", "sendfile", NOTHING_WENT, || {
            let file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut &file, b"no room").unwrap();
            giving(pipe(), move |fd| {
                c!(sendfile(number(fd), number(&file), &mut 0, 7))
            })
        }),
        row(None, "splice", "splice", BYTE, || {
            let (there, further) = pipe();
            taking(pipe(), move |fd| {
                let _open = &there;
                c!(splice(number(fd), null_mut(), number(&further), null_mut(), 8, 0))
            })
        }),
        row(None, "tee", "tee", BYTE, || {
            let (there, further) = pipe();
            watching(pipe(), move |fd| {
                let _open = &there;
                c!(tee(number(fd), number(&further), 8, 0))
            })
        }),
        row(None, "vmsplice", "vmsplice", NOTHING_WENT, || {
            giving(pipe(), |fd| {
                c!(vmsplice(number(fd), &vector(&mut b"no room".to_owned()), 1, 0))
            })
        }),
    ]
}

fn sockets() -> Vec<Row> {
    vec![
        row(None, "accept", "accept", CONNECTION, || {
            accepting(|socket| close(c!(accept(number(socket), null_mut(), null_mut()))))
        }),
        row(None, "accept4", "accept4", CONNECTION, || {
            accepting(|socket| {
                close(c!(accept4(
                    number(socket),
                    null_mut(),
                    null_mut(),
                    libc::SOCK_CLOEXEC
                )))
            })
        }),
        row(None, "connect", "connect", "no connection", || {
            connecting(connect)
        }),
        row(None, "recv, recvfrom", "recvfrom", DATAGRAM, || {
            receiving(|socket| c!(recv(number(socket), [0_u8; 8].as_mut_ptr().cast(), 8, 0)).map(|_| 1))
        }),
        row(Some("recvmsg"), "recvmsg", "recvmsg", DATAGRAM, || {
            receiving(|socket| {
                c!(recvmsg(number(socket), &mut message(&mut vector(&mut [0; 8])), 0)).map(|_| 1)
            })
        }),
        row(None, "recvmmsg", "recvmmsg", DATAGRAM, || {
            receiving(|socket| {
                c!(recvmmsg(
                    number(socket),
                    &mut several(&mut vector(&mut [0; 8])),
                    1,
                    0,
                    null_mut()
                ))
            })
        }),
        row(Some("sendto"), "send, sendto", "sendto", "no datagram", || {
            sending(|socket| c!(send(number(socket), b"no room".as_ptr().cast(), 7, 0)).map(|_| 1))
        }),
        row(Some("sendmsg"), "sendmsg", "sendmsg", "no datagram", || {
            sending(|socket| {
                c!(sendmsg(
                    number(socket),
                    &message(&mut vector(&mut b"no room".to_owned())),
                    0
                ))
                .map(|_| 1)
            })
        }),
        row(None, "sendmmsg", "sendmmsg", "no datagram", || {
            sending(|socket| {
                c!(sendmmsg(
                    number(socket),
                    &mut several(&mut vector(&mut b"no room".to_owned())),
                    1,
                    0
                ))
            })
        }),
    ]
}

fn close(fd: io::Result<isize>) -> io::Result<isize> {
    fd.map(|fd| drop(owned(fd))).map(|()| 1)
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = owned(c!(socket(
        libc::AF_UNIX,
        libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
        0
    ))?);
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut addr: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in addr.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *to = *from as libc::c_char;
    }
    let size = size_of_val(&addr) as libc::socklen_t;
    c!(connect(number(&socket), (&raw const addr).cast(), size))?;
    Ok(socket)
}

fn processes_and_locks() -> Vec<Row> {
    let children = [
        row(None, "wait, waitpid, wait4", "wait4", CHILD, || {
            parent(|child| c!(waitpid(child.id() as i32, null_mut(), 0)).map(|_| 1))
        }),
        row(None, "waitid", "waitid", CHILD, || {
            parent(|child| {
                // SAFETY: a structure of numbers, for which zero is a value.
                let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
                c!(waitid(libc::P_PID, child.id(), &mut info, libc::WEXITED)).map(|_| 1)
            })
        }),
    ];
    let children = children.map(|row| Row { rounds: 15, ..row });
    let locks = [
        row(None, "flock", "flock", UNLOCKED, || {
            locking(|file| c!(flock(number(file), libc::LOCK_EX)).map(|_| 1))
        }),
        row(
            Some("fcntl (F_SETLKW), lockf"),
            "fcntl(F_SETLKW)",
            "fcntl",
            UNLOCKED,
            || locking(|file| range_lock(file, libc::F_SETLKW, libc::F_WRLCK).map(|_| 1)),
        ),
        row(None, "fcntl(F_OFD_SETLKW)", "fcntl", UNLOCKED, || {
            locking(|file| range_lock(file, libc::F_OFD_SETLKW, libc::F_WRLCK).map(|_| 1))
        }),
        row(None, "semop", "semop", UNLOCKED, || {
            semaphore(|set, taken| c!(syscall(libc::SYS_semop, set, taken, 1)))
        }),
        row(None, "semtimedop", "semtimedop", UNLOCKED, || {
            semaphore(|set, taken| {
                c!(syscall(
                    libc::SYS_semtimedop,
                    set,
                    taken,
                    1,
                    null::<libc::timespec>()
                ))
            })
        }),
    ];
    children.into_iter().chain(locks).collect()
}

fn opens() -> Vec<Row> {
    vec![
        row(None, "open", "open", NO_FD, || {
            opening(|path| {
                let flags = libc::O_RDONLY | libc::O_CLOEXEC;
                c!(syscall(libc::SYS_open, c_path(path).as_ptr(), flags)).map(owned)
            })
        }),
        row(Some("creat"), "creat", "creat", NO_FD, || {
            opening(|path| c!(syscall(libc::SYS_creat, c_path(path).as_ptr(), 0o600)).map(owned))
        }),
        row(None, "openat", "openat", NO_FD, || {
            opening(|path| c!(open(c_path(path).as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC)).map(owned))
        }),
        row(None, "openat2", "openat2", NO_FD, || {
            opening(|path| {
                let how = [libc::O_RDONLY as u64, 0, 0];
                let here = libc::AT_FDCWD;
                c!(syscall(
                    libc::SYS_openat2,
                    here,
                    c_path(path).as_ptr(),
                    how.as_ptr(),
                    size_of_val(&how)
                ))
                .map(owned)
            })
        }),
    ]
}

/// A semaphore that is taken: `call` gets its set and the operation that takes it.
fn semaphore(mut call: impl FnMut(i32, *mut libc::sembuf) -> io::Result<isize> + Send + 'static) -> Scene {
    let set = c!(semget(libc::IPC_PRIVATE, 1, 0o600)).unwrap() as i32;
    let take = |flags| libc::sembuf {
        sem_num: 0,
        sem_op: -1,
        sem_flg: flags,
    };
    Scene::new(
        move || call(set, &mut take(0)).map(|_| 1),
        move || {
            c!(semop(
                set,
                &mut libc::sembuf {
                    sem_num: 0,
                    sem_op: 1,
                    sem_flg: 0
                },
                1
            ))
            .unwrap();
        },
        move |end| {
            let free = c!(semop(set, &mut take(libc::IPC_NOWAIT as libc::c_short), 1)).is_ok();
            c!(semctl(set, 0, libc::IPC_RMID)).unwrap();
            assert_eq!(free, end == End::Broken, "the semaphore is free");
        },
    )
}

#[repr(C)]
struct Letter {
    kind: libc::c_long,
    text: [u8; 8],
}

fn letter() -> Letter {
    Letter {
        kind: 1,
        text: *b"a letter",
    }
}

fn letters(queue: i32) -> usize {
    let flags = libc::IPC_NOWAIT;
    let mut room = letter();
    std::iter::from_fn(|| c!(msgrcv(queue, (&raw mut room).cast(), 8, 0, flags)).ok()).count()
}

fn messages() -> Vec<Row> {
    vec![
        row(Some("msgrcv"), "msgrcv", "msgrcv", MESSAGE, || {
            let queue = c!(msgget(libc::IPC_PRIVATE, 0o600)).unwrap() as i32;
            Scene::new(
                move || c!(msgrcv(queue, (&mut letter() as *mut Letter).cast(), 8, 0, 0)).map(|_| 1),
                move || assert!(c!(msgsnd(queue, (&letter() as *const Letter).cast(), 8, 0)).is_ok()),
                move |end| {
                    let left = letters(queue);
                    c!(msgctl(queue, libc::IPC_RMID, null_mut())).unwrap();
                    assert_eq!(left, usize::from(end == End::Broken), "letters left");
                },
            )
        }),
        row(Some("msgsnd"), "msgsnd", "msgsnd", "no message", || {
            let queue = c!(msgget(libc::IPC_PRIVATE, 0o600)).unwrap() as i32;
            let send = move |flags| c!(msgsnd(queue, (&letter() as *const Letter).cast(), 8, flags));
            let filled = std::iter::from_fn(|| send(libc::IPC_NOWAIT).ok()).count();
            Scene::new(
                move || send(0).map(|_| 1),
                move || assert!(c!(msgrcv(queue, (&mut letter() as *mut Letter).cast(), 8, 0, 0)).is_ok()),
                move |end| {
                    let left = letters(queue);
                    c!(msgctl(queue, libc::IPC_RMID, null_mut())).unwrap();
                    assert_eq!(left, filled - usize::from(end == End::Broken), "letters left");
                },
            )
        }),
        row(
            Some("mq_receive, mq_timedreceive"),
            "mq_receive",
            "mq_timedreceive",
            MESSAGE,
            || {
                let (queue, other) = mail();
                let call = Arc::clone(&queue);
                Scene::new(
                    move || c!(mq_receive(number(&*call), [0; 8].as_mut_ptr(), 8, null_mut())),
                    move || assert!(c!(mq_send(number(&other), c"!".as_ptr(), 1, 0)).is_ok()),
                    move |end| assert_eq!(queued(&queue), usize::from(end == End::Broken), "messages left"),
                )
            },
        ),
        row(
            Some("mq_send, mq_timedsend"),
            "mq_send",
            "mq_timedsend",
            "no message",
            || {
                let (queue, other) = mail();
                let call = Arc::clone(&queue);
                for _ in 0..2 {
                    c!(mq_send(number(&other), c"!".as_ptr(), 1, 0)).unwrap();
                }
                Scene::new(
                    move || c!(mq_send(number(&*call), c"!".as_ptr(), 1, 0)).map(|_| 1),
                    move || {
                        assert!(c!(mq_receive(number(&other), [0; 8].as_mut_ptr(), 8, null_mut())).is_ok())
                    },
                    move |end| {
                        assert_eq!(
                            queued(&queue),
                            2 - usize::from(end == End::Broken),
                            "messages left"
                        )
                    },
                )
            },
        ),
    ]
}

/// A message queue with room for two messages, opened twice.
fn mail() -> (Arc<OwnedFd>, OwnedFd) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "/throwto-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let name = CString::new(name).unwrap();
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut size: libc::mq_attr = unsafe { std::mem::zeroed() };
    (size.mq_maxmsg, size.mq_msgsize) = (2, 8);
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC;
    let mut open = || owned(c!(mq_open(name.as_ptr(), flags, 0o600, &raw mut size)).unwrap());
    let both = (Arc::new(open()), open());
    c!(mq_unlink(name.as_ptr())).unwrap();
    both
}

fn queued(queue: &OwnedFd) -> usize {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut state: libc::mq_attr = unsafe { std::mem::zeroed() };
    c!(mq_getattr(number(queue), &mut state)).unwrap();
    state.mq_curmsgs as usize
}

fn waits() -> Vec<Row> {
    vec![
        row(None, "nanosleep", "nanosleep", "nothing", || {
            sleeping(|left| c!(syscall(libc::SYS_nanosleep, left, left)))
        }),
        row(
            None,
            "sleep, nanosleep, clock_nanosleep",
            "clock_nanosleep",
            "nothing",
            || sleeping(|left| c!(nanosleep(left, left))),
        ),
        row(None, "poll", "poll", READY, || {
            watching(pipe(), |fd| c!(poll(&mut readable(fd), 1, -1)))
        }),
        row(None, "ppoll", "ppoll", READY, || {
            watching(pipe(), |fd| c!(ppoll(&mut readable(fd), 1, null(), null())))
        }),
        row(Some("select"), "select", "select", READY, || {
            watching(pipe(), |fd| {
                c!(syscall(
                    libc::SYS_select,
                    1 + number(fd),
                    &mut set(fd),
                    0_usize,
                    0_usize,
                    0_usize
                ))
            })
        }),
        row(Some("pselect"), "pselect", "pselect6", READY, || {
            watching(pipe(), |fd| {
                c!(pselect(
                    1 + number(fd),
                    &mut set(fd),
                    null_mut(),
                    null_mut(),
                    null(),
                    null()
                ))
            })
        }),
        row(None, "epoll_wait", "epoll_wait", READY, || {
            polling(|queue, event| c!(epoll_wait(number(queue), event, 1, -1)))
        }),
        row(None, "epoll_pwait", "epoll_pwait", READY, || {
            polling(|queue, event| c!(epoll_pwait(number(queue), event, 1, -1, null())))
        }),
        row(None, "epoll_pwait2", "epoll_pwait2", READY, || {
            polling(|queue, event| {
                c!(syscall(
                    libc::SYS_epoll_pwait2,
                    number(queue),
                    event,
                    1,
                    0_usize,
                    0_usize,
                    8_usize
                ))
            })
        }),
    ]
}

fn readable(fd: &OwnedFd) -> libc::pollfd {
    libc::pollfd {
        fd: number(fd),
        events: libc::POLLIN,
        revents: 0,
    }
}

fn set(fd: &OwnedFd) -> libc::fd_set {
    // SAFETY: a structure of numbers, for which zero is the empty set.
    let mut set: libc::fd_set = unsafe { std::mem::zeroed() };
    assert!((number(fd) as usize) < libc::FD_SETSIZE);
    // SAFETY: the number is below the size of the set.
    unsafe { libc::FD_SET(number(fd), &mut set) };
    set
}

fn polling(
    mut call: impl FnMut(&OwnedFd, *mut libc::epoll_event) -> io::Result<isize> + Send + 'static,
) -> Scene {
    let queue = owned(c!(epoll_create1(libc::EPOLL_CLOEXEC)).unwrap());
    let ends = pipe();
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 0,
    };
    c!(epoll_ctl(
        number(&queue),
        libc::EPOLL_CTL_ADD,
        number(&ends.0),
        &mut event
    ))
    .unwrap();
    watching(ends, move |_| call(&queue, &mut event))
}

/// Sleeps on after each signal, for what is left.
fn sleeping(mut call: impl FnMut(*mut libc::timespec) -> io::Result<isize> + Send + 'static) -> Scene {
    let time = nap();
    let mut left = libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(time.subsec_nanos()),
    };
    Scene::new(move || call(&mut left), || (), |_| ())
}

/// What the fail rung must not touch: a nudge ends it with EINTR, which code that asks again takes for nothing.
fn only_nudged() -> Vec<Row> {
    let meek = |row| Row {
        how: How::Meek,
        ..row
    };
    let alone = |row| Row {
        rounds: 0,
        ..meek(row)
    };
    vec![
        meek(row(
            Some("sem_wait, sem_timedwait"),
            "sem_wait",
            "futex wait",
            "the semaphore as it was",
            || {
                let semaphore = Arc::new(Shared(std::cell::UnsafeCell::new(empty_semaphore())));
                let (mine, theirs) = (Arc::clone(&semaphore), Arc::clone(&semaphore));
                Scene::new(
                    move || c!(sem_wait(mine.0.get())).map(|_| 1),
                    move || assert!(c!(sem_post(theirs.0.get())).is_ok()),
                    move |end| {
                        let left = c!(sem_trywait(semaphore.0.get())).is_ok();
                        assert_eq!(left, end == End::Broken, "it can be taken");
                    },
                )
            },
        )),
        alone(row(Some("pause"), "pause", "pause", "nothing", || {
            Scene::new(|| c!(pause()), || (), |_| ())
        })),
        alone(row(
            Some("sigsuspend"),
            "sigsuspend",
            "rt_sigsuspend",
            "nothing",
            || Scene::new(|| c!(sigsuspend(&no_signals())), || (), |_| ()),
        )),
        alone(row(
            Some("sigwaitinfo, sigtimedwait"),
            "sigwaitinfo",
            "rt_sigtimedwait",
            "the signal, pending",
            || Scene::new(|| c!(sigwaitinfo(&no_signals(), null_mut())), || (), |_| ()),
        )),
    ]
}

/// A semaphore of C's, used by two threads as C does.
struct Shared(std::cell::UnsafeCell<libc::sem_t>);

// SAFETY: it is used through the functions of the C library alone, which may be called by any thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

fn empty_semaphore() -> libc::sem_t {
    // SAFETY: what `sem_init` makes of it is what counts, and glibc's semaphore may be moved while nobody waits.
    let mut semaphore = unsafe { std::mem::zeroed() };
    c!(sem_init(&mut semaphore, 0, 0)).unwrap();
    semaphore
}

fn no_signals() -> libc::sigset_t {
    // SAFETY: a structure of numbers, for which zero is the empty set.
    unsafe { std::mem::zeroed() }
}
