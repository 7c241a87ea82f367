//! What the benches share: rows with their verdicts, the samples that plots are drawn from, and measuring things side by side.
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
            Self::Times(times) => write!(f, "<= {times:.3} x"),
            Self::Plus(more) => write!(f, "<= +{more}"),
            Self::Absolute(most) => write!(f, "<= {most}"),
        }
    }
}

/// One line of the table.
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub reference: f64,
    pub throwto: f64,
    /// None where the design sets none.
    pub budget: Option<Budget>,
}

impl Row {
    pub fn over(&self) -> bool {
        self.budget
            .is_some_and(|budget| !budget.kept(self.reference, self.throwto))
    }

    fn verdict(&self) -> &'static str {
        match self.budget {
            None => "-",
            Some(_) if self.over() => "OVER",
            Some(_) => "ok",
        }
    }

    /// The cells, in the order of [`HEADINGS`].
    pub fn cells(&self) -> [String; 7] {
        [
            self.name.clone(),
            self.unit.to_owned(),
            format!("{:.2}", self.reference),
            format!("{:.2}", self.throwto),
            format!("{:.2}", self.throwto / self.reference),
            self.budget.map_or("-".to_owned(), |budget| budget.to_string()),
            self.verdict().to_owned(),
        ]
    }
}

/// What the cells of a row are.
pub const HEADINGS: [&str; 7] = [
    "row",
    "unit",
    "reference",
    "throwto",
    "ratio",
    "budget",
    "verdict",
];

/// Everything that a run has measured.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
    /// Wake-ups: plot, name, nanoseconds.
    pub samples: Vec<(&'static str, String, Vec<u64>)>,
    /// Single points: plot, series, x, y.
    pub points: Vec<(&'static str, String, f64, f64)>,
}

impl Table {
    pub fn row(&mut self, name: &str, unit: &'static str, reference: f64, throwto: f64, budget: Budget) {
        self.push(name, unit, reference, throwto, Some(budget));
    }

    /// A row that the design sets no budget for.
    pub fn free(&mut self, name: &str, unit: &'static str, reference: f64, throwto: f64) {
        self.push(name, unit, reference, throwto, None);
    }

    fn push(&mut self, name: &str, unit: &'static str, reference: f64, throwto: f64, budget: Option<Budget>) {
        let name = name.to_owned();
        let row = Row {
            name,
            unit,
            reference,
            throwto,
            budget,
        };
        eprintln!("{}", row.cells().join(" | "));
        self.rows.push(row);
    }

    /// A figure without a reference.
    pub fn note(&mut self, line: String) {
        eprintln!("{line}");
        self.notes.push(line);
    }

    /// Keeps wake-ups for a plot.
    pub fn samples(&mut self, plot: &'static str, name: &str, samples: &[u64]) {
        self.samples.push((plot, name.to_owned(), samples.to_vec()));
    }

    /// Keeps one point for a plot.
    pub fn point(&mut self, plot: &'static str, series: &str, x: f64, y: f64) {
        self.points.push((plot, series.to_owned(), x, y));
    }

    pub fn over(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.over())
    }

    pub fn print(&self) {
        println!("\n{}", machine());
        println!("{}", HEADINGS.join(" | "));
        for row in &self.rows {
            println!("{}", row.cells().join(" | "));
        }
        for note in &self.notes {
            println!("{note}");
        }
        println!();
    }
}

/// Processor, cores, kernel and load: what the figures are from.
pub fn machine() -> String {
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

/// Runs one file's rows by themselves: criterion first, for its history, and the table last.
pub fn alone(measured: fn(&mut Table), benched: Option<fn(&mut criterion::Criterion)>) {
    if let Some(benched) = benched {
        let mut criterion = criterion::Criterion::default().configure_from_args();
        benched(&mut criterion);
        criterion.final_summary();
    }
    if measuring() {
        let mut table = Table::default();
        measured(&mut table);
        table.print();
    }
}

/// Nanoseconds per operation of each of `subjects`, which do as many operations as they are told to: the fastest of
/// many batches of about 100 us, taken in turns.
pub fn fastest<const N: usize>(mut subjects: [&mut dyn FnMut(u64); N]) -> [f64; N] {
    const ROUNDS: usize = 1500;
    let mut batch = 16;
    let sizes = std::array::from_fn::<u64, N, _>(|i| {
        // One that was interrupted looks longer than it is, and would be left too short for the clock.
        let mut takes = |batch| {
            (0..5)
                .map(|_| time(subjects[i], batch))
                .fold(f64::INFINITY, f64::min)
        };
        while takes(batch) < 100_000.0 && batch < 1 << 30 {
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

/// The p-th percentile of samples in the order in which they were taken: the middle one of those of ten stretches. A tail is made of what
/// the rest of the machine does, and that comes in bursts: one of them spoils a stretch, and not the figure.
pub fn steady_percentile(samples: &[u64], p: f64) -> f64 {
    let mut each: Vec<u64> = samples
        .chunks(samples.len().div_ceil(10))
        .map(|stretch| percentile(&mut stretch.to_vec(), p) as u64)
        .collect();
    percentile(&mut each, 50.0)
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
