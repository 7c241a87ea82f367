//! The half that steps: with the processor's trap flag set, SIGTRAP comes behind each instruction of what a thread does, and its
//! handler runs a call of this crate behind one of them. Every instruction is a round, for each of the calls in turn.
//!
//! Where the thread has signals blocked no handler of a program would come, so this one lets that pass.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use throwto::scope::Scope;
use throwto::time::timeout;
use throwto::{
    Cancelled, Interrupted, OsTid, Raise, Raised, Receipt, ReceiptState, Stop, ThreadId, TimedOut, attach,
    pending, raise_exc, safepoint, set_async_exc, stats, thread, threads,
};

use super::stage::*;
use super::trap_flag::{each_step, no_more_steps, steps_begin, steps_end};

/// Instructions since the steps began at which the program's signals are not blocked, and the one behind which the handler acts.
static PASSED: AtomicUsize = AtomicUsize::new(0);
static CHOSEN: AtomicUsize = AtomicUsize::new(0);
static CALL: AtomicUsize = AtomicUsize::new(0);
/// How many rounds are over, for the watchdog.
static ROUNDS: AtomicU64 = AtomicU64::new(0);
/// What the handler has raised.
static RAISED: Mutex<Vec<Receipt>> = Mutex::new(Vec::new());

thread_local! {
    static ACTED: Cell<bool> = const { Cell::new(false) };
}

/// The first instructions are all played, of the others about `FAR`, drawn by lot, unless `THROWTO_STEPS=all`; `THROWTO_STEPS=811,9` plays one alone, with
/// the call of that number.
const NEAR: usize = 50;
const FAR: usize = 50;
/// More are a loop without end.
const LONGEST: usize = 60_000;
const SOON: Duration = Duration::from_millis(1);

/// What it is, and doing it.
type Call = (&'static str, fn(ThreadId));

/// What the handler does. Each must end, and say that it did what it should.
const CALLS: [Call; 10] = [
    ("a limit passes over a sleep", |_| {
        passes(|| thread::sleep(FOREVER).unwrap_err())
    }),
    ("a limit passes over a loop", |_| passes(spin)),
    ("a limit passes over a read", |_| {
        let (reader, _writer) = std::io::pipe().unwrap();
        passes(|| {
            loop {
                let mut reader = throwto::io::Interruptible::new(&reader);
                let error = std::io::Read::read(&mut reader, &mut [0]).unwrap_err();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Raised::from_io(error).unwrap();
                }
            }
        });
    }),
    ("limits nest", |_| {
        let inner = || passes(|| thread::sleep(FOREVER).unwrap_err());
        assert_eq!(timeout(FOREVER, inner), Ok(()));
        passes(|| match timeout(FOREVER, || thread::sleep(FOREVER)) {
            Ok(slept) => slept.unwrap_err(),
            Err(_) => panic!("it has an hour"),
        });
    }),
    ("a raise into this thread", |me| {
        for _ in 0..2 {
            let receipt = Raise::new(Interrupted).queue().to(me).unwrap();
            RAISED.lock().unwrap().push(receipt);
        }
    }),
    ("a raise that supersedes", |me| {
        let receipt = raise_exc(me, Interrupted).unwrap();
        RAISED.lock().unwrap().push(receipt);
    }),
    ("setting and clearing as CPython does", |me| {
        assert_eq!(set_async_exc(me, Some(throwto::ExcType::of::<Stop>())), 1);
        assert_eq!(set_async_exc(me, None), 1);
    }),
    ("a raise by kernel number and by name, taken back", |_| {
        // SAFETY: a number is returned.
        let tid = OsTid::from_raw(unsafe { libc::gettid() });
        let receipts = [
            Raise::new(Interrupted).queue().to(tid),
            Raise::new(Interrupted).queue().to("stepped"),
        ];
        for receipt in receipts {
            let receipt = receipt.unwrap();
            let _ = receipt.revoke();
            RAISED.lock().unwrap().push(receipt);
        }
    }),
    ("attaching, safepoints, short waits", |me| {
        let attachment = attach().unwrap();
        assert_eq!(attachment.id(), me);
        let caught = [safepoint(), thread::sleep(SOON), throwto::mask(|_| safepoint())];
        drop(caught);
        let _ = pending();
    }),
    ("looking around, and a scope that is cancelled", |me| {
        assert!(threads().iter().any(|thread| thread.id == me));
        let _ = stats();
        let (scope, handle) = Scope::new();
        handle.cancel();
        // Cancelled, or called by something that was there before.
        assert!(!matches!(scope.run(|| thread::sleep(FOREVER)), Ok(Ok(()))));
    }),
];

/// A limit around what waits: it passes, or one of those that the handler is in.
fn passes(wait: impl Fn() -> Raised) {
    let outcome = timeout(SOON, || {
        loop {
            let raised = wait();
            // Of its thread's, and there before it.
            if !raised.is::<Interrupted>() && !raised.is::<Stop>() {
                return raised;
            }
        }
    });
    if let Ok(raised) = outcome {
        assert!(raised.is::<TimedOut>() || raised.is::<Cancelled>(), "{raised:?}");
    }
}

extern "C" fn stepped(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel's own, and whole.
    let mask = unsafe { &raw const (*context).uc_sigmask };
    // SAFETY: as above.
    let blocked = unsafe { libc::sigismember(mask, libc::SIGUSR1) };
    if blocked != 0 {
        return;
    }
    if PASSED.fetch_add(1, Ordering::Relaxed) == CHOSEN.load(Ordering::Relaxed) {
        ACTED.set(true);
        CALLS[CALL.load(Ordering::Relaxed)].1(ThreadId::current().unwrap());
        // SAFETY: the kernel's own.
        unsafe { no_more_steps(context) };
    }
}

/// Takes everything that is pending, and says how much that was.
fn drain() -> usize {
    std::iter::from_fn(|| safepoint().err()).map(drop).count()
}

/// Plays `round` once for each instruction that it steps over, with one call after the other. It returns receipts of its own.
fn every_instruction(round: impl Fn(ThreadId) -> Vec<Receipt> + Send + 'static) {
    each_step(stepped);
    watch();
    let steps = std::env::var("THROWTO_STEPS").unwrap_or_default();
    let all = steps == "all";
    let one = steps
        .split_once(',')
        .map(|(chosen, call)| (chosen.parse().unwrap(), call.parse().unwrap()));
    let stepped = thread::Builder::new().name("stepped".into()).spawn(move || {
        let me = ThreadId::current().unwrap();
        // The driver is there.
        assert!(timeout(SOON, || thread::sleep(FOREVER)).is_err());
        let seed = seed();
        let mut dice = Dice::new(seed);
        for first in 0..if all { CALLS.len() } else { 1 } {
            // How many there are.
            CHOSEN.store(usize::MAX, Ordering::Relaxed);
            PASSED.store(0, Ordering::Relaxed);
            drop(round(me));
            drain();
            let stride = 2 * (PASSED.load(Ordering::Relaxed) / FAR) as u64 + 1;
            let (mut chosen, mut call) = one.unwrap_or((0, first));
            loop {
                assert!(chosen < LONGEST, "the steps never end");
                CHOSEN.store(chosen, Ordering::Relaxed);
                CALL.store(call, Ordering::Relaxed);
                PASSED.store(0, Ordering::Relaxed);
                ACTED.set(false);
                let place = format!(
                    "{} behind instruction {chosen}, THROWTO_SEED={seed}",
                    CALLS[call].0
                );
                let mut receipts = round(me);
                drain();
                assert!(safepoint().is_ok() && !pending(), "{place}");
                receipts.append(&mut RAISED.lock().unwrap_or_else(PoisonError::into_inner));
                for receipt in receipts {
                    assert!(receipt.state().is_final(), "{place}: {receipt:?}");
                }
                // Whatever it has left behind, a limit still passes.
                if chosen % 16 == 0 {
                    assert!(timeout(SOON, || thread::sleep(FOREVER)).is_err(), "{place}");
                }
                ROUNDS.fetch_add(1, Ordering::Relaxed);
                if !ACTED.get() || one.is_some() {
                    break;
                }
                if !all {
                    call = (call + 1) % CALLS.len();
                }
                chosen += if chosen < NEAR || all {
                    1
                } else {
                    1 + dice.roll(stride) as usize
                };
            }
            assert!(chosen > 50, "{chosen} instructions are no call");
        }
        println!("{ROUNDS:?} rounds, to the end of {PASSED:?} instructions");
    });
    // However long that takes: the watchdog is there for a round that does not end.
    stepped.unwrap().join().unwrap();
}

/// Ends the process, with the place, when no round ends for half a minute.
fn watch() {
    std::thread::spawn(|| {
        let mut seen = (0, 0);
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let rounds = ROUNDS.load(Ordering::Relaxed);
            seen = if rounds == seen.0 {
                (rounds, seen.1 + 1)
            } else {
                (rounds, 0)
            };
            if seen.1 == 30 {
                let call = CALLS[CALL.load(Ordering::Relaxed)].0;
                eprintln!(
                    "hangs: {call} behind instruction {CHOSEN:?} of {PASSED:?}\n{:#?}",
                    threads()
                );
                std::process::abort();
            }
        }
    });
}

/// What a delivery was of.
fn caught(outcome: Result<(), Raised>) -> bool {
    outcome.is_err()
}

#[test]
fn a_handler_anywhere_in_a_raise_into_its_own_thread() {
    in_own_process("steps::a_handler_anywhere_in_a_raise_into_its_own_thread", || {
        every_instruction(|me| {
            steps_begin();
            let receipt = Raise::new(Interrupted).queue().to(me);
            steps_end();
            vec![receipt.unwrap()]
        });
    });
}

#[test]
fn a_handler_anywhere_in_a_raise_that_supersedes() {
    in_own_process("steps::a_handler_anywhere_in_a_raise_that_supersedes", || {
        every_instruction(|me| {
            let first = raise_exc(me, Interrupted).unwrap();
            steps_begin();
            let second = raise_exc(me, Interrupted);
            steps_end();
            let second = second.unwrap();
            assert_ne!(first.state(), ReceiptState::Pending);
            vec![first, second]
        });
    });
}

#[test]
fn a_handler_anywhere_in_a_delivery() {
    in_own_process("steps::a_handler_anywhere_in_a_delivery", || {
        every_instruction(|me| {
            let receipts = (0..2)
                .map(|_| Raise::new(Interrupted).queue().to(me).unwrap())
                .collect();
            steps_begin();
            let delivered = safepoint();
            steps_end();
            // The handler may have met both before, or cleared them.
            let _ = caught(delivered);
            receipts
        });
    });
}

#[test]
fn a_handler_anywhere_in_a_raise_that_is_taken_back() {
    in_own_process("steps::a_handler_anywhere_in_a_raise_that_is_taken_back", || {
        every_instruction(|me| {
            let receipt = raise_exc(me, Stop).unwrap();
            steps_begin();
            let _ = receipt.revoke();
            steps_end();
            vec![receipt]
        });
    });
}

/// Shows protocol::scope_table I5.
#[test]
fn a_handler_anywhere_in_setting_a_nearer_limit() {
    in_own_process("steps::a_handler_anywhere_in_setting_a_nearer_limit", || {
        let nearer = AtomicU64::new(3_600_000);
        every_instruction(move |_| {
            let limit = Duration::from_millis(nearer.fetch_sub(1, Ordering::Relaxed));
            steps_begin();
            let outcome = timeout(limit, || 5);
            steps_end();
            assert_eq!(outcome, Ok(5));
            Vec::new()
        });
    });
}

#[test]
fn a_handler_anywhere_in_a_limit_that_has_passed() {
    in_own_process("steps::a_handler_anywhere_in_a_limit_that_has_passed", || {
        every_instruction(|_| {
            steps_begin();
            let outcome = timeout(Duration::ZERO, safepoint);
            steps_end();
            // A raise of the handler's may have come first.
            if let Ok(Err(raised)) = outcome {
                assert!(!raised.is::<throwto::TimedOut>());
            }
            Vec::new()
        });
    });
}

/// Shows protocol::scope I6.
#[test]
fn a_handler_anywhere_in_the_end_of_a_scope_that_was_raised_into_and_cancelled() {
    in_own_process(
        "steps::a_handler_anywhere_in_the_end_of_a_scope_that_was_raised_into_and_cancelled",
        || {
            every_instruction(|_| {
                let (scope, handle) = Scope::new();
                let outcome = scope.run(|| {
                    let receipt = handle.raise(Interrupted).unwrap();
                    steps_begin();
                    handle.cancel();
                    vec![receipt]
                });
                steps_end();
                outcome.unwrap_or_default()
            });
        },
    );
}

#[test]
fn a_handler_anywhere_in_attaching_under_another_id_and_looking_around() {
    in_own_process(
        "steps::a_handler_anywhere_in_attaching_under_another_id_and_looking_around",
        || {
            every_instruction(|me| {
                let tid = info(me).unwrap().os_tid;
                steps_begin();
                let attachment = attach();
                let by_tid = Raise::new(Interrupted).queue().to(tid);
                let by_name = Raise::new(Interrupted).queue().to("stepped");
                let counts = stats();
                drop(attachment);
                steps_end();
                let _ = counts;
                vec![by_tid.unwrap(), by_name.unwrap()]
            });
        },
    );
}

/// Shows driver I3.
#[test]
fn a_handler_anywhere_in_a_raise_into_a_thread_that_waits() {
    in_own_process(
        "steps::a_handler_anywhere_in_a_raise_into_a_thread_that_waits",
        || {
            let other = thread::spawn(|| while !thread::sleep(FOREVER).unwrap_err().is::<Stop>() {});
            let id = other.id();
            every_instruction(move |_| {
                until_waiting(id);
                steps_begin();
                let receipt = raise_exc(id, Interrupted);
                steps_end();
                let receipt = receipt.unwrap();
                assert_eq!(fate(&receipt), ReceiptState::Caught);
                vec![receipt]
            });
            other.raise(Stop).unwrap();
            join(other);
        },
    );
}
