//! The calling thread's place in the runtime: its record, and the waits and wakes that records ask for.
//!
//! Owns: the process's registry, the thread-local pointer that a safepoint follows. Leaves to `attach` how a thread joins and
//! leaves, to `protocol` the order of the steps.
//!
//! **Signal context:** [`of_token`] and [`of_thread`] only.

use std::cell::Cell;

use crate::platform::{forced, futex, nudge};
use crate::protocol::record::{AfterUnpin, Owner, Pin, Record};
use crate::protocol::registry::{Members, Registry, ThreadId};
use crate::protocol::scope::ScopeId;

pub(crate) static REGISTRY: Registry = Registry::new();

/// What an unattached thread's safepoints look at: nobody ever raises into it, so no safepoint needs a null check.
static UNATTACHED: Record = Record::new(u32::MAX);

thread_local! {
    /// No destructor and a constant initial value: reading it is one load from the thread pointer.
    static CURRENT: Cell<&'static Record> = const { Cell::new(&UNATTACHED) };
    /// The scope that this thread has begun last, in its present record.
    pub(crate) static LATEST: Cell<ScopeId> = const { Cell::new(ScopeId::NONE) };
}

/// The record that the calling thread's safepoints look at.
#[inline(always)]
pub(crate) fn record() -> &'static Record {
    CURRENT.with(Cell::get)
}

/// The calling thread's own record, if it is attached.
#[inline(always)]
pub(crate) fn owner() -> Option<Owner> {
    let record = record();
    if std::ptr::eq(record, &raw const UNATTACHED) {
        None
    } else {
        Some(Owner::of(record))
    }
}

/// Who is attached, which does not change meanwhile. No handler of the program runs on top of this: it might ask the same.
pub(crate) fn with_members<R>(look: impl FnOnce(&Members) -> R) -> R {
    let _quiet = nudge::quiet();
    look(&REGISTRY.members())
}

/// The member that runs on this kernel thread. Takes no lock where the registry has it by heart.
pub(crate) fn on_os_thread(os_tid: i32) -> Option<ThreadId> {
    REGISTRY
        .recall(os_tid)
        .or_else(|| with_members(|members| Some(members.by_tid(os_tid)?.id)))
}

/// Points the calling thread's safepoints at a record, or at none.
pub(crate) fn set(record: Option<&'static Record>) {
    forced::forget();
    CURRENT.set(record.unwrap_or(&UNATTACHED));
}

/// Drops a pin and wakes its owner if it waits for that.
pub(crate) fn release<const UNIT: u64>(pin: Pin<'_, UNIT>) {
    let record = pin.record();
    if pin.release() == AfterUnpin::Wake {
        futex::wake(record.attention_word());
    }
}

/// For the handler: the record that a signal names.
pub(crate) fn of_token(token: usize) -> Option<&'static Record> {
    REGISTRY.of_token(token)
}

/// For the handler, when the kernel lost a signal's details: the record of this `pthread_self`. Looks at every record.
pub(crate) fn of_thread(thread: usize) -> Option<&'static Record> {
    (0..)
        .map_while(|index| REGISTRY.record(index))
        .find(|r| r.is_owned_by(thread))
}

impl ThreadId {
    /// The calling thread's id, if it is attached.
    ///
    /// ```
    /// assert_eq!(throwto::ThreadId::current(), None);
    /// let attachment = throwto::attach()?;
    /// assert_eq!(throwto::ThreadId::current(), Some(attachment.id()));
    /// # Ok::<(), throwto::AttachError>(())
    /// ```
    #[inline]
    pub fn current() -> Option<Self> {
        // The record knows it too: one load, where the membership's cell would ask whether it still lives.
        Self::of(owner()?.record())
    }
}

/// Sleeps until nobody looks at the region that the owner has left.
#[cold]
pub(crate) fn await_looks(owner: Owner) {
    while let Some(word) = owner.await_looks() {
        futex::wait(owner.record().attention_word(), word.futex(), None);
    }
}

/// Sleeps until nobody has the owner's record pinned.
#[cold]
pub(crate) fn await_pins(owner: Owner) {
    while let Some(word) = owner.await_pins() {
        futex::wait(owner.record().attention_word(), word.futex(), None);
    }
}

/// Sleeps until the signal that a raiser has decided on is sent, and takes it if it is still on its way.
#[inline(always)]
pub(crate) fn await_nudge(owner: Owner) {
    if owner.nudge_is_on_its_way() {
        await_the_nudge(owner);
    }
}

#[cold]
fn await_the_nudge(owner: Owner) {
    while let Some(word) = owner.await_nudge() {
        futex::wait(owner.record().attention_word(), word.futex(), None);
    }
    if owner.nudge_is_on_its_way() {
        nudge::take_pending();
    }
}
