//! Pools where the process forks, where the system refuses a thread, where nobody can be attached. Each test has a process of its own.

#[path = "it/child.rs"]
mod child;
#[path = "it/stage.rs"]
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use throwto::pool::{Builder, Job, JobError, JobPool, JobState, SubmitError};
use throwto::{AttachError, Config, Interrupted, thread};

use child::*;
use stage::*;

/// A job that hears nothing until the sender is dropped.
fn deaf() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel::<()>();
    (sender, move || assert!(receiver.recv().is_err()))
}

/// What a child may do with a pool that stayed in the parent, and one of its own.
fn in_the_child(pool: JobPool, running: throwto::pool::JobHandle<()>) -> Result<(), String> {
    let began = Instant::now();
    let refused = |outcome: Result<_, SubmitError>| matches!(outcome, Err(SubmitError::Forked));
    check("submit", refused(pool.submit(|| ()).map(drop)))?;
    check(
        "try_submit",
        refused(pool.try_submit(Job::new(), || ()).map(drop)),
    )?;
    check("status", pool.status().threads == 0)?;
    // Whatever they say, they say it at once.
    running.cancel();
    let _undelivered = running.raise(Interrupted);
    let _as_at_the_fork = (running.state(), running.is_finished(), running.info().is_some());
    check("wait", matches!(running.wait(), Err(JobError::NotRun)))?;
    pool.close();
    check("shutdown", pool.shutdown(Duration::from_secs(3600)).is_empty())?;
    drop(pool);
    let own = JobPool::new(1).map_err(|error| error.to_string())?;
    let answer = own.submit(|| 6 * 7).map_err(|error| error.to_string())?;
    check("a pool of its own", matches!(answer.wait(), Ok(42)))?;
    drop(own);
    check("at once", began.elapsed() < LIMIT / 2)
}

#[test]
fn a_pool_stays_in_the_parent_and_a_child_neither_hangs_nor_touches_it() {
    in_own_process(
        "a_pool_stays_in_the_parent_and_a_child_neither_hangs_nor_touches_it",
        || {
            let mut pool = Some(JobPool::new(1).unwrap());
            let (open, body) = deaf();
            let mut running = Some(pool.as_ref().unwrap().submit(body).unwrap());
            let queued = pool.as_ref().unwrap().submit(|| "after it").unwrap();
            until("it runs", || {
                running.as_ref().unwrap().state() == JobState::Running
            });
            // The child's copies are dropped there, the parent's stay here: memory is not shared.
            in_child(|| in_the_child(pool.take().unwrap(), running.take().unwrap()));
            let (pool, running) = (pool.unwrap(), running.unwrap());
            assert_eq!(running.state(), JobState::Running, "the child has cancelled it");
            assert_eq!((pool.status().threads, pool.status().queued), (1, 1));
            drop(open);
            running.wait().unwrap();
            assert_eq!(queued.wait().unwrap(), "after it");
            assert_eq!(pool.submit(|| "and on").unwrap().wait().unwrap(), "and on");
            assert!(pool.shutdown(LIMIT).is_empty());
        },
    );
}

/// Locks of the pool and of the job are held by somebody at the moment of many of these forks.
#[test]
fn a_fork_amid_the_locks_of_a_pool_leaves_a_child_that_hangs_on_none() {
    in_own_process(
        "a_fork_amid_the_locks_of_a_pool_leaves_a_child_that_hangs_on_none",
        || {
            let pool = Arc::new(JobPool::new(2).unwrap());
            let (open, body) = deaf();
            let running = Arc::new(pool.submit(body).unwrap());
            until("it runs", || running.state() == JobState::Running);
            let over = Arc::new(AtomicBool::new(false));
            let busy: Vec<_> = (0..3)
                .map(|nth| {
                    let (pool, over) = (Arc::clone(&pool), Arc::clone(&over));
                    let control = running.control().clone();
                    std::thread::spawn(move || {
                        while !over.load(Ordering::Relaxed) {
                            match nth {
                                0 => drop(control.state()),
                                1 => drop(control.is_finished()),
                                _ => drop(pool.try_submit(Job::new(), || ())),
                            }
                        }
                    })
                })
                .collect();
            let control = running.control().clone();
            for _ in 0..rounds(200) {
                in_child(|| {
                    let _at_once = (control.state(), control.is_finished(), control.info().is_some());
                    control.cancel();
                    check("submit", matches!(pool.submit(|| ()), Err(SubmitError::Forked)))?;
                    check("shutdown", pool.shutdown(LIMIT).is_empty())?;
                    drop(pool.status());
                    Ok(())
                });
            }
            over.store(true, Ordering::Relaxed);
            busy.into_iter().for_each(|each| each.join().unwrap());
            drop(open);
            assert!(pool.shutdown(LIMIT).is_empty());
        },
    );
}

#[test]
fn a_thread_that_cannot_be_replaced_is_reported_and_the_rest_of_the_pool_works_on() {
    in_own_process(
        "a_thread_that_cannot_be_replaced_is_reported_and_the_rest_of_the_pool_works_on",
        || {
            let (told, reports) = mpsc::channel();
            let pool = Builder::new()
                .threads(2)
                .stack_size(STACK)
                .grace(Duration::from_millis(20))
                .on_stuck(move |stuck| told.send(stuck.job).unwrap())
                .build()
                .unwrap();
            let began = Instant::now();
            // Both threads stand, and none of this size starts any more.
            let room = limit_memory(STACK as u64 / 2);
            let (open, body) = deaf();
            let job = Job::new().limit(Duration::from_millis(5)).label("deaf");
            let stuck = pool.submit_with(job, body).unwrap();
            let id = stuck.id();
            assert!(matches!(stuck.wait(), Err(JobError::Stuck(_))));
            assert_eq!(reports.recv_timeout(LIMIT), Ok(id));
            // The watch has tried, in vain, and the other thread takes what comes.
            for round in 0..20 {
                assert_eq!(pool.submit(move || round).unwrap().wait().unwrap(), round);
            }
            // A thread that is just being refused counts for that moment.
            until("one thread is left", || {
                let status = pool.status();
                (status.threads, status.stuck.len(), status.written_off) == (1, 1, 1)
            });
            set_memory(room);
            until("the thread is replaced once one is to be had", || {
                pool.status().threads == 2
            });
            // Each attempt takes a number, and there is one in a second.
            let attempts = newest_thread(&pool) - 2;
            let most = began.elapsed().as_secs() + 2;
            assert!(
                attempts <= most,
                "{attempts} attempts to start a thread, {most} at most"
            );
            drop(open);
            until("the stuck one comes free", || pool.status().stuck.is_empty());
            assert!(pool.shutdown(LIMIT).is_empty());
        },
    );
}

/// The queue has nobody to take from it, and the shutdown does not wait for that.
#[test]
fn the_last_thread_that_cannot_be_replaced_holds_no_shutdown_up() {
    in_own_process(
        "the_last_thread_that_cannot_be_replaced_holds_no_shutdown_up",
        || {
            let pool = Builder::new()
                .threads(1)
                .stack_size(STACK)
                .grace(Duration::ZERO)
                .build()
                .unwrap();
            limit_memory(STACK as u64 / 2);
            let (open, body) = deaf();
            let stuck = pool
                .submit_with(Job::new().limit(Duration::from_millis(5)), body)
                .unwrap();
            assert!(matches!(stuck.wait(), Err(JobError::Stuck(_))));
            let waits = pool.submit(|| ()).unwrap();
            assert_eq!(waits.state(), JobState::Queued);
            let survivors = pool.shutdown(Duration::from_millis(10));
            assert_eq!(survivors.len(), 1, "{survivors:?}");
            assert!(matches!(waits.wait(), Err(JobError::NotRun)));
            drop(open);
            assert!(pool.shutdown(LIMIT).is_empty());
        },
    );
}

#[test]
fn a_job_whose_thread_cannot_be_attached_does_not_run_and_says_so() {
    in_own_process(
        "a_job_whose_thread_cannot_be_attached_does_not_run_and_says_so",
        || {
            Config::new().attach_limit(1).apply().unwrap();
            let pool = JobPool::new(1).unwrap();
            let only = throwto::attach().unwrap();
            let held = Arc::new(());
            for _ in 0..3 {
                let theirs = Arc::clone(&held);
                let refused = pool.submit(move || drop(theirs)).unwrap().wait().unwrap_err();
                let limit = |error: &AttachError| *error == AttachError::Limit { limit: 1 };
                assert!(
                    matches!(&refused, JobError::NotAttached(error) if limit(error)),
                    "{refused}"
                );
                assert_eq!(Arc::strong_count(&held), 1, "the closure was dropped");
            }
            let (task, handle) = Job::new().prepare(thread::park);
            std::thread::spawn(task).join().unwrap();
            assert!(matches!(handle.wait(), Err(JobError::NotAttached(_))));
            drop(only);
            assert_eq!(pool.submit(|| 42).unwrap().wait().unwrap(), 42);
        },
    );
}

/// The highest number of the two threads of a pool, which both run a job.
fn newest_thread(pool: &JobPool) -> u64 {
    let together = Arc::new(std::sync::Barrier::new(2));
    let jobs = [(); 2].map(|()| {
        let together = Arc::clone(&together);
        let body = move || {
            together.wait();
            std::thread::current().name().unwrap().to_owned()
        };
        pool.submit(body).unwrap()
    });
    let names = jobs.map(|job| job.wait().unwrap());
    let numbers = names.map(|name| name.rsplit('-').next().unwrap().parse().unwrap());
    numbers.into_iter().max().unwrap()
}

/// Larger than all that the C library keeps of old stacks.
const STACK: usize = 1 << 30;

/// Leaves the process so much more address space. Returns the limit that was in force.
fn limit_memory(room: u64) -> libc::rlimit {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes one rlimit.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut before) }, 0);
    set_memory(libc::rlimit {
        rlim_cur: pages * 4096 + room,
        ..before
    });
    before
}

fn set_memory(limit: libc::rlimit) {
    // SAFETY: reads one rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
}
