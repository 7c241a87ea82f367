//! What is raised: the exception or its recipe, its type, and where it comes from.
//!
//! Owns: these three. Leaves to [`super::entry`] who may touch them.
//! Plain values. Making and dropping a payload runs the exception's own code, so that is for where no lock is held.
//!
//! **Signal context:** no, the exception's code may do anything.

use std::any::TypeId;
use std::error::Error;
use std::panic::Location;

use super::thread_id::ThreadId;

/// An exception on its way: a value, or the recipe that makes it in the target.
pub(crate) enum Payload {
    Value(Box<dyn Error + Send>),
    Make(fn() -> Box<dyn Error + Send>),
    /// For a whole tree or group: each target makes its own, and who is spawned while it waits inherits it.
    Spread(std::sync::Arc<dyn Fn() -> Box<dyn Error + Send> + Send + Sync>),
    /// It has been taken out.
    Taken,
}

impl Payload {
    /// The recipe becomes the value. Runs the exception's own code.
    #[inline]
    pub(crate) fn make(&mut self) {
        if let &mut Self::Make(make) = self {
            let recipe = std::mem::replace(self, Self::Value(make()));
            // A function has nothing to drop, and nobody need look what it was.
            std::mem::forget(recipe);
        } else if let Self::Spread(make) = self {
            *self = Self::Value(make());
        }
    }

    /// The value, if it has been made and not been taken out.
    pub(crate) fn value(&self) -> Option<&(dyn Error + Send + 'static)> {
        match self {
            Self::Value(value) => Some(&**value),
            _ => None,
        }
    }

    /// Whether dropping it runs anything.
    pub(crate) fn has_destructor(&self) -> bool {
        matches!(self, Self::Value(_) | Self::Spread(_))
    }

    /// Takes it out.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Taken)
    }
}

/// An exception's type.
pub(crate) struct Kind {
    id: TypeId,
    name: fn() -> &'static str,
}

impl Kind {
    pub(crate) const fn of<E: 'static>() -> &'static Self {
        const {
            &Self {
                id: TypeId::of::<E>(),
                name: std::any::type_name::<E>,
            }
        }
    }

    pub(crate) fn id(&self) -> TypeId {
        self.id
    }

    pub(crate) fn name(&self) -> &'static str {
        (self.name)()
    }

    /// One type may have many of these, in many units of code.
    #[inline]
    pub(crate) fn is(&'static self, other: &'static Self) -> bool {
        std::ptr::eq(self, other) || self.id == other.id
    }
}

/// What is known of a raise beside the exception itself.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// The exception's type, by which a later raise supersedes an earlier one.
    pub(crate) kind: &'static Kind,
    pub(crate) raised_by: Option<ThreadId>,
    pub(crate) raised_at: &'static Location<'static>,
}

impl Origin {
    /// Of an `E` that nobody has raised from another thread.
    pub(crate) fn of<E: 'static>(at: &'static Location<'static>) -> Self {
        Self {
            kind: Kind::of::<E>(),
            raised_by: None,
            raised_at: at,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_makes_one_value_when_it_is_asked_to() {
        let mut payload = Payload::Make(|| Box::new(std::fmt::Error));
        assert!(payload.value().is_none() && !payload.has_destructor());
        payload.make();
        assert!(payload.value().is_some_and(|value| value.is::<std::fmt::Error>()));
        assert!(payload.has_destructor());
        payload.take();
        payload.make();
        assert!(payload.value().is_none());
    }

    #[test]
    fn a_type_is_itself_wherever_its_name_is_made() {
        let (first, second) = (Kind::of::<std::fmt::Error>(), Kind::of::<std::io::Error>());
        assert!(first.is(Kind::of::<std::fmt::Error>()) && !first.is(second));
        assert_eq!(first.name(), std::any::type_name::<std::fmt::Error>());
    }
}
