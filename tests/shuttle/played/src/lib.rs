//! std for sources that are played as they are: a crate mounts them and says `extern crate played_std as std`.
//!
//! Owns: [`sync::Mutex`], [`sync::Condvar`] and [`thread`], which shuttle schedules, [`time::Instant`], and [`stage`], which the play alone uses. All
//! else is std's own.
//!
//! **Signal context:** no.

pub use std::*;

mod lock;
pub mod stage;

pub mod sync {
    //! std's, with a lock and a condition that are scheduled and watched.

    pub use std::sync::*;

    pub use crate::lock::{Condvar, Mutex, MutexGuard};
}

pub mod thread;
pub mod time;

#[doc(hidden)]
pub use shuttle;

/// `thread_local!` for one local of the play's threads. std's own makes one for all of them.
#[macro_export]
macro_rules! scheduled_thread_local {
    ($(#[$attribute:meta])* $vis:vis static $name:ident: $t:ty = const $init:block $(;)?) => {
        $(#[$attribute])*
        $vis static $name: $crate::thread::LocalKey<$t> = {
            $crate::shuttle::thread_local! { static INNER: $t = $init; }
            $crate::thread::LocalKey::new(&INNER)
        };
    };
}
