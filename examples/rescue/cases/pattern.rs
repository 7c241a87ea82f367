//! A PCRE2 pattern that backtracks for ever. PCRE2 counts its steps and gives up after 4,294,967,295 of them at the most, which
//! takes a quarter of an hour.

use std::io;
use std::ptr::null_mut;
use std::time::Duration;

use pcre2_sys::*;
use throwto::foreign::{Call, CallError, Module, clear_poison};

use crate::case::{Case, Out, StuckIn, Witness};
use crate::linked;

const LABEL: &str = "pcre2_match";

pub fn set_up() -> io::Result<Case> {
    let matching = linked::modules(&["pcre2_match.c"], "pcre2_match_8", pcre2_match_8 as *const ())?;
    let same = matching.clone();
    let stuck = move |witness: &Witness| {
        let words = Pattern::new(r"^(\w+\s?)+$")?;
        let _guard = witness.guard();
        let text = "w".repeat(60) + "!";
        let found = words.matches(&text, &matching)?;
        Err(Out::Failed(format!("pcre2_match returned {found}")))
    };
    let next = move || -> Result<i64, Out> {
        // What was left in the middle is not used again: this job has a pattern of its own.
        clear_poison(LABEL);
        let pair = Pattern::new(r"(\w+) (\w+)")?;
        Ok(i64::from(pair.matches("two words", &same)?))
    };
    Ok(Case::new(StuckIn::Running(LABEL), stuck, next, 3))
}

/// Never freed: a match that is left by force may have been about to change what belongs to it.
struct Pattern {
    code: *mut pcre2_code_8,
    state: *mut pcre2_match_data_8,
    limits: *mut pcre2_match_context_8,
}

impl Pattern {
    fn new(text: &str) -> io::Result<Self> {
        let (mut error, mut place) = (0, 0);
        // SAFETY: `text` is as long as is said, and the two numbers are ours to write.
        let code = unsafe {
            pcre2_compile_8(
                text.as_ptr(),
                text.len(),
                0,
                &raw mut error,
                &raw mut place,
                null_mut(),
            )
        };
        if code.is_null() {
            return Err(io::Error::other(format!("pattern: error {error} at {place}")));
        }
        // SAFETY: a compiled pattern, and no context of ours.
        let state = unsafe { pcre2_match_data_create_from_pattern_8(code, null_mut()) };
        // SAFETY: no context of ours.
        let limits = unsafe { pcre2_match_context_create_8(null_mut()) };
        if state.is_null() || limits.is_null() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // SAFETY: made above.
        unsafe { pcre2_set_match_limit_8(limits, u32::MAX) };
        // SAFETY: made above.
        unsafe { pcre2_set_heap_limit_8(limits, u32::MAX) };
        Ok(Self { code, state, limits })
    }

    /// The number of groups that matched, and one.
    fn matches(&self, text: &str, modules: &[Module]) -> Result<i32, CallError> {
        let call = Call::new(LABEL).abandon_after(Duration::from_millis(5));
        let call = modules.iter().fold(call, Call::allow);
        let found = || {
            // SAFETY: `self` has what belongs together, and `text` is as long as is said.
            unsafe {
                pcre2_match_8(
                    self.code,
                    text.as_ptr(),
                    text.len(),
                    0,
                    PCRE2_NO_JIT,
                    self.state,
                    self.limits,
                )
            }
        };
        // SAFETY: PCRE2 calls the allocator and nobody else; the closure owns nothing; what the match was working on is never
        // used again, and read-only is all that it shares.
        unsafe { call.run_forced(found) }
    }
}
