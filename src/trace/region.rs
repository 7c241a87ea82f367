//! Spans of foreign calls.
//!
//! Owns: the span that an attached thread is in while it is in a [`Call`](crate::foreign::Call), and when there is none. Leaves to
//! `trace` the events, to `foreign` when a region begins. Runs the subscriber on the calling thread, before the region has
//! begun and after it has ended.
//!
//! **Signal context:** no.
//!
//! An event is told by a thread of its own; a span cannot be: it is there for what others log in the call. So there is one at
//! level `TRACE` only, which nobody gets who asked for the events, and never where the subscriber could stop more than its caller:
//!
//! - I1. No lock and no pin of this crate is held, and no region of this call is open: no signal comes for it.
//! - I2. Never on the driver, where a hook may make foreign calls of its own, nor on the telling thread: they are not
//!   attached. Never inside itself, for a subscriber that makes foreign calls.
//! - I3. Never in a forked child.
//! - I4. A subscriber that panics has lost this span; the call goes on.
//! - I5. An exception that is pending is not for the subscriber to meet: it runs uninterruptible.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::level_filters::LevelFilter;
use tracing::span::EnteredSpan;
use tracing::{Level, trace_span};

use super::on::at_home;
use crate::mask::uninterruptible;
use crate::protocol::registry::ThreadId;
use crate::region::no_abandon;

thread_local! {
    /// Whether the subscriber runs on this thread because of us.
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// The span of a call. Dropped after its region has ended.
#[must_use = "the span ends when this is dropped"]
pub(crate) struct InSpan(Option<EnteredSpan>);

/// The span of the call that the calling thread, which is attached, is about to make.
#[inline(always)]
pub(crate) fn region(label: &'static str) -> InSpan {
    if LevelFilter::current() < Level::TRACE {
        return InSpan(None);
    }
    enter(label)
}

#[cold]
fn enter(label: &'static str) -> InSpan {
    if !at_home() {
        return InSpan(None);
    }
    let id = ThreadId::current().map(tracing::field::display);
    let span = subscriber(|| trace_span!(target: "throwto", "region", label, thread = id).entered());
    InSpan(span.filter(|span| !span.is_disabled()))
}

/// Runs what runs the subscriber (I2, I4, I5). The region of an outer call, if this one is made by a callback, is not left by
/// force meanwhile.
fn subscriber<T>(run: impl FnOnce() -> T) -> Option<T> {
    if TELLING.replace(true) {
        return None;
    }
    let told = catch_unwind(AssertUnwindSafe(|| uninterruptible(|_| no_abandon(run))));
    TELLING.set(false);
    told.ok()
}

impl Drop for InSpan {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(span) = self.0.take() {
            leave(span);
        }
    }
}

#[cold]
fn leave(span: EnteredSpan) {
    subscriber(|| drop(span));
}
