//! What goes in and what comes out, of one shift.

use std::collections::HashMap;
use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use throwto::io::Interruptible;
use throwto::scope::ScopeHandle;
use throwto::sync::{Condvar, Receiver, SyncSender, sync_channel};
use throwto::thread::ThreadGroup;
use throwto::{Raised, Receipt, ReceiptState, ThreadId};

use crate::Tally;
use crate::stage::*;

/// What became of a raise, as far as its raiser knows.
pub enum Sent {
    Refused(u64),
    Numbered(u64, Receipt),
    /// One of a broadcast, whose values have no number.
    Broadcast(Receipt),
}

/// What everybody shares for the length of a shift.
pub struct Books {
    over: AtomicBool,
    gone: AtomicBool,
    pub ledger: Arc<Ledger>,
    met: Mutex<HashMap<u64, ThreadId>>,
    sent: Mutex<Vec<Sent>>,
    tally: Mutex<Tally>,
    pub live: Mutex<Vec<ThreadId>>,
    pub scopes: Mutex<Vec<(u64, ScopeHandle)>>,
    stuck: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    pub group: ThreadGroup,
    pub reader: Interruptible<PipeReader>,
    pub writer: Interruptible<PipeWriter>,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub sender: SyncSender<u64>,
    pub receiver: throwto::sync::Mutex<Receiver<u64>>,
    pub values_in: AtomicU64,
    pub values_out: AtomicU64,
    pub entered: throwto::sync::Mutex<u64>,
    pub changed: Condvar,
    pub entries: AtomicU64,
    pub file: File,
    pub path: tempfile::TempPath,
}

impl Books {
    pub fn new() -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let (sender, receiver) = sync_channel(4);
        let (file, path) = tempfile::NamedTempFile::new().unwrap().into_parts();
        Self {
            over: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            ledger: Ledger::new(),
            met: Mutex::default(),
            sent: Mutex::default(),
            tally: Mutex::default(),
            live: Mutex::default(),
            scopes: Mutex::default(),
            stuck: Mutex::default(),
            group: ThreadGroup::new(),
            reader: Interruptible::new(reader),
            writer: Interruptible::new(writer),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            sender,
            receiver: throwto::sync::Mutex::new(receiver),
            values_in: AtomicU64::new(0),
            values_out: AtomicU64::new(0),
            entered: throwto::sync::Mutex::new(0),
            changed: Condvar::new(),
            entries: AtomicU64::new(0),
            file,
            path,
        }
    }

    pub fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn close(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub fn everybody_has_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Somebody is about to be stuck, until this is called.
    #[cfg(throwto_forced)]
    pub fn let_go_soon(&self, let_go: impl FnOnce() + Send + 'static) {
        self.stuck.lock().unwrap().push(Box::new(let_go));
    }

    /// Sets free whoever is stuck.
    pub fn let_go(&self) {
        let stuck = std::mem::take(&mut *self.stuck.lock().unwrap());
        stuck.into_iter().for_each(|let_go| let_go());
    }

    /// A target has met an exception.
    pub fn meet(&self, raised: &Raised) {
        let rung = match raised.rung() {
            throwto::Rung::Safepoint => "by safepoint",
            throwto::Rung::Wake => "by wake",
            throwto::Rung::Nudge => "by nudge",
            throwto::Rung::Fail => "by fail",
            throwto::Rung::Hook => "by hook",
            throwto::Rung::Unwind => "by unwind",
            throwto::Rung::Abandon => "by abandon",
            _ => "by another rung",
        };
        let forced = matches!(raised.rung(), throwto::Rung::Unwind | throwto::Rung::Abandon);
        assert_eq!(
            forced,
            raised.left().is_some(),
            "it has left a call, or not: {raised:?}"
        );
        self.note(rung);
        if raised.is::<Numbered>() || raised.is::<Other>() {
            let me = ThreadId::current().unwrap();
            let before = self.met.lock().unwrap().insert(number_of(raised), me);
            assert_eq!(before, None, "delivered twice: {raised:?}");
        }
    }

    pub fn note(&self, kind: &'static str) {
        *self.tally.lock().unwrap().entry(kind).or_default() += 1;
    }

    pub fn send(&self, sent: impl IntoIterator<Item = Sent>) {
        self.sent.lock().unwrap().extend(sent);
    }

    /// When everybody has ended: everything balances.
    pub fn audit(&self, seed: u64) -> Tally {
        let met = self.met.lock().unwrap();
        let mut tally = std::mem::take(&mut *self.tally.lock().unwrap());
        let (mut numbered, mut delivered) = (0, 0);
        for sent in &*self.sent.lock().unwrap() {
            let (kind, number) = match sent {
                Sent::Refused(number) => ("refused", Some(number)),
                Sent::Numbered(number, receipt) => (fate_of(receipt, seed), Some(number)),
                Sent::Broadcast(receipt) => {
                    fate_of(receipt, seed);
                    ("broadcast", None)
                }
            };
            if let Some(number) = number {
                numbered += 1;
                delivered += u64::from(kind == "delivered");
                assert_eq!(
                    met.contains_key(number),
                    kind == "delivered",
                    "{number} is {kind}; THROWTO_SEED={seed}"
                );
            }
            if let (Sent::Numbered(number, receipt), "delivered") = (sent, kind) {
                assert_eq!(
                    met.get(number),
                    Some(&receipt.target()),
                    "by its own target; THROWTO_SEED={seed}"
                );
            }
            *tally.entry(kind).or_default() += 1;
        }
        assert_eq!(numbered, self.ledger.made(), "THROWTO_SEED={seed}");
        assert_eq!(delivered, met.len() as u64, "THROWTO_SEED={seed}");
        self.ledger.balance();
        let left = bytes_left(self.reader.get_ref());
        let (went_in, came_out) = (
            self.bytes_in.load(Ordering::Relaxed),
            self.bytes_out.load(Ordering::Relaxed),
        );
        assert_eq!(
            went_in,
            came_out + left,
            "bytes written, and read or left; THROWTO_SEED={seed}"
        );
        let left = self
            .receiver
            .try_lock()
            .expect("nobody is left")
            .try_iter()
            .count() as u64;
        let (sent, received) = (
            self.values_in.load(Ordering::Relaxed),
            self.values_out.load(Ordering::Relaxed),
        );
        assert_eq!(
            sent,
            received + left,
            "values sent, and received or left; THROWTO_SEED={seed}"
        );
        let entered = *self.entered.try_lock().expect("nobody is left");
        assert_eq!(
            entered,
            self.entries.load(Ordering::Relaxed),
            "entries; THROWTO_SEED={seed}"
        );
        let again = File::open(&self.path).unwrap();
        assert!(
            again.try_lock().is_ok(),
            "the file is locked; THROWTO_SEED={seed}"
        );
        tally.extend([("bytes", went_in), ("values", sent), ("entries", entered)]);
        tally
    }
}

fn fate_of(receipt: &Receipt, seed: u64) -> &'static str {
    // A call that was left behind, or a child that nobody joins, may be ending yet.
    match fate(receipt) {
        ReceiptState::Caught => "delivered",
        ReceiptState::Superseded => "superseded",
        ReceiptState::Revoked => "revoked",
        ReceiptState::TargetEnded => "target ended",
        other => panic!("{other:?} is no end; THROWTO_SEED={seed}"),
    }
}

/// How many bytes are in the pipe.
pub fn bytes_left(pipe: &impl AsRawFd) -> u64 {
    let mut left: libc::c_int = 0;
    // SAFETY: FIONREAD stores one integer, which is borrowed for the call.
    let asked = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut left) };
    assert_eq!(asked, 0);
    left as u64
}

pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How many bytes the allocator has given out, in all its arenas.
pub fn allocated() -> u64 {
    #[cfg(target_env = "gnu")]
    // SAFETY: reads the allocator's own account.
    return unsafe { libc::mallinfo2() }.uordblks as u64;
    #[cfg(not(target_env = "gnu"))]
    0
}

/// What a process holds that must not grow.
#[derive(Debug, PartialEq, Eq)]
pub struct Belongings {
    descriptors: usize,
    threads: usize,
    attached: usize,
}

impl Belongings {
    pub fn now() -> Self {
        let entries = |of| std::fs::read_dir(of).unwrap().count();
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            attached: throwto::threads().len(),
        }
    }

    pub fn are_all_there_is(&self) {
        // A thread that was joined may take a moment to leave the kernel, and calls that were left behind to end.
        until("descriptors and threads balance", || Self::now() == *self);
        let children = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        assert_eq!(children, Err(nix::Error::ECHILD), "a child is left");
    }
}
