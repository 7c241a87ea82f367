//! tokio and tokio-util for sources that are played as they are: a crate mounts them and calls this one by both names.
//!
//! Owns: [`runtime`], of which the play has the threads, [`task_local!`] for those threads, and a switch of threads before each step
//! of [`sync`], whose channel and token are tokio's own.
//!
//! **Signal context:** no.

extern crate played_std as std;

pub mod runtime;
pub mod sync;
pub mod task;

#[doc(hidden)]
pub use shuttle;

/// tokio's, for one static.
#[macro_export]
macro_rules! task_local {
    ($(#[$attribute:meta])* $vis:vis static $name:ident: $t:ty;) => {
        $(#[$attribute])*
        $vis static $name: $crate::task::LocalKey<$t> = {
            $crate::shuttle::thread_local! {
                static INNER: std::cell::RefCell<Option<$t>> = std::cell::RefCell::new(None);
            }
            $crate::task::LocalKey::new(&INNER)
        };
    };
}
