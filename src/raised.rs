//! [`Raised`]: an exception that has been delivered.
//!
//! Owns: the delivered value, who raised it and how it got here; telling the receipt when the target is done with it.
//! Leaves to `safepoint` the delivering.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};

use crate::exception::Exception;
use crate::protocol::receipt::{ReceiptCell, ReceiptState};
use crate::protocol::registry::ThreadId;
use crate::receipt::wake_receipt;
use crate::rung::LeftCall;
pub(crate) use crate::rung::Rung;

/// An exception raised by another thread and delivered in this one.
///
/// Dropping it, or taking its value out, tells the raiser's [`Receipt`](crate::Receipt) that it was caught.
///
/// As an [`io::Error`](std::io::Error) it has the kind `Other`, never `Interrupted`, which std's retry loops swallow;
/// [`Raised::from_io`] gets it back.
pub struct Raised {
    inner: Box<Inner>,
}

struct Inner {
    value: Option<Box<dyn Error + Send>>,
    /// Held while the value is used through `&self` on a type that may not be `Sync`.
    exclusive: Mutex<()>,
    type_name: &'static str,
    raised_by: Option<ThreadId>,
    raised_at: &'static Location<'static>,
    rung: Rung,
    receipt: Option<Arc<ReceiptCell>>,
    left: Option<LeftCall>,
}

// SAFETY: everything in `Inner` is `Sync` but `value`, which is `Send`. Through a shared `Raised` the value is reached
// in two ways only: `downcast_ref::<E>`, which demands `E: Sync`, and `with_value`, which holds `exclusive` and so has
// the value to itself as far as a type that is not `Sync` can tell. `is` reads the vtable alone.
unsafe impl Sync for Inner {}

impl Raised {
    pub(crate) fn new(
        value: Box<dyn Error + Send>,
        type_name: &'static str,
        raised_by: Option<ThreadId>,
        raised_at: &'static Location<'static>,
        rung: Rung,
        receipt: Option<Arc<ReceiptCell>>,
    ) -> Self {
        let value = Some(value);
        let exclusive = Mutex::new(());
        Self {
            inner: Box::new(Inner {
                value,
                exclusive,
                type_name,
                raised_by,
                raised_at,
                rung,
                receipt,
                left: None,
            }),
        }
    }

    /// Remembers the call that was left by force to deliver this.
    pub(crate) fn having_left(mut self, left: LeftCall) -> Self {
        self.inner.rung = left.rung;
        self.inner.left = Some(left);
        self
    }

    /// An exception that nobody raised from outside: it begins where this is called.
    #[track_caller]
    pub(crate) fn here<E: Exception>(value: E) -> Self {
        let name = std::any::type_name::<E>();
        Self::new(
            Box::new(value),
            name,
            None,
            Location::caller(),
            Rung::Safepoint,
            None,
        )
    }

    /// Whether this is the delivery that `receipt` stands for.
    pub(crate) fn is_of(&self, receipt: &Arc<ReceiptCell>) -> bool {
        self.inner
            .receipt
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, receipt))
    }

    /// Whether the exception is an `E`.
    pub fn is<E: Exception>(&self) -> bool {
        self.inner.value.as_ref().is_some_and(|value| value.is::<E>())
    }

    /// The exception, if it is an `E`.
    pub fn downcast_ref<E: Exception + Sync>(&self) -> Option<&E> {
        self.inner.value.as_ref()?.downcast_ref()
    }

    /// Takes the exception out if it is an `E`: from then on it counts as caught.
    ///
    /// # Errors
    /// Gives `self` back if it is not.
    pub fn downcast<E: Exception>(mut self) -> Result<E, Self> {
        match self.inner.value.take() {
            Some(value) => match value.downcast::<E>() {
                Ok(value) => Ok(*value),
                Err(value) => {
                    self.inner.value = Some(value);
                    Err(self)
                }
            },
            None => Err(self),
        }
    }

    /// The exception's type name.
    pub fn type_name(&self) -> &'static str {
        self.inner.type_name
    }

    /// The thread that raised it, if that one was attached.
    pub fn raised_by(&self) -> Option<ThreadId> {
        self.inner.raised_by
    }

    /// Where in the source it was raised.
    pub fn raised_at(&self) -> &'static Location<'static> {
        self.inner.raised_at
    }

    /// What got the thread here.
    pub fn rung(&self) -> Rung {
        self.inner.rung
    }

    /// The foreign call that was left by force to get the thread here, and what is known to be lost with it.
    ///
    /// ```
    /// # let attachment = throwto::attach()?;
    /// # throwto::raise_exc(attachment.id(), throwto::Stop)?;
    /// let raised = throwto::safepoint().unwrap_err();
    /// assert!(raised.left().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn left(&self) -> Option<&LeftCall> {
        self.inner.left.as_ref()
    }

    /// Gets the exception back out of an error that it was turned into.
    ///
    /// # Errors
    /// Gives the error back if it is another one.
    ///
    /// ```
    /// use throwto::Raised;
    /// # let attachment = throwto::attach()?;
    /// # throwto::raise_exc(attachment.id(), throwto::Stop)?;
    /// fn work() -> std::io::Result<()> {
    ///     throwto::safepoint()?;
    ///     Ok(())
    /// }
    /// let error = work().unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::Other);
    /// assert!(Raised::from_io(error).unwrap().is::<throwto::Stop>());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_io(error: std::io::Error) -> Result<Self, std::io::Error> {
        if error.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            match error.into_inner().map(|inner| inner.downcast::<Self>()) {
                Some(Ok(raised)) => Ok(*raised),
                Some(Err(other)) => Err(std::io::Error::other(other)),
                None => Err(std::io::Error::other("an error without its payload")),
            }
        } else {
            Err(error)
        }
    }

    fn with_value<R>(&self, use_: impl FnOnce(Option<&(dyn Error + Send)>) -> R) -> R {
        let _exclusive = self
            .inner
            .exclusive
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        use_(self.inner.value.as_deref())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        // The value first: who sees `Caught` may rely on its destructor having run, and be it that it panicked.
        let _told = Told(self.inner.receipt.take());
        drop(self.inner.value.take());
    }
}

/// Tells the receipt when dropped.
pub(crate) struct Told(pub(crate) Option<Arc<ReceiptCell>>);

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(receipt) = self.0.take() {
            wake_receipt(&receipt, receipt.advance(ReceiptState::Caught));
        }
    }
}

impl fmt::Debug for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_value(|value| {
            f.debug_struct("Raised")
                .field("exception", &value)
                .field("raised_by", &self.inner.raised_by)
                .field("raised_at", &format_args!("{}", self.inner.raised_at))
                .field("rung", &self.inner.rung)
                .finish()
        })
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_value(|value| match value {
            Some(value) => write!(f, "{value}"),
            None => f.write_str(self.inner.type_name),
        })?;
        match self.inner.raised_by {
            Some(id) => write!(f, " (raised by thread {id} at {})", self.inner.raised_at),
            None => write!(f, " (raised at {})", self.inner.raised_at),
        }
    }
}

impl Error for Raised {}

impl From<Raised> for std::io::Error {
    fn from(raised: Raised) -> Self {
        Self::other(raised)
    }
}
