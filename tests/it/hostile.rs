//! Programs that mean no good, as a user would write them who has read the documentation and nothing else.
//!
//! What a single promise covers is beside that promise's other tests; here is what takes several at once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use throwto::io::Interruptible;
use throwto::pool::{self, Job, JobError, JobPool};
use throwto::thread::{Builder, ThreadGroup};
use throwto::time::timeout;
use throwto::{Stop, TimedOut, mask, safepoint, thread, uninterruptible};

use crate::stage::*;

/// Blocks the calling thread in the kernel's state D until a byte comes from `reader`.
fn sleep_uninterruptibly(reader: &impl AsRawFd, writer: &impl AsRawFd) {
    let flags = libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has memory of its own, as after fork, and makes system calls only.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        // SAFETY: the child's own copy, so that the parent's is the last writer.
        unsafe { libc::close(writer.as_raw_fd()) };
        let _byte = raw_read(reader);
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: a child of this process; its status is not wanted.
    unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), 0) };
}

#[test]
fn a_group_with_all_kinds_of_unstoppable_threads_is_shut_down_in_time_and_tells_where_each_is() {
    let name =
        "hostile::a_group_with_all_kinds_of_unstoppable_threads_is_shut_down_in_time_and_tells_where_each_is";
    in_own_process(name, all_kinds_of_unstoppable_threads);
}

fn all_kinds_of_unstoppable_threads() {
    let group = ThreadGroup::named("zoo");
    let over = Arc::new(AtomicBool::new(false));
    let ready = Arc::new(AtomicUsize::new(0));
    let until_over = {
        let (over, ready) = (Arc::clone(&over), Arc::clone(&ready));
        move |mut step: Box<dyn FnMut()>| {
            ready.fetch_add(1, Ordering::SeqCst);
            while !over.load(Ordering::SeqCst) {
                step();
            }
        }
    };
    let (lock, (reader, mut writer)) = (Arc::new(Mutex::new(())), std::io::pipe().unwrap());
    let held = Arc::clone(&lock);
    let held = held.lock().unwrap();
    let start = |name: &str, body: Box<dyn FnOnce() + Send>| {
        Builder::new()
            .name(name.into())
            .group(&group)
            .spawn(body)
            .unwrap()
    };
    let again = until_over.clone();
    let spin = move || again(Box::new(std::hint::spin_loop));
    let again = until_over.clone();
    let meet = move || again(Box::new(|| drop(safepoint())));
    let swallow = move || until_over(Box::new(|| drop(thread::sleep(FOREVER))));
    let (spins, masked) = (spin.clone(), meet.clone());
    start("computes", Box::new(spins));
    start("masked", Box::new(move || mask(|_| masked())));
    start("uninterruptible", Box::new(move || uninterruptible(|_| meet())));
    start("swallows", Box::new(swallow));
    let deaf = start("std lock", Box::new(move || drop(lock.lock())));
    let held_by_kernel = writer.try_clone().unwrap();
    let sleeps = move || sleep_uninterruptibly(&reader, &held_by_kernel);
    let kernel = start("state D", Box::new(sleeps));
    for number in 0..8 {
        start(
            &format!("good {number}"),
            Box::new(|| drop(thread::sleep(FOREVER))),
        );
    }
    until("all are at it", || ready.load(Ordering::SeqCst) == 4);
    until_blocked(deaf.id(), "futex wait");
    until("the kernel sleeps", || {
        info(kernel.id()).is_some_and(|thread| thread.where_blocked.contains("uninterruptible kernel sleep"))
    });

    let began = Instant::now();
    let survivors = group.shutdown(Duration::from_millis(300), Stop);
    assert!(
        began.elapsed() < LIMIT,
        "as long as the limit, and not as long as they live"
    );
    let places: BTreeMap<_, _> = survivors
        .iter()
        .map(|survivor| {
            (
                survivor.info.name.as_deref().unwrap(),
                survivor.info.where_blocked.as_str(),
            )
        })
        .collect();
    let names: Vec<_> = places.keys().copied().collect();
    assert_eq!(
        names,
        [
            "computes",
            "masked",
            "state D",
            "std lock",
            "swallows",
            "uninterruptible"
        ]
    );
    assert!(places["std lock"].starts_with("futex wait"), "{places:?}");
    assert!(
        places["state D"].starts_with("uninterruptible kernel sleep"),
        "{places:?}"
    );
    let caught: Vec<_> = survivors.iter().filter(|survivor| survivor.caught > 0).collect();
    assert_eq!(caught.len(), 1, "the one that swallows: {caught:?}");

    over.store(true, Ordering::SeqCst);
    drop(held);
    writer.write_all(b"x").unwrap();
    assert!(group.shutdown(LIMIT, Stop).is_empty() && group.is_empty());
}

/// The report is made on a thread of the pool's, which must not wait for itself.
#[test]
fn the_report_of_a_stuck_job_may_ask_its_pool_for_anything() {
    let ways: [fn(Arc<JobPool>); 4] = [
        |pool| assert_eq!(pool.submit(pool_answer).unwrap().wait().unwrap(), 42),
        |pool| assert_eq!(pool.status().written_off, 1),
        |pool| assert_eq!(pool.shutdown(Duration::ZERO).len(), 1),
        |_the_last| (),
    ];
    for (number, ask) in ways.into_iter().enumerate() {
        let (give, given) = mpsc::channel::<Arc<JobPool>>();
        let (tell, told) = mpsc::channel();
        let given = Mutex::new(given);
        let report = move |_: &pool::Stuck| {
            ask(given.lock().unwrap().recv().unwrap());
            tell.send(()).unwrap();
        };
        let builder = pool::Builder::new().threads(1).grace(Duration::from_millis(5));
        let pool = Arc::new(builder.on_stuck(report).build().unwrap());
        let (free, stuck) = mpsc::channel::<()>();
        let job = Job::new().limit(Duration::from_millis(1));
        let stuck = pool.submit_with(job, move || stuck.recv().is_err()).unwrap();
        give.send(pool).unwrap();
        assert!(matches!(stuck.wait(), Err(JobError::Stuck(_))), "way {number}");
        told.recv_timeout(LIMIT)
            .unwrap_or_else(|_| panic!("way {number} waits for itself"));
        drop(free);
    }
}

fn pool_answer() -> u32 {
    assert!(safepoint().is_ok());
    42
}

/// What has been read stays in the buffer of std's reader, across limits and whatever else ends a line halfway.
#[test]
fn lines_that_come_in_bits_are_whole_under_limits() {
    const LINES: u32 = 1000;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let sender = std::thread::spawn(move || {
        for number in 0..LINES {
            let line = format!("line {number}\n");
            let (begin, end) = line.split_at(3);
            writer.write_all(begin.as_bytes()).unwrap();
            std::thread::yield_now();
            writer.write_all(end.as_bytes()).unwrap();
        }
    });
    let mut lines = BufReader::new(Interruptible::new(reader));
    let (mut line, mut read, mut late) = (String::new(), 0, 0_u64);
    while read < LINES {
        match timeout(Duration::from_micros(late % 50), || lines.read_line(&mut line)) {
            Ok(outcome) => {
                outcome.unwrap();
                assert_eq!(line, format!("line {read}\n"));
                line.clear();
                read += 1;
            }
            Err(TimedOut) => late += 1,
        }
        assert!(safepoint().is_ok());
    }
    sender.join().unwrap();
    assert!(late > 0, "no limit has passed");
}

/// Threads of a whole pyramid of scopes, each level waiting for the next, which all swallow the first exception.
#[test]
fn a_limit_around_a_pyramid_of_scopes_ends_all_of_it() {
    fn pyramid(height: u32, built: &AtomicUsize) {
        built.fetch_add(1, Ordering::SeqCst);
        if height == 0 {
            let _swallowed = thread::sleep(FOREVER);
            return drop(thread::sleep(FOREVER));
        }
        thread::scope(|s| {
            for _ in 0..2 {
                let builder = Builder::new().stack_size(256 << 10);
                builder.spawn_scoped(s, || pyramid(height - 1, built)).unwrap();
            }
        });
    }
    let built = AtomicUsize::new(0);
    let outcome = timeout(Duration::from_millis(20), || {
        pyramid(4, &built);
        safepoint()
    });
    assert!(outcome.is_err() && safepoint().is_ok());
    assert!(built.into_inner() <= 31);
}
