//! Locks, condition variables and channels whose waits can be raised into.
//!
//! Owns: the names. Leaves to its files the things, and to `queue` the waiting.
//!
//! **Signal context:** no.
//!
//! The twins of `std::sync`. What differs: a wait is a cancellation point and returns an error when it is raised into, by
//! a futex and without a signal; there is no poison (see [`Mutex`]). On a thread that is not attached they work and
//! never raise.
//!
//! Every wait here follows the same rule: unmasked, a pending exception is raised on entry, whether the call would have
//! blocked or not; under a [`mask`](crate::mask), only when it would really block; when
//! [`uninterruptible`](crate::uninterruptible), never. Raised means that the operation did not happen.

mod channel;
mod condvar;
mod mutex;
pub(crate) mod queue;

pub use channel::error::{Disconnected, RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
pub use channel::{IntoIter, Iter, Receiver, Sender, SyncSender, TryIter, channel, sync_channel};
pub use condvar::{Condvar, WaitTimeoutResult};
pub use mutex::{Mutex, MutexGuard};
