//! Unix without a window: directed signals by plain POSIX, for systems whose registers and calls nobody here can read.
//!
//! Owns: the signal handler, `pthread_kill`, the signal mask, notice of forks. Leaves to [`super::portable`] the waits and
//! the fences, to `driver` what closes the gap that a missing window leaves: a nudge that falls between the check and the
//! call is lost, and the driver sends the next.
//!
//! macOS and FreeBSD, and Linux on processors without a backend of their own.
//!
//! **Signal context:** see each file.

mod addressee;
pub(crate) mod fork;
pub(crate) mod handler;
pub(crate) mod nudge;
