//! Trees, groups and scopes: many threads stopped as one, and none of them missed.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use throwto::scope::Scope;
use throwto::thread::{Builder, JoinError, StoppableThread, ThreadGroup};
use throwto::time::timeout;
use throwto::{
    Cancelled, ExcType, Interrupted, Raise, RaiseError, Raised, ReceiptState, Rung, Stop, ThreadId, attach,
    mask, raise_exc, thread, uninterruptible,
};

use crate::stage::*;

/// An exception of which every target gets a copy. Counts the copies that live, and those that were made.
#[derive(Debug)]
struct Counted(Arc<(AtomicUsize, AtomicUsize)>);

impl Counted {
    fn new() -> (Self, Arc<(AtomicUsize, AtomicUsize)>) {
        let counts = Arc::new((AtomicUsize::new(1), AtomicUsize::new(0)));
        (Self(Arc::clone(&counts)), counts)
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        self.0.1.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("counted")
    }
}

impl std::error::Error for Counted {}

/// A thread with two children to each thread, `depth` levels below it. All park; returns how many were raised into.
fn grow(depth: usize, ids: &Arc<Mutex<Vec<ThreadId>>>) -> usize {
    ids.lock().unwrap().push(ThreadId::current().unwrap());
    let children: Vec<_> = (0..if depth == 0 { 0 } else { 2 })
        .map(|_| {
            let ids = Arc::clone(ids);
            thread::spawn(move || grow(depth - 1, &ids))
        })
        .collect();
    let raised = thread::park().is_err();
    let below: usize = uninterruptible(|_| children.into_iter().map(join).sum());
    usize::from(raised) + below
}

/// A tree of 31 threads, all parked.
fn planted() -> (thread::JoinHandle<usize>, Vec<ThreadId>) {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&ids);
    let root = thread::spawn(move || grow(4, &theirs));
    until("all have been born", || ids.lock().unwrap().len() == 31);
    let ids = ids.lock().unwrap().clone();
    ids.iter().for_each(|id| until_waiting(*id));
    (root, ids)
}

#[test]
fn a_tree_of_depth_four_is_stopped_with_one_raise() {
    let (root, ids) = planted();
    let (counted, counts) = Counted::new();
    let receipts = Raise::new(counted).tree().to(&root).unwrap();
    let reached: HashSet<_> = receipts.iter().map(throwto::Receipt::target).collect();
    assert_eq!(reached, ids.into_iter().collect());
    assert_eq!(receipts[0].target(), root.id());
    assert_eq!(join(root), 31);
    assert!(receipts.iter().all(|r| fate(r) == ReceiptState::Caught));
    assert_eq!(
        (counts.0.load(Ordering::SeqCst), counts.1.load(Ordering::SeqCst)),
        (0, 31),
        "one copy for each, and all are gone"
    );
}

#[test]
fn a_tree_raise_reaches_the_part_below_its_root_only() {
    let (root, ids) = planted();
    let child = ids[1];
    let receipts = Raise::new(Stop).tree().to(child).unwrap();
    assert_eq!(receipts.len(), 15, "a child of the root has fourteen below it");
    assert!(receipts.iter().all(|r| fate(r) == ReceiptState::Caught));
    assert_eq!(info(root.id()).unwrap().pending, 0);
    Raise::new(ExcType::of::<Stop>()).tree().to(&root).unwrap();
    assert_eq!(join(root), 31);
}

#[test]
fn a_tree_raise_needs_one_live_root() {
    let ended = thread::spawn(|| ());
    until("it is gone", || {
        matches!(
            Raise::new(Stop).tree().to(&ended),
            Err(RaiseError::NoSuchThread { .. })
        )
    });
    let twins: Vec<_> = (0..2)
        .map(|_| {
            Builder::new()
                .name("tree twin".into())
                .spawn(thread::park)
                .unwrap()
        })
        .collect();
    let ambiguous = Raise::new(Stop).tree().to("tree twin");
    assert!(matches!(ambiguous, Err(RaiseError::Ambiguous { matched: 2 })));
    for twin in twins {
        twin.unpark();
        join(twin).unwrap();
    }
}

#[test]
fn orphans_stay_in_the_tree_of_the_ancestor_that_lives() {
    let (sender, receiver) = mpsc::channel();
    let root = thread::spawn(move || {
        let middle = thread::spawn(|| thread::spawn(thread::park));
        let orphan = join(middle);
        sender.send(orphan.id()).unwrap();
        let first = thread::park();
        (first.is_err(), uninterruptible(|_| join(orphan)).is_err())
    });
    let orphan = receiver.recv().unwrap();
    let parent = info(orphan).unwrap().parent.unwrap();
    assert!(
        parent != root.id() && info(parent).is_none(),
        "its parent has ended"
    );
    let receipts = Raise::new(Stop).tree().to(&root).unwrap();
    assert_eq!(receipts.len(), 2);
    assert_eq!(join(root), (true, true));
}

#[test]
fn who_spawns_with_the_raise_still_pending_passes_it_on() {
    let (sender, receiver) = mpsc::channel();
    let (go, went) = mpsc::channel();
    let root = thread::spawn(move || {
        sender.send(()).unwrap();
        went.recv().unwrap();
        // No safepoint so far: the exception waits.
        let child = thread::spawn(|| throwto::safepoint().is_err());
        let protected = uninterruptible(|_| thread::spawn(|| throwto::safepoint().is_ok()));
        let met = throwto::safepoint().is_err();
        let late = thread::spawn(|| throwto::safepoint().is_ok());
        (join(child), join(protected), met, join(late))
    });
    receiver.recv().unwrap();
    let (counted, counts) = Counted::new();
    let receipts = Raise::new(counted).tree().to(&root).unwrap();
    assert_eq!(receipts.len(), 1);
    go.send(()).unwrap();
    assert_eq!(join(root), (true, true, true, true));
    drop(receipts);
    assert_eq!(
        (counts.0.load(Ordering::SeqCst), counts.1.load(Ordering::SeqCst)),
        (0, 2)
    );
}

/// Each thread spawns others without end and comes by a safepoint now and then, until it is raised into.
fn storm(alive: &Arc<AtomicU64>, over: &Arc<AtomicBool>, seed: u64) {
    alive.fetch_add(1, Ordering::SeqCst);
    let mut dice = Dice::new(seed);
    while !over.load(Ordering::SeqCst) {
        if dice.roll(4) == 0 && alive.load(Ordering::SeqCst) < 200 {
            let (alive, over, seed) = (Arc::clone(alive), Arc::clone(over), dice.roll(u64::MAX));
            let child = Builder::new().spawn(move || storm(&alive, &over, seed));
            drop(child.unwrap());
        }
        if dice.roll(3) == 0 && throwto::safepoint().is_err() {
            break;
        }
        if dice.roll(50) == 0 {
            // Ends by itself: its children are orphans.
            break;
        }
    }
    alive.fetch_sub(1, Ordering::SeqCst);
}

/// In a process of its own: it starts thousands of threads.
/// Shows protocol::lineage I3.
#[test]
fn a_spawning_storm_is_stopped_by_one_raise() {
    in_own_process("groups::a_spawning_storm_is_stopped_by_one_raise", storms);
}

fn storms() {
    let seed = seed();
    println!("THROWTO_SEED={seed}");
    for round in 0..rounds(30) {
        let (alive, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let end = Over(&over);
        let group = ThreadGroup::named("storm");
        let root = {
            let (alive, over) = (Arc::clone(&alive), Arc::clone(&over));
            group.spawn(move || {
                for child in 0..4 {
                    let (alive, over) = (Arc::clone(&alive), Arc::clone(&over));
                    drop(thread::spawn(move || {
                        storm(&alive, &over, seed ^ (round * 8 + child))
                    }));
                }
                thread::park()
            })
        };
        until("it rages, or has died down", || {
            !matches!(alive.load(Ordering::SeqCst), 1..50) && info(root.id()).is_some()
        });
        // Once: no retry helps. All must be gone though none of them is told that it is over.
        if round % 2 == 0 {
            assert!(!Raise::new(Stop).tree().to(&root).unwrap().is_empty());
        } else {
            assert!(!group.raise(Stop).is_empty());
        }
        until("the storm is over", || group.is_empty());
        assert!(join(root).is_err());
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        drop(end);
    }
}

#[test]
fn a_stoppable_thread_is_a_root_like_any_other() {
    let worker = StoppableThread::spawn(|| {
        let child = thread::spawn(|| thread::sleep(FOREVER).is_err());
        let met = thread::park().is_err();
        (met, uninterruptible(|_| join(child)))
    });
    until_waiting(worker.id());
    Raise::new(Stop).tree().to(&worker).unwrap();
    assert!(!worker.stopped(), "a raise sets no flag");
    assert_eq!(worker.join().unwrap(), (true, true));
}

/// std panics at a NUL in a thread's name, when its id is taken and it is in its group.
#[test]
fn a_thread_whose_name_std_refuses_leaves_nobody_in_its_group() {
    let group = ThreadGroup::new();
    let start = || Builder::new().name("no\0name".into()).group(&group).spawn(|| ());
    assert!(catch_unwind(AssertUnwindSafe(start)).is_err());
    assert!(group.is_empty(), "{:?}", group.threads());
}

#[test]
fn an_empty_group_is_shut_down_at_once() {
    let group = ThreadGroup::new();
    assert!(group.shutdown(FOREVER, Stop).is_empty());
    assert!(group.raise(Stop).is_empty() && group.threads().is_empty());
    join(group.spawn(|| ()));
    assert!(group.shutdown(Duration::MAX, ExcType::of::<Stop>()).is_empty());
}

#[test]
fn a_group_holds_whatever_its_threads_have_spawned() {
    let outer = ThreadGroup::named("outer");
    let inner = ThreadGroup::named("inner");
    let (sender, receiver) = mpsc::channel();
    let theirs = inner.clone();
    join(outer.spawn(move || {
        // Both outlive their parent.
        sender.send(thread::spawn(thread::park)).unwrap();
        sender.send(theirs.spawn(thread::park)).unwrap();
    }));
    let workers = [receiver.recv().unwrap(), receiver.recv().unwrap()];
    let ids = |group: &ThreadGroup| group.threads().iter().map(|t| t.id).collect::<HashSet<_>>();
    assert_eq!(ids(&outer), workers.iter().map(thread::JoinHandle::id).collect());
    assert_eq!(ids(&inner), [workers[1].id()].into());
    assert_eq!((inner.name(), ThreadGroup::new().name()), (Some("inner"), None));
    assert!(outer.shutdown(LIMIT, Cancelled).is_empty());
    for worker in workers {
        assert!(join(worker).unwrap_err().is::<Cancelled>());
    }
}

#[test]
fn a_shutdown_repeats_for_those_who_swallow_and_returns_those_who_stay() {
    let group = ThreadGroup::new();
    let over = Arc::new(AtomicBool::new(false));
    let end = Over(&over);
    let five_times = group.spawn(|| (0..5).filter(|_| thread::sleep(FOREVER).is_err()).count());
    let theirs = Arc::clone(&over);
    let never = Builder::new().name("never".into()).group(&group);
    let never = never
        .spawn(move || {
            while !theirs.load(Ordering::SeqCst) {
                let _swallowed = thread::park();
            }
        })
        .unwrap();
    let (sender, receiver) = mpsc::channel::<()>();
    let deaf = group.spawn(move || receiver.recv().is_err());
    until_blocked(deaf.id(), "futex wait");
    let survivors = group.shutdown(Duration::from_secs(2), Stop);
    assert_eq!(join(five_times), 5);
    let ids: HashSet<_> = survivors.iter().map(|s| s.info.id).collect();
    assert_eq!(ids, [never.id(), deaf.id()].into(), "{survivors:#?}");
    for survivor in &survivors {
        assert!(survivor.raises >= 2 && !survivor.is_caller, "{survivor:?}");
        let text = survivor.to_string();
        if survivor.info.id == never.id() {
            assert!(survivor.caught > 0 && text.contains("\"never\""), "{text}");
        } else {
            assert_eq!(survivor.caught, 0, "{text}");
            #[cfg(throwto_ladder)]
            assert!(survivor.info.where_blocked.starts_with("futex wait"), "{text}");
        }
    }
    drop(end);
    drop(sender);
    assert!(group.shutdown(LIMIT, Stop).is_empty());
    join(never);
    assert!(join(deaf));
}

#[cfg(throwto_ladder)]
#[test]
fn a_survivor_tells_which_rungs_were_tried() {
    let group = ThreadGroup::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let stubborn = group.spawn(move || throwto::foreign::call(|| stubborn_read(&reader)));
    until_blocked(stubborn.id(), "read(");
    // Each nudge takes it out of its call for a moment: it need not be there at the first look.
    until("a survivor in its read", || {
        let survivors = group.shutdown(Duration::from_millis(100), Stop);
        let [survivor] = &survivors[..] else {
            panic!("{survivors:?}")
        };
        assert!(
            survivor.climbed.iter().any(|step| step.rung == Rung::Nudge),
            "{survivor:?}"
        );
        survivor.info.where_blocked.starts_with("read(")
    });
    drop(writer);
    let (read, interrupted) = join(stubborn).unwrap();
    assert!(read == Ok(0) && interrupted > 0);
}

#[test]
fn a_group_that_holds_the_caller_is_shut_down_but_for_the_caller() {
    let group = ThreadGroup::new();
    let mine = group.clone();
    let caller = group.spawn(move || {
        let others: Vec<_> = (0..3).map(|_| thread::spawn(thread::park)).collect();
        let survivors = mine.shutdown(FOREVER, Stop);
        assert!(throwto::safepoint().is_ok(), "nothing was raised in it");
        assert!(others.into_iter().all(|other| join(other).is_err()));
        // A mere raise does reach it.
        mine.raise(Interrupted);
        assert!(throwto::safepoint().unwrap_err().is::<Interrupted>());
        survivors
    });
    let id = caller.id();
    let survivors = join(caller);
    let [me] = &survivors[..] else {
        panic!("{survivors:?}")
    };
    assert!(me.is_caller && me.info.id == id && me.raises == 0, "{me:?}");
    assert!(me.to_string().contains("called for the shutdown"), "{me}");
}

#[test]
fn threads_spawned_during_a_shutdown_are_shut_down_too() {
    let group = ThreadGroup::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let end = Over(&over);
        // From outside: nothing is inherited.
        let spawner = s.spawn(|| {
            let mut met = 0;
            while !over.load(Ordering::SeqCst) {
                met += usize::from(join(group.spawn(thread::park)).is_err());
            }
            met
        });
        until("it is met in the group", || !group.threads().is_empty());
        for _ in 0..20 {
            group.shutdown(Duration::from_millis(5), Stop);
        }
        // Its last one parks until somebody raises into it.
        drop(end);
        until("the spawner is done", || {
            group.raise(Stop);
            spawner.is_finished()
        });
        assert!(spawner.join().unwrap() > 0);
    });
    assert!(group.shutdown(Duration::ZERO, Stop).is_empty());
}

#[test]
fn every_copy_of_a_broadcast_is_dropped_once() {
    let (counted, counts) = Counted::new();
    let group = ThreadGroup::new();
    let workers: Vec<_> = (0..20)
        .map(|i| {
            group.spawn(move || match i % 4 {
                0 => thread::park().is_err(),
                1 => mask(|_| thread::park().is_err()),
                // Superseded again and again, then refused by its end.
                2 => uninterruptible(|_| thread::park().is_err()),
                _ => spin().is::<Counted>(),
            })
        })
        .collect();
    for _ in 0..50 {
        group.raise(counted.clone());
        std::thread::yield_now();
    }
    drop(counted);
    for (i, worker) in workers.into_iter().enumerate() {
        if i % 4 == 2 {
            worker.unpark();
        }
        assert_eq!(join(worker), i % 4 != 2);
    }
    until("all are gone", || counts.0.load(Ordering::SeqCst) == 0);
}

/// A scope with two sleeping children and `body`; returns what it returned, and by what the children were ended.
fn scoped<T>(body: impl FnOnce() -> T) -> (std::thread::Result<T>, Vec<bool>) {
    let ended = Mutex::new(Vec::new());
    let result = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    let by = thread::sleep(FOREVER).unwrap_err();
                    ended.lock().unwrap().push(by.is::<Cancelled>());
                });
            }
            body()
        })
    }));
    (result, ended.into_inner().unwrap())
}

#[test]
fn a_scope_whose_body_is_raised_into_raises_into_its_children_and_joins_them() {
    let parent = thread::spawn(|| scoped(thread::park));
    until_waiting(parent.id());
    parent.raise(Stop).unwrap();
    let (result, ended) = join(parent);
    assert!(result.unwrap().unwrap_err().is::<Stop>());
    assert_eq!(ended, [true, true]);
    let unwinding = thread::spawn(|| {
        scoped(|| {
            loop {
                throwto::safepoint_unwind()
            }
        })
    });
    unwinding.raise(Stop).unwrap();
    let (result, ended): (std::thread::Result<()>, _) = join(unwinding);
    assert!(result.unwrap_err().is::<Raised>());
    assert_eq!(ended, [true, true]);
}

#[test]
fn a_scope_whose_body_panics_raises_into_its_children_and_joins_them() {
    let (result, ended) = scoped(|| std::panic::resume_unwind(Box::new("body")));
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&"body"));
    assert_eq!(ended, [true, true]);
}

/// Shows thread::scope I2.
#[test]
fn each_raise_into_a_waiting_scope_is_passed_on_and_stays_pending() {
    let met = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&met);
    let parent = thread::spawn(move || {
        thread::scope(|s| {
            s.spawn(|| {
                for _ in 0..3 {
                    assert!(thread::sleep(FOREVER).unwrap_err().is::<Cancelled>());
                    theirs.fetch_add(1, Ordering::SeqCst);
                }
            });
        });
        let kept = throwto::safepoint().unwrap_err().is::<Stop>();
        (kept, throwto::safepoint().is_ok())
    });
    let mut receipts = Vec::new();
    for times in 1..4 {
        until_waiting(parent.id());
        receipts.push(parent.raise(Stop).unwrap());
        until("it was passed on", || met.load(Ordering::SeqCst) == times);
    }
    assert_eq!(join(parent), (true, true));
    let fates: Vec<_> = receipts.iter().map(fate).collect();
    assert_eq!(
        fates,
        [
            ReceiptState::Superseded,
            ReceiptState::Superseded,
            ReceiptState::Caught
        ]
    );
}

#[test]
fn a_stop_flag_is_handed_down_to_the_children_of_a_waiting_scope() {
    let parent = StoppableThread::spawn(|| {
        thread::scope(|s| {
            s.spawn(|| {
                let mut met = 0;
                while met < 5 {
                    met += usize::from(thread::sleep(FOREVER).is_err_and(|by| by.is::<Stop>()));
                }
                assert!(thread::stopped());
            });
        });
        throwto::safepoint().is_err()
    });
    until_waiting(parent.id());
    parent.stop();
    assert!(parent.join().unwrap());
}

/// A limit and a cancelled scope are in no slot, and they last: a child that swallows one exception meets the next.
#[test]
fn a_limit_or_a_cancelled_scope_around_a_waiting_scope_ends_children_that_swallow() {
    fn around_a_child(begin: impl FnOnce() + Send) -> Result<(), Raised> {
        let parent = ThreadId::current().unwrap();
        thread::scope(|s| {
            s.spawn(|| {
                until_waiting(parent);
                begin();
                for _ in 0..3 {
                    assert!(thread::sleep(FOREVER).unwrap_err().is::<Cancelled>());
                }
            });
        });
        throwto::safepoint()
    }
    let (outer, handle) = Scope::new();
    let parent = thread::spawn(move || {
        let limited = timeout(Duration::from_millis(20), || around_a_child(|| ()));
        let cancelled = outer.run(|| around_a_child(|| handle.cancel()));
        (limited.is_err(), cancelled.is_err(), throwto::safepoint().is_ok())
    });
    assert_eq!(join(parent), (true, true, true));
}

/// In a process of its own: a panic may print a backtrace, and reading the symbols takes 85 MB.
#[test]
fn a_scope_hands_out_results_and_panics_as_std_does() {
    in_own_process(
        "groups::a_scope_hands_out_results_and_panics_as_std_does",
        results_and_panics,
    );
}

fn results_and_panics() {
    let words = ["one".to_owned(), "three".to_owned()];
    let lengths: Vec<usize> = thread::scope(|s| {
        let children: Vec<_> = words.iter().map(|word| s.spawn(|| word.len())).collect();
        children.into_iter().map(|child| child.join().unwrap()).collect()
    });
    assert_eq!(lengths, [3, 5]);
    // Joined: it is the body's business.
    let panics = || -> () { std::panic::resume_unwind(Box::new(7)) };
    let joined = thread::scope(|s| s.spawn(panics).join());
    assert!(matches!(joined, Err(JoinError::Panicked(_))));
    // Not joined: the others go on to their ends, then the scope panics.
    let went_on = AtomicBool::new(false);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|s| {
            let first = s.spawn(|| -> () { std::panic::resume_unwind(Box::new("child")) });
            let id = first.id();
            drop(first);
            s.spawn(move || until("the first is gone", || info(id).is_none()));
            s.spawn(|| went_on.store(true, Ordering::SeqCst));
        })
    }));
    assert!(panicked.is_err() && went_on.into_inner());
    // Ended by an exception: no panic.
    thread::scope(|s| {
        let raised = s.spawn(|| -> () {
            loop {
                throwto::safepoint_unwind()
            }
        });
        raise_exc(&raised, Stop).unwrap();
    });
}

#[test]
fn scopes_nest_and_children_spawn_siblings_that_are_waited_for() {
    let count = AtomicUsize::new(0);
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                s.spawn(|| count.fetch_add(1, Ordering::SeqCst));
                thread::scope(|inner| {
                    for _ in 0..4 {
                        inner.spawn(|| count.fetch_add(1, Ordering::SeqCst));
                    }
                });
            });
        }
    });
    assert_eq!(count.into_inner(), 20);
}

#[test]
fn a_sibling_that_is_spawned_after_the_raise_is_raised_into_as_well() {
    let (result, met) = {
        let met = AtomicUsize::new(0);
        let result: std::thread::Result<()> = catch_unwind(AssertUnwindSafe(|| {
            thread::scope(|s| {
                s.spawn(|| {
                    met.fetch_add(usize::from(thread::sleep(FOREVER).is_err()), Ordering::SeqCst);
                    s.spawn(|| met.fetch_add(usize::from(thread::sleep(FOREVER).is_err()), Ordering::SeqCst));
                });
                std::panic::resume_unwind(Box::new("body"))
            })
        }));
        (result, met.into_inner())
    };
    assert!(result.is_err());
    assert_eq!(met, 2);
}

/// Shows thread::scope I1.
#[test]
fn a_scope_never_returns_before_its_children_however_it_is_shot_at() {
    let over = AtomicBool::new(false);
    std::thread::scope(|outer| {
        let end = Over(&over);
        let attachment = attach().unwrap();
        let me = attachment.id();
        let over = &over;
        outer.spawn(move || {
            while !over.load(Ordering::SeqCst) {
                let _ = raise_exc(me, Interrupted);
                std::thread::yield_now();
            }
        });
        for round in 0..rounds(500) {
            let running = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                thread::scope(|s| {
                    for child in 0..3 {
                        running.fetch_add(1, Ordering::SeqCst);
                        let running = &running;
                        s.spawn(move || {
                            match (round + child) % 3 {
                                0 => drop(thread::sleep(Duration::from_micros(50))),
                                1 => drop(throwto::safepoint()),
                                _ => std::thread::yield_now(),
                            }
                            running.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                    match round % 3 {
                        0 => throwto::safepoint_unwind(),
                        1 => drop(throwto::safepoint()),
                        _ => {}
                    }
                    throwto::safepoint()
                })
            }));
            assert_eq!(running.load(Ordering::SeqCst), 0, "round {round}");
            drop(result);
        }
        drop(end);
    });
}

/// Whether the process is the one that began the scope was once asked of a runtime that was not there yet.
#[test]
fn a_scope_that_is_the_first_thing_in_its_process_waits_for_its_children() {
    in_own_process(
        "groups::a_scope_that_is_the_first_thing_in_its_process_waits_for_its_children",
        || {
            let ended = AtomicBool::new(false);
            thread::scope(|s| {
                s.spawn(|| {
                    // Long enough for a scope that does not wait to be caught at it.
                    std::thread::sleep(Duration::from_millis(50));
                    ended.store(true, Ordering::SeqCst);
                });
            });
            assert!(ended.load(Ordering::SeqCst), "it borrows what is gone");
        },
    );
}
