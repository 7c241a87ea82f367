//! Leaving a region by force: what the handler does with the orders *unwind* and *abandon*.
//!
//! Owns: [`Escape`], the way out that a region keeps on its owner's stack; the two things the handler may do with it; what
//! it leaves there for the driver to read. Leaves to [`proof`] whether the spot is safe, to [`given`] what the thread is like, to [`unwind`] the
//! unwinding itself, to `arch` the assembly, to the face the poison and the reports.
//!
//! **Signal context:** [`perform`] and what it calls, yes: no allocation, no lock, no thread-local. The rest no.
//!
//! ```text
//!   region entered --(1) `Escape::put`-------> Calm --(2) handler, Act::Abandon--> Left
//!                                               | ^
//!                          (3) handler,         | | (5) `catch (...)` kept the exception: Swallowed
//!                              Act::Unwind      v |
//!                                            Unwinding --(4) stop function--> Left
//! ```
//!
//! - I1. An `Escape` is written by its owner's thread alone: on entry, by the handler, by the stop function. The driver reads
//!   the atomics under a look (I4 of `protocol::record`), and may note a refusal there.
//! - I2. The interrupted context is changed only after a proof that holds for that very context. Handlers of the program that interrupt
//!   ours meanwhile change neither it nor the frames that it stands on: they return to ours, or ours never goes on.
//! - I3. While an unwinding is under way no other forced rung begins: destructors are ours to wait for.
//!
//! What is stored on entry is what nobody can find out later, since every region pays for it. Where the trampoline's frame is, the proof
//! finds on its way; what the thread's stack and its control words are like is told once ([`given`]).

#![allow(unsafe_code)]

mod given;
mod proof;
mod unwind;

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, offset_of};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering};

use super::module::Module;
use crate::platform::arch::{self, CONTROLS, Context, FUNCTION, SAVED, SAVES};
use crate::platform::spot::{Key, Passed, Refused, Why};
use crate::protocol::order::{Act, Instruction};
use crate::protocol::record::Record;
use crate::protocol::word::{Level, Region};

pub(crate) use crate::platform::arch::Function;
use given::Given;
pub(crate) use given::{Ready, forget, get_ready, ready};
pub(crate) use proof::{Facts, prepare};

/// Rungs as the handler notes them in [`Record::rung`].
pub(crate) const RUNG_UNWIND: u32 = 5;
pub(crate) const RUNG_ABANDON: u32 = 6;

/// As [`Escape::put`] leaves it.
const CALM: u16 = 0;
const UNWINDING: u16 = 1;
const SWALLOWED: u16 = 2;
const LEFT: u16 = 3;

/// What the unwinder, and the cleanups it runs, may need of the thread's stack.
const UNWINDERS_ROOM: usize = 64 << 10;

/// What all regions of one kind of call have in common, settled before any is entered.
pub(crate) struct Terms {
    /// Code that may be abandoned.
    pub(crate) allowed: Vec<Module>,
    /// Whether a mere nudge is an order to abandon the call.
    pub(crate) at_once: bool,
}

impl Terms {
    pub(crate) const fn new() -> Self {
        Self {
            allowed: Vec::new(),
            at_once: false,
        }
    }
}

/// The way out of a region: the frame that the region shows, on its owner's stack above that of the trampoline.
#[repr(C, align(16))]
pub(crate) struct Escape<'a> {
    /// First, as in every frame. Leads to the terms.
    key: Key,
    /// Written by the handler, loaded by the trampoline behind a call that was left.
    controls: UnsafeCell<MaybeUninit<usize>>,
    // To begin with, a `Beginning`.
    /// The function that the trampoline calls.
    shim: Function,
    state: AtomicU16,
    refused_why: AtomicU16,
    refusals: AtomicU32,
    /// The trampoline's.
    saved: UnsafeCell<MaybeUninit<[usize; SAVED]>>,
    /// Written with the first refusal.
    refused_pc: MaybeUninit<AtomicUsize>,
    terms: PhantomData<&'a Terms>,
    /// Written by the handler before it changes the context, read after that on the same thread. Most calls are never left:
    /// nothing is written on the way in.
    left: UnsafeCell<MaybeUninit<Left>>,
    exception: UnsafeCell<MaybeUninit<unwind::Exception>>,
}

const _: () = assert!(offset_of!(Escape<'_>, key) == 0 && offset_of!(Escape<'_>, controls) == CONTROLS);
const _: () = assert!(offset_of!(Escape<'_>, shim) == FUNCTION && offset_of!(Escape<'_>, saved) == SAVES);
const _: () = assert!(offset_of!(Escape<'_>, state) == FUNCTION + offset_of!(Beginning, calm));
const _: () = assert!(offset_of!(Escape<'_>, refusals) == offset_of!(Escape<'_>, state) + 4);

/// What an [`Escape`] has from the start, besides its key: a constant, copied as a whole. An entry that stores little is a fast one.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Beginning {
    shim: Function,
    /// Neither left nor refused: three numbers that may be 0.
    calm: u64,
}

impl Beginning {
    pub(crate) const fn of(shim: Function) -> Self {
        Self { shim, calm: 0 }
    }
}

/// What is known of frames that are being dropped.
#[derive(Clone, Copy)]
struct Left {
    /// The stack pointer in the trampoline.
    anchor: usize,
    pc: usize,
    bytes: usize,
    frames: u32,
    /// The CFA of the outermost foreign frame: where an unwinding ends.
    boundary: usize,
}

impl<'a> Escape<'a> {
    /// Puts a way out of a region there, on the terms of `call`, which begins with them. That the thread is `_ready` is what makes it
    /// one.
    ///
    /// # Safety
    /// `place` may be written to.
    #[inline(always)]
    pub(crate) unsafe fn put<C>(place: *mut Self, _ready: Ready, call: &'a C, beginning: &Beginning) {
        // SAFETY: by contract.
        unsafe { place.cast::<Key>().write(Key::of_escape(call)) };
        // SAFETY: by contract. The rest may be anything.
        unsafe {
            place
                .wrapping_byte_add(FUNCTION)
                .cast::<Beginning>()
                .write(*beginning)
        };
    }

    /// The escape that this frame is, if it is one.
    ///
    /// # Safety
    /// 1. `frame` is null, or points to the frame of a region, which begins with its [`Key`] and lasts for `'f`.
    /// 2. A key of an escape is the first word of an [`Escape`].
    pub(crate) unsafe fn of<'f>(frame: *const ()) -> Option<&'f Self> {
        // SAFETY: by 1.
        let key = unsafe { frame.cast::<Key>().as_ref() }?;
        // SAFETY: by 1 and 2.
        key.is_escape().then(|| unsafe { &*frame.cast::<Self>() })
    }

    /// Calls the shim through the trampoline, and gives what it gives back; `None` if the call was left by force.
    ///
    /// # Safety
    /// 1. `this` was [put](Escape::put) there, and its shim may be called with it and the word.
    /// 2. Between the shim and wherever an order finds the thread there are only frames that may be dropped: foreign frames,
    ///    and Rust frames that own nothing.
    /// 3. The call that was given to it begins with its `Terms`, and lasts.
    #[inline(always)]
    pub(crate) unsafe fn call(this: *mut Self, word: MaybeUninit<usize>) -> Option<MaybeUninit<usize>> {
        // SAFETY: 1; the handler leaves only with a proof (I2), past frames as in 2, and behind `pass`.
        unsafe { arch::enter(this.cast(), word) }
    }

    fn terms(&self) -> &'a Terms {
        // SAFETY: by 3 of `call`: nobody looks at an escape that is not being called.
        unsafe { &*self.key.call().cast::<Terms>() }
    }

    /// What was dropped.
    ///
    /// # Safety
    /// [`Escape::call`] has just given `None`.
    #[cold]
    pub(crate) unsafe fn landed(this: *mut Self) -> Passed {
        // SAFETY: by contract it is one, of a region that lasts.
        let escape = unsafe { &*this };
        let unwound = escape.state.swap(LEFT, Ordering::Relaxed) == UNWINDING;
        if unwound {
            unwind::tidy_up();
        }
        // SAFETY: whoever has brought the thread here has called `pass` before.
        let Left {
            pc, bytes, frames, ..
        } = unsafe { escape.left() };
        Passed {
            unwound,
            pc,
            frames,
            bytes,
        }
    }

    /// # Safety
    /// On the owner's thread, after [`Escape::pass`].
    unsafe fn left(&self) -> Left {
        // SAFETY: written by `pass`; the handler that does is not running now, since this thread is.
        unsafe { self.left.get().cast::<Left>().read() }
    }

    /// The last refusal in this region, and how many there were.
    pub(crate) fn refused(&self) -> Option<Refused> {
        let times = self.refusals.load(Ordering::Acquire);
        (times > 0).then(|| Refused {
            why: Why::unpacked(self.refused_why.load(Ordering::Relaxed).into()),
            pc: self.refused_pc().load(Ordering::Relaxed),
            times,
        })
    }

    /// To be read behind a refusal only.
    fn refused_pc(&self) -> &AtomicUsize {
        // SAFETY: a place for a number, which nobody reads before it was written.
        unsafe { &*self.refused_pc.as_ptr() }
    }

    /// Also for the driver, under a look: then two refusals may be mixed up, which only a report can tell.
    pub(crate) fn refuse(&self, why: Why, pc: usize) {
        self.refused_why.store(why as u16, Ordering::Relaxed);
        self.refused_pc().store(pc, Ordering::Relaxed);
        // Pairs with the load in `refused`.
        self.refusals.fetch_add(1, Ordering::Release);
    }

    /// What is dropped, and what the trampoline loads behind it.
    fn pass(&self, pc: usize, sp: usize, passed: proof::Clear, controls: usize) {
        let left = Left {
            anchor: passed.anchor,
            pc,
            bytes: passed.anchor - sp,
            frames: passed.frames,
            boundary: passed.boundary,
        };
        // SAFETY: in the handler, on the owner's thread, in a state in which nobody has been told to read it (I1).
        unsafe { self.left.get().cast::<Left>().write(left) };
        // SAFETY: as above.
        unsafe { self.controls.get().cast::<usize>().write(controls) };
    }
}

/// What keeps a rung from being tried at all, before the frames are looked at. The stack reaches from its lowest address to the
/// anchor.
fn refusal(state: u16, rung: u32, sp: usize, stack: Range<usize>) -> Option<Why> {
    match state {
        CALM if !stack.contains(&sp) => Some(Why::OtherStack),
        CALM if rung == RUNG_UNWIND && sp - stack.start < UNWINDERS_ROOM => Some(Why::NoRoom),
        CALM => None,
        SWALLOWED if rung == RUNG_ABANDON => None,
        SWALLOWED => Some(Why::Swallowed),
        _ => Some(Why::Unwinding),
    }
}

/// Carries out a forced order on the interrupted thread, if its region allows it and the spot is proved safe. Without an order
/// it does so in a region that is to be abandoned at once. `false` if it has done nothing.
pub(super) fn perform(
    record: &Record,
    region: Region,
    order: Option<&Instruction>,
    context: &mut Context<'_>,
) -> bool {
    // SAFETY: the frame of a region of this thread, which stands still. It may also be the outer region's, in the moment of leaving
    // (step (d) of `protocol::record`) or of entering: as long-lived, and of the same make; or null.
    let Some(escape) = (unsafe { Escape::of(record.frame()) }) else {
        return false;
    };
    let (pc, sp) = (context.pc(), context.sp() as usize);
    let may_abandon = region.has(Region::ABANDON) && region.level() == Level::Unmasked;
    let rung = match order {
        Some(wanted) if wanted.act == Act::Unwind && region.has(Region::UNWIND) => {
            if !super::fail::may_be_left(wanted, context) {
                return false;
            }
            RUNG_UNWIND
        }
        Some(wanted) if wanted.act == Act::Abandon && may_abandon => RUNG_ABANDON,
        None if escape.terms().at_once && may_abandon => RUNG_ABANDON,
        _ => return false,
    };
    // SAFETY: who has entered the region has put there what belongs to this thread, which lives.
    let Some(given) = (unsafe { record.order.given().cast::<Given>().as_ref() }) else {
        return false;
    };
    let top = std::ptr::from_ref(escape).addr();
    if let Some(why) = refusal(escape.state.load(Ordering::Relaxed), rung, sp, given.low..top) {
        escape.refuse(why, pc);
        return false;
    }
    let alternate = *context.alternate_stack();
    match proof::prove(escape, rung, context, &alternate) {
        Err((why, pc)) => {
            escape.refuse(why, pc);
            false
        }
        Ok(clear) if !keep_alternate_stack(given, context, sp, clear.anchor) => {
            escape.refuse(Why::Busy, pc);
            false
        }
        Ok(clear) => {
            escape.pass(pc, sp, clear, given.controls);
            if rung == RUNG_UNWIND {
                escape.state.store(UNWINDING, Ordering::Relaxed);
                // SAFETY: the proof has found stack enough.
                unsafe { context.unwind_by(unwind::begin, std::ptr::from_ref(escape).cast()) };
            } else {
                context.escape_to(clear.anchor);
            }
            record.note_rung(rung);
            true
        }
    }
}

/// An alternate stack that lies in the frames which are dropped must not be left with the kernel: signals would write over
/// what the thread keeps there next. `false` if it cannot be taken down now.
fn keep_alternate_stack(given: &Given, context: &mut Context<'_>, sp: usize, anchor: usize) -> bool {
    let present = context.alternate_stack();
    if !(sp..anchor).contains(&(present.ss_sp as usize)) {
        return true;
    }
    let (start, size, flags) = given.alternate;
    let mut before = libc::stack_t {
        ss_sp: start as *mut libc::c_void,
        ss_flags: flags & libc::SS_DISABLE,
        ss_size: size,
    };
    // The kernel changes nothing for who runs on the present one, as this handler does and its return will.
    // SAFETY: `set_alternate_stack` wants a stack, this one is the thread's of before the call.
    let set = unsafe { proof::in_a_room(set_alternate_stack, (&raw mut before).cast()) };
    if set {
        *context.alternate_stack() = before;
    }
    set
}

/// # Safety
/// `stack` points to the `stack_t` to set.
unsafe extern "C" fn set_alternate_stack(stack: *mut ()) {
    // SAFETY: by contract.
    unsafe { libc::sigaltstack(stack.cast(), std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows platform::linux::forced I1, as far as types can: no other thread is given one, or a reference to one, but by the
    /// region's frame. If an `Escape` could be sent or shared, this would not compile: several implementations would fit.
    #[test]
    fn the_way_out_of_a_region_stays_on_its_thread() {
        trait Stays<Which> {
            const YES: bool = true;
        }
        struct ByNature;
        struct BecauseItIsSend;
        struct BecauseItIsSync;
        impl<T> Stays<ByNature> for T {}
        impl<T: Send> Stays<BecauseItIsSend> for T {}
        impl<T: Sync> Stays<BecauseItIsSync> for T {}
        const { assert!(<Escape<'static> as Stays<_>>::YES) };
    }

    #[test]
    fn what_keeps_a_rung_from_being_tried_is_told_for_every_state() {
        let stack = 0x10_0000..0x20_0000;
        let room = stack.start + UNWINDERS_ROOM;
        let (low, high) = (stack.start, stack.end);
        use RUNG_ABANDON as ABANDON;
        use RUNG_UNWIND as UNWIND;
        for (state, rung, sp, refused) in [
            (CALM, ABANDON, low - 8, Some(Why::OtherStack)),
            (CALM, ABANDON, low, None),
            (CALM, ABANDON, high - 8, None),
            (CALM, ABANDON, high, Some(Why::OtherStack)),
            (CALM, UNWIND, low - 8, Some(Why::OtherStack)),
            (CALM, UNWIND, room - 8, Some(Why::NoRoom)),
            (CALM, UNWIND, room, None),
            (CALM, UNWIND, high, Some(Why::OtherStack)),
            (SWALLOWED, ABANDON, room, None),
            (SWALLOWED, UNWIND, room, Some(Why::Swallowed)),
            (UNWINDING, ABANDON, room, Some(Why::Unwinding)),
            (UNWINDING, UNWIND, room, Some(Why::Unwinding)),
            (LEFT, ABANDON, room, Some(Why::Unwinding)),
            (LEFT, UNWIND, room, Some(Why::Unwinding)),
        ] {
            assert_eq!(
                refusal(state, rung, sp, stack.clone()),
                refused,
                "{state}, {rung}, {sp:#x}"
            );
        }
        // Where the system does not tell where the stack is, or the trampoline has not been entered, nothing lies on it.
        for nowhere in [usize::MAX..high, low..0] {
            assert_eq!(refusal(CALM, UNWIND, room, nowhere), Some(Why::OtherStack));
        }
    }
}
