//! The rung *unwind*: which calls it ends, which cleanups it runs, and what it refuses.

use std::ffi::c_long;
use std::io::{Write, pipe};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use throwto::foreign::{Call, clear_poison, no_abandon};
use throwto::{ReceiptState, Rung, Stop, thread};
use throwto_fixtures::stuck::{HAS_CPP, LET_GO, Lock, Stage, linked};

use crate::forced::*;
use crate::stage::*;

/// A thread that blocks in `name` is unwound, and in `visit` found as it was before.
#[track_caller]
fn is_unwound(name: &'static str, blocked: &str, stage: Stage) -> Arc<Stage> {
    let visitor = Visitor::start(unwound(name), name, place(name), stage);
    visitor.until_blocked(blocked);
    let receipt = visitor.raise();
    let stage = Arc::clone(&visitor.stage);
    let raised = visitor.leave().expect_err("nothing comes: it must be unwound");
    assert_eq!(raised.rung(), Rung::Unwind, "{name}");
    let left = raised.left().expect("it tells what was left");
    assert!(
        left.label == name && left.rung == Rung::Unwind && left.frames >= 1,
        "{left}"
    );
    drop(raised);
    assert_eq!(fate(&receipt), ReceiptState::Caught);
    stage
}

#[test]
fn c_that_retries_every_error_is_unwound() {
    let (reader, mut writer) = pipe().unwrap();
    is_unwound("read_for_ever", "read(", Stage::new().at(&reader));
    writer.write_all(b"x").unwrap();
    assert_eq!(raw_read(&reader), Ok(1), "no byte was lost");
    is_unwound("poll_for_ever", "poll(", Stage::new().at(&reader));
}

#[test]
fn the_call_that_was_left_is_named() {
    let (reader, _writer) = pipe().unwrap();
    let visitor = Visitor::start(
        unwound("named read"),
        "named read",
        place("read_for_ever"),
        Stage::new().at(&reader),
    );
    visitor.until_blocked("read(");
    visitor.raise();
    let raised = visitor.leave().unwrap_err();
    let left = raised.left().unwrap();
    assert!(
        left.place().contains("read") && left.place().contains("libc.so.6"),
        "{left}"
    );
}

#[test]
fn a_program_linked_with_the_library_is_unwound() {
    let (reader, _writer) = pipe().unwrap();
    let visitor = Visitor::start(
        unwound("linked read"),
        "linked read",
        linked::READ_FOR_EVER,
        Stage::new().at(&reader),
    );
    visitor.until_blocked("read(");
    visitor.raise();
    assert_eq!(visitor.leave().unwrap_err().rung(), Rung::Unwind);
}

#[test]
fn cleanup_attributes_of_c_run_from_the_inside_out() {
    let (reader, _writer) = pipe().unwrap();
    let stage = is_unwound("read_with_cleanup", "read(", Stage::new().at(&reader));
    assert_eq!(stage.cleaned(), 21);
}

#[test]
fn a_lock_with_a_cleanup_is_let_go() {
    let (reader, _writer) = pipe().unwrap();
    let lock = Lock::new();
    is_unwound(
        "read_with_lock",
        "read(",
        Stage::new().at(&reader).with_lock(lock),
    );
    assert!(lock.try_lock());
}

#[test]
fn destructors_of_cpp_run_from_the_inside_out_and_close_what_they_own() {
    if !HAS_CPP {
        return;
    }
    let (reader, mut writer) = given_away();
    let stage = is_unwound("cpp_read", "read(", Stage::new().at(&reader.into_raw_fd()));
    assert_eq!(stage.cleaned(), 4231);
    assert!(is_closed(&mut writer));
}

#[test]
fn destructors_of_cpp_linked_with_the_program_run() {
    let Some(read) = linked::cpp_read() else { return };
    let (reader, mut writer) = given_away();
    let visitor = Visitor::start(
        unwound("linked C++"),
        "linked C++",
        read,
        Stage::new().at(&reader.into_raw_fd()),
    );
    visitor.until_blocked("read(");
    visitor.raise();
    let stage = Arc::clone(&visitor.stage);
    assert_eq!(visitor.leave().unwrap_err().rung(), Rung::Unwind);
    assert_eq!(stage.cleaned(), 4231);
    assert!(is_closed(&mut writer));
}

#[test]
fn catch_all_that_rethrows_runs_and_catch_of_a_type_is_passed() {
    if !HAS_CPP {
        return;
    }
    let (reader, _writer) = pipe().unwrap();
    let stage = is_unwound("cpp_rethrow", "read(", Stage::new().at(&reader));
    assert_eq!(stage.cleaned(), 231);
    let stage = is_unwound("cpp_catch_known", "read(", Stage::new().at(&reader));
    assert_eq!(stage.cleaned(), 21);
}

#[test]
fn a_static_variable_whose_making_was_left_is_made_by_the_next_who_comes() {
    if !HAS_CPP {
        return;
    }
    let (reader, mut writer) = pipe().unwrap();
    for _ in 0..3 {
        is_unwound("cpp_static", "read(", Stage::new().at(&reader));
    }
    writer.write_all(b"x").unwrap();
    let worker = thread::spawn(move || {
        enter(&unwound("made"), place("cpp_static"), &Stage::new().at(&reader)).unwrap()
    });
    assert_eq!(join(worker), 1);
}

/// The place is refused, and the thread comes out with its result when what it waits for has come.
#[track_caller]
fn is_refused(
    name: &'static str,
    blocked: &str,
    stage: Stage,
    at: &[&str],
    come: impl FnOnce(),
) -> Arc<Stage> {
    let visitor = Visitor::start(unwound(name), name, place(name), stage);
    visitor.until_blocked(blocked);
    visitor.raise();
    let refused = visitor.until_refused_for(|refused| refused.times >= 3);
    assert!(at.iter().any(|at| refused.to_string().contains(at)), "{refused}");
    visitor.until_blocked(blocked);
    come();
    let stage = Arc::clone(&visitor.stage);
    assert!(visitor.leave().unwrap() >= 0, "its result is kept");
    stage
}

#[test]
fn a_wait_for_a_lock_is_refused() {
    let lock = Lock::new();
    assert!(lock.try_lock());
    let visitor = Visitor::start(
        unwound("lock"),
        "lock",
        place("lock"),
        Stage::new().with_lock(lock),
    );
    visitor.until_blocked("futex");
    let receipt = visitor.raise();
    // Refused by the kind of the call already: no handler needs to look at its frames.
    assert_eq!(receipt.wait(SOON * 50), ReceiptState::Pending);
    lock.unlock();
    assert_eq!(visitor.leave().unwrap(), LET_GO);
}

#[test]
fn a_stream_of_the_c_library_is_refused_by_name() {
    let (reader, mut writer) = pipe().unwrap();
    is_refused("fgets", "read(", Stage::new().at(&reader), &["libc.so.6"], || {
        writer.write_all(b"line\n").unwrap();
    });
}

#[test]
fn a_frame_that_lets_no_exception_out_is_refused() {
    if !HAS_CPP {
        return;
    }
    let (reader, mut writer) = pipe().unwrap();
    let stage = is_refused(
        "cpp_noexcept",
        "read(",
        Stage::new().at(&reader),
        &["noexcept"],
        || writer.write_all(b"x").unwrap(),
    );
    assert_eq!(stage.cleaned(), 1, "in the ordinary way");
}

extern "C-unwind" fn go_on_inside(stage: *const Stage) -> c_long {
    // SAFETY: the fixtures pass on the stage they were given.
    let stage = unsafe { &*stage };
    // SAFETY: as entering the place itself.
    unsafe { stage.enter_inner() }
}

extern "C-unwind" fn go_on_guarded(stage: *const Stage) -> c_long {
    no_abandon(|| go_on_inside(stage))
}

#[test]
fn a_rust_frame_in_between_is_refused_by_name() {
    let (reader, mut writer) = pipe().unwrap();
    let stage = Stage::new()
        .at(&reader)
        .calling(go_on_inside, place("read_for_ever"));
    let at = ["go_on_inside", "enter_inner"];
    is_refused("through_callback", "read(", stage, &at, || {
        writer.write_all(b"x").unwrap();
    });
}

#[test]
fn inside_no_abandon_nothing_is_unwound() {
    let (reader, mut writer) = pipe().unwrap();
    let stage = Stage::new()
        .at(&reader)
        .calling(go_on_guarded, place("read_for_ever"));
    let visitor = Visitor::start(
        unwound("guarded callback"),
        "guarded callback",
        place("through_callback"),
        stage,
    );
    visitor.until_blocked("read(");
    let receipt = visitor.raise();
    assert_eq!(receipt.wait(SOON * 50), ReceiptState::Pending);
    writer.write_all(b"x").unwrap();
    assert_eq!(visitor.leave().unwrap(), 1);
}

extern "C-unwind" fn a_region_of_its_own(stage: *const Stage) -> c_long {
    // SAFETY: the fixtures pass on the stage they were given.
    let stage = unsafe { &*stage };
    let raised = enter(&unwound("inner read"), place("read_for_ever"), stage).unwrap_err();
    assert!(raised.is::<Stop>() && raised.rung() == Rung::Unwind);
    5
}

#[test]
fn of_two_regions_the_inner_one_is_unwound() {
    let (reader, _writer) = pipe().unwrap();
    let stage = Stage::new()
        .at(&reader)
        .calling(a_region_of_its_own, place("first"));
    let worker = thread::spawn(move || {
        let outer = enter(&unwound("outer read"), place("through_callback"), &stage).unwrap();
        works_on(&unwound("outer read"));
        outer
    });
    until_blocked(worker.id(), "read(");
    worker.raise(Stop).unwrap();
    assert_eq!(join(worker), 5);
}

/// It is left alone there; when the destructor has got what it waits for, the unwinding goes on.
/// Shows platform::linux::forced I3.
#[test]
fn a_destructor_that_blocks_is_not_unwound_itself() {
    if !HAS_CPP {
        return;
    }
    let ((first, _never), (second, mut writer)) = (pipe().unwrap(), pipe().unwrap());
    let second_number = std::os::fd::AsRawFd::as_raw_fd(&second);
    let visitor = Visitor::start(
        unwound("cpp_waits"),
        "cpp_waits",
        place("cpp_waits"),
        Stage::new().at(&first).then_at(&second),
    );
    visitor.until_blocked("read(");
    visitor.raise();
    until("the destructor blocks", || visitor.stage.cleaned() == 1);
    visitor.until_blocked(&format!("read(fd {second_number}"));
    writer.write_all(b"x").unwrap();
    let stage = Arc::clone(&visitor.stage);
    assert_eq!(visitor.leave().unwrap_err().rung(), Rung::Unwind);
    assert_eq!(stage.cleaned(), 123);
}

#[test]
fn many_threads_are_unwound_at_once() {
    let (reader, _writer) = pipe().unwrap();
    let visitors: Vec<_> = (0..32)
        .map(|_| {
            let stage = Stage::new().at(&reader);
            Visitor::start(unwound("many reads"), "many reads", place("read_for_ever"), stage)
        })
        .collect();
    visitors.iter().for_each(|visitor| visitor.until_blocked("read("));
    visitors.iter().for_each(|visitor| drop(visitor.raise()));
    for visitor in visitors {
        assert_eq!(visitor.leave().unwrap_err().rung(), Rung::Unwind);
    }
}

#[test]
fn unwind_comes_after_its_time_and_before_abandon() {
    let (reader, _writer) = pipe().unwrap();
    let worker = thread::spawn(move || {
        let call = Call::new("both rungs")
            .fail_syscalls()
            .unwind_after(Duration::from_millis(30))
            .abandon_after(Duration::from_secs(3600))
            .allow(&library());
        let raised = enter(&call, place("read_for_ever"), &Stage::new().at(&reader)).unwrap_err();
        (raised, Instant::now())
    });
    until_blocked(worker.id(), "read(");
    let began = Instant::now();
    worker.raise(Stop).unwrap();
    let (raised, ended) = join(worker);
    assert_eq!(raised.rung(), Rung::Unwind);
    assert!(ended - began >= Duration::from_millis(30), "{:?}", ended - began);
    assert!(!clear_poison("both rungs"), "unwinding leaves a tidy library");
}

/// Code that comes back at EINTR is not unwound: the gentler rung has served.
#[test]
fn the_gentler_rung_is_enough_where_it_is() {
    let (reader, _writer) = pipe().unwrap();
    let worker = thread::spawn(move || {
        let call = Call::new("gentle").unwind_after(Duration::from_secs(3600));
        // SAFETY: one system call, and the closure owns nothing.
        let result = unsafe { call.run_forced(|| raw_read(&reader)) };
        (result.ok(), spin().rung())
    });
    until_blocked(worker.id(), "read(");
    worker.raise(Stop).unwrap();
    assert_eq!(join(worker), (Some(Err(libc::EINTR)), Rung::Nudge));
}

/// Without growth, in memory or in descriptors.
#[test]
fn unwinding_many_calls_takes_no_memory() {
    let (reader, _writer) = pipe().unwrap();
    let wanted = rounds(1_000);
    let worker = thread::spawn(move || {
        let call = Call::new("a thousand reads").unwind_after(Duration::ZERO);
        let read = place(if HAS_CPP {
            "cpp_catch_known"
        } else {
            "read_with_cleanup"
        });
        let mut grown_from = 0;
        for round in 0..wanted {
            let stage = Stage::new().at(&reader);
            let raised = enter(&call, read, &stage).unwrap_err();
            assert_eq!((raised.rung(), stage.cleaned()), (Rung::Unwind, 21));
            if round == wanted / 10 {
                grown_from = resident();
            }
        }
        (grown_from, resident())
    });
    while worker.is_alive() {
        until("blocked", || {
            info(worker.id()).is_none_or(|thread| thread.where_blocked.starts_with("read("))
        });
        if let Ok(receipt) = worker.raise(Stop) {
            receipt.wait(LIMIT);
        }
    }
    let (before, after) = join(worker);
    println!("{before} bytes resident, then {after}");
    // Other tests run beside this one.
    assert!(after < before + (64 << 20), "{before} bytes, then {after}");
}

/// A byte that was read is returned, and one that was not is still there.
#[test]
fn a_result_that_races_the_rung_is_kept_and_no_byte_is_lost() {
    let seed = seed();
    println!("THROWTO_SEED={seed}");
    let mut dice = Dice::new(seed);
    let ledger = Ledger::new();
    let (reader, mut writer) = pipe().unwrap();
    let stage = Arc::new(Stage::new().at(&reader));
    let same = Arc::clone(&stage);
    let wanted = rounds(500);
    let worker = thread::spawn(move || {
        let call = Call::new("races a result").unwind_after(Duration::ZERO);
        let read = place("read_with_cleanup");
        let (mut unwound, mut kept) = (0_u64, 0_u64);
        while unwound + kept < wanted {
            match enter(&call, read, &same) {
                Ok(result) => {
                    assert_eq!(result, 1);
                    kept += 1;
                    drop(spin());
                }
                Err(raised) if raised.rung() == Rung::Unwind => {
                    unwound += 1;
                    // The byte comes, or has come already.
                    assert_eq!(raw_read(&reader), Ok(1));
                }
                Err(raised) => panic!("{raised} before the call"),
            }
        }
        (unwound, kept)
    });
    for _ in 0..wanted {
        until("blocked", || {
            info(worker.id()).is_some_and(|thread| {
                thread.region == Some("races a result") && thread.where_blocked.starts_with("read(")
            })
        });
        let receipt = worker.raise(Numbered::new(&ledger)).unwrap();
        let pause = Duration::from_nanos(dice.roll(300_000));
        let began = Instant::now();
        while began.elapsed() < pause {
            std::hint::spin_loop();
        }
        writer.write_all(b"x").unwrap();
        assert_eq!(fate(&receipt), ReceiptState::Caught);
    }
    let (unwound, kept) = join(worker);
    println!("{unwound} unwound, {kept} kept");
    assert_eq!(unwound + kept, wanted);
    ledger.balance();
}

/// What forced unwinding must never meet. It is told, the call goes on, and its result is kept.
#[test]
fn a_catch_all_that_keeps_the_exception_is_told() {
    if !HAS_CPP {
        return;
    }
    let (reader, _writer) = pipe().unwrap();
    let visitor = Visitor::start(
        unwound("cpp_swallow"),
        "cpp_swallow",
        place("cpp_swallow"),
        Stage::new().at(&reader),
    );
    visitor.until_blocked("read(");
    visitor.raise();
    let stage = Arc::clone(&visitor.stage);
    assert_eq!(visitor.leave().unwrap(), 8);
    assert_eq!(stage.cleaned(), 31);
}

#[test]
fn the_allocator_and_the_streams_work_after_each_unwinding() {
    let (reader, _writer) = pipe().unwrap();
    for _ in 0..10 {
        is_unwound("read_with_cleanup", "read(", Stage::new().at(&reader));
        hammer();
    }
}

/// The call is gone when nothing is left to raise: something must stand for it, and what has acted must not be told of the
/// thread's next exception.
#[test]
fn an_exception_taken_back_while_its_call_is_unwound_is_stood_for_and_leaves_no_trace() {
    let (reader, _writer) = pipe().unwrap();
    let met = Arc::new(AtomicU64::new(0));
    let tell = Arc::clone(&met);
    let worker = thread::spawn(move || {
        let me = throwto::ThreadId::current().unwrap();
        let call = unwound("taken back");
        while tell.load(Ordering::SeqCst) < 3 {
            let stage = Stage::new().at(&reader);
            let raised = enter(&call, place("read_with_cleanup"), &stage).unwrap_err();
            if raised.is::<throwto::Interrupted>() {
                assert_eq!(raised.rung(), Rung::Unwind);
                assert!(raised.left().is_some() && stage.cleaned() > 10);
                throwto::uninterruptible(|_| {
                    throwto::set_async_exc(me, None);
                    // Of a type of its own: a `Stop` would be superseded by the other thread's next, and taken back with it.
                    drop(throwto::raise_exc(me, throwto::Cancelled).unwrap());
                });
                let next = throwto::safepoint().unwrap_err();
                assert!(next.rung() != Rung::Unwind && next.left().is_none(), "{next:?}");
                tell.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let mut dice = Dice::new(seed());
    until("three times", || {
        let Ok(receipt) = worker.raise(Stop) else {
            return true;
        };
        let end = Instant::now() + Duration::from_micros(500 + dice.roll(3000));
        while Instant::now() < end && receipt.state() == throwto::ReceiptState::Pending {
            std::hint::spin_loop();
        }
        receipt.revoke();
        met.load(Ordering::SeqCst) >= 3
    });
    // It may be in one more call.
    while worker.is_alive() {
        let _ = worker.raise(Stop);
        std::thread::yield_now();
    }
    join(worker);
}
