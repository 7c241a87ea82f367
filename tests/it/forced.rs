//! What the tests of the forced rungs share: entering a stuck place, looking at the thread before and after, working on.

#![allow(dead_code)]

use std::ffi::c_long;
use std::io::{PipeWriter, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use throwto::foreign::{Call, CallError, Module, Refusal, clear_poison};
use throwto::{Raised, Receipt, Rung, Stop, thread};
use throwto_fixtures::stuck::{Library, Place, Stage};

use crate::stage::*;

/// When the rung that a test is about may act.
pub const SOON: Duration = Duration::from_millis(1);

pub fn place(name: &str) -> Place {
    Library::open().unwrap().place(name).unwrap()
}

/// The library of the stuck places, as a module to allow.
pub fn library() -> Module {
    Library::open().unwrap();
    Module::loaded(Library::NAME).unwrap()
}

pub fn abandoned(label: &'static str) -> Call<'static> {
    Call::new(label).abandon_after(SOON).allow(&library())
}

pub fn unwound(label: &'static str) -> Call<'static> {
    Call::new(label).unwind_after(SOON)
}

/// Enters `place` on `stage`. It may be left by force: no place owns more than the stage lets one see.
#[track_caller]
pub fn enter(call: &Call<'_>, place: Place, stage: &Stage) -> Result<c_long, Raised> {
    // SAFETY: the stage outlives the call.
    let enter = || unsafe { place(stage) };
    // SAFETY: the places of the fixtures are made to be left, each in the way that its test asks for, and the closure owns
    // nothing.
    match unsafe { call.run_forced(enter) } {
        Ok(result) => Ok(result),
        Err(CallError::Raised(raised)) => Err(raised),
        Err(other) => panic!("{other}"),
    }
}

/// What belongs to the thread and must be the same behind a call as before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Belongings {
    blocked: Vec<usize>,
    alternate: (usize, usize, libc::c_int),
    /// SSE control, x87 control and tags, and the direction and alignment flags.
    processor: [u32; 4],
}

impl Belongings {
    pub fn now() -> Self {
        // SAFETY: plain data, all of whose zeros are good values.
        let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: asks only; `mask` is ours to write.
        let asked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask) };
        assert_eq!(asked, 0);
        // SAFETY: the set is initialised.
        let blocked = |signal: &usize| unsafe { libc::sigismember(&raw const mask, *signal as i32) } == 1;
        // SAFETY: plain data.
        let mut stack: libc::stack_t = unsafe { std::mem::zeroed() };
        // SAFETY: asks only; `stack` is ours to write.
        assert_eq!(unsafe { libc::sigaltstack(std::ptr::null(), &raw mut stack) }, 0);
        Self {
            blocked: (1..=64).filter(blocked).collect(),
            alternate: (stack.ss_sp.addr(), stack.ss_size, stack.ss_flags),
            processor: processor(),
        }
    }

    /// The same, and `signal` is blocked.
    pub fn also_blocked(mut self, signal: libc::c_int) -> Self {
        self.blocked.push(signal as usize);
        self.blocked.sort_unstable();
        self
    }
}

/// Whether the thread blocks `signal`, as the system tells.
pub fn blocks(thread: &throwto::ThreadInfo, signal: libc::c_int) -> bool {
    let status = std::fs::read_to_string(format!("/proc/self/task/{}/status", thread.os_tid));
    status.is_ok_and(|status| {
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigBlk:"))
            .unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
    })
}

#[cfg(target_arch = "x86_64")]
fn processor() -> [u32; 4] {
    let mut sse = 0_u32;
    let mut x87 = [0_u32; 7];
    let flags: u64;
    // SAFETY: stores to memory of ours.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut sse) };
    // SAFETY: stores to memory of ours. That masks the exceptions, so the environment is loaded again.
    unsafe { std::arch::asm!("fnstenv [{0}]", "fldenv [{0}]", in(reg) &raw mut x87) };
    // SAFETY: reads the flags by way of the stack.
    unsafe { std::arch::asm!("pushfq", "pop {}", out(reg) flags) };
    // The low six bits of SSE's word tell what has happened since they were cleared, which is nobody's control.
    [
        sse & !0x3f,
        x87[0] & 0xffff,
        x87[2] & 0xffff,
        flags as u32 & (1 << 10 | 1 << 18),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> [u32; 4] {
    [0; 4]
}

/// Enters, looks whether the thread is as it was, makes ten more calls, and takes the exception that is still pending if
/// the call came back by itself. Returns what the first call did.
#[track_caller]
pub fn visit(call: &Call<'_>, label: &'static str, place: Place, stage: &Stage) -> Result<c_long, Raised> {
    let before = Belongings::now();
    let outcome = enter(call, place, stage);
    assert_eq!(Belongings::now(), before, "{label}: what the thread had");
    match &outcome {
        Ok(_) => assert!(spin().is::<Stop>(), "{label}: the exception stayed pending"),
        Err(raised) => {
            assert!(raised.is::<Stop>(), "{label}: {raised}");
            if raised.rung() == Rung::Abandon {
                assert!(clear_poison(label), "{label} is poisoned");
            }
        }
    }
    works_on(call);
    outcome
}

/// Ten calls of all kinds, as if nothing had been.
#[track_caller]
pub fn works_on(call: &Call<'_>) {
    let first = place("first");
    for round in 0..10 {
        assert_eq!(enter(call, first, &Stage::new()).unwrap(), 0);
        assert_eq!(raw_read(&-1), Err(libc::EBADF), "errno is this thread's");
        assert!((0.1 + f64::from(round)).sqrt() > 0.3 && format!("{:.3}", 2.0 / 3.0) == "0.667");
        let (mut reader, mut writer) = pipe().unwrap();
        writer.write_all(&[round as u8]).unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(&mut reader, &mut byte).unwrap();
        assert_eq!(
            usize::from(byte[0]),
            vec![0_u8; round as usize * 1000].len() / 1000
        );
        let caught = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(round)));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&round));
        throwto::safepoint().unwrap();
    }
}

/// A thread in a place.
pub struct Visitor {
    pub thread: thread::JoinHandle<Result<c_long, Raised>>,
    pub stage: Arc<Stage>,
}

impl Visitor {
    pub fn start(call: Call<'static>, label: &'static str, place: Place, stage: Stage) -> Self {
        let stage = Arc::new(stage);
        let same = Arc::clone(&stage);
        let thread = thread::spawn(move || visit(&call, label, place, &same));
        Self { thread, stage }
    }

    /// Waits until it goes round.
    #[track_caller]
    pub fn until_spinning(&self) {
        let before = self.stage.rounds();
        until("spinning", || self.stage.rounds() > before + 10);
    }

    #[track_caller]
    pub fn until_blocked(&self, place: &str) {
        until_blocked(self.thread.id(), place);
    }

    #[track_caller]
    pub fn raise(&self) -> Receipt {
        self.thread.raise(Stop).unwrap()
    }

    /// Waits until a forced rung has looked at the thread and has left it where it was.
    #[track_caller]
    pub fn until_refused(&self) -> Refusal {
        self.until_refused_for(|_| true)
    }

    /// The same, for a reason that the test waits for.
    #[track_caller]
    pub fn until_refused_for(&self, reason: impl Fn(&Refusal) -> bool) -> Refusal {
        let mut refused = None;
        until("refused", || {
            refused = info(self.thread.id()).and_then(|thread| thread.refused);
            refused.as_ref().is_some_and(&reason)
        });
        refused.unwrap()
    }

    #[track_caller]
    pub fn leave(self) -> Result<c_long, Raised> {
        join(self.thread)
    }
}

/// A pipe whose reading end belongs to nobody but a place of the fixtures, or to who closes it.
pub fn given_away() -> (OwnedFd, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    (reader.into(), writer)
}

/// Whether the other end of the pipe is closed.
pub fn is_closed(writer: &mut PipeWriter) -> bool {
    writer
        .write(b"x")
        .is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Memory of this process that is resident, in bytes.
pub fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// 10,000 blocks of memory, and every standard stream, from four threads.
pub fn hammer() {
    let one = |seed: u64| {
        let mut dice = Dice::new(seed);
        let mut kept: Vec<Vec<u8>> = Vec::new();
        for round in 0..2500_u64 {
            let size = 1 + dice.roll(if round % 100 == 0 { 1 << 20 } else { 4096 });
            kept.push(vec![round as u8; size as usize]);
            if kept.len() > 32 {
                let out = dice.roll(32) as usize;
                let block = kept.swap_remove(out);
                assert_eq!(block.first(), block.last());
            }
            if round % 50 == 0 {
                // SAFETY: takes the lock of every stream there is, and of the list of them.
                assert!(unsafe { libc::fflush(std::ptr::null_mut()) } == 0);
                assert!(std::io::stderr().lock().flush().is_ok());
            }
        }
    };
    std::thread::scope(|scope| (1..=4).for_each(|seed| drop(scope.spawn(move || one(seed * 7919)))));
}
