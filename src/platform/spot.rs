//! What is said of a spot at which a thread was to be left by force.
//!
//! Owns: the words that the handler, the driver and the face have in common. Plain values.
//!
//! **Signal context:** yes, plain values.

/// Why a thread was not left where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[cfg_attr(not(throwto_forced), expect(dead_code, reason = "nothing is left by force"))]
pub(crate) enum Why {
    /// A frame is in code that the caller has not allowed.
    NotAllowed,
    /// A frame cannot be unwound past.
    NoDescription,
    /// It runs on a stack that is not the thread's, or has not reached the region.
    OtherStack,
    /// An unwinding is under way.
    Unwinding,
    /// A `catch (...)` kept the exception to itself.
    Swallowed,
    /// A C++ frame would end the process rather than be unwound: `noexcept`, a destructor.
    Terminates,
    /// The call that blocks is not one that may be left.
    NotACancellationPoint,
    /// A Rust frame between the region's own and the call.
    ThroughRust,
    /// Too little stack to unwind on.
    NoRoom,
    /// Too many threads at once.
    Busy,
    /// It waits for a lock, or on something like it: libc aborts, or the lock stays held, if such a wait is left.
    Futex,
    /// The system does not tell which call it is in.
    Unseen,
}

impl Why {
    #[cfg(throwto_forced)]
    pub(crate) const fn unpacked(value: u32) -> Self {
        const ALL: [Why; 12] = [
            Why::NotAllowed,
            Why::NoDescription,
            Why::OtherStack,
            Why::Unwinding,
            Why::Swallowed,
            Why::Terminates,
            Why::NotACancellationPoint,
            Why::ThroughRust,
            Why::NoRoom,
            Why::Busy,
            Why::Futex,
            Why::Unseen,
        ];
        let mut at = 0;
        while at < ALL.len() {
            if ALL[at] as u32 == value {
                return ALL[at];
            }
            at += 1;
        }
        Self::NotAllowed
    }

    /// To be read after the name of the frame.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::NotAllowed => "which is in no module that the call allows",
            Self::NoDescription => "whose frame is not described, so what is above it cannot be known",
            Self::OtherStack => "which runs on a stack other than the thread's",
            Self::Unwinding => "while an unwinding is under way, whose destructors have not ended",
            Self::Swallowed => "where a catch (...) kept the exception and did not throw it on",
            Self::Terminates => "which is noexcept or a destructor: C++ would end the process",
            Self::NotACancellationPoint => "which does not block in a call that may be left",
            Self::ThroughRust => "a Rust frame, which may own what only its end gives back",
            Self::NoRoom => "with too little stack left to unwind on",
            Self::Busy => "while other threads are being looked at",
            Self::Futex => "a wait on a futex: a lock of the library's, which nobody may break",
            Self::Unseen => "where the system does not tell which call it blocks in (/proc/self/task)",
        }
    }
}

/// The first word of what a region of a foreign call shows: whose call it is, and whether there is a way out of it behind
/// this word (`forced::Escape`). The handler reads no further without one.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Key(*const ());

impl Key {
    const ESCAPE: usize = 1;

    #[inline(always)]
    pub(crate) fn of_call<C>(call: &C) -> Self {
        const { assert!(align_of::<C>() > Self::ESCAPE) };
        Self(std::ptr::from_ref(call).cast())
    }

    #[inline(always)]
    #[cfg_attr(not(throwto_forced), expect(dead_code, reason = "nothing is left by force"))]
    pub(crate) fn of_escape<C>(call: &C) -> Self {
        Self(Self::of_call(call).0.wrapping_byte_add(Self::ESCAPE))
    }

    pub(crate) fn call(self) -> *const () {
        self.0.map_addr(|address| address & !Self::ESCAPE)
    }

    #[cfg_attr(not(throwto_forced), expect(dead_code, reason = "nothing is left by force"))]
    pub(crate) fn is_escape(self) -> bool {
        self.0.addr() & Self::ESCAPE != 0
    }
}

/// The last refusal of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) why: Why,
    pub(crate) pc: usize,
    pub(crate) times: u32,
}

/// What was dropped when a thread was made to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// By unwinding: cleanups ran.
    pub(crate) unwound: bool,
    pub(crate) pc: usize,
    pub(crate) frames: u32,
    pub(crate) bytes: usize,
}

/// Why a range of code cannot be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(throwto_forced), expect(dead_code, reason = "nothing is left by force"))]
pub(crate) enum NoModule {
    /// No library of that name, or at that address, is loaded.
    NotLoaded,
    /// Frames of this one may never be dropped.
    Never { name: String },
    /// The executable holds Rust code too: only a range of it can be allowed.
    Executable,
    /// The range holds Rust code.
    RustInside { symbol: String },
    /// The range is empty, upside down, or in more than one object.
    NoRange,
    /// No description of its frames was found.
    NoDescription { name: String },
    /// Nothing can be left by force on this system.
    #[cfg_attr(throwto_forced, expect(dead_code, reason = "it can"))]
    Unsupported,
}

#[cfg(all(test, throwto_forced))]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_packed_unpacked_and_told_apart() {
        const LAST: u32 = Why::Unseen as u32;
        let texts: std::collections::HashSet<_> =
            (0..=LAST).map(|value| Why::unpacked(value).text()).collect();
        assert_eq!(texts.len(), LAST as usize + 1);
        for value in 0..=LAST {
            assert_eq!(Why::unpacked(value) as u32, value);
        }
        assert_eq!(Why::unpacked(LAST + 1), Why::NotAllowed);
    }
}
