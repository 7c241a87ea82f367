//! Row 5: one `raise_exc` to a running thread, with few and with many threads attached.
//!
//! Two things can be measured honestly, and both are: a raise into a slot with nothing in it (the receipts are revoked
//! between the batches, off the clock), and a raise that supersedes the last one, which also has to end that one. The
//! targets count as running: attached, outside of every region, so that no signal is due. They do stand still, for a
//! target that takes its exceptions at once would have the raiser pay for the cache lines that it takes away; the row
//! "raise and deliver at oneself" has that half too, without the second processor.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};

use crate::table::{Budget, Table, fastest};
use criterion::Criterion;
use throwto::{ExcType, Interrupted, OsTid, Receipt, Target, ThreadId, raise_exc, safepoint};

/// Threads that are raised into, spread over all that there are: the same number for every size of the crowd.
const TARGETS: usize = 8;

/// Attached threads that stand still without being in a region.
struct Crowd {
    out: Arc<Barrier>,
    threads: Vec<std::thread::JoinHandle<()>>,
    ids: Vec<(ThreadId, i32)>,
}

impl Crowd {
    fn of(count: usize) -> Self {
        let out = Arc::new(Barrier::new(count + 1));
        let (tell, told) = mpsc::channel();
        let threads = (0..count)
            .map(|_| {
                let (out, tell) = (Arc::clone(&out), tell.clone());
                let body = move || {
                    let attachment = throwto::attach().expect("attached");
                    // SAFETY: no arguments.
                    let os_tid = unsafe { libc::gettid() };
                    tell.send((attachment.id(), os_tid)).expect("somebody listens");
                    out.wait();
                };
                std::thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn(body)
                    .expect("a thread")
            })
            .collect();
        let ids = told.iter().take(count).collect();
        Self { out, threads, ids }
    }

    fn targets(&self) -> Vec<(ThreadId, i32)> {
        (0..TARGETS)
            .map(|i| self.ids[i * (self.ids.len() - 1) / (TARGETS - 1)])
            .collect()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.out.wait();
        for thread in self.threads.drain(..) {
            thread.join().expect("it only waits");
        }
    }
}

fn exc() -> ExcType {
    ExcType::of::<Interrupted>()
}

/// Nanoseconds for one raise into an empty slot: the fastest of many batches of one raise a target.
fn into_empty_slots(targets: &[Target]) -> f64 {
    let mut receipts: Vec<Receipt> = Vec::with_capacity(targets.len());
    let mut best = f64::INFINITY;
    for _ in 0..20_000 {
        let began = std::time::Instant::now();
        for target in targets {
            receipts.push(raise_exc(target.clone(), exc()).expect("it is there"));
        }
        best = best.min(began.elapsed().as_nanos() as f64 / targets.len() as f64);
        for receipt in receipts.drain(..) {
            receipt.revoke();
        }
    }
    best
}

fn superseding(targets: &[Target]) -> impl FnMut(u64) {
    move |n| {
        for target in targets.iter().cycle().take(n as usize) {
            black_box(raise_exc(target.clone(), exc()).expect("it is there"));
        }
    }
}

fn two_rmws(word: &AtomicU64) -> impl FnMut(u64) {
    move |n| {
        for _ in 0..n {
            word.fetch_or(1, Ordering::SeqCst);
            word.fetch_or(2, Ordering::SeqCst);
        }
    }
}

/// How many times what it takes among ten threads.
fn flat(table: &mut Table, name: &str, few: f64, many: f64) {
    table.row(
        &format!("{name}, 10,000 beside 10"),
        "ns",
        few,
        many,
        Budget::Times(1.2),
    );
}

pub fn measure(table: &mut Table) {
    let word = AtomicU64::new(0);
    let mut by_size = Vec::new();
    for count in [10, 100, 1_000, 10_000] {
        let crowd = Crowd::of(count);
        let ids: Vec<Target> = crowd.targets().iter().map(|(id, _)| (*id).into()).collect();
        let tids: Vec<Target> = crowd
            .targets()
            .iter()
            .map(|(_, tid)| OsTid::from_raw(*tid).into())
            .collect();
        let (empty, empty_tid) = (into_empty_slots(&ids), into_empty_slots(&tids));
        let [reference, again] = fastest([&mut two_rmws(&word), &mut superseding(&ids)]);
        table.point("raise", "two uncontended RMWs", count as f64, reference);
        for (name, ours) in [
            ("by ThreadId", empty),
            ("by OsTid", empty_tid),
            ("superseding", again),
        ] {
            table.point("raise", &format!("raise_exc, {name}"), count as f64, ours);
            let name = format!("raise_exc, {name}, {count} threads, beside two RMWs");
            table.row(&name, "ns", reference, ours, Budget::Absolute(150.0));
        }
        by_size.push([empty, empty_tid, again]);
    }
    let (few, many) = (by_size[0], by_size[by_size.len() - 1]);
    for (i, name) in ["by ThreadId", "by OsTid", "superseding"].into_iter().enumerate() {
        flat(table, &format!("raise_exc, {name}"), few[i], many[i]);
    }
    let attachment = throwto::attach().expect("attached");
    let id = attachment.id();
    let [both] = fastest([&mut |n| {
        for _ in 0..n {
            raise_exc(id, exc()).expect("raised at itself");
            assert!(safepoint().is_err());
        }
    }]);
    table.note(format!("raise and deliver at oneself: {both:.2} ns"));
}

pub fn criterion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raise_exc to a running thread");
    group.sample_size(20);
    group.warm_up_time(std::time::Duration::from_millis(200));
    group.measurement_time(std::time::Duration::from_millis(800));
    let word = AtomicU64::new(0);
    group.bench_function("two RMWs", |b| {
        b.iter(|| word.fetch_or(1, Ordering::SeqCst) | word.fetch_or(2, Ordering::SeqCst));
    });
    let crowd = Crowd::of(10);
    let id = crowd.ids[0].0;
    group.bench_function("superseding, 10 threads", |b| b.iter(|| raise_exc(id, exc())));
    drop(crowd);
    group.finish();
}

/// One raise, in a function of its own, to be counted apart from what brings the slot back to what it was.
#[inline(never)]
fn empty(id: ThreadId) -> Receipt {
    raise_exc(id, exc()).expect("it is there")
}

#[inline(never)]
fn again(id: ThreadId) -> Receipt {
    raise_exc(id, exc()).expect("it is there")
}

#[inline(never)]
fn delivered(id: ThreadId) {
    drop(raise_exc(id, exc()).expect("it is there"));
    assert!(safepoint().is_err());
}

/// For `benches/instructions.rs`, into the calling thread: nobody else has a part in it, so that the counts are exact.
#[allow(dead_code, reason = "only `benches/instructions.rs` calls it")]
pub fn counted(n: u64) {
    let attachment = throwto::attach().expect("attached");
    let id = attachment.id();
    for _ in 0..n {
        assert!(empty(id).revoke());
    }
    drop(empty(id));
    for _ in 0..n {
        drop(again(id));
    }
    assert!(safepoint().is_err());
    for _ in 0..n {
        delivered(id);
    }
}
