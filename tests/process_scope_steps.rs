//! Scopes that a signal handler begins and ends on top of every instruction of another scope's beginning and end.
//!
//! The thread steps itself: with the processor's trap flag set, SIGTRAP comes behind each instruction, and its handler runs a scope
//! behind one of them. Every instruction is a round.

#![cfg(all(throwto_ladder, target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)]

#[path = "it/stage.rs"]
mod stage;
mod trap_flag;

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use throwto::scope::{Scope, ScopeHandle};
use throwto::{Interrupted, RaiseError, ReceiptState, safepoint};

use stage::in_own_process;
use trap_flag::{each_step, no_more_steps, steps_begin, steps_end};

/// Instructions since the steps began, and the one behind which the handler runs its scope.
static PASSED: AtomicUsize = AtomicUsize::new(0);
static CHOSEN: AtomicUsize = AtomicUsize::new(0);
static INNER: AtomicPtr<Option<Scope>> = AtomicPtr::new(std::ptr::null_mut());
/// The first instructions are all played, the others one in `FAR` unless `THROWTO_STEPS=all`, which takes a quarter of an hour.
const NEAR: usize = 500;
const FAR: usize = 61;
/// More are a loop without end.
const LONGEST: usize = 20_000;

extern "C" fn stepped(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    if PASSED.fetch_add(1, Ordering::Relaxed) == CHOSEN.load(Ordering::Relaxed) {
        // SAFETY: `every_instruction` has stored a pointer to a local variable of its own, and looks at it when the steps are over.
        let inner = unsafe { INNER.load(Ordering::Relaxed).as_mut() };
        if let Some(scope) = inner.and_then(Option::take) {
            assert_eq!(scope.run(|| ()), Ok(()));
        }
        // SAFETY: the kernel's own.
        unsafe { no_more_steps(context) };
    }
}

/// Plays `round` once for each instruction that it steps over. It is given the handle of the handler's scope.
fn every_instruction(round: impl Fn(&ScopeHandle)) {
    each_step(stepped);
    let step = if std::env::var("THROWTO_STEPS").is_ok_and(|steps| steps == "all") {
        1
    } else {
        FAR
    };
    let (mut chosen, mut rounds) = (0, 0);
    let _attached = throwto::attach().unwrap();
    while chosen < LONGEST {
        let (scope, handle) = Scope::new();
        let mut inner = Some(scope);
        INNER.store(&raw mut inner, Ordering::Relaxed);
        CHOSEN.store(chosen, Ordering::Relaxed);
        PASSED.store(0, Ordering::Relaxed);
        round(&handle);
        assert!(safepoint().is_ok(), "behind instruction {chosen} of {PASSED:?}");
        INNER.store(std::ptr::null_mut(), Ordering::Relaxed);
        if inner.is_some() {
            assert!(chosen > 50, "{chosen} instructions are no scope");
            println!("{rounds} rounds, to the end of {PASSED:?} instructions");
            return;
        }
        rounds += 1;
        chosen += if chosen < NEAR { 1 } else { step };
    }
    panic!("the steps never end");
}

/// Shows protocol::scope_table I4.
#[test]
fn a_handlers_scope_at_any_instruction_of_a_beginning_has_a_number_and_a_row_of_its_own() {
    in_own_process(
        "a_handlers_scope_at_any_instruction_of_a_beginning_has_a_number_and_a_row_of_its_own",
        || {
            every_instruction(|inner| {
                let (scope, handle) = Scope::new();
                steps_begin();
                let outcome = scope.run(|| {
                    steps_end();
                    // Theirs is over, or was never begun: nothing that is addressed to it gets in here.
                    assert!(matches!(inner.raise(Interrupted), Err(RaiseError::ScopeNotOpen)));
                    inner.cancel();
                    assert!(safepoint().is_ok());
                    let receipt = handle.raise(Interrupted).unwrap();
                    assert!(safepoint().unwrap_err().is::<Interrupted>());
                    assert_eq!(receipt.state(), ReceiptState::Caught);
                });
                assert_eq!(outcome, Ok(()));
            });
        },
    );
}

/// Shows protocol::scope_table I4.
#[test]
fn a_handlers_scope_at_any_instruction_of_an_end_carries_nothing_off() {
    in_own_process(
        "a_handlers_scope_at_any_instruction_of_an_end_carries_nothing_off",
        || {
            every_instruction(|inner| {
                let (scope, handle) = Scope::new();
                let outcome = scope.run(|| {
                    let receipt = handle.raise(Interrupted).unwrap();
                    steps_begin();
                    receipt
                });
                steps_end();
                assert_eq!(outcome.unwrap().state(), ReceiptState::TargetEnded);
                assert!(matches!(inner.raise(Interrupted), Err(RaiseError::ScopeNotOpen)));
            });
        },
    );
}

#[test]
fn a_handlers_scope_at_any_instruction_of_an_inner_end_leaves_the_outer_one_what_it_has() {
    in_own_process(
        "a_handlers_scope_at_any_instruction_of_an_inner_end_leaves_the_outer_one_what_it_has",
        || {
            every_instruction(|_| {
                let (outer, handle) = Scope::new();
                let outcome = outer.run(|| {
                    let receipt = handle.raise(Interrupted).unwrap();
                    let (scope, _) = Scope::new();
                    let cancelled = scope.handle();
                    let nested = scope.run(|| {
                        cancelled.cancel();
                        steps_begin();
                    });
                    steps_end();
                    assert_eq!(nested, Ok(()));
                    assert!(safepoint().unwrap_err().is::<Interrupted>());
                    receipt
                });
                assert_eq!(outcome.unwrap().state(), ReceiptState::Caught);
            });
        },
    );
}
