//! Row 2: entering and leaving a foreign region, beside the bare call.

use std::hint::black_box;

use crate::table::{Budget, Table, fastest};
use criterion::Criterion;
use throwto::foreign::{self, Call};

/// Stands for a short C function: not inlined, C's calling convention.
#[inline(never)]
extern "C" fn trivial(x: u64) -> u64 {
    black_box(x).wrapping_add(1)
}

#[inline(never)]
fn bare(n: u64) {
    for i in 0..n {
        black_box(trivial(i));
    }
}

#[inline(never)]
fn plain(n: u64) {
    for i in 0..n {
        black_box(foreign::call(|| trivial(i)).expect("nobody raises"));
    }
}

#[inline(never)]
fn built(n: u64, call: &mut Call<'_>) {
    for i in 0..n {
        black_box(call.run(|| trivial(i)).expect("nobody raises"));
    }
}

#[inline(never)]
fn tried(n: u64, call: &mut Call<'_>) {
    for i in 0..n {
        black_box(call.try_run(|| Ok::<_, ()>(trivial(i))).is_ok());
    }
}

fn compare(table: &mut Table, thread: &str) {
    let mut label = Call::new("trivial");
    let mut fail = Call::new("trivial").fail_syscalls();
    let mut hook = Call::new("trivial").unblock(|| ());
    let mut all = Call::new("trivial").fail_syscalls().unblock(|| ());
    let [reference, plain, label, fail, hook, all] = fastest([
        &mut bare,
        &mut plain,
        &mut |n| built(n, &mut label),
        &mut |n| built(n, &mut fail),
        &mut |n| built(n, &mut hook),
        &mut |n| tried(n, &mut all),
    ]);
    table.point("region", &format!("bare call, {thread}"), 0.0, reference);
    for (name, ours) in [
        ("foreign::call", plain),
        ("Call::run", label),
        ("Call::run, fail_syscalls", fail),
        ("Call::run, unblock", hook),
        ("Call::try_run, both", all),
    ] {
        let name = format!("{name}, {thread}");
        table.row(&name, "ns", reference, ours, Budget::Plus(2.0));
        table.point("region", &name, 0.0, ours);
    }
}

pub fn criterion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("region");
    group.sample_size(20);
    group.warm_up_time(std::time::Duration::from_millis(200));
    group.measurement_time(std::time::Duration::from_millis(800));
    let attachment = throwto::attach().expect("attached");
    group.bench_function("bare call", |b| b.iter(|| trivial(black_box(1))));
    group.bench_function("foreign::call", |b| {
        b.iter(|| foreign::call(|| trivial(black_box(1))))
    });
    let call = Call::new("trivial").fail_syscalls();
    group.bench_function("Call::run, fail_syscalls", |b| {
        b.iter(|| call.run(|| trivial(black_box(1))))
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
    let n = black_box(n);
    bare(n);
    plain(n);
    built(n, &mut Call::new("trivial").fail_syscalls());
    tried(n, &mut Call::new("trivial").fail_syscalls().unblock(|| ()));
}
