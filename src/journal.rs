//! The journal: which rungs were tried on a thread, for whoever is waiting for its end.
//!
//! Owns: the entries of threads that somebody has opened a journal for; nothing is noted about others. Leaves to the driver and the
//! raisers noting, to `until_dead` reading. Blocks for one lock, which no handler of the program comes on top of; noting asks for it only while
//! a journal is open.
//!
//! **Signal context:** no.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::platform::nudge;
use crate::platform::spot::Refused;
use crate::protocol::notes::Count;
use crate::protocol::registry::ThreadId;
use crate::rung::{Refusal, Rung};

/// A rung that was tried on a thread, once or many times.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Climbed {
    /// Which.
    pub rung: Rung,
    /// How often.
    pub tries: usize,
    /// When first, counted from the first raise.
    pub first: Duration,
    /// When last, counted from the first raise.
    pub last: Duration,
    /// Why it did not act, where that is known: the last refusal of a forced rung.
    pub refusal: Option<Refusal>,
}

struct Entry {
    rung: Rung,
    tries: usize,
    first: Instant,
    last: Instant,
    refused: Option<Refused>,
}

#[derive(Default)]
struct Pages {
    readers: usize,
    entries: Vec<Entry>,
}

/// The journals that are open.
pub(crate) struct Shelf(Option<HashMap<ThreadId, Pages>>);

static SHELF: Mutex<Shelf> = Mutex::new(Shelf(None));

/// Journals that were ever opened, and closed.
static OPENED: Count = Count::new();
static CLOSED: Count = Count::new();

fn shelf() -> MutexGuard<'static, Shelf> {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is done with the shelf. No handler of the program runs on top of it, which might wait for a thread that has something to note.
fn at_shelf<R>(act: impl FnOnce(&mut Shelf) -> R) -> R {
    let _quiet = nudge::quiet();
    act(&mut shelf())
}

/// Keeps everybody out while the process forks.
pub(crate) fn hold_for_fork() -> MutexGuard<'static, Shelf> {
    shelf()
}

/// Notes that a rung was tried, if anybody wants to know.
pub(crate) fn note(id: ThreadId, rung: Rung, refused: Option<Refused>) {
    // Who opens a journal does so before it raises.
    if OPENED.get() != CLOSED.get() {
        at_shelf(|shelf| shelf.note(id, rung, refused));
    }
}

impl Shelf {
    fn note(&mut self, id: ThreadId, rung: Rung, refused: Option<Refused>) {
        let Some(pages) = self.0.as_mut().and_then(|shelf| shelf.get_mut(&id)) else {
            return;
        };
        let now = Instant::now();
        match pages.entries.iter_mut().find(|entry| entry.rung == rung) {
            Some(entry) => {
                entry.tries += 1;
                entry.last = now;
                entry.refused = refused.or(entry.refused);
            }
            None => pages.entries.push(Entry {
                rung,
                tries: 1,
                first: now,
                last: now,
                refused,
            }),
        }
    }
}

/// An open journal of one thread.
pub(crate) struct Journal {
    id: ThreadId,
    opened: Instant,
}

impl Journal {
    pub(crate) fn open(id: ThreadId) -> Self {
        OPENED.add_one();
        at_shelf(|shelf| shelf.0.get_or_insert_default().entry(id).or_default().readers += 1);
        Self {
            id,
            opened: Instant::now(),
        }
    }

    /// What was tried so far, in the order of the ladder.
    pub(crate) fn read(&self) -> Vec<Climbed> {
        let mut climbed: Vec<Climbed> = at_shelf(|shelf| {
            let pages = shelf.0.as_ref().and_then(|shelf| shelf.get(&self.id));
            let entries = pages.map_or(&[][..], |pages| &pages.entries);
            entries.iter().map(|entry| self.tell(entry)).collect()
        });
        climbed.sort_by_key(|climbed| climbed.rung);
        climbed
    }

    fn tell(&self, entry: &Entry) -> Climbed {
        Climbed {
            rung: entry.rung,
            tries: entry.tries,
            first: entry.first.saturating_duration_since(self.opened),
            last: entry.last.saturating_duration_since(self.opened),
            refusal: entry.refused.map(Refusal::of),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        at_shelf(|shelf| {
            if let Some(pages) = shelf.0.as_mut().and_then(|shelf| shelf.get_mut(&self.id)) {
                pages.readers -= 1;
                if pages.readers == 0 {
                    shelf.0.as_mut().map(|shelf| shelf.remove(&self.id));
                }
            }
        });
        CLOSED.add_one();
    }
}
