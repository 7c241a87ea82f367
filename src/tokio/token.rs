//! `CancellationToken` and scopes, both ways.
//!
//! Owns: [`Link`], by which a token's cancellation acts; [`with_token`], [`current_token`]. Leaves to `task` the token of a task.
//! Acts on the thread that cancels the token, and blocks there for no more than a raise does.
//!
//! **Signal context:** no.
//!
//! No async task waits for the token: a waker that acts instead of waking is registered with it, and taken back when the
//! link is dropped. So there is nothing to end, and no runtime is needed.

use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use ::tokio::task::coop::{Unconstrained, unconstrained};
use ::tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::task::Task;
use crate::exception::Cancelled;
use crate::scope::Scope;

/// Has something done when a token is cancelled, until this is dropped.
pub(super) struct Link {
    /// Polled once, which registers the waker. Never polled again.
    _registered: Pin<Box<Unconstrained<WaitForCancellationFutureOwned>>>,
}

struct Act<F> {
    token: CancellationToken,
    act: F,
}

impl<F: Fn() + Send + Sync + 'static> Wake for Act<F> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A waker may be called for nothing.
        if self.token.is_cancelled() {
            (self.act)();
        }
    }
}

impl Link {
    /// `act` must stand being called twice. It is called here if the token has been cancelled; then there is no link.
    pub(super) fn new(token: &CancellationToken, act: impl Fn() + Send + Sync + 'static) -> Option<Self> {
        let act = Arc::new(Act {
            token: token.clone(),
            act,
        });
        let waker = Waker::from(Arc::clone(&act));
        // Unconstrained: a task at the end of its budget must not keep the waker from being registered.
        let mut waiting = Box::pin(unconstrained(token.clone().cancelled_owned()));
        if waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            (act.act)();
            return None;
        }
        Some(Self { _registered: waiting })
    }
}

/// Runs `f` in a scope that is cancelled with `token`, on the calling thread: a thread of a pool, of std, of this crate, inside or outside of a
/// runtime.
///
/// `f` is given a child of `token`, which it can hand to async code. The two go together: when `token` or the child is
/// cancelled, every safepoint and every blocking call in `f` raises [`Cancelled`]; when `f` has come out, by whatever way, the child is
/// cancelled. `token` itself never is.
///
/// # Errors
/// [`Cancelled`] if that exception came out of `f`, as for [`Scope::run`].
///
/// # Panics
/// If the thread cannot be attached ([`AttachError`](crate::AttachError)).
///
/// ```
/// use tokio_util::sync::CancellationToken;
/// let token = CancellationToken::new();
/// let canceller = token.clone();
/// let worker = std::thread::spawn(move || {
///     throwto::tokio::with_token(&token, |_child| throwto::thread::sleep(std::time::Duration::from_secs(3600)))
/// });
/// canceller.cancel();
/// assert!(worker.join().unwrap().is_err());
/// ```
#[track_caller]
pub fn with_token<T>(
    token: &CancellationToken,
    f: impl FnOnce(&CancellationToken) -> T,
) -> Result<T, Cancelled> {
    let at = Location::caller();
    let (scope, handle) = Scope::new();
    let child = token.child_token();
    let _cancelled_at_the_end = child.clone().drop_guard();
    // Dropped before the guard: the end of the scope is nothing to be cancelled for.
    let _link = Link::new(&child, move || handle.cancel_at(at));
    scope.run(|| f(&child))
}

/// The token of the blocking task that runs on this thread, as [`JoinHandle::token`](super::JoinHandle::token) has it; `None` elsewhere.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use throwto::tokio::{current_token, spawn_blocking};
/// let inside = spawn_blocking(|| current_token().unwrap()).await.unwrap();
/// assert!(inside.is_cancelled() && current_token().is_none());
/// # }
/// ```
#[track_caller]
pub fn current_token() -> Option<CancellationToken> {
    let at = Location::caller();
    Task::current().map(|task| task.token(None, at))
}
