//! [`raise_until_dead`]: raising again until the thread has ended.
//!
//! Owns: the retry loop and its report. Leaves to `raise` each raise. Blocks up to the caller's time limit.
//!
//! **Signal context:** no.

use std::time::{Duration, Instant};

use crate::exception::{ExcType, IntoException};
use crate::journal::{Climbed, Journal};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::registry::ThreadId;
use crate::protocol::slot::Policy;
use crate::raise::{Target, is_alive, raise_by_id};
use crate::receipt::Receipt;
use crate::runtime;
use crate::status::{self, ThreadInfo};

/// How often and how long to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The pause between two raises; less than a millisecond counts as one, more than an hour as an hour.
    pub every: Duration,
    /// After this the thread counts as not to be stopped. Zero raises once and looks once.
    pub give_up_after: Duration,
}

impl Default for Retry {
    /// Every 10 ms for 5 s.
    fn default() -> Self {
        Self {
            every: Duration::from_millis(10),
            give_up_after: Duration::from_secs(5),
        }
    }
}

/// The thread has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dead {
    /// How many times it was raised into. 0: no live thread matched to begin with.
    pub raises: usize,
    /// How many of those it caught and went on.
    pub caught: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// Which rungs were tried on it, weakest first.
    pub climbed: Vec<Climbed>,
}

/// The thread has not ended.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} after {raises} raises in {elapsed:.1?}, {caught} caught: {}{}", self.who(), self.place(), refusals(&self.climbed))]
#[non_exhaustive]
pub struct StillAlive {
    /// How many times it was raised into.
    pub raises: usize,
    /// How many of those it caught and went on.
    pub caught: usize,
    /// How long was tried.
    pub elapsed: Duration,
    /// How many live threads matched. Nothing was raised if more than one did.
    pub matched: usize,
    /// Which rungs were tried on it, weakest first, and what refused them.
    pub climbed: Vec<Climbed>,
    /// What it is doing now, if it could be looked at.
    pub info: Option<Box<ThreadInfo>>,
}

impl StillAlive {
    fn who(&self) -> String {
        match &self.info {
            Some(info) => format!("thread {} is still alive", info.id),
            None => "the thread is still alive".into(),
        }
    }

    fn place(&self) -> String {
        match &self.info {
            _ if self.matched > 1 => format!("{} threads match; name one by its ThreadId", self.matched),
            Some(info) => info.where_blocked.clone(),
            None => "it is leaving".into(),
        }
    }
}

/// What is added to a report when rungs were refused.
pub(crate) fn refusals(climbed: &[Climbed]) -> String {
    let refused = climbed.iter().filter_map(|step| {
        let refusal = step.refusal.as_ref()?;
        Some(format!("; rung {} refused {refusal}", step.rung))
    });
    refused.collect()
}

/// Raises `ty` in the target again and again until it has ended.
///
/// A raise that is still pending is not piled up: the next supersedes it. A target that matches nobody is dead.
///
/// # Errors
/// [`StillAlive`] with the place where the thread is, when the time is over, when several threads match, or when the
/// target is the calling thread, which cannot end while it waits.
///
/// The loop is what users of `PyThreadState_SetAsyncExc` write by hand.
///
/// ```
/// use throwto::{ExcType, Retry, Stop, raise_until_dead, thread};
/// let stubborn = thread::spawn(|| {
///     let mut swallowed = 0;
///     while swallowed < 3 {
///         swallowed += usize::from(throwto::safepoint().is_err());
///     }
/// });
/// let dead = raise_until_dead(&stubborn, ExcType::of::<Stop>(), Retry::default())?;
/// assert!(dead.raises >= 3);
/// # Ok::<(), throwto::StillAlive>(())
/// ```
#[track_caller]
pub fn raise_until_dead(target: impl Into<Target>, ty: ExcType, retry: Retry) -> Result<Dead, StillAlive> {
    let at = std::panic::Location::caller();
    let start = Instant::now();
    let ids = target.into().resolve();
    let (Some(&id), 1) = (ids.first(), ids.len()) else {
        let (elapsed, matched) = (start.elapsed(), ids.len());
        return match matched {
            0 => Ok(Dead {
                raises: 0,
                caught: 0,
                elapsed,
                climbed: Vec::new(),
            }),
            _ => Err(StillAlive {
                raises: 0,
                caught: 0,
                elapsed,
                matched,
                climbed: Vec::new(),
                info: None,
            }),
        };
    };
    let mut tally = Tally::default();
    let journal = Journal::open(id);
    let pause = retry.every.max(Duration::from_millis(1));
    // Until it is gone.
    while let Ok(receipt) = raise_by_id(id, ty.into_exception(), Policy::Supersede, at) {
        tally.add(receipt);
        let left = retry.give_up_after.saturating_sub(start.elapsed());
        // A pause beyond the clock is cut into hours: after each there is another raise.
        let until = Instant::now() + left.min(pause).min(Duration::from_secs(3600));
        let ended = runtime::wait_for_ends(until, || !exists(id));
        if ended {
            break;
        }
        if left.is_zero() || Some(id) == ThreadId::current() {
            let info = status::info(id).map(Box::new);
            let (raises, caught) = tally.counts();
            return Err(StillAlive {
                raises,
                caught,
                elapsed: start.elapsed(),
                matched: 1,
                climbed: journal.read(),
                info,
            });
        }
    }
    let (raises, caught) = tally.counts();
    Ok(Dead {
        raises,
        caught,
        elapsed: start.elapsed(),
        climbed: journal.read(),
    })
}

/// Whether the thread is still registered: leaving counts as alive.
fn exists(id: ThreadId) -> bool {
    is_alive(id) || crate::current::with_members(|members| members.get(id).is_some())
}

/// Counts raises without keeping every receipt.
#[derive(Default)]
pub(crate) struct Tally {
    raises: usize,
    caught: usize,
    open: Vec<Receipt>,
}

impl Tally {
    pub(crate) fn add(&mut self, receipt: Receipt) {
        self.raises += 1;
        self.open.push(receipt);
        self.close_final();
    }

    fn close_final(&mut self) {
        let caught = &mut self.caught;
        self.open.retain(|receipt| {
            *caught += usize::from(receipt.state() == ReceiptState::Caught);
            !receipt.state().is_final()
        });
    }

    pub(crate) fn counts(mut self) -> (usize, usize) {
        self.close_final();
        (self.raises, self.caught)
    }
}
