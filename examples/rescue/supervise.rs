//! The supervisor: starts the stuck threads, raises into each, and checks what it is told.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use throwto::{Interrupted, Rung, ThreadInfo};

use crate::case::{Case, Out, StuckIn, Witness};
use crate::cases::Kind;
use crate::worker::{Done, Worker};

/// A thread that is not free, or a next job that is not done, after this long is a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// How a case went.
pub struct Outcome {
    /// As read from the system before the raise.
    pub stuck_in: String,
    pub end: End,
}

pub enum End {
    Freed(Freed),
    Skipped(String),
    Failed(String),
}

pub struct Freed {
    pub rung: Rung,
    pub after: Duration,
    pub cleanup: String,
    pub next: i64,
}

/// Starts all `kinds` together, then frees one after the other: first those that run, for as long as they do the others
/// would have to wait for a processor as well.
pub fn rescue(kinds: &[&'static Kind]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = kinds
        .iter()
        .map(|_| Outcome {
            stuck_in: String::new(),
            end: End::Failed("not tried".into()),
        })
        .collect();
    let started: Vec<_> = kinds.iter().map(|kind| start(kind)).collect();
    // Nobody is raised into before all are stuck: they are stuck at the same time.
    let mut ready = Vec::new();
    for (outcome, started) in outcomes.iter_mut().zip(started) {
        match started.and_then(|stuck| stuck.await_stuck().map(|info| (stuck, info)).map_err(End::Failed)) {
            Ok((stuck, info)) => {
                outcome.stuck_in = place(&info);
                ready.push((outcome, stuck));
            }
            Err(end) => outcome.end = end,
        }
    }
    ready.sort_by_key(|(_, stuck)| matches!(stuck.case.stuck_in, StuckIn::Call(_) | StuckIn::Wait));
    for (outcome, stuck) in ready {
        // Looked at anew: freeing the others takes time, in which a resolver, for one, has opened another socket.
        let freed = stuck.await_stuck().and_then(|info| stuck.free(&info));
        outcome.end = freed.map_or_else(End::Failed, End::Freed);
    }
    outcomes
}

/// Where the thread is, without how long it has been there.
fn place(info: &ThreadInfo) -> String {
    let place = info.where_blocked.split(" for ").next().unwrap_or_default();
    match info.region {
        Some(label) if place == "running" => format!("running, inside {label}"),
        _ => place.to_owned(),
    }
}

struct Stuck {
    worker: Worker,
    witness: Witness,
    done: Receiver<Done<Result<(), Out>>>,
    case: Case,
}

fn start(kind: &Kind) -> Result<Stuck, End> {
    let mut case = (kind.set_up)().map_err(|error| match error.kind() {
        std::io::ErrorKind::Unsupported => End::Skipped(error.to_string()),
        _ => End::Failed(format!("set-up: {error}")),
    })?;
    let worker = Worker::start(kind.name).map_err(|error| End::Failed(format!("thread: {error}")))?;
    let witness = Witness::default();
    let stuck = std::mem::replace(&mut case.stuck, Box::new(|_| Ok(())));
    let theirs = witness.clone();
    let done = worker.give(move || stuck(&theirs));
    Ok(Stuck {
        worker,
        witness,
        done,
        case,
    })
}

impl Stuck {
    /// Waits until the system shows the thread stuck where it should be.
    fn await_stuck(&self) -> Result<ThreadInfo, String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = throwto::threads()
                .into_iter()
                .find(|thread| thread.id == self.worker.id());
            let Some(info) = now else {
                return Err("its thread has ended".into());
            };
            if self.case.stuck_in.is_seen(&info) {
                return Ok(info);
            }
            if let Ok(done) = self.done.try_recv() {
                return Err(format!("it was not stuck: {}", told(done.value)));
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "it did not get stuck as it should; it is in {}",
                    info.where_blocked
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Raises into the thread, checks that it has left nothing behind, and gives it its next job.
    fn free(self, info: &ThreadInfo) -> Result<Freed, String> {
        let Self {
            worker,
            witness,
            done,
            case,
        } = self;
        let traces = case
            .traces
            .into_iter()
            .map(|trace| trace.follow(info))
            .collect::<Result<Vec<_>, _>>()?;

        let raised_at = Instant::now();
        throwto::raise_exc(worker.id(), Interrupted).map_err(|error| error.to_string())?;
        let raised = match receive(&done, &worker)?.value {
            Err(Out::Raised(raised)) => raised,
            other => return Err(format!("not raised into: {}", told(other))),
        };
        let left_at = witness.left_at().ok_or("its guard was not dropped")?;
        if !raised.is::<Interrupted>() || witness.dropped() != 1 {
            return Err(format!(
                "raised {}, {} guards dropped",
                raised.type_name(),
                witness.dropped()
            ));
        }
        if let Some(left) = traces.iter().find(|trace| !(trace.is_gone)()) {
            return Err(format!("left behind: not {}", left.what));
        }

        let next = worker.give(case.next);
        (case.let_through)();
        let next = receive(&next, &worker).map_err(|error| format!("next job: {error}"))?;
        if next.ran_in != Some(worker.id()) {
            return Err("its next job ran in another thread".into());
        }
        let answer = next
            .value
            .map_err(|out| format!("next job: {}", told(Err(out))))?;
        if answer != case.answer {
            return Err(format!("its next job returned {answer}, not {}", case.answer));
        }
        worker.finish()?;
        Ok(Freed {
            rung: raised.rung(),
            after: left_at - raised_at,
            cleanup: std::iter::once("guard dropped".to_owned())
                .chain(traces.into_iter().map(|trace| trace.what))
                .chain(raised.left().map(|left| format!("{} frames left", left.frames)))
                .collect::<Vec<_>>()
                .join(", "),
            next: answer,
        })
    }
}

fn receive<T>(done: &Receiver<Done<T>>, worker: &Worker) -> Result<Done<T>, String> {
    done.recv_timeout(LIMIT).map_err(|error| match error {
        RecvTimeoutError::Disconnected => "its thread panicked".into(),
        RecvTimeoutError::Timeout => {
            let now = throwto::threads()
                .into_iter()
                .find(|thread| thread.id == worker.id());
            let place = now.map_or_else(|| "nowhere".to_owned(), |info| info.where_blocked);
            format!("not free after {LIMIT:?}; it is in {place}")
        }
    })
}

fn told(end: Result<(), Out>) -> String {
    match end {
        Ok(()) => "it returned by itself".into(),
        Err(Out::Raised(raised)) => format!("raised into by {raised}"),
        Err(Out::Failed(error)) => error,
    }
}
