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
use std::sync::{Mutex, PoisonError};

use once_cell::race::OnceBox;

use crate::current;
use crate::exception::{Exception, name_of};
use crate::protocol::entry::{Contents, Entry, Origin, Payload, ReceiptRef};
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::Owner;
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
    /// Its payload is the value, or has been taken out.
    entry: Entry,
    /// Dropped after it.
    _landing: Landing,
}

/// What few exceptions have beside the entry.
#[derive(Default)]
struct Aside {
    /// Held while the value is used through `&self` on a type that may not be `Sync`.
    exclusive: Mutex<()>,
    left: Option<LeftCall>,
}

// SAFETY: everything in an entry is `Sync` but the payload, which is `Send`. Through a shared `Raised` the value is reached
// in two ways only: `downcast_ref::<E>`, which demands `E: Sync`, and `with_value`, which holds `exclusive` and so has
// the value to itself as far as a type that is not `Sync` can tell. `is` reads the vtable alone.
unsafe impl Sync for Raised {}

impl Raised {
    /// An entry that has left its slot and is delivered: makes its value, if that is still to be done.
    #[inline(always)]
    pub(crate) fn deliver(entry: Entry) -> Self {
        // Its drop tells the receipt, should the making panic.
        let mut raised = Self {
            entry,
            _landing: Landing,
        };
        raised.entry.payload.make();
        raised
    }

    /// An exception that nobody raised from outside: it begins where this is called.
    #[track_caller]
    pub(crate) fn here<E: Exception>(value: E) -> Self {
        Self::at(value, Location::caller())
    }

    /// As [`Raised::here`], beginning elsewhere.
    pub(crate) fn at<E: Exception>(value: E, raised_at: &'static Location<'static>) -> Self {
        let (payload, origin) = (Payload::Value(Box::new(value)), Origin::of::<E>(raised_at));
        Self {
            entry: Entry::new(Contents::new(payload, origin, false, None)),
            _landing: Landing,
        }
    }

    /// Where its cell is.
    #[cfg(test)]
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref::<Contents>(&self.entry) as usize
    }

    /// As the record notes rungs.
    pub(crate) fn having_taken(mut self, rung: u32) -> Self {
        self.entry.rung = rung;
        self
    }

    /// Remembers the call that was left by force to deliver this.
    pub(crate) fn having_left(mut self, left: LeftCall) -> Self {
        let aside = Aside {
            left: Some(left),
            ..Aside::default()
        };
        self.entry.aside = OnceBox::with_value(Box::new(Box::new(aside)));
        self
    }

    fn aside(&self) -> Option<&Aside> {
        self.entry.aside.get()?.downcast_ref()
    }

    /// Whether this is the delivery that `receipt` stands for.
    pub(crate) fn is_of(&self, receipt: &ReceiptRef) -> bool {
        self.entry.receipt.is(receipt)
    }

    /// Whether the exception is an `E`.
    pub fn is<E: Exception>(&self) -> bool {
        self.entry.payload.value().is_some_and(|value| value.is::<E>())
    }

    /// The exception, if it is an `E`.
    pub fn downcast_ref<E: Exception + Sync>(&self) -> Option<&E> {
        self.entry.payload.value()?.downcast_ref()
    }

    /// Takes the exception out if it is an `E`: from then on it counts as caught.
    ///
    /// # Errors
    /// Gives `self` back if it is not.
    pub fn downcast<E: Exception>(mut self) -> Result<E, Self> {
        match self.entry.payload.take() {
            Payload::Value(value) => match value.downcast::<E>() {
                Ok(value) => Ok(*value),
                Err(value) => {
                    self.entry.payload = Payload::Value(value);
                    Err(self)
                }
            },
            _ => Err(self),
        }
    }

    /// The exception's type name.
    pub fn type_name(&self) -> &'static str {
        name_of(self.entry.origin.kind)
    }

    /// The thread that raised it, if that one was attached.
    pub fn raised_by(&self) -> Option<ThreadId> {
        self.entry.origin.raised_by
    }

    /// Where in the source it was raised.
    pub fn raised_at(&self) -> &'static Location<'static> {
        self.entry.origin.raised_at
    }

    /// What got the thread here.
    pub fn rung(&self) -> Rung {
        match self.left() {
            Some(left) => left.rung,
            None => Rung::noted(self.entry.rung),
        }
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
        self.aside()?.left.as_ref()
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
        self.entry
            .aside
            .get_or_init(|| Box::new(Box::new(Aside::default())));
        let exclusive = self.aside().map(|aside| &aside.exclusive);
        let _exclusive = exclusive.map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        use_(self.entry.payload.value())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let value = self.entry.payload.take();
        // The value first: who sees `Caught` may rely on its destructor having run, and be it that it panicked.
        let _told = Told(&self.entry.receipt);
        drop(value);
    }
}

/// In a delivered exception, behind its entry: when this is dropped, what is caught is in flight no more, and its cell is free for
/// the next raise.
struct Landing;

impl Drop for Landing {
    #[inline]
    fn drop(&mut self) {
        if let Some(record) = current::owner().map(Owner::record)
            && let Some(caught) = record.flight.take_caught()
        {
            record.spare.keep(caught);
        }
    }
}

/// Tells the receipt when dropped.
struct Told<'a>(&'a ReceiptRef);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        wake_receipt(self.0, self.0.advance(ReceiptState::Caught));
    }
}

impl fmt::Debug for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_value(|value| {
            f.debug_struct("Raised")
                .field("exception", &value)
                .field("raised_by", &self.entry.origin.raised_by)
                .field("raised_at", &format_args!("{}", self.entry.origin.raised_at))
                .field("rung", &self.rung())
                .finish()
        })
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_value(|value| match value {
            Some(value) => write!(f, "{value}"),
            None => f.write_str(name_of(self.entry.origin.kind)),
        })?;
        match self.entry.origin.raised_by {
            Some(id) => write!(f, " (raised by thread {id} at {})", self.entry.origin.raised_at),
            None => write!(f, " (raised at {})", self.entry.origin.raised_at),
        }
    }
}

impl Error for Raised {}

impl From<Raised> for std::io::Error {
    fn from(raised: Raised) -> Self {
        Self::other(raised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Interrupted, Stop, raise_exc, safepoint};

    /// How many exceptions the calling thread has in flight.
    fn in_flight() -> usize {
        current::owner().map_or(0, |owner| owner.record().flight.uncaught().len())
    }

    fn delivered(id: crate::ThreadId) -> (Raised, crate::Receipt) {
        let receipt = raise_exc(id, Stop).unwrap();
        (safepoint().unwrap_err(), receipt)
    }

    #[test]
    fn what_is_caught_is_in_flight_no_more_in_whatever_order_it_is_caught() {
        let attachment = crate::attach().unwrap();
        let id = attachment.id();
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
            let mut raised: Vec<_> = (0..3).map(|_| Some(delivered(id))).collect();
            for (caught, which) in order.into_iter().enumerate() {
                assert_eq!(in_flight(), 3 - caught);
                raised[which] = None;
            }
            assert_eq!(in_flight(), 0, "{order:?}");
        }
        let kept = delivered(id);
        std::thread::spawn(move || drop(kept)).join().unwrap();
        assert_eq!(in_flight(), 0, "caught elsewhere");
        let (raised, receipt) = delivered(id);
        drop(attachment);
        assert_eq!(
            receipt.state(),
            crate::ReceiptState::Caught,
            "the end of the thread's part"
        );
        drop(raised);
        drop(Raised::here(Interrupted));
        assert_eq!(in_flight(), 0);
    }

    #[test]
    fn what_was_looked_at_in_flight_is_not_kept_for_that() {
        let attachment = crate::attach().unwrap();
        let id = attachment.id();
        for _ in 0..3 {
            let raised = [delivered(id), delivered(id)];
            assert_eq!(in_flight(), 2);
            drop(raised);
        }
        let flight = &current::owner().unwrap().record().flight;
        assert!(flight.take().is_empty());
    }

    #[test]
    fn the_next_raise_has_the_cell_of_the_one_before_when_nobody_keeps_that() {
        let attachment = crate::attach().unwrap();
        let id = attachment.id();
        let mut cells = std::collections::HashSet::new();
        for _ in 0..10 {
            let (raised, receipt) = delivered(id);
            drop(receipt);
            cells.insert(raised.address());
        }
        assert_eq!(cells.len(), 1);
        let (raised, receipt) = delivered(id);
        drop(raised);
        assert!(!cells.contains(&delivered(id).0.address()));
        drop(receipt);
    }
}
