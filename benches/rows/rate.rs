//! Row 6: end-to-end raises a second into 1, 100, 1,000 and 10,000 threads that are blocked in `read`.
//!
//! A round wakes every thread once and ends when the last one has counted itself; rounds of the reference and of ours
//! take turns, over the same threads. Between rounds, off the clock, the raiser waits until the kernel says that all
//! are asleep again: a `pthread_kill` that came too early would be lost. The rows are the tenth percentiles of the rounds:
//! a round of thousands of threads is long enough to meet every other program on the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::table::{Budget, Table, percentile};
use throwto::{ExcType, Interrupted, ThreadId, foreign, raise_exc, safepoint};

const RAW: i32 = 0;
const OURS: i32 = 1;
const END: i32 = 2;

struct Shared {
    /// How the threads block in the next round.
    mode: AtomicI32,
    round: std::sync::Barrier,
    freed: AtomicUsize,
    pipe: i32,
}

struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
    members: Vec<(ThreadId, libc::pthread_t, i32)>,
}

fn read(fd: i32) -> isize {
    let mut byte = 0u8;
    // SAFETY: one byte of room; nobody ever writes to that pipe.
    unsafe { libc::read(fd, (&raw mut byte).cast(), 1) }
}

fn member(shared: &Shared) {
    loop {
        shared.round.wait();
        match shared.mode.load(Ordering::Acquire) {
            RAW => assert_eq!(read(shared.pipe), -1),
            OURS => {
                if foreign::call(|| read(shared.pipe)).is_ok() {
                    assert!(safepoint().is_err());
                }
            }
            _ => return,
        }
        shared.freed.fetch_add(1, Ordering::Release);
    }
}

extern "C" fn on_signal(_: libc::c_int) {}

impl Crowd {
    fn of(count: usize) -> Self {
        // SAFETY: all zero is the default action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as usize;
        // SAFETY: installs a handler that does nothing.
        unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
        let mut pipe = [0; 2];
        // SAFETY: writes two descriptors, which stay open.
        unsafe { libc::pipe(pipe.as_mut_ptr()) };
        let shared = Arc::new(Shared {
            mode: AtomicI32::new(RAW),
            round: std::sync::Barrier::new(count + 1),
            freed: AtomicUsize::new(0),
            pipe: pipe[0],
        });
        let (tell, told) = channel();
        let threads = (0..count)
            .map(|_| {
                let (shared, tell) = (Arc::clone(&shared), tell.clone());
                let body = move || {
                    let attachment = throwto::attach().expect("attached");
                    // SAFETY: no arguments.
                    let pthread = unsafe { libc::pthread_self() };
                    // SAFETY: no arguments.
                    let os_tid = unsafe { libc::gettid() };
                    tell.send((attachment.id(), pthread, os_tid))
                        .expect("somebody listens");
                    member(&shared);
                };
                std::thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn(body)
                    .expect("a thread")
            })
            .collect();
        let members = told.iter().take(count).collect();
        Self {
            shared,
            threads,
            members,
        }
    }

    /// Nanoseconds from the first raise to the last thread's count.
    fn round(&self, mode: i32) -> u64 {
        self.shared.mode.store(mode, Ordering::Release);
        self.shared.freed.store(0, Ordering::Relaxed);
        self.shared.round.wait();
        for (_, _, os_tid) in &self.members {
            while !reads(*os_tid) {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        let began = Instant::now();
        for (id, pthread, _) in &self.members {
            if mode == RAW {
                // SAFETY: the thread ends after the last round only.
                unsafe { libc::pthread_kill(*pthread, libc::SIGUSR1) };
            } else {
                raise_exc(*id, ExcType::of::<Interrupted>()).expect("it is there");
            }
        }
        while self.shared.freed.load(Ordering::Acquire) < self.members.len() {
            std::thread::yield_now();
        }
        began.elapsed().as_nanos() as u64
    }
}

/// Whether that thread sleeps in a `read`.
fn reads(os_tid: i32) -> bool {
    let line = std::fs::read_to_string(format!("/proc/self/task/{os_tid}/syscall")).unwrap_or_default();
    line.split(' ').next() == Some(&libc::SYS_read.to_string())
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.mode.store(END, Ordering::Release);
        self.shared.round.wait();
        for thread in self.threads.drain(..) {
            thread.join().expect("it only waits");
        }
    }
}

pub fn measure(table: &mut Table) {
    for (count, rounds) in [(1, 2000), (100, 200), (1_000, 40), (10_000, 6)] {
        let crowd = Crowd::of(count);
        let mut samples = [Vec::new(), Vec::new()];
        for turn in 0..rounds {
            for mode in if turn % 2 == 0 { [RAW, OURS] } else { [OURS, RAW] } {
                samples[mode as usize].push(crowd.round(mode));
            }
        }
        let [raw, ours] = samples
            .each_mut()
            .map(|samples| percentile(samples, 10.0) / count as f64);
        table.point("rate", "pthread_kill", count as f64, 1e9 / raw);
        table.point("rate", "raise_exc", count as f64, 1e9 / ours);
        let name = format!(
            "raises a second into {count} blocked threads: {:.0} raw, {:.0} ours",
            1e9 / raw,
            1e9 / ours
        );
        table.row(&name, "ns a raise", raw, ours, Budget::Times(1.0 / 0.9));
    }
    let stats = throwto::stats();
    table.note(format!("nudges {}, sent again {}", stats.nudges, stats.renudges));
}
