//! What forced rungs need to know of a thread, and its handler cannot find out: where its stack is, and what its floating-point control
//! words are.
//!
//! Owns: asking once a thread, and leading the handler to the answers, by way of the record. Leaves to [`super`] what is made of them.
//!
//! **Signal context:** [`Given`] is read there. The rest no.

#![allow(unsafe_code)]

use std::cell::Cell;

use super::proof::Facts;
use crate::platform::arch;
use crate::protocol::record::Record;

/// What a thread has had from its start: its stack, and the floating-point control words. Rust code may not change those.
#[derive(Clone, Copy)]
pub(super) struct Given {
    /// The lowest address of its stack.
    pub(super) low: usize,
    /// Where its alternate signal stack begins, its size and its flags.
    pub(super) alternate: (usize, usize, libc::c_int),
    pub(super) controls: usize,
}

/// What forced regions need of the calling thread.
struct Own {
    /// Its record, once `given` is known and where light fences do: one look tells all three.
    ready: Cell<Option<&'static Record>>,
    /// Its record, once `given` is known.
    known: Cell<Option<&'static Record>>,
    given: Cell<Given>,
}

thread_local! {
    /// Nothing to drop, and a constant to begin with: its address is valid as long as the thread runs code.
    static OWN: Own = const {
        Own {
            ready: Cell::new(None),
            known: Cell::new(None),
            given: Cell::new(Given { low: 0, alternate: (0, 0, 0), controls: 0 }),
        }
    };
}

/// The calling thread is attached, and its record leads to what it was given.
#[derive(Clone, Copy)]
pub(crate) struct Ready(pub(super) &'static Record);

impl Ready {
    #[inline(always)]
    pub(crate) fn record(self) -> &'static Record {
        self.0
    }
}

/// The calling thread, if it is attached and [`get_ready`] was called since, where light fences do.
#[inline(always)]
pub(crate) fn ready() -> Option<Ready> {
    OWN.with(|own| own.ready.get()).map(Ready)
}

/// Looks at what the calling thread was given, whose record this is, if that was not done before. Forced rungs can be had, as the
/// facts show. `light`: whether light fences do, for good.
#[cold]
pub(crate) fn get_ready(_facts: &'static Facts, record: &'static Record, light: bool) -> Ready {
    OWN.with(|own| {
        if own.known.get().is_none() {
            own.given.set(look_at_thread());
            record.order.cell().put_given(own.given.as_ptr().cast());
            own.known.set(Some(record));
        }
        own.ready.set(light.then_some(record));
    });
    Ready(record)
}

/// The calling thread gets another record or another alternate stack.
pub(crate) fn forget() {
    OWN.with(|own| {
        own.ready.set(None);
        own.known.set(None);
    });
}

/// Asks the system: the answers do not change while the thread lives, except by a call of its own.
fn look_at_thread() -> Given {
    // SAFETY: plain data.
    let mut alternate: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: a query that writes there.
    unsafe { libc::sigaltstack(std::ptr::null(), &raw mut alternate) };
    Given {
        low: lowest_of_stack(),
        alternate: (alternate.ss_sp as usize, alternate.ss_size, alternate.ss_flags),
        controls: arch::controls(),
    }
}

/// The lowest address of the calling thread's stack; the highest of all if the system does not tell, so that nothing lies on it.
fn lowest_of_stack() -> usize {
    // SAFETY: plain data that the next call fills.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    // SAFETY: asks about the calling thread.
    let thread = unsafe { libc::pthread_self() };
    // SAFETY: `attributes` is ours.
    if unsafe { libc::pthread_getattr_np(thread, &raw mut attributes) } != 0 {
        return usize::MAX;
    }
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: filled above.
    let answer = unsafe { libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size) };
    // SAFETY: filled above, and not used again.
    unsafe { libc::pthread_attr_destroy(&raw mut attributes) };
    if answer == 0 { low as usize } else { usize::MAX }
}
