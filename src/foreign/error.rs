//! What can go wrong with a foreign call.
//!
//! Owns: the types and their words. Leaves to `call` and `forced` when they are given.
//!
//! **Signal context:** no.

use std::convert::Infallible;
use std::fmt;

use crate::platform::spot::NoModule;
use crate::raised::Raised;

/// Why a foreign call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError<E = Infallible> {
    /// An exception was raised: before the call, or during it and the call failed or was left for that reason.
    #[error("raised into: {0}")]
    Raised(Raised),
    /// The call failed by itself.
    #[error(transparent)]
    Failed(E),
    /// An earlier call with this label was abandoned, so what it left of the library is not known. The call was not made.
    #[error(
        "the library behind {label:?} was left in the middle of a call; set it up anew, then foreign::clear_poison({label:?})"
    )]
    Poisoned {
        /// The label of both calls.
        label: &'static str,
    },
    /// A rung was asked for that cannot be had here. The call was not made.
    #[error(
        "the rung {capability}; leave it out or run the call where it can be given up (foreign::detached)"
    )]
    Unsupported {
        /// The rung, and what it needs.
        capability: &'static str,
    },
    /// The rung *abandon* was asked for and no module allowed, so it could never act. The call was not made.
    #[error("the call {label:?} may be abandoned in no module: name the library's with Call::allow")]
    NoModule {
        /// The call's label.
        label: &'static str,
    },
}

impl<E> CallError<E> {
    /// The exception, if that is what it was.
    ///
    /// ```
    /// let error: throwto::foreign::CallError<std::io::Error> = throwto::foreign::CallError::Poisoned { label: "x" };
    /// assert!(error.raised().is_none());
    /// ```
    pub fn raised(self) -> Option<Raised> {
        match self {
            Self::Raised(raised) => Some(raised),
            _ => None,
        }
    }
}

/// So that `?` works in functions that return an `io::Result`; [`Raised::from_io`] gets an exception back.
impl From<CallError<Self>> for std::io::Error {
    fn from(error: CallError<Self>) -> Self {
        match error {
            CallError::Raised(raised) => raised.into(),
            CallError::Failed(error) => error,
            lacking @ CallError::Unsupported { .. } => Self::new(std::io::ErrorKind::Unsupported, lacking),
            refused => Self::other(refused),
        }
    }
}

/// Why code cannot be allowed to be abandoned in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// No such library is loaded.
    #[error("no loaded library is {asked}; load it first (dlopen), or name it as /proc/self/maps does")]
    NotLoaded {
        /// What was asked for.
        asked: String,
    },
    /// Its frames must never be dropped: the C library, the loader, an allocator, an unwinder, a C++ runtime.
    #[error("{name} must never be left in the middle: its locks and lists are everybody's")]
    Never {
        /// The library.
        name: String,
    },
    /// The address is in the executable, which holds Rust code too.
    #[error("that address is in the executable, beside Rust code: allow a range with Module::from_symbols")]
    Executable,
    /// The range holds Rust code.
    #[error(
        "the range holds Rust code ({symbol}), whose frames may own what only their end gives back: allow smaller ranges"
    )]
    RustInside {
        /// The first Rust function in it.
        symbol: String,
    },
    /// The range is upside down, or not in one loaded object.
    #[error("the two symbols do not span code of one object, in this order in memory")]
    NoRange,
    /// The object says nothing about its frames.
    #[error("{name} has no frame descriptions (.eh_frame_hdr): compile it with -fasynchronous-unwind-tables")]
    NoDescription {
        /// The object.
        name: String,
    },
    /// Nothing can be left by force here.
    #[error("the rung abandon needs Linux on x86-64 or aarch64 with the GNU C library")]
    Unsupported,
}

impl ModuleError {
    pub(super) fn of(reason: NoModule, asked: impl fmt::Display) -> Self {
        match reason {
            NoModule::NotLoaded => Self::NotLoaded {
                asked: asked.to_string(),
            },
            NoModule::Never { name } => Self::Never { name },
            NoModule::Executable => Self::Executable,
            NoModule::RustInside { symbol } => Self::RustInside { symbol },
            NoModule::NoRange => Self::NoRange,
            NoModule::NoDescription { name } => Self::NoDescription { name },
            NoModule::Unsupported => Self::Unsupported,
        }
    }
}
