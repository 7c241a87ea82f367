//! A thread that blocks as it is told, and is woken as it is told: what the rows on latency are measured with.
//!
//! The raiser waits until the kernel says that the target sleeps, takes the time and wakes it; the target takes the time
//! when it is back, in our case with the exception in its hands. Two clocks of one machine: CLOCK_MONOTONIC is the same on
//! every processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use throwto::{ExcType, Interrupted, Raised, ThreadId, raise_exc};

use crate::table::now;

/// What the two threads share.
#[derive(Default)]
pub struct Shared {
    pub word: AtomicU32,
    /// An eventfd, for hooks to write to.
    pub event: AtomicI32,
    entered: AtomicU64,
    left: AtomicU64,
    left_at: AtomicU64,
}

/// The target, as the raiser knows it.
pub struct Target {
    pub shared: Arc<Shared>,
    orders: Option<Sender<&'static Subject>>,
    thread: Option<std::thread::JoinHandle<()>>,
    id: ThreadId,
    pthread: libc::pthread_t,
    os_tid: i32,
    turn: u64,
}

/// A way to block and the way out of it.
pub struct Subject {
    pub name: &'static str,
    /// Gives back what was raised, so that dropping it is off the clock.
    pub block: fn(&Shared, fd: i32) -> Option<Raised>,
    pub wake: fn(&Target),
    pub ours: bool,
}

pub fn kill(target: &Target) {
    // SAFETY: the target is joined after its last order.
    unsafe { libc::pthread_kill(target.pthread, libc::SIGUSR1) };
}

pub fn raise(target: &Target) {
    raise_exc(target.id, ExcType::of::<Interrupted>()).expect("it is there");
}

extern "C" fn on_signal(_: libc::c_int) {}

/// The reference's handler: does nothing, and has no SA_RESTART.
fn install() {
    // SAFETY: all zero is the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    // SAFETY: installs a handler that does nothing.
    unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
}

/// Keeps the calling thread on one processor; `None` lets it go where it wants.
fn stay_on(processor: Option<usize>) {
    // SAFETY: all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for each in processor.map_or(0..libc::CPU_SETSIZE as usize, |one| one..one + 1) {
        // SAFETY: `each` is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(each, &mut set) };
    }
    // SAFETY: reads the set; a processor that is not there is refused, and the thread stays where it was.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}

impl Target {
    /// The raiser, who calls this, and the target stay on these processors.
    pub fn start(processors: Option<[usize; 2]>) -> Self {
        install();
        stay_on(processors.map(|both| both[0]));
        let shared = Arc::new(Shared::default());
        // SAFETY: no memory is involved; the descriptor stays open.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        shared.event.store(event, Ordering::Relaxed);
        let theirs = Arc::clone(&shared);
        let (orders, todo) = channel::<&'static Subject>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            stay_on(processors.map(|both| both[1]));
            let attachment = throwto::attach().expect("attached");
            let mut pipe = [0; 2];
            // SAFETY: writes two descriptors.
            unsafe { libc::pipe(pipe.as_mut_ptr()) };
            // SAFETY: no arguments.
            let pthread = unsafe { libc::pthread_self() };
            // SAFETY: no arguments.
            let os_tid = unsafe { libc::gettid() };
            tell.send((attachment.id(), pthread, os_tid))
                .expect("the raiser listens");
            for subject in todo {
                theirs.entered.fetch_add(1, Ordering::Release);
                let raised = (subject.block)(&theirs, pipe[0]);
                theirs.left_at.store(now(), Ordering::Relaxed);
                assert_eq!(raised.is_some(), subject.ours);
                drop(raised);
                theirs.left.fetch_add(1, Ordering::Release);
            }
        });
        let (id, pthread, os_tid) = told.recv().expect("it tells");
        Self {
            shared,
            orders: Some(orders),
            thread: Some(thread),
            id,
            pthread,
            os_tid,
            turn: 0,
        }
    }

    /// One wake-up, in nanoseconds.
    pub fn sample(&mut self, subject: &'static Subject) -> u64 {
        self.turn += 1;
        self.orders
            .as_ref()
            .expect("running")
            .send(subject)
            .expect("the target listens");
        while self.shared.entered.load(Ordering::Acquire) != self.turn {
            std::thread::yield_now();
        }
        while !self.sleeps() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(20));
        let began = now();
        (subject.wake)(self);
        while self.shared.left.load(Ordering::Acquire) != self.turn {
            std::hint::spin_loop();
            std::thread::yield_now();
            assert!(
                self.thread.as_ref().is_some_and(|thread| !thread.is_finished()),
                "the target has panicked"
            );
        }
        self.shared.left_at.load(Ordering::Relaxed).saturating_sub(began)
    }

    fn sleeps(&self) -> bool {
        asleep(self.os_tid)
    }
}

/// Whether the kernel says that this thread sleeps.
pub fn asleep(os_tid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/self/task/{os_tid}/stat")).expect("it lives");
    state
        .rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with('S'))
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.orders.take());
        stay_on(None);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it only waits");
        }
    }
}
