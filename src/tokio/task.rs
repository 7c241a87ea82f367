//! What a blocking task goes through: queued, running, ended.
//!
//! Owns: [`Task`], which its handles, its groups, its token and its pool thread share, and [`Job`], the closure with the
//! place for its result. Leaves to tokio the pool, to `crate::scope` the raise and its end.
//! No lock is held while closures, destructors, wakers or other locks' owners run.
//!
//! **Signal context:** no.
//!
//! ```text
//!   queued ── the pool takes the job ──▶ running ── the closure is done ──▶ ended
//!      │                                    │ abort: the scope is cancelled, until the closure comes out
//!      └── abort, or the runtime ends: the job is taken and dropped ────────▶ ended
//! ```
//!
//! | | queued | running | ended |
//! | --- | --- | --- | --- |
//! | `end`: a handle, its drop if told to, a token, a group | drops the job: ended | cancels scope and token, once more each time | nothing |
//! | `refuse`: the pool has dropped it, a group is over | drops the job: ended | nothing | nothing |
//! | `start`: a thread of the pool | takes the job: running | - | nothing |
//! | `raise` | refused: its scope is not open | raises, cancels the token | refused |
//! | the closure is done | - | ended | - |
//! | `token`, the first time | a new one | a new one, cancelled if it was ended or raised into | a cancelled one |
//!
//! - I1. The job is taken once, under the lock: who is aborted before the pool has taken it never runs, and is answered at
//!   once, also when every thread of the pool is stuck.
//! - I2. What ends a running task is addressed to its scope: it cannot hit the next task on that thread (P6).
//! - I3. A task leaves its groups and cancels its token, and its closure is dropped, on every way to *ended* before its result can
//!   be seen.
//! - I4. No abort is lost: under one lock it finds the job and takes it, or finds it taken and cancels the scope, which keeps that
//!   until it is entered.
//! - I5. A raise aborts nobody: it cancels the token, and the token aborts only who was not raised into.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ::tokio::sync::oneshot;
use ::tokio_util::sync::CancellationToken;

use super::error::{JoinError, Panic};
use super::group::{Group, Request};
use super::token::Link;
use crate::attach::{Attachment, attach_named};
use crate::error::{AttachError, RaiseError};
use crate::exception::{IntoException, TimedOut};
use crate::platform::nudge;
use crate::protocol::registry::ThreadId;
use crate::receipt::Receipt;
use crate::runtime;
use crate::safepoint::as_raised;
use crate::scope::{Scope, ScopeHandle};
use crate::time::timeout;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

/// Why a task is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Aborted,
    ShutDown,
}

impl Why {
    const fn error(self) -> JoinError {
        match self {
            Self::Aborted => JoinError::Aborted,
            Self::ShutDown => JoinError::ShutDown,
        }
    }
}

enum Phase {
    Queued(Box<dyn Work>),
    /// The thread, once it is attached.
    Running(Option<ThreadId>),
    Ended,
}

struct State {
    phase: Phase,
    /// The first of those who wanted it ended.
    why: Option<Why>,
    /// A handle has raised into it, and cancels its token: that aborts nobody.
    raised: bool,
    token: Option<Token>,
}

impl State {
    /// Of a task that has not started.
    fn take_job(&mut self, next: Phase) -> Option<Box<dyn Work>> {
        if !matches!(self.phase, Phase::Queued(_)) {
            return None;
        }
        match std::mem::replace(&mut self.phase, next) {
            Phase::Queued(work) => Some(work),
            _ => None,
        }
    }
}

/// The token of a task, and what ends the task by it.
struct Token {
    token: CancellationToken,
    own: Option<Link>,
    /// The token that it is a child of.
    outer: Option<Link>,
}

impl Token {
    fn of(token: &CancellationToken) -> Self {
        Self {
            token: token.clone(),
            own: None,
            outer: None,
        }
    }
}

/// What handles, groups and the pool's thread share.
pub(super) struct Task {
    pub(super) name: Option<Arc<str>>,
    pub(super) scope: ScopeHandle,
    groups: Vec<Arc<Group>>,
    state: Mutex<State>,
}

impl Task {
    /// A queued task that belongs to `groups`. In a group that is over it is ended at once.
    pub(super) fn new(
        name: Option<Arc<str>>,
        scope: ScopeHandle,
        groups: Vec<Arc<Group>>,
        work: Box<dyn Work>,
        at: &'static Location<'static>,
    ) -> Arc<Self> {
        let task = Arc::new(Self {
            name,
            scope,
            groups,
            state: Mutex::new(State {
                phase: Phase::Queued(work),
                why: None,
                raised: false,
                token: None,
            }),
        });
        let mut over = None;
        for group in &task.groups {
            over = over.or(group.enter(&task));
        }
        if let Some(why) = over {
            task.end(why, at);
        }
        // Ended by one group before it was in the next: it has left the first only.
        if task.is_ended() {
            task.leave_groups();
        }
        task
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the task: now, if it has not started (I1), else as soon as it comes out.
    pub(super) fn end(&self, why: Why, at: &'static Location<'static>) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Ended) {
            return;
        }
        let why = *state.why.get_or_insert(why);
        // Under the lock that has shown it queued: let go, it might be taken, and nobody would have cancelled the scope.
        if let Some(work) = state.take_job(Phase::Ended) {
            drop(state);
            self.drop_job(work, why);
        } else {
            let token = state.token.as_ref().map(|known| known.token.clone());
            drop(state);
            self.scope.cancel_at(at);
            if let Some(token) = token {
                token.cancel();
            }
        }
    }

    /// Raises in the closure, and cancels the token.
    #[track_caller]
    pub(super) fn raise(&self, exc: impl IntoException) -> Result<Receipt, RaiseError> {
        let receipt = self.scope.raise(exc)?;
        let mut state = self.state();
        // Whoever is raised into is not aborted, and may go on: without the link, and if that is only being made, without effect.
        state.raised = true;
        let token = state
            .token
            .as_mut()
            .map(|known| (known.token.clone(), known.own.take()));
        drop(state);
        if let Some((token, link)) = token {
            drop(link);
            token.cancel();
        }
        Ok(receipt)
    }

    /// Takes the job of a task that has not started, and drops it.
    pub(super) fn refuse(&self, why: Why) {
        let work = self.state().take_job(Phase::Ended);
        if let Some(work) = work {
            self.drop_job(work, why);
        }
    }

    fn drop_job(&self, work: Box<dyn Work>, why: Why) {
        self.leave();
        work.refuse(why.error());
    }

    /// Keeps I3.
    fn leave(&self) {
        let mut state = self.state();
        state.phase = Phase::Ended;
        let token = state.token.take();
        drop(state);
        self.leave_groups();
        if let Some(Token { token, own, outer }) = token {
            // The links first: there is nothing left to be ended by the token.
            drop((own, outer));
            token.cancel();
        }
    }

    fn leave_groups(&self) {
        for group in &self.groups {
            group.leave(self);
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.state().phase, Phase::Ended)
    }

    /// The thread that it runs on.
    pub(super) fn thread(&self) -> Option<ThreadId> {
        match self.state().phase {
            Phase::Running(thread) => thread,
            Phase::Queued(_) | Phase::Ended => None,
        }
    }

    /// The token that goes with the task, a child of `outer` if that is given. The first call decides.
    pub(super) fn token(
        self: &Arc<Self>,
        outer: Option<&CancellationToken>,
        at: &'static Location<'static>,
    ) -> CancellationToken {
        let mut state = self.state();
        if let Some(known) = &state.token {
            return known.token.clone();
        }
        let token = outer.map_or_else(CancellationToken::new, CancellationToken::child_token);
        let ended = matches!(state.phase, Phase::Ended);
        if !ended {
            state.token = Some(Token::of(&token));
        }
        let called = ended || state.why.is_some() || state.raised;
        drop(state);
        if called {
            token.cancel();
        }
        if ended {
            return token;
        }
        let task: Weak<Self> = Arc::downgrade(self);
        let end = move |by_own: bool| {
            let task = task.upgrade();
            if let Some(task) = task.filter(|task| !(by_own && task.state().raised)) {
                task.end(Why::Aborted, at);
            }
        };
        let by_outer = end.clone();
        let mut outer = outer.and_then(|outer| Link::new(outer, move || by_outer(false)));
        let mut own = Link::new(&token, move || end(true));
        // A task that has ended or was raised into meanwhile has no place for them: they are dropped outside the lock.
        if let Some(place) = &mut self.state().token {
            std::mem::swap(&mut place.outer, &mut outer);
            if !place.token.is_cancelled() {
                std::mem::swap(&mut place.own, &mut own);
            }
        }
        token
    }

    /// The task that the calling thread runs.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    fn attach(&self) -> Result<Attachment, AttachError> {
        match attach_named(self.name.as_ref()) {
            // The mask that it has from whoever made the runtime; pool threads run nothing that could mind.
            Err(AttachError::SignalBlocked { .. }) => {
                nudge::unblock(runtime::signal());
                attach_named(self.name.as_ref())
            }
            other => other,
        }
    }

    /// On the pool's thread.
    fn start(self: &Arc<Self>) {
        let work = self.state().take_job(Phase::Running(None));
        if let Some(work) = work {
            work.run(self);
        }
    }

    fn note_thread(&self, id: ThreadId) {
        if let Phase::Running(thread) = &mut self.state().phase {
            *thread = Some(id);
        }
    }
}

/// What is given to the pool. Dropped without having run, it tells that the runtime is gone.
pub(super) struct InPool(pub(super) Arc<Task>);

impl InPool {
    pub(super) fn run(self) {
        self.0.start();
    }
}

impl Drop for InPool {
    fn drop(&mut self) {
        self.0.refuse(Why::ShutDown);
    }
}

/// A job of any type.
pub(super) trait Work: Send {
    fn run(self: Box<Self>, task: &Arc<Task>);
    fn refuse(self: Box<Self>, error: JoinError);
}

/// A closure, and where its result goes.
pub(super) struct Job<T, F> {
    pub(super) f: F,
    pub(super) scope: Scope,
    pub(super) limit: Option<Duration>,
    /// What tasks that `f` spawns belong to as well.
    pub(super) request: Option<Request>,
    pub(super) answer: oneshot::Sender<Result<T, JoinError>>,
}

impl<T: Send, F: FnOnce() -> T + Send> Work for Job<T, F> {
    fn run(self: Box<Self>, task: &Arc<Task>) {
        let Self {
            f,
            scope,
            limit,
            request,
            answer,
        } = *self;
        let left;
        let outcome = match task.attach() {
            Err(error) => {
                // Before the answer, as after a run: whoever has it finds nothing of the closure left.
                left = catch_unwind(AssertUnwindSafe(|| drop(f)));
                Err(JoinError::NotAttached(error))
            }
            Ok(attachment) => {
                task.note_thread(attachment.id());
                CURRENT.set(Some(Arc::clone(task)));
                let body = || match limit {
                    None => Ok(f()),
                    Some(limit) => timeout(limit, f),
                };
                let body = || Request::enter(request, body);
                let outcome = judge(scope, task, body);
                // Exceptions that nobody has met are dropped here, and their destructors may panic.
                left = catch_unwind(AssertUnwindSafe(|| drop(attachment)));
                drop(CURRENT.take());
                outcome
            }
        };
        task.leave();
        // Nobody may be left who wants it.
        drop(answer.send(outcome));
        if let Err(panic) = left {
            resume_unwind(panic);
        }
    }

    fn refuse(self: Box<Self>, error: JoinError) {
        let Self { f, answer, .. } = *self;
        // Before the answer, as after a run.
        let left = catch_unwind(AssertUnwindSafe(|| drop(f)));
        drop(answer.send(Err(error)));
        if let Err(panic) = left {
            resume_unwind(panic);
        }
    }
}

type Done<T> = Result<Result<T, TimedOut>, Box<dyn Any + Send>>;

/// Runs the body in the scope. What the scope says counts if somebody wanted the task ended; else what the body did, so that an
/// exception that was only raised in it comes out as the body let it out.
fn judge<T>(scope: Scope, task: &Task, body: impl FnOnce() -> Result<T, TimedOut>) -> Result<T, JoinError> {
    let mut kept: Option<Done<T>> = None;
    let judged = catch_unwind(AssertUnwindSafe(|| {
        scope.run(|| {
            let done = catch_unwind(AssertUnwindSafe(body));
            if task.state().why.is_none() {
                kept = Some(done);
                None
            } else {
                Some(done.unwrap_or_else(|payload| resume_unwind(payload)))
            }
        })
    }));
    let done = match (kept, judged) {
        (Some(done), _) => done,
        (None, Ok(Ok(Some(returned)))) => Ok(returned),
        (None, Ok(_cancelled)) => return Err(task.state().why.unwrap_or(Why::Aborted).error()),
        (None, Err(payload)) => Err(payload),
    };
    match done {
        Ok(returned) => returned.map_err(|TimedOut| JoinError::TimedOut),
        Err(payload) => Err(match as_raised(payload) {
            Ok(raised) => JoinError::Raised(raised),
            Err(panic) => JoinError::Panicked(Panic::new(panic)),
        }),
    }
}
