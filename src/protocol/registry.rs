//! The registry: which records exist, which threads they stand for, and under which names.
//!
//! Owns: the slabs, generations, the free list, names and parents. Leaves to [`super::record`]: everything about one
//! record. Anyone may call, on any thread; attaching may allocate; all but [`Registry::record`] and
//! [`Registry::owns`] take one lock.
//!
//! **Signal context:** [`Registry::owns`] only: loads of cells that are set once.
//!
//! - I1. A record is never freed and never moves: an index once valid stays valid.
//! - I2. A (index, generation) pair is handed out once in the life of the process; a record whose generations are
//!   used up is retired.
//! - I3. The slabs are set under the lock and read without it (`OnceRef`: Release on set, Acquire on get).

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use once_cell::race::OnceRef;

use super::record::{Pin, Record};
use crate::sync_shim::{Mutex, MutexGuard, const_constructor, lock, sized};

/// The identity of an attached thread. Never reused in the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId {
    index: u32,
    generation: NonZeroU32,
}

impl ThreadId {
    pub(crate) fn index(self) -> u32 {
        self.index
    }

    pub(crate) fn generation(self) -> u32 {
        self.generation.get()
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index, self.generation)
    }
}

impl fmt::Debug for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadId({self})")
    }
}

const FIRST_SLAB: usize = sized(64, 1);
const SLABS: usize = 20;
/// What the slabs can hold.
pub(crate) const CAPACITY: usize = FIRST_SLAB * ((1 << SLABS) - 1);

struct Slab {
    records: Vec<Record>,
}

/// What the registry knows of one attached thread.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) id: ThreadId,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) parent: Option<ThreadId>,
    /// 0 until the thread runs.
    pub(crate) os_tid: i32,
}

/// Why a thread could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Limit { limit: usize },
    Memory,
}

/// All records of the process.
pub(crate) struct Registry {
    slabs: [OnceRef<'static, Slab>; SLABS],
    members: Mutex<Members>,
}

/// The part behind the lock.
pub(crate) struct Members {
    by_index: Vec<Option<Member>>,
    by_tid: BTreeMap<i32, ThreadId>,
    free: Vec<u32>,
    generations: Vec<u32>,
    live: usize,
}

impl Registry {
    const_constructor! {
        pub(crate) fn new() -> Registry {
            Registry {
                slabs: [const { OnceRef::new() }; SLABS],
                members: Mutex::new(Members { by_index: Vec::new(), by_tid: BTreeMap::new(), free: Vec::new(), generations: Vec::new(), live: 0 }),
            }
        }
    }

    /// The record at `index`, whatever its generation.
    pub(crate) fn record(&self, index: u32) -> Option<&'static Record> {
        let (slab, at) = locate(index);
        self.slabs.get(slab)?.get()?.records.get(at)
    }

    /// Whether `address` is that of one of our records, and which.
    pub(crate) fn owns(&self, address: usize) -> Option<&'static Record> {
        for slab in &self.slabs {
            let records = &slab.get()?.records;
            let offset = address.wrapping_sub(records.as_ptr() as usize);
            if offset < records.len() * size_of::<Record>() {
                return records
                    .get(offset / size_of::<Record>())
                    .filter(|r| std::ptr::from_ref(*r) as usize == address);
            }
        }
        None
    }

    /// Locks the membership: who is attached does not change while the guard lives.
    pub(crate) fn members(&self) -> MutexGuard<'_, Members> {
        lock(&self.members)
    }

    /// Registers a thread that is to be, or is, the owner of the new record.
    pub(crate) fn register(
        &self,
        name: Option<Arc<str>>,
        parent: Option<ThreadId>,
        limit: usize,
    ) -> Result<ThreadId, Full> {
        let mut members = self.members();
        let limit = limit.min(CAPACITY);
        if members.live >= limit {
            return Err(Full::Limit { limit });
        }
        let index = match members.free.pop() {
            Some(index) => index,
            None => self.grow(&mut members)?,
        };
        let generation = NonZeroU32::new(members.generations[index as usize]).ok_or(Full::Limit { limit })?;
        let id = ThreadId { index, generation };
        let record = self.record(index).ok_or(Full::Memory)?;
        record.open(generation.get());
        members.by_index[index as usize] = Some(Member {
            id,
            name,
            parent,
            os_tid: 0,
        });
        members.live += 1;
        Ok(id)
    }

    fn grow(&self, members: &mut Members) -> Result<u32, Full> {
        let index = members.by_index.len();
        let (slab, _) = locate(index as u32);
        let cell = self.slabs.get(slab).ok_or(Full::Limit { limit: CAPACITY })?;
        members.by_index.try_reserve(1).map_err(|_| Full::Memory)?;
        members.generations.try_reserve(1).map_err(|_| Full::Memory)?;
        // One place in `free` for every record there is: giving one back never allocates.
        let spare = (index + 1).saturating_sub(members.free.len());
        members.free.try_reserve(spare).map_err(|_| Full::Memory)?;
        if cell.get().is_none() {
            let size = FIRST_SLAB << slab;
            let first = (FIRST_SLAB << slab) - FIRST_SLAB;
            let mut records = Vec::new();
            records.try_reserve_exact(size).map_err(|_| Full::Memory)?;
            records.extend((first..first + size).map(|i| Record::new(i as u32)));
            let _ = cell.set(Box::leak(Box::new(Slab { records })));
        }
        members.by_index.push(None);
        members.generations.push(1);
        Ok(index as u32)
    }

    /// Tells the registry on which kernel thread the member runs. A kernel thread runs one member: another that claims
    /// it has died without leaving, and is no longer found under that number.
    pub(crate) fn bind(&self, id: ThreadId, os_tid: i32) {
        let mut members = self.members();
        if let Some(stale) = members.by_tid.insert(os_tid, id).filter(|old| *old != id)
            && let Some(member) = members.get_mut(stale)
        {
            member.os_tid = 0;
        }
        if let Some(member) = members.get_mut(id) {
            member.os_tid = os_tid;
        }
    }

    /// Ends the membership of `id`, whose slot is closed and unpinned, and lets its record be used again.
    pub(crate) fn release(&self, id: ThreadId) {
        let mut members = self.members();
        if members.get(id).is_none() {
            return;
        }
        let next = members.remove(id);
        if let Some(record) = self.record(id.index) {
            record.end(next);
        }
        if next != 0 {
            members.free.push(id.index);
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
            let next = members.remove(id);
            if let Some(record) = self.record(id.index) {
                record.abandon(next);
            }
        }
        members.free.clear();
    }

    /// Pins the record of `id` if it is alive.
    pub(crate) fn pin(&self, id: ThreadId) -> Option<Pin<'static>> {
        self.record(id.index)?.pin(id.generation())
    }
}

impl Members {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_index.iter().flatten()
    }

    pub(crate) fn get(&self, id: ThreadId) -> Option<&Member> {
        self.by_index
            .get(id.index as usize)?
            .as_ref()
            .filter(|m| m.id == id)
    }

    fn get_mut(&mut self, id: ThreadId) -> Option<&mut Member> {
        self.by_index
            .get_mut(id.index as usize)?
            .as_mut()
            .filter(|m| m.id == id)
    }

    pub(crate) fn by_tid(&self, os_tid: i32) -> Option<&Member> {
        self.get(*self.by_tid.get(&os_tid)?)
    }

    /// In a forked child: the survivor has a new kernel number.
    pub(crate) fn rebind(&mut self, id: ThreadId, os_tid: i32) {
        self.by_tid.clear();
        self.by_tid.insert(os_tid, id);
        if let Some(member) = self.get_mut(id) {
            member.os_tid = os_tid;
        }
    }

    /// Takes `id` out and returns the generation that may follow, 0 for none.
    fn remove(&mut self, id: ThreadId) -> u32 {
        if let Some(member) = self.by_index[id.index as usize].take() {
            self.live -= 1;
            if self.by_tid.get(&member.os_tid) == Some(&id) {
                self.by_tid.remove(&member.os_tid);
            }
        }
        let next = id.generation().checked_add(1).unwrap_or(0);
        self.generations[id.index as usize] = next;
        next
    }
}

/// Slab `k` holds `FIRST_SLAB << k` records.
fn locate(index: u32) -> (usize, usize) {
    let shifted = index as usize + FIRST_SLAB;
    let slab = (shifted / FIRST_SLAB).ilog2() as usize;
    (slab, shifted - (FIRST_SLAB << slab))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_index_has_one_place() {
        let mut expected = (0, 0);
        for index in 0..100_000 {
            assert_eq!(locate(index), expected, "index {index}");
            expected.1 += 1;
            if expected.1 == FIRST_SLAB << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
    }

    #[test]
    fn ids_are_never_reused() {
        let registry = Registry::new();
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let id = registry.register(None, None, 10).unwrap();
            assert!(seen.insert(id));
            registry.release(id);
        }
        assert_eq!(registry.members().by_index.len(), 1, "one record served them all");
    }

    #[test]
    fn an_old_id_reaches_nobody() {
        let registry = Registry::new();
        let old = registry.register(None, None, 10).unwrap();
        registry.release(old);
        let new = registry.register(None, None, 10).unwrap();
        assert_eq!(old.index, new.index);
        assert!(registry.pin(old).is_none() && registry.pin(new).is_some());
    }

    #[test]
    fn a_used_up_record_is_retired() {
        let registry = Registry::new();
        let id = registry.register(None, None, 10).unwrap();
        registry.release(id);
        registry.members().generations[0] = u32::MAX;
        let last = registry.register(None, None, 10).unwrap();
        assert_eq!((last.index, last.generation()), (0, u32::MAX));
        registry.release(last);
        assert_eq!(registry.register(None, None, 10).unwrap().index, 1);
        assert!(registry.pin(last).is_none());
    }

    #[test]
    fn the_limit_is_an_error() {
        let registry = Registry::new();
        let ids: Vec<_> = (0..3)
            .map(|_| registry.register(None, None, 3).unwrap())
            .collect();
        assert_eq!(registry.register(None, None, 3), Err(Full::Limit { limit: 3 }));
        registry.release(ids[1]);
        assert!(registry.register(None, None, 3).is_ok());
    }

    #[test]
    fn only_addresses_of_records_are_ours() {
        let registry = Registry::new();
        assert!(registry.owns(0).is_none());
        for _ in 0..200 {
            registry.register(None, None, 1000).unwrap();
        }
        for index in 0..200 {
            let record = registry.record(index).unwrap();
            let address = std::ptr::from_ref(record) as usize;
            assert!(std::ptr::eq(registry.owns(address).unwrap(), record));
            assert!(registry.owns(address + 8).is_none());
        }
        assert!(size_of::<Record>() <= 256, "{}", size_of::<Record>());
    }
}
