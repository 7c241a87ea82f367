//! tokio (feature `tokio`): blocking tasks that can be aborted while they run, by a handle, a drop, a token, or the end of
//! their runtime.
//!
//! Owns: [`spawn_blocking`] and [`run_blocking`]. Leaves to `tokio/task` what a task goes through, to `crate::scope` who is
//! raised into. May be called on any thread of a runtime; nothing here blocks but [`shutdown`].
//!
//! **Signal context:** no.
//!
//! tokio's own `spawn_blocking` cannot be aborted once it runs, and a runtime waits for it for ever. Here the closure runs in a
//! [scope](crate::scope) of its own, on a pool thread that is attached for that time. [`JoinHandle::abort`] cancels that
//! scope: every safepoint and every blocking call of this crate in it raises [`Cancelled`](crate::Cancelled), and a
//! [foreign call](crate::foreign::Call) is broken by the rungs that it allows. The next task on that pool thread is never hit.
//!
//! ```
//! use throwto::foreign::Call;
//! use throwto::tokio::{JoinError, spawn_blocking};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! // Unmodified std, and nobody ever connects.
//! let task = spawn_blocking(move || Call::new("accept").fail_syscalls().try_run(|| listener.accept()).map(drop));
//! task.abort();
//! assert!(matches!(task.await, Err(JoinError::Aborted)));
//! # Ok(())
//! # }
//! ```
//!
//! # What a closure must do
//!
//! What std would block in for ever goes into [`foreign::Call`](crate::foreign::Call), or into the twin that this crate has of it; long loops
//! come by a [`safepoint`](crate::safepoint()). A closure that does neither runs to its end, as under tokio, and `abort` waits in vain.
//!
//! # When the runtime ends
//!
//! The first task of a runtime starts an idle async task in it. When the runtime is dropped, that one is dropped, and aborts all
//! blocking tasks: `drop(runtime)` comes back as soon as they have come out. [`shutdown`] has a time limit, and
//! tells who is left and where.

mod builder;
mod error;
mod group;
mod handle;
mod live;
mod runtimes;
mod task;
mod token;

pub use self::builder::Builder;
pub use self::error::{JoinError, Panic};
pub use self::group::TaskGroup;
pub use self::handle::{AbortHandle, JoinHandle};
pub use self::live::{Survivor, shutdown};
pub use self::token::{current_token, with_token};

#[cfg(feature = "tower")]
pub(crate) use self::group::Request;

/// Runs `f` on a thread of the current runtime's blocking pool: tokio's `spawn_blocking`, with a handle whose
/// [`abort`](JoinHandle::abort) ends the closure wherever it is stuck.
///
/// Dropping the handle lets the task go on, as tokio's does; see [`JoinHandle::abort_on_drop`], and [`run_blocking`].
/// Inside `f` the thread is attached under an id of its own, which ends with `f`: what is raised into that id later reaches nobody. Do not
/// keep an [`Attachment`](crate::Attachment) beyond the end of `f`.
///
/// For a name, a time limit or a token: [`Builder`].
///
/// # Panics
/// Outside of a runtime, with tokio's message. If the system refuses the pool's first thread, as tokio does.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let sum = throwto::tokio::spawn_blocking(|| (1..=10).sum::<u32>());
/// assert_eq!(sum.await.unwrap(), 55);
/// # }
/// ```
///
/// ```should_panic
/// throwto::tokio::spawn_blocking(|| ()); // there is no reactor running ..
/// ```
#[track_caller]
pub fn spawn_blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().spawn_blocking(f)
}

/// As [`spawn_blocking`], aborted when the returned future is dropped: the closure lives no longer than whoever waits for it.
///
/// That is what `select!`, `tokio::time::timeout` and a client that goes away do to it. The drop does not wait for the
/// closure to come out.
///
/// ```
/// use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let nap = throwto::tokio::run_blocking(|| throwto::thread::sleep(Duration::from_secs(3600)));
/// let late = tokio::time::timeout(Duration::from_millis(10), nap).await;
/// assert!(late.is_err());
/// # }
/// ```
///
/// # Panics
/// As [`spawn_blocking`].
#[track_caller]
pub fn run_blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().abort_on_drop().spawn_blocking(f)
}
