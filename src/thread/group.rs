//! [`ThreadGroup`]: threads that are stopped together, with all that they have spawned.
//!
//! Owns: the group's face, and shutting down under one deadline. Leaves to `protocol::lineage` who belongs, to `tree` the
//! raise into all of them. [`ThreadGroup::shutdown`] blocks up to the caller's time limit; nothing else here does.
//!
//! **Signal context:** no.

use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Builder, JoinHandle};
use crate::current::with_members;
use crate::exception::{Broadcast, Spreadable};
use crate::journal::{Climbed, Journal};
use crate::protocol::lineage::{Group, GroupKey};
use crate::protocol::registry::{Member, ThreadId};
use crate::protocol::slot::Policy;
use crate::receipt::Receipt;
use crate::runtime;
use crate::status::{self, ThreadInfo};
use crate::tree::spread;
use crate::until_dead::{Retry, Tally, refusals};

/// Threads that can be raised into and shut down as one: those spawned in it, and all that they spawn.
///
/// Whoever was spawned in a thread of the group belongs to it, also when that thread has ended, and also if it was
/// spawned in a group of its own. A clone is the same group; dropping it does nothing to the threads.
///
/// ```
/// use std::time::Duration;
/// use throwto::{Cancelled, thread};
/// let group = thread::ThreadGroup::named("downloads");
/// for _ in 0..3 {
///     group.spawn(|| thread::sleep(Duration::from_secs(3600)));
/// }
/// assert_eq!(group.threads().len(), 3);
/// let survivors = group.shutdown(Duration::from_secs(10), Cancelled);
/// assert!(survivors.is_empty());
/// ```
#[derive(Clone)]
pub struct ThreadGroup {
    key: GroupKey,
}

impl Default for ThreadGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ThreadGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<ThreadId> = self.members().iter().map(|m| m.id).collect();
        f.debug_struct("ThreadGroup")
            .field("name", &self.name())
            .field("threads", &ids)
            .finish()
    }
}

impl ThreadGroup {
    /// An empty group.
    pub fn new() -> Self {
        Self {
            key: Arc::new(Group { name: None }),
        }
    }

    /// An empty group with a name, for those who read about it. Several groups may have the same.
    pub fn named(name: impl Into<String>) -> Self {
        let name = Some(name.into());
        Self {
            key: Arc::new(Group { name }),
        }
    }

    /// Its name.
    pub fn name(&self) -> Option<&str> {
        self.key.name.as_deref()
    }

    pub(super) fn key(&self) -> &GroupKey {
        &self.key
    }

    /// Starts an attached thread in the group. For one with a name of its own: [`Builder::group`].
    ///
    /// # Panics
    /// As [`spawn`](super::spawn).
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        Builder::new()
            .group(self)
            .spawn(f)
            .expect("failed to start an attached thread")
    }

    /// Raises in every live thread of the group, all at once, and does not wait. One receipt for each.
    ///
    /// Nobody slips away by being spawned meanwhile, as for [`RaiseTree::to`](crate::RaiseTree::to). If the caller belongs
    /// to the group it is raised into as well, and meets the exception at its next safepoint.
    ///
    /// ```
    /// use throwto::{ExcType, ReceiptState, Stop, thread};
    /// let group = thread::ThreadGroup::new();
    /// let worker = group.spawn(thread::park);
    /// let receipts = group.raise(ExcType::of::<Stop>());
    /// assert_eq!(receipts[0].target(), worker.id());
    /// assert!(worker.join().unwrap().unwrap_err().is::<Stop>());
    /// ```
    #[track_caller]
    pub fn raise(&self, exc: impl Broadcast) -> Vec<Receipt> {
        self.spread(&exc.into_broadcast(), Location::caller(), |_| true)
    }

    /// Whether no thread belongs to it: then none will, unless one is spawned in it.
    ///
    /// ```
    /// let group = throwto::thread::ThreadGroup::new();
    /// assert!(group.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        with_members(|members| members.in_group(&self.key).next().is_none())
    }

    /// Its threads as they are now, without those that end meanwhile or are spawned meanwhile, as [`threads`](crate::threads) shows them.
    ///
    /// ```
    /// let group = throwto::thread::ThreadGroup::new();
    /// assert!(group.threads().is_empty());
    /// ```
    pub fn threads(&self) -> Vec<ThreadInfo> {
        status::infos(self.members())
    }

    /// Raises in every thread of the group, again every 10 ms, until all have ended or `limit` is over. Returns those that
    /// have not ended, each with where it is.
    ///
    /// The limit is one for all of them. Zero raises once and looks once. Threads that are spawned in the group meanwhile
    /// are raised into as well; the group can be used again afterwards. Results are had from the handles.
    ///
    /// A caller that belongs to the group is not raised into, since it could not end while it waits. It is among those
    /// returned, with [`is_caller`](Survivor::is_caller); the call returns as soon as nobody else is left.
    ///
    /// Not a cancellation point: an exception raised into the caller stays pending.
    ///
    /// ```
    /// use std::time::Duration;
    /// use throwto::{Stop, thread};
    /// let group = thread::ThreadGroup::new();
    /// let (sender, receiver) = std::sync::mpsc::channel::<()>();
    /// let deaf = group.spawn(move || receiver.recv());
    /// let survivors = group.shutdown(Duration::from_millis(50), Stop);
    /// assert_eq!(survivors[0].info.id, deaf.id());
    /// println!("{}", survivors[0]);
    /// // thread #3.1 is still alive after 5 raises, 0 caught: futex wait for 0.0 s
    /// drop(sender);
    /// # let _ = deaf.join().unwrap();
    /// ```
    #[track_caller]
    pub fn shutdown(&self, limit: Duration, exc: impl Broadcast) -> Vec<Survivor> {
        let exc = exc.into_broadcast();
        let (at, start) = (Location::caller(), Instant::now());
        let me = ThreadId::current();
        let mut watched: HashMap<ThreadId, Watched> = HashMap::new();
        loop {
            // Before the raise, so that its first rung is on record.
            for member in self.members() {
                if Some(member.id) != me {
                    watched
                        .entry(member.id)
                        .or_insert_with(|| Watched::new(member.id));
                }
            }
            for receipt in self.spread(&exc, at, |id| Some(id) != me) {
                let id = receipt.target();
                let watched = watched.entry(id).or_insert_with(|| Watched::new(id));
                watched.tally.add(receipt);
            }
            let left = limit.saturating_sub(start.elapsed());
            let until = Instant::now() + left.min(Retry::default().every);
            let ended = runtime::wait_for_ends(until, || !self.holds_others_than(me));
            if ended || left.is_zero() {
                break;
            }
        }
        let survivors = self.members().into_iter();
        survivors
            .map(|member| Survivor::of(member, &mut watched, me))
            .collect()
    }

    fn members(&self) -> Vec<Member> {
        with_members(|members| members.in_group(&self.key).cloned().collect())
    }

    pub(crate) fn ids(&self) -> Vec<ThreadId> {
        with_members(|members| members.in_group(&self.key).map(|member| member.id).collect())
    }

    fn holds_others_than(&self, me: Option<ThreadId>) -> bool {
        with_members(|members| members.in_group(&self.key).any(|member| Some(member.id) != me))
    }

    fn spread(
        &self,
        exc: &Spreadable,
        at: &'static Location<'static>,
        wanted: impl Fn(ThreadId) -> bool,
    ) -> Vec<Receipt> {
        spread(exc, Policy::Supersede, at, |members| {
            let ids = members.in_group(&self.key).map(|member| member.id);
            ids.filter(|id| wanted(*id)).collect()
        })
    }
}

/// What is known of a thread that is being shut down.
struct Watched {
    journal: Journal,
    tally: Tally,
}

impl Watched {
    fn new(id: ThreadId) -> Self {
        Self {
            journal: Journal::open(id),
            tally: Tally::default(),
        }
    }
}

/// A thread that a shutdown has not ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survivor {
    /// The thread, and where it is.
    pub info: ThreadInfo,
    /// How many times it was raised into.
    pub raises: usize,
    /// How many of those it caught and went on.
    pub caught: usize,
    /// Which rungs were tried on it, weakest first, and what refused them.
    pub climbed: Vec<Climbed>,
    /// Whether it is the thread that called for the shutdown: it was not raised into.
    pub is_caller: bool,
}

impl Survivor {
    fn of(member: Member, watched: &mut HashMap<ThreadId, Watched>, me: Option<ThreadId>) -> Self {
        let id = member.id;
        let watched = watched.remove(&id);
        let climbed = watched.as_ref().map_or(Vec::new(), |w| w.journal.read());
        let (raises, caught) = watched.map_or((0, 0), |w| w.tally.counts());
        Self {
            info: status::info(id).unwrap_or_else(|| status::leaving(member)),
            raises,
            caught,
            climbed,
            is_caller: Some(id) == me,
        }
    }
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.info.id)?;
        if let Some(name) = &self.info.name {
            write!(f, " {name:?}")?;
        }
        if self.is_caller {
            return f.write_str(" called for the shutdown, and is not raised into");
        }
        let (raises, caught) = (self.raises, self.caught);
        let place = &self.info.where_blocked;
        write!(
            f,
            " is still alive after {raises} raises, {caught} caught: {place}"
        )?;
        f.write_str(&refusals(&self.climbed))
    }
}
