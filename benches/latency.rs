//! Rows 3 and 4: from the raise to the target running again, blocked in `read` and in waits of ours.
//!
//! Once with raiser and target on processors of their own, once with both on the same: there a wake-up is a mere switch
//! of threads, and the reference at its shortest.
//!
//! One target thread blocks as it is told, in the reference's way and in ours by turns. The raiser waits until the
//! kernel says that it sleeps, takes the time and wakes it; the target takes the time when it is back, in our case with
//! the exception in its hands. Two clocks of one machine: CLOCK_MONOTONIC is the same on every processor.

mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use criterion::Criterion;
use table::{Budget, Table, now, percentile};
use throwto::{ExcType, Interrupted, Raised, ThreadId, foreign, raise_exc, safepoint};

/// What the two threads share.
#[derive(Default)]
struct Shared {
    word: AtomicU32,
    entered: AtomicU64,
    left: AtomicU64,
    left_at: AtomicU64,
}

/// The target, as the raiser knows it.
struct Target {
    shared: Arc<Shared>,
    orders: Option<Sender<&'static Subject>>,
    thread: Option<std::thread::JoinHandle<()>>,
    id: ThreadId,
    pthread: libc::pthread_t,
    os_tid: i32,
    turn: u64,
}

/// A way to block and the way out of it.
struct Subject {
    name: &'static str,
    /// Gives back what was raised, so that dropping it is off the clock.
    block: fn(&Shared, fd: i32) -> Option<Raised>,
    wake: fn(&Target),
    ours: bool,
}

static READ: [Subject; 3] = [
    Subject {
        name: "pthread_kill, read",
        block: |_, fd| none_if(read(fd) == -1),
        wake: kill,
        ours: false,
    },
    Subject {
        name: "foreign::call(read)",
        // Raised before it began is as good, if ever the raiser was that quick.
        block: |_, fd| foreign::call(|| read(fd)).and_then(|_| safepoint()).err(),
        wake: raise,
        ours: true,
    },
    Subject {
        name: "Call::fail_syscalls(read)",
        block: |_, fd| {
            let call = foreign::Call::new("read").fail_syscalls();
            call.run(|| read(fd)).and_then(|_| safepoint()).err()
        },
        wake: raise,
        ours: true,
    },
];

static WAIT: [Subject; 3] = [
    Subject {
        name: "FUTEX_WAKE, FUTEX_WAIT",
        block: |shared, _| {
            while shared.word.load(Ordering::Acquire) == 0 {
                futex(&shared.word, libc::FUTEX_WAIT, 0);
            }
            shared.word.store(0, Ordering::Relaxed);
            None
        },
        wake: |target| {
            target.shared.word.store(1, Ordering::Release);
            futex(&target.shared.word, libc::FUTEX_WAKE, 1);
        },
        ours: false,
    },
    Subject {
        name: "thread::sleep",
        block: |_, _| throwto::thread::sleep(Duration::from_secs(3600)).err(),
        wake: raise,
        ours: true,
    },
    Subject {
        name: "thread::park",
        block: |_, _| throwto::thread::park().err(),
        wake: raise,
        ours: true,
    },
];

fn none_if(interrupted: bool) -> Option<Raised> {
    assert!(interrupted);
    None
}

fn read(fd: i32) -> isize {
    let mut byte = 0u8;
    // SAFETY: one byte of room; nobody ever writes to that pipe.
    unsafe { libc::read(fd, (&raw mut byte).cast(), 1) }
}

fn futex(word: &AtomicU32, operation: i32, value: u32) {
    let null = std::ptr::null::<libc::timespec>();
    // SAFETY: waits on, or wakes by, the address of a live word.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation | libc::FUTEX_PRIVATE_FLAG,
            value,
            null,
        )
    };
}

fn kill(target: &Target) {
    // SAFETY: the target is joined after its last order.
    unsafe { libc::pthread_kill(target.pthread, libc::SIGUSR1) };
}

fn raise(target: &Target) {
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
    fn start(processors: Option<[usize; 2]>) -> Self {
        install();
        stay_on(processors.map(|both| both[0]));
        let shared = Arc::new(Shared::default());
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
    fn sample(&mut self, subject: &'static Subject) -> u64 {
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
        let state =
            std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.os_tid)).expect("it lives");
        state
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('S'))
    }
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

fn compare(table: &mut Table, subjects: &'static [Subject], times: f64, processors: [usize; 2]) {
    const SAMPLES: usize = 3000;
    let mut target = Target::start(Some(processors));
    let place = if processors[0] == processors[1] {
        "one processor"
    } else {
        "two processors"
    };
    let mut samples = vec![Vec::with_capacity(SAMPLES); subjects.len()];
    for round in 0..SAMPLES {
        for turn in 0..subjects.len() {
            let i = (round + turn) % subjects.len();
            samples[i].push(target.sample(&subjects[i]));
        }
    }
    let (reference, ours) = samples.split_first_mut().expect("the first is the reference");
    for (subject, ours) in subjects[1..].iter().zip(ours) {
        for p in [50.0, 99.0] {
            let (reference, ours) = (percentile(reference, p), percentile(ours, p));
            table.row(
                &format!("raise -> runs, {place}, {}, p{p}", subject.name),
                reference,
                ours,
                Budget::Times(times),
            );
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    let mut group = criterion.benchmark_group("raise to running");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_secs(1));
    let mut target = Target::start(None);
    for subject in READ[..2].iter().chain(&WAIT[..2]) {
        group.bench_function(subject.name, |b| {
            b.iter_custom(|n| Duration::from_nanos((0..n).map(|_| target.sample(subject)).sum()));
        });
    }
    drop(target);
    group.finish();
    if table::measuring() {
        let mut table = Table::new("ns");
        for processors in [[0, 1], [0, 0]] {
            compare(&mut table, &READ, 1.15, processors);
            compare(&mut table, &WAIT, 1.2, processors);
        }
        table.print();
    }
    criterion.final_summary();
}
