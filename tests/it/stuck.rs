//! Threads that are really stuck, and what sets them free.

use std::io;
use std::time::Duration;

use throwto::{Raised, Rung, Stop, ThreadId, threads};

pub use crate::stage::{join, until as wait_for};

/// Nothing here takes that long unless it hangs: it can only fail a test.
pub const HANGS: Duration = crate::stage::LIMIT;

/// An operation that blocks for ever.
pub struct Op {
    /// The system call it blocks in, as `where_blocked` tells.
    pub call: &'static str,
    pub run: Box<dyn FnOnce() -> io::Result<()> + Send>,
}

impl Op {
    pub fn new<T>(call: &'static str, run: impl FnOnce() -> io::Result<T> + Send + 'static) -> Self {
        let run = Box::new(move || run().map(drop));
        Self { call, run }
    }
}

#[track_caller]
pub fn wait_until_blocked(id: ThreadId, call: &str) {
    wait_for(call, || {
        threads().iter().any(|t| {
            t.id == id
                && t.where_blocked
                    .strip_prefix(call)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['(', ' ']))
        })
    });
}

#[track_caller]
pub fn assert_raised<T>(result: io::Result<T>) -> Raised {
    let Err(error) = result else {
        panic!("it was not raised into")
    };
    assert_eq!(error.kind(), io::ErrorKind::Other, "{error}");
    let raised = Raised::from_io(error).unwrap();
    assert!(raised.is::<Stop>(), "{raised}");
    raised
}

/// Each operation blocks, a raise breaks it, and breaks it by a signal.
pub fn each_is_broken(ops: Vec<Op>) {
    for Op { call, run } in ops {
        let worker = throwto::thread::spawn(run);
        wait_until_blocked(worker.id(), call);
        worker.raise(Stop).unwrap();
        assert_eq!(assert_raised(join(worker)).rung(), Rung::Nudge, "{call}");
    }
}

/// Each operation raises at entry what was raised before.
pub fn each_raises_at_entry(ops: Vec<Op>) {
    for Op { run, .. } in ops {
        let worker = throwto::thread::spawn(move || {
            throwto::raise_exc(ThreadId::current().unwrap(), Stop).unwrap();
            let result = run();
            assert!(!throwto::pending());
            result
        });
        assert_eq!(assert_raised(join(worker)).rung(), Rung::Safepoint);
    }
}

/// Each operation is broken under a mask too, since it really blocks: by a raise before it and by one during it.
pub fn each_is_broken_under_a_mask(before: Vec<Op>, during: Vec<Op>) {
    for Op { run, .. } in before {
        let worker = throwto::thread::spawn(move || {
            throwto::mask(|_| {
                throwto::raise_exc(ThreadId::current().unwrap(), Stop).unwrap();
                run()
            })
        });
        assert_raised(join(worker));
    }
    for Op { call, run } in during {
        let worker = throwto::thread::spawn(move || throwto::mask(|_| run()));
        wait_until_blocked(worker.id(), call);
        worker.raise(Stop).unwrap();
        assert_raised(join(worker));
    }
}
