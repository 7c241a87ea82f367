//! Scopes that do not end as closures do: a thread that has more than one stack can write that.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::time::Duration;

use throwto::scope::Scope;
use throwto::time::timeout;
use throwto::{Interrupted, ReceiptState, pending, safepoint, thread};

use crate::stage::*;

type Contexts = [libc::ucontext_t; 2];

thread_local! {
    static CONTEXTS: Cell<*mut Contexts> = const { Cell::new(ptr::null_mut()) };
    static BODY: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// The thread's own stack, and the coroutine's.
const OWN: usize = 0;
const COROUTINE: usize = 1;

fn switch(from: usize, to: usize) {
    let contexts = CONTEXTS.get().cast::<libc::ucontext_t>();
    // SAFETY: `CONTEXTS` points to two contexts while there is a coroutine.
    let from = unsafe { contexts.add(from) };
    // SAFETY: as above.
    let to = unsafe { contexts.add(to) };
    // SAFETY: `to` was made by `makecontext`, or left by this very call.
    assert_eq!(unsafe { libc::swapcontext(from, to) }, 0);
}

fn enter_coroutine() {
    switch(OWN, COROUTINE);
}

fn leave_coroutine() {
    switch(COROUTINE, OWN);
}

extern "C" fn begin() {
    BODY.take().unwrap()();
    leave_coroutine();
    unreachable!("nobody enters a coroutine that is over");
}

/// Runs `main` in an attached thread that has `body` on another stack.
fn with_coroutine(body: fn(), main: fn()) {
    let both = move || {
        let mut stack = vec![0_u8; 1 << 20];
        // SAFETY: plain data, all of whose zeros are good values.
        let mut contexts: Contexts = unsafe { std::mem::zeroed() };
        let coroutine = &raw mut contexts[COROUTINE];
        // SAFETY: ours to write.
        assert_eq!(unsafe { libc::getcontext(coroutine) }, 0);
        contexts[COROUTINE].uc_stack.ss_sp = stack.as_mut_ptr().cast();
        contexts[COROUTINE].uc_stack.ss_size = stack.len();
        // SAFETY: the stack lives until the end of this closure, where nobody is on it.
        unsafe { libc::makecontext(&raw mut contexts[COROUTINE], begin, 0) };
        CONTEXTS.set(&raw mut contexts);
        BODY.set(Some(body));
        main();
        CONTEXTS.set(ptr::null_mut());
    };
    join(thread::spawn(both));
}

/// What a panic said.
fn said(panic: Box<dyn std::any::Any + Send>) -> String {
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn misnested_limits_are_an_error_that_names_both_and_raise_no_more() {
    const SOON: Duration = Duration::from_millis(20);
    let body = || {
        // Inside the other's, and it would pass after that one's end.
        let ended = catch_unwind(|| timeout(SOON, leave_coroutine));
        let told = said(ended.unwrap_err());
        assert!(
            told.contains("misnested.rs") && told.contains("over before its body"),
            "{told}"
        );
    };
    with_coroutine(body, || {
        let line = line!() + 1;
        let ended = catch_unwind(|| timeout(FOREVER, enter_coroutine));
        let told = said(ended.unwrap_err());
        let places = told.matches("misnested.rs:").count();
        assert!(
            told.contains(&format!("misnested.rs:{line}:")) && places == 2,
            "{told}"
        );
        std::thread::sleep(2 * SOON);
        assert!(safepoint().is_ok() && !pending(), "neither raises");
        // Others do.
        assert!(timeout(SOON, || thread::sleep(FOREVER)).is_err());
        enter_coroutine();
        assert!(safepoint().is_ok() && !pending());
    });
}

#[test]
fn what_was_raised_into_misnested_scopes_ends_with_them() {
    with_coroutine(leave_coroutine, || {
        let (outer, in_outer) = Scope::new();
        let (inner, in_inner) = Scope::new();
        let mut receipts = Vec::new();
        // The inner one is begun on the coroutine's stack, which is never entered again.
        INNER.set(Some(inner));
        BODY.set(Some(|| INNER.take().unwrap().run(leave_coroutine).unwrap()));
        let ended = catch_unwind(AssertUnwindSafe(|| {
            outer.run(|| {
                enter_coroutine();
                receipts.push(in_outer.raise(Interrupted).unwrap());
                receipts.push(in_inner.raise(Interrupted).unwrap());
                in_inner.cancel();
                assert!(pending());
            })
        }));
        assert!(said(ended.unwrap_err()).contains("misnested scopes"));
        assert!(
            receipts
                .iter()
                .all(|receipt| receipt.state() == ReceiptState::TargetEnded)
        );
        assert!(safepoint().is_ok() && !pending());
        assert!(in_inner.raise(Interrupted).is_err(), "it is over as well");
    });
}

thread_local! {
    static INNER: Cell<Option<Scope>> = const { Cell::new(None) };
}

/// A panic is not replaced by another.
#[test]
fn a_panic_out_of_misnested_scopes_goes_on() {
    with_coroutine(
        || timeout(FOREVER, leave_coroutine).unwrap(),
        || {
            let ended = catch_unwind(|| {
                timeout(FOREVER, || {
                    enter_coroutine();
                    if !pending() {
                        panic!("{}", String::from("the body's own"))
                    }
                })
            });
            assert_eq!(said(ended.unwrap_err()), "the body's own");
            assert!(safepoint().is_ok() && !pending());
        },
    );
}
