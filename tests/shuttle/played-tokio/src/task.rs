//! tokio's task-locals, as locals of the play's threads, and ids of tasks.
//!
//! **Signal context:** no.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

pub use tokio::task::coop;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(pub(crate) u64);

/// Of a task that runs on the blocking pool; who wants to wait for it has a channel of its own.
pub struct JoinHandle(pub(crate) Id);

impl JoinHandle {
    pub fn id(&self) -> Id {
        self.0
    }
}

type Inner<T> = shuttle::thread::LocalKey<RefCell<Option<T>>>;

pub struct LocalKey<T: 'static>(&'static Inner<T>);

/// There is no value.
#[derive(Debug)]
pub struct AccessError;

impl<T: 'static> LocalKey<T> {
    pub const fn new(inner: &'static Inner<T>) -> Self {
        Self(inner)
    }

    pub fn try_with<R>(&'static self, f: impl FnOnce(&T) -> R) -> Result<R, AccessError> {
        self.0
            .with(|value| value.borrow().as_ref().map(f).ok_or(AccessError))
    }

    pub fn sync_scope<R>(&'static self, value: T, f: impl FnOnce() -> R) -> R {
        struct Restore<T: 'static>(&'static Inner<T>, Option<T>);
        impl<T: 'static> Drop for Restore<T> {
            fn drop(&mut self) {
                self.0.with(|value| value.replace(self.1.take()));
            }
        }
        let _restore = Restore(self.0, self.0.with(|place| place.replace(Some(value))));
        f()
    }

    pub fn scope<F: Future>(&'static self, value: T, f: F) -> Scoped<T, F>
    where
        T: Clone,
    {
        Scoped {
            key: self,
            value,
            f: Box::pin(f),
        }
    }
}

/// A future that is polled with the value in its place.
pub struct Scoped<T: 'static, F> {
    key: &'static LocalKey<T>,
    value: T,
    f: Pin<Box<F>>,
}

impl<T: Clone + Unpin + 'static, F: Future> Future for Scoped<T, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (key, value) = (self.key, self.value.clone());
        key.sync_scope(value, || self.f.as_mut().poll(cx))
    }
}
