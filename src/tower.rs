//! tower (feature `tower`): a request that is given up takes its blocking work along.
//!
//! Owns: the layers [`StopBlockingLayer`] and [`TimeLimitLayer`], their services and futures. Leaves to `tokio::TaskGroup` which
//! tasks belong to a request and how they are ended.
//!
//! **Signal context:** no.
//!
//! Every request gets a [`TaskGroup`]. The blocking tasks that are spawned by [`throwto::tokio`](crate::tokio) in the response future belong
//! to it, and those that they spawn. When the future is dropped before it is ready (the client has gone away, an outer time-out has
//! passed) or the layer's own time is over, the group is aborted. A request that was answered leaves its tasks
//! alone: what they do may be wanted, a body that is streamed for one.
//!
//! ```
//! use std::time::Duration;
//! use throwto::tower::StopBlockingLayer;
//! use tower::{Layer, Service, ServiceExt, service_fn};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let slow = service_fn(|seconds: u64| throwto::tokio::spawn_blocking(move || {
//!     throwto::thread::sleep(Duration::from_secs(seconds))
//! }));
//! let mut slow = StopBlockingLayer::new().time_limit(Duration::from_millis(10)).layer(slow);
//! let late = slow.ready().await.unwrap().call(3600).await.unwrap_err();
//! assert!(late.is::<throwto::tower::Elapsed>());
//! # }
//! ```

use std::error::Error;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::time::{Sleep, sleep};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::tokio::{Request, TaskGroup};

/// tower's error of any type.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Ends a request's blocking tasks when its response future is dropped before it is ready. Errors and responses pass unchanged, so
/// it goes under any other layer that drops a late request.
#[derive(Clone, Copy, Debug)]
pub struct StopBlockingLayer {
    at: &'static Location<'static>,
}

impl StopBlockingLayer {
    /// The layer. Exceptions name the place of this call.
    #[track_caller]
    pub const fn new() -> Self {
        Self {
            at: Location::caller(),
        }
    }

    /// With a time limit for each request, after which its tasks are aborted and the answer is [`Elapsed`].
    pub const fn time_limit(self, limit: Duration) -> TimeLimitLayer {
        TimeLimitLayer { stop: self, limit }
    }
}

impl Default for StopBlockingLayer {
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for StopBlockingLayer {
    type Service = StopBlocking<S>;

    fn layer(&self, inner: S) -> StopBlocking<S> {
        StopBlocking { inner, at: self.at }
    }
}

/// The service of [`StopBlockingLayer`].
#[derive(Clone, Debug)]
pub struct StopBlocking<S> {
    inner: S,
    at: &'static Location<'static>,
}

impl<S: Service<R>, R> Service<R> for StopBlocking<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let guard = Guard {
            group: TaskGroup::new(),
            at: self.at,
            answered: false,
        };
        let inner = guard.enter(|| self.inner.call(request));
        ResponseFuture { guard, inner }
    }
}

/// Aborts the group when dropped, unless the request was answered.
#[derive(Debug)]
struct Guard {
    group: TaskGroup,
    at: &'static Location<'static>,
    answered: bool,
}

impl Guard {
    fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        Request::enter(Some(self.group.as_request()), f)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.answered {
            self.group.abort_at(self.at);
        }
    }
}

pin_project! {
    /// The response future of [`StopBlocking`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        // The first to be dropped: the tasks are told to end before anybody who waits for them is gone.
        guard: Guard,
        #[pin]
        inner: F,
    }
}

impl<F: Future> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let inner = this.inner;
        let answer = ready!(this.guard.enter(|| inner.poll(cx)));
        this.guard.answered = true;
        Poll::Ready(answer)
    }
}

/// Gives every request so long and no longer: made by [`StopBlockingLayer::time_limit`].
#[derive(Clone, Copy, Debug)]
pub struct TimeLimitLayer {
    stop: StopBlockingLayer,
    limit: Duration,
}

impl<S> Layer<S> for TimeLimitLayer {
    type Service = TimeLimit<S>;

    fn layer(&self, inner: S) -> TimeLimit<S> {
        TimeLimit {
            inner: self.stop.layer(inner),
            limit: self.limit,
        }
    }
}

/// The service of [`TimeLimitLayer`]. Its errors are boxed, as those of tower's own `Timeout`.
#[derive(Clone, Debug)]
pub struct TimeLimit<S> {
    inner: StopBlocking<S>,
    limit: Duration,
}

impl<S: Service<R, Error: Into<BoxError>>, R> Service<R> for TimeLimit<S> {
    type Response = S::Response;
    type Error = BoxError;
    type Future = LimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    /// # Panics
    /// In a runtime without a clock (`enable_time`), with tokio's message.
    fn call(&mut self, request: R) -> Self::Future {
        LimitFuture {
            over: sleep(self.limit),
            response: self.inner.call(request),
            limit: self.limit,
        }
    }
}

pin_project! {
    /// The response future of [`TimeLimit`].
    #[derive(Debug)]
    pub struct LimitFuture<F> {
        #[pin]
        response: ResponseFuture<F>,
        #[pin]
        over: Sleep,
        limit: Duration,
    }
}

impl<F, T, E> Future for LimitFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = this.response;
        if let Poll::Ready(answer) = response.as_mut().poll(cx) {
            return Poll::Ready(answer.map_err(Into::into));
        }
        ready!(this.over.poll(cx));
        // Now, not when whoever called for the service lets go of this future.
        let guard = response.project().guard;
        guard.group.abort_at(guard.at);
        Poll::Ready(Err(Elapsed { limit: *this.limit }.into()))
    }
}

/// A request took longer than its [time limit](StopBlockingLayer::time_limit). Its blocking tasks have been aborted; they may not have ended yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request took longer than {limit:?}, and its blocking tasks were aborted")]
#[non_exhaustive]
pub struct Elapsed {
    /// The limit.
    pub limit: Duration,
}
