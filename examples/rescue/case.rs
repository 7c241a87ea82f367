//! What makes up a case: how to get stuck, how to see that it is, what must be left behind tidy, and the next job.

use std::fmt::Display;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use throwto::foreign::CallError;
use throwto::{Raised, ThreadInfo, ThreadState};

/// What a thread does until it is raised out of it.
type Stuck = Box<dyn FnOnce(&Witness) -> Result<(), Out> + Send>;

pub struct Case {
    pub stuck_in: StuckIn,
    /// The first job. It never returns by itself.
    pub stuck: Stuck,
    /// What the first job has to clear away, beside its guard.
    pub traces: Vec<Trace>,
    /// The job after it, and what it returns.
    pub next: Box<dyn FnOnce() -> Result<i64, Out> + Send>,
    pub answer: i64,
    /// Run by the supervisor when the next job has been given: takes away what the first was stuck at.
    pub let_through: Box<dyn FnOnce() + Send>,
}

impl Case {
    pub fn new(
        stuck_in: StuckIn,
        stuck: impl FnOnce(&Witness) -> Result<(), Out> + Send + 'static,
        next: impl FnOnce() -> Result<i64, Out> + Send + 'static,
        answer: i64,
    ) -> Self {
        Self {
            stuck_in,
            stuck: Box::new(stuck),
            traces: Vec::new(),
            next: Box::new(next),
            answer,
            let_through: Box::new(|| ()),
        }
    }

    pub fn clears(mut self, trace: Trace) -> Self {
        self.traces.push(trace);
        self
    }

    pub fn let_through(mut self, action: impl FnOnce() + Send + 'static) -> Self {
        self.let_through = Box::new(action);
        self
    }
}

/// How a job came to its end, other than by returning.
pub enum Out {
    Raised(Raised),
    Failed(String),
}

impl From<Raised> for Out {
    fn from(raised: Raised) -> Self {
        Self::Raised(raised)
    }
}

impl<E: Display> From<CallError<E>> for Out {
    fn from(error: CallError<E>) -> Self {
        match error {
            CallError::Raised(raised) => Self::Raised(raised),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<io::Error> for Out {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// How the system shows that the thread is stuck.
pub enum StuckIn {
    /// Blocked in a system call of this name.
    Call(&'static str),
    /// In a wait of `throwto`, and asleep there. A futex alone would not tell: a thread also sleeps so on the locks of its
    /// start, and for its first job.
    Wait,
    /// Running, in the foreign call of this label.
    Running(&'static str),
    /// Running, and this counter goes up.
    Counting(Arc<AtomicU64>),
}

impl StuckIn {
    pub fn is_seen(&self, thread: &ThreadInfo) -> bool {
        match self {
            Self::Call(name) => thread.where_blocked.starts_with(name),
            Self::Wait => {
                thread.state == ThreadState::Waiting && thread.where_blocked.starts_with("futex wait")
            }
            Self::Running(label) => thread.where_blocked == "running" && thread.region == Some(label),
            Self::Counting(rounds) => {
                thread.where_blocked == "running" && rounds.load(Ordering::Relaxed) > 1000
            }
        }
    }
}

/// Sees the stuck job being left: its guard stands next to the call that is stuck, so it is dropped first of all.
#[derive(Clone, Default)]
pub struct Witness {
    left_at: Arc<OnceLock<Instant>>,
    dropped: Arc<AtomicUsize>,
}

impl Witness {
    pub fn guard(&self) -> Guard {
        Guard(self.clone())
    }

    pub fn left_at(&self) -> Option<Instant> {
        self.left_at.get().copied()
    }

    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

pub struct Guard(Witness);

impl Drop for Guard {
    fn drop(&mut self) {
        let _only_the_first = self.0.left_at.set(Instant::now());
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// Something that a job may leave behind if it is not left in an orderly way.
pub enum Trace {
    /// The descriptor that it is blocked at.
    Descriptor,
    /// A child process, running or a zombie.
    Child(u32),
    /// A lock that it holds: the function tells whether it is free.
    Lock(Box<dyn Fn() -> bool + Send>),
}

impl Trace {
    /// Looks at the thread while it is stuck, and makes of it the question that is asked after it has been freed.
    pub fn follow(self, stuck: &ThreadInfo) -> Result<Followed, String> {
        match self {
            Self::Descriptor => {
                let told = &stuck.where_blocked;
                let number = told
                    .split_once("(fd ")
                    .and_then(|(_, rest)| rest.split([',', ')']).next());
                let fd = number.ok_or_else(|| format!("no descriptor named in {told:?}"))?;
                let file =
                    fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|e| format!("fd {fd}: {e}"))?;
                let what = format!("fd {fd} closed");
                Ok(Followed {
                    what,
                    is_gone: Box::new(move || !open_files().any(|open| open == file)),
                })
            }
            Self::Child(pid) => {
                let child = nix::unistd::Pid::from_raw(pid.cast_signed());
                let is_gone = move || nix::sys::signal::kill(child, None) == Err(nix::errno::Errno::ESRCH);
                Ok(Followed {
                    what: format!("pid {pid} reaped"),
                    is_gone: Box::new(is_gone),
                })
            }
            Self::Lock(is_free) => Ok(Followed {
                what: "lock released".into(),
                is_gone: is_free,
            }),
        }
    }
}

/// What every descriptor of this process refers to. A socket or a pipe has a number of its own, so that a descriptor
/// whose number is in use again for something else does not deceive.
fn open_files() -> impl Iterator<Item = std::path::PathBuf> {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
}

pub struct Followed {
    pub what: String,
    pub is_gone: Box<dyn Fn() -> bool + Send>,
}
