//! The proof that a thread may be left where it was found.
//!
//! Owns: which frames may lie between an interrupted program counter and the region; the walker's stacks; the facts about this
//! process that the handler needs and cannot find out. Leaves to `frames` the walking.
//!
//! **Signal context:** [`prove`] and what it calls, yes. [`prepare`] no: it reads the program's symbols.
//!
//! ```text
//!   program counter   abandon: allowed code             unwind: libc's wrapper of a call that may be left, then
//!          |                   |  (any number)                  foreign code  |  (any number)
//!          |                   v                                              v
//!          |          this program's Rust code: the closure and the shim, which own nothing
//!          v                   |
//!   the trampoline  <----------+    a frame that returns to it (the foreign code's own, if the shim has jumped into it)
//! ```
//!
//! That is the region's own trampoline if it has the region's frame.
//!
//! - I1. Whatever is not on the way that the picture shows is refused: an error of the walker, an unknown object, a Rust frame
//!   with foreign frames further out (a callback).
//! - I2. A walk has room: on the thread's alternate signal stack, if that is as large as those that we hand out, or else on a stack of
//!   ours, which belongs to one handler at a time. The kernel knows nothing of that one, so every signal is blocked meanwhile. By
//!   default an alternate stack is 8 KiB, of which the kernel's frame may take half: no place to interpret frame descriptions in.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::race::OnceBox;

use super::{Escape, RUNG_UNWIND};
use crate::platform::arch::{self, Context, Registers};
use crate::platform::linux::frames::{Frame, Lost, Walk};
use crate::platform::linux::image::{self, Image, Kind};
use crate::platform::linux::lsda::{self, Landing};
use crate::platform::linux::symbols::{self, Personalities, Personality, RustText};
use crate::platform::spot::Why;

/// What is prepared once, outside of any handler.
pub(crate) struct Facts {
    /// The object that holds this crate and, with it, the shims.
    own: Image,
    rust: &'static RustText,
    /// First addresses of the functions that block as cancellation points, sorted.
    points: Vec<usize>,
    /// Objects that nothing is unwound through.
    never: Vec<Image>,
    personalities: Personalities,
    /// Why nothing can be unwound.
    no_unwind: Option<&'static str>,
}

static FACTS: OnceBox<Result<Facts, &'static str>> = OnceBox::new();

/// What a walk that found nothing wrong tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clear {
    pub(super) frames: u32,
    /// The stack pointer in the trampoline.
    pub(super) anchor: usize,
    /// The CFA of the outermost foreign frame.
    pub(super) boundary: usize,
}

impl Facts {
    pub(crate) fn no_unwind(&self) -> Option<&'static str> {
        self.no_unwind
    }
}

/// The facts, or why nothing can be left by force in this process. The first time it reads the program's symbols, which takes
/// milliseconds, and runs `first`; later it is one load.
#[inline(always)]
pub(crate) fn prepare(first: fn()) -> Result<&'static Facts, &'static str> {
    let facts = match FACTS.get() {
        Some(facts) => facts,
        None => gather_once(first),
    };
    facts.as_ref().map_err(|reason| *reason)
}

#[cold]
fn gather_once(first: fn()) -> &'static Result<Facts, &'static str> {
    first();
    FACTS.get_or_init(|| Box::new(gather()))
}

fn gather() -> Result<Facts, &'static str> {
    if arch::has_shadow_stack() {
        return Err(
            "unwind or abandon: a shadow stack is in force (CET), which no frame may be dropped from",
        );
    }
    let own = Image::containing(gather as *const () as usize)
        .ok_or("unwind or abandon: the loader does not tell where this program is")?;
    let lock_free = image::prepare();
    let mut never = Vec::new();
    for (image, kind) in Image::all() {
        if matches!(
            kind,
            Kind::Libc | Kind::Loader | Kind::Allocator | Kind::Unwinder | Kind::Vdso
        ) {
            never.push(image);
        }
    }
    Ok(Facts {
        own,
        rust: symbols::rust_text(),
        points: cancellation_points(),
        never,
        personalities: Personalities::look(),
        no_unwind: (!lock_free).then_some(
            "unwind: it needs a C library that finds frame descriptions without a lock (_dl_find_object, glibc 2.35)",
        ),
    })
}

/// Functions that do nothing but block in one system call: left there, they have nothing to give back. The list is
/// POSIX's of cancellation points, less those that hold a lock or memory meanwhile (stdio, the resolver, syslog ..).
const POINTS: &[&std::ffi::CStr] = &[
    c"read",
    c"pread",
    c"pread64",
    c"readv",
    c"preadv",
    c"preadv64",
    c"preadv2",
    c"preadv64v2",
    c"write",
    c"pwrite",
    c"pwrite64",
    c"writev",
    c"pwritev",
    c"pwritev64",
    c"pwritev2",
    c"pwritev64v2",
    c"recv",
    c"recvfrom",
    c"recvmsg",
    c"recvmmsg",
    c"send",
    c"sendto",
    c"sendmsg",
    c"sendmmsg",
    c"accept",
    c"accept4",
    c"connect",
    c"poll",
    c"__poll",
    c"ppoll",
    c"select",
    c"pselect",
    c"epoll_wait",
    c"epoll_pwait",
    c"epoll_pwait2",
    c"nanosleep",
    c"clock_nanosleep",
    c"usleep",
    c"sleep",
    c"pause",
    c"sigsuspend",
    c"sigwaitinfo",
    c"sigtimedwait",
    c"sigwait",
    c"wait",
    c"waitpid",
    c"wait3",
    c"wait4",
    c"waitid",
    c"flock",
    c"fcntl",
    c"fcntl64",
    c"lockf",
    c"lockf64",
    c"open",
    c"open64",
    c"openat",
    c"openat64",
    c"msgrcv",
    c"msgsnd",
    c"mq_receive",
    c"mq_timedreceive",
    c"mq_send",
    c"mq_timedsend",
    c"semop",
    c"semtimedop",
    c"tcdrain",
    c"fsync",
    c"fdatasync",
    c"msync",
    c"getrandom",
    c"splice",
    c"tee",
    c"sendfile",
    c"sendfile64",
    c"syscall",
    c"__read_chk",
    c"__recv_chk",
    c"__recvfrom_chk",
    c"__poll_chk",
    c"__ppoll_chk",
    c"__read_nocancel",
    c"__libc_read",
    c"__open64_2",
    c"__open_2",
];

fn cancellation_points() -> Vec<usize> {
    let mut points: Vec<usize> = POINTS
        .iter()
        .filter_map(|name| image::symbol_address(name))
        .collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// What a walk may need of the alternate stack, and a handler of the program on top of it.
const ROOM: usize = 32 << 10;
const STACK: usize = 64 << 10;
const STACKS: usize = 8;

/// Stacks for walks (I2). Untouched ones cost address space only.
#[repr(C, align(64))]
struct Room(UnsafeCell<[u8; STACK]>);

// SAFETY: each is used by the one handler that has set its flag in `TAKEN`.
unsafe impl Sync for Room {}

static ROOMS: [Room; STACKS] = [const { Room(UnsafeCell::new([0; STACK])) }; STACKS];
static TAKEN: [AtomicBool; STACKS] = [const { AtomicBool::new(false) }; STACKS];

/// What goes to the walker's stack and comes back.
struct Case<'a> {
    escape: &'a Escape<'a>,
    facts: &'static Facts,
    registers: Registers,
    stack: std::ops::Range<u64>,
    unwind: bool,
    verdict: Result<Clear, (Why, usize)>,
}

/// Proves that the interrupted thread may leave its region by this rung. The interrupted stack pointer lies between the low end
/// of the thread's stack and the escape.
pub(super) fn prove(
    escape: &Escape<'_>,
    rung: u32,
    context: &Context<'_>,
    alternate: &libc::stack_t,
) -> Result<Clear, (Why, usize)> {
    // They were there before the escape was.
    let Some(Ok(facts)) = FACTS.get() else {
        return Err((Why::Unseen, context.pc()));
    };
    let mut case = Case {
        escape,
        facts,
        registers: context.registers(),
        stack: context.sp()..std::ptr::from_ref(escape).addr() as u64,
        unwind: rung == RUNG_UNWIND,
        verdict: Err((Why::Busy, context.pc())),
    };
    if has_room(alternate) {
        case.verdict = case.walk();
    } else {
        // SAFETY: `examine` wants a `Case`. If there is no room, the verdict stays `Busy`.
        unsafe { in_a_room(examine, (&raw mut case).cast()) };
    }
    case.verdict
}

/// Whether the caller runs on this alternate stack, and has room on it.
fn has_room(alternate: &libc::stack_t) -> bool {
    let left = arch::stack_pointer().wrapping_sub(alternate.ss_sp as usize);
    alternate.ss_flags & libc::SS_DISABLE == 0 && (ROOM..alternate.ss_size).contains(&left)
}

/// Calls `function(argument)` on a stack of this module's, with every signal blocked, if one is free.
///
/// # Safety
/// `function` may be called with `argument`, and does not unwind.
pub(super) unsafe fn in_a_room(function: unsafe extern "C" fn(*mut ()), argument: *mut ()) -> bool {
    // Acquire pairs with the Release below: the stack's last user has left it.
    let Some(room) = TAKEN
        .iter()
        .position(|taken| !taken.swap(true, Ordering::Acquire))
    else {
        return false;
    };
    with_signals_blocked(|| {
        let top = ROOMS[room].0.get().cast::<u8>().wrapping_add(STACK);
        // SAFETY: by contract; the stack is ours alone (I2), its end aligned as it is itself.
        unsafe { arch::on_stack(function, argument, top) };
    });
    TAKEN[room].store(false, Ordering::Release);
    true
}

fn with_signals_blocked(act: impl FnOnce()) {
    // SAFETY: plain data, filled by the next call.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: a set of ours.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: sets of ours; the mask of the calling thread.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    act();
    // SAFETY: as it was.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
}

/// # Safety
/// `case` points to a [`Case`] that nobody else uses.
unsafe extern "C" fn examine(case: *mut ()) {
    // SAFETY: by contract.
    let case = unsafe { &mut *case.cast::<Case<'_>>() };
    case.verdict = case.walk();
}

/// How far out a walk has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stretch {
    /// Where the thread was found; nothing has been seen.
    Top,
    Foreign,
    /// The closure and the shim.
    Own,
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    Foreign,
    /// The C library's wrapper of a call that may be left.
    Point,
    Own,
}

impl Case<'_> {
    fn walk(&self) -> Result<Clear, (Why, usize)> {
        let find = |pc| self.image_of(pc);
        // SAFETY: the stretch of the thread's own stack between the interrupted frame and the region's, which are both in
        // use; the thread itself is here. What `find` gives holds code of a frame in use, or was kept by its `Module`.
        let mut walk = unsafe { Walk::new(self.registers, self.stack.clone(), find) };
        let (mut stretch, mut frames, mut boundary, mut own) = (Stretch::Top, 0_u32, 0_usize, 0_usize);
        loop {
            let frame = walk.next().map_err(|lost| match lost {
                Lost::NoImage { pc } => (Why::NotAllowed, pc),
                lost => (Why::NoDescription, lost.pc()),
            })?;
            frames = frames.saturating_add(1);
            let make = self.make(&frame)?;
            stretch = match (stretch, make) {
                (Stretch::Top, Make::Point) | (Stretch::Top | Stretch::Foreign, Make::Foreign) => {
                    Stretch::Foreign
                }
                (Stretch::Foreign | Stretch::Own, Make::Own) => Stretch::Own,
                (Stretch::Foreign, Make::Point) => return Err((Why::NotACancellationPoint, frame.pc)),
                (Stretch::Top, Make::Own) => return Err((Why::ThroughRust, frame.pc)),
                // Only here it shows that what was taken for the closure is a callback.
                (Stretch::Own, _) => return Err((Why::ThroughRust, own)),
            };
            own = frame.pc;
            if stretch == Stretch::Foreign {
                boundary = frame.cfa as usize;
            }
            if walk.return_address() == Some(arch::return_address()) {
                let anchor = frame.cfa as usize;
                // SAFETY: a frame that lasts returns there, and lies on the stretch that may be read.
                if unsafe { arch::frame_at(anchor) } != std::ptr::from_ref(self.escape).addr() {
                    return Err((Why::OtherStack, frame.pc));
                }
                // Without a frame of its own where the compiler has made the shim's last call a jump.
                return Ok(Clear {
                    frames,
                    anchor,
                    boundary,
                });
            }
        }
    }

    fn image_of(&self, pc: usize) -> Option<Image> {
        let allowed = || self.escape.terms().allowed.iter().find(|module| module.has(pc));
        let facts = self.facts;
        match allowed() {
            Some(module) => Some(module.image()),
            None if facts.own.has_code(pc) => Some(facts.own),
            None if self.unwind => image::find_now(pc),
            None => None,
        }
    }

    fn make(&self, frame: &Frame) -> Result<Make, (Why, usize)> {
        let facts = self.facts;
        let shim = self.escape.shim as *const () as usize;
        if frame.image == facts.own && (frame.function.contains(&shim) || facts.rust.contains(frame.place)) {
            return Ok(Make::Own);
        }
        let allowed = self
            .escape
            .terms()
            .allowed
            .iter()
            .any(|module| module.has(frame.place));
        if !self.unwind {
            return if allowed {
                Ok(Make::Foreign)
            } else {
                Err((Why::NotAllowed, frame.pc))
            };
        }
        if facts.points.binary_search(&frame.function.start).is_ok() {
            return Ok(Make::Point);
        }
        if facts.never.contains(&frame.image) {
            return Err((Why::NotACancellationPoint, frame.pc));
        }
        if frame.image == facts.own && !allowed && !facts.rust.known {
            return Err((Why::ThroughRust, frame.pc));
        }
        let Some(personality) = frame.personality else {
            return Ok(Make::Foreign);
        };
        match facts.personalities.of(personality) {
            Some(Personality::Rust) => Err((Why::ThroughRust, frame.pc)),
            // C's cleanups never end the process.
            Some(Personality::C) => Ok(Make::Foreign),
            _ => match lsda::landing(frame) {
                Landing::Uncovered => Err((Why::Terminates, frame.pc)),
                Landing::Unreadable => Err((Why::NoDescription, frame.pc)),
                _ => Ok(Make::Foreign),
            },
        }
    }
}

#[cfg(test)]
mod tests;
