//! Attaching and detaching: how a thread joins the runtime and leaves it.
//!
//! Owns: a thread's membership, from registering to the exit path. Leaves to `protocol` the order of the steps, to `current` the
//! pointer that a safepoint follows, to `set_up` and `runtime` what is the process's.
//! [`Attachment`]'s drop may block for the microseconds that somebody holds a pin.
//!
//! **Signal context:** no.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::Arc;

use crate::current::{self, LATEST, REGISTRY, await_pins, record};
use crate::error::AttachError;
use crate::platform::{handler, nudge, signal_stack};
use crate::protocol::lineage::GroupKey;
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::Owner;
use crate::protocol::registry::{Full, ThreadId};
use crate::protocol::scope::ScopeId;
use crate::protocol::word::Kind;
use crate::receipt::{settle, settle_aside, wake_receipt};
use crate::{mask, runtime, set_up};

thread_local! {
    static MEMBERSHIP: RefCell<Option<Membership>> = const { RefCell::new(None) };
}

thread_local! {
    /// Attachments of the present membership. Apart from it, so that a handler of the program may attach on top of any of this.
    static ATTACHMENTS: Cell<usize> = const { Cell::new(0) };
}

/// One thread's membership. Its drop, at the latest at the thread's end, is the exit path.
struct Membership {
    id: ThreadId,
    owner: Owner,
    /// Room for nudges. Goes last, when there are no more.
    _stack: Option<signal_stack::Widened>,
}

/// Keeps the calling thread attached; the thread can be raised into while one of these lives.
///
/// Attachments nest: the thread is detached when the last one is dropped, or at its end. Exceptions that are then still
/// pending end as [`ReceiptState::TargetEnded`]. The last one dropped inside a foreign call, a scope or a time limit does
/// not detach: somebody may be looking at that call, or raise into that scope. The thread stays attached until another attachment ends outside, at the latest until its end.
///
/// The guard belongs to its thread. Dropping it elsewhere does not compile:
///
/// ```compile_fail
/// let attachment = throwto::attach().unwrap();
/// std::thread::spawn(move || drop(attachment));
/// ```
#[must_use = "the thread is detached when the guard is dropped"]
#[derive(Debug)]
pub struct Attachment {
    id: ThreadId,
    _thread: PhantomData<*const ()>,
}

impl Attachment {
    /// The thread's id.
    pub fn id(&self) -> ThreadId {
        self.id
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Not that of another id, which the thread has had for a while and kept an attachment of.
        let Some(owner) = current::owner().filter(|owner| ThreadId::of(owner.record()) == Some(self.id))
        else {
            return;
        };
        let left = ATTACHMENTS.get() - 1;
        ATTACHMENTS.set(left);
        // The regions on this thread's stack write to the record when they end: it is not given back under them.
        let in_region = owner.region().kind() != Kind::Running;
        if left == 0 && !in_region && !owner.in_scope() {
            let last =
                MEMBERSHIP.try_with(|place| place.try_borrow_mut().ok().and_then(|mut place| place.take()));
            // Outside the borrow: the exit path drops exceptions, whose destructors may do anything.
            drop(last);
        }
    }
}

/// Attaches the calling thread: from now on it can be raised into, by its [`ThreadId`], its kernel thread number or its
/// name.
///
/// Threads started by [`thread::spawn`](crate::thread::spawn) attach by themselves. Calls nest.
///
/// # Errors
/// [`AttachError`] if the nudge signal cannot reach this thread, if the attach limit is reached or memory is short.
///
/// ```
/// let attachment = throwto::attach()?;
/// throwto::raise_exc(attachment.id(), throwto::Stop)?;
/// assert!(throwto::safepoint().unwrap_err().is::<throwto::Stop>());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn attach() -> Result<Attachment, AttachError> {
    attach_named(None)
}

/// As [`attach`], under `name` instead of the thread's own, unless the thread is attached already.
pub(crate) fn attach_named(name: Option<&Arc<str>>) -> Result<Attachment, AttachError> {
    if let Some(id) = ThreadId::current() {
        ATTACHMENTS.set(ATTACHMENTS.get() + 1);
        return Ok(Attachment {
            id,
            _thread: PhantomData,
        });
    }
    MEMBERSHIP
        .try_with(|_| ())
        .map_err(|_| AttachError::ThreadEnding)?;
    let attachment = {
        // A handler that attaches comes before all this or after.
        let _quiet = nudge::quiet();
        let name = name
            .cloned()
            .or_else(|| std::thread::current().name().map(Arc::from));
        adopt(register(name, None, None)?)
    };
    hear_a_nudge()?;
    Ok(attachment)
}

/// Registers a thread that is about to start, or the calling one. A parent is the calling thread.
pub(crate) fn register(
    name: Option<Arc<str>>,
    parent: Option<ThreadId>,
    group: Option<&GroupKey>,
) -> Result<ThreadId, AttachError> {
    let registered = {
        let _quiet = nudge::quiet();
        let config = set_up::ready()?;
        REGISTRY.register(name, parent, group, config.attach_limit)
    };
    // A child inherits what is in its parent's mail, too.
    if let Some(owner) = current::owner() {
        settle_aside(owner.record());
    }
    registered.map_err(|full| match full {
        Full::Limit { limit } => AttachError::Limit { limit },
        Full::Memory => AttachError::OutOfMemory,
    })
}

/// Makes the calling thread the owner of the registered `id`.
pub(crate) fn adopt(id: ThreadId) -> Attachment {
    if let Some(record) = REGISTRY.record(id.index()) {
        let _quiet = nudge::quiet();
        let stack = signal_stack::widen(id.index());
        record.begin(handler::this_thread(), nudge::os_tid());
        REGISTRY.bind(id, nudge::os_tid());
        let membership = Membership {
            id,
            owner: Owner::of(record),
            _stack: stack,
        };
        ATTACHMENTS.set(1);
        MEMBERSHIP.with_borrow_mut(|place| *place = Some(membership));
        current::set(Some(record));
        mask::carry_in(Owner::of(record));
        LATEST.set(ScopeId::NONE);
    }
    Attachment {
        id,
        _thread: PhantomData,
    }
}

/// The calling thread under another id. When this is dropped it is again who it was before.
///
/// Meanwhile nothing that is addressed to the outer id is delivered, and nobody is signalled in its name: its thread is
/// busy with something that is not its own.
pub(crate) struct Apart {
    // Dropped in this order, whatever unwinds out of the first two.
    attachment: Attachment,
    _kept: Kept,
    _return: Return,
}

/// Ends the inner membership, if somebody has kept an attachment of it.
struct Kept;

struct Return(Option<Membership>, usize);

impl Apart {
    pub(crate) fn id(&self) -> ThreadId {
        self.attachment.id()
    }
}

/// Sets the calling thread, which is attached, apart from who it is.
pub(crate) fn set_apart(name: Option<Arc<str>>) -> Result<Apart, AttachError> {
    let id = register(name, None, None)?;
    let _quiet = nudge::quiet();
    let outer = Return(MEMBERSHIP.take(), ATTACHMENTS.get());
    Ok(Apart {
        attachment: adopt(id),
        _kept: Kept,
        _return: outer,
    })
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(MEMBERSHIP.take());
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        if let Some(outer) = self.0.take() {
            let _quiet = nudge::quiet();
            ATTACHMENTS.set(self.1);
            let record = outer.owner.record();
            REGISTRY.bind(outer.id, nudge::os_tid());
            record.begin(handler::this_thread(), nudge::os_tid());
            MEMBERSHIP.set(Some(outer));
            current::set(Some(record));
        }
    }
}

/// Sends the calling thread a nudge and tells why it did not arrive, if it did not.
fn hear_a_nudge() -> Result<(), AttachError> {
    let signal = runtime::signal();
    if nudge::is_blocked(signal) {
        return Err(AttachError::SignalBlocked { signal });
    }
    match nudge::reaches_me(record(), signal) {
        Ok(true) => Ok(()),
        Ok(false) => Err(AttachError::HandlerReplaced { signal }),
        Err(errno) => Err(AttachError::SignalRefused { signal, errno }),
    }
}

/// A registered thread that never started.
pub(crate) fn never_started(id: ThreadId) {
    if let Some(record) = REGISTRY.record(id.index()) {
        end(id, Owner::of(record));
    }
}

fn end(id: ThreadId, owner: Owner) {
    owner.begin_exit();
    await_pins(owner);
    let _gone = Gone(id);
    let left = owner.close();
    settle_aside(owner.record());
    settle(left, ReceiptState::TargetEnded);
}

/// Ends the membership when dropped, on every way out of the exceptions' destructors.
struct Gone(ThreadId);

impl Drop for Gone {
    fn drop(&mut self) {
        let _quiet = nudge::quiet();
        REGISTRY.release(self.0);
        runtime::note_end();
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        mask::carry_out(self.owner);
        current::set(None);
        // Delivered and not caught: caught by the end.
        for receipt in self.owner.record().flight.take() {
            wake_receipt(&receipt, receipt.advance(ReceiptState::Caught));
        }
        end(self.id, self.owner);
    }
}
