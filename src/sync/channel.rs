//! Channels: [`channel`] and [`sync_channel`], whose waits can be raised into.
//!
//! Owns: the public ends and the iterators. Leaves to `shared` every step, to `error` what can go wrong.
//! [`Receiver::recv`], the iterators and [`SyncSender::send`] block.
//!
//! **Signal context:** no.

pub(super) mod error;
mod shared;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::raised::Raised;
use crate::receipt::deadline_after;
use error::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use shared::{Received, Shared};

/// A channel without a bound: sending never waits, receiving waits for a value. `std::sync::mpsc::channel`.
///
/// ```
/// use throwto::{sync::channel, thread};
/// let (sender, receiver) = channel();
/// let worker = thread::spawn(move || receiver.iter().collect::<Result<Vec<i32>, throwto::Raised>>());
/// for i in 0..3 {
///     sender.send(i)?;
/// }
/// drop(sender);
/// assert_eq!(worker.join()??, [0, 1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared::new(None));
    (
        Sender {
            shared: Arc::clone(&shared),
        },
        Receiver::new(shared),
    )
}

/// A channel that holds at most `bound` values: sending waits for room. With zero, it waits until it can hand its value
/// to a thread that is receiving. `std::sync::mpsc::sync_channel`.
///
/// ```
/// use throwto::{sync::sync_channel, thread};
/// let (sender, receiver) = sync_channel(0);
/// let worker = thread::spawn(move || sender.send("hand to hand").is_ok());
/// assert_eq!(receiver.recv()?, "hand to hand");
/// assert!(worker.join()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
    let shared = Arc::new(Shared::new(Some(bound)));
    (
        SyncSender {
            shared: Arc::clone(&shared),
        },
        Receiver::new(shared),
    )
}

/// The sending end of a [`channel`]. Clones send into the same channel.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Sends `value`. Never waits, and is not a cancellation point, so that clean-up may send.
    ///
    /// # Errors
    /// [`SendError::Disconnected`] with the value if the receiver is gone; nothing else.
    ///
    /// ```
    /// let (sender, receiver) = throwto::sync::channel();
    /// sender.send(1)?;
    /// drop(receiver);
    /// assert_eq!(sender.send(2).unwrap_err().into_inner(), 2);
    /// # Ok::<(), throwto::sync::SendError<i32>>(())
    /// ```
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.shared
            .try_send(value)
            .map_err(|error| SendError::Disconnected(error.into_inner()))
    }
}

/// The sending end of a [`sync_channel`]. Clones send into the same channel.
pub struct SyncSender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> SyncSender<T> {
    /// Sends `value`; waits while the channel is full.
    ///
    /// A cancellation point.
    ///
    /// # Errors
    /// [`SendError::Raised`] if the thread was raised into, [`SendError::Disconnected`] if the receiver is gone; both
    /// give the value back, and nothing was sent.
    ///
    /// ```
    /// use throwto::{Stop, sync::{SendError, sync_channel}};
    /// let attachment = throwto::attach()?;
    /// let (sender, receiver) = sync_channel(1);
    /// sender.send(1)?;
    /// throwto::raise_exc(attachment.id(), Stop)?;
    /// assert!(matches!(sender.send(2), Err(SendError::Raised(_, 2))));
    /// assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        match crate::safepoint() {
            Ok(()) => self.shared.send(value),
            Err(raised) => Err(SendError::Raised(raised, value)),
        }
    }

    /// Sends `value` if there is room now. Not a cancellation point.
    ///
    /// # Errors
    /// [`TrySendError`] gives the value back and says why.
    ///
    /// ```
    /// use throwto::sync::{TrySendError, sync_channel};
    /// let (sender, _receiver) = sync_channel(1);
    /// sender.try_send('a')?;
    /// assert_eq!(sender.try_send('b'), Err(TrySendError::Full('b')));
    /// # Ok::<(), TrySendError<char>>(())
    /// ```
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.shared.try_send(value)
    }
}

/// The receiving end of a channel. There is one, and one thread at a time uses it.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// Not `Sync`, as in std.
    _one_thread: PhantomData<Cell<()>>,
}

impl<T> Receiver<T> {
    fn new(shared: Arc<Shared<T>>) -> Self {
        Self {
            shared,
            _one_thread: PhantomData,
        }
    }

    /// Receives the next value; waits for one while a sender lives.
    ///
    /// A cancellation point.
    ///
    /// # Errors
    /// [`RecvError::Raised`] if the thread was raised into: nothing was received, and what is or comes there stays.
    /// [`RecvError::Disconnected`] if every sender is gone and nothing is left.
    ///
    /// ```
    /// use throwto::sync::{RecvError, channel};
    /// let (sender, receiver) = channel();
    /// sender.send(1)?;
    /// drop(sender);
    /// assert_eq!(receiver.recv()?, 1);
    /// assert!(matches!(receiver.recv(), Err(RecvError::Disconnected)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn recv(&self) -> Result<T, RecvError> {
        crate::safepoint()?;
        match self.shared.receive(None) {
            Received::Value(value) => Ok(value),
            Received::Error(error) => Err(error),
            Received::TimedOut => unreachable!("there is no deadline"),
        }
    }

    /// As [`recv`](Self::recv), for at most `limit`. A limit of zero does not wait, one too long for the clock waits as
    /// long as it takes.
    ///
    /// A cancellation point.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvTimeoutError::Timeout`].
    ///
    /// ```
    /// use throwto::sync::{RecvTimeoutError, channel};
    /// let (_sender, receiver) = channel::<()>();
    /// let result = receiver.recv_timeout(std::time::Duration::from_millis(1));
    /// assert!(matches!(result, Err(RecvTimeoutError::Timeout)));
    /// ```
    #[track_caller]
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        crate::safepoint()?;
        match self.shared.receive(deadline_after(limit)) {
            Received::Value(value) => Ok(value),
            Received::Error(error) => Err(error.into()),
            Received::TimedOut => Err(RecvTimeoutError::Timeout),
        }
    }

    /// Receives the next value if one is there. Not a cancellation point.
    ///
    /// # Errors
    /// [`TryRecvError`] says whether one may still come.
    ///
    /// ```
    /// use throwto::sync::{TryRecvError, channel};
    /// let (sender, receiver) = channel::<()>();
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// drop(sender);
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    /// ```
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.shared.try_receive()
    }

    /// Receives until every sender is gone: `Ok` values, and an `Err` each time the thread is raised into.
    ///
    /// Unlike std's it yields results, so that an exception does not look like the end: `let value = value?;`. It may be
    /// gone on with after an exception. Each step is a cancellation point.
    ///
    /// ```
    /// let (sender, receiver) = throwto::sync::channel();
    /// sender.send(1)?;
    /// drop(sender);
    /// for value in &receiver {
    ///     assert_eq!(value?, 1);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { receiver: self }
    }

    /// Receives what is there, and does not wait for more. Not a cancellation point.
    ///
    /// ```
    /// let (sender, receiver) = throwto::sync::channel();
    /// sender.send(1)?;
    /// assert_eq!(receiver.try_iter().count(), 1);
    /// # Ok::<(), throwto::sync::SendError<i32>>(())
    /// ```
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter { receiver: self }
    }

    #[track_caller]
    fn next_value(&self) -> Option<Result<T, Raised>> {
        match self.recv() {
            Ok(value) => Some(Ok(value)),
            Err(error) => error.into_raised().map(Err),
        }
    }
}

/// See [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// See [`Receiver::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// [`Receiver::iter`] that owns the receiver.
#[derive(Debug)]
pub struct IntoIter<T> {
    receiver: Receiver<T>,
}

impl<T> Iterator for Iter<'_, T> {
    type Item = Result<T, Raised>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.next_value()
    }
}

impl<T> Iterator for IntoIter<T> {
    type Item = Result<T, Raised>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.next_value()
    }
}

impl<T> Iterator for TryIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }
}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = Result<T, Raised>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = Result<T, Raised>;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter { receiver: self }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.add_sender();
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Clone for SyncSender<T> {
    fn clone(&self) -> Self {
        self.shared.add_sender();
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.drop_sender();
    }
}

impl<T> Drop for SyncSender<T> {
    fn drop(&mut self) {
        self.shared.drop_sender();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.drop_receiver();
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for SyncSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncSender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}
