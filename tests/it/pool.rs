//! Jobs: each ends by what is addressed to it, the next one is never hit, and a pool keeps its capacity.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use throwto::pool::{Builder, Job, JobError, JobHandle, JobPool, JobState, PoolError, SubmitError, job};
use throwto::time::timeout;
use throwto::{
    Interrupted, Raise, RaiseError, Raised, ReceiptState, Stop, ThreadId, TimedOut, catch, raise_exc,
    safepoint, safepoint_unwind, thread,
};

use crate::stage::*;

const SOON: Duration = Duration::from_millis(5);

type Waited<T> = Result<T, JobError<T>>;

/// Waits, but not without bound.
#[track_caller]
fn result<T>(handle: JobHandle<T>) -> Waited<T> {
    match handle.wait_timeout(LIMIT) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(handle)) => panic!("never over: {handle:?}, {:#?}", handle.info()),
        Err(error) => Err(error),
    }
}

#[track_caller]
fn until_stuck_at<T>(handle: &JobHandle<T>, place: &str) {
    until(place, || {
        handle
            .info()
            .is_some_and(|info| begins_at(&place_of(&info), place))
    });
}

fn unwind_for_ever() {
    loop {
        safepoint_unwind();
    }
}

#[test]
fn a_job_ends_as_it_ends_and_its_thread_runs_the_next() {
    let pool = JobPool::new(1).unwrap();
    let limited = || Job::new().limit(SOON);
    let sleeping = pool.submit_with(limited(), || thread::sleep(FOREVER)).unwrap();
    assert!(matches!(result(sleeping), Err(JobError::TimedOut)));
    let unwinding = pool.submit_with(limited(), unwind_for_ever).unwrap();
    assert!(matches!(result(unwinding), Err(JobError::TimedOut)));
    let panicking = pool.submit(|| panic!("of this job only")).unwrap();
    assert!(matches!(result(panicking), Err(JobError::Panicked(_))));
    let cancelled = pool.submit(thread::park).unwrap();
    cancelled.cancel();
    assert!(matches!(result(cancelled), Err(JobError::Cancelled)));
    // What is raised into a job comes out as it is, in both styles.
    let raised_into = pool.submit(thread::park).unwrap();
    until("it runs", || raised_into.raise(Interrupted).is_ok());
    assert!(result(raised_into).unwrap().unwrap_err().is::<Interrupted>());
    let raised_into = pool.submit(unwind_for_ever).unwrap();
    until("it runs", || raised_into.raise(Interrupted).is_ok());
    assert!(matches!(result(raised_into), Err(JobError::Raised(raised)) if raised.is::<Interrupted>()));
    let clean = pool
        .submit(|| !throwto::pending() && safepoint().is_ok())
        .unwrap();
    assert!(result(clean).unwrap());
    assert_eq!(pool.status().written_off, 0);
}

#[test]
fn a_job_run_here_and_now_ends_as_it_ends_and_leaves_the_thread_as_it_was() {
    join(thread::spawn(|| {
        let mine = ThreadId::current();
        assert!(matches!(job(SOON, spin), Err(JobError::TimedOut)));
        assert!(matches!(job(SOON, unwind_for_ever), Err(JobError::TimedOut)));
        assert!(matches!(
            job(FOREVER, || -> u8 { panic!("of this job only") }),
            Err(JobError::Panicked(_))
        ));
        assert!(matches!(job(FOREVER, || 5), Ok(5)));
        assert!(safepoint().is_ok() && ThreadId::current() == mine);
    }));
    std::thread::spawn(|| {
        assert!(matches!(job(FOREVER, || ThreadId::current().is_some()), Ok(true)));
        assert_eq!(ThreadId::current(), None, "attached for that time only");
    })
    .join()
    .unwrap();
}

#[test]
fn a_job_cancelled_before_its_turn_never_runs() {
    let (task, handle) = Job::new().prepare(|| -> u8 { unreachable!("it was cancelled") });
    handle.cancel();
    assert!(handle.is_finished());
    task();
    assert!(matches!(result(handle), Err(JobError::Cancelled)));
    let (task, handle) = Job::new().prepare(|| ());
    assert!(matches!(handle.raise(Stop), Err(RaiseError::ScopeNotOpen)));
    drop(task);
    assert!(matches!(result(handle), Err(JobError::NotRun)));
}

#[test]
fn what_is_zero_or_huge_or_late_is_defined() {
    assert!(matches!(JobPool::new(0), Err(PoolError::NoThreads)));
    assert!(matches!(Builder::new().queue(0).build(), Err(PoolError::NoQueue)));
    let pool = JobPool::new(1).unwrap();
    let zero = Job::new().limit(Duration::ZERO);
    let reached = pool.submit_with(zero.clone(), || 5).unwrap();
    assert!(matches!(result(reached), Ok(5)), "up to the first safepoint");
    let ended = pool.submit_with(zero, safepoint).unwrap();
    assert!(matches!(result(ended), Err(JobError::TimedOut)));
    let huge = pool
        .submit_with(Job::new().limit(Duration::MAX), safepoint)
        .unwrap();
    assert!(result(huge).unwrap().is_ok());
    let waits = pool.submit(|| 6).unwrap();
    pool.close();
    assert!(matches!(pool.submit(|| ()), Err(SubmitError::ShutDown)));
    assert!(matches!(result(waits), Ok(6)), "closed, it works its queue off");
    assert!(pool.shutdown(LIMIT).is_empty());
    assert!(matches!(
        pool.try_submit(Job::new(), || ()),
        Err(SubmitError::ShutDown)
    ));
    assert_eq!(pool.status().threads, 0);
}

/// What a job finds in its thread: nothing of any other.
fn find_clean(reader: &std::io::PipeReader, mut writer: &std::io::PipeWriter) {
    std::io::Write::write_all(&mut writer, b"x").unwrap();
    let read = throwto::foreign::call(|| raw_read(reader));
    assert!(matches!(read, Ok(Ok(1))), "broken: {read:?}");
    assert!(!throwto::pending() && safepoint().is_ok());
}

/// Work that ends just as its limit passes.
fn work_until(end: Instant) -> Result<(), Raised> {
    while Instant::now() < end {
        safepoint()?;
    }
    Ok(())
}

/// `THROWTO_ROUNDS=1000000` for a long run.
/// Shows pool I2.
#[test]
fn a_limit_that_passes_at_the_very_end_of_a_job_never_hits_the_next() {
    let pool = JobPool::new(2).unwrap();
    let pipes: Vec<_> = (0..2).map(|_| Arc::new(std::io::pipe().unwrap())).collect();
    let (mut passed, mut in_time) = (0_u64, 0_u64);
    let batch = 200;
    for round in 0..rounds(100_000) / batch {
        let jobs = (0..batch).map(|number| {
            let limit = Duration::from_nanos((round * batch + number) % 997 * 30);
            let late = pool.submit_with(Job::new().limit(limit), move || {
                work_until(Instant::now() + limit)
            });
            let pipe = Arc::clone(&pipes[number as usize % 2]);
            let next = pool.submit(move || find_clean(&pipe.0, &pipe.1));
            (late.unwrap(), next.unwrap())
        });
        for (late, next) in jobs.collect::<Vec<_>>() {
            match result(late) {
                Err(JobError::TimedOut) => passed += 1,
                Ok(Ok(())) => in_time += 1,
                other => panic!("round {round}: {other:?}"),
            }
            result(next).unwrap();
        }
    }
    println!("{passed} passed, {in_time} ended in time");
    assert!(passed > 0 && in_time > 0);
    assert_eq!(pool.status().threads, 2);
}

/// The same on the threads of somebody else's pool.
#[test]
fn on_rayon_threads_no_limit_and_no_cancel_hits_the_next_job() {
    use rayon::prelude::*;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let hit = AtomicU64::new(0);
    let clean = || {
        let clean = safepoint().is_ok() && !throwto::pending() && ThreadId::current().is_none();
        hit.fetch_add(u64::from(!clean), Ordering::SeqCst);
    };
    let passed: u64 = pool.install(|| {
        (0..rounds(30_000))
            .into_par_iter()
            .map(|round| {
                let limit = Duration::from_nanos(round % 997 * 30);
                let late = job(limit, || work_until(Instant::now() + limit));
                clean();
                u64::from(matches!(late, Err(JobError::TimedOut)))
            })
            .sum()
    });
    // A scope, whose jobs borrow, and a canceller for each.
    let cancelled = AtomicU64::new(0);
    pool.scope(|s| {
        for round in 0..rounds(5_000) {
            let (steps, lent) = (round % 100, &hit);
            let (task, handle) = Job::new().prepare(move || {
                for _ in 0..steps {
                    safepoint()?;
                }
                Ok::<_, Raised>(lent)
            });
            s.spawn(|_| {
                task();
                clean();
            });
            let cancelled = &cancelled;
            s.spawn(move |_| {
                handle.cancel();
                let early = matches!(result(handle), Err(JobError::Cancelled));
                cancelled.fetch_add(u64::from(early), Ordering::SeqCst);
            });
        }
    });
    // A panic and a limit in `spawn`, where rayon would end the process for either.
    let (task, panicking) = Job::new().prepare(|| -> u8 { panic!("of this job only") });
    pool.spawn(task);
    let (task, late) = Job::new().limit(SOON).prepare(unwind_for_ever);
    pool.spawn(task);
    assert!(matches!(result(panicking), Err(JobError::Panicked(_))));
    assert!(matches!(result(late), Err(JobError::TimedOut)));
    assert_eq!(hit.load(Ordering::SeqCst), 0);
    println!("{passed} passed, {cancelled:?} cancelled");
    assert!(passed > 0 && cancelled.load(Ordering::SeqCst) > 0);
}

/// A thread that waits in a job of a stealing pool takes other tasks meanwhile. They are not that job's.
#[test]
fn a_task_that_is_run_in_the_middle_of_another_job_is_not_hit_by_what_is_meant_for_that() {
    for unwinding in [false, true] {
        let outcome = join(thread::spawn(move || {
            let mine = ThreadId::current();
            let (mut stolen_was_hit, mut its_own_limit) = (None, None);
            let outcome = Job::new().limit(SOON).run(|| {
                let waited = ThreadId::current();
                assert_eq!(waited, mine);
                // The outer limit has passed before the task begins, and is held back by no mask of the task's.
                until("it has passed", throwto::pending);
                let (task, handle) = Job::new().label("stolen").prepare(|| {
                    assert_ne!(ThreadId::current(), mine);
                    let kept = throwto::attach().unwrap();
                    std::mem::forget(kept);
                    (
                        throwto::pending(),
                        thread::sleep(Duration::from_micros(50)).is_ok(),
                    )
                });
                throwto::mask(|_| task());
                stolen_was_hit = Some(throwto::uninterruptible(|_| result(handle)).unwrap());
                let (task, handle) = Job::new().limit(SOON).prepare(|| thread::sleep(FOREVER));
                throwto::mask(|_| task());
                its_own_limit = Some(throwto::uninterruptible(|_| result(handle)));
                assert_eq!(ThreadId::current(), mine);
                if unwinding {
                    unwind_for_ever();
                }
                safepoint()
            });
            assert_eq!(stolen_was_hit, Some((false, true)));
            assert!(
                matches!(its_own_limit, Some(Err(JobError::TimedOut))),
                "its own limit reaches it"
            );
            // Who it was before, reachable by its kernel thread number and by its id.
            raise_exc(throwto::OsTid::current(), Stop).unwrap();
            assert!(safepoint().unwrap_err().is::<Stop>() && ThreadId::current() == mine);
            outcome.map(drop)
        }));
        assert!(matches!(outcome, Err(JobError::TimedOut)), "{outcome:?}");
    }
}

/// The same with rayon, where a job that yields, or waits for the other half of a `join`, is given any task there is.
#[test]
fn no_job_of_a_stealing_pool_is_hit_by_the_limit_of_a_job_that_waits_below_it() {
    thread_local!(static DEPTH: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let (nested, hit) = (AtomicU64::new(0), AtomicU64::new(0));
    let handles = Mutex::new(Vec::new());
    pool.scope(|s| {
        for round in 0..rounds(3_000) {
            let (nested, hit) = (&nested, &hit);
            let limited = round % 2 == 0;
            let limit = if limited {
                Duration::from_micros(20)
            } else {
                FOREVER
            };
            let (task, handle) = Job::new().limit(limit).prepare(move || {
                let depth = DEPTH.replace(DEPTH.get() + 1);
                nested.fetch_add(u64::from(depth > 0), Ordering::SeqCst);
                if depth < 5 {
                    // Another task is run here, in the middle of this one.
                    rayon::yield_now();
                }
                let came = work_until(Instant::now() + SOON / 100).is_err() || throwto::pending();
                hit.fetch_add(u64::from(came && !limited), Ordering::SeqCst);
                DEPTH.set(depth);
            });
            handles.lock().unwrap().push((limited, handle));
            s.spawn(move |_| task());
        }
    });
    for (limited, handle) in handles.into_inner().unwrap() {
        let outcome = result(handle);
        assert!(
            outcome.is_ok() || limited && matches!(outcome, Err(JobError::TimedOut)),
            "{outcome:?}"
        );
    }
    println!("{nested:?} tasks were run in the middle of another");
    assert_eq!(hit.load(Ordering::SeqCst), 0);
    assert!(
        nested.load(Ordering::SeqCst) > 0,
        "none was nested: this has shown nothing"
    );
}

/// P3 and P6 for jobs: raises and cancels race the ends of jobs, and every receipt says what the job says.
#[test]
fn everything_raised_into_jobs_is_accounted_for() {
    let seed = seed();
    println!("THROWTO_SEED={seed}");
    let ledger = Ledger::new();
    let pool = JobPool::new(2).unwrap();
    let met = Arc::new(Mutex::new(HashSet::new()));
    let (mut dice, mut receipts, mut cancelled) = (Dice::new(seed), Vec::new(), 0_u64);
    for _ in 0..rounds(5_000) {
        let (theirs, steps) = (Arc::clone(&met), dice.roll(300));
        let racing = pool.submit(move || step_by_step(steps, &theirs)).unwrap();
        while racing.state() == JobState::Queued {
            std::hint::spin_loop();
        }
        for _ in 0..dice.roll(4) {
            for _ in 0..dice.roll(2_000) {
                std::hint::spin_loop();
            }
            let exception = Numbered::new(&ledger);
            let number = exception.number;
            match racing.raise(exception) {
                Ok(receipt) => {
                    if dice.roll(5) == 0 {
                        receipt.revoke();
                    }
                    receipts.push((number, receipt));
                }
                Err(RaiseError::ScopeNotOpen) => {}
                Err(other) => panic!("{other}"),
            }
        }
        if dice.roll(3) == 0 {
            racing.cancel();
        }
        let next = pool
            .submit(|| safepoint().is_ok() && !throwto::pending())
            .unwrap();
        cancelled += u64::from(matches!(result(racing), Err(JobError::Cancelled)));
        assert!(result(next).unwrap(), "the next job was hit; THROWTO_SEED={seed}");
    }
    let met = met.lock().unwrap();
    let mut caught = 0;
    for (number, receipt) in &receipts {
        let state = receipt.state();
        assert!(state.is_final(), "{number} is {state:?}; THROWTO_SEED={seed}");
        assert_eq!(
            met.contains(number),
            state == ReceiptState::Caught,
            "{number} is {state:?}"
        );
        caught += usize::from(state == ReceiptState::Caught);
    }
    println!(
        "{} raised, {caught} caught, {cancelled} jobs cancelled",
        receipts.len()
    );
    assert_eq!(caught, met.len(), "THROWTO_SEED={seed}");
    assert!(0 < caught && caught < receipts.len() && cancelled > 0, "no races");
    ledger.balance();
}

/// Meets what was raised into the job, and ends by what cancels it.
fn step_by_step(steps: u64, met: &Mutex<HashSet<u64>>) -> Result<(), Raised> {
    for step in 0..steps {
        for _ in 0..20 {
            std::hint::spin_loop();
        }
        let came = if step % 2 == 0 {
            safepoint()
        } else {
            catch(safepoint_unwind)
        };
        match came {
            Err(raised) if raised.is::<Numbered>() => {
                met.lock().unwrap().insert(number_of(&raised));
            }
            other => other?,
        }
    }
    Ok(())
}

#[test]
fn each_limit_in_a_job_converts_its_own_and_the_jobs_own_comes_through() {
    let pool = JobPool::new(1).unwrap();
    for unwinding in [false, true] {
        let nap = move || -> Result<(), Raised> {
            if unwinding {
                unwind_for_ever();
            }
            thread::sleep(FOREVER)
        };
        let nested = move || {
            let inner = timeout(SOON, nap);
            assert_eq!(inner.map(drop), Err(TimedOut), "the inner one's own");
            assert!(safepoint().is_ok());
            // The job's passes through an inner limit that has not passed.
            timeout(FOREVER, nap).unwrap()
        };
        let handle = pool.submit_with(Job::new().limit(20 * SOON), nested).unwrap();
        assert!(
            matches!(result(handle), Err(JobError::TimedOut)),
            "unwinding: {unwinding}"
        );
        // And so does a cancel, also through a job in the job.
        let nested = move || job(FOREVER, move || timeout(FOREVER, nap));
        let handle = pool.submit(nested).unwrap();
        until_stuck_at(&handle, if unwinding { "running" } else { "futex wait" });
        handle.cancel();
        assert!(
            matches!(result(handle), Err(JobError::Cancelled)),
            "unwinding: {unwinding}"
        );
    }
}

#[test]
fn a_job_that_swallows_everything_once_is_ended_all_the_same() {
    let pool = JobPool::new(1).unwrap();
    let swallowing = || -> Result<(), Raised> {
        let _swallowed = thread::sleep(FOREVER);
        let _swallowed_too = catch(unwind_for_ever);
        thread::sleep(FOREVER)
    };
    let limited = pool.submit_with(Job::new().limit(SOON), swallowing).unwrap();
    assert!(matches!(result(limited), Err(JobError::TimedOut)));
    let cancelled = pool.submit(swallowing).unwrap();
    until_stuck_at(&cancelled, "futex wait");
    cancelled.cancel();
    assert!(matches!(result(cancelled), Err(JobError::Cancelled)));
    // Results win, however late.
    let late = Job::new().limit(SOON);
    let late = pool
        .submit_with(late, || thread::sleep(FOREVER).is_err())
        .unwrap();
    assert!(matches!(result(late), Ok(true)));
}

/// Two jobs at once, if the pool has two threads.
#[track_caller]
fn assert_room_for_two(pool: &JobPool) {
    let both = Arc::new(Barrier::new(2));
    let meet = || {
        let both = Arc::clone(&both);
        pool.submit(move || both.wait().is_leader()).unwrap()
    };
    let (one, other) = (meet(), meet());
    assert!(result(one).unwrap() != result(other).unwrap());
}

#[test]
fn a_job_stuck_beyond_every_rung_is_reported_and_its_thread_replaced_and_ends_when_it_comes_free() {
    let library = Arc::new(throwto_fixtures::LockedLibrary::new());
    let reports = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reports);
    let pool = Builder::new()
        .threads(2)
        .grace(Duration::from_millis(50))
        .on_stuck(move |stuck| told.lock().unwrap().push(stuck.clone()))
        .build()
        .unwrap();
    let held = library.hold();
    let (theirs, came_free) = (Arc::clone(&library), Arc::new(()));
    let inside = Arc::clone(&came_free);
    // Not before it is stuck: then it would end with its limit.
    let stuck = Job::new().limit(Duration::from_millis(500)).label("query");
    let stuck = pool
        .submit_with(stuck, move || {
            let calls = with_fail(throwto::foreign::Call::new("library"), true).run(|| theirs.call());
            (calls.is_ok(), inside)
        })
        .unwrap();
    let (id, thread) = (stuck.id(), {
        until("it runs", || stuck.info().is_some());
        stuck.info().unwrap().id
    });
    let control = stuck.control().clone();
    let Err(JobError::Stuck(told)) = result(stuck) else {
        panic!("a result out of a lock that is held")
    };
    assert!(told.job == id && told.thread == thread && told.label.as_deref() == Some("query"));
    assert!(told.overdue >= Duration::from_millis(50) && !told.is_caller);
    assert_eq!(control.state(), JobState::WrittenOff);
    if cfg!(throwto_ladder) {
        let at_its_place = |stuck: &throwto::pool::Stuck| stuck.where_blocked().starts_with("futex wait");
        until("its place", || {
            pool.status().stuck.first().is_some_and(at_its_place)
        });
    }
    until("it was reported", || !reports.lock().unwrap().is_empty());
    until("it was replaced", || pool.status().threads == 2);
    let status = pool.status();
    assert_eq!((status.stuck[0].job, status.written_off), (id, 1));
    assert!(info(thread).unwrap().left_behind);
    assert_room_for_two(&pool);

    drop(held);
    until("it has ended", || pool.status().stuck.is_empty());
    until("its result was dropped", || Arc::strong_count(&came_free) == 1);
    assert!(info(thread).is_none());
    assert_eq!((pool.status().threads, reports.lock().unwrap().len()), (2, 1));
    assert_room_for_two(&pool);
    assert!(pool.shutdown(LIMIT).is_empty());
}

/// Shows pool I3.
#[test]
fn a_thread_that_was_written_off_takes_no_more_jobs() {
    let pool = Builder::new().threads(1).grace(Duration::ZERO).build().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&over);
    let spinning = Job::new().limit(SOON);
    let spinning = pool.submit_with(spinning, move || {
        while !theirs.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        std::thread::current().id()
    });
    let (started, threads) = channel();
    let Err(JobError::Stuck(stuck)) = result(spinning.unwrap()) else {
        panic!("it was let go")
    };
    let lost = stuck.info.as_ref().map(|info| info.os_tid);
    let _end = Over(&over);
    for round in 0..200 {
        if round == 20 {
            over.store(true, Ordering::SeqCst);
        }
        let started = started.clone();
        let next = pool.submit(move || started.send(throwto::OsTid::current()).unwrap());
        result(next.unwrap()).unwrap();
    }
    drop(started);
    assert!(threads.iter().all(|tid| Some(tid) != lost));
    until("it has ended", || pool.status().stuck.is_empty());
    assert_eq!(pool.status().threads, 1);
}

/// A job that comes free in the very moment in which it is written off: one of the two, and the capacity stays.
#[test]
fn a_job_that_ends_while_it_is_written_off_is_one_or_the_other() {
    let pool = Builder::new().threads(2).grace(Duration::ZERO).build().unwrap();
    let (mut stuck, mut returned) = (0_u64, 0_u64);
    for round in 0..rounds(1_000) {
        let limit = Duration::from_micros(50 + round % 97);
        let racing = pool.submit_with(Job::new().limit(limit), move || {
            // No safepoint: only the clock of the job itself ends it.
            let end = Instant::now() + limit;
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        });
        match result(racing.unwrap()) {
            Ok(()) => returned += 1,
            Err(JobError::Stuck(_)) => stuck += 1,
            other => panic!("round {round}: {other:?}"),
        }
        if round % 50 == 0 {
            assert_room_for_two(&pool);
        }
    }
    println!("{returned} returned, {stuck} written off");
    until("all came free", || pool.status().stuck.is_empty());
    until("all are replaced", || pool.status().threads == 2);
    assert_eq!(pool.status().written_off, stuck);
    assert!(pool.shutdown(LIMIT).is_empty());
}

#[test]
fn jobs_submit_jobs_and_a_wait_that_cannot_end_is_ended_by_the_limit() {
    let pool = Arc::new(JobPool::new(2).unwrap());
    let theirs = Arc::clone(&pool);
    let outer = pool.submit(move || theirs.submit(|| 6 * 7).unwrap().wait().unwrap());
    assert!(matches!(result(outer.unwrap()), Ok(42)));
    // One thread: the inner job waits for the outer one, which waits for it.
    let pool = Arc::new(JobPool::new(1).unwrap());
    let (theirs, ran) = (Arc::clone(&pool), Arc::new(AtomicBool::new(false)));
    let inner_ran = Arc::clone(&ran);
    let outer = pool.submit_with(Job::new().limit(SOON), move || {
        let inner = theirs
            .submit(move || inner_ran.store(true, Ordering::SeqCst))
            .unwrap();
        inner.wait().map_err(|error| match error {
            JobError::Interrupted(raised, _goes_on) => raised,
            other => panic!("{other}"),
        })
    });
    assert!(matches!(result(outer.unwrap()), Err(JobError::TimedOut)));
    until("the inner job has its turn", || ran.load(Ordering::SeqCst));
}

#[test]
fn a_wait_for_a_job_can_be_raised_into_and_gives_the_handle_back() {
    let pool = JobPool::new(1).unwrap();
    let over = Arc::new(Barrier::new(2));
    let theirs = Arc::clone(&over);
    let held = pool.submit(move || theirs.wait().is_leader()).unwrap();
    let waiter = thread::spawn(move || held.wait());
    until_waiting(waiter.id());
    waiter.raise(Stop).unwrap();
    let Err(JobError::Interrupted(raised, held)) = join(waiter) else {
        panic!("nobody has met the job")
    };
    assert!(raised.is::<Stop>() && held.state() == JobState::Running);
    over.wait();
    assert!(result(held).is_ok());
}

#[test]
fn a_shutdown_returns_the_survivors_with_their_places_and_drops_what_waits() {
    let library = Arc::new(throwto_fixtures::LockedLibrary::new());
    let pool = JobPool::new(2).unwrap();
    let held = library.hold();
    let theirs = Arc::clone(&library);
    let deaf = pool
        .submit_with(Job::new().label("deaf"), move || theirs.call())
        .unwrap();
    let sleeper = pool.submit(|| thread::sleep(FOREVER)).unwrap();
    until_stuck_at(&deaf, "futex wait");
    until_stuck_at(&sleeper, "futex wait");
    let captured = Arc::new(());
    let theirs = Arc::clone(&captured);
    let waits = pool.submit(move || drop(theirs)).unwrap();
    let survivors = pool.shutdown(Duration::from_millis(100));
    assert_eq!(survivors.len(), 1, "{survivors:?}");
    let survivor = &survivors[0];
    assert_eq!(
        (survivor.job, survivor.label.as_deref()),
        (deaf.id(), Some("deaf"))
    );
    assert!(survivor.to_string().contains("is stuck in thread"), "{survivor}");
    assert!(matches!(result(sleeper), Err(JobError::Cancelled)));
    assert!(matches!(result(waits), Err(JobError::NotRun)));
    assert_eq!(Arc::strong_count(&captured), 1);
    assert!(matches!(result(deaf), Err(JobError::Stuck(_))));
    assert_eq!(pool.shutdown(Duration::ZERO).len(), 1, "still there");
    drop(held);
    assert!(pool.shutdown(LIMIT).is_empty());
}

#[test]
fn a_job_may_shut_its_own_pool_down_and_is_returned_as_the_caller() {
    let pool = Arc::new(JobPool::new(2).unwrap());
    let other = pool.submit(|| thread::sleep(FOREVER)).unwrap();
    until_stuck_at(&other, "futex wait");
    let theirs = Arc::clone(&pool);
    let caller = pool.submit(move || {
        let survivors = theirs.shutdown(LIMIT);
        assert!(safepoint().is_ok(), "it is not cancelled");
        survivors
    });
    let survivors = result(caller.unwrap()).unwrap();
    assert!(matches!(result(other), Err(JobError::Cancelled)));
    assert!(survivors.len() == 1 && survivors[0].is_caller, "{survivors:?}");
    until("both threads have ended", || pool.status().threads == 0);
    // The last one that has the pool may be a job of it.
    let pool = Arc::new(JobPool::new(1).unwrap());
    let (told, theirs) = (channel(), Arc::clone(&pool));
    let dropping = pool.submit(move || {
        told.1.recv().unwrap();
        drop(theirs);
    });
    drop(pool);
    told.0.send(()).unwrap();
    assert!(result(dropping.unwrap()).is_ok());
}

#[test]
fn dropping_a_pool_cancels_its_jobs_and_does_not_wait_without_bound() {
    let library = Arc::new(throwto_fixtures::LockedLibrary::new());
    let pool = Builder::new()
        .threads(2)
        .grace(Duration::from_millis(50))
        .build()
        .unwrap();
    let held = library.hold();
    let theirs = Arc::clone(&library);
    let deaf = pool.submit(move || theirs.call()).unwrap();
    let sleeper = pool.submit(|| thread::sleep(FOREVER)).unwrap();
    until_stuck_at(&deaf, "futex wait");
    until_stuck_at(&sleeper, "futex wait");
    drop(pool);
    assert!(matches!(result(sleeper), Err(JobError::Cancelled)));
    assert!(matches!(result(deaf), Err(JobError::Stuck(_))));
    drop(held);
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("in a destructor of the job's");
    }
}

#[test]
fn panics_in_whatever_is_a_jobs_leave_the_pool_its_threads() {
    let pool = JobPool::new(2).unwrap();
    for _ in 0..20 {
        // In the body, in the result that nobody has asked for, in what a cancelled job has captured.
        drop(pool.submit(|| panic!("in a job")).unwrap());
        let unasked = pool.submit(|| PanicsWhenDropped).unwrap();
        // Here or there: whoever drops the last of it.
        let _either = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(unasked)));
        let captured = PanicsWhenDropped;
        let cancelled = pool.submit(move || {
            let _captured = &captured;
        });
        cancelled.unwrap().cancel();
    }
    let (task, handle) = Job::new().prepare(|| PanicsWhenDropped);
    drop(handle);
    task();
    assert_room_for_two(&pool);
    assert_eq!((pool.status().threads, pool.status().written_off), (2, 0));
    assert!(pool.shutdown(LIMIT).is_empty());
}

#[test]
fn a_bounded_queue_refuses_or_waits_and_that_wait_can_be_raised_into() {
    let pool = Arc::new(Builder::new().threads(1).queue(1).build().unwrap());
    let first = pool.submit(thread::park).unwrap();
    until_stuck_at(&first, "futex wait");
    let second = pool.submit(|| 2).unwrap();
    assert!(matches!(
        pool.try_submit(Job::new(), || 3),
        Err(SubmitError::Full { bound: 1 })
    ));
    let theirs = Arc::clone(&pool);
    let waiter = thread::spawn(move || theirs.submit(|| 4).map(drop));
    until_waiting(waiter.id());
    waiter.raise(Stop).unwrap();
    assert!(matches!(join(waiter), Err(SubmitError::Raised(raised)) if raised.is::<Stop>()));
    let theirs = Arc::clone(&pool);
    let waiter = thread::spawn(move || theirs.submit(|| 5).unwrap());
    until_waiting(waiter.id());
    first.cancel();
    assert!(matches!(result(join(waiter)), Ok(5)));
    assert!(matches!(result(second), Ok(2)));
    // And a shutdown ends it.
    let first = pool.submit(thread::park).unwrap();
    until_stuck_at(&first, "futex wait");
    let _second = pool.submit(|| 6).unwrap();
    let theirs = Arc::clone(&pool);
    let waiter = thread::spawn(move || theirs.submit(|| 7).map(drop));
    until_waiting(waiter.id());
    assert!(pool.shutdown(LIMIT).is_empty());
    assert!(matches!(join(waiter), Err(SubmitError::ShutDown)));
}

#[test]
fn what_is_raised_by_an_id_that_a_job_has_told_does_not_reach_the_next() {
    let pool = JobPool::new(1).unwrap();
    let mut seen = HashSet::new();
    for _ in 0..50 {
        let label = Job::new().label("told");
        let told = pool.submit_with(label, || ThreadId::current().unwrap()).unwrap();
        let id = result(told).unwrap();
        assert!(seen.insert(id), "an id of its own");
        assert!(matches!(
            raise_exc(id, Stop),
            Err(RaiseError::NoSuchThread { .. })
        ));
    }
    // Raised in time and never met: it ends with the job.
    let (told, id) = channel();
    let (go, gone) = channel::<()>();
    let unmet = pool.submit(move || {
        told.send(ThreadId::current().unwrap()).unwrap();
        gone.recv()
    });
    let receipt = Raise::new(Stop).to(id.recv().unwrap()).unwrap();
    go.send(()).unwrap();
    assert!(result(unmet.unwrap()).unwrap().is_ok());
    assert_eq!(receipt.state(), ReceiptState::TargetEnded);
    assert!(result(pool.submit(safepoint).unwrap()).unwrap().is_ok());
}

#[test]
fn a_query_is_a_job_with_a_limit_and_its_connection_answers_the_next() {
    let pool = Builder::new()
        .threads(1)
        .default_limit(Duration::from_millis(50))
        .build()
        .unwrap();
    let connection = Arc::new(Mutex::new(rusqlite::Connection::open_in_memory().unwrap()));
    let query = |sql: &'static str| {
        let connection = Arc::clone(&connection);
        move || {
            let connection = connection.lock().unwrap();
            let interrupt = connection.get_interrupt_handle();
            throwto::foreign::Call::new("sqlite3_step")
                .unblock(move || interrupt.interrupt())
                .try_run(|| connection.query_row(sql, [], |row| row.get::<_, i64>(0)))
        }
    };
    let endless = "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
    for _ in 0..3 {
        assert!(matches!(
            result(pool.submit(query(endless)).unwrap()),
            Err(JobError::TimedOut)
        ));
        let next = Job::new().limit(LIMIT);
        let next = pool.submit_with(next, query("SELECT 6 * 7")).unwrap();
        assert!(matches!(result(next), Ok(Ok(42))));
    }
    assert_eq!(pool.status().written_off, 0);
}

/// A loop in C without end, which no rung of this call can leave.
#[test]
#[cfg(target_os = "linux")]
fn a_loop_in_c_without_end_is_written_off_and_the_others_go_on() {
    use throwto_fixtures::stuck::{Stage, linked};
    let pool = Builder::new().threads(1).grace(SOON).build().unwrap();
    let stage = Arc::new(Stage::new());
    let theirs = Arc::clone(&stage);
    let endless = Job::new().limit(SOON).label("endless");
    let endless = pool.submit_with(endless, move || {
        // SAFETY: it spins until the stage lets it go, which lives as long.
        throwto::foreign::call(|| unsafe { linked::SPIN_O2(&*theirs) })
    });
    let waits = pool.submit(|| 5).unwrap();
    let Err(JobError::Stuck(stuck)) = result(endless.unwrap()) else {
        panic!("it was let go")
    };
    assert!(
        matches!(result(waits), Ok(5)),
        "by the thread that took its place"
    );
    if cfg!(throwto_ladder) {
        assert_eq!(stuck.where_blocked(), "running", "{stuck}");
    }
    stage.let_go();
    until("it has ended", || pool.status().stuck.is_empty());
}
