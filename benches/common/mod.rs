//! What the benches share: the table they end with, and measuring two things side by side.
//!
//! The machine is noisy, so no figure here stands alone: a row is a ratio between a reference in plain libc code and
//! throwto, measured in turns (A B B A ..) in the same run. Short operations are compared by the fastest of many short
//! batches, since noise only ever adds; wake-ups by their percentiles.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::time::Instant;

/// What a row must keep to.
#[derive(Clone, Copy)]
pub enum Budget {
    /// At most this many times the reference.
    Times(f64),
    /// At most this many nanoseconds more than the reference.
    Plus(f64),
    /// At most this much, whatever the reference takes.
    Absolute(f64),
}

impl Budget {
    fn kept(self, reference: f64, throwto: f64) -> bool {
        match self {
            Self::Times(times) => throwto <= reference * times,
            Self::Plus(more) => throwto <= reference + more,
            Self::Absolute(most) => throwto <= most,
        }
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Times(times) => write!(f, "<= {times} x"),
            Self::Plus(more) => write!(f, "<= +{more}"),
            Self::Absolute(most) => write!(f, "<= {most}"),
        }
    }
}

/// The lines that a bench ends with.
pub struct Table {
    rows: Vec<String>,
    unit: &'static str,
}

impl Table {
    pub fn new(unit: &'static str) -> Self {
        Self {
            rows: Vec::new(),
            unit,
        }
    }

    pub fn row(&mut self, name: &str, reference: f64, throwto: f64, budget: Budget) {
        let verdict = if budget.kept(reference, throwto) {
            "ok"
        } else {
            "OVER"
        };
        let ratio = throwto / reference;
        self.rows.push(format!(
            "{name} | {reference:.2} | {throwto:.2} | {ratio:.2} | {budget} | {verdict}"
        ));
    }

    /// A figure that has no budget.
    pub fn note(&mut self, line: String) {
        self.rows.push(line);
    }

    pub fn print(&self) {
        println!("\n{}", machine());
        println!(
            "row | reference {0} | throwto {0} | ratio | budget | verdict",
            self.unit
        );
        for row in &self.rows {
            println!("{row}");
        }
        println!();
    }
}

/// Processor, cores, kernel and load: what the figures are from.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "machine: {}, {cores} cores, Linux {}, load {load}",
        model.unwrap_or("unknown processor"),
        kernel.trim()
    )
}

/// Whether this run is to measure: not under `cargo test`, not `--list`.
pub fn measuring() -> bool {
    let mut asked = false;
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--bench" => asked = true,
            "--test" | "--list" => return false,
            _ => {}
        }
    }
    asked
}

/// Nanoseconds per operation of each of `subjects`, which do as many operations as they are told to: the fastest of
/// many batches of about 100 us, taken in turns.
pub fn fastest<const N: usize>(mut subjects: [&mut dyn FnMut(u64); N]) -> [f64; N] {
    const ROUNDS: usize = 1500;
    let mut batch = 16;
    let sizes = std::array::from_fn::<u64, N, _>(|i| {
        while time(subjects[i], batch) < 100_000.0 && batch < 1 << 30 {
            batch *= 2;
        }
        std::mem::replace(&mut batch, 16)
    });
    let mut best = [f64::INFINITY; N];
    for round in 0..ROUNDS {
        for turn in 0..N {
            let i = if round % 2 == 0 { turn } else { N - 1 - turn };
            best[i] = best[i].min(time(subjects[i], sizes[i]) / sizes[i] as f64);
        }
    }
    best
}

fn time(subject: &mut dyn FnMut(u64), operations: u64) -> f64 {
    let began = Instant::now();
    subject(operations);
    began.elapsed().as_nanos() as f64
}

/// The p-th percentile; sorts.
pub fn percentile(samples: &mut [u64], p: f64) -> f64 {
    samples.sort_unstable();
    let at = ((samples.len() - 1) as f64 * p / 100.0).round() as usize;
    samples[at] as f64
}

/// Nanoseconds of the monotonic clock, equal on every processor.
pub fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
