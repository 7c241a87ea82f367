//! What can be raised: values, and types whose value is made in the target.
//!
//! Owns: [`Exception`], [`ExcType`], [`Broadcast`], the built-in exceptions. Leaves to `raise` the raising.
//!
//! **Signal context:** no.

use std::any::TypeId;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::protocol::entry::{Kind, Payload};

/// Anything that can be raised in another thread: every error that may be sent there.
pub trait Exception: Error + Send + 'static {}
impl<E: Error + Send + 'static> Exception for E {}

/// An exception's type. The type travels and the value is made in the target, as in CPython.
#[derive(Clone, Copy)]
pub struct ExcType {
    kind: &'static Kind,
    make: fn() -> Box<dyn Error + Send>,
}

impl ExcType {
    /// The type `E`, whose `Default` will run in the target.
    ///
    /// ```
    /// use throwto::{ExcType, Stop};
    /// assert_eq!(ExcType::of::<Stop>(), ExcType::of::<Stop>());
    /// ```
    pub fn of<E: Exception + Default>() -> Self {
        Self {
            kind: Kind::of::<E>(),
            make: || Box::new(E::default()),
        }
    }

    /// The type's full name.
    ///
    /// ```
    /// assert_eq!(throwto::ExcType::of::<throwto::Stop>().name(), "throwto::Stop");
    /// assert_eq!(throwto::ExcType::of::<std::fmt::Error>().name(), "core::fmt::Error");
    /// ```
    pub fn name(&self) -> &'static str {
        name_of(self.kind)
    }
}

impl PartialEq for ExcType {
    fn eq(&self, other: &Self) -> bool {
        self.kind.is(other.kind)
    }
}

impl Eq for ExcType {}

impl std::hash::Hash for ExcType {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.kind.id().hash(state);
    }
}

impl fmt::Debug for ExcType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExcType({})", self.name())
    }
}

impl fmt::Display for ExcType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An exception ready for the slot. Made by [`IntoException`].
pub struct Raisable {
    pub(crate) payload: Payload,
    pub(crate) kind: &'static Kind,
}

impl fmt::Debug for Raisable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raisable({})", self.kind.name())
    }
}

/// What [`raise_exc`](crate::raise_exc) takes: an [`ExcType`], or an exception's value.
pub trait IntoException {
    /// Makes it ready for the slot.
    fn into_exception(self) -> Raisable;
}

impl IntoException for ExcType {
    #[inline]
    fn into_exception(self) -> Raisable {
        Raisable {
            payload: Payload::Make(self.make),
            kind: self.kind,
        }
    }
}

impl<E: Exception> IntoException for E {
    fn into_exception(self) -> Raisable {
        Raisable {
            payload: Payload::Value(Box::new(self)),
            kind: Kind::of::<E>(),
        }
    }
}

/// What can be raised in many threads at once: an [`ExcType`], whose value is made in each target, or an exception that
/// can be cloned, of which each target gets a copy.
///
/// A value that cannot be cloned is for one thread:
///
/// ```compile_fail
/// #[derive(Debug, thiserror::Error)]
/// #[error("once")]
/// struct Once;
/// throwto::thread::ThreadGroup::new().raise(Once);
/// ```
pub trait Broadcast: IntoException {
    /// Makes it ready for many slots.
    fn into_broadcast(self) -> Spreadable;
}

/// An exception ready for many slots. Made by [`Broadcast`].
#[derive(Clone)]
pub struct Spreadable {
    make: Arc<dyn Fn() -> Box<dyn Error + Send> + Send + Sync>,
    kind: &'static Kind,
}

impl fmt::Debug for Spreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spreadable({})", self.kind.name())
    }
}

impl Spreadable {
    /// For one of the slots. Drops nothing and runs nothing of the exception's.
    pub(crate) fn raisable(&self) -> Raisable {
        Raisable {
            payload: Payload::Spread(Arc::clone(&self.make)),
            kind: self.kind,
        }
    }
}

impl Broadcast for ExcType {
    fn into_broadcast(self) -> Spreadable {
        Spreadable {
            make: Arc::new(self.make),
            kind: self.kind,
        }
    }
}

impl<E: Exception + Clone> Broadcast for E {
    fn into_broadcast(self) -> Spreadable {
        // Two targets may copy at once, and the type need not be `Sync`.
        let original = Mutex::new(self);
        Spreadable {
            make: Arc::new(move || {
                let original = original.lock().unwrap_or_else(PoisonError::into_inner);
                Box::new(original.clone())
            }),
            kind: Kind::of::<E>(),
        }
    }
}

/// The full name of a type; for the built-in ones the name by which they are imported, not that of this module.
pub(crate) fn name_of(kind: &Kind) -> &'static str {
    let built_in = BUILT_IN.iter().find(|(own, _)| *own == kind.id());
    built_in.map_or_else(|| kind.name(), |(_, name)| name)
}

macro_rules! built_in {
    ($($(#[$meta:meta])* $name:ident = $text:literal;)*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, thiserror::Error)]
            #[error($text)]
            pub struct $name;
        )*
        const BUILT_IN: &[(TypeId, &str)] = &[$((TypeId::of::<$name>(), concat!("throwto::", stringify!($name)))),*];
    };
}

built_in! {
    /// The thread shall end.
    Stop = "the thread was asked to stop";
    /// The present operation shall end; the thread goes on.
    Interrupted = "interrupted";
    /// A time limit has passed.
    TimedOut = "timed out";
    /// Nobody wants the result any more.
    Cancelled = "cancelled";
}
