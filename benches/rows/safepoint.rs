//! Row 1: a safepoint with nothing pending, beside the least that a poll of a thread's own flag can cost.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{Criterion, Throughput};
use throwto_fixtures::cancel;

use crate::table::{Budget, Table, fastest};

thread_local! {
    static WORD: AtomicU64 = const { AtomicU64::new(0) };
}

#[cold]
#[inline(never)]
fn called() -> Result<(), throwto::Raised> {
    throwto::safepoint()
}

#[inline(always)]
fn raw() -> Result<(), throwto::Raised> {
    if WORD.with(|word| word.load(Ordering::Relaxed)) & 7 != 0 {
        called()
    } else {
        Ok(())
    }
}

/// The word leaves this file: the compiler takes the load away from a flag that it can see nobody write.
fn known_elsewhere() {
    WORD.with(|word| {
        black_box(word);
    });
}

/// A loop that does nothing else. `black_box` keeps the thread-local pointer from being read once for all.
macro_rules! empty_loop {
    ($name:ident, $check:path) => {
        #[inline(never)]
        fn $name(n: u64) -> Result<u64, throwto::Raised> {
            for i in 0..n {
                $check()?;
                black_box(i);
            }
            Ok(n)
        }
    };
}

/// A loop with some work in it: a dependent multiplication a round.
macro_rules! working_loop {
    ($name:ident, $check:path) => {
        #[inline(never)]
        fn $name(n: u64) -> Result<u64, throwto::Raised> {
            let mut x = n | 1;
            for _ in 0..n {
                $check()?;
                x = black_box(x.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            }
            Ok(x)
        }
    };
}

empty_loop!(raw_empty, raw);
empty_loop!(safepoint_empty, throwto::safepoint);
working_loop!(raw_working, raw);
working_loop!(safepoint_working, throwto::safepoint);

fn run(f: fn(u64) -> Result<u64, throwto::Raised>) -> impl FnMut(u64) {
    known_elsewhere();
    move |n| {
        black_box(f(black_box(n))).expect("nobody raises");
    }
}

fn compare(table: &mut Table, thread: &str) {
    for (work, raw, ours) in [
        (
            "empty loop",
            raw_empty as fn(u64) -> _,
            safepoint_empty as fn(u64) -> _,
        ),
        ("working loop", raw_working, safepoint_working),
    ] {
        let [reference, ours, peer] = fastest([&mut run(raw), &mut run(ours), &mut |n| cancel::test(n)]);
        let name = format!("safepoint, {thread}, {work}");
        table.row(&name, "ns", reference, ours, Budget::Times(1.1));
        let place = format!("{thread}, {work}");
        table.point(
            "safepoint",
            &format!("{place}: raw load and branch"),
            0.0,
            reference,
        );
        table.point("safepoint", &format!("{place}: safepoint"), 0.0, ours);
        if work == "empty loop" && thread == "attached" {
            table.note(format!("pthread_testcancel in an empty loop: {peer:.2} ns"));
            table.point("safepoint", "pthread_testcancel, empty loop", 0.0, peer);
        }
    }
}

pub fn criterion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("safepoint");
    group.sample_size(20);
    group.warm_up_time(std::time::Duration::from_millis(200));
    group.measurement_time(std::time::Duration::from_millis(800));
    group.throughput(Throughput::Elements(1000));
    known_elsewhere();
    let attachment = throwto::attach().expect("attached");
    group.bench_function("raw load and branch x 1000", |b| {
        b.iter(|| raw_empty(black_box(1000)))
    });
    group.bench_function("safepoint x 1000", |b| {
        b.iter(|| safepoint_empty(black_box(1000)))
    });
    drop(attachment);
    group.finish();
}

pub fn measure(table: &mut Table) {
    compare(table, "unattached");
    let _attachment = throwto::attach().expect("attached");
    compare(table, "attached");
}

/// Each loop once, for a count of its instructions.
#[allow(dead_code, reason = "only `benches/instructions.rs` calls it")]
pub fn counted(n: u64) {
    for each in [raw_empty, safepoint_empty, raw_working, safepoint_working] {
        run(each)(n);
    }
}
