//! What a channel call can end with instead of its result.
//!
//! Owns: the error enums of the channels, and getting the [`Raised`] or the value back out of them.
//!
//! **Signal context:** no.

use std::fmt;
use std::io;

use crate::exception::Exception;
use crate::raised::Raised;

/// Why [`Receiver::recv`](super::Receiver::recv) has no value.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// The receiving thread was raised into. Nothing was received; later calls go on with the same value.
    #[error(transparent)]
    Raised(#[from] Raised),
    /// Every sender is gone and everything sent was received.
    #[error("every sender of the channel is gone")]
    Disconnected,
}

impl RecvError {
    /// Whether an exception of type `E` was raised.
    ///
    /// ```
    /// use throwto::{Stop, sync::channel};
    /// let attachment = throwto::attach()?;
    /// let (_sender, receiver) = channel::<u8>();
    /// throwto::raise_exc(attachment.id(), Stop)?;
    /// assert!(receiver.recv().unwrap_err().is::<Stop>());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is<E: Exception>(&self) -> bool {
        self.raised().is_some_and(Raised::is::<E>)
    }

    /// The exception, if one was raised.
    pub fn raised(&self) -> Option<&Raised> {
        match self {
            Self::Raised(raised) => Some(raised),
            Self::Disconnected => None,
        }
    }

    /// Takes the exception out, if one was raised.
    pub fn into_raised(self) -> Option<Raised> {
        match self {
            Self::Raised(raised) => Some(raised),
            Self::Disconnected => None,
        }
    }
}

/// As an exception: every sender of the channel is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, thiserror::Error)]
#[error("every sender of the channel is gone")]
pub struct Disconnected;

/// So that `receiver.recv()?` works in a function whose only error is [`Raised`]. A channel without senders counts as an
/// exception then, a [`Disconnected`] that nobody raised.
///
/// ```
/// use throwto::{Raised, sync::{Disconnected, channel}};
/// fn sum(receiver: &throwto::sync::Receiver<u32>) -> Result<u32, Raised> {
///     Ok(receiver.recv()? + receiver.recv()?)
/// }
/// let (sender, receiver) = channel();
/// sender.send(1).unwrap();
/// drop(sender);
/// assert!(sum(&receiver).unwrap_err().is::<Disconnected>());
/// ```
impl From<RecvError> for Raised {
    #[track_caller]
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Raised(raised) => raised,
            RecvError::Disconnected => Self::here(Disconnected),
        }
    }
}

/// A raised one can be got back with [`Raised::from_io`]; the other has the kind `UnexpectedEof`.
impl From<RecvError> for io::Error {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Raised(raised) => raised.into(),
            RecvError::Disconnected => Self::new(io::ErrorKind::UnexpectedEof, error),
        }
    }
}

/// Why [`Receiver::recv_timeout`](super::Receiver::recv_timeout) has no value.
#[derive(Debug, thiserror::Error)]
pub enum RecvTimeoutError {
    /// The receiving thread was raised into. Nothing was received.
    #[error(transparent)]
    Raised(#[from] Raised),
    /// The time was over, and nothing was there.
    #[error("nothing was sent in time")]
    Timeout,
    /// Every sender is gone and everything sent was received.
    #[error("every sender of the channel is gone")]
    Disconnected,
}

impl From<RecvError> for RecvTimeoutError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Raised(raised) => Self::Raised(raised),
            RecvError::Disconnected => Self::Disconnected,
        }
    }
}

impl RecvTimeoutError {
    /// The exception, if one was raised.
    pub fn raised(&self) -> Option<&Raised> {
        match self {
            Self::Raised(raised) => Some(raised),
            Self::Timeout | Self::Disconnected => None,
        }
    }

    /// Takes the exception out, if one was raised.
    pub fn into_raised(self) -> Option<Raised> {
        match self {
            Self::Raised(raised) => Some(raised),
            Self::Timeout | Self::Disconnected => None,
        }
    }
}

/// Why [`Receiver::try_recv`](super::Receiver::try_recv) has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// Nothing is there now.
    #[error("the channel is empty")]
    Empty,
    /// Every sender is gone and everything sent was received.
    #[error("every sender of the channel is gone")]
    Disconnected,
}

/// Why a value was not sent; it comes back.
pub enum SendError<T> {
    /// The sending thread was raised into while a bounded channel was full, or on entry. A
    /// [`Sender`](super::Sender) never waits, and so never returns this.
    Raised(Raised, T),
    /// The receiver is gone.
    Disconnected(T),
}

impl<T> SendError<T> {
    /// The exception, if one was raised.
    pub fn raised(&self) -> Option<&Raised> {
        match self {
            Self::Raised(raised, _) => Some(raised),
            Self::Disconnected(_) => None,
        }
    }

    /// Takes the exception out, if one was raised; the value is dropped.
    pub fn into_raised(self) -> Option<Raised> {
        match self {
            Self::Raised(raised, _) => Some(raised),
            Self::Disconnected(_) => None,
        }
    }

    /// The value that was not sent; an exception counts as caught.
    pub fn into_inner(self) -> T {
        match self {
            Self::Raised(_, value) | Self::Disconnected(value) => value,
        }
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised(raised, _) => f.debug_tuple("Raised").field(raised).finish_non_exhaustive(),
            Self::Disconnected(_) => f.debug_tuple("Disconnected").finish_non_exhaustive(),
        }
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised(raised, _) => raised.fmt(f),
            Self::Disconnected(_) => f.write_str("the receiver of the channel is gone"),
        }
    }
}

impl<T> std::error::Error for SendError<T> {}

/// The value is dropped. A raised one can be got back with [`Raised::from_io`]; the other has the kind `BrokenPipe`.
impl<T> From<SendError<T>> for io::Error {
    fn from(error: SendError<T>) -> Self {
        match error {
            SendError::Raised(raised, _) => raised.into(),
            SendError::Disconnected(_) => {
                Self::new(io::ErrorKind::BrokenPipe, "the receiver of the channel is gone")
            }
        }
    }
}

/// Why [`SyncSender::try_send`](super::SyncSender::try_send) did not send; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The channel is full, or, if its bound is zero, nobody is receiving.
    Full(T),
    /// The receiver is gone.
    Disconnected(T),
}

impl<T> TrySendError<T> {
    /// The value that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Disconnected(value) => value,
        }
    }
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.debug_tuple("Full").finish_non_exhaustive(),
            Self::Disconnected(_) => f.debug_tuple("Disconnected").finish_non_exhaustive(),
        }
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the channel is full",
            Self::Disconnected(_) => "the receiver of the channel is gone",
        })
    }
}

impl<T> std::error::Error for TrySendError<T> {}
