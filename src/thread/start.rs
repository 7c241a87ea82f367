//! Starting an attached thread, free or bound to a scope.
//!
//! Owns: the order of the steps in a new thread, and the one `unsafe` of this folder: a closure that borrows. Leaves to
//! `current` registering and adopting, to `join` the result, to `scope` waiting for its threads.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::join::{Completes, JoinHandle, Packet};
use super::scope::{Bound, Scope};
use super::{Builder, ThreadGroup};
use crate::attach;
use crate::platform::nudge;
use crate::protocol::registry::ThreadId;
use crate::runtime;

impl Builder {
    /// Starts the thread.
    ///
    /// # Errors
    /// What `std::thread::Builder::spawn` returns, or an [`AttachError`](crate::AttachError) inside an `io::Error` of
    /// kind `Other`.
    ///
    /// ```
    /// let worker = throwto::thread::Builder::new().name("worker".into()).spawn(throwto::ThreadId::current)?;
    /// let id = worker.id();
    /// assert_eq!(worker.join().unwrap(), Some(id));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn spawn<T: Send + 'static>(
        self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        // SAFETY: 1 — nothing is borrowed.
        unsafe { self.start(f, None) }
    }

    /// As [`Scope::spawn`], with a name or a stack size.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    ///
    /// ```
    /// use throwto::thread;
    /// let words = vec!["borrowed".to_owned()];
    /// let name = thread::scope(|s| {
    ///     let child = thread::Builder::new().name("counter".into());
    ///     let child = child.spawn_scoped(s, || (words.len(), std::thread::current().name().map(String::from)));
    ///     child.unwrap().join().unwrap()
    /// });
    /// assert_eq!(name, (1, Some("counter".into())));
    /// ```
    pub fn spawn_scoped<'scope, T: Send + 'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        f: impl FnOnce() -> T + Send + 'scope,
    ) -> io::Result<super::ScopedJoinHandle<'scope, T>> {
        // SAFETY: 1 — the scope does not return before `Bound` is gone, and what is borrowed outlives the scope.
        let handle = unsafe { self.start(f, Some(scope)) }?;
        Ok(super::ScopedJoinHandle::new(handle))
    }

    /// # Safety
    /// 1. What `f` and `T` borrow must live until the thread has ended, or, with a scope, until the thread's [`Bound`] has
    ///    been dropped.
    unsafe fn start<T: Send>(
        self,
        f: impl FnOnce() -> T + Send,
        scope: Option<&Scope<'_, '_>>,
    ) -> io::Result<JoinHandle<T>> {
        let mut builder = std::thread::Builder::new();
        if let Some(size) = self.stack_size {
            builder = builder.stack_size(size);
        }
        if let Some(name) = &self.name {
            builder = builder.name(name.clone());
        }
        let name = self.name.map(Arc::from);
        let group = self.group.as_ref().map(ThreadGroup::key);
        let id = attach::register(name, ThreadId::current(), group).map_err(io::Error::other)?;
        let unstarted = Unstarted(id);
        let bound = scope.map(|scope| Bound::to(scope, id));
        let packet = Arc::new(Packet::new(bound.as_ref()));
        let theirs = Arc::clone(&packet);
        // Boxed: the references in it are no arguments of `body`, which may outlive what they point to by an instruction.
        let f = Box::new(f);
        let body = move || {
            // Dropped last, whatever unwinds: when it is gone nothing here borrows any more, neither `f` nor the result.
            let _bound = bound;
            let f = f;
            // Dropped after the membership: joiners are let go even if the destructor of an undelivered exception panics.
            let packet = Completes(theirs);
            nudge::unblock(runtime::signal());
            let attachment = attach::adopt(id);
            packet.0.run(*f);
            drop(attachment);
        };
        // SAFETY: what `body` borrows is what `f` and `T` borrow, and it is done with it before it drops `Bound` (1).
        let inner = unsafe { builder.spawn_unchecked(body) }?;
        std::mem::forget(unstarted);
        Ok(JoinHandle::new(id, packet, inner))
    }
}

/// Gives the id of a thread up that is not started: an error, or std's panic at a name with a NUL in it.
struct Unstarted(ThreadId);

impl Drop for Unstarted {
    fn drop(&mut self) {
        attach::never_started(self.0);
    }
}
