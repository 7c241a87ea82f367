//! What is known of each task of a play, and whether it may have ended as its handle says.
//!
//! **Signal context:** no.

use std::pin::pin;
use std::stage::{Unscheduled, held, stage};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ::tokio_util::sync::CancellationToken;
use shuttle::rand::{Rng, thread_rng};

use super::WORDS;
use crate::tasks::{JoinError, JoinHandle};

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Comes by some safepoints.
    Short,
    /// Comes by safepoints until one raises.
    Endless,
    /// Hears nothing until the gate opens.
    Deaf,
    /// Swallows what is raised, once.
    Swallows,
    Panics,
    /// Spawns another one, in the same group.
    Spawns,
    /// Cancels its own token, and is endless then.
    CancelsItself,
    /// Asks for its token, and comes by a safepoint.
    HasToken,
}

/// What is known of a task.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) kind: Kind,
    pub(super) limit: Option<Duration>,
    pub(super) grouped: bool,
    /// The token of the play is cancelled for it, too.
    pub(super) has_outer: bool,
    pub(super) abort_on_drop: bool,
    pub(super) spawned: u64,
    pub(super) seen: Unscheduled<Seen>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) began: bool,
    pub(super) returned: bool,
    pub(super) closures_dropped: u32,
    pub(super) values_dropped: u32,
    pub(super) aborted: bool,
    pub(super) raised: bool,
    /// It had ended before it began.
    pub(super) refused: bool,
    pub(super) end: Option<&'static str>,
}

/// What a task's closure holds.
pub(super) struct Closure(pub(super) Arc<Facts>);
/// What a task returns.
pub(super) struct Value(pub(super) Arc<Facts>);

impl Drop for Closure {
    fn drop(&mut self) {
        assert_no_lock("a closure is dropped");
        self.0.seen.with(|seen| seen.closures_dropped += 1);
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        assert_no_lock("a result is dropped");
        self.0.seen.with(|seen| seen.values_dropped += 1);
    }
}

pub(super) fn assert_no_lock(what: &str) {
    let locks = held();
    assert!(locks.is_empty(), "{what} under {locks:?}");
}

/// Rings when its task is to be polled.
#[derive(Default)]
struct Bell(Unscheduled<bool>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        assert_no_lock("a waker runs");
        self.0.with(|rung| *rung = true);
        stage().ring();
    }
}

/// Waits for the end, now and then with another waker, and says whether it may be so. Returns the token of the task that has ended.
pub(super) fn wait(facts: &Facts, handle: JoinHandle<Value>) -> CancellationToken {
    let mut handle = pin!(handle);
    let mut bell = Arc::new(Bell::default());
    let outcome = loop {
        let waker = Waker::from(Arc::clone(&bell));
        if let Poll::Ready(outcome) = handle.as_mut().poll(&mut Context::from_waker(&waker)) {
            break outcome;
        }
        if thread_rng().gen_bool(0.3) {
            bell = Arc::default();
            continue;
        }
        stage().sleep_until(|| bell.0.with(std::mem::take));
    };
    assert!(handle.is_finished(), "its result was there before its end");
    let end = judge(facts, outcome);
    facts.seen.with(|seen| seen.end = Some(end));
    handle.token()
}

/// Whether a task may have ended so.
fn judge(facts: &Facts, outcome: Result<Value, JoinError>) -> &'static str {
    let seen = facts.seen.with(|seen| seen.clone());
    assert_eq!(
        seen.closures_dropped, 1,
        "answered before its closure was dropped"
    );
    match outcome {
        Ok(value) => {
            assert!(
                seen.returned && std::ptr::eq(&*value.0, facts),
                "somebody else's result"
            );
            "returned"
        }
        Err(JoinError::Aborted) => {
            assert!(!seen.returned, "results win");
            "aborted"
        }
        Err(JoinError::ShutDown) => {
            assert!(!seen.returned, "results win");
            "shut down"
        }
        Err(JoinError::TimedOut) => {
            let limit = facts.limit.expect("it had a limit").as_nanos() as u64;
            assert!(stage().now() >= facts.spawned + limit, "before its time");
            "timed out"
        }
        Err(JoinError::Raised(_)) => {
            assert!(seen.raised, "nobody raised into it");
            "raised"
        }
        Err(JoinError::Panicked(panic)) => {
            let words = panic.into_payload().downcast_ref::<&str>().copied();
            assert_eq!((facts.kind, words), (Kind::Panics, Some(WORDS)));
            "panicked"
        }
        Err(JoinError::NotAttached(_)) => {
            assert!(!seen.began);
            "not attached"
        }
    }
}
