//! The registry: which records exist, which threads they stand for, and under which names.
//!
//! Owns: the slabs, generations, the free list, names. Leaves to [`super::record`]: everything about one record, to
//! [`super::lineage`] who belongs to whom. Anyone may call, on any thread; attaching may allocate; all but [`Registry::record`],
//! [`Registry::of_token`], pins and notes take one lock.
//!
//! **Signal context:** [`Registry::of_token`] only: loads of cells that are set once.
//!
//! - I1. A record is never freed and never moves: an index once valid stays valid.
//! - I2. A (index, generation) pair is handed out once in the life of the process; a record whose generations are
//!   used up is retired.
//! - I3. The slabs are set under the lock and read without it (`OnceRef`: Release on set, Acquire on get).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use once_cell::race::OnceRef;

use super::lineage::{GroupKey, Lineage};
use super::notes::{Notes, Slabs};
use super::record::{Look, Pin, Record};
pub(crate) use super::thread_id::ThreadId;
use crate::sync_shim::{
    AtomicU32, Guard, Mutex, Ordering, atomics, const_constructor, lock, on_top_of_a_lock, sized,
};

impl ThreadId {
    /// The id of the thread that `record` is for, as of its present generation.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        Self::from_parts(record.index(), record.attention().generation())
    }
}

/// Records in all slabs of the first octave; each octave holds twice as many as the last.
const FIRST_OCTAVE: usize = sized(64, 1);
const OCTAVES: usize = 20;
/// Slabs to an octave: a new slab adds a sixteenth to what there is, at most, so little memory lies idle.
const STEPS: usize = sized(16, 1);
const SLABS: usize = OCTAVES * STEPS;
/// As many as the numbers that Linux gives out unless told otherwise, so that no two threads share a hint.
const HINTS: usize = sized(1 << 15, 1);
const NOTED: usize = SLABS.div_ceil(64);
/// What the slabs can hold.
pub(crate) const CAPACITY: usize = FIRST_OCTAVE * ((1 << OCTAVES) - 1);

pub(super) struct Slab {
    pub(super) records: Vec<Record>,
    pub(super) notes: Notes,
}

/// What the registry knows of one attached thread.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) id: ThreadId,
    pub(crate) name: Option<Arc<str>>,
    pub(super) lineage: Lineage,
    /// Whoever started it has stopped waiting for it.
    pub(crate) left_behind: bool,
}

impl Member {
    /// The thread that spawned it, if that one was attached. It may have ended.
    pub(crate) fn parent(&self) -> Option<ThreadId> {
        self.lineage.parent
    }
}

/// Why a thread could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Limit { limit: usize },
    Memory,
}

/// All records of the process.
pub(crate) struct Registry {
    pub(super) slabs: [OnceRef<'static, Slab>; SLABS],
    pub(super) noted: Slabs<NOTED>,
    /// For a kernel thread's number, the index and one of who was bound to one like it last: a hint.
    hints: [AtomicU32; HINTS],
    members: Mutex<Members>,
}

/// The part behind the lock.
pub(crate) struct Members {
    pub(super) by_index: Vec<Option<Member>>,
    /// To the index.
    by_tid: BTreeMap<i32, u32>,
    free: Vec<u32>,
    live: usize,
    /// How many were ever left behind.
    left_behind: u64,
}

impl Registry {
    const_constructor! {
        pub(crate) fn new() -> Registry {
            Registry {
                slabs: [const { OnceRef::new() }; SLABS],
                noted: Slabs::new(),
                hints: atomics!(AtomicU32; HINTS),
                members: Mutex::new(Members {
                    by_index: Vec::new(),
                    by_tid: BTreeMap::new(),
                    free: Vec::new(),
                    live: 0,
                    left_behind: 0,
                }),
            }
        }
    }

    /// The record at `index`, whatever its generation.
    #[inline]
    pub(crate) fn record(&self, index: u32) -> Option<&'static Record> {
        let (slab, at) = locate(index);
        self.slabs.get(slab)?.get()?.records.get(at)
    }

    /// The record of this [`Record::token`], if it is one. Whatever the number, nothing but our own cells is read.
    pub(crate) fn of_token(&self, token: usize) -> Option<&'static Record> {
        if token & 1 == 0 {
            return None;
        }
        self.record(u32::try_from(token >> 3).ok()?)
    }

    /// Locks the membership: who is attached does not change while the guard lives.
    pub(crate) fn members(&self) -> Guard<'_, Members> {
        lock(&self.members)
    }

    /// Registers a thread that is to be, or is, the owner of the new record, in `group` too. What waits in the slot of its
    /// parent, the calling thread, for the whole tree is in its own from the first moment.
    pub(crate) fn register(
        &self,
        name: Option<Arc<str>>,
        parent: Option<ThreadId>,
        group: Option<&GroupKey>,
        limit: usize,
    ) -> Result<ThreadId, Full> {
        let on_top = on_top_of_a_lock();
        let mut members = self.members();
        let limit = limit.min(CAPACITY);
        if members.live >= limit {
            return Err(Full::Limit { limit });
        }
        let index = match members.free.pop() {
            Some(index) => index,
            None => self.grow(&mut members)?,
        };
        let record = self.record(index).ok_or(Full::Memory)?;
        // What `end` left there, or nothing in a record that was never used.
        let generation = NonZeroU32::new(record.attention().generation()).unwrap_or(NonZeroU32::MIN);
        let id = ThreadId::new(index, generation);
        record.open(id.generation());
        let lineage = members.born(parent, group);
        if let Some(parent) = lineage.ancestor.and_then(|parent| self.record(parent.index())) {
            record.inherit(parent, on_top);
        }
        members.by_index[index as usize] = Some(Member {
            id,
            name,
            lineage,
            left_behind: false,
        });
        members.live += 1;
        Ok(id)
    }

    fn grow(&self, members: &mut Members) -> Result<u32, Full> {
        let index = members.by_index.len();
        let (slab, _) = locate(index as u32);
        let cell = self.slabs.get(slab).ok_or(Full::Limit { limit: CAPACITY })?;
        if cell.get().is_none() {
            let size = slab_size(slab);
            let end = index + size;
            let mut records = Vec::new();
            records.try_reserve_exact(size).map_err(|_| Full::Memory)?;
            let notes = Notes::of(size).ok_or(Full::Memory)?;
            members.reserve(end)?;
            records.extend((index..end).map(|i| Record::new(i as u32)));
            let _ = cell.set(Box::leak(Box::new(Slab { records, notes })));
        }
        members.by_index.push(None);
        Ok(index as u32)
    }

    /// Tells the registry on which kernel thread the member runs. A kernel thread runs one member: another that claims
    /// it has died without leaving, and is no longer found under that number.
    pub(crate) fn bind(&self, id: ThreadId, os_tid: i32) {
        let mut members = self.members();
        self.hint(os_tid).store(id.index() + 1, Ordering::Relaxed);
        let before = members.by_tid.insert(os_tid, id.index());
        if let Some(stale) = before
            .filter(|old| *old != id.index())
            .and_then(|old| self.record(old))
        {
            stale.lose_thread();
        }
    }

    fn hint(&self, os_tid: i32) -> &AtomicU32 {
        &self.hints[os_tid as usize % HINTS]
    }

    /// Who runs on a kernel thread, if a hint leads there. The record says itself whether it does, so that a hint may be anything.
    pub(crate) fn recall(&self, os_tid: i32) -> Option<ThreadId> {
        let index = self.hint(os_tid).load(Ordering::Relaxed).checked_sub(1)?;
        let record = self.record(index)?;
        let id = ThreadId::of(record)?;
        // A record that is opened anew says 0 before it says its new generation.
        let runs = record.os_tid() == os_tid && record.is_alive(id.generation());
        runs.then_some(id)
    }

    /// Notes that nobody waits for `id` any more. It may have ended.
    pub(crate) fn leave_behind(&self, id: ThreadId) {
        let mut members = self.members();
        members.left_behind += 1;
        let place = members.by_index.get_mut(id.index() as usize);
        if let Some(member) = place.and_then(Option::as_mut).filter(|m| m.id == id) {
            member.left_behind = true;
        }
    }

    /// Ends the membership of `id`, whose slot is closed and unpinned, and lets its record be used again.
    pub(crate) fn release(&self, id: ThreadId) {
        let mut members = self.members();
        if members.get(id).is_none() {
            return;
        }
        let next = members.remove(id, self.record(id.index()));
        if let Some(record) = self.record(id.index()) {
            record.end(next);
        }
        if next != 0 {
            members.free.push(id.index());
        }
    }

    /// In a forked child: only `survivor` is left. The records of the others are retired for good, since a thread that
    /// is not here may have held their locks.
    pub(crate) fn reset_after_fork(&self, members: &mut Members, survivor: Option<ThreadId>) {
        for index in 0..members.by_index.len() {
            let Some(id) = members.by_index[index]
                .as_ref()
                .map(|m| m.id)
                .filter(|id| Some(*id) != survivor)
            else {
                continue;
            };
            let next = members.remove(id, self.record(id.index()));
            if let Some(record) = self.record(id.index()) {
                record.abandon(next);
            }
        }
        members.free.clear();
    }

    /// Pins the record of `id`, and its region's frame, if it is alive.
    pub(crate) fn look(&self, id: ThreadId) -> Option<Look<'static>> {
        self.record(id.index())?.look(id.generation())
    }

    /// Pins the record of `id` if it is alive.
    pub(crate) fn pin(&self, id: ThreadId) -> Option<Pin<'static>> {
        self.record(id.index())?.pin(id.generation())
    }
}

impl Members {
    /// Makes room for `count` records, in `free` too: giving one back never allocates.
    fn reserve(&mut self, count: usize) -> Result<(), Full> {
        let more = count - self.by_index.len();
        self.by_index.try_reserve_exact(more).map_err(|_| Full::Memory)?;
        let more = count.saturating_sub(self.free.len());
        self.free.try_reserve_exact(more).map_err(|_| Full::Memory)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_index.iter().flatten()
    }

    pub(crate) fn get(&self, id: ThreadId) -> Option<&Member> {
        self.by_index
            .get(id.index() as usize)?
            .as_ref()
            .filter(|m| m.id == id)
    }

    /// How many were left behind so far, and how many of those are still members.
    pub(crate) fn left_behind(&self) -> (u64, u64) {
        let present = self.iter().filter(|m| m.left_behind).count();
        (self.left_behind, present as u64)
    }

    pub(crate) fn by_tid(&self, os_tid: i32) -> Option<&Member> {
        self.by_index.get(*self.by_tid.get(&os_tid)? as usize)?.as_ref()
    }

    /// In a forked child: the survivor has a new kernel number.
    pub(crate) fn rebind(&mut self, id: ThreadId, os_tid: i32) {
        self.by_tid.clear();
        self.by_tid.insert(os_tid, id.index());
    }

    /// Takes `id` out and returns the generation that may follow, 0 for none.
    fn remove(&mut self, id: ThreadId, record: Option<&Record>) -> u32 {
        if let Some(member) = self.by_index[id.index() as usize].take() {
            self.live -= 1;
            self.died(&member);
            let os_tid = record.map_or(0, Record::os_tid);
            if self.by_tid.get(&os_tid) == Some(&id.index()) {
                self.by_tid.remove(&os_tid);
            }
        }
        id.generation().checked_add(1).unwrap_or(0)
    }
}

const fn slab_size(slab: usize) -> usize {
    (FIRST_OCTAVE / STEPS) << (slab / STEPS)
}

/// The slab that holds the record at `index`, and where in it.
#[inline]
pub(super) fn locate(index: u32) -> (usize, usize) {
    let shifted = index as usize + FIRST_OCTAVE;
    let octave = (shifted / FIRST_OCTAVE).ilog2() as usize;
    let within = shifted - (FIRST_OCTAVE << octave);
    let size = slab_size(octave * STEPS);
    (octave * STEPS + within / size, within % size)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::protocol::word::Sender;
    use std::collections::HashSet;

    #[test]
    fn every_index_has_one_place() {
        let mut expected = (0, 0);
        for index in 0..100_000 {
            assert_eq!(locate(index), expected, "index {index}");
            expected.1 += 1;
            if expected.1 == slab_size(expected.0) {
                expected = (expected.0 + 1, 0);
            }
        }
    }

    /// Shows protocol::registry I2.
    #[test]
    fn ids_are_never_reused() {
        let registry = Registry::new();
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let id = registry.register(None, None, None, 10).unwrap();
            assert!(seen.insert(id));
            registry.release(id);
        }
        assert_eq!(registry.members().by_index.len(), 1, "one record served them all");
    }

    #[test]
    fn who_has_left_can_leave_once_only() {
        let registry = Registry::new();
        let old = registry.register(None, None, None, 10).unwrap();
        registry.release(old);
        let new = registry.register(None, None, None, 10).unwrap();
        registry.release(old);
        assert!(registry.pin(new).is_some(), "an old id ends nobody else");
        registry.release(ThreadId::from_parts(7, new.generation()).unwrap());
        assert_eq!(registry.members().live, 1);
    }

    #[test]
    fn a_number_that_the_kernel_gives_again_is_the_newer_threads() {
        const AGAIN: i32 = 77;
        let registry = Registry::new();
        let started = |thread| {
            let id = registry.register(None, None, None, 10).unwrap();
            registry.record(id.index()).unwrap().begin(thread, AGAIN);
            registry.bind(id, AGAIN);
            id
        };
        let named = || registry.members().by_tid(AGAIN).map(|member| member.id);
        let (older, newer) = (started(1), started(2));
        assert_eq!(
            registry.record(older.index()).unwrap().os_tid(),
            0,
            "no signal goes there"
        );
        assert_eq!(named(), Some(newer));
        registry.release(older);
        assert_eq!(named(), Some(newer));
        registry.release(newer);
        assert_eq!(named(), None);
    }

    #[test]
    fn an_old_id_reaches_nobody() {
        let registry = Registry::new();
        let old = registry.register(None, None, None, 10).unwrap();
        registry.release(old);
        let new = registry.register(None, None, None, 10).unwrap();
        assert_eq!(old.index(), new.index());
        assert!(registry.pin(old).is_none() && registry.pin(new).is_some());
    }

    /// Shows protocol::registry I1, I3.
    #[test]
    fn a_record_stays_where_it_is_while_others_come_and_lookups_go_on() {
        const MANY: u32 = 2_000;
        let registry: &Registry = Box::leak(Box::new(Registry::new()));
        let known = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            let looker = scope.spawn(|| {
                let mut places = Vec::new();
                while places.len() < MANY as usize {
                    for index in places.len() as u32..known.load(std::sync::atomic::Ordering::Acquire) {
                        let record = registry.record(index).expect("it was registered before");
                        assert_eq!(record.index(), index);
                        places.push(std::ptr::from_ref(record));
                    }
                }
                places.into_iter().map(|place| place as usize).collect::<Vec<_>>()
            });
            for index in 0..MANY {
                registry.register(None, None, None, MANY as usize).unwrap();
                known.store(index + 1, std::sync::atomic::Ordering::Release);
            }
            let places = looker.join().unwrap();
            let now = (0..MANY).map(|index| std::ptr::from_ref(registry.record(index).unwrap()) as usize);
            assert!(places.into_iter().eq(now), "a record has moved");
        });
    }

    #[test]
    fn a_used_up_record_is_retired() {
        let registry = Registry::new();
        let id = registry.register(None, None, None, 10).unwrap();
        registry.release(id);
        registry.record(0).unwrap().end(u32::MAX);
        let last = registry.register(None, None, None, 10).unwrap();
        assert_eq!((last.index(), last.generation()), (0, u32::MAX));
        registry.release(last);
        assert_eq!(registry.register(None, None, None, 10).unwrap().index(), 1);
        assert!(registry.pin(last).is_none());
    }

    #[test]
    fn the_limit_is_an_error() {
        let registry = Registry::new();
        let ids: Vec<_> = (0..3)
            .map(|_| registry.register(None, None, None, 3).unwrap())
            .collect();
        assert_eq!(
            registry.register(None, None, None, 3),
            Err(Full::Limit { limit: 3 })
        );
        registry.release(ids[1]);
        assert!(registry.register(None, None, None, 3).is_ok());
    }

    #[test]
    fn only_tokens_of_records_are_ours() {
        let registry = Registry::new();
        assert!(registry.of_token(1).is_none());
        for _ in 0..200 {
            registry.register(None, None, None, 1000).unwrap();
        }
        for index in 0..200 {
            let record = registry.record(index).unwrap();
            assert!(std::ptr::eq(
                registry.of_token(record.token(Sender::Other)).unwrap(),
                record
            ));
            // No address is odd: cells of `os::interrupt` are told apart by that.
            assert!(registry.of_token(std::ptr::from_ref(record) as usize).is_none());
        }
        for token in [0, usize::MAX, usize::MAX >> 1, 1 << 33 | 1] {
            assert!(registry.of_token(token).is_none(), "{token:#x}");
        }
        assert!(size_of::<Record>() <= 128, "{}", size_of::<Record>());
    }
}
