//! [`Thread`]: a handle to a thread, to tell its name and to unpark it.
//!
//! Owns: unparking as std's handle does it, whichever `park` the thread is in. Nothing here blocks.
//!
//! **Signal context:** no.

use crate::protocol::registry::ThreadId;

/// A handle to a thread, as `std::thread::Thread` is: [`current`] and [`JoinHandle::thread`](super::JoinHandle::thread) make it.
///
/// It unparks the thread from [`park`](super::park) and from std's: each has a token of its own.
#[derive(Clone, Debug)]
pub struct Thread {
    id: Option<ThreadId>,
    std: std::thread::Thread,
}

impl Thread {
    pub(super) fn new(id: Option<ThreadId>, std: std::thread::Thread) -> Self {
        Self { id, std }
    }

    /// The thread's id, if it was attached when this handle was made.
    pub fn id(&self) -> Option<ThreadId> {
        self.id
    }

    /// The thread's name.
    pub fn name(&self) -> Option<&str> {
        self.std.name()
    }

    /// Gives the thread its token: it ends the thread's park, now or the next one.
    ///
    /// ```
    /// let worker = throwto::thread::spawn(throwto::thread::park);
    /// worker.thread().unpark();
    /// worker.join().unwrap().unwrap();
    /// ```
    pub fn unpark(&self) {
        if let Some(id) = self.id {
            super::unpark(id);
        }
        self.std.unpark();
    }

    /// The handle that std has for it.
    pub fn as_std(&self) -> &std::thread::Thread {
        &self.std
    }
}

/// A handle to the calling thread, attached or not.
///
/// ```
/// use throwto::{ThreadId, thread};
/// let worker = thread::Builder::new().name("worker".into());
/// let worker = worker.spawn(|| (thread::current().name().map(String::from), thread::current().id()))?;
/// let id = worker.id();
/// assert_eq!(worker.join().unwrap(), (Some("worker".into()), Some(id)));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn current() -> Thread {
    Thread::new(ThreadId::current(), std::thread::current())
}
