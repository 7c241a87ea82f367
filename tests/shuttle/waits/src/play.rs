//! One play: threads that lock, wait and pass values, some of them attached, and one who raises into those; and the account at the end.
//!
//! Owns: [`Play`]. Leaves to `tests/waits.rs` how many plays and in which schedules. There is no clock: who waits for ever is the deadlock that
//! shuttle reports.
//!
//! **Signal context:** no.

use std::collections::BTreeMap;
use std::panic::Location;
use std::stage::{Unscheduled, stage};
use std::sync::{Arc, RwLock};
use std::thread;

use shuttle::rand::{Rng, thread_rng};

use crate::current;
use crate::platform::futex;
use crate::protocol::entry::{Contents, Entry, Origin, Payload};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{Duty, Fate, Fences, Owner, Record};
use crate::protocol::slot::Policy;
use crate::raised::Raised;
use crate::sync::{Condvar, Mutex, RecvError, SendError, channel, sync_channel};

/// What the threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    /// All count under one lock.
    Locks,
    /// Some wait under a lock for what others put there.
    Conditions,
    /// Some send, others receive; the channel holds this many, or any number.
    Channels(Option<usize>),
}

/// How often each end of a wait was seen.
pub type Tally = BTreeMap<&'static str, u64>;

/// The exception of the play.
#[derive(Debug)]
pub(crate) struct Numbered(pub(crate) usize);

impl std::fmt::Display for Numbered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Numbered {}

const GENERATION: u32 = 1;
const ATTACHED: usize = 3;
/// One more that never attaches.
const THREADS: usize = ATTACHED + 1;
const ROUNDS: usize = 2;
const RAISES: usize = 4;

#[derive(Default)]
struct Book {
    attached: Vec<&'static Record>,
    raised: usize,
    /// Raised into, and ended undelivered.
    left: usize,
    met: Vec<usize>,
    done: usize,
}

type Shared = Arc<Unscheduled<Book>>;

impl Play {
    /// Plays it once, in the schedule that shuttle draws, and adds to `tally` how the waits have ended.
    pub fn run(self, tally: &RwLock<Tally>) {
        std::stage::set();
        futex::begin();
        let book = Shared::default();
        let work: Vec<_> = match self {
            Self::Locks => {
                let counter = Arc::new(Mutex::new(0_usize));
                let work = move |_: usize, book: &Shared| count(&counter, book);
                start(&book, Arc::new(work))
            }
            Self::Conditions => {
                let shelf = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
                let work = move |nth: usize, book: &Shared| {
                    if nth % 2 == 0 {
                        put(&shelf, nth, book);
                    } else {
                        fetch(&shelf, book);
                    }
                };
                start(&book, Arc::new(work))
            }
            Self::Channels(bound) => return channels(bound, &book, tally),
        };
        finish(work, &book, tally);
        let expected = match self {
            Self::Conditions => THREADS / 2 * ROUNDS,
            _ => THREADS * ROUNDS,
        };
        assert_eq!(book.with(|book| book.done), expected);
    }
}

type Work = dyn Fn(usize, &Shared) + Send + Sync;

/// Starts all threads, each with its number.
fn start(book: &Shared, work: Arc<Work>) -> Vec<thread::JoinHandle<()>> {
    let start_one = |nth: usize| {
        let (book, work) = (Arc::clone(book), Arc::clone(&work));
        thread::spawn(move || live(nth, &book, |book| work(nth, book)))
    };
    (0..THREADS).map(start_one).collect()
}

/// One thread: attached or not.
fn live(nth: usize, book: &Shared, work: impl FnOnce(&Shared)) {
    if nth >= ATTACHED {
        return work(book);
    }
    let record: &'static Record = Box::leak(Box::new(Record::new(nth as u32)));
    record.open(GENERATION);
    current::set(Some(record));
    book.with(|book| book.attached.push(record));
    work(book);
    let owner = Owner::of(record);
    owner.begin_exit();
    for mut entry in owner.close() {
        let _nobody_waits = entry.settle(ReceiptState::TargetEnded);
        book.with(|book| book.left += 1);
    }
    current::set(None);
}

/// Raises into one or another, and waits for all.
fn finish(work: Vec<thread::JoinHandle<()>>, book: &Shared, tally: &RwLock<Tally>) {
    for number in 0..RAISES {
        raise(number, book);
    }
    work.into_iter().for_each(|each| each.join().unwrap());
    book.with(|book| {
        book.met.sort_unstable();
        let met = book.met.len();
        book.met.dedup();
        assert_eq!(book.met.len(), met, "met twice");
        assert_eq!(book.raised, met + book.left, "raised, and what became of it");
        let mut tally = tally.write().unwrap();
        *tally.entry("raised").or_default() += met as u64;
        *tally.entry("left").or_default() += book.left as u64;
        *tally.entry("done").or_default() += book.done as u64;
    });
}

fn raise(number: usize, book: &Shared) {
    stage().step();
    let Some(record) = book.with(|book| {
        let among = book.attached.len();
        (among > 0).then(|| book.attached[thread_rng().gen_range(0..among)])
    }) else {
        return;
    };
    let payload = Payload::Value(Box::new(Numbered(number)));
    let origin = Origin::of::<Numbered>(Location::caller());
    let entry = Entry::new(Contents::new(payload, origin, true, None));
    let after = record.raise(GENERATION, entry, Policy::Queue, Fences::Full);
    if after.fate == Fate::Accepted {
        book.with(|book| book.raised += 1);
        match after.duty {
            Duty::Wake => futex::wake(record.attention_word()),
            Duty::Nothing => {}
            _ => unreachable!("nobody is in a call"),
        }
    }
}

fn meet(Raised(number): Raised, book: &Shared) {
    book.with(|book| book.met.push(number));
}

/// Does it again for as long as it is raised into.
fn again<T>(book: &Shared, mut f: impl FnMut() -> Result<T, Raised>) -> T {
    loop {
        match f() {
            Ok(value) => return value,
            Err(raised) => meet(raised, book),
        }
    }
}

fn count(counter: &Mutex<usize>, book: &Shared) {
    for _ in 0..ROUNDS {
        let mut guard = again(book, || counter.lock());
        let before = *guard;
        stage().step();
        *guard = before + 1;
        let now = book.with(|book| {
            book.done += 1;
            book.done
        });
        assert_eq!(now, *guard, "two had the lock");
    }
}

type Shelf = (Mutex<Vec<usize>>, Condvar);

fn put((things, changed): &Shelf, nth: usize, book: &Shared) {
    for _ in 0..ROUNDS {
        again(book, || things.lock()).push(nth);
        if thread_rng().gen_bool(0.7) {
            changed.notify_one();
        } else {
            changed.notify_all();
        }
    }
}

fn fetch((things, changed): &Shelf, book: &Shared) {
    for _ in 0..ROUNDS {
        again(book, || {
            let mut guard = things.lock()?;
            while guard.is_empty() {
                if thread_rng().gen_bool(0.5) {
                    guard = changed.wait(guard)?;
                } else {
                    // The lock is taken back whatever comes.
                    changed.wait_held(&mut guard)?;
                }
            }
            guard.pop();
            book.with(|book| book.done += 1);
            Ok(())
        });
    }
}

/// The even ones send, the odd ones receive until all senders are gone: one receiver, handed on.
fn channels(bound: Option<usize>, book: &Shared, tally: &RwLock<Tally>) {
    let got = Arc::new(Unscheduled::<Vec<usize>>::default());
    let mut threads = Vec::new();
    let mut spawn = |nth: usize, work: Box<dyn FnOnce(&Shared) + Send>| {
        let book = Arc::clone(book);
        threads.push(thread::spawn(move || live(nth, &book, work)));
    };
    // A receiver that is attached, and two senders of which one is not.
    macro_rules! cast {
        ($sender:expr, $receiver:expr) => {{
            let (sender, receiver) = ($sender, $receiver);
            for (nth, sender) in [(1, sender.clone()), (THREADS, sender)] {
                let send = move |book: &Shared| {
                    for round in 0..ROUNDS {
                        let mut value = nth * ROUNDS + round;
                        while let Err(SendError::Raised(raised, back)) = sender.send(value) {
                            meet(raised, book);
                            value = back;
                        }
                        book.with(|book| book.done += 1);
                    }
                };
                spawn(nth, Box::new(send));
            }
            let got = Arc::clone(&got);
            let receive = move |book: &Shared| loop {
                match receiver.recv() {
                    Ok(value) => got.with(|got| got.push(value)),
                    Err(RecvError::Raised(raised)) => meet(raised, book),
                    Err(RecvError::Disconnected) => break,
                }
            };
            spawn(0, Box::new(receive));
        }};
    }
    match bound {
        Some(bound) => {
            let (sender, receiver) = sync_channel(bound);
            cast!(sender, receiver);
        }
        None => {
            let (sender, receiver) = channel();
            cast!(sender, receiver);
        }
    }
    finish(threads, book, tally);
    let mut got = got.with(std::mem::take);
    got.sort_unstable();
    let sent = |nth: usize| (0..ROUNDS).map(move |round| nth * ROUNDS + round);
    let all: Vec<_> = sent(1).chain(sent(THREADS)).collect();
    assert_eq!(got, all, "each value once");
}
