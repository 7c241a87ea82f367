//! tokio's channel for one value and tokio-util's token, with a switch of threads before each step.
//!
//! Neither holds a lock of its own while it calls a waker, so that threads may be switched there.
//!
//! **Signal context:** no.

use std::stage::stage;

pub use tokio_util::sync::{DropGuard, WaitForCancellationFutureOwned};

pub mod oneshot {
    //! A channel for one value.

    use std::pin::Pin;
    use std::stage::stage;
    use std::task::{Context, Poll};

    pub use tokio::sync::oneshot::error;

    pub struct Sender<T>(tokio::sync::oneshot::Sender<T>);
    pub struct Receiver<T>(tokio::sync::oneshot::Receiver<T>);

    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (Sender(sender), Receiver(receiver))
    }

    impl<T> Sender<T> {
        pub fn send(self, value: T) -> Result<(), T> {
            stage().step();
            self.0.send(value)
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, error::RecvError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            stage().step();
            // The play's threads are no tasks of tokio's, and have no budget.
            Pin::new(&mut self.0).poll(cx)
        }
    }
}

/// tokio-util's token.
#[derive(Clone, Debug, Default)]
pub struct CancellationToken(tokio_util::sync::CancellationToken);

impl CancellationToken {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn child_token(&self) -> Self {
        stage().step();
        Self(self.0.child_token())
    }

    pub fn cancel(&self) {
        stage().step();
        self.0.cancel();
    }

    pub fn is_cancelled(&self) -> bool {
        stage().step();
        self.0.is_cancelled()
    }

    pub fn cancelled_owned(self) -> WaitForCancellationFutureOwned {
        self.0.cancelled_owned()
    }

    pub fn drop_guard(self) -> DropGuard {
        self.0.drop_guard()
    }
}
