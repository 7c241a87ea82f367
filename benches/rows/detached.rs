//! A detached call beside what it is made of: a thread that is started and joined.
//!
//! `foreign::detached` around nothing, and `std::thread::spawn` and `join` around nothing, by turns on one attached thread.
//! The difference is attaching, the wait that a raise can end, and giving the result over. There is no budget for it.

use crate::table::{Table, now, percentile};
use criterion::Criterion;
use throwto::foreign;

const ROUNDS: usize = 20_000;

fn timed(call: impl FnOnce()) -> u64 {
    let began = now();
    call();
    now() - began
}

fn spawn_and_join() {
    std::thread::spawn(|| ()).join().expect("it does nothing");
}

fn attached_spawn_and_join() {
    throwto::thread::spawn(|| ()).join().expect("it does nothing");
}

fn detached() {
    foreign::detached(|| ()).expect("nobody raises");
}

pub fn criterion(criterion: &mut Criterion) {
    let _attachment = throwto::attach().expect("nothing in the way");
    criterion.bench_function("foreign::detached", |b| b.iter(detached));
    criterion.bench_function("std::thread::spawn + join", |b| b.iter(spawn_and_join));
}

pub fn measure(table: &mut Table) {
    let _attachment = throwto::attach().expect("nothing in the way");
    let (mut plain, mut attached, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            plain.push(timed(spawn_and_join));
            attached.push(timed(attached_spawn_and_join));
            ours.push(timed(detached));
        } else {
            ours.push(timed(detached));
            attached.push(timed(attached_spawn_and_join));
            plain.push(timed(spawn_and_join));
        }
    }
    for p in [50.0, 99.0] {
        let [plain, attached, ours] =
            [&mut plain, &mut attached, &mut ours].map(|samples| percentile(samples, p) / 1000.0);
        for (name, taken) in [
            ("foreign::detached", ours),
            ("throwto::thread::spawn + join", attached),
        ] {
            let name = format!("{name}, beside std's, p{p}");
            table.free(&name, "us", plain, taken);
        }
    }
}
