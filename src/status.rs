//! What the attached threads are doing: [`threads`].
//!
//! Owns: the snapshot. Leaves to `platform::blocked` reading the system. Blocks for some file reads per thread.
//!
//! **Signal context:** no.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::current::{REGISTRY, release, with_members};
use crate::foreign::frame;
use crate::os::OsTid;
use crate::platform::spot::Refused;
use crate::platform::{blocked, futex, membarrier, nudge};
use crate::protocol::record::{Look, Record};
use crate::protocol::registry::{Member, ThreadId};
use crate::protocol::word::{Kind, Level, Region};
use crate::rung::Refusal;
use crate::runtime;

/// What a thread is doing, as far as this crate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ThreadState {
    /// Registered, not running yet.
    Starting,
    /// Running Rust code between safepoints, or blocked in something this crate does not know of.
    Running,
    /// In a wait of this crate: sleep, park, join, a lock, a channel.
    Waiting,
    /// In a blocking system call of this crate.
    Blocked,
    /// In a foreign call.
    Foreign,
}

impl fmt::Display for ThreadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Foreign => "foreign",
        })
    }
}

/// What holds exceptions back in a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MaskState {
    /// Nothing.
    Unmasked,
    /// A [`mask`](crate::mask()): they come where it really blocks.
    Masked,
    /// An [`uninterruptible`](crate::uninterruptible) section.
    Uninterruptible,
    /// A [`shield`](crate::shield) whose time is not over.
    Shielded,
}

impl MaskState {
    fn of(record: &Record) -> Self {
        let region = record.region();
        match region.level() {
            Level::Uninterruptible => Self::Uninterruptible,
            _ if region.has(Region::SHIELDED) && futex::now() < record.shield_until() => Self::Shielded,
            Level::Masked => Self::Masked,
            Level::Unmasked => Self::Unmasked,
        }
    }
}

impl fmt::Display for MaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unmasked => "unmasked",
            Self::Masked => "masked",
            Self::Uninterruptible => "uninterruptible",
            Self::Shielded => "shielded",
        })
    }
}

/// One attached thread.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ThreadInfo {
    /// Its id.
    pub id: ThreadId,
    /// The kernel's number of it; 0 before it runs.
    pub os_tid: OsTid,
    /// Its name.
    pub name: Option<String>,
    /// The thread that spawned it, if that one was attached.
    pub parent: Option<ThreadId>,
    /// Whether it runs a call of [`foreign::detached`](crate::foreign::detached) that its caller has given up, or a job of
    /// a [`JobPool`](crate::pool::JobPool) that was written off.
    pub left_behind: bool,
    /// What it is doing, as far as this crate knows.
    pub state: ThreadState,
    /// What holds exceptions back in it.
    pub mask: MaskState,
    /// The label of the foreign call it is in.
    pub region: Option<&'static str>,
    /// Where it is, as read from the system: `read(fd 3, pipe) for 2.1 s`, `running`, `uninterruptible kernel sleep`; or
    /// `held by a hook or a look at it`, when it has left its call and a hook of that is still running.
    ///
    /// The time is counted from the first look (this function, or a raise that failed) that found it in this wait.
    pub where_blocked: String,
    /// Why a forced rung has not got it out of its call yet: the last refusal.
    pub refused: Option<Refusal>,
    /// How many exceptions wait in its slot.
    pub pending: usize,
    /// Whether its signal mask blocks the nudge signal: then its blocking calls cannot be broken.
    pub nudge_blocked: bool,
}

/// All attached threads, as they are now.
///
/// Takes some file reads per thread, so tens of microseconds each. Threads that end meanwhile are left out.
///
/// ```
/// let attachment = throwto::attach()?;
/// let me = throwto::threads().into_iter().find(|t| t.id == attachment.id()).unwrap();
/// assert_eq!(me.where_blocked, "running");
/// # Ok::<(), throwto::AttachError>(())
/// ```
pub fn threads() -> Vec<ThreadInfo> {
    let members: Vec<Member> = with_members(|members| members.iter().cloned().collect());
    let infos = infos(members);
    forget_others(&infos);
    infos
}

/// Those of `members` that have not begun to leave.
pub(crate) fn infos(members: Vec<Member>) -> Vec<ThreadInfo> {
    let seen: Vec<_> = {
        // A handler on top of a look at its own thread would wait for that at the end of its calls.
        let _quiet = nudge::quiet();
        let pinned: Vec<(Member, Look<'static>)> = members
            .into_iter()
            .filter_map(|m| Some((m.clone(), REGISTRY.look(m.id)?)))
            .collect();
        // One barrier for all looks: behind it, regions and their labels may be read.
        membarrier::heavy_fence();
        pinned
            .into_iter()
            .map(|(member, pin)| glance(member, pin))
            .collect()
    };
    seen.into_iter().map(|glance| glance.look_closer()).collect()
}

/// What is said of a member that is leaving, and can be looked at no more.
pub(crate) fn leaving(member: Member) -> ThreadInfo {
    ThreadInfo {
        id: member.id,
        os_tid: OsTid::from_raw(REGISTRY.record(member.id.index()).map_or(0, |r| r.os_tid())),
        name: member.name.as_deref().map(str::to_owned),
        parent: member.parent(),
        left_behind: member.left_behind,
        state: ThreadState::Running,
        region: None,
        mask: MaskState::Unmasked,
        where_blocked: "leaving".to_owned(),
        refused: None,
        pending: 0,
        nudge_blocked: false,
    }
}

/// One thread, if it is attached.
pub(crate) fn info(id: ThreadId) -> Option<ThreadInfo> {
    let member = with_members(|members| members.get(id).cloned())?;
    let seen = {
        let _quiet = nudge::quiet();
        let pin = REGISTRY.look(id)?;
        membarrier::heavy_fence();
        glance(member, pin)
    };
    Some(seen.look_closer())
}

/// What is read under the pin. The slow part, asking the system, comes after it.
struct Glance {
    member: Member,
    os_tid: i32,
    state: ThreadState,
    mask: MaskState,
    region: Option<&'static str>,
    refused: Option<Refused>,
    pending: usize,
}

fn glance(member: Member, pin: Look<'static>) -> Glance {
    let record = pin.record();
    let os_tid = record.os_tid();
    let state = match record.region().kind() {
        _ if os_tid == 0 => ThreadState::Starting,
        Kind::Running => ThreadState::Running,
        Kind::Waiting => ThreadState::Waiting,
        Kind::Window => ThreadState::Blocked,
        Kind::Foreign => ThreadState::Foreign,
    };
    let mask = MaskState::of(record);
    let region = frame::label_of(record);
    let refused = frame::refused_in(record);
    let pending = record.pending_count();
    release(pin);
    Glance {
        member,
        os_tid,
        state,
        mask,
        region,
        refused,
        pending,
    }
}

impl Glance {
    fn look_closer(self) -> ThreadInfo {
        let Self {
            member,
            os_tid: tid,
            state,
            mask,
            region,
            refused,
            pending,
        } = self;
        let where_blocked = match state {
            ThreadState::Starting => "not started yet".to_owned(),
            _ => {
                let place = blocked::describe_attached(tid, &|word| is_held(member.id, word));
                match since_first_look(member.id, tid, &place) {
                    Some(time) => format!("{place} for {:.1} s", time.as_secs_f64()),
                    None => place,
                }
            }
        };
        ThreadInfo {
            id: member.id,
            os_tid: OsTid::from_raw(tid),
            name: member.name.as_deref().map(str::to_owned),
            parent: member.parent(),
            left_behind: member.left_behind,
            state,
            mask,
            region,
            where_blocked,
            refused: refused.map(Refusal::of),
            pending,
            nudge_blocked: blocked::signal_blocked(tid, runtime::signal()).unwrap_or(false),
        }
    }
}

/// Whether a thread that sleeps on `word` does so at the end of a region or of an attachment, because of those who look at
/// it. A report of that must not pass for a wait of the thread's own.
fn is_held(id: ThreadId, word: u64) -> bool {
    REGISTRY.record(id.index()).is_some_and(|record| {
        futex::is_word(record.attention_word(), word) && record.region().kind() != Kind::Waiting
    })
}

/// A wait that was looked at before: the kernel does not tell how long a thread has slept, but a thread that has not
/// been switched to since the last look is still in the same wait.
pub(crate) struct Seen {
    place: String,
    switches: u64,
    since: Instant,
}

static SEEN: Mutex<Option<HashMap<ThreadId, Seen>>> = Mutex::new(None);

/// The lock that [`threads`] takes.
pub(crate) type HeldSeen = MutexGuard<'static, Option<HashMap<ThreadId, Seen>>>;

/// Keeps lookers out while the process forks: the child could not look otherwise.
pub(crate) fn hold_for_fork() -> HeldSeen {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn since_first_look(id: ThreadId, tid: i32, place: &str) -> Option<Duration> {
    let _quiet = nudge::quiet();
    let mut guard = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = guard.get_or_insert_with(HashMap::new);
    let switches = blocked::voluntary_switches(tid)?;
    if place == "running" {
        seen.remove(&id);
        return None;
    }
    match seen.get(&id) {
        Some(earlier) if earlier.place == place && earlier.switches == switches => {
            Some(earlier.since.elapsed())
        }
        _ => {
            seen.insert(
                id,
                Seen {
                    place: place.to_owned(),
                    switches,
                    since: Instant::now(),
                },
            );
            None
        }
    }
}

fn forget_others(infos: &[ThreadInfo]) {
    let _quiet = nudge::quiet();
    if let Some(seen) = SEEN.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        seen.retain(|id, _| infos.iter().any(|info| info.id == *id));
    }
}
