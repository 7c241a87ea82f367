//! A job's state: [`JobCell`], and [`Packet`] with its result.
//!
//! Owns: all transitions of a job (I1 of [`super`]) and its number. Leaves to `job` running it, to `handle` the face, to
//! `crew` what else a thread that is stuck needs. Nothing here blocks but short locks and a look at a thread.
//!
//! **Signal context:** no.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use super::crew::Crew;
use super::error::{JobError, Stuck};
use super::handle::JobState;
use super::job::discard;
use super::number::JobId;
use crate::journal::Journal;
use crate::platform::handler;
use crate::protocol::registry::ThreadId;
use crate::receipt::deadline_after;
use crate::region::{Raises, Waited};
use crate::scope::ScopeHandle;
use crate::status;
use crate::sync::queue::WaitQueue;
use crate::time::Deadline;

/// How often a job that seems to run is looked at before it is reported so.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

enum Phase {
    Queued,
    Running(Running),
    Over(End),
}

struct Running {
    thread: ThreadId,
    began: Instant,
    /// When its limit passes, or when it was cancelled.
    overdue: Option<Instant>,
    /// Open once it is overdue.
    journal: Option<Journal>,
}

enum End {
    /// The packet has the result.
    Returned,
    Cancelled,
    NotRun,
    WrittenOff(Box<Stuck>),
}

/// What a watch has to do about a job.
pub(super) enum Look {
    /// It is to be written off.
    Late,
    /// Look again then.
    At(Instant),
    /// Not before it is cancelled.
    Never,
}

/// The state of a job.
pub(super) struct JobCell {
    id: JobId,
    label: Option<Arc<str>>,
    limit: Option<Duration>,
    /// The process that made it: a forked child has the handle and not the job.
    process: i32,
    raises: ScopeHandle,
    cancels: ScopeHandle,
    phase: Mutex<Phase>,
    done: WaitQueue,
    crew: Weak<Crew>,
}

impl JobCell {
    pub(super) fn new(
        label: Option<Arc<str>>,
        limit: Option<Duration>,
        raises: ScopeHandle,
        cancels: ScopeHandle,
        crew: Weak<Crew>,
    ) -> Self {
        Self {
            id: JobId::next(),
            label,
            limit,
            process: handler::process(),
            raises,
            cancels,
            phase: Mutex::new(Phase::Queued),
            done: WaitQueue::new(),
            crew,
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`phase`](Self::phase); `None` in a forked child if somebody had the lock when the process was forked, who is not there.
    fn phase_if_free(&self) -> Option<MutexGuard<'_, Phase>> {
        if self.process == handler::process() {
            return Some(self.phase());
        }
        match self.phase.try_lock() {
            Ok(phase) => Some(phase),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn id(&self) -> JobId {
        self.id
    }

    pub(super) fn label(&self) -> Option<&Arc<str>> {
        self.label.as_ref()
    }

    pub(super) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    pub(super) fn is_over(&self) -> bool {
        // In a child nobody waits for a job that stayed in the parent.
        self.phase_if_free()
            .is_none_or(|phase| matches!(*phase, Phase::Over(_)))
    }

    /// Reaches the scope that exceptions are raised in.
    pub(super) fn raises(&self) -> &ScopeHandle {
        &self.raises
    }

    pub(super) fn state(&self) -> JobState {
        match self.phase_if_free().as_deref() {
            Some(Phase::Queued) => JobState::Queued,
            Some(Phase::Running(_)) | None => JobState::Running,
            Some(Phase::Over(End::WrittenOff(_))) => JobState::WrittenOff,
            Some(Phase::Over(_)) => JobState::Finished,
        }
    }

    /// The thread that it runs on.
    pub(super) fn thread(&self) -> Option<ThreadId> {
        match &*self.phase_if_free()? {
            Phase::Running(running) => Some(running.thread),
            Phase::Queued | Phase::Over(_) => None,
        }
    }

    /// Since when it runs, and where.
    pub(super) fn running(&self) -> Option<(ThreadId, Duration)> {
        match &*self.phase_if_free()? {
            Phase::Running(running) => Some((running.thread, running.began.elapsed())),
            Phase::Queued | Phase::Over(_) => None,
        }
    }

    /// Its limit begins now. `None` if it was cancelled meanwhile.
    pub(super) fn begin(&self, thread: ThreadId) -> Option<Deadline> {
        let mut phase = self.phase();
        let Phase::Queued = *phase else { return None };
        let began = Instant::now();
        *phase = Phase::Running(Running {
            thread,
            began,
            overdue: self.limit.and_then(|limit| began.checked_add(limit)),
            journal: None,
        });
        drop(phase);
        Some(self.limit.map_or(Deadline::NEVER, Deadline::after))
    }

    #[track_caller]
    pub(super) fn cancel(&self) {
        if self.process != handler::process() {
            return;
        }
        let mut phase = self.phase();
        match &mut *phase {
            Phase::Queued => {
                *phase = Phase::Over(End::Cancelled);
                drop(phase);
                self.done.notify_all();
            }
            Phase::Running(running) => {
                let now = Instant::now();
                running.overdue = Some(running.overdue.map_or(now, |at| at.min(now)));
                drop(phase);
                self.cancels.cancel();
                if let Some(crew) = self.crew.upgrade() {
                    crew.look_again();
                }
            }
            Phase::Over(_) => {}
        }
    }

    /// Whoever was to run it has dropped it.
    pub(super) fn not_run(&self) {
        let Some(mut phase) = self.phase_if_free() else {
            return;
        };
        if let Phase::Queued = *phase {
            *phase = Phase::Over(End::NotRun);
            drop(phase);
            self.done.notify_all();
        }
    }

    /// What is to be done about it at `now`, if it may be late by `grace`.
    pub(super) fn look(&self, now: Instant, grace: Duration) -> Look {
        let mut phase = self.phase();
        let running = match &mut *phase {
            Phase::Running(running) => running,
            // Its thread is about to begin, and has asked to be looked at when its limit will have passed. Not at once even if
            // that is zero: the watch would keep the processor that the thread may need.
            Phase::Queued => {
                return self
                    .limit
                    .and_then(|limit| now.checked_add(limit.max(BETWEEN_LOOKS)))
                    .map_or(Look::Never, Look::At);
            }
            Phase::Over(_) => return Look::Never,
        };
        let Some(overdue) = running.overdue else {
            return Look::Never;
        };
        if now < overdue {
            return Look::At(overdue);
        }
        running
            .journal
            .get_or_insert_with(|| Journal::open(running.thread));
        match overdue.checked_add(grace) {
            Some(late) if late <= now => Look::Late,
            Some(late) => Look::At(late),
            None => Look::Never,
        }
    }

    /// Where it is stuck, if it runs.
    pub(super) fn stuck(&self) -> Option<Stuck> {
        let thread = self.thread()?;
        // Some file reads, and pauses: not under the lock.
        let mut info = status::info(thread);
        for _ in 1..LOOKS {
            if info.as_ref().is_none_or(|info| info.where_blocked != "running") {
                break;
            }
            // A nudge may just have roused it from where it is stuck.
            std::thread::sleep(BETWEEN_LOOKS);
            info = status::info(thread);
        }
        let phase = self.phase();
        let Phase::Running(running) = &*phase else {
            return None;
        };
        Some(Stuck {
            job: self.id,
            label: self.label.as_deref().map(str::to_owned),
            thread,
            info,
            ran_for: running.began.elapsed(),
            overdue: running.overdue.map_or(Duration::ZERO, |at| at.elapsed()),
            climbed: running.journal.as_ref().map_or(Vec::new(), Journal::read),
            is_caller: false,
        })
    }

    /// `true` if it ran, and nobody else has ended it (I1). Who waits for it must then be [told](Self::tell).
    #[must_use]
    pub(super) fn write_off(&self, stuck: &Stuck) -> bool {
        let mut phase = self.phase();
        if let Phase::Running(_) = *phase {
            *phase = Phase::Over(End::WrittenOff(Box::new(stuck.clone())));
            return true;
        }
        false
    }

    pub(super) fn tell(&self) {
        self.done.notify_all();
    }

    /// Waits until it is over.
    #[track_caller]
    pub(super) fn wait(&self, limit: Option<Duration>) -> Waited {
        if self.process != handler::process() || self.is_over() {
            return Waited::Ready;
        }
        if let Err(raised) = crate::safepoint() {
            return Waited::Raised(raised);
        }
        let deadline = limit.and_then(deadline_after);
        self.done.wait_until(deadline, Raises::End, || self.is_over())
    }
}

/// Where a job leaves its result.
pub(super) struct Packet<T> {
    cell: Arc<JobCell>,
    result: Mutex<Option<Result<T, JobError<T>>>>,
}

impl<T> Packet<T> {
    pub(super) fn new(cell: Arc<JobCell>) -> Self {
        Self {
            cell,
            result: Mutex::new(None),
        }
    }

    pub(super) fn cell(&self) -> &Arc<JobCell> {
        &self.cell
    }

    /// On the job's thread: keeps the result, or drops it if the job was written off.
    pub(super) fn end(&self, result: Result<T, JobError<T>>) {
        let mut phase = self.cell.phase();
        if let Phase::Over(_) = *phase {
            drop(phase);
            return discard(result);
        }
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        let ended = std::mem::replace(&mut *phase, Phase::Over(End::Returned));
        drop(phase);
        drop(ended);
        self.cell.done.notify_all();
    }

    pub(super) fn take(&self) -> Result<T, JobError<T>> {
        let Some(phase) = self.cell.phase_if_free() else {
            return Err(JobError::NotRun);
        };
        match &*phase {
            Phase::Over(End::Returned) => {
                let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
                result.unwrap_or(Err(JobError::NotRun))
            }
            Phase::Over(End::Cancelled) => Err(JobError::Cancelled),
            Phase::Over(End::WrittenOff(stuck)) => Err(JobError::Stuck(stuck.clone())),
            // The last two: this is a forked child, and the job stayed in the parent.
            Phase::Over(End::NotRun) | Phase::Queued | Phase::Running(_) => Err(JobError::NotRun),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Weak};

    use super::*;
    use crate::scope::Scope;

    fn running() -> (crate::Attachment, Arc<Packet<Arc<()>>>, Stuck) {
        let attachment = crate::attach().unwrap();
        let ((_, raises), (_, cancels)) = (Scope::new(), Scope::new());
        let cell = JobCell::new(None, None, raises, cancels, Weak::new());
        let packet = Arc::new(Packet::new(Arc::new(cell)));
        assert!(packet.cell().begin(attachment.id()).is_some());
        let stuck = packet.cell().stuck().unwrap();
        (attachment, packet, stuck)
    }

    /// Shows pool I1.
    #[test]
    fn a_job_that_has_ended_is_not_written_off() {
        let (_attachment, packet, stuck) = running();
        packet.end(Ok(Arc::new(())));
        assert!(!packet.cell().write_off(&stuck));
        packet.cell().cancel();
        packet.cell().not_run();
        assert!(packet.take().is_ok());
    }

    #[test]
    fn the_late_result_of_a_job_that_was_written_off_is_dropped_where_it_comes() {
        let (_attachment, packet, stuck) = running();
        assert!(packet.cell().write_off(&stuck) && !packet.cell().write_off(&stuck));
        let result = Arc::new(());
        packet.end(Ok(Arc::clone(&result)));
        assert_eq!(Arc::strong_count(&result), 1);
        assert!(matches!(packet.take(), Err(JobError::Stuck(_))));
    }

    #[test]
    fn a_cancelled_job_does_not_begin() {
        let (attachment, _, _) = running();
        let ((_, raises), (_, cancels)) = (Scope::new(), Scope::new());
        let cell = JobCell::new(None, None, raises, cancels, Weak::new());
        cell.cancel();
        assert!(cell.begin(attachment.id()).is_none() && cell.is_over());
    }
}
