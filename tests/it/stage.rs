//! What the tests share: numbered exceptions whose drops are counted, waiting for a state to be seen, raw system calls.
//!
//! Nothing here waits a fixed time to let another thread get somewhere: [`until`] waits for what can be observed, and its
//! deadline can only fail the test.

#![allow(dead_code)]

use std::collections::HashMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use throwto::foreign::Call;
use throwto::{Raised, ReceiptState, Rung, ThreadId, ThreadInfo, thread, threads};

/// How long anything may take before the test fails. Only what hangs takes as long, however slow the machine.
pub const LIMIT: Duration = Duration::from_secs(180);
/// Longer than any test: a wait of this length ends only by a raise.
pub const FOREVER: Duration = Duration::from_secs(3600);

/// A listener whose queue is full, its address, and what fills the queue: nobody accepts, and the next to connect waits. Not full before
/// somebody has been seen to wait: handshakes that are under way leave room for more.
pub fn full_listener() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
    use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn};
    let listener = socket::socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    socket::bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let listener = TcpListener::from(listener);
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
        queued.push(stream);
    }
    (listener, addr, queued)
}

/// Counts the lives of one test's exceptions.
#[derive(Debug, Default)]
pub struct Ledger {
    made: AtomicU64,
    dropped: Mutex<HashMap<u64, u32>>,
}

impl Ledger {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    pub fn drops_of(&self, number: u64) -> u32 {
        self.dropped.lock().unwrap().get(&number).copied().unwrap_or(0)
    }

    /// Every exception that was made has been dropped, and none twice.
    #[track_caller]
    pub fn balance(&self) {
        let dropped = self.dropped.lock().unwrap();
        let twice: Vec<_> = dropped.iter().filter(|(_, times)| **times != 1).collect();
        assert!(twice.is_empty(), "dropped more than once: {twice:?}");
        assert_eq!(dropped.len() as u64, self.made(), "made and never dropped");
    }
}

macro_rules! numbered {
    ($($(#[$meta:meta])* $name:ident)*) => {$(
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name {
            pub number: u64,
            ledger: Arc<Ledger>,
        }

        impl $name {
            pub fn new(ledger: &Arc<Ledger>) -> Self {
                let number = ledger.made.fetch_add(1, Ordering::SeqCst);
                Self { number, ledger: Arc::clone(ledger) }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                *self.ledger.dropped.lock().unwrap().entry(self.number).or_default() += 1;
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", stringify!($name), self.number)
            }
        }

        impl std::error::Error for $name {}
    )*};
}

numbered! {
    /// An exception with a number, whose drops are counted.
    Numbered
    /// Another, of a type of its own.
    Other
}

/// The number of a delivered [`Numbered`] or [`Other`].
pub fn number_of(raised: &Raised) -> u64 {
    raised
        .downcast_ref::<Numbered>()
        .map(|e| e.number)
        .or_else(|| raised.downcast_ref::<Other>().map(|e| e.number))
        .unwrap_or_else(|| panic!("not one of ours: {raised:?}"))
}

/// Waits until `done()`.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(
            Instant::now() < deadline,
            "never seen: {what}; threads: {:#?}",
            threads()
        );
        std::thread::sleep(Duration::from_micros(50));
    }
}

pub fn info(id: ThreadId) -> Option<ThreadInfo> {
    threads().into_iter().find(|t| t.id == id)
}

/// Waits until the thread is blocked where `place` says: the beginning of its `where_blocked`.
#[track_caller]
pub fn until_blocked(id: ThreadId, place: &str) {
    until(place, || {
        info(id).is_some_and(|t| begins_at(&place_of(&t), place))
    });
}

/// Whether a `where_blocked` begins as `place` says. C's `poll` is the system call `ppoll` where the system has no other.
pub fn begins_at(told: &str, place: &str) -> bool {
    let newer = told.strip_prefix('p').filter(|_| place.starts_with("poll("));
    told.starts_with(place) || newer.is_some_and(|rest| rest.starts_with(place))
}

#[cfg(throwto_ladder)]
pub fn place_of(thread: &ThreadInfo) -> String {
    thread.where_blocked.clone()
}

/// The same for builds whose runtime does not look: as much of it as the tests ask for.
#[cfg(not(throwto_ladder))]
pub fn place_of(thread: &ThreadInfo) -> String {
    let path = format!("/proc/self/task/{}/syscall", thread.os_tid);
    let line = std::fs::read_to_string(path).unwrap_or_default();
    let mut words = line.split(' ');
    let number = words.next().and_then(|word| word.trim_end().parse().ok());
    let first = words.next().and_then(|word| word.strip_prefix("0x"));
    let first = first
        .and_then(|word| u64::from_str_radix(word, 16).ok())
        .unwrap_or(0);
    match number {
        Some(libc::SYS_read) => format!("read(fd {first}"),
        Some(libc::SYS_poll) => "poll(".into(),
        Some(libc::SYS_futex) => "futex wait".into(),
        _ => line,
    }
}

/// Allows the rung fail, if `fail` and where there is one.
pub fn with_fail(call: Call<'_>, fail: bool) -> Call<'_> {
    if fail && Call::supports(Rung::Fail) {
        call.fail_syscalls()
    } else {
        call
    }
}

/// What a [`breakable_read`] returns when it is broken.
pub const BROKEN: i32 = if cfg!(throwto_ladder) {
    libc::ECANCELED
} else {
    libc::EINTR
};

/// A read as stubborn as this system's rungs can end.
pub fn breakable_read(fd: &impl AsRawFd) -> Result<usize, i32> {
    if Call::supports(Rung::Fail) {
        stubborn_read(fd).0
    } else {
        raw_read(fd)
    }
}

/// Waits until the thread sleeps in a wait of ours.
#[track_caller]
pub fn until_waiting(id: ThreadId) {
    until("waiting", || {
        info(id).is_some_and(|t| t.state == thread_state_waiting() && place_of(&t).starts_with("futex wait"))
    });
}

fn thread_state_waiting() -> throwto::ThreadState {
    throwto::ThreadState::Waiting
}

/// Tells those who look at it to end, also when the test fails: threads that went on would hang it instead.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs `body`, the whole of the test `name`, in a process of its own: this program once more, for that test alone. No
/// other test's thread starts or ends beside it, and if it hangs the test fails and tells where its threads are.
#[track_caller]
pub fn in_own_process(name: &str, body: impl FnOnce()) {
    const ALONE: &str = "THROWTO_ALONE";
    if std::env::var(ALONE).is_ok_and(|alone| alone == name) {
        return body();
    }
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    let mut alone = alone
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, name)
        .spawn()
        .unwrap();
    // Who asks for every step gets hours of them, with a watchdog of their own.
    let limit = if std::env::var_os("THROWTO_STEPS").is_some() {
        500 * LIMIT
    } else {
        3 * LIMIT
    };
    let deadline = Instant::now() + limit;
    let status = loop {
        match alone.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            None => {
                let places = places_in(alone.id());
                alone.kill().unwrap();
                alone.wait().unwrap();
                panic!("{name} hangs; its threads, with what they are in:\n{places}");
            }
        }
    };
    assert!(status.success(), "{name}: {status}");
}

/// Each thread of a process: its name, and its system call as the kernel prints it.
fn places_in(process: u32) -> String {
    let told = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten();
    threads
        .flatten()
        .map(|thread| {
            let (name, call) = (
                told(thread.path().join("comm")),
                told(thread.path().join("syscall")),
            );
            format!("{}: {}\n", name.trim(), call.trim())
        })
        .collect()
}

#[track_caller]
pub fn join<T>(handle: thread::JoinHandle<T>) -> T {
    match handle.join_timeout(LIMIT) {
        Ok(Ok(value)) => value,
        Ok(Err(handle)) => panic!("never ended: {:#?}", info(handle.id())),
        Err(error) => panic!("{error:?}"),
    }
}

/// Waits for a final state.
#[track_caller]
pub fn fate(receipt: &throwto::Receipt) -> ReceiptState {
    let state = receipt.wait(LIMIT);
    assert!(state.is_final(), "still {state:?}: {:#?}", info(receipt.target()));
    state
}

/// Spins to safepoints until one raises.
pub fn spin() -> Raised {
    loop {
        if let Err(raised) = throwto::safepoint() {
            return raised;
        }
        std::hint::spin_loop();
    }
}

/// `read(2)` of one byte, as C would: the number of bytes, or an errno. No retry.
pub fn raw_read(fd: &impl AsRawFd) -> Result<usize, i32> {
    let mut byte = 0_u8;
    // SAFETY: one writable byte, borrowed for the call.
    let read = unsafe { libc::read(fd.as_raw_fd(), (&raw mut byte).cast(), 1) };
    usize::try_from(read).map_err(|_| errno())
}

pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Reads as bad C does: again for as long as the answer is EINTR. Returns what ended it and how often it was interrupted.
pub fn stubborn_read(fd: &impl AsRawFd) -> (Result<usize, i32>, usize) {
    let mut interrupted = 0;
    loop {
        match raw_read(fd) {
            Err(libc::EINTR) => interrupted += 1,
            end => return (end, interrupted),
        }
    }
}

/// A small generator of random numbers, so that a seed replays a run as far as threads do.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// How many rounds a race is run: `THROWTO_ROUNDS`, or as many as a test can afford every time. That is a tenth on an emulated
/// processor, which `.ci/aarch64` says by `THROWTO_EMULATED`; nothing else is left out there.
pub fn rounds(affordable: u64) -> u64 {
    match std::env::var("THROWTO_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("THROWTO_ROUNDS is a number"),
        Err(_) if std::env::var_os("THROWTO_EMULATED").is_some() => affordable / 10,
        Err(_) => affordable,
    }
}

/// The seed of this run: `THROWTO_SEED`, or the clock.
pub fn seed() -> u64 {
    match std::env::var("THROWTO_SEED") {
        Ok(seed) => seed.parse().expect("THROWTO_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64),
    }
}
