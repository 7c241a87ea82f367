//! Who is to be raised into: [`Target`], or whoever is in the scope of a [`ScopeHandle`].
//!
//! Owns: the ways to name a thread. Leaves to `raise` who matches, to `thread` the names that its handles are, to `scope` what
//! else a handle can do.
//!
//! **Signal context:** no.

use std::sync::Arc;

use crate::os::OsTid;
use crate::protocol::registry::ThreadId;
use crate::protocol::scope::{ScopeCell, ScopeId};

/// Who is to be raised into.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// The thread with this id.
    Id(ThreadId),
    /// The attached thread that the kernel knows by this number.
    OsTid(OsTid),
    /// Every attached thread of this name.
    Name(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "thread {id}"),
            Self::OsTid(tid) => write!(f, "kernel thread {tid}"),
            Self::Name(name) => write!(f, "named {name:?}"),
        }
    }
}

impl From<ThreadId> for Target {
    #[inline]
    fn from(id: ThreadId) -> Self {
        Self::Id(id)
    }
}

impl From<OsTid> for Target {
    #[inline]
    fn from(tid: OsTid) -> Self {
        Self::OsTid(tid)
    }
}

impl From<&str> for Target {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for Target {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<&String> for Target {
    fn from(name: &String) -> Self {
        Self::Name(name.clone())
    }
}

/// Reaches a scope from other threads, before it is entered, while it is open, and in vain afterwards.
#[derive(Clone)]
pub struct ScopeHandle {
    pub(crate) cell: Arc<ScopeCell>,
}

impl ScopeHandle {
    /// The thread and the scope in it, once it has been entered.
    pub(crate) fn place(&self) -> Option<(ThreadId, ScopeId)> {
        let place = self.cell.place()?;
        let id = ThreadId::from_parts(place.index, place.generation)?;
        Some((id, place.scope))
    }
}
