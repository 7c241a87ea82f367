//! The abandon rung: entering and leaving its region, beside `sigsetjmp(,0)`; and getting a thread out of a C loop, beside
//! `pthread_kill` and `siglongjmp`.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::table::{Budget, Table, fastest, now, steady_percentile};
use criterion::Criterion;
use throwto::foreign::{Call, CallError, Module};
use throwto::{ExcType, Interrupted, Raised, ThreadId, foreign, raise_exc};
use throwto_fixtures::jump;

fn spin_module() -> Module {
    Module::from_symbols(jump::spin_code(), jump::spin_code()).expect("C code of ours")
}

#[inline(never)]
fn forced(n: u64, call: &Call<'_>) {
    let mut x = 0;
    for _ in 0..n {
        let function = move || jump::trivial(x);
        // SAFETY: one C function, which owns nothing.
        x = unsafe { call.run_forced(function) }.expect("nobody raises");
    }
    black_box(x);
}

/// What the two threads share.
#[derive(Default)]
struct Shared {
    spinning: AtomicU64,
    left: AtomicU64,
    left_at: AtomicU64,
}

/// A target that spins in C, and two ways to get it out.
struct Target {
    shared: Arc<Shared>,
    orders: Option<Sender<bool>>,
    thread: Option<std::thread::JoinHandle<()>>,
    id: ThreadId,
    pthread: libc::pthread_t,
    turn: u64,
}

impl Target {
    fn start() -> Self {
        jump::install(libc::SIGUSR1);
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let (orders, todo) = channel();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let attachment = throwto::attach().expect("attached");
            // SAFETY: no arguments.
            let pthread = unsafe { libc::pthread_self() };
            tell.send((attachment.id(), pthread)).expect("the raiser listens");
            // Made once, as is the buffer of the other way out: what it reads of the program's symbols would be read in each sample.
            let call = Call::new("spin")
                .abandon_after(Duration::ZERO)
                .allow(&spin_module());
            for ours in todo {
                let raised = if ours {
                    abandoned(&call, &theirs)
                } else {
                    jumped(&theirs)
                };
                theirs.left_at.store(now(), Ordering::Relaxed);
                assert_eq!(raised.is_some(), ours);
                drop(raised);
                foreign::clear_poison("spin");
                theirs.left.fetch_add(1, Ordering::Release);
            }
        });
        let (id, pthread) = told.recv().expect("it tells");
        let (orders, thread) = (Some(orders), Some(thread));
        Self {
            shared,
            orders,
            thread,
            id,
            pthread,
            turn: 0,
        }
    }

    /// From the raise to the target out of the loop, in nanoseconds.
    fn sample(&mut self, ours: bool) -> u64 {
        self.turn += 1;
        self.shared.spinning.store(0, Ordering::Relaxed);
        let orders = self.orders.as_ref().expect("running");
        orders.send(ours).expect("the target listens");
        while self.shared.spinning.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(20));
        let began = now();
        if ours {
            raise_exc(self.id, ExcType::of::<Interrupted>()).expect("it is there");
        } else {
            // SAFETY: the target is joined after its last order.
            unsafe { libc::pthread_kill(self.pthread, libc::SIGUSR1) };
        }
        while self.shared.left.load(Ordering::Acquire) != self.turn {
            std::hint::spin_loop();
            std::thread::yield_now();
        }
        self.shared.left_at.load(Ordering::Relaxed).saturating_sub(began)
    }
}

fn abandoned(call: &Call<'_>, shared: &Shared) -> Option<Raised> {
    // SAFETY: a C loop, which owns nothing, as this closure does.
    match unsafe { call.run_forced(|| jump::spin(&shared.spinning)) } {
        Err(CallError::Raised(raised)) => Some(raised),
        other => panic!("{other:?}"),
    }
}

fn jumped(shared: &Shared) -> Option<Raised> {
    jump::spin_until_signal(&shared.spinning);
    None
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it only spins");
        }
    }
}

fn compare_ways_out(table: &mut Table) {
    const SAMPLES: usize = 30_000;
    let mut target = Target::start();
    let mut samples = [Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES)];
    for round in 0..2 * SAMPLES {
        let ours = round % 4 == 1 || round % 4 == 2;
        samples[usize::from(ours)].push(target.sample(ours));
    }
    let [reference, ours] = &mut samples;
    table.samples("rungs", "pthread_kill, siglongjmp (C loop)", reference);
    table.samples("rungs", "abandon (C loop)", ours);
    for p in [50.0, 99.0] {
        table.row(
            &format!("raise -> out of a C loop, abandon, p{p}"),
            "ns",
            steady_percentile(reference, p),
            steady_percentile(ours, p),
            Budget::Times(1.2),
        );
    }
}

fn compare_ways_in(table: &mut Table, thread: &str) {
    let call = Call::new("trivial")
        .abandon_after(Duration::ZERO)
        .allow(&spin_module());
    let all = Call::new("trivial")
        .fail_syscalls()
        .unblock(|| ())
        .unwind_after(Duration::ZERO)
        .abandon_after(Duration::ZERO)
        .allow(&spin_module());
    let [bare, reference, ours, all] = fastest([
        &mut |n| {
            black_box(jump::bare(n, jump::TRIVIAL));
        },
        &mut |n| {
            black_box(jump::guarded(n, jump::TRIVIAL));
        },
        &mut |n| forced(n, &call),
        &mut |n| forced(n, &all),
    ]);
    table.point("region", &format!("sigsetjmp(,0), {thread}"), 0.0, reference);
    table.note(format!("a bare call of the C function, {thread}: {bare:.2} ns"));
    for (name, ours) in [("abandon", ours), ("every rung", all)] {
        table.point("region", &format!("run_forced, {name}, {thread}"), 0.0, ours);
        table.row(
            &format!("run_forced, {name}, beside sigsetjmp(,0), {thread}"),
            "ns",
            reference,
            ours,
            Budget::Times(1.0),
        );
    }
}

pub fn criterion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forced");
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(800));
    let call = Call::new("trivial")
        .abandon_after(Duration::ZERO)
        .allow(&spin_module());
    group.bench_function("run_forced", |b| {
        b.iter_custom(|n| {
            let began = now();
            forced(n, &call);
            Duration::from_nanos(now() - began)
        });
    });
    let mut target = Target::start();
    for (name, ours) in [("siglongjmp", false), ("abandon", true)] {
        group.bench_function(name, |b| {
            b.iter_custom(|n| Duration::from_nanos((0..n).map(|_| target.sample(ours)).sum()));
        });
    }
    drop(target);
    group.finish();
}

pub fn measure(table: &mut Table) {
    compare_ways_in(table, "unattached");
    {
        let _attachment = throwto::attach().expect("attached");
        compare_ways_in(table, "attached");
    }
    compare_ways_out(table);
}

/// The loop once, for a count of its instructions.
#[allow(dead_code, reason = "only `benches/instructions.rs` calls it")]
pub fn counted(n: u64) {
    let call = Call::new("trivial")
        .abandon_after(Duration::ZERO)
        .allow(&spin_module());
    // The first call of a process reads its symbols, the first of a thread where its stack is.
    // SAFETY: one C function, which owns nothing.
    unsafe { call.run_forced(|| jump::trivial(0)) }.expect("nobody raises");
    forced(black_box(n), &call);
}
