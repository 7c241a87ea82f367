//! One blocking task: its ends, its handles, and that the next one is never hit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use throwto::tokio::{Builder, JoinError, TaskGroup, run_blocking, spawn_blocking};
use throwto::{
    Cancelled, Interrupted, RaiseError, ReceiptState, Stop, ThreadId, catch, raise_exc, safepoint,
    safepoint_unwind, thread,
};

use crate::stage::*;
use crate::stuck::{deaf, places};
use crate::{each_flavour, ended, nap, narrow, until_stuck};

fn this_thread() -> std::thread::ThreadId {
    std::thread::current().id()
}

#[test]
fn an_aborted_task_comes_out_of_whatever_it_is_stuck_in_and_its_thread_works_on() {
    for (flavour, runtime) in each_flavour(1) {
        let _enter = runtime.enter();
        for stuck in places() {
            let name = format!("{} on {flavour}", stuck.name);
            let (told, on) = std::sync::mpsc::channel();
            let (body, until) = (stuck.body, stuck.until);
            let task = spawn_blocking(move || {
                told.send(this_thread()).unwrap();
                body()
            });
            until(&task.abort_handle());
            assert!(!task.is_finished(), "{name}");
            task.abort();
            let outcome = ended(&runtime, task);
            assert!(matches!(outcome, Err(JoinError::Aborted)), "{name}: {outcome:?}");
            let next = spawn_blocking(|| (this_thread(), safepoint().is_ok() && !throwto::pending()));
            let (thread, untouched) = ended(&runtime, next).unwrap();
            assert!(untouched, "{name}");
            assert_eq!(thread, on.recv().unwrap(), "{name}");
        }
    }
}

/// Shows tokio::task I2.
#[test]
fn an_abort_that_races_the_end_never_hits_the_next_task_on_that_thread() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let mut dice = Dice::new(seed());
    let (mut aborted, mut kept, mut started) = (0_u64, 0_u64, 0_u64);
    for _ in 0..rounds(5000) {
        // Nothing, up to far longer than it takes to abort.
        let work = (1 << dice.roll(15)) / 2;
        let run = Arc::new(AtomicBool::new(false));
        let first = spawn_blocking({
            let run = Arc::clone(&run);
            move || {
                run.store(true, Ordering::SeqCst);
                for _ in 0..work {
                    safepoint_unwind();
                }
                work
            }
        });
        let next = spawn_blocking(|| {
            for _ in 0..20 {
                safepoint_unwind();
            }
            assert!(!throwto::pending());
            thread::sleep(Duration::from_nanos(1)).is_ok()
        });
        // At times wait until it runs: else most would be aborted before their start.
        if dice.roll(4) > 0 {
            while !run.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
        }
        for _ in 0..1 << dice.roll(12) {
            std::hint::spin_loop();
        }
        first.abort();
        match ended(&runtime, first) {
            Ok(result) => kept += u64::from(result == work),
            Err(JoinError::Aborted) => {
                aborted += 1;
                started += u64::from(run.load(Ordering::SeqCst));
            }
            Err(other) => panic!("{other}"),
        }
        assert!(ended(&runtime, next).expect("the next task is not hit"));
    }
    assert_eq!(aborted + kept, rounds(5000));
    assert!(kept > 0 && started > 0, "no race: {kept} kept, {started} aborted");
}

/// Shows tokio::task I1.
#[test]
fn aborted_before_its_start_it_never_runs_and_is_answered_while_the_pool_is_stuck() {
    for (_, runtime) in each_flavour(1) {
        let _enter = runtime.enter();
        let (gate, deaf) = deaf();
        let busy = spawn_blocking(deaf);
        until("started", || busy.abort_handle().thread().is_some());
        let dropped = Arc::new(AtomicBool::new(false));
        struct Told(Arc<AtomicBool>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let told = Told(Arc::clone(&dropped));
        let queued = spawn_blocking(move || {
            let _told = told;
            panic!("it runs")
        });
        queued.abort();
        assert!(dropped.load(Ordering::SeqCst) && queued.is_finished());
        let outcome: Result<(), _> = ended(&runtime, queued);
        assert!(matches!(outcome, Err(JoinError::Aborted)));
        assert!(!busy.is_finished());
        drop(gate);
        ended(&runtime, busy).unwrap();
    }
}

/// Shows tokio::task I4.
#[test]
fn an_abort_that_races_the_start_is_never_lost() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let mut dice = Dice::new(seed());
    let mut started = 0_u64;
    for _ in 0..rounds(5000) {
        let run = Arc::new(AtomicBool::new(false));
        let task = spawn_blocking({
            let run = Arc::clone(&run);
            move || {
                run.store(true, Ordering::SeqCst);
                loop {
                    safepoint_unwind();
                }
            }
        });
        for _ in 0..1 << dice.roll(15) {
            std::hint::spin_loop();
        }
        task.abort();
        let outcome: Result<(), _> = ended(&runtime, task);
        assert!(matches!(outcome, Err(JoinError::Aborted)), "{outcome:?}");
        started += u64::from(run.load(Ordering::SeqCst));
    }
    assert!(started > 0, "no race");
}

/// Two that panic when they are dropped, among others: all are ended, and one of the panics comes out of the abort.
#[test]
fn a_closure_that_panics_when_dropped_keeps_no_other_from_being_ended() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("dropped"));
        }
    }
    let runtime = narrow();
    let _enter = runtime.enter();
    let (gate, deaf) = deaf();
    let busy = spawn_blocking(deaf);
    until("started", || busy.abort_handle().thread().is_some());
    let group = TaskGroup::new();
    let queued: Vec<_> = (0..20)
        .map(|nth| {
            let panics = (nth < 2).then(|| Panics);
            group.spawn_blocking(move || drop(panics))
        })
        .collect();
    let panic = catch_unwind(AssertUnwindSafe(|| group.abort())).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"dropped"));
    for task in queued {
        assert!(task.is_finished());
        assert!(matches!(ended(&runtime, task), Err(JoinError::Aborted)));
    }
    assert!(group.is_empty());
    drop(gate);
    ended(&runtime, busy).unwrap();
}

#[test]
fn a_dropped_handle_lets_the_task_go_on_unless_it_was_told_to_abort() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let left = spawn_blocking(nap);
    let handle = left.abort_handle();
    drop(left);
    until_stuck(&handle, "futex wait");
    handle.abort();
    until("ended", || handle.is_finished());

    let spawned = [
        spawn_blocking(nap).abort_on_drop(),
        run_blocking(nap),
        Builder::new().abort_on_drop().spawn_blocking(nap),
    ];
    for task in spawned {
        let handle = task.abort_handle();
        until_stuck(&handle, "futex wait");
        drop(task);
        until("ended", || handle.is_finished());
    }
}

#[test]
fn tokios_time_outs_end_the_task() {
    for (_, runtime) in each_flavour(1) {
        let handle = runtime.block_on(async {
            let task = run_blocking(nap);
            let handle = task.abort_handle();
            let late = tokio::time::timeout(Duration::from_millis(5), task).await;
            assert!(late.is_err());
            tokio::select! {
                _ = run_blocking(nap) => panic!("rested"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            handle
        });
        until("ended", || handle.is_finished());
    }
}

#[test]
fn a_time_limit_counts_from_the_start_and_is_the_tasks_own() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let limited = || Builder::new().time_limit(Duration::from_millis(5));
    let first = limited().spawn_blocking(nap);
    // Queued behind the first for longer than its limit.
    let second = limited().spawn_blocking(|| ThreadId::current().is_some());
    let third = Builder::new().time_limit(LIMIT).spawn_blocking(nap);
    assert!(matches!(ended(&runtime, first), Err(JoinError::TimedOut)));
    assert!(ended(&runtime, second).unwrap());
    until_stuck(&third.abort_handle(), "futex wait");
    third.abort();
    assert!(matches!(ended(&runtime, third), Err(JoinError::Aborted)));
}

#[test]
fn a_body_that_swallows_it_meets_it_again() {
    let runtime = narrow();
    let _enter = runtime.enter();
    for swallowed in [1, 3] {
        let task = spawn_blocking(move || {
            for _ in 0..swallowed {
                assert!(nap().unwrap_err().is::<Cancelled>());
                assert!(catch(safepoint_unwind).is_err());
            }
            nap()
        });
        until_stuck(&task.abort_handle(), "futex wait");
        task.abort();
        assert!(matches!(ended(&runtime, task), Err(JoinError::Aborted)));
    }
    let task = spawn_blocking(|| nap().is_err());
    until_stuck(&task.abort_handle(), "futex wait");
    task.abort();
    assert!(ended(&runtime, task).unwrap(), "results win");
}

#[test]
fn panics_and_other_exceptions_are_told_apart() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let text = "none of ours";
    let panicked = spawn_blocking(move || std::panic::panic_any(text.to_owned()));
    match ended::<()>(&runtime, panicked) {
        Err(JoinError::Panicked(panic)) => {
            assert_eq!(panic.to_string(), text);
            assert_eq!(*panic.into_payload().downcast::<String>().unwrap(), text);
        }
        other => panic!("{other:?}"),
    }
    let task = spawn_blocking(|| -> () {
        loop {
            safepoint_unwind();
        }
    });
    until("started", || task.raise(Interrupted).is_ok());
    match ended(&runtime, task) {
        Err(JoinError::Raised(raised)) => assert!(raised.is::<Interrupted>()),
        other => panic!("{other:?}"),
    }
    let task = spawn_blocking(nap);
    until_stuck(&task.abort_handle(), "futex wait");
    task.raise(Interrupted).unwrap();
    // In the closure's own result, as it let it out.
    assert!(ended(&runtime, task).unwrap().unwrap_err().is::<Interrupted>());
    let task = spawn_blocking(nap);
    until_stuck(&task.abort_handle(), "futex wait");
    task.raise(Interrupted).unwrap();
    task.abort();
    let both = ended(&runtime, task);
    assert!(matches!(both, Err(JoinError::Aborted)) || both.unwrap().unwrap_err().is::<Interrupted>());
    let next = spawn_blocking(|| safepoint().is_ok());
    assert!(ended(&runtime, next).unwrap());
}

#[test]
fn a_task_has_a_name_and_a_thread_id_of_its_own_that_ends_with_it() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let task = Builder::new().name("the report").spawn_blocking(nap);
    until_stuck(&task.abort_handle(), "futex wait");
    let seen = task.abort_handle().thread().unwrap();
    assert_eq!(seen.name.as_deref(), Some("the report"));
    assert_eq!((task.name(), task.id()), (Some("the report"), task.id()));
    let receipt = raise_exc("the report", Stop).unwrap();
    // Not the task's own exception: it is the closure's result.
    assert!(ended(&runtime, task).unwrap().unwrap_err().is::<Stop>());
    assert_eq!(fate(&receipt), ReceiptState::Caught);
    let again = raise_exc(seen.id, Stop);
    assert!(matches!(again, Err(RaiseError::NoSuchThread { .. })), "{again:?}");
    let id = spawn_blocking(|| ThreadId::current().unwrap());
    assert_ne!(ended(&runtime, id).unwrap(), seen.id);
}

#[test]
fn what_was_raised_into_the_thread_and_not_met_ends_with_the_task() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let task = spawn_blocking(|| raise_exc(ThreadId::current().unwrap(), Stop).unwrap());
    let receipt = ended(&runtime, task).unwrap();
    assert_eq!(receipt.state(), ReceiptState::TargetEnded);
    let next = spawn_blocking(|| safepoint().is_ok());
    assert!(ended(&runtime, next).unwrap());
}

#[test]
fn outside_of_a_runtime_it_panics_as_tokio_does() {
    let ours = catch_unwind(|| drop(spawn_blocking(|| ()))).unwrap_err();
    let tokios = catch_unwind(|| drop(tokio::task::spawn_blocking(|| ()))).unwrap_err();
    let text = |panic: Box<dyn std::any::Any + Send>| *panic.downcast::<String>().unwrap();
    assert_eq!(text(ours), text(tokios));
}

#[test]
fn a_pool_whose_threads_block_the_nudge_signal_works() {
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGURG);
    let runtime = std::thread::spawn(move || {
        set.thread_block().unwrap();
        let runtime = narrow();
        // The pool's first thread starts here, with this thread's mask.
        let first = runtime.block_on(async { tokio::task::spawn_blocking(|| ()).await });
        first.unwrap();
        runtime
    })
    .join()
    .unwrap();
    let _enter = runtime.enter();
    let task = spawn_blocking(nap);
    until_stuck(&task.abort_handle(), "futex wait");
    task.abort();
    assert!(matches!(ended(&runtime, task), Err(JoinError::Aborted)));
}

#[test]
fn every_receipt_is_settled_and_every_exception_dropped_once() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let ledger = Ledger::new();
    let mut dice = Dice::new(seed());
    let met = Arc::new(AtomicU64::new(0));
    let mut receipts = Vec::new();
    for round in 0..rounds(1000) {
        let work = (1 << dice.roll(15)) / 2;
        // Some go on until they have met one, so that some do.
        let patient = round % 8 == 0;
        let started = Arc::new(AtomicBool::new(false));
        let task = spawn_blocking({
            let (met, started) = (Arc::clone(&met), Arc::clone(&started));
            move || {
                started.store(true, Ordering::SeqCst);
                let mut step = 0;
                let mut waits = patient;
                while waits || step < work {
                    step += 1;
                    if let Err(raised) = safepoint() {
                        waits = false;
                        let ours = raised.is::<Numbered>();
                        met.fetch_add(u64::from(ours), Ordering::SeqCst);
                        if !ours {
                            return Err(raised);
                        }
                    }
                }
                Ok(())
            }
        });
        if patient || dice.roll(4) > 0 {
            until("started", || started.load(Ordering::SeqCst));
        }
        for _ in 0..dice.roll(3) + u64::from(patient) {
            match task.raise(Numbered::new(&ledger)) {
                Ok(receipt) => receipts.push(receipt),
                Err(RaiseError::ScopeNotOpen) => {}
                Err(other) => panic!("{other}"),
            }
        }
        if dice.roll(3) == 0 {
            task.abort();
        }
        match ended(&runtime, task) {
            Ok(Ok(())) | Err(JoinError::Aborted) => {}
            other => panic!("{other:?}"),
        }
    }
    let caught = receipts
        .iter()
        .filter(|receipt| fate(receipt) == ReceiptState::Caught)
        .count();
    assert!(caught > 0);
    assert_eq!(caught as u64, met.load(Ordering::SeqCst));
    ledger.balance();
}

#[test]
fn a_group_has_the_tasks_of_its_future_and_theirs_and_stays_aborted() {
    let runtime = narrow();
    let group = TaskGroup::new();
    let (inner, outer) = runtime.block_on(group.run(async {
        let outer = spawn_blocking(|| spawn_blocking(nap)).await.unwrap();
        (outer, spawn_blocking(nap))
    }));
    let free = runtime.block_on(async { spawn_blocking(|| 5) });
    assert_eq!(group.tasks().len(), 2);
    group.abort();
    assert!(ended(&runtime, inner).unwrap_err().is_cancelled());
    assert!(ended(&runtime, outer).unwrap_err().is_cancelled());
    assert_eq!(ended(&runtime, free).unwrap(), 5);
    assert!(group.is_empty());
    let _enter = runtime.enter();
    let late = group.spawn_blocking(|| panic!("it runs"));
    let late: Result<(), _> = ended(&runtime, late);
    assert!(matches!(late, Err(JoinError::Aborted)) && group.is_empty());
}

#[test]
fn a_task_whose_thread_cannot_be_attached_does_not_run_and_says_so() {
    in_own_process(
        "tasks::a_task_whose_thread_cannot_be_attached_does_not_run_and_says_so",
        || {
            throwto::Config::new().attach_limit(1).apply().unwrap();
            let runtime = narrow();
            let _enter = runtime.enter();
            let only = throwto::attach().unwrap();
            let held = Arc::new(());
            let theirs = Arc::clone(&held);
            let task = spawn_blocking(move || drop(theirs));
            let token = task.token();
            let refused = ended(&runtime, task).unwrap_err();
            let limit = throwto::AttachError::Limit { limit: 1 };
            assert!(
                matches!(&refused, JoinError::NotAttached(error) if *error == limit),
                "{refused}"
            );
            assert!(!refused.is_cancelled() && token.is_cancelled());
            assert_eq!(Arc::strong_count(&held), 1, "the closure was dropped");
            drop(only);
            assert_eq!(
                ended(&runtime, spawn_blocking(|| 42)).unwrap(),
                42,
                "the pool's thread lives on"
            );
        },
    );
}
