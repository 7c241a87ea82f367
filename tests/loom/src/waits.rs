//! Waits: a notice, a token, a deadline or a raise that comes at any moment of a look is not slept on.
//!
//! Owns: the models of `protocol::wait`, whose steps are the shipped ones; [`wait_until`] does them as `region` does. In each the owner sleeps in
//! what only its own due can end: a lost wake-up is a deadlock, which loom reports. The toothed twins take the steps in another
//! order.
//!
//! **Signal context:** no.

use std::ptr::null_mut;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{Duty, Fences, Owner, Record};
use crate::protocol::wait::{NextStep, Raises};
use crate::protocol::word::{Attention, Gate, Kind, Level, Moment};
use crate::stage::{FIRST, Futex, Raised, model, raise, record, settle, take_and_catch};

/// How a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    Ready,
    TimedOut,
    Raised,
}

/// Does the steps, as `region::wait_until` does.
fn wait_until(
    owner: Owner,
    futex: &Futex,
    deadline: Option<u64>,
    raises: Raises,
    mut ready: impl FnMut() -> bool,
) -> Waited {
    loop {
        let inside = owner.enter(Kind::Waiting, 0, null_mut(), Fences::Full);
        let step = loop {
            match owner.next_step(deadline, raises, &mut ready, || futex.now()) {
                NextStep::Sleep { word, until } => {
                    futex.wait_until(owner.record().attention_word(), word.futex(), until);
                }
                step => break step,
            }
        };
        let _nobody_looks = owner.leave(&inside, Fences::Full);
        match step {
            NextStep::TimedOut => return Waited::TimedOut,
            NextStep::Raise if raises == Raises::End => {
                let open = owner.gate(Moment::Blocking, || futex.now()) == Gate::Open;
                if open && take_and_catch(owner) {
                    return Waited::Raised;
                }
            }
            _ => return Waited::Ready,
        }
    }
}

/// Runs the owner in a thread of its own.
fn owner<T: 'static>(
    record: &'static Record,
    futex: &Arc<Futex>,
    steps: impl FnOnce(Owner, &Futex) -> T + 'static,
) -> thread::JoinHandle<T> {
    let futex = futex.clone();
    thread::spawn(move || steps(Owner::of(record), &futex))
}

/// Raises and wakes, as a raiser of a waiting thread does.
fn raise_and_wake(record: &'static Record, raised: &Raised, futex: &Futex) {
    match raise(record, raised, Fences::Full) {
        Duty::Wake => futex.wake(),
        Duty::Nothing => {}
        _ => panic!("no nudge for a wait"),
    }
}

/// What somebody else does, and then tells of by a bit.
struct Deed {
    done: AtomicBool,
    /// Loom panics if whoever is told does not find it whole.
    what: UnsafeCell<u32>,
}

impl Deed {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            done: AtomicBool::new(false),
            what: UnsafeCell::new(0),
        })
    }

    /// The flag carries no order: the bit does.
    fn do_it(&self) {
        // SAFETY: loom panics if another access is concurrent.
        self.what.with_mut(|what| unsafe { *what = 7 });
        self.done.store(true, Ordering::Relaxed);
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn tell(record: &Record, futex: &Futex) {
        record.notify(Attention::NOTIFIED);
        futex.wake();
    }
}

/// `unpark` against `park`, which once looked for the token first and read the word to sleep on behind it.
///
/// Shows protocol::wait I1.
#[test]
fn a_token_is_never_slept_on() {
    model(None, || {
        let (record, futex) = (record(), Arc::new(Futex::default()));
        let parked = owner(record, &futex, |owner, futex| {
            let token = || owner.consume(Attention::UNPARKED);
            wait_until(owner, futex, None, Raises::End, token)
        });
        record.notify(Attention::UNPARKED);
        futex.wake();
        assert_eq!(parked.join().unwrap(), Waited::Ready);
        assert!(!record.attention().has(Attention::UNPARKED), "taken");
    });
}

/// A notice against the look at what it tells of, as in the waits for locks, conditions and channels.
#[test]
fn a_notice_is_never_slept_on() {
    model(None, || notice(false));
}

/// As it, with the notice of an earlier wait still in the word.
#[test]
fn a_notice_is_never_slept_on_behind_a_stale_one() {
    model(None, || notice(true));
}

fn notice(stale: bool) {
    let (record, futex, deed) = (record(), Arc::new(Futex::default()), Deed::new());
    if stale {
        record.notify(Attention::NOTIFIED);
    }
    let waiter = owner(record, &futex, {
        let deed = deed.clone();
        move |owner, futex| wait_until(owner, futex, None, Raises::End, || deed.is_done())
    });
    deed.do_it();
    Deed::tell(record, &futex);
    assert_eq!(waiter.join().unwrap(), Waited::Ready);
}

/// Who takes a token finds what was done before it, without any order of its own.
#[test]
fn what_a_token_tells_of_is_there() {
    model(None, || {
        let (record, futex, deed) = (record(), Arc::new(Futex::default()), Deed::new());
        let waiter = owner(record, &futex, {
            let deed = deed.clone();
            move |owner, futex| {
                let token = || owner.consume(Attention::UNPARKED);
                wait_until(owner, futex, None, Raises::End, token);
                // SAFETY: loom panics if another access is concurrent.
                deed.what.with(|what| assert_eq!(unsafe { *what }, 7));
            }
        });
        deed.do_it();
        record.notify(Attention::UNPARKED);
        futex.wake();
        waiter.join().unwrap();
    });
}

#[test]
fn a_wait_is_woken_or_sees_the_raise() {
    model(None, || {
        let (record, futex, raised) = (record(), Arc::new(Futex::default()), Raised::new());
        let waiter = owner(record, &futex, |owner, futex| {
            wait_until(owner, futex, None, Raises::End, || false)
        });
        raise_and_wake(record, &raised, &futex);
        assert_eq!(waiter.join().unwrap(), Waited::Raised);
        assert_eq!((raised.drops(), raised.state()), (1, ReceiptState::Caught));
    });
}

/// For a caller that takes the exception itself, such as a scope of threads.
#[test]
fn a_wait_that_shows_raises_comes_back_with_the_exception_pending() {
    model(None, || {
        let (record, futex, raised) = (record(), Arc::new(Futex::default()), Raised::new());
        let waiter = owner(record, &futex, |owner, futex| {
            let waited = wait_until(owner, futex, None, Raises::Show, || false);
            assert!(take_and_catch(owner), "it is still there");
            waited
        });
        raise_and_wake(record, &raised, &futex);
        assert_eq!(waiter.join().unwrap(), Waited::Ready);
    });
}

/// A notice and a raise at once: neither hides the other, whatever a raise does to the wait.
fn notice_and_raise(raises: Raises) {
    // Three threads: bounded.
    model(Some(3), move || {
        let (record, futex, raised, deed) =
            (record(), Arc::new(Futex::default()), Raised::new(), Deed::new());
        let waiter = owner(record, &futex, {
            let deed = deed.clone();
            move |owner, futex| {
                let waited = wait_until(owner, futex, None, raises, || deed.is_done());
                match (waited, raises) {
                    // The other one is still due.
                    (Waited::Raised, _) => {
                        let waited = wait_until(owner, futex, None, Raises::End, || deed.is_done());
                        assert_eq!(waited, Waited::Ready);
                    }
                    (Waited::Ready, Raises::Show) if !deed.is_done() => assert!(take_and_catch(owner)),
                    (Waited::Ready, _) => {
                        let waited = wait_until(owner, futex, None, Raises::End, || false);
                        assert_eq!(waited, Waited::Raised);
                    }
                    (Waited::TimedOut, _) => panic!("it has no deadline"),
                }
            }
        });
        let notifier = thread::spawn({
            let (futex, deed) = (futex.clone(), deed.clone());
            move || {
                deed.do_it();
                Deed::tell(record, &futex);
            }
        });
        raise_and_wake(record, &raised, &futex);
        notifier.join().unwrap();
        waiter.join().unwrap();
        assert_eq!(raised.drops(), 1);
    });
}

#[test]
fn a_notice_and_a_raise_never_hide_each_other() {
    notice_and_raise(Raises::End);
}

#[test]
fn a_wait_that_must_not_be_left_is_not_left_and_hides_no_raise() {
    notice_and_raise(Raises::Stay);
}

#[test]
fn a_notice_and_a_raise_that_is_shown_never_hide_each_other() {
    notice_and_raise(Raises::Show);
}

/// A raise is taken back while the waiter is on its way to it: the waiter waits on, and is not deaf.
#[test]
fn a_raise_that_is_revoked_in_the_last_moment_ends_no_wait() {
    model(Some(4), || {
        let (record, futex, raised, deed) =
            (record(), Arc::new(Futex::default()), Raised::new(), Deed::new());
        let waiter = owner(record, &futex, {
            let deed = deed.clone();
            move |owner, futex| wait_until(owner, futex, None, Raises::End, || deed.is_done())
        });
        raise_and_wake(record, &raised, &futex);
        let revoked = record.revoke(FIRST, &raised.receipt);
        let was_revoked = revoked.is_some();
        if let Some(entry) = revoked {
            settle(entry, ReceiptState::Revoked);
        }
        deed.do_it();
        Deed::tell(record, &futex);
        let waited = waiter.join().unwrap();
        assert_eq!(waited == Waited::Raised, !was_revoked);
        assert_eq!(raised.drops(), 1);
    });
}

/// Time against a raise: one of the two ends the wait, and the other one is lost by neither.
#[test]
fn a_deadline_ends_a_wait_with_or_without_a_raise() {
    model(Some(3), || {
        let (record, futex, raised) = (record(), Arc::new(Futex::default()), Raised::new());
        let waiter = owner(record, &futex, |owner, futex| {
            let waited = wait_until(owner, futex, Some(5), Raises::End, || false);
            match waited {
                Waited::TimedOut => assert!(futex.now() >= 5),
                Waited::Raised => return,
                Waited::Ready => panic!("it never is"),
            }
            let waited = wait_until(owner, futex, None, Raises::End, || false);
            assert_eq!(waited, Waited::Raised);
        });
        let clock = thread::spawn({
            let futex = futex.clone();
            move || futex.pass(5)
        });
        raise_and_wake(record, &raised, &futex);
        clock.join().unwrap();
        waiter.join().unwrap();
        assert_eq!(raised.drops(), 1);
    });
}

#[test]
fn a_deadline_alone_ends_a_wait_that_no_raise_may_end() {
    model(Some(3), || {
        let (record, futex, raised) = (record(), Arc::new(Futex::default()), Raised::new());
        let waiter = owner(record, &futex, |owner, futex| {
            let waited = wait_until(owner, futex, Some(5), Raises::Stay, || false);
            (waited, futex.now())
        });
        let raiser = thread::spawn({
            let (futex, raised) = (futex.clone(), raised.clone());
            move || raise_and_wake(record, &raised, &futex)
        });
        futex.pass(5);
        raiser.join().unwrap();
        assert_eq!(waiter.join().unwrap(), (Waited::TimedOut, 5));
        assert!(take_and_catch(Owner::of(record)), "pending to the end");
    });
}

/// An exception was there before the shield, so that nobody comes at its end: the wait itself must.
///
/// Shows protocol::wait I3.
#[test]
fn what_a_shield_holds_back_comes_at_its_end() {
    model(None, || {
        let (record, futex, raised) = (record(), Arc::new(Futex::default()), Raised::new());
        let _it_runs = raise(record, &raised, Fences::Full);
        let waiter = owner(record, &futex, |owner, futex| {
            shield(owner);
            let waited = wait_until(owner, futex, None, Raises::End, || false);
            assert!(futex.now() >= 5, "before the end of the shield");
            waited
        });
        futex.pass(4);
        futex.pass(5);
        assert_eq!(waiter.join().unwrap(), Waited::Raised);
    });
}

fn shield(owner: Owner) {
    owner.set_shield(5);
    owner.set_mask(Level::Unmasked, true);
}

/// The order that `park` once had.
#[test]
#[should_panic(expected = "nobody is coming")]
fn without_the_word_before_the_condition_a_token_is_slept_on() {
    model(None, || {
        let (record, futex) = (record(), Arc::new(Futex::default()));
        let parked = owner(record, &futex, |owner, futex| {
            let _inside = owner.enter(Kind::Waiting, 0, null_mut(), Fences::Full);
            owner.consume(Attention::NOTIFIED);
            if !owner.consume(Attention::UNPARKED) {
                let word = owner.record().attention();
                futex.wait_for_good(owner.record().attention_word(), word.futex(), None);
            }
        });
        record.notify(Attention::UNPARKED);
        futex.wake();
        parked.join().unwrap();
        futex.assert_nobody_is_left_asleep();
    });
}

/// Who tells first and does it then is not heard.
#[test]
#[should_panic(expected = "nobody is coming")]
fn without_the_deed_before_the_notice_it_is_slept_on() {
    model(None, || {
        let (record, futex, deed) = (record(), Arc::new(Futex::default()), Deed::new());
        let waiter = owner(record, &futex, {
            let deed = deed.clone();
            move |owner, futex| {
                let _inside = owner.enter(Kind::Waiting, 0, null_mut(), Fences::Full);
                let look = || owner.next_step(None, Raises::End, || deed.is_done(), || 0);
                if let NextStep::Sleep { word, until } = look() {
                    futex.wait_for_good(owner.record().attention_word(), word.futex(), until);
                }
            }
        });
        Deed::tell(record, &futex);
        deed.do_it();
        waiter.join().unwrap();
        futex.assert_nobody_is_left_asleep();
    });
}

/// The look that once read the clock for the gate, and once more for how long to sleep.
#[test]
#[should_panic(expected = "nobody is coming")]
fn without_one_reading_of_the_clock_the_end_of_a_shield_is_slept_on() {
    model(None, || {
        let (record, futex, raised) = (record(), Arc::new(Futex::default()), Raised::new());
        let _it_runs = raise(record, &raised, Fences::Full);
        let waiter = owner(record, &futex, |owner, futex| {
            shield(owner);
            let _inside = owner.enter(Kind::Waiting, 0, null_mut(), Fences::Full);
            let word = owner.record().attention();
            if owner.gate(Moment::Blocking, || futex.now()) != Gate::Open {
                let end = owner.record().shield_until();
                let limit = (end > futex.now()).then_some(end);
                futex.wait_for_good(owner.record().attention_word(), word.futex(), limit);
            }
        });
        futex.pass(5);
        waiter.join().unwrap();
        assert!(take_and_catch(Owner::of(record)));
        futex.assert_nobody_is_left_asleep();
    });
}
