//! One play: targets, raisers, those who take back, the driver; and the account at the end (P3).
//!
//! Owns: [`Play`], the [`Ledger`] of what was raised and what became of it. Leaves to `tests/schedules.rs` how many plays and
//! in which schedules.
//!
//! **Signal context:** no.

use std::panic::Location;
use std::sync::atomic::AtomicUsize as Counter;
use std::sync::atomic::Ordering::SeqCst;

use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use crate::driver::Driver;
use crate::kernel::Reach;
use crate::protocol::entry::{Contents, Entry, Origin, Payload, ReceiptRef};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::registry::ThreadId;
use crate::protocol::scope::ScopeCell;
use crate::raisers;
use crate::target;

/// What a play leaves out, to show that the others would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A raiser that owes a wake does not perform it.
    NobodyWakes,
    /// A raiser forgets the note that it owes the driver.
    NobodyTellsTheDriver,
    /// An owner goes on without waiting for a signal that is on its way.
    NobodyAwaitsNudges,
    /// What a raise displaces is dropped, and its receipt forgotten.
    DisplacedIsForgotten,
    /// A raiser forgets a thread that a shield holds in a call.
    NobodyComesBehindAShield,
}

impl Fault {
    pub const ALL: [Self; 5] = [
        Self::NobodyWakes,
        Self::NobodyTellsTheDriver,
        Self::NobodyAwaitsNudges,
        Self::DisplacedIsForgotten,
        Self::NobodyComesBehindAShield,
    ];
}

/// How many of each part.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    pub targets: usize,
    pub raisers: usize,
    pub revokers: usize,
    /// Raises of each raiser.
    pub rounds: u32,
    pub fault: Option<Fault>,
}

/// The exception of the play.
#[derive(Debug)]
pub(crate) struct Numbered {
    /// `None` for the one that ends its thread.
    pub(crate) number: Option<usize>,
    drops: std::sync::Arc<Counter>,
}

impl std::fmt::Display for Numbered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.number)
    }
}

impl std::error::Error for Numbered {}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.drops.fetch_add(1, SeqCst);
    }
}

/// A raise as its raiser holds it.
pub(crate) struct Raised {
    pub(crate) number: Option<usize>,
    pub(crate) receipt: ReceiptRef,
    drops: std::sync::Arc<Counter>,
    /// Until it is raised. Not a part of the play.
    entry: std::sync::Mutex<Option<Entry>>,
}

impl Raised {
    pub(crate) fn entry(&self) -> Entry {
        self.entry.lock().unwrap().take().expect("it is raised once")
    }
}

#[derive(Default)]
struct Counts {
    rejected: usize,
    ended: usize,
    delivered: usize,
    superseded: usize,
    revoked: usize,
}

/// What was raised, and what became of it.
pub(crate) struct Ledger {
    pub(crate) live: Mutex<Vec<Reach>>,
    pub(crate) scopes: Mutex<Vec<(Reach, Arc<ScopeCell>)>>,
    pub(crate) receipts: Mutex<Vec<ReceiptRef>>,
    pub(crate) over: AtomicBool,
    fault: Option<Fault>,
    made: Counter,
    // Not a part of the play: no thread is switched at these.
    raises: std::sync::Mutex<Vec<(Raised, bool)>>,
    counts: std::sync::Mutex<Counts>,
    /// Who has met which exception.
    met: std::sync::Mutex<Vec<(Option<usize>, ThreadId)>>,
}

impl Ledger {
    fn new(fault: Option<Fault>) -> Arc<Self> {
        Arc::new(Self {
            live: Mutex::default(),
            scopes: Mutex::default(),
            receipts: Mutex::default(),
            over: AtomicBool::new(false),
            fault,
            made: Counter::new(0),
            raises: std::sync::Mutex::default(),
            counts: std::sync::Mutex::default(),
            met: std::sync::Mutex::default(),
        })
    }

    pub(crate) fn new_raise(&self, last: bool) -> Raised {
        let drops = std::sync::Arc::<Counter>::default();
        let number = (!last).then(|| self.made.fetch_add(1, SeqCst));
        let exception = Numbered {
            number,
            drops: drops.clone(),
        };
        let origin = Origin::of::<Numbered>(Location::caller());
        let contents = Contents::new(Payload::Value(Box::new(exception)), origin, false, None);
        let (entry, receipt) = Entry::with_receipt(contents);
        if !last {
            self.receipts.lock().unwrap().push(receipt.clone());
        }
        Raised {
            number,
            receipt,
            drops,
            entry: std::sync::Mutex::new(Some(entry)),
        }
    }

    /// A raise has been made. Whether there was somebody to raise into.
    pub(crate) fn raised(&self, raised: Raised, there: bool) {
        self.counts.lock().unwrap().rejected += usize::from(!there);
        self.raises.lock().unwrap().push((raised, there));
    }

    /// Ends an entry that left the slot undelivered.
    pub(crate) fn settle(&self, mut entry: Entry, outcome: ReceiptState) {
        assert_eq!(entry.receipt.state(), ReceiptState::Pending, "settled twice");
        if outcome == ReceiptState::Superseded && self.fault == Some(Fault::DisplacedIsForgotten) {
            return;
        }
        let mut counts = self.counts.lock().unwrap();
        match outcome {
            ReceiptState::TargetEnded => counts.ended += 1,
            ReceiptState::Superseded => counts.superseded += 1,
            ReceiptState::Revoked => counts.revoked += 1,
            other => unreachable!("{other:?}"),
        }
        drop(counts);
        let receipt = entry.receipt.clone();
        let _nobody_waits = entry.settle(outcome);
        assert_eq!(receipt.state(), outcome);
    }

    pub(crate) fn deliver(&self, exception: &Numbered, to: ThreadId) {
        self.counts.lock().unwrap().delivered += 1;
        let mut met = self.met.lock().unwrap();
        let twice = met
            .iter()
            .any(|(number, _)| number.is_some() && *number == exception.number);
        assert!(!twice, "delivered twice: {exception}");
        met.push((exception.number, to));
    }

    /// raised = delivered + revoked + superseded + rejected, each exactly once.
    fn balance(&self) {
        let raises = self.raises.lock().unwrap();
        for (raised, there) in raises.iter() {
            let (state, drops) = (raised.receipt.state(), raised.drops.load(SeqCst));
            assert_eq!(state.is_final(), *there, "{:?} is {state:?}", raised.number);
            // Of an ambiguous raise no exception was made.
            assert!(
                drops == 1 || drops == 0 && !there,
                "{:?} was dropped {drops} times",
                raised.number
            );
        }
        let counts = self.counts.lock().unwrap();
        let sum = counts.delivered + counts.revoked + counts.superseded + counts.ended + counts.rejected;
        assert_eq!(raises.len(), sum, "raised, and what became of it");
    }
}

impl Play {
    pub const fn small() -> Self {
        Self {
            targets: 1,
            raisers: 1,
            revokers: 1,
            rounds: 3,
            fault: None,
        }
    }

    pub const fn large() -> Self {
        Self {
            targets: 3,
            raisers: 3,
            revokers: 2,
            rounds: 4,
            fault: None,
        }
    }

    pub const fn without(self, fault: Fault) -> Self {
        Self {
            fault: Some(fault),
            ..self
        }
    }

    /// Plays it once, in the schedule that shuttle draws.
    pub fn run(self) {
        let (driver, ledger) = (Driver::new(self.fault), Ledger::new(self.fault));
        let at_work = thread::spawn({
            let driver = driver.clone();
            move || driver.run()
        });
        let targets: Vec<_> = (0..self.targets)
            .map(|nth| {
                let (driver, ledger) = (driver.clone(), ledger.clone());
                thread::spawn(move || {
                    // Two of them share a name for a while, and each record is used again.
                    target::live(&driver, &ledger, (nth < 2).then_some(raisers::NAME), 4);
                    target::live(&driver, &ledger, (nth == 0).then_some(raisers::NAME), 3);
                })
            })
            .collect();
        let others: Vec<_> = (0..self.raisers + self.revokers)
            .map(|nth| {
                let (driver, ledger) = (driver.clone(), ledger.clone());
                thread::spawn(move || {
                    if nth < self.raisers {
                        raisers::raise_some(&driver, &ledger, self.rounds);
                    } else {
                        raisers::take_back(&driver, &ledger, self.rounds);
                    }
                })
            })
            .collect();
        others.into_iter().for_each(|other| other.join().unwrap());
        // Who is published later than this sees it before it blocks.
        ledger.over.store(true, Ordering::SeqCst);
        let live: Vec<Reach> = ledger.live.lock().unwrap().clone();
        for reach in &live {
            raisers::stop(&driver, &ledger, reach);
        }
        targets.into_iter().for_each(|target| target.join().unwrap());
        driver.end();
        at_work.join().unwrap();
        ledger.balance();
    }
}
