//! The word of a lock and the line before it: nobody waits for a lock that is free, and nobody holds it with another. And
//! the slot's lock, which has neither.
//!
//! Owns: the models of `protocol::lock_word` and of `sync_shim::brief`. The line is a flag under a lock, with a bell; what `sync::queue` does beside that
//! is not modelled.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::protocol::lock_word::{AfterRelease, LockWord, Take};
use crate::stage::model;
use crate::sync_shim::brief::Brief;

struct Lock {
    word: LockWord,
    /// Who is in line, and who has been notified.
    line: Mutex<(u32, u32)>,
    notified: Condvar,
    data: UnsafeCell<u32>,
}

// SAFETY: the data is touched by who holds the lock; that no two do is what loom looks for.
unsafe impl Sync for Lock {}

impl Lock {
    /// As `sync::Mutex::lock` does.
    fn lock(&self) {
        if self.word.take() == Take::Taken {
            return;
        }
        self.line.lock().unwrap().0 += 1;
        while self.word.take_or_mark() == Take::Held {
            let mut line = self.line.lock().unwrap();
            while line.1 == 0 {
                line = self.notified.wait(line).unwrap();
            }
            line.1 -= 1;
        }
        self.line.lock().unwrap().0 -= 1;
    }

    /// Marks the word before it joins the line. Whether it has the lock; else it would sleep now.
    fn lock_out_of_turn(&self) -> bool {
        let has = self.word.take() == Take::Taken || self.word.take_or_mark() == Take::Taken;
        if !has {
            self.line.lock().unwrap().0 += 1;
        }
        has
    }

    fn use_and_release(&self) {
        // SAFETY: loom panics if another access is concurrent.
        self.data.with_mut(|data| unsafe { *data += 1 });
        if self.word.release() == AfterRelease::Notify {
            let mut line = self.line.lock().unwrap();
            if line.0 > line.1 {
                line.1 += 1;
                self.notified.notify_one();
            }
        }
    }
}

fn new() -> Arc<Lock> {
    Arc::new(Lock {
        word: LockWord::new(),
        line: Mutex::default(),
        notified: Condvar::new(),
        data: UnsafeCell::new(0),
    })
}

fn threads_that_lock(count: usize) {
    let lock = new();
    let work = |lock: Arc<Lock>| {
        move || {
            lock.lock();
            lock.use_and_release();
        }
    };
    let others: Vec<_> = (1..count).map(|_| thread::spawn(work(lock.clone()))).collect();
    work(lock.clone())();
    others.into_iter().for_each(|other| other.join().unwrap());
    // SAFETY: all who had it have ended.
    lock.data
        .with(|data| assert_eq!(unsafe { *data } as usize, count));
}

/// Shows protocol::lock_word I1.
#[test]
fn who_waits_for_a_lock_gets_it_alone() {
    model(None, || threads_that_lock(2));
}

/// Shows protocol::lock_word I1, I2.
#[test]
fn the_mark_is_left_for_the_last_of_three() {
    model(Some(2), || threads_that_lock(3));
}

/// A waiter that marks the word before it is in line: the holder looks for it in vain.
#[test]
#[should_panic(expected = "nobody is coming")]
fn without_joining_the_line_first_a_waiter_is_left_alone() {
    model(None, || {
        let lock = new();
        let waiter = thread::spawn({
            let lock = lock.clone();
            move || {
                if lock.lock_out_of_turn() {
                    lock.use_and_release();
                }
            }
        });
        lock.lock();
        lock.use_and_release();
        waiter.join().unwrap();
        let line = lock.line.lock().unwrap();
        assert_eq!(line.0, line.1, "asleep before a free lock, and nobody is coming");
    });
}

/// Of the slot's lock: one thread waits for it, the others ask for it and take it if it is free. Two who wait would each leave the
/// other its turn for ever.
fn holders(asking: usize) {
    let lock = Arc::new(Brief::new(0));
    let ask = |lock: &Brief<usize>| lock.acquire_if_free().map(|mut data| *data += 1).is_some();
    let waiter = thread::spawn({
        let lock = lock.clone();
        move || *lock.acquire() += 1
    });
    let askers: Vec<_> = (1..asking)
        .map(|_| {
            let lock = lock.clone();
            thread::spawn(move || ask(&lock))
        })
        .collect();
    let mut got = usize::from(ask(&lock)) + usize::from(ask(&lock));
    waiter.join().unwrap();
    for asker in askers {
        got += usize::from(asker.join().unwrap());
    }
    let free = lock.acquire_if_free().expect("all have let go");
    assert_eq!(*free, 1 + got);
}

/// Shows sync_shim::brief I1.
#[test]
fn who_has_the_slots_lock_has_it_alone_and_sees_the_last_ones_work() {
    model(None, || holders(1));
}

/// Shows sync_shim::brief I1.
#[test]
fn three_at_the_slots_lock_are_served_one_after_the_other() {
    model(Some(3), || holders(2));
}
