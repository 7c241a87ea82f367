//! Threads: handles, stoppable threads, raising until dead, and what `threads()` shows.

use std::io;
use std::time::{Duration, Instant};

use throwto::thread::{JoinError, StoppableThread};
use throwto::{
    ExcType, Interrupted, RaiseError, ReceiptState, Retry, Stop, ThreadId, ThreadState, attach, foreign,
    mask, raise_exc, raise_until_dead, thread, uninterruptible,
};

use crate::stage::*;

const STOP: fn() -> ExcType = ExcType::of::<Stop>;

#[test]
fn join_tells_returned_from_raised_from_panicked() {
    assert_eq!(join(thread::spawn(|| 42)), 42);
    let raised = thread::spawn(|| {
        loop {
            throwto::safepoint_unwind()
        }
    });
    raised.raise(Stop).unwrap();
    let raised: Result<(), _> = raised.join();
    assert!(matches!(raised, Err(JoinError::Raised(r)) if r.is::<Stop>()));
    let panicked: Result<(), _> = thread::spawn(|| std::panic::resume_unwind(Box::new("text"))).join();
    let error = panicked.unwrap_err();
    assert!(error.to_string().contains("text"), "{error}");
    assert!(matches!(error, JoinError::Panicked(_)));
}

#[test]
fn a_joiner_can_be_raised_into_and_gets_the_handle_back() {
    let worker = thread::spawn(thread::park);
    let id = worker.id();
    let joiner = thread::spawn(move || match worker.join() {
        Err(JoinError::Interrupted(raised, handle)) => (raised.is::<Stop>(), handle),
        other => panic!("{other:?}"),
    });
    until_waiting(joiner.id());
    joiner.raise(Stop).unwrap();
    let (stopped, handle) = join(joiner);
    assert!(stopped && handle.is_alive() && handle.id() == id);
    handle.unpark();
    join(handle).unwrap();
}

#[test]
fn a_join_with_a_limit_gives_the_handle_back() {
    let worker = thread::spawn(thread::park);
    let Ok(Err(worker)) = worker.join_timeout(Duration::ZERO) else {
        panic!("it parks")
    };
    let Ok(Err(worker)) = worker.join_timeout(Duration::from_millis(10)) else {
        panic!("it parks")
    };
    assert!(worker.is_alive() && !worker.is_finished());
    worker.unpark();
    join(worker).unwrap();
}

#[test]
fn an_ended_thread_is_not_alive_and_cannot_be_raised_into() {
    let worker = thread::spawn(|| ());
    until("it ends", || !worker.is_alive());
    until("it is gone", || {
        matches!(worker.raise(Stop), Err(RaiseError::NoSuchThread { .. }))
    });
    join(worker);
}

#[test]
fn a_dropped_handle_lets_the_thread_go_on() {
    let id = thread::Builder::new()
        .name("left alone".into())
        .spawn(thread::park)
        .unwrap()
        .id();
    until_waiting(id);
    raise_exc("left alone", Stop).unwrap();
    until("it ends", || info(id).is_none());
}

#[test]
fn a_stopped_thread_meets_stop_at_every_safepoint_until_it_ends() {
    let worker = StoppableThread::spawn(|| {
        let mut met = 0;
        while met < 5 {
            met += usize::from(throwto::safepoint().is_err());
        }
        assert!(thread::stopped() && throwto::pending());
        assert!(thread::sleep(FOREVER).unwrap_err().is::<Stop>());
        assert!(thread::park().unwrap_err().is::<Stop>());
        assert!(foreign::call(|| ()).unwrap_err().is::<Stop>());
        mask(|_| {
            assert!(throwto::safepoint().is_ok());
            assert!(thread::park().is_err());
        });
        uninterruptible(|_| assert!(throwto::safepoint().is_ok() && !throwto::pending()));
        met
    });
    assert!(!worker.stopped());
    worker.stop();
    worker.stop();
    assert!(worker.stopped());
    assert_eq!(worker.join().unwrap(), 5);
}

#[test]
fn stop_frees_a_thread_from_whatever_it_is_blocked_in() {
    let asleep = StoppableThread::spawn(|| thread::sleep(FOREVER));
    until_waiting(asleep.id());
    asleep.stop();
    assert!(asleep.join().unwrap().is_err());
    let (reader, _writer) = io::pipe().unwrap();
    let reading = StoppableThread::spawn(move || {
        with_fail(foreign::Call::new("read"), true).run(|| breakable_read(&reader))
    });
    until_blocked(reading.id(), "read(");
    reading.stop();
    assert_eq!(reading.join().unwrap().unwrap(), Err(BROKEN));
    let ended = StoppableThread::spawn(|| ());
    until("it ends", || !ended.is_alive());
    ended.stop();
    ended.join().unwrap();
}

#[test]
fn other_exceptions_come_before_the_stop_flag() {
    let worker = StoppableThread::spawn(|| {
        uninterruptible(|_| thread::park()).unwrap();
        (
            throwto::safepoint().unwrap_err(),
            throwto::safepoint().unwrap_err(),
        )
    });
    until_waiting(worker.id());
    worker.stop();
    let receipt = worker.handle().raise(Interrupted).unwrap();
    worker.handle().unpark();
    let (first, second) = worker.join().unwrap();
    assert!(first.is::<Interrupted>() && second.is::<Stop>());
    drop(first);
    assert_eq!(receipt.state(), ReceiptState::Caught);
}

#[test]
fn raising_until_dead_outlasts_a_thread_that_swallows() {
    let worker = thread::spawn(|| {
        for _ in 0..4 {
            assert!(thread::sleep(FOREVER).is_err());
        }
    });
    let patient = Retry {
        give_up_after: LIMIT,
        ..Retry::default()
    };
    let dead = raise_until_dead(&worker, STOP(), patient).unwrap();
    assert!(dead.raises >= 4 && dead.caught <= dead.raises, "{dead:?}");
    assert!(!worker.is_alive() || info(worker.id()).is_none());
    join(worker);
}

#[test]
fn a_thread_that_cannot_be_stopped_is_reported_with_its_place() {
    let worker = thread::spawn(|| uninterruptible(|_| thread::park()));
    until_waiting(worker.id());
    let mut retry = Retry {
        every: Duration::from_millis(5),
        give_up_after: Duration::from_millis(50),
    };
    let alive = loop {
        let start = Instant::now();
        let alive = raise_until_dead(&worker, STOP(), retry).unwrap_err();
        assert!(start.elapsed() >= retry.give_up_after);
        // A machine that is busy elsewhere may spend the whole time on the first pause.
        if alive.raises >= 2 || retry.give_up_after > LIMIT {
            break alive;
        }
        retry.give_up_after *= 4;
    };
    assert!(
        alive.raises >= 2 && alive.caught == 0 && alive.matched == 1,
        "{alive:?}"
    );
    let seen = alive.info.as_ref().unwrap();
    assert_eq!(seen.id, worker.id());
    if cfg!(throwto_ladder) {
        assert!(seen.where_blocked.starts_with("futex wait"), "{seen:?}");
    }
    assert_eq!(seen.pending, 1, "retries do not pile up");
    assert!(alive.to_string().contains(&seen.where_blocked), "{alive}");
    let once = Retry {
        every: Duration::ZERO,
        give_up_after: Duration::ZERO,
    };
    assert_eq!(raise_until_dead(&worker, STOP(), once).unwrap_err().raises, 1);
    worker.unpark();
    join(worker).unwrap();
}

#[test]
fn raising_until_dead_hits_nobody_when_several_match_and_gives_up_on_itself() {
    let workers: Vec<_> = (0..2)
        .map(|_| {
            thread::Builder::new()
                .name("undead".into())
                .spawn(thread::park)
                .unwrap()
        })
        .collect();
    assert_eq!(
        raise_until_dead("undead", STOP(), Retry::default())
            .unwrap_err()
            .matched,
        2
    );
    for worker in workers {
        worker.unpark();
        join(worker).unwrap();
    }
    let own = thread::spawn(|| {
        let me = ThreadId::current().unwrap();
        raise_until_dead(
            me,
            STOP(),
            Retry {
                every: FOREVER,
                give_up_after: Duration::from_millis(20),
            },
        )
        .unwrap_err()
    });
    assert_eq!(join(own).raises, 1);
}

#[cfg(throwto_ladder)]
#[test]
fn threads_shows_what_each_is_doing() {
    let (reader, writer) = io::pipe().unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
    let worker = thread::spawn(move || foreign::Call::new("the label").run(|| raw_read(&reader)));
    let place = format!("read(fd {fd}, pipe)");
    until_blocked(worker.id(), &place);
    let seen = info(worker.id()).unwrap();
    assert_eq!(
        (seen.state, seen.region),
        (ThreadState::Foreign, Some("the label"))
    );
    until("the time is told", || {
        info(worker.id())
            .unwrap()
            .where_blocked
            .starts_with(&format!("{place} for "))
    });
    drop(writer);
    join(worker).unwrap().unwrap();
    let me = attach().unwrap();
    let mine = info(me.id()).unwrap();
    assert_eq!(
        (mine.state, &mine.where_blocked[..]),
        (ThreadState::Running, "running")
    );
}

#[cfg(throwto_ladder)]
#[test]
fn a_thread_that_blocks_the_nudge_signal_is_shown_so() {
    let worker = thread::spawn(|| {
        let mut set = nix::sys::signal::SigSet::empty();
        set.add(nix::sys::signal::Signal::SIGURG);
        set.thread_block().unwrap();
        thread::park()
    });
    until_waiting(worker.id());
    assert!(info(worker.id()).unwrap().nudge_blocked);
    worker.raise(Stop).unwrap();
    join(worker).unwrap_err();
}

#[test]
fn park_takes_one_token_and_a_raise_leaves_it() {
    let attachment = attach().unwrap();
    let me = attachment.id();
    thread::unpark(me);
    thread::unpark(me);
    thread::park().unwrap();
    assert!(
        !thread::unparked_within(Duration::from_millis(1)).unwrap(),
        "tokens do not add up"
    );
    thread::unpark(me);
    raise_exc(me, Stop).unwrap();
    assert!(thread::park().is_err());
    assert!(
        thread::unparked_within(Duration::ZERO).unwrap(),
        "the token is still there"
    );
}

#[test]
fn a_retry_with_pauses_beyond_the_clock_is_defined() {
    let worker = thread::spawn(|| thread::sleep(Duration::MAX).is_err());
    let retry = Retry {
        every: Duration::MAX,
        give_up_after: Duration::MAX,
    };
    let dead = raise_until_dead(&worker, ExcType::of::<Stop>(), retry).unwrap();
    assert!(dead.raises >= 1);
    assert!(join(worker));
}

#[test]
fn durations_at_the_edges_are_defined() {
    let _attachment = attach().unwrap();
    thread::sleep(Duration::ZERO).unwrap();
    thread::sleep(Duration::from_nanos(1)).unwrap();
    for endless in [
        Duration::MAX,
        Duration::from_secs(u64::MAX / 2),
        Duration::from_nanos(u64::MAX),
    ] {
        let worker = thread::spawn(move || thread::sleep(endless));
        until_waiting(worker.id());
        worker.raise(Stop).unwrap();
        join(worker).unwrap_err();
    }
}
