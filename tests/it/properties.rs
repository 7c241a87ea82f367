//! Random programs over the public names, each beside a model of a few lines that says what must happen.
//!
//! Nothing here depends on when threads run: a program is run by the thread that it raises into, and what others do for it
//! is waited for. `PROPTEST_CASES` sets how many programs, 256 of each kind if it is not set. A failure prints the shortest
//! program that was found to fail; what proptest writes to `tests/proptest-regressions` is committed with the mend, so
//! that it is tried first from then on.

mod masks;
mod queue;
mod registry;
mod scopes;

/// Runs `of` on a thread of its own, and waits for it.
fn elsewhere<T: Send>(elsewhere: bool, of: impl FnOnce() -> T + Send) -> T {
    if elsewhere {
        std::thread::scope(|scope| scope.spawn(of).join().unwrap())
    } else {
        of()
    }
}
