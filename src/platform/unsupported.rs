//! Everything else: cooperative delivery on plain std.
//!
//! Owns: the contract of `platform` for systems without a backend of their own. Safepoints, masks, receipts and the
//! waits of this crate work; there are no signals, so what blocks elsewhere stays blocked.
//!
//! **Signal context:** no, there is no handler.

#![allow(
    clippy::unnecessary_wraps,
    reason = "the contract has the backends' signatures"
)]

pub(crate) mod handler {
    //! No handler.

    use crate::protocol::record::Record;

    pub(crate) const DEFAULT_SIGNAL: i32 = 0;

    /// Never made: nothing is installed, so nothing fails.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct InstallFailed {
        pub(crate) errno: i32,
    }

    pub(crate) fn install(
        _signal: i32,
        _of_token: fn(usize) -> Option<&'static Record>,
        _of_thread: fn(usize) -> Option<&'static Record>,
    ) -> Result<(), InstallFailed> {
        Ok(())
    }

    pub(crate) fn note_process() {}

    pub(crate) fn process() -> i32 {
        0
    }

    pub(crate) fn counts() -> (u64, u64, u64) {
        (0, 0, 0)
    }

    pub(crate) fn this_thread() -> usize {
        super::nudge::os_tid() as usize
    }
}

pub(crate) mod nudge {
    //! No directed signal. Threads are numbered as they come.

    use std::sync::atomic::{AtomicI32, Ordering};

    use crate::protocol::record::Record;
    use crate::protocol::word::Sender;

    thread_local! {
        static NUMBER: i32 = {
            static NEXT: AtomicI32 = AtomicI32::new(1);
            NEXT.fetch_add(1, Ordering::Relaxed)
        };
    }

    pub(crate) fn os_tid() -> i32 {
        NUMBER.with(|number| *number)
    }

    pub(crate) fn send(_record: &Record, _from: Sender, _os_tid: i32, _signal: i32) -> bool {
        false
    }

    pub(crate) fn reaches_me(_record: &Record, _signal: i32) -> Result<bool, i32> {
        Ok(true)
    }

    pub(crate) fn is_blocked(_signal: i32) -> bool {
        false
    }

    pub(crate) fn unblock(_signal: i32) {}

    pub(crate) fn take_pending() {}

    pub(crate) fn block_all() {}

    #[must_use]
    pub(crate) struct Quiet;

    pub(crate) fn quiet() -> Quiet {
        Quiet
    }
}

pub(crate) mod fork {
    //! No notice of forks.

    pub(crate) fn at_fork(
        _before: extern "C" fn(),
        _parent: extern "C" fn(),
        _child: extern "C" fn(),
    ) -> bool {
        true
    }
}
