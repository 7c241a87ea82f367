//! shuttle's threads, from a system that may refuse one, and their locals.
//!
//! **Signal context:** no.

use std::cell::{Cell, RefCell};
use std::io;
use std::num::NonZeroUsize;

pub use shuttle::thread::*;

use crate::stage::stage;

/// std's builder to its users.
pub struct Builder(shuttle::thread::Builder);

impl Builder {
    #[expect(clippy::new_without_default, reason = "as std's")]
    pub fn new() -> Self {
        Self(shuttle::thread::Builder::new())
    }

    pub fn name(self, name: String) -> Self {
        Self(self.0.name(name))
    }

    /// Stacks are as large as shuttle was told.
    pub fn stack_size(self, _size: usize) -> Self {
        self
    }

    pub fn spawn<T: Send + 'static>(
        self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        if stage().refuses_a_thread() {
            drop(f);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let alive = Alive::begin();
        self.0.spawn(move || {
            let _alive = alive;
            f()
        })
    }
}

/// Counts a thread until it has ended.
struct Alive;

impl Alive {
    fn begin() -> Self {
        let stage = stage();
        stage.alive.set(stage.alive.get() + 1);
        Self
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let stage = stage();
        stage.alive.set(stage.alive.get() - 1);
        stage.ring();
    }
}

pub fn available_parallelism() -> io::Result<NonZeroUsize> {
    Ok(NonZeroUsize::MIN)
}

/// std's key to its users. Made by [`scheduled_thread_local!`](crate::scheduled_thread_local).
pub struct LocalKey<T: 'static>(&'static shuttle::thread::LocalKey<T>);

impl<T: 'static> LocalKey<T> {
    pub const fn new(inner: &'static shuttle::thread::LocalKey<T>) -> Self {
        Self(inner)
    }

    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        self.0.with(f)
    }
}

impl<T: 'static> LocalKey<Cell<T>> {
    pub fn set(&'static self, new: T) {
        self.with(|value| value.set(new));
    }

    pub fn replace(&'static self, new: T) -> T {
        self.with(|value| value.replace(new))
    }

    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }
}

impl<T: 'static> LocalKey<RefCell<T>> {
    pub fn with_borrow<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        self.with(|value| f(&value.borrow()))
    }

    pub fn with_borrow_mut<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        self.with(|value| f(&mut value.borrow_mut()))
    }

    pub fn set(&'static self, new: T) {
        self.with(|value| drop(value.replace(new)));
    }

    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(RefCell::take)
    }
}
