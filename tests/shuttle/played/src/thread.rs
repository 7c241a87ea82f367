//! shuttle's threads, from a system that may refuse one.
//!
//! **Signal context:** no.

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
