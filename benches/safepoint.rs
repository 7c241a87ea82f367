//! Row 1: a safepoint with nothing pending, beside the least that a poll of a thread's own flag can cost.

mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Budget, Table, fastest};
use criterion::{Criterion, Throughput};

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
    move |n| {
        black_box(f(black_box(n))).expect("nobody raises");
    }
}

fn compare(table: &mut Table, thread: &str) {
    let [reference, ours] = fastest([&mut run(raw_empty), &mut run(safepoint_empty)]);
    table.row(
        &format!("safepoint, {thread}, empty loop"),
        reference,
        ours,
        Budget::Times(1.1),
    );
    let [reference, ours] = fastest([&mut run(raw_working), &mut run(safepoint_working)]);
    table.row(
        &format!("safepoint, {thread}, working loop"),
        reference,
        ours,
        Budget::Times(1.1),
    );
}

fn main() {
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    let mut group = criterion.benchmark_group("safepoint");
    group.warm_up_time(std::time::Duration::from_millis(200));
    group.measurement_time(std::time::Duration::from_millis(800));
    group.throughput(Throughput::Elements(1000));
    let attachment = throwto::attach().expect("attached");
    group.bench_function("raw load and branch x 1000", |b| {
        b.iter(|| raw_empty(black_box(1000)))
    });
    group.bench_function("safepoint x 1000", |b| {
        b.iter(|| safepoint_empty(black_box(1000)))
    });
    drop(attachment);
    group.finish();
    if common::measuring() {
        let mut table = Table::new("ns");
        compare(&mut table, "unattached");
        let _attachment = throwto::attach().expect("attached");
        compare(&mut table, "attached");
        table.print();
    }
    criterion.final_summary();
}
