//! Rungs: the words for what got a thread to the point of delivery, and what a forced one did there.
//!
//! Owns: [`Rung`], the numbers under which a record notes one, [`Refusal`] and [`LeftCall`]. Leaves to `driver` the climbing, to
//! `safepoint` reading the note.
//!
//! **Signal context:** no.

use std::fmt;

use crate::platform::spot::{Passed, Refused};
use crate::platform::symbols;

/// What got the target to the point of delivery, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rung {
    /// It came by a safepoint by itself.
    Safepoint,
    /// It was woken from a wait of ours, without a signal.
    Wake,
    /// A signal broke its blocking call (EINTR). Where the runtime cannot see the call, the signal came during it.
    Nudge,
    /// Its blocked system call was made to return an error that is not EINTR.
    Fail,
    /// An unblock hook made the library return.
    Hook,
    /// Its frames were unwound by force.
    Unwind,
    /// Its context was reset.
    Abandon,
}

impl Rung {
    /// As the record notes it.
    pub(crate) fn noted(rung: u32) -> Self {
        match rung {
            0 | POLLED => Self::Safepoint,
            WOKEN => Self::Wake,
            2 => Self::Nudge,
            FAILED => Self::Fail,
            HOOKED => Self::Hook,
            UNWOUND => Self::Unwind,
            _ => Self::Abandon,
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Safepoint => "safepoint",
            Self::Wake => "wake",
            Self::Nudge => "nudge",
            Self::Fail => "fail",
            Self::Hook => "hook",
            Self::Unwind => "unwind",
            Self::Abandon => "abandon",
        })
    }
}

/// As noted in the record by a wait of ours that a raise ended. Distinct from every rung of the ladder.
pub(crate) const WOKEN: u32 = 0x80;
/// As noted in the record by a callback that has polled for exceptions and was told yes, and by the handler for a nudge to a foreign
/// call, whatever comes of it. Shows as [`Rung::Safepoint`].
pub(crate) const POLLED: u32 = 1;
/// As noted in the record by the handler.
pub(crate) const FAILED: u32 = 3;
/// As noted in the record by the driver.
pub(crate) const HOOKED: u32 = 4;
/// As noted in the record by a call that was left by force.
pub(crate) const UNWOUND: u32 = 5;
pub(crate) const ABANDONED: u32 = 6;

/// A forced rung has looked at a thread and left it where it was. It tries again until the exception is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    pc: usize,
    /// Why it must not be dropped.
    pub why: &'static str,
    /// How often a forced rung was refused in this call so far.
    pub times: u32,
}

impl Refusal {
    pub(crate) fn of(refused: Refused) -> Self {
        Self {
            pc: refused.pc,
            why: refused.why.text(),
            times: refused.times,
        }
    }

    /// The function of the frame that stood in the way: `malloc+0x1c in libc.so.6`. Reads symbols, which takes milliseconds in
    /// a large program.
    pub fn place(&self) -> String {
        symbols::name(self.pc)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in {}, {} ({} times)", self.place(), self.why, self.times)
    }
}

/// A foreign call that was left by force: where it was, and what is known to be lost with it.
///
/// Found with [`Raised::left`](crate::Raised::left).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftCall {
    /// The call's label.
    pub label: &'static str,
    /// [`Rung::Unwind`] or [`Rung::Abandon`].
    pub rung: Rung,
    pc: usize,
    /// How many frames were dropped, the closure's among them.
    pub frames: usize,
    /// How many bytes of stack they had.
    pub stack: usize,
}

impl LeftCall {
    pub(crate) fn of(label: &'static str, passed: Passed) -> Self {
        Self {
            label,
            rung: if passed.unwound {
                Rung::Unwind
            } else {
                Rung::Abandon
            },
            pc: passed.pc,
            frames: passed.frames as usize,
            stack: passed.bytes,
        }
    }

    /// The function that was left first: `inflate_fast+0x9c in libz.so.1`. Reads symbols, which takes milliseconds in a large
    /// program.
    pub fn place(&self) -> String {
        symbols::name(self.pc)
    }

    /// What is not given back, as far as can be known from outside.
    pub fn leaks(&self) -> &'static str {
        match self.rung {
            Rung::Unwind => {
                "what the closure owns, and what C frames without a cleanup attribute have allocated, opened or locked"
            }
            _ => {
                "everything that the call has allocated, opened, locked or changed and would have put back: memory, descriptors, \
                 locks, signal mask, locale; and what the closure owns"
            }
        }
    }
}

impl fmt::Display for LeftCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} was left in {} by {}: {} frames, {} bytes of stack; not given back: {}",
            self.label,
            self.place(),
            self.rung,
            self.frames,
            self.stack,
            self.leaks()
        )
    }
}
