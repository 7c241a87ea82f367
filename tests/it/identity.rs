//! P4: a `ThreadId` names one thread for ever.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use throwto::os::OsTid;
use throwto::{
    Interrupted, RaiseError, ReceiptState, Stop, ThreadId, ThreadState, attach, foreign, raise_exc, thread,
};

use crate::stage::*;

#[test]
fn ids_are_never_reused_by_any_thread() {
    let ids: Vec<ThreadId> = std::thread::scope(|s| {
        let makers: Vec<_> = (0..4)
            .map(|_| s.spawn(|| (0..2000).map(|_| attach().unwrap().id()).collect::<Vec<_>>()))
            .collect();
        makers.into_iter().flat_map(|m| m.join().unwrap()).collect()
    });
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
}

/// The same kernel thread attached anew: the kernel's number is reused as surely as can be.
#[test]
fn an_old_id_never_reaches_the_next_holder_of_its_number() {
    let ledger = Ledger::new();
    let first = attach().unwrap();
    let old = first.id();
    drop(first);
    let second = attach().unwrap();
    assert_ne!(old, second.id());
    assert!(matches!(
        raise_exc(old, Numbered::new(&ledger)),
        Err(RaiseError::NoSuchThread { .. })
    ));
    ledger.balance();
    assert!(throwto::safepoint().is_ok());
    assert_eq!(raise_exc(OsTid::current(), Stop).unwrap().target(), second.id());
    assert!(throwto::safepoint().is_err());
}

#[test]
fn raises_through_old_ids_hit_nobody_while_their_records_live_again() {
    let ledger = Ledger::new();
    let (over, lives) = (AtomicBool::new(false), AtomicU64::new(0));
    let mine = attach().unwrap().id();
    std::thread::scope(|s| {
        let end = Over(&over);
        let innocent: Vec<_> = (0..2)
            .map(|_| {
                s.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let _attachment = attach().unwrap();
                        for _ in 0..10 {
                            assert!(throwto::safepoint().is_ok(), "raised into through an old id");
                        }
                        lives.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        until("they come and go", || lives.load(Ordering::Relaxed) > 0);
        for _ in 0..20_000 {
            let old = attach().unwrap().id();
            assert!(raise_exc(old, Numbered::new(&ledger)).is_err());
            assert!(raise_exc(mine, Numbered::new(&ledger)).is_err());
        }
        drop(end);
        innocent.into_iter().for_each(|i| i.join().unwrap());
    });
    ledger.balance();
}

#[test]
fn attachments_nest_and_end_with_the_last() {
    assert_eq!(ThreadId::current(), None);
    let outer = attach().unwrap();
    let inner = attach().unwrap();
    assert_eq!((outer.id(), ThreadId::current()), (inner.id(), Some(inner.id())));
    let id = inner.id();
    drop(outer);
    raise_exc(id, Stop).unwrap();
    assert!(
        throwto::safepoint().is_err(),
        "in whatever order they are dropped"
    );
    let late = raise_exc(id, Stop).unwrap();
    drop(inner);
    assert_eq!(
        (ThreadId::current(), late.state()),
        (None, ReceiptState::TargetEnded)
    );
    assert!(throwto::safepoint().is_ok());
}

#[test]
fn a_forgotten_guard_ends_with_its_thread() {
    let id = std::thread::spawn(|| {
        let attachment = attach().unwrap();
        let id = attachment.id();
        std::mem::forget(attachment);
        id
    });
    let id = id.join().unwrap();
    assert!(info(id).is_none());
    assert!(raise_exc(id, Stop).is_err());
}

/// A record that was given back while its owner is in a region would be written to by two threads.
#[test]
fn a_guard_dropped_inside_a_foreign_call_keeps_the_record_until_after() {
    let worker = std::thread::spawn(|| {
        let attachment = attach().unwrap();
        let id = attachment.id();
        let others = foreign::Call::new("drops its guard")
            .unblock(|| ())
            .run(move || {
                drop(attachment);
                // Somebody else moves in, if anybody can.
                let other = thread::Builder::new()
                    .name("moves in".into())
                    .spawn(thread::park)
                    .unwrap();
                until_waiting(other.id());
                other
            })
            .unwrap();
        assert_eq!(
            info(others.id()).unwrap().state,
            ThreadState::Waiting,
            "its region is its own"
        );
        others.raise(Stop).unwrap();
        join(others).unwrap_err();
        id
    });
    let id = worker.join().unwrap();
    assert!(info(id).is_none(), "gone at the latest with its thread");
}

#[test]
fn a_guard_dropped_inside_a_region_may_be_followed_by_another() {
    std::thread::spawn(|| {
        let attachment = attach().unwrap();
        let id = attachment.id();
        let second = foreign::call(move || {
            drop(attachment);
            attach().unwrap()
        })
        .unwrap();
        assert_eq!(ThreadId::current(), Some(second.id()));
        raise_exc(id, Interrupted).unwrap();
        assert!(throwto::safepoint().is_err());
        drop(second);
        assert_eq!(ThreadId::current(), None);
    })
    .join()
    .unwrap();
}

#[test]
fn a_member_is_found_by_all_its_names_and_shown_with_its_parent() {
    let parent = attach().unwrap();
    let worker = thread::Builder::new()
        .name("shown".into())
        .spawn(|| thread::sleep(FOREVER))
        .unwrap();
    until_waiting(worker.id());
    let seen = info(worker.id()).unwrap();
    assert_eq!(
        (seen.name.as_deref(), seen.parent, seen.pending),
        (Some("shown"), Some(parent.id()), 0)
    );
    assert!(!seen.nudge_blocked);
    assert_ne!(seen.os_tid, OsTid::current());
    raise_exc(seen.os_tid, Stop).unwrap();
    join(worker).unwrap_err();
    assert!(raise_exc(seen.os_tid, Stop).is_err());
}

#[test]
fn ids_of_ended_threads_name_nobody_for_every_call() {
    let worker = thread::spawn(|| ());
    let id = worker.id();
    join(worker);
    assert!(raise_exc(id, Stop).is_err());
    assert_eq!(throwto::set_async_exc(id, None), 0);
    assert!(!thread::unpark(id));
    assert!(throwto::raise_all(id, throwto::ExcType::of::<Stop>()).is_empty());
    let dead =
        throwto::raise_until_dead(id, throwto::ExcType::of::<Stop>(), throwto::Retry::default()).unwrap();
    assert_eq!(dead.raises, 0);
    let _ = Arc::new(());
}
