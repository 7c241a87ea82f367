//! Leaving a region by force: what the handler does with the orders *unwind* and *abandon*.
//!
//! Owns: [`Escape`], the way out that a region keeps on its owner's stack; the two things the handler may do with it; what
//! it leaves there for the driver to read. Leaves to [`proof`] whether the spot is safe, to [`unwind`] the
//! unwinding itself, to `arch` the assembly, to the face the poison and the reports.
//!
//! **Signal context:** [`perform`] and what it calls, yes: no allocation, no lock, no thread-local. The rest no.
//!
//! ```text
//!   region entered --(1) trampoline: anchor--> Calm --(2) handler, Act::Abandon--> Left
//!                                               | ^
//!                          (3) handler,         | | (5) `catch (...)` kept the exception: Swallowed
//!                              Act::Unwind      v |
//!                                            Unwinding --(4) stop function--> Left
//! ```
//!
//! - I1. An `Escape` is written by its owner's thread alone: the trampoline, the handler, the stop function. The driver reads
//!   the atomics under a look (I4 of `protocol::record`).
//! - I2. The interrupted context is changed only after a proof that holds for that very context: the handler blocks every
//!   signal from before the proof until it returns.
//! - I3. While an unwinding is under way no other forced rung begins: destructors are ours to wait for.

#![allow(unsafe_code)]

mod proof;
mod unwind;

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::module::Module;
use crate::platform::arch::{self, Context};
use crate::platform::spot::{Passed, Refused, Why};
use crate::protocol::order::{Act, Instruction};
use crate::protocol::record::Record;
use crate::protocol::word::{Level, Region};

pub(crate) use proof::{Facts, prepare};

/// Rungs as the handler notes them in [`Record::rung`].
pub(crate) const RUNG_UNWIND: u32 = 5;
pub(crate) const RUNG_ABANDON: u32 = 6;

const CALM: u32 = 0;
const UNWINDING: u32 = 1;
const SWALLOWED: u32 = 2;
const LEFT: u32 = 3;

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

/// The way out of a region.
///
/// The handler finds it through the first word of the region's frame.
pub(crate) struct Escape<'a> {
    /// The stack pointer in the trampoline; 0 until it is entered.
    anchor: AtomicUsize,
    state: AtomicU32,
    facts: &'static Facts,
    terms: &'a Terms,
    /// The function that the trampoline calls.
    shim: usize,
    /// The calling thread's.
    stack: *const Stack,
    refused_pc: AtomicUsize,
    refused_why: AtomicU32,
    refusals: AtomicU32,
    /// Written by the handler before it changes the context, read after that on the same thread. Most calls are never left:
    /// nothing is written on the way in.
    left: UnsafeCell<MaybeUninit<Left>>,
    exception: UnsafeCell<MaybeUninit<unwind::Exception>>,
}

/// What is known of frames that are being dropped.
#[derive(Clone, Copy)]
struct Left {
    pc: usize,
    bytes: usize,
    frames: u32,
    /// The CFA of the outermost foreign frame: where an unwinding ends.
    boundary: usize,
}

/// What the calling thread's stack is like.
#[derive(Clone, Copy)]
struct Stack {
    low: usize,
    alternate: (usize, usize, libc::c_int),
}

thread_local! {
    /// Nothing to drop, and a constant to begin with: its address is valid as long as the thread runs code.
    static STACK: Cell<Stack> = const { Cell::new(Stack { low: 0, alternate: (0, 0, 0) }) };
}

/// Where the calling thread keeps what its stack is like.
#[inline(always)]
fn own_stack() -> *const Stack {
    STACK.with(|stack| {
        if stack.get().low == 0 {
            stack.set(look_at_stack());
        }
        stack.as_ptr().cast_const()
    })
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Returned,
    Left(Passed),
}

impl<'a> Escape<'a> {
    #[inline(always)]
    pub(crate) fn new(
        facts: &'static Facts,
        terms: &'a Terms,
        shim: unsafe extern "C-unwind" fn(*mut ()),
    ) -> Self {
        Self {
            anchor: AtomicUsize::new(0),
            state: AtomicU32::new(CALM),
            facts,
            terms,
            shim: shim as *const () as usize,
            stack: own_stack(),
            refused_pc: AtomicUsize::new(0),
            refused_why: AtomicU32::new(0),
            refusals: AtomicU32::new(0),
            left: UnsafeCell::new(MaybeUninit::uninit()),
            exception: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Calls the shim through the trampoline.
    ///
    /// # Safety
    /// 1. The shim that was given to [`Escape::new`] may be called with `argument`.
    /// 2. Between the shim and wherever an order finds the thread there are only frames that may be dropped: foreign frames,
    ///    and Rust frames that own nothing.
    #[inline(always)]
    pub(crate) unsafe fn call(&self, shim: unsafe extern "C-unwind" fn(*mut ()), argument: *mut ()) -> Ended {
        // SAFETY: 1; the anchor is ours to write; the handler leaves only with a proof (I2), past frames as in 2.
        let left = unsafe { arch::enter(shim, argument, self.anchor.as_ptr()) };
        if left { self.landed() } else { Ended::Returned }
    }

    #[cold]
    fn landed(&self) -> Ended {
        let unwound = self.state.swap(LEFT, Ordering::Relaxed) == UNWINDING;
        if unwound {
            unwind::tidy_up();
        }
        // SAFETY: whoever has brought the thread here has called `pass` before.
        let Left {
            pc, bytes, frames, ..
        } = unsafe { self.left() };
        Ended::Left(Passed {
            unwound,
            pc,
            frames,
            bytes,
        })
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
            why: Why::unpacked(self.refused_why.load(Ordering::Relaxed)),
            pc: self.refused_pc.load(Ordering::Relaxed),
            times,
        })
    }

    /// Also for the driver, under a look: then two refusals may be mixed up, which only a report can tell.
    pub(crate) fn refuse(&self, why: Why, pc: usize) {
        self.refused_why.store(why as u32, Ordering::Relaxed);
        self.refused_pc.store(pc, Ordering::Relaxed);
        // Pairs with the load in `refused`.
        self.refusals.fetch_add(1, Ordering::Release);
    }

    fn pass(&self, pc: usize, sp: usize, passed: proof::Clear) {
        let left = Left {
            pc,
            bytes: self.anchor.load(Ordering::Relaxed) - sp,
            frames: passed.frames,
            boundary: passed.boundary,
        };
        // SAFETY: in the handler, on the owner's thread, in a state in which nobody has been told to read it (I1).
        unsafe { self.left.get().cast::<Left>().write(left) };
    }

    /// What the thread's stack is like.
    fn stack(&self) -> Stack {
        // SAFETY: the thread's own, which lasts longer than its call.
        unsafe { *self.stack }
    }
}

/// The calling thread gets another alternate stack: it is to be looked at anew.
pub(super) fn forget_stack() {
    STACK.with(|stack| {
        stack.set(Stack {
            low: 0,
            alternate: (0, 0, 0),
        })
    });
}

/// Asks the system once per thread; the answers do not change while it lives, except by a call of its own.
#[cold]
fn look_at_stack() -> Stack {
    // SAFETY: plain data.
    let mut alternate: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: a query that writes there.
    unsafe { libc::sigaltstack(std::ptr::null(), &raw mut alternate) };
    Stack {
        low: lowest_of_stack(),
        alternate: (alternate.ss_sp as usize, alternate.ss_size, alternate.ss_flags),
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

/// What keeps a rung from being tried at all, before the frames are looked at. The stack reaches from its lowest address to the
/// anchor.
fn refusal(state: u32, rung: u32, sp: usize, stack: Range<usize>) -> Option<Why> {
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
    let first_word = record.frame().cast::<*const Escape<'_>>();
    // SAFETY: the region word that the caller has read has a forced bit, and every region that has one shows a frame whose
    // first word is a pointer to its Escape or null. The frame may also be the outer region's, in the moment of leaving
    // (step (d) of `protocol::record`) or of entering: as long-lived, and of the same make; or null.
    let Some(place) = (unsafe { first_word.as_ref() }) else {
        return false;
    };
    // SAFETY: see above.
    let Some(escape) = (unsafe { place.as_ref() }) else {
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
        None if escape.terms.at_once && may_abandon => RUNG_ABANDON,
        _ => return false,
    };
    let anchor = escape.anchor.load(Ordering::Relaxed);
    let stack = escape.stack().low..anchor;
    if let Some(why) = refusal(escape.state.load(Ordering::Relaxed), rung, sp, stack) {
        escape.refuse(why, pc);
        return false;
    }
    match proof::prove(escape, rung, context) {
        Err((why, pc)) => {
            escape.refuse(why, pc);
            false
        }
        Ok(_) if !keep_alternate_stack(escape, context, sp, anchor) => {
            escape.refuse(Why::Busy, pc);
            false
        }
        Ok(clear) => {
            escape.pass(pc, sp, clear);
            if rung == RUNG_UNWIND {
                escape.state.store(UNWINDING, Ordering::Relaxed);
                // SAFETY: the proof has found stack enough.
                unsafe { context.unwind_by(unwind::begin, std::ptr::from_ref(escape).cast()) };
            } else {
                context.escape_to(anchor);
            }
            record.note_rung(rung);
            true
        }
    }
}

/// An alternate stack that lies in the frames which are dropped must not be left with the kernel: signals would write over
/// what the thread keeps there next. `false` if it cannot be taken down now.
fn keep_alternate_stack(escape: &Escape<'_>, context: &mut Context<'_>, sp: usize, anchor: usize) -> bool {
    let present = context.alternate_stack();
    if !(sp..anchor).contains(&(present.ss_sp as usize)) {
        return true;
    }
    let (start, size, flags) = escape.stack().alternate;
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
