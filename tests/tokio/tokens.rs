//! `CancellationToken`, both ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use throwto::tokio::{Builder, JoinError, current_token, spawn_blocking, with_token};
use throwto::{Cancelled, Interrupted, safepoint, thread};
use tokio_util::sync::CancellationToken;

use crate::stage::*;
use crate::{each_flavour, ended, nap, narrow, until_stuck};

/// Shows tokio::task I3.
#[test]
fn a_cancelled_token_aborts_the_task_and_an_ended_task_cancels_its_child() {
    for (_, runtime) in each_flavour(2) {
        let _enter = runtime.enter();
        let token = CancellationToken::new();
        let stuck = Builder::new().token(&token).spawn_blocking(nap);
        let done = Builder::new()
            .token(&token)
            .spawn_blocking(|| current_token().unwrap());
        let (its_own, child) = (done.token(), stuck.token());
        let inside = ended(&runtime, done).unwrap();
        assert!(inside.is_cancelled() && its_own.is_cancelled(), "its end");
        assert!(!token.is_cancelled() && !child.is_cancelled(), "its end alone");
        until_stuck(&stuck.abort_handle(), "futex wait");
        token.cancel();
        assert!(child.is_cancelled());
        assert!(matches!(ended(&runtime, stuck), Err(JoinError::Aborted)));
        let late = Builder::new().token(&token).spawn_blocking(|| panic!("it runs"));
        let late: Result<(), _> = ended(&runtime, late);
        assert!(matches!(late, Err(JoinError::Aborted)));
    }
}

#[test]
fn an_abort_and_a_raise_cancel_the_tasks_token_and_the_token_aborts_the_task() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let task = spawn_blocking(nap);
    let token = task.token();
    until_stuck(&task.abort_handle(), "futex wait");
    assert!(!token.is_cancelled());
    task.abort();
    assert!(token.is_cancelled());
    assert!(matches!(ended(&runtime, task), Err(JoinError::Aborted)));

    let outer = CancellationToken::new();
    let task = Builder::new().token(&outer).spawn_blocking(|| {
        let first = nap().unwrap_err().is::<Interrupted>();
        (first, safepoint().is_ok(), nap())
    });
    let token = task.token();
    until_stuck(&task.abort_handle(), "futex wait");
    let receipt = task.raise(Interrupted).unwrap();
    assert!(token.is_cancelled() && !outer.is_cancelled());
    fate(&receipt);
    until_stuck(&task.abort_handle(), "futex wait");
    assert!(!task.is_finished(), "raised into, and not aborted");
    outer.cancel();
    assert!(
        matches!(ended(&runtime, task), Err(JoinError::Aborted)),
        "and still reached"
    );

    let task = spawn_blocking(nap);
    until_stuck(&task.abort_handle(), "futex wait");
    task.token().cancel();
    assert!(matches!(ended(&runtime, task), Err(JoinError::Aborted)));
}

/// Shows tokio::task I5.
#[test]
fn a_token_that_is_asked_for_after_a_raise_is_cancelled_and_aborts_nobody() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let (open, gate) = channel::<()>();
    let task = spawn_blocking(move || {
        let met = throwto::thread::park().unwrap_err().is::<Interrupted>();
        // Deaf, until the token has been looked at.
        let _closed = gate.recv();
        met && throwto::safepoint().is_ok()
    });
    while task.raise(Interrupted).is_err() {
        std::thread::yield_now();
    }
    let token = task.token();
    assert!(token.is_cancelled());
    token.cancel();
    drop(open);
    assert!(ended(&runtime, task).unwrap());
}

#[test]
fn a_task_that_is_aborted_before_its_start_cancels_its_token() {
    let runtime = narrow();
    let _enter = runtime.enter();
    let busy = spawn_blocking(nap);
    let queued = spawn_blocking(|| ());
    let token = queued.token();
    queued.abort();
    assert!(token.is_cancelled());
    busy.abort();
    ended(&runtime, busy).unwrap_err();
    assert!(queued.token().is_cancelled(), "made after the end");
}

#[test]
fn async_work_that_holds_the_child_ends_with_the_scope() {
    let runtime = narrow();
    runtime.block_on(async {
        let task = spawn_blocking(|| {
            let token = current_token().unwrap();
            // What it starts in the runtime goes by its token.
            (tokio::spawn(async move { token.cancelled().await }), nap())
        });
        until_stuck(&task.abort_handle(), "futex wait");
        let started = task.token();
        task.abort();
        task.await.unwrap_err();
        tokio::time::timeout(LIMIT, started.cancelled()).await.unwrap();
    });
}

#[test]
fn a_scope_on_any_thread_goes_with_a_token() {
    let token = CancellationToken::new();
    let (children, received) = channel();
    let worker = std::thread::spawn({
        let token = token.clone();
        move || {
            let stuck = with_token(&token, |child| {
                children
                    .send((throwto::ThreadId::current().unwrap(), child.clone()))
                    .unwrap();
                nap()
            });
            (stuck, throwto::safepoint().is_ok())
        }
    });
    let (id, child) = received.recv().unwrap();
    until_waiting(id);
    assert!(!child.is_cancelled());
    token.cancel();
    let (stuck, after) = worker.join().unwrap();
    assert!(matches!(stuck, Err(Cancelled)) && after && child.is_cancelled());
}

#[test]
fn a_scope_cancels_its_child_on_every_way_out_and_is_not_hit_by_that() {
    let token = CancellationToken::new();
    let mut kept = None;
    let result = with_token(&token, |child| {
        kept = Some(child.clone());
        safepoint().is_ok()
    });
    assert_eq!(result, Ok(true));
    assert!(kept.take().unwrap().is_cancelled() && safepoint().is_ok());

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        with_token(&token, |child| {
            kept = Some(child.clone());
            panic!("on its way out");
        })
    }));
    assert!(panicked.is_err() && kept.take().unwrap().is_cancelled());

    let from_inside = with_token(&token, |child| {
        child.cancel();
        thread::sleep(Duration::from_secs(3600))
    });
    assert!(matches!(from_inside, Err(Cancelled)) && !token.is_cancelled());

    token.cancel();
    let late = with_token(&token, |_| safepoint());
    assert!(matches!(late, Err(Cancelled)), "cancelled before it was entered");
}

#[test]
fn a_token_that_races_the_end_of_a_scope_never_hits_what_follows() {
    let _attachment = throwto::attach().unwrap();
    let mut dice = Dice::new(seed());
    let (tokens, received) = channel::<(CancellationToken, u64)>();
    // Both begin together: a thread that is woken first takes longer than the whole scope.
    let meeting = Arc::new([const { AtomicU64::new(0) }; 2]);
    let meet = |who: usize, meeting: &[AtomicU64; 2]| {
        let round = meeting[who].fetch_add(1, Ordering::SeqCst) + 1;
        while meeting[1 - who].load(Ordering::SeqCst) < round {
            std::thread::yield_now();
        }
    };
    let theirs = Arc::clone(&meeting);
    let canceller = std::thread::spawn(move || {
        for (token, patience) in received {
            meet(1, &theirs);
            for _ in 0..patience {
                std::hint::spin_loop();
            }
            token.cancel();
        }
    });
    let (mut hit, mut missed) = (0_u64, 0_u64);
    for _ in 0..rounds(10_000) {
        let token = CancellationToken::new();
        tokens.send((token.clone(), dice.roll(300))).unwrap();
        let work = dice.roll(300);
        meet(0, &meeting);
        let outcome = with_token(&token, |_| {
            for _ in 0..work {
                throwto::safepoint()?;
            }
            Ok::<_, throwto::Raised>(())
        });
        match outcome {
            Ok(Ok(())) => missed += 1,
            Err(Cancelled) => hit += 1,
            Ok(Err(raised)) => panic!("{raised}"),
        }
        assert!(safepoint().is_ok() && !throwto::pending());
    }
    drop(tokens);
    canceller.join().unwrap();
    assert!(hit > 0 && missed > 0, "no race: {hit} hit, {missed} missed");
}
