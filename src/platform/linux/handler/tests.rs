//! What an order does to hand-made contexts: registers, and the code around the program counter.
//!
//! **Signal context:** no, tests.

#![allow(unsafe_code)]

use super::*;
use crate::protocol::order::{Act, Instruction};
use crate::protocol::word::Kind;

/// `nop` sixteen times, `mov eax, number`, `syscall`, `nop`; or without a number.
fn code(number: Option<u32>) -> &'static [u8] {
    let mut code = vec![0x90; 32];
    if let Some(number) = number {
        code.push(0xb8);
        code.extend(number.to_le_bytes());
    }
    code.extend([0x0f, 0x05, 0x90, 0x90]);
    code.leak()
}

/// A thread that has just been given `-EINTR` by the call at the end of `code`, or is about to make it.
struct Interrupted {
    context: Box<libc::ucontext_t>,
    code: &'static [u8],
}

impl Interrupted {
    fn behind(number: Option<u32>) -> Self {
        let code = code(number);
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut context: Box<libc::ucontext_t> = Box::new(unsafe { std::mem::zeroed() });
        let behind = code.as_ptr() as i64 + code.len() as i64 - 2;
        let registers = &mut context.uc_mcontext.gregs;
        registers[libc::REG_RIP as usize] = behind;
        registers[libc::REG_RCX as usize] = behind;
        registers[libc::REG_RSP as usize] = 0x7000;
        registers[libc::REG_RDI as usize] = 3;
        registers[libc::REG_RAX as usize] = -i64::from(libc::EINTR);
        Self { context, code }
    }

    fn before(number: i64) -> Self {
        let mut this = Self::behind(None);
        this.set(libc::REG_RIP, this.get(libc::REG_RIP) - 2);
        this.set(libc::REG_RAX, number);
        this
    }

    fn get(&self, register: libc::c_int) -> i64 {
        self.context.uc_mcontext.gregs[register as usize]
    }

    fn set(&mut self, register: libc::c_int, value: i64) {
        self.context.uc_mcontext.gregs[register as usize] = value;
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Context<'_>) -> T) -> T {
        assert!(!self.code.is_empty());
        // SAFETY: nobody else uses it during `act`.
        let mut context = unsafe { Context::of(std::ptr::from_mut(&mut *self.context).cast()) };
        act(&mut context)
    }
}

const EINTR: i64 = -(libc::EINTR as i64);
const CANCELED: i64 = -(libc::ECANCELED as i64);

#[test]
fn where_nothing_was_seen_the_code_tells_which_call_may_fail() {
    let decide = |number| {
        let mut thread = Interrupted::behind(number);
        let failed = thread.with(|context| fail(&Instruction::blind(Act::Decide { again: false }), context));
        (failed, thread.get(libc::REG_RAX))
    };
    assert_eq!(decide(Some(libc::SYS_read as u32)), (Failed::Replaced, CANCELED));
    assert_eq!(decide(Some(libc::SYS_poll as u32)), (Failed::Replaced, 0));
    let futex = libc::SYS_futex;
    assert_eq!(decide(Some(futex as u32)), (Failed::Never(futex), EINTR));
    assert_eq!(
        decide(Some(1000)),
        (Failed::Never(1000), EINTR),
        "no call has this number"
    );
    assert_eq!(decide(None), (Failed::Not, EINTR), "the code does not tell");
}

/// An order holds of the one call that was seen, to the last register.
#[test]
fn an_order_replaces_the_result_of_the_very_call_that_was_seen() {
    let wanted = |thread: &Interrupted| Instruction {
        args: [3, 0, 0, 0, 0, 0],
        sp: 0x7000,
        pc: thread.get(libc::REG_RIP) as u64,
        act: Act::Replace(CANCELED),
    };
    let mut thread = Interrupted::behind(None);
    let order = wanted(&thread);
    assert_eq!(thread.with(|context| fail(&order, context)), Failed::Replaced);
    assert_eq!(thread.get(libc::REG_RAX), CANCELED);
    for register in [
        libc::REG_RIP,
        libc::REG_RSP,
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDI,
        libc::REG_RSI,
        libc::REG_RDX,
        libc::REG_R10,
        libc::REG_R8,
        libc::REG_R9,
    ] {
        let mut thread = Interrupted::behind(None);
        let order = wanted(&thread);
        thread.set(register, thread.get(register) - 1);
        let before = thread.get(libc::REG_RAX);
        assert_eq!(
            thread.with(|context| fail(&order, context)),
            Failed::Not,
            "register {register}"
        );
        assert_eq!(thread.get(libc::REG_RAX), before);
    }
}

/// A call that has yet to be made is left out with the answer that it would have got, but for sleeps: those are broken later.
#[test]
fn a_call_that_is_about_to_be_made_is_skipped_as_if_interrupted_or_failed() {
    let record: &'static Record = Box::leak(Box::new(Record::new(0)));
    let plain = Region(0).entered(Kind::Foreign, 0);
    let failing = Region(0).entered(Kind::Foreign, Region::FAIL);
    let skipped = |number, region| {
        let mut thread = Interrupted::before(number);
        let at = thread.get(libc::REG_RIP);
        thread.with(|context| skip(record, region, context));
        let behind = thread.get(libc::REG_RIP) == at + 2;
        assert!(behind || thread.get(libc::REG_RIP) == at);
        behind.then(|| thread.get(libc::REG_RAX))
    };
    for (number, nudged, failed) in [
        (libc::SYS_read, Some(EINTR), Some(CANCELED)),
        (libc::SYS_nanosleep, None, Some(0)),
        (libc::SYS_poll, None, Some(0)),
        (libc::SYS_futex, None, None),
        (libc::SYS_close, None, None),
        (libc::SYS_getpid, None, None),
    ] {
        assert_eq!(skipped(number, plain), nudged, "{number}");
        assert_eq!(skipped(number, failing), failed, "{number}");
    }
}
