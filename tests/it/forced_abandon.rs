//! The rung *abandon*: what it leaves, what it refuses to leave, and what it puts back.

use std::ffi::c_long;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use throwto::foreign::{self, Call, CallError, Module, clear_poison, is_poisoned, no_abandon};
use throwto::{ReceiptState, Rung, Stop, mask, thread, uninterruptible};
use throwto_fixtures::stuck::{HAS_CPP, LET_GO, Lock, Stage, linked};

use crate::forced::*;
use crate::stage::*;

/// A thread that spins in `name` is left, and in `visit` found as it was before.
#[track_caller]
fn is_left(name: &'static str, stage: Stage) -> Arc<Stage> {
    let visitor = Visitor::start(abandoned(name), name, place(name), stage);
    visitor.until_spinning();
    let receipt = visitor.raise();
    let stage = Arc::clone(&visitor.stage);
    let raised = visitor.leave().expect_err("nobody lets it go: it must be left");
    assert_eq!(raised.rung(), Rung::Abandon, "{name}");
    let left = raised.left().expect("it tells what was left");
    assert!(
        left.label == name && left.rung == Rung::Abandon && left.frames >= 1,
        "{left}"
    );
    drop(raised);
    assert_eq!(fate(&receipt), ReceiptState::Caught);
    stage
}

#[test]
fn a_loop_is_left_whatever_the_compiler_made_of_it() {
    for name in ["spin_o0", "spin_o2", "spin_o3", "spin_framed"] {
        is_left(name, Stage::new());
    }
}

#[test]
fn the_place_that_was_left_is_named() {
    let visitor = Visitor::start(abandoned("named"), "named", place("spin_rounding"), Stage::new());
    visitor.until_spinning();
    visitor.raise();
    let raised = visitor.leave().unwrap_err();
    let left = raised.left().unwrap();
    assert!(
        left.place().contains("throwto_spin_rounding") && left.place().contains("libthrowto_stuck.so"),
        "{left}"
    );
    assert!(left.frames >= 2 && left.stack > 0 && !left.leaks().is_empty());
}

#[test]
fn a_program_linked_with_the_library_leaves_the_range_it_has_allowed() {
    let range = Module::from_symbols(linked::FIRST as *const (), linked::LAST as *const ()).unwrap();
    let call = Call::new("linked").abandon_after(SOON).allow(&range);
    let visitor = Visitor::start(call, "linked", linked::SPIN_MALLOC, Stage::new());
    visitor.until_spinning();
    visitor.raise();
    assert_eq!(visitor.leave().unwrap_err().rung(), Rung::Abandon);
}

#[test]
fn code_that_was_not_allowed_is_refused() {
    let range = Module::from_symbols(linked::FIRST as *const (), linked::LAST as *const ()).unwrap();
    let call = Call::new("not allowed").abandon_after(SOON).allow(&range);
    let visitor = Visitor::start(call, "not allowed", linked::SPIN_O2, Stage::new());
    visitor.until_spinning();
    visitor.raise();
    let refused = visitor.until_refused();
    assert!(refused.place().contains("deeper"), "{refused}");
    visitor.stage.let_go();
    assert_eq!(visitor.leave().unwrap(), LET_GO, "its result is kept");
}

#[test]
fn a_loop_in_the_string_functions_of_the_c_library_is_left_between_two() {
    is_left("spin_strings", Stage::new());
}

#[test]
fn a_loop_of_longjmps_is_left() {
    is_left("spin_longjmp", Stage::new());
}

#[test]
fn an_alternate_stack_of_the_calls_own_is_taken_down() {
    is_left("spin_altstack", Stage::new());
}

/// Shows platform::linux::forced::proof I2: there is no room for a walk then, and it takes place elsewhere.
#[test]
fn a_thread_that_has_a_small_alternate_stack_or_none_is_left_all_the_same() {
    fn left_on(size: usize) {
        let mut memory = vec![0_u8; size];
        let own = libc::stack_t {
            ss_sp: memory.as_mut_ptr().cast(),
            ss_flags: if size == 0 { libc::SS_DISABLE } else { 0 },
            ss_size: size,
        };
        // SAFETY: plain data.
        let mut before: libc::stack_t = unsafe { std::mem::zeroed() };
        // SAFETY: memory of ours, until the old one is put back.
        let set = unsafe { libc::sigaltstack(&raw const own, &raw mut before) };
        assert_eq!(set, 0);
        let outcome = visit(
            &abandoned("little room"),
            "little room",
            place("spin_o2"),
            &Stage::new(),
        );
        // SAFETY: what was in force before.
        let restored = unsafe { libc::sigaltstack(&raw const before, std::ptr::null_mut()) };
        assert_eq!(restored, 0);
        assert_eq!(outcome.unwrap_err().rung(), Rung::Abandon);
    }
    for size in [16 << 10, 0] {
        let worker = thread::spawn(move || left_on(size));
        until("in the call", || {
            info(worker.id()).is_some_and(|thread| thread.region.is_some())
        });
        worker.raise(Stop).unwrap();
        join(worker);
    }
}

/// As locks do: `LeftCall::leaks` names it.
#[test]
fn a_signal_that_the_call_has_blocked_stays_blocked() {
    let worker = thread::spawn(|| {
        let call = abandoned("blocks a signal");
        let before = Belongings::now();
        let raised = enter(&call, place("spin_with_mask"), &Stage::new()).unwrap_err();
        assert_eq!(before.also_blocked(libc::SIGUSR1), Belongings::now());
        assert!(raised.left().unwrap().leaks().contains("signal mask"));
        assert!(clear_poison("blocks a signal"));
        works_on(&call);
    });
    until("blocked", || {
        info(worker.id()).is_some_and(|thread| thread.region.is_some() && blocks(&thread, libc::SIGUSR1))
    });
    worker.raise(Stop).unwrap();
    join(worker);
}

#[test]
fn the_floating_point_control_is_put_back() {
    is_left("spin_rounding", Stage::new());
}

/// As hosts do that play sound: numbers next to zero are zero, from before the thread's first call of this kind.
#[cfg(target_arch = "x86_64")]
#[test]
fn what_the_host_has_set_for_a_thread_is_put_back_too() {
    let worker = thread::spawn(|| {
        let flushing = 0x9fc0_u32;
        // SAFETY: stands for a host in C that has done so before any Rust ran here, which Rust itself may not. Nothing on this thread
        // calculates with floating-point numbers, so nobody can tell.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const flushing) };
        let before = Belongings::now();
        let call = abandoned("of a host");
        let raised = enter(&call, place("spin_rounding"), &Stage::new()).unwrap_err();
        assert_eq!(raised.rung(), Rung::Abandon);
        assert_eq!(before, Belongings::now());
        assert!(clear_poison("of a host"));
    });
    until("in the call", || {
        info(worker.id()).is_some_and(|thread| thread.region.is_some())
    });
    worker.raise(Stop).unwrap();
    join(worker);
}

#[test]
fn values_on_the_x87_stack_are_dropped() {
    for _ in 0..4 {
        is_left("spin_x87", Stage::new());
    }
}

#[test]
fn strings_run_forwards_again() {
    is_left("spin_backwards", Stage::new());
}

#[test]
fn unaligned_accesses_are_allowed_again() {
    is_left("spin_aligned", Stage::new());
}

#[test]
fn a_loop_of_malloc_and_free_is_left_and_the_allocator_works() {
    for _ in 0..10 {
        is_left("spin_malloc", Stage::new());
        hammer();
    }
}

#[test]
fn objects_on_the_stack_of_cpp_are_leaked_not_destroyed() {
    if !HAS_CPP {
        return;
    }
    assert_eq!(is_left("cpp_spin", Stage::new()).cleaned(), 0);
}

#[test]
fn a_loop_of_cpp_exceptions_is_left_and_exceptions_work() {
    if HAS_CPP {
        is_left("cpp_spin_throwing", Stage::new());
    }
}

#[test]
fn a_lock_that_was_held_stays_locked() {
    let lock = Lock::new();
    is_left("spin_with_lock", Stage::new().with_lock(lock));
    assert!(!lock.try_lock(), "abandon gives nothing back");
}

/// The place is refused, and the thread comes out with its result when it is let go.
#[track_caller]
fn is_refused(name: &'static str, label: &'static str, stage: Stage, at: &[&str]) {
    let visitor = Visitor::start(abandoned(label), label, place(name), stage);
    visitor.until_spinning();
    visitor.raise();
    let refused = visitor.until_refused_for(|refused| refused.times >= 3);
    assert!(
        at.is_empty() || at.iter().any(|at| refused.place().contains(at)),
        "{refused}"
    );
    visitor.until_spinning();
    visitor.stage.let_go();
    assert_eq!(visitor.leave().unwrap(), LET_GO);
    assert!(!is_poisoned(label));
}

#[test]
fn a_frame_of_the_c_library_in_between_is_refused_by_name() {
    is_refused("spin_qsort", "qsort", Stage::new(), &["libc.so.6"]);
}

#[test]
fn another_stack_is_refused() {
    is_refused("spin_coroutine", "coroutine", Stage::new(), &[]);
}

extern "C-unwind" fn go_on_inside(stage: *const Stage) -> c_long {
    // SAFETY: the fixtures pass on the stage they were given.
    let stage = unsafe { &*stage };
    // SAFETY: as entering the place itself.
    unsafe { stage.enter_inner() }
}

/// Shows platform::linux::forced::proof I1.
#[test]
fn a_rust_frame_in_between_is_refused_by_name() {
    let stage = Stage::new().calling(go_on_inside, place("spin_o2"));
    is_refused(
        "through_callback",
        "Rust in between",
        stage,
        &["go_on_inside", "enter_inner"],
    );
}

extern "C-unwind" fn spins_in_rust(stage: *const Stage) -> c_long {
    no_abandon(|| go_on_inside(stage))
}

#[test]
fn inside_no_abandon_nothing_is_left_and_after_it_the_call_is() {
    static HELD: AtomicBool = AtomicBool::new(true);
    extern "C-unwind" fn held(_stage: *const Stage) -> c_long {
        no_abandon(|| {
            while HELD.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        3
    }
    let stage = Stage::new().calling(held, place("first"));
    let visitor = Visitor::start(abandoned("held"), "held", place("callback_then_spin"), stage);
    until("in the callback", || {
        info(visitor.thread.id()).is_some_and(|thread| thread.region == Some("held"))
    });
    let receipt = visitor.raise();
    // Longer than the rung needs where nothing holds it off, by far.
    assert_eq!(receipt.wait(SOON * 50), ReceiptState::Pending);
    assert_eq!(visitor.stage.rounds(), 0, "still in the callback");
    HELD.store(false, Ordering::Relaxed);
    assert_eq!(visitor.leave().unwrap_err().rung(), Rung::Abandon);

    let stage = Stage::new().calling(spins_in_rust, place("spin_o2"));
    let visitor = Visitor::start(
        abandoned("foreign in Rust"),
        "foreign in Rust",
        place("through_callback"),
        stage,
    );
    visitor.until_spinning();
    let receipt = visitor.raise();
    assert_eq!(receipt.wait(SOON * 50), ReceiptState::Pending);
    visitor.stage.let_go();
    assert_eq!(visitor.leave().unwrap(), LET_GO);
}

extern "C-unwind" fn a_region_of_its_own(stage: *const Stage) -> c_long {
    // SAFETY: the fixtures pass on the stage they were given.
    let stage = unsafe { &*stage };
    let raised = enter(&abandoned("inner"), place("spin_o2"), stage).unwrap_err();
    assert!(raised.is::<Stop>() && raised.rung() == Rung::Abandon);
    assert_eq!(raised.left().unwrap().label, "inner");
    assert!(clear_poison("inner"));
    5
}

#[test]
fn of_two_regions_the_inner_one_is_left() {
    let stage = Arc::new(Stage::new().calling(a_region_of_its_own, place("first")));
    let same = Arc::clone(&stage);
    let worker = thread::spawn(move || {
        let outer = enter(&abandoned("outer"), place("through_callback"), &same).unwrap();
        works_on(&abandoned("outer"));
        outer
    });
    until("spinning", || stage.rounds() > 10);
    worker.raise(Stop).unwrap();
    assert_eq!(join(worker), 5);
    assert!(!is_poisoned("outer"));
}

#[test]
fn a_label_is_poisoned_until_it_is_cleared() {
    let label = "poisoned";
    let worker = thread::spawn(move || {
        let call = abandoned(label);
        let stage = Stage::new();
        enter(&call, place("spin_o2"), &stage).unwrap_err();
        assert!(is_poisoned(label));
        // SAFETY: it is not made.
        let again = unsafe { call.run_forced(|| unreachable!()) };
        assert!(
            matches!(again, Err(CallError::Poisoned { label: "poisoned" })),
            "{again:?}"
        );
        let plain = Call::new(label).try_run(|| -> Result<(), ()> { unreachable!() });
        assert!(matches!(plain, Err(CallError::Poisoned { .. })), "{plain:?}");
        assert!(clear_poison(label) && !clear_poison(label) && !is_poisoned(label));
        works_on(&call);
    });
    until("in the call", || {
        info(worker.id()).is_some_and(|thread| thread.region == Some(label))
    });
    worker.raise(Stop).unwrap();
    join(worker);
}

#[test]
fn who_allows_no_module_is_told_and_the_call_is_not_made() {
    let worker = thread::spawn(|| {
        let call = Call::new("nothing allowed").abandon_after(SOON);
        // SAFETY: it is not made.
        unsafe { call.run_forced(|| unreachable!()) }.map(drop)
    });
    let error = join(worker).unwrap_err();
    assert!(
        matches!(
            error,
            CallError::NoModule {
                label: "nothing allowed"
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_masked_or_uninterruptible_thread_is_not_left() {
    for level in [
        (|f: &mut dyn FnMut()| mask(|_| f())) as fn(&mut dyn FnMut()),
        |f| uninterruptible(|_| f()),
    ] {
        let stage = Arc::new(Stage::new());
        let same = Arc::clone(&stage);
        let worker = thread::spawn(move || {
            let mut result = None;
            level(&mut || result = enter(&abandoned("masked"), place("spin_o2"), &same).ok());
            (result, throwto::safepoint().is_err())
        });
        until("spinning", || stage.rounds() > 10);
        let receipt = worker.raise(Stop).unwrap();
        assert_eq!(receipt.wait(SOON * 50), ReceiptState::Pending);
        stage.let_go();
        assert_eq!(join(worker), (Some(LET_GO), true));
    }
}

#[test]
fn who_is_revoked_in_time_leaves_nothing() {
    let stage = Arc::new(Stage::new());
    let same = Arc::clone(&stage);
    let worker = thread::spawn(move || {
        let call = Call::new("revoked")
            .abandon_after(Duration::from_secs(3600))
            .allow(&library());
        (
            enter(&call, place("spin_o2"), &same),
            throwto::safepoint().is_ok(),
        )
    });
    until("spinning", || stage.rounds() > 10);
    let receipt = worker.raise(Stop).unwrap();
    assert!(receipt.revoke());
    stage.let_go();
    let (result, nothing_pending) = join(worker);
    assert_eq!((result.unwrap(), nothing_pending), (LET_GO, true));
}

/// Shows platform::linux::forced::proof I2.
#[test]
fn many_threads_are_left_at_once() {
    const LABELS: [&str; 32] = [
        "m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11", "m12", "m13", "m14", "m15",
        "m16", "m17", "m18", "m19", "m20", "m21", "m22", "m23", "m24", "m25", "m26", "m27", "m28", "m29",
        "m30", "m31",
    ];
    // Each has a label of its own: who is poisoned by another would not enter again.
    let visitors =
        LABELS.map(|label| Visitor::start(abandoned(label), label, place("spin_o2"), Stage::new()));
    visitors.iter().for_each(Visitor::until_spinning);
    visitors.iter().for_each(|visitor| drop(visitor.raise()));
    for visitor in visitors {
        assert_eq!(visitor.leave().unwrap_err().rung(), Rung::Abandon);
    }
}

/// Shows protocol::ladder I1, I3.
#[test]
fn the_ladder_is_climbed_in_order_and_in_time() {
    let hooked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&hooked);
    let stage = Arc::new(Stage::new());
    let same = Arc::clone(&stage);
    let worker = thread::spawn(move || {
        let call = Call::new("whole ladder")
            .fail_syscalls()
            .unblock(move || asked.store(true, Ordering::Relaxed))
            .unwind_after(Duration::from_millis(20))
            .abandon_after(Duration::from_millis(60))
            .allow(&library());
        let outcome = enter(&call, place("spin_o2"), &same);
        clear_poison("whole ladder");
        (outcome.unwrap_err(), Instant::now())
    });
    until("spinning", || stage.rounds() > 10);
    let began = Instant::now();
    worker.raise(Stop).unwrap();
    let (raised, ended) = join(worker);
    assert_eq!(raised.rung(), Rung::Abandon);
    assert!(hooked.load(Ordering::Relaxed), "the hook came first");
    assert!(ended - began >= Duration::from_millis(60), "{:?}", ended - began);
}

/// Without growth: what a call leaks is what it had, and the rung itself takes nothing for good.
#[test]
fn leaving_many_calls_takes_no_memory() {
    let stage = Arc::new(Stage::new());
    let same = Arc::clone(&stage);
    let wanted = rounds(1_000);
    let worker = thread::spawn(move || {
        let call = Call::new("a thousand")
            .abandon_after(Duration::ZERO)
            .allow(&library());
        let spin = place("spin_o2");
        let (mut left, mut grown_from) = (0, 0);
        while left < wanted {
            let raised = enter(&call, spin, &same).unwrap_err();
            if raised.rung() == Rung::Abandon {
                assert!(clear_poison("a thousand"));
                left += 1;
            }
            if left == wanted / 10 {
                grown_from = resident();
            }
        }
        (grown_from, resident())
    });
    while worker.is_alive() {
        let seen = stage.rounds();
        while worker.is_alive() && stage.rounds() == seen {
            std::hint::spin_loop();
        }
        if let Ok(receipt) = worker.raise(Stop) {
            receipt.wait(LIMIT);
        }
    }
    let (before, after) = join(worker);
    println!("{before} bytes resident, then {after}");
    // Other tests run beside this one.
    assert!(after < before + (64 << 20), "{before} bytes, then {after}");
}

#[test]
fn a_raise_before_entry_is_raised_there_and_the_call_is_not_made() {
    let worker = thread::spawn(|| {
        throwto::raise_exc(throwto::ThreadId::current().unwrap(), Stop).unwrap();
        let stage = Stage::new();
        let raised = enter(&abandoned("before entry"), place("spin_o2"), &stage).unwrap_err();
        (raised.rung(), raised.left().is_none(), stage.rounds())
    });
    assert_eq!(join(worker), (Rung::Safepoint, true, 0));
    assert!(foreign::call(|| ()).is_ok());
}

/// Either the call was left or its result is kept; the exception comes out once in either case.
/// Shows platform::linux::forced I2.
#[test]
fn a_return_that_races_the_rung_is_kept_or_left_but_never_both() {
    let seed = seed();
    println!("THROWTO_SEED={seed}");
    let mut dice = Dice::new(seed);
    let ledger = Ledger::new();
    let (give, stages) = std::sync::mpsc::channel::<Arc<Stage>>();
    let worker = thread::spawn(move || {
        let call = Call::new("races").abandon_after(Duration::ZERO).allow(&library());
        let spin_place = place("spin_o2");
        let (mut left, mut kept, mut before) = (0_u64, 0_u64, 0_u64);
        for stage in stages {
            match enter(&call, spin_place, &stage) {
                Ok(result) => {
                    assert_eq!(result, LET_GO);
                    kept += 1;
                    drop(spin());
                }
                Err(raised) if raised.rung() == Rung::Abandon => {
                    assert!(clear_poison("races"));
                    left += 1;
                }
                Err(_) => before += 1,
            }
        }
        (left, kept, before)
    });
    let wanted = rounds(1_000);
    for _ in 0..wanted {
        let stage = Arc::new(Stage::new());
        give.send(Arc::clone(&stage)).unwrap();
        while stage.rounds() == 0 {
            std::hint::spin_loop();
        }
        // Either may come first. A signal takes some microseconds to the other processor.
        let pause = Duration::from_nanos(dice.roll(4_000));
        let wait = || {
            let began = Instant::now();
            while began.elapsed() < pause {
                std::hint::spin_loop();
            }
        };
        let let_go_first = dice.roll(3) == 0;
        if let_go_first {
            stage.let_go();
            wait();
        }
        let receipt = worker.raise(Numbered::new(&ledger)).unwrap();
        if !let_go_first {
            wait();
            stage.let_go();
        }
        assert_eq!(fate(&receipt), ReceiptState::Caught);
    }
    drop(give);
    let (left, kept, before) = join(worker);
    println!("{left} left, {kept} kept");
    assert_eq!((left + kept, before), (wanted, 0));
    ledger.balance();
}

#[test]
fn a_call_that_a_destructor_makes_in_a_panic_is_not_left() {
    struct Last(Arc<Stage>, Arc<std::sync::Mutex<Option<c_long>>>);
    impl Drop for Last {
        fn drop(&mut self) {
            let result = enter(&abandoned("in a panic"), place("spin_o2"), &self.0);
            *self.1.lock().unwrap() = result.ok();
        }
    }
    let (stage, result) = (Arc::new(Stage::new()), Arc::default());
    let last = Last(Arc::clone(&stage), Arc::clone(&result));
    let worker = thread::spawn(move || {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _last = last;
            std::panic::resume_unwind(Box::new("a panic"));
        }));
        (panic.is_err(), throwto::safepoint().is_err())
    });
    until("spinning", || stage.rounds() > 10);
    let receipt = worker.raise(Stop).unwrap();
    assert_eq!(receipt.wait(SOON * 50), ReceiptState::Pending);
    stage.let_go();
    assert_eq!(join(worker), (true, true));
    assert_eq!(*result.lock().unwrap(), Some(LET_GO));
}

#[test]
fn a_thread_that_is_not_attached_just_makes_the_call() {
    let stage = Arc::new(Stage::new());
    let same = Arc::clone(&stage);
    let plain =
        std::thread::spawn(move || enter(&abandoned("not attached"), place("spin_o2"), &same).unwrap());
    until("spinning", || stage.rounds() > 10);
    stage.let_go();
    assert_eq!(plain.join().unwrap(), LET_GO);
}

#[test]
fn an_error_of_the_calls_own_is_failed_and_one_that_was_provoked_is_raised() {
    let worker = thread::spawn(|| {
        let call = Call::new("own error").fail_syscalls();
        // SAFETY: no forced rung is allowed.
        let own = unsafe { call.try_run_forced(|| Err::<(), _>("disk full")) };
        assert!(matches!(own, Err(CallError::Failed("disk full"))), "{own:?}");
        let (reader, _writer) = std::io::pipe().unwrap();
        // SAFETY: as above.
        unsafe { call.try_run_forced(|| stubborn_read(&reader).0) }.map(drop)
    });
    until_blocked(worker.id(), "read(");
    worker.raise(Stop).unwrap();
    let provoked = join(worker).unwrap_err();
    assert!(
        matches!(&provoked, CallError::Raised(raised) if raised.rung() == Rung::Fail),
        "{provoked:?}"
    );
}
