//! What surrounds the protocol in a model: the kernel's part, the driver's part, and exceptions that count their drops.
//!
//! Owns: [`Futex`], [`Bell`], [`Membarrier`], entries. Leaves to the models the steps of their threads.
//! Called from model threads; [`Futex::wait`] and [`Bell::wait`] block, and a wait that nobody ends is the deadlock that
//! loom reports.
//!
//! **Signal context:** no.

use std::cell::RefCell;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize as Counter, Ordering::SeqCst};

use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};

use crate::protocol::entry::{Contents, Entry, Origin, Payload, ReceiptRef};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{AfterPush, AfterUnpin, Duty, Fate, Fences, Pin, Record};
use crate::protocol::registry::Registry;
use crate::protocol::slot::Policy;
use crate::protocol::word::Attention;
use crate::sync_shim::in_models::LIGHT_FENCE;

/// The generation in which [`record`] is.
pub const FIRST: u32 = 1;

/// Searches with at most `preemptions` forced switches; `None` searches everything.
pub fn model(preemptions: Option<usize>, steps: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = preemptions;
    }
    builder.max_branches = 20_000;
    LIGHT_FENCE.set(|| fence(Ordering::SeqCst));
    builder.check(steps);
}

/// A record in its first generation, as an attached thread has it. Leaked, as the registry's are.
pub fn record() -> &'static Record {
    let record: &'static Record = Box::leak(Box::new(Record::new(0)));
    record.open(FIRST);
    record
}

/// A futex on a word: sleeps only while the word has the expected value, and compares under the lock that a wake takes. Under
/// it is the clock as well, which stands still until a model moves it.
#[derive(Default)]
pub struct Futex {
    sleepers: Mutex<Sleepers>,
    woken: Condvar,
}

#[derive(Default)]
struct Sleepers {
    now: u64,
    for_good: bool,
}

impl Futex {
    pub fn wait(&self, word: &AtomicU64, expected: u32) {
        self.wait_until(word, expected, None);
    }

    pub fn wait_until(&self, word: &AtomicU64, expected: u32, deadline: Option<u64>) {
        let sleepers = self.sleepers.lock().unwrap();
        let over = deadline.is_some_and(|at| sleepers.now >= at);
        if !over && word.load(Ordering::Relaxed) as u32 == expected {
            drop(self.woken.wait(sleepers).unwrap());
        }
    }

    /// [`Futex::wait_until`] as the owner's last step, for a model that must find it asleep.
    pub fn wait_for_good(&self, word: &AtomicU64, expected: u32, deadline: Option<u64>) {
        let mut sleepers = self.sleepers.lock().unwrap();
        let wakes_by_itself = deadline.is_some();
        sleepers.for_good = !wakes_by_itself && word.load(Ordering::Relaxed) as u32 == expected;
    }

    /// At the end, when all threads are joined: who sleeps has been woken.
    #[track_caller]
    pub fn assert_nobody_is_left_asleep(&self) {
        let left = self.sleepers.lock().unwrap().for_good;
        assert!(!left, "asleep, and nobody is coming");
    }

    pub fn now(&self) -> u64 {
        self.sleepers.lock().unwrap().now
    }

    /// Time passes.
    pub fn pass(&self, to: u64) {
        self.sleepers.lock().unwrap().now = to;
        self.woken.notify_all();
    }

    pub fn wait_on(&self, word: &AtomicU32, expected: u32) {
        let sleepers = self.sleepers.lock().unwrap();
        if word.load(Ordering::Relaxed) == expected {
            drop(self.woken.wait(sleepers).unwrap());
        }
    }

    pub fn wake(&self) {
        self.sleepers.lock().unwrap().for_good = false;
        self.woken.notify_all();
    }
}

/// A call that blocks until a nudge comes.
#[derive(Default)]
pub struct Bell {
    nudged: Mutex<bool>,
    rung: Condvar,
    blocked: AtomicBool,
}

impl Bell {
    pub fn nudge(&self) {
        *self.nudged.lock().unwrap() = true;
        self.rung.notify_all();
    }

    /// A nudge that came before now found nothing to interrupt, and is lost.
    pub fn miss_earlier_nudges(&self) {
        *self.nudged.lock().unwrap() = false;
    }

    /// The owner's last step: it stays in here until the end of the model.
    pub fn block(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    /// At the end, when all threads are joined: who has blocked has been nudged.
    #[track_caller]
    pub fn assert_not_left_alone(&self) {
        assert!(
            !self.blocked.load(Ordering::Relaxed) || *self.nudged.lock().unwrap(),
            "blocked with an exception pending, and nobody is coming"
        );
    }

    pub fn wait(&self) {
        let mut nudged = self.nudged.lock().unwrap();
        while !*nudged {
            nudged = self.rung.wait(nudged).unwrap();
        }
    }
}

/// `membarrier(PRIVATE_EXPEDITED)` with one other running thread, the owner: its full fence falls where the owner happens
/// to be, at any of its [`Membarrier::here`] points or light fences. Nothing else orders a light fence.
#[derive(Default)]
pub struct Membarrier {
    asked: AtomicBool,
    done: AtomicBool,
}

thread_local! {
    static MEMBARRIER: RefCell<Option<std::sync::Weak<Membarrier>>> = const { RefCell::new(None) };
}

impl Membarrier {
    /// Puts every light fence of this execution under a new membarrier.
    pub fn install() -> std::sync::Arc<Self> {
        let new = std::sync::Arc::new(Self::default());
        MEMBARRIER.with_borrow_mut(|place| *place = Some(std::sync::Arc::downgrade(&new)));
        LIGHT_FENCE.set(|| {
            let barrier = MEMBARRIER.with_borrow(|b| b.as_ref().and_then(std::sync::Weak::upgrade));
            barrier.expect("installed by the model").here();
        });
        new
    }

    /// A point of the owner's program at which the barrier may fall.
    pub fn here(&self) {
        if self.asked.load(Ordering::Relaxed) {
            fence(Ordering::SeqCst);
            self.done.store(true, Ordering::Release);
        }
    }

    /// The owner blocks in the kernel or is gone: whoever asks from now on need not wait for it.
    pub fn not_running(&self) {
        fence(Ordering::SeqCst);
        self.done.store(true, Ordering::Release);
    }

    /// [`Membarrier::not_running`] for the one in force, if there is one.
    pub fn owner_blocks() {
        if let Some(barrier) = MEMBARRIER.with_borrow(|b| b.as_ref().and_then(std::sync::Weak::upgrade)) {
            barrier.not_running();
        }
    }

    /// The heavy half. Once for each execution.
    pub fn heavy_fence(&self) {
        fence(Ordering::SeqCst);
        self.asked.store(true, Ordering::Relaxed);
        while !self.done.load(Ordering::Acquire) {
            loom::thread::yield_now();
        }
        fence(Ordering::SeqCst);
    }
}

/// An exception that counts its drop.
pub struct Counted(pub std::sync::Arc<Counter>);

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counted")
    }
}

impl std::error::Error for Counted {}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A raise as the test holds it: its receipt, and how often its exception has been dropped.
#[derive(Clone)]
pub struct Raised {
    pub receipt: ReceiptRef,
    pub drops: std::sync::Arc<Counter>,
    /// Until it is raised. Not a part of the model.
    entry: std::sync::Arc<std::sync::Mutex<Option<Entry>>>,
}

impl Raised {
    #[track_caller]
    pub fn new() -> Self {
        let drops = std::sync::Arc::<Counter>::default();
        let payload = Payload::Value(Box::new(Counted(drops.clone())));
        let (entry, receipt) = Entry::with_receipt(contents(payload));
        Self {
            receipt,
            drops,
            entry: std::sync::Arc::new(std::sync::Mutex::new(Some(entry))),
        }
    }

    #[track_caller]
    pub fn entry(&self) -> Entry {
        self.entry.lock().unwrap().take().expect("it is raised once")
    }

    pub fn drops(&self) -> usize {
        self.drops.load(SeqCst)
    }

    pub fn state(&self) -> ReceiptState {
        self.receipt.state()
    }
}

/// What is raised here: for the thread as a whole, to be superseded.
#[track_caller]
pub fn contents(payload: Payload) -> Contents {
    Contents::new(payload, Origin::of::<Counted>(Location::caller()), false, None)
}

/// Ends an entry as the face does. Whether the receipt moved.
pub fn settle(mut entry: Entry, outcome: ReceiptState) -> bool {
    let moves = entry.receipt.state() == ReceiptState::Pending;
    let receipt = entry.receipt.clone();
    let _no_waiter = entry.settle(outcome);
    assert!(moves, "an entry left the slot with its receipt settled already");
    assert_eq!(receipt.state(), outcome);
    moves
}

/// Takes what is pending and ends it as caught. Whether there was something.
pub fn take_and_catch(owner: crate::protocol::record::Owner) -> bool {
    let Some(entry) = owner.take_pending() else {
        return false;
    };
    assert_eq!(entry.receipt.state(), ReceiptState::Pending, "taken once");
    let _no_waiter = entry.receipt.advance(ReceiptState::Delivered);
    let receipt = entry.receipt.clone();
    drop(entry);
    let _no_waiter = receipt.advance(ReceiptState::Caught);
    true
}

/// Raises and hands back the duty; the displaced are settled.
#[track_caller]
pub fn raise(record: &'static Record, raised: &Raised, fences: Fences) -> Duty<'static> {
    duty(record.raise(FIRST, raised.entry(), Policy::Supersede, fences)).expect("the target is alive")
}

/// Settles what was pushed aside. The duty, if the entry is in the slot.
pub fn duty(after: AfterPush<'_>) -> Option<Duty<'_>> {
    let outcome = match after.fate {
        Fate::Accepted => ReceiptState::Superseded,
        Fate::Ended => ReceiptState::TargetEnded,
        // Nothing is told of it.
        Fate::Gone => return None,
    };
    for entry in after.aside {
        settle(entry, outcome);
    }
    (after.fate == Fate::Accepted).then_some(after.duty)
}

/// As [`duty`], for a target that knows that it ends as long as it is there, and needs no waking.
pub fn accepted(after: AfterPush<'_>) -> bool {
    assert_ne!(after.fate, Fate::Gone, "the target is alive");
    duty(after).is_some()
}

/// Drops a pin and wakes the owner if it waits for that.
pub fn release<const UNIT: u64>(pin: Pin<'_, UNIT>, futex: &Futex) {
    if pin.release() == AfterUnpin::Wake {
        futex.wake();
    }
}
