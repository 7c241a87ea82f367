//! Masks: holding exceptions back.
//!
//! Owns: [`mask`], [`uninterruptible`], [`shield`], [`bracket`] and restoring the level on every way out. Leaves to
//! `safepoint` what a level allows. Nothing here blocks, allocates or can be raised into.
//!
//! **Signal context:** no.
//!
//! - I1. A nested mask never weakens an outer one: the stronger level holds, as in GHC. Only [`Mask::restore`] goes back,
//!   and only to the level outside that mask.
//! - I2. The level is the thread's and is restored by a guard's drop: return, `?`, break and unwinding all pass there. It stays
//!   in force when the thread is attached or detached meanwhile: [`carry_in`], [`carry_out`].
//! - I3. A new thread starts unmasked.

use std::cell::Cell;
use std::time::Duration;

use crate::current;
use crate::driver;
use crate::protocol::Owing;
use crate::protocol::record::Owner;
use crate::protocol::registry::ThreadId;
use crate::protocol::word::{Kind, Level, Region};
use crate::receipt::deadline_after;

/// A mask in force, given to the closure that runs under it.
#[derive(Debug)]
pub struct Mask {
    outer: Saved,
}

/// What is in force, to go back to or to put in its place.
#[derive(Clone, Copy, Debug)]
struct Saved {
    level: Level,
    /// Until when a shield holds beside the level.
    shield_until: Option<u64>,
}

impl Saved {
    const NOTHING: Self = Self {
        level: Level::Unmasked,
        shield_until: None,
    };

    fn now(owner: Option<Owner>) -> Self {
        let Some(owner) = owner else {
            return UNATTACHED.get();
        };
        let region = owner.region();
        let shield_until = region
            .has(Region::SHIELDED)
            .then(|| owner.record().shield_until());
        Self {
            level: region.level(),
            shield_until,
        }
    }

    fn put(self, owner: Option<Owner>) {
        let Some(owner) = owner else {
            return UNATTACHED.set(self);
        };
        if let Some(until) = self.shield_until {
            owner.set_shield(until);
        }
        owner.set_mask(self.level, self.shield_until.is_some());
    }

    fn is_weaker_than(self, other: Self) -> bool {
        self.level < other.level || self.shield_until < other.shield_until
    }
}

thread_local! {
    /// What is in force while the thread is not attached, and so has no record to keep it in.
    static UNATTACHED: Cell<Saved> = const { Cell::new(Saved::NOTHING) };
}

/// The calling thread has been attached: what was in force before is in force in its record.
pub(crate) fn carry_in(owner: Owner) {
    UNATTACHED.replace(Saved::NOTHING).put(Some(owner));
}

/// The calling thread is being detached: what is in force in its record stays in force.
pub(crate) fn carry_out(owner: Owner) {
    UNATTACHED.set(Saved::now(Some(owner)));
}

/// Restores the level it was made with.
struct Restore {
    saved: Saved,
}

impl Restore {
    /// Puts what `change` makes of the present mask in force until the drop.
    fn set(change: impl FnOnce(Saved) -> Saved) -> Self {
        let saved = Saved::now(current::owner());
        change_to(change(saved), saved);
        Self { saved }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        change_to(self.saved, Saved::now(current::owner()));
    }
}

fn change_to(new: Saved, now: Saved) {
    let owner = current::owner();
    new.put(owner);
    if let Some(owner) = owner
        && new.is_weaker_than(now)
    {
        lowered(owner);
    }
}

/// The level went down. A running thread meets its exceptions by itself; inside a foreign region (a callback has put its
/// mask away) the library may block again, and nobody nudged while the mask was up.
fn lowered(owner: Owner) {
    if owner.region().kind() != Kind::Running && owner.record().attention().calls() {
        enlist(owner);
    }
}

/// Asks the driver to look at the calling thread: it is about to block with a deliverable exception pending.
#[cold]
pub(crate) fn enlist(owner: Owner) {
    let _owing = Owing::new();
    if owner.record().enlist()
        && let Some(id) = ThreadId::current()
    {
        driver::note(id);
    }
}

fn at_least<R>(level: Level, f: impl FnOnce(&Mask) -> R) -> R {
    let restore = Restore::set(|now| Saved {
        level: level.max(now.level),
        ..now
    });
    f(&Mask { outer: restore.saved })
}

/// Runs `f` masked: safepoints raise nothing, and an exception is delivered only where the thread would really block.
///
/// What is held back stays pending and is delivered at the first safepoint after the mask. [`Mask::restore`] runs a part
/// under the level that held outside. It holds as well for a limit or a scope inside it that attaches the thread.
///
/// The three levels and restoring the outer one are GHC's.
///
/// ```
/// let attachment = throwto::attach()?;
/// throwto::raise_exc(attachment.id(), throwto::Stop)?;
/// throwto::mask(|m| {
///     assert!(throwto::safepoint().is_ok());
///     m.restore(|| assert!(throwto::safepoint().is_err()));
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn mask<R>(f: impl FnOnce(&Mask) -> R) -> R {
    at_least(Level::Masked, f)
}

/// Runs `f` with nothing delivered in it, not even where it blocks. Keep it short: nobody can stop it.
///
/// ```
/// let attachment = throwto::attach()?;
/// throwto::raise_exc(attachment.id(), throwto::Stop)?;
/// throwto::uninterruptible(|_| throwto::thread::sleep(std::time::Duration::from_millis(1))).unwrap();
/// assert!(throwto::safepoint().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn uninterruptible<R>(f: impl FnOnce(&Mask) -> R) -> R {
    at_least(Level::Uninterruptible, f)
}

/// Runs `f` uninterruptible for at most `limit`: clean-up that may be stopped if it takes too long.
///
/// After that, exceptions are delivered in it as if the shield were not there: a [`mask`] or [`uninterruptible`] around or
/// inside it holds on. Nested shields hold until the later of their deadlines. A limit too long for the clock never ends;
/// zero is over at once. The deadline is Trio's idea.
///
/// ```
/// use std::time::Duration;
/// let attachment = throwto::attach()?;
/// throwto::raise_exc(attachment.id(), throwto::Stop)?;
/// throwto::shield(Duration::from_millis(20), || {
///     assert!(throwto::safepoint().is_ok());
///     // The shield ends long before this sleep would.
///     assert!(throwto::thread::sleep(Duration::from_secs(3600)).is_err());
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn shield<R>(limit: Duration, f: impl FnOnce() -> R) -> R {
    let until = deadline_after(limit).unwrap_or(u64::MAX);
    let _restore = Restore::set(|now| Saved {
        shield_until: now.shield_until.max(Some(until)),
        ..now
    });
    f()
}

impl Mask {
    /// Runs `f` under the level that held outside this mask.
    pub fn restore<R>(&self, f: impl FnOnce() -> R) -> R {
        let _restore = Restore::set(|_| self.outer);
        f()
    }
}

/// Acquires a resource, uses it and releases it, whatever happens in between.
///
/// `acquire` and `release` run masked, so that no exception comes between having the resource and guarding it; `use_`
/// runs under the level that held outside. `release` runs on every way out of `use_`, unwinding included.
///
/// ```
/// let length = throwto::bracket(
///     || String::from("resource"),
///     |resource| resource.len(),
///     |resource| drop(resource),
/// );
/// assert_eq!(length, 8);
/// ```
pub fn bracket<R, T>(
    acquire: impl FnOnce() -> R,
    use_: impl FnOnce(&mut R) -> T,
    release: impl FnOnce(R),
) -> T {
    struct Held<R, F: FnOnce(R)>(Option<(R, F)>);
    impl<R, F: FnOnce(R)> Drop for Held<R, F> {
        fn drop(&mut self) {
            if let Some((resource, release)) = self.0.take() {
                release(resource);
            }
        }
    }
    mask(|m| {
        let mut held = Held(Some((acquire(), release)));
        match &mut held.0 {
            Some((resource, _)) => m.restore(|| use_(resource)),
            None => unreachable!("only the drop takes it out"),
        }
    })
}
