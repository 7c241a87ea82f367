//! Nobody may be stuck: who makes no step for [`BOUND`] is a hang, and the process says where everybody is and ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Every step takes milliseconds. A machine that gives a thread no time for so long is no machine to test on.
const BOUND: Duration = Duration::from_secs(60);
const DONE: u64 = u64::MAX;

#[derive(Default)]
struct Pulse {
    name: Mutex<String>,
    steps: AtomicU64,
    /// What it is about to do.
    doing: AtomicU64,
}

/// One thread's pulse. It has ended when this is dropped.
pub struct Beat(Arc<Pulse>);

impl Beat {
    pub fn is(&self, name: &str) {
        name.clone_into(&mut self.0.name.lock().unwrap());
    }

    /// Another step begins.
    pub fn step(&self, doing: u64) {
        self.0.doing.store(doing, Ordering::Relaxed);
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.steps.store(DONE, Ordering::Relaxed);
    }
}

pub struct Watchdog {
    pulses: Vec<Arc<Pulse>>,
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchdog {
    pub fn new(seed: u64, threads: usize) -> Self {
        let pulses: Vec<Arc<Pulse>> = (0..threads).map(|_| Arc::default()).collect();
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let (watched, ends) = (pulses.clone(), Arc::clone(&over));
        let thread = std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watch(seed, &watched, &ends));
        Self {
            pulses,
            over,
            thread: Some(thread.unwrap()),
        }
    }

    pub fn beats(&self) -> impl Iterator<Item = Beat> {
        self.pulses.clone().into_iter().map(Beat)
    }

    pub fn end(mut self) {
        *self.over.0.lock().unwrap() = true;
        self.over.1.notify_all();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn watch(seed: u64, pulses: &[Arc<Pulse>], (over, told): &(Mutex<bool>, Condvar)) {
    let mut seen: Vec<(u64, Instant)> = pulses.iter().map(|_| (0, Instant::now())).collect();
    let mut over = over.lock().unwrap();
    while !*over {
        over = told.wait_timeout(over, Duration::from_secs(1)).unwrap().0;
        for (pulse, (steps, since)) in pulses.iter().zip(&mut seen) {
            let now = pulse.steps.load(Ordering::Relaxed);
            if now != *steps {
                (*steps, *since) = (now, Instant::now());
            }
            if now != DONE && since.elapsed() > BOUND {
                bark(seed, pulses);
            }
        }
    }
}

/// Where everybody is, attached or not; then the end.
fn bark(seed: u64, pulses: &[Arc<Pulse>]) -> ! {
    eprintln!("THROWTO_SEED={seed}: no step for {BOUND:?}");
    for pulse in pulses {
        let (steps, doing) = (
            pulse.steps.load(Ordering::Relaxed),
            pulse.doing.load(Ordering::Relaxed),
        );
        eprintln!(
            "{}: {} steps, the last was {doing}",
            pulse.name.lock().unwrap(),
            steps as i64
        );
    }
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    for task in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let tid = task.file_name().into_string().unwrap_or_default();
        let told = |what| read(format!("/proc/self/task/{tid}/{what}"));
        eprintln!(
            "{tid} {}: {} {}",
            told("comm").trim(),
            told("syscall").trim(),
            told("wchan").trim()
        );
    }
    // Last, since it takes locks of its own.
    eprintln!("{:#?}\n{:#?}", throwto::stats(), throwto::threads());
    std::process::abort();
}
