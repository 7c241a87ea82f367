//! The tracee's half: a thread that makes guarded calls between two marks, and one beside it that raises when it is told to.

use std::arch::asm;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use throwto::foreign::Call;
use throwto::io::Interruptible;
use throwto::{Raised, ReceiptState, Stop, thread};

use super::stage::{FOREVER, stubborn_read};

/// Set in the tracee's environment.
pub const TRACEE: &str = "THROWTO_TRACEE";

/// Orders for the raiser, and its answer.
pub const RAISE: u8 = b'r';
pub const WRITE: u8 = b'w';
pub const DONE: u8 = b'd';

/// What the thread says at a mark.
pub const READY: u64 = 1;
pub const BEGIN: u64 = 2;
pub const END: u64 = 3;
/// The answer that ends it.
pub const QUIT: u64 = 99;

/// How a call ended. Each is said only when everything that goes with it holds.
pub const RAISED: u64 = 10;
pub const KEPT: u64 = 11;
pub const FAILED: u64 = 12;
/// Something does not hold.
pub const WRONG: u64 = 20;

/// The guarded calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Guarded {
    ReadEmpty,
    ReadReady,
    AcceptEmpty,
    AcceptReady,
    Sleep,
    FailEmpty,
    FailReady,
    MaskedRead,
}

pub const ALL: [Guarded; 8] = [
    Guarded::ReadEmpty,
    Guarded::ReadReady,
    Guarded::AcceptEmpty,
    Guarded::AcceptReady,
    Guarded::Sleep,
    Guarded::FailEmpty,
    Guarded::FailReady,
    Guarded::MaskedRead,
];

/// A mark: the tracer sees what is said, and answers.
#[inline(never)]
fn mark(said: u64, more: u64) -> u64 {
    let answer;
    // SAFETY: a breakpoint; the tracer changes one register, which is declared.
    unsafe { asm!("int3", inlateout("rax") said => answer, in("rdi") more) };
    answer
}

/// What came of a call.
enum End {
    Raised,
    Kept,
    Failed,
    Strange(String),
}

struct Room {
    reader: PipeReader,
    writer: PipeWriter,
    listener: Interruptible<TcpListener>,
    clients: Vec<TcpStream>,
}

impl Room {
    fn ready(&mut self, guarded: Guarded) {
        match guarded {
            Guarded::ReadReady | Guarded::FailReady => self.writer.write_all(b"!").unwrap(),
            Guarded::AcceptReady => {
                let address = self.listener.get_ref().local_addr().unwrap();
                self.clients.push(TcpStream::connect(address).unwrap());
            }
            _ => {}
        }
    }

    fn call(&mut self, guarded: Guarded) -> End {
        let read = |reader: &PipeReader| match Interruptible::new(reader).read(&mut [0]) {
            Ok(1) => End::Kept,
            Ok(count) => End::Strange(format!("read {count}")),
            Err(error) => raised(error),
        };
        match guarded {
            Guarded::ReadEmpty | Guarded::ReadReady => read(&self.reader),
            Guarded::MaskedRead => throwto::mask(|_| read(&self.reader)),
            Guarded::AcceptEmpty | Guarded::AcceptReady => match self.listener.accept() {
                Ok(_) => End::Kept,
                Err(error) => raised(error),
            },
            Guarded::Sleep => match thread::sleep(FOREVER) {
                Ok(()) => End::Strange("slept".into()),
                Err(raised) if raised.is::<Stop>() => End::Raised,
                Err(raised) => End::Strange(raised.to_string()),
            },
            Guarded::FailEmpty | Guarded::FailReady => {
                match Call::new("read")
                    .fail_syscalls()
                    .run(|| stubborn_read(&self.reader).0)
                {
                    Ok(Ok(1)) => End::Kept,
                    Ok(Err(libc::ECANCELED)) => End::Failed,
                    Ok(other) => End::Strange(format!("{other:?}")),
                    Err(raised) if raised.is::<Stop>() => End::Raised,
                    Err(raised) => End::Strange(raised.to_string()),
                }
            }
        }
    }

    /// Takes what the call has left, and tells how much it was.
    fn left(&mut self, guarded: Guarded) -> usize {
        match guarded {
            Guarded::AcceptEmpty | Guarded::AcceptReady => {
                self.listener.get_ref().set_nonblocking(true).unwrap();
                let count = std::iter::from_fn(|| self.listener.get_ref().accept().ok()).count();
                self.listener.get_ref().set_nonblocking(false).unwrap();
                self.clients.clear();
                count
            }
            _ => {
                let mut count = 0_i32;
                // SAFETY: writes one int.
                unsafe { libc::ioctl(self.reader.as_raw_fd(), libc::FIONREAD, &raw mut count) };
                self.reader.read_exact(&mut vec![0; count as usize]).unwrap();
                count as usize
            }
        }
    }
}

fn raised(error: io::Error) -> End {
    match Raised::from_io(error) {
        Ok(raised) if raised.is::<Stop>() => End::Raised,
        Ok(raised) => End::Strange(raised.to_string()),
        Err(error) => End::Strange(error.to_string()),
    }
}

/// The traced thread. `there` is what lay ready for the call; a raise that comes late is waited for.
fn traced(room: &mut Room) {
    loop {
        let asked = mark(READY, 0);
        if asked == QUIT {
            return;
        }
        let guarded = ALL[asked as usize];
        room.ready(guarded);
        mark(BEGIN, 0);
        let end = room.call(guarded);
        // The answer: bit 0, the raise was made before; from bit 1, how much lay ready.
        let told = mark(END, 0);
        let (punctual, there) = (told & 1 == 1, (told >> 1) as usize);
        let left = room.left(guarded);
        let said = match end {
            End::Raised if left == there => RAISED,
            End::Kept if left + 1 == there && pending_after(punctual) => KEPT,
            End::Failed if left == there && pending_after(punctual) => FAILED,
            End::Strange(what) => {
                eprintln!("{guarded:?}: {what}");
                WRONG
            }
            _ => {
                eprintln!("{guarded:?}: {left} left of {there}");
                WRONG
            }
        };
        let quiet = throwto::safepoint().is_ok() && !nudge_blocked();
        mark(if quiet { said } else { WRONG + 1 }, 0);
    }
}

/// Whether the exception is met at the next safepoint, or for one that is still being raised at one soon.
fn pending_after(punctual: bool) -> bool {
    if punctual {
        throwto::safepoint().is_err()
    } else {
        thread::sleep(Duration::from_secs(60)).is_err()
    }
}

fn nudge_blocked() -> bool {
    let mask = nix::sys::signal::SigSet::thread_get_mask().unwrap();
    mask.contains(nix::sys::signal::Signal::SIGURG)
}

extern "C" fn stray(_: i32) {}

fn install(signal: i32, flags: i32) {
    // SAFETY: all zero is an action with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = stray as *const () as usize;
    action.sa_flags = flags;
    // SAFETY: the handler does nothing.
    let installed = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
}

/// The whole of the tracee.
pub fn run() {
    install(libc::SIGWINCH, 0);
    install(libc::SIGPROF, libc::SA_RESTART);
    // SAFETY: the tracer has made a socket of it, which nobody else reads.
    let mut line = unsafe { UnixStream::from_raw_fd(0) };
    let mut theirs = line.try_clone().unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let (start, started) = mpsc::channel();
    let worker = thread::spawn(move || {
        // SAFETY: no arguments.
        let tid = unsafe { libc::gettid() };
        theirs.write_all(&tid.to_ne_bytes()).unwrap();
        theirs.read_exact(&mut [0]).unwrap();
        drop(theirs);
        start.send(()).unwrap();
        let listener = Interruptible::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let mut room = Room {
            reader,
            writer,
            listener,
            clients: Vec::new(),
        };
        mark(0, 0);
        traced(&mut room);
    });
    started.recv().unwrap();
    let mut receipts = Vec::new();
    let mut order = [0];
    while line.read(&mut order).is_ok_and(|count| count == 1) {
        match order {
            [RAISE] => receipts.push(worker.raise(Stop).unwrap()),
            [WRITE] => filler.write_all(b"!").unwrap(),
            other => panic!("{other:?}"),
        }
        line.write_all(&[DONE]).unwrap();
    }
    worker.join().unwrap();
    for receipt in &receipts {
        assert_eq!(receipt.state(), ReceiptState::Caught);
    }
}
