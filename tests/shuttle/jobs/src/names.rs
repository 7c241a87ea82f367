//! Names that the sources use and the play gives no meaning to, or a trivial one.
//!
//! **Signal context:** no.

pub(crate) mod attach {
    pub(crate) use crate::current::{Apart, Attachment, adopt, attach, attach_named, register, set_apart};
}

pub(crate) mod error {
    #[derive(Debug)]
    pub enum AttachError {
        Refused,
        SignalBlocked { signal: i32 },
    }

    impl std::fmt::Display for AttachError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("refused")
        }
    }

    #[derive(Debug)]
    pub enum RaiseError {
        ScopeNotOpen,
    }
}

pub(crate) mod exception {
    #[derive(Debug, PartialEq, Eq)]
    pub struct Cancelled;
    #[derive(Debug, PartialEq, Eq)]
    pub struct TimedOut;
    pub struct Interrupted;

    pub trait IntoException {}
    impl IntoException for Interrupted {}
}

pub(crate) mod journal {
    use super::protocol::registry::ThreadId;

    #[derive(Clone, Debug)]
    pub struct Climbed;

    pub struct Journal;

    impl Journal {
        pub fn open(_thread: ThreadId) -> Self {
            Self
        }

        pub fn read(&self) -> Vec<Climbed> {
            Vec::new()
        }
    }
}

pub(crate) mod platform {
    pub mod handler {
        /// Nobody forks in a play.
        pub fn process() -> i32 {
            1
        }
    }

    pub mod nudge {
        pub fn unblock(_signal: i32) {}
    }
}

pub(crate) mod protocol {
    pub mod registry {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct ThreadId(pub(crate) u64);

        impl ThreadId {
            pub fn current() -> Option<Self> {
                crate::current::owner()
            }
        }

        impl std::fmt::Display for ThreadId {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "#{}", self.0)
            }
        }
    }
}

pub(crate) mod raised {
    /// By whom, as the address of a scope's cell; `0` for a limit.
    #[derive(Debug, PartialEq, Eq)]
    pub struct Raised(pub(crate) usize);

    impl std::fmt::Display for Raised {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("raised")
        }
    }
}

pub(crate) mod receipt {
    use std::time::Duration;

    #[derive(Debug)]
    pub struct Receipt;

    pub fn deadline_after(limit: Duration) -> Option<u64> {
        let limit = u64::try_from(limit.as_nanos()).ok()?;
        std::stage::stage().now().checked_add(limit)
    }
}

pub(crate) mod region {
    pub(crate) use crate::sync::queue::{Raises, Waited};
}

pub(crate) mod runtime {
    pub fn signal() -> i32 {
        0
    }
}

pub(crate) mod status {
    use super::protocol::registry::ThreadId;

    #[derive(Clone, Debug)]
    pub struct ThreadInfo {
        pub where_blocked: String,
    }

    impl std::fmt::Display for ThreadInfo {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&self.where_blocked)
        }
    }

    pub fn info(thread: ThreadId) -> Option<ThreadInfo> {
        crate::current::is_live(thread).then(|| ThreadInfo {
            where_blocked: "somewhere".to_owned(),
        })
    }
}

pub(crate) mod thread {
    pub fn panic_text(_payload: &Box<dyn std::any::Any + Send>) -> &'static str {
        "panicked"
    }
}

pub(crate) mod until_dead {
    pub fn refusals(_climbed: &[super::journal::Climbed]) -> String {
        String::new()
    }
}
