//! Row 10: a time limit around next to nothing, beside the clock that it cannot do without.

use std::hint::black_box;
use std::time::Duration;

use crate::table::{Budget, Table, fastest, now};
use criterion::Criterion;
use throwto::time::timeout;

fn clocks(n: u64) {
    for _ in 0..n {
        black_box(now());
        black_box(now());
    }
}

#[inline(never)]
fn limits(n: u64, limit: Duration) {
    for i in 0..n {
        let _ = black_box(timeout(limit, || black_box(i)));
    }
}

pub fn criterion(criterion: &mut Criterion) {
    let _attachment = throwto::attach().expect("attached");
    let long = Duration::from_secs(10);
    let mut group = criterion.benchmark_group("timeout");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(800));
    group.bench_function("two clock_gettime", |b| b.iter(|| clocks(1)));
    group.bench_function("timeout around nothing", |b| b.iter(|| limits(1, long)));
    group.finish();
}

pub fn measure(table: &mut Table) {
    let _attachment = throwto::attach().expect("attached");
    let long = Duration::from_secs(10);
    let [clock, limit, nested, short] = fastest([
        &mut clocks,
        &mut |n| limits(n, long),
        &mut |n| {
            let _ = timeout(2 * long, || limits(n, long));
        },
        &mut |n| limits(n, Duration::from_millis(1)),
    ]);
    table.row(
        "timeout: arm + disarm",
        "ns",
        clock,
        limit,
        Budget::Absolute(60.0),
    );
    table.row(
        "timeout inside another",
        "ns",
        clock,
        nested,
        Budget::Absolute(60.0),
    );
    table.note(format!(
        "timeout of 1 ms, the driver looking each time: {short:.2} ns"
    ));
}

/// The loop once, for a count of its instructions.
#[allow(dead_code, reason = "only `benches/instructions.rs` calls it")]
pub fn counted(n: u64) {
    limits(black_box(n), Duration::from_secs(10));
}
