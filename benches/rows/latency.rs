//! Rows 3 and 4: from the raise to the target running again, blocked in `read` and in waits of ours; and each rung
//! beside the raw signal, for the plot.
//!
//! Once with raiser and target on processors of their own, once with both on the same: there a wake-up is a mere switch
//! of threads, and the reference at its shortest. `target.rs` has the two threads.

#[path = "target.rs"]
mod target;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use criterion::Criterion;
use throwto::foreign::CallError;
use throwto::{Raised, foreign, safepoint};
use throwto_fixtures::cancel;

use crate::table::{Budget, Table, percentile, steady_percentile};
use target::{Shared, Subject, Target, asleep, kill, raise};

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

/// A `read` that retries after each EINTR, as C libraries do, and the means that end it; the bare read is beside them.
static RUNGS: [Subject; 5] = [
    Subject {
        name: "pthread_kill (read)",
        block: |_, fd| none_if(read(fd) == -1),
        wake: kill,
        ours: false,
    },
    Subject {
        name: "nudge (read)",
        block: |_, fd| foreign::call(|| read(fd)).and_then(|_| safepoint()).err(),
        wake: raise,
        ours: true,
    },
    Subject {
        name: "fail (a read that retries)",
        block: |_, fd| {
            let call = foreign::Call::new("read").fail_syscalls();
            call.run(|| patient_read(fd)).and_then(|_| safepoint()).err()
        },
        wake: raise,
        ours: true,
    },
    Subject {
        name: "hook (a read that retries)",
        block: hooked,
        wake: raise,
        ours: true,
    },
    Subject {
        name: "unwind (a read that retries)",
        block: unwound,
        wake: raise,
        ours: true,
    },
];

fn hooked(shared: &Shared, _: i32) -> Option<Raised> {
    let event = shared.event.load(Ordering::Relaxed);
    // A hook that ran once more than needed has left something to read.
    let one = 1u64;
    // SAFETY: eight bytes to read; the counter is not zero, so that the read below does not block.
    unsafe { libc::write(event, (&raw const one).cast(), 8) };
    patient_read(event);
    let call = foreign::Call::new("read").unblock(move || {
        // SAFETY: eight bytes to read.
        unsafe { libc::write(event, (&raw const one).cast(), 8) };
    });
    call.run(|| patient_read(event)).and_then(|_| safepoint()).err()
}

fn unwound(_: &Shared, fd: i32) -> Option<Raised> {
    let call = foreign::Call::new("read").unwind_after(Duration::ZERO);
    // SAFETY: the closure and the C function own nothing.
    match unsafe { call.run_forced(|| patient_read(fd)) } {
        Err(CallError::Raised(raised)) => Some(raised),
        other => panic!("{other:?}"),
    }
}

fn patient_read(fd: i32) -> isize {
    let mut room = [0u8; 8];
    // SAFETY: `room` is ours for the call; the pipe and the eventfd stay open.
    unsafe { throwto_fixtures::patient_read_raw(fd, room.as_mut_ptr(), room.len()) }
}

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

fn compare(table: &mut Table, subjects: &'static [Subject], times: f64, processors: [usize; 2]) {
    // As many as it takes for a reference beside itself to have the same p99 within some hundredths; of 3,000 it was a quarter.
    const SAMPLES: usize = 30_000;
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
    for (subject, samples) in subjects.iter().zip(&samples).filter(|_| processors == [0, 1]) {
        table.samples("wake-ups", subject.name, samples);
    }
    let (reference, ours) = samples.split_first().expect("the first is the reference");
    for (subject, ours) in subjects[1..].iter().zip(ours) {
        for p in [50.0, 99.0] {
            let (reference, ours) = (steady_percentile(reference, p), steady_percentile(ours, p));
            table.row(
                &format!("raise -> runs, {place}, {}, p{p}", subject.name),
                "ns",
                reference,
                ours,
                Budget::Times(times),
            );
        }
    }
}

/// Each rung, and what threads did before there were any: nobody survives `pthread_cancel`.
fn rungs(table: &mut Table) {
    const SAMPLES: usize = 1000;
    let mut target = Target::start(Some([0, 1]));
    let mut samples = vec![Vec::with_capacity(SAMPLES); RUNGS.len()];
    for round in 0..SAMPLES {
        for turn in 0..RUNGS.len() {
            let i = (round + turn) % RUNGS.len();
            samples[i].push(target.sample(&RUNGS[i]));
        }
    }
    drop(target);
    let mut cancelled: Vec<u64> = (0..SAMPLES).map(|_| cancel::sample(asleep)).collect();
    let [p50, p99] = [50.0, 99.0].map(|p| percentile(&mut cancelled, p));
    table.note(format!(
        "pthread_cancel -> clean-up of the thread, which dies, in read: p50 {p50:.0}, p99 {p99:.0} ns"
    ));
    table.samples("rungs", "pthread_cancel (read; the thread dies)", &cancelled);
    for (subject, samples) in RUNGS.iter().zip(&mut samples) {
        let [p50, p99] = [50.0, 99.0].map(|p| percentile(samples, p));
        table.note(format!(
            "raise -> runs, by {}: p50 {p50:.0}, p99 {p99:.0} ns",
            subject.name
        ));
        table.samples("rungs", subject.name, samples);
    }
}

pub fn criterion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raise to running");
    group.sample_size(20);
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
}

pub fn measure(table: &mut Table) {
    for processors in [[0, 1], [0, 0]] {
        compare(table, &READ, 1.15, processors);
        compare(table, &WAIT, 1.2, processors);
    }
    rungs(table);
}
