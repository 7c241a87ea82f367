//! Locks, condition variables and channels: raised into while they wait, and whole afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use throwto::sync::{
    Condvar, Mutex, RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError, channel, sync_channel,
};
use throwto::thread::{JoinError, JoinHandle, spawn};
use throwto::{Interrupted, Raise, Raised, Stop, ThreadId, raise_exc};

use crate::stage::{LIMIT, join, until, until_waiting};

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

/// A xorshift generator whose seed is shown if the test fails.
struct Random(u64);

impl Random {
    fn seeded(test: &str) -> Self {
        let given = std::env::var("THROWTO_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |time| time.as_nanos() as u64)
                | 1
        });
        println!("{test}: THROWTO_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn spin(&mut self) {
        for _ in 0..self.below(2000) {
            std::hint::spin_loop();
        }
    }
}

/// Raises into all of `targets`, again and again, until told to stop. Returns how many were raised.
fn raiser(
    targets: Vec<ThreadId>,
    mut random: Random,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut raised = 0;
        while !stop.load(Ordering::Relaxed) {
            let target = targets[random.below(targets.len() as u64) as usize];
            raised += usize::from(raise_exc(target, Interrupted).is_ok());
            random.spin();
        }
        raised
    })
}

// Mutex

#[test]
fn waiter_for_a_held_lock_is_raised_into_and_the_lock_works_on() {
    let mutex = Arc::new(Mutex::new(0));
    let guard = mutex.lock().unwrap();
    let lock = |mutex: &Arc<Mutex<i32>>| {
        let mutex = Arc::clone(mutex);
        spawn(move || mutex.lock().map(|mut data| *data += 1))
    };
    let (raised, patient) = (lock(&mutex), lock(&mutex));
    until_waiting(raised.id());
    until_waiting(patient.id());
    raised.raise(Stop).unwrap();
    let error = join(raised).unwrap_err();
    assert!(error.is::<Stop>());
    assert!(patient.is_alive());
    drop(guard);
    join(patient).unwrap();
    assert_eq!(*mutex.lock().unwrap(), 1);
    assert_eq!(Arc::into_inner(mutex).unwrap().into_inner(), 1);
}

#[test]
fn thread_that_waits_for_its_own_lock_can_be_raised_out_of_it() {
    let worker = spawn(|| {
        let mutex = Mutex::new(());
        let _guard = mutex.lock()?;
        mutex.lock().map(drop)
    });
    until_waiting(worker.id());
    worker.raise(Stop).unwrap();
    assert!(join(worker).unwrap_err().is::<Stop>());
}

#[test]
fn pending_exception_is_raised_before_a_free_lock_is_taken() {
    let me = throwto::attach().unwrap();
    let mutex = Mutex::new(());
    raise_exc(me.id(), Stop).unwrap();
    assert!(mutex.lock().unwrap_err().is::<Stop>());
    raise_exc(me.id(), Stop).unwrap();
    assert!(mutex.lock_timeout(HOUR).unwrap_err().is::<Stop>());
    raise_exc(me.id(), Stop).unwrap();
    drop(mutex.try_lock().expect("not a cancellation point"));
    assert!(throwto::safepoint().is_err());
}

#[test]
fn masked_lock_is_raised_into_only_where_it_would_wait() {
    let me = throwto::attach().unwrap();
    let mutex = Mutex::new(());
    raise_exc(me.id(), Stop).unwrap();
    throwto::mask(|_| {
        let guard = mutex.lock().expect("a free lock does not wait");
        assert!(
            mutex
                .lock_timeout(Duration::ZERO)
                .expect("zero does not wait")
                .is_none()
        );
        assert!(mutex.lock().unwrap_err().is::<Stop>());
        drop(guard);
    });
    assert!(mutex.try_lock().is_some());
}

#[test]
fn uninterruptible_lock_waits_on_and_the_exception_stays_pending() {
    let mutex = Arc::new(Mutex::new(()));
    let guard = mutex.lock().unwrap();
    let worker = {
        let mutex = Arc::clone(&mutex);
        spawn(move || {
            let locked = throwto::uninterruptible(|_| mutex.lock().map(drop));
            (locked.is_ok(), throwto::safepoint().is_err())
        })
    };
    until_waiting(worker.id());
    let receipt = worker.raise(Stop).unwrap();
    assert_eq!(receipt.wait(SOON), throwto::ReceiptState::Pending);
    drop(guard);
    assert_eq!(join(worker), (true, true));
}

#[test]
fn lock_timeout_of_zero_or_an_hour_or_for_ever_does_as_it_says() {
    let mutex = Arc::new(Mutex::new(5));
    assert_eq!(*mutex.lock_timeout(Duration::ZERO).unwrap().unwrap(), 5);
    let guard = mutex.lock().unwrap();
    let began = Instant::now();
    assert!(mutex.lock_timeout(Duration::ZERO).unwrap().is_none());
    assert!(mutex.lock_timeout(SOON).unwrap().is_none());
    assert!(began.elapsed() >= SOON);
    for limit in [HOUR, Duration::MAX] {
        let mutex = Arc::clone(&mutex);
        let worker = spawn(move || mutex.lock_timeout(limit).map(|guard| guard.map(drop)));
        until_waiting(worker.id());
        worker.raise(Stop).unwrap();
        assert!(join(worker).unwrap_err().is::<Stop>());
    }
    drop(guard);
}

#[test]
fn holder_that_panics_or_is_raised_into_leaves_no_poison() {
    let mutex = Arc::new(Mutex::new(0));
    let theirs = Arc::clone(&mutex);
    let worker = spawn(move || {
        let mut guard = theirs.lock().unwrap();
        *guard = 1;
        loop {
            throwto::safepoint_unwind();
        }
    });
    until("it holds the lock", || mutex.try_lock().is_none());
    worker.raise(Stop).unwrap();
    let ended: Result<Result<(), _>, _> = worker.join_timeout(LIMIT);
    assert!(matches!(ended, Err(JoinError::Raised(_))));
    assert!(mutex.try_lock().is_some());
    let theirs = Arc::clone(&mutex);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _guard = theirs.lock().unwrap();
        std::panic::resume_unwind(Box::new("a panic"));
    }));
    assert!(mutex.lock().is_ok());
}

#[test]
fn lock_never_raises_into_a_destructor_that_runs_during_a_panic() {
    struct LocksOnDrop(Arc<Mutex<i32>>);
    impl Drop for LocksOnDrop {
        fn drop(&mut self) {
            *self.0.lock().expect("unwinding") += 1;
        }
    }
    let me = throwto::attach().unwrap();
    let mutex = Arc::new(Mutex::new(0));
    raise_exc(me.id(), Stop).unwrap();
    let dropped = LocksOnDrop(Arc::clone(&mutex));
    let unwound = throwto::catch(move || {
        let _dropped = dropped;
        throwto::Raise::new(Interrupted)
            .to(ThreadId::current().unwrap())
            .unwrap();
        throwto::safepoint_unwind();
    });
    assert!(unwound.unwrap_err().is::<Stop>());
    assert_eq!(*mutex.try_lock().unwrap(), 1);
    assert!(throwto::safepoint().unwrap_err().is::<Interrupted>());
}

/// Shows sync::mutex I1, protocol::lock_word I1.
#[test]
fn lock_excludes_while_raisers_fire() {
    const THREADS: usize = 4;
    let random = Random::seeded("lock_excludes_while_raisers_fire");
    let mutex = Arc::new(Mutex::new((0_u64, 0_u64)));
    let stop = Arc::new(AtomicBool::new(false));
    let met = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..THREADS)
        .map(|_| {
            let (mutex, stop, met) = (Arc::clone(&mutex), Arc::clone(&stop), Arc::clone(&met));
            spawn(move || {
                let (mut locked, mut raised) = (0_u64, 0_u64);
                while !stop.load(Ordering::Relaxed) {
                    match mutex.lock() {
                        Ok(mut guard) => {
                            let (first, _) = *guard;
                            guard.0 = first + 1;
                            std::hint::black_box(&guard);
                            if locked % 64 == 0 {
                                std::thread::yield_now();
                            }
                            assert_eq!(guard.0, first + 1);
                            guard.1 += 1;
                            locked += 1;
                        }
                        Err(_) => {
                            raised += 1;
                            met.store(true, Ordering::Relaxed);
                        }
                    }
                }
                (locked, raised)
            })
        })
        .collect();
    let raiser = raiser(
        workers.iter().map(JoinHandle::id).collect(),
        random,
        Arc::clone(&stop),
    );
    let end = Instant::now() + Duration::from_millis(700);
    until("a while of locking, and somebody raised into while at it", || {
        let locked = mutex.try_lock().is_some_and(|counts| counts.1 > 0);
        Instant::now() > end && locked && met.load(Ordering::Relaxed)
    });
    stop.store(true, Ordering::Relaxed);
    let raises = raiser.join().unwrap();
    let counts: Vec<_> = workers.into_iter().map(|worker| join(worker)).collect();
    let locked: u64 = counts.iter().map(|count| count.0).sum();
    assert_eq!(*mutex.try_lock().expect("nobody holds it"), (locked, locked));
    assert!(
        locked > 0 && counts.iter().map(|count| count.1).sum::<u64>() > 0,
        "{counts:?}, {raises} raises"
    );
}

// Condvar

/// Threads that wait on a condvar, each counted under the mutex once it does.
#[derive(Default)]
struct Line {
    waiting: Mutex<usize>,
    moved: Condvar,
    woken: std::sync::Mutex<Vec<usize>>,
}

impl Line {
    fn join(self: &Arc<Self>, number: usize) -> JoinHandle<Result<(), Raised>> {
        let line = Arc::clone(self);
        spawn(move || {
            let mut guard = line.waiting.lock()?;
            *guard += 1;
            let guard = line.moved.wait(guard)?;
            line.woken.lock().unwrap().push(number);
            drop(guard);
            Ok(())
        })
    }

    /// Who counts and has let the mutex go is in line.
    #[track_caller]
    fn until_in_line(&self, count: usize) {
        until("all are in line", || *self.waiting.lock().unwrap() == count);
    }

    fn woken(&self) -> Vec<usize> {
        self.woken.lock().unwrap().clone()
    }
}

#[test]
fn raised_condition_wait_leaves_the_mutex_free() {
    let line = Arc::new(Line::default());
    let waiter = line.join(0);
    line.until_in_line(1);
    let guard = line.waiting.lock().unwrap();
    waiter.raise(Stop).unwrap();
    assert!(
        join(waiter).unwrap_err().is::<Stop>(),
        "although the mutex is held here"
    );
    drop(guard);
    assert!(line.waiting.try_lock().is_some());
    assert!(line.woken().is_empty());
}

/// Shows sync::condvar I2.
#[test]
fn exception_arrives_in_wait_held_with_the_mutex_locked() {
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let theirs = Arc::clone(&pair);
    let waiter = spawn(move || {
        let (mutex, condvar) = &*theirs;
        let mut guard = mutex.lock().unwrap();
        *guard = 1;
        let raised = condvar.wait_held(&mut guard).unwrap_err();
        *guard += 1;
        (raised.is::<Stop>(), mutex.try_lock().is_none())
    });
    until("it waits", || *pair.0.lock().unwrap() == 1);
    let guard = pair.0.lock().unwrap();
    let receipt = waiter.raise(Stop).unwrap();
    until("it left the condition wait", || {
        receipt.state() == throwto::ReceiptState::Delivered
    });
    until_waiting(waiter.id());
    let second = waiter.raise(Interrupted).unwrap();
    assert_eq!(
        second.wait(SOON),
        throwto::ReceiptState::Pending,
        "taking the mutex back is not interruptible"
    );
    assert_eq!(*guard, 1);
    drop(guard);
    assert_eq!(join(waiter), (true, true));
    assert_eq!(*pair.0.try_lock().unwrap(), 2);
}

#[test]
fn notifications_go_first_in_first_out() {
    let line = Arc::new(Line::default());
    let waiters: Vec<_> = (0..4)
        .map(|number| {
            let waiter = line.join(number);
            line.until_in_line(number + 1);
            waiter
        })
        .collect();
    for count in 1..=4 {
        line.moved.notify_one();
        until("one more is woken", || line.woken().len() >= count);
    }
    assert_eq!(line.woken(), [0, 1, 2, 3]);
    waiters.into_iter().for_each(|waiter| join(waiter).unwrap());
}

#[test]
fn as_many_are_woken_as_notifications_were_given_in_a_row() {
    let line = Arc::new(Line::default());
    let mut waiters: Vec<_> = (0..3).map(|number| line.join(number)).collect();
    line.until_in_line(3);
    line.moved.notify_one();
    line.moved.notify_one();
    until("two are woken", || line.woken().len() == 2);
    until("two have ended", || {
        waiters.iter().filter(|waiter| waiter.is_alive()).count() == 1
    });
    waiters.retain(JoinHandle::is_alive);
    until_waiting(waiters[0].id());
    assert_eq!(line.woken().len(), 2);
    line.moved.notify_all();
    join(waiters.remove(0)).unwrap();
}

#[test]
fn notification_of_a_waiter_that_is_raised_at_the_same_time_goes_on_to_the_next() {
    let mut random = Random::seeded("notification_of_a_waiter_that_is_raised");
    let (mut raised, mut notified) = (0, 0);
    let end = Instant::now() + Duration::from_millis(1200);
    while Instant::now() < end || raised + notified == 0 {
        let line = Arc::new(Line::default());
        let first = line.join(1);
        line.until_in_line(1);
        let second = line.join(2);
        line.until_in_line(2);
        let ready = Arc::new(AtomicBool::new(false));
        let raise = {
            let (id, ready) = (first.id(), Arc::clone(&ready));
            let mut random = Random(random.below(u64::MAX - 1) + 1);
            std::thread::spawn(move || {
                ready.store(true, Ordering::Release);
                random.spin();
                raise_exc(id, Stop).is_ok()
            })
        };
        until("the raiser is ready", || ready.load(Ordering::Acquire));
        random.spin();
        line.moved.notify_one();
        match join(first) {
            Ok(()) => {
                notified += 1;
                assert!(second.is_alive(), "one notification woke two");
                line.moved.notify_one();
            }
            Err(_) => raised += 1,
        }
        until("the notification reached somebody", || !second.is_alive());
        join(second).unwrap();
        raise.join().unwrap();
    }
    println!("raised {raised}, notified {notified}");
}

#[test]
fn masked_condition_wait_is_raised_into_and_an_uninterruptible_one_is_not() {
    let line = Arc::new(Line::default());
    let wait = |line: &Arc<Line>, uninterruptible: bool| {
        let line = Arc::clone(line);
        spawn(move || {
            let wait = || {
                let mut guard = line.waiting.lock().unwrap();
                *guard += 1;
                line.moved.wait(guard).map(drop)
            };
            if uninterruptible {
                throwto::uninterruptible(|_| wait())
            } else {
                throwto::mask(|_| wait())
            }
        })
    };
    let masked = wait(&line, false);
    line.until_in_line(1);
    masked.raise(Stop).unwrap();
    assert!(join(masked).unwrap_err().is::<Stop>());
    let left_alone = wait(&line, true);
    line.until_in_line(2);
    let receipt = left_alone.raise(Stop).unwrap();
    assert_eq!(receipt.wait(SOON), throwto::ReceiptState::Pending);
    line.moved.notify_one();
    join(left_alone).unwrap();
}

#[test]
fn condition_wait_with_a_limit_ends_by_time_condition_or_raise() {
    let me = throwto::attach().unwrap();
    let (mutex, condvar) = (Mutex::new(0), Condvar::new());
    let (guard, result) = condvar
        .wait_timeout(mutex.lock().unwrap(), Duration::ZERO)
        .unwrap();
    assert!(result.timed_out());
    let began = Instant::now();
    let (guard, result) = condvar.wait_timeout_while(guard, SOON, |n| *n == 0).unwrap();
    assert!(result.timed_out() && began.elapsed() >= SOON);
    let (guard, result) = condvar
        .wait_timeout_while(guard, Duration::MAX, |n| *n == 1)
        .unwrap();
    assert!(!result.timed_out());
    raise_exc(me.id(), Stop).unwrap();
    assert!(
        condvar
            .wait_timeout(guard, Duration::MAX)
            .unwrap_err()
            .is::<Stop>()
    );
    raise_exc(me.id(), Stop).unwrap();
    let guard = mutex.try_lock().expect("given up by the raised wait");
    assert!(condvar.wait_while(guard, |_| false).unwrap_err().is::<Stop>());
}

/// Shows sync::queue I1, sync::condvar I1.
#[test]
fn notifications_are_conserved_while_raisers_fire() {
    const PERMITS: usize = 20_000;
    let random = Random::seeded("notifications_are_conserved_while_raisers_fire");
    let pair = Arc::new((Mutex::new(0_usize), Condvar::new()));
    let taken = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let takers: Vec<_> = (0..3)
        .map(|_| {
            let (pair, taken) = (Arc::clone(&pair), Arc::clone(&taken));
            spawn(move || {
                while taken.load(Ordering::Relaxed) < PERMITS {
                    let Ok(guard) = pair.0.lock() else { continue };
                    let mut guard = match pair.1.wait_while(guard, |permits| *permits == 0) {
                        Ok(guard) => guard,
                        Err(raised) if raised.is::<Stop>() => return,
                        Err(_) => continue,
                    };
                    *guard -= 1;
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let raiser = raiser(
        takers.iter().map(JoinHandle::id).collect(),
        random,
        Arc::clone(&stop),
    );
    for _ in 0..PERMITS {
        *pair.0.lock().unwrap() += 1;
        // One for each permit: were one lost, a taker would sleep beside a permit.
        pair.1.notify_one();
    }
    until("every permit is taken", || {
        taken.load(Ordering::Relaxed) == PERMITS
    });
    stop.store(true, Ordering::Relaxed);
    raiser.join().unwrap();
    for taker in takers {
        until("the taker ends", || {
            !taker.is_alive() || taker.raise(Stop).is_ok() && !taker.is_alive()
        });
        join(taker);
    }
    assert_eq!(*pair.0.try_lock().unwrap(), 0);
}

// Channels

#[test]
fn receiver_of_an_empty_channel_is_raised_into_and_goes_on_after_it() {
    let (sender, receiver) = channel();
    let worker = spawn(move || (receiver.recv(), receiver.recv()));
    until_waiting(worker.id());
    worker.raise(Stop).unwrap();
    sender.send(7).unwrap();
    let (first, second) = join(worker);
    match (first, second) {
        (Err(error), Ok(7)) => assert!(error.is::<Stop>()),
        // The value was there before it woke: results win, the exception waits for the next call.
        (Ok(7), Err(error)) => assert!(error.is::<Stop>()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pending_exception_is_raised_before_a_value_is_received() {
    let me = throwto::attach().unwrap();
    let (sender, receiver) = channel();
    sender.send(1).unwrap();
    raise_exc(me.id(), Stop).unwrap();
    assert!(receiver.recv().unwrap_err().is::<Stop>());
    raise_exc(me.id(), Stop).unwrap();
    assert!(
        receiver
            .recv_timeout(HOUR)
            .unwrap_err()
            .raised()
            .unwrap()
            .is::<Stop>()
    );
    raise_exc(me.id(), Stop).unwrap();
    assert_eq!(receiver.try_recv(), Ok(1), "not a cancellation point");
    sender.send(2).expect("not a cancellation point");
    assert!(throwto::safepoint().is_err());
}

#[test]
fn masked_receive_returns_what_is_there_and_is_raised_into_where_it_would_wait() {
    let me = throwto::attach().unwrap();
    let (sender, receiver) = channel();
    sender.send(1).unwrap();
    raise_exc(me.id(), Stop).unwrap();
    throwto::mask(|_| {
        assert_eq!(receiver.recv().unwrap(), 1);
        assert!(matches!(
            receiver.recv_timeout(Duration::ZERO),
            Err(RecvTimeoutError::Timeout)
        ));
        assert!(receiver.recv().unwrap_err().is::<Stop>());
    });
}

#[test]
fn uninterruptible_receive_is_not_raised_into() {
    let (sender, receiver) = channel();
    let worker = spawn(move || {
        let received = throwto::uninterruptible(|_| receiver.recv());
        (received.unwrap(), throwto::safepoint().is_err())
    });
    until_waiting(worker.id());
    let receipt = worker.raise(Stop).unwrap();
    assert_eq!(receipt.wait(SOON), throwto::ReceiptState::Pending);
    sender.send(3).unwrap();
    assert_eq!(join(worker), (3, true));
}

#[test]
fn ends_that_wait_learn_that_the_other_is_gone() {
    let (sender, receiver) = channel::<u8>();
    let other = sender.clone();
    let worker = spawn(move || receiver.recv());
    until_waiting(worker.id());
    drop(other);
    assert!(worker.is_alive());
    drop(sender);
    assert!(matches!(join(worker), Err(RecvError::Disconnected)));
    for bound in [0, 1] {
        let (sender, receiver) = sync_channel(bound);
        (0..bound).for_each(|_| sender.send(0).unwrap());
        let worker = spawn(move || sender.send(9));
        until_waiting(worker.id());
        drop(receiver);
        assert!(matches!(join(worker), Err(SendError::Disconnected(9))));
    }
}

#[test]
fn sender_to_a_full_channel_is_raised_into_and_gets_its_value_back() {
    for bound in [0, 2] {
        let (sender, receiver) = sync_channel(bound);
        (0..bound).for_each(|n| sender.send(n).unwrap());
        let theirs = sender.clone();
        let worker = spawn(move || theirs.send(99));
        until_waiting(worker.id());
        worker.raise(Stop).unwrap();
        match join(worker) {
            Err(SendError::Raised(raised, 99)) => assert!(raised.is::<Stop>()),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            receiver.try_iter().collect::<Vec<_>>(),
            (0..bound).collect::<Vec<_>>()
        );
    }
}

#[test]
fn masked_send_with_room_sends() {
    let me = throwto::attach().unwrap();
    let (sender, receiver) = sync_channel(1);
    raise_exc(me.id(), Stop).unwrap();
    throwto::mask(|_| {
        sender.send(1).unwrap();
        assert!(matches!(sender.send(2), Err(SendError::Raised(_, 2))));
    });
    assert_eq!(receiver.recv().unwrap(), 1);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn values_come_in_the_order_they_were_sent() {
    let (sender, receiver) = channel();
    (0..1000).for_each(|n| sender.send(n).unwrap());
    drop(sender);
    assert_eq!(
        receiver.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
        (0..1000).collect::<Vec<_>>()
    );
}

#[test]
fn receive_timeout_of_zero_or_an_hour_or_for_ever_does_as_it_says() {
    let (sender, receiver) = channel();
    assert!(matches!(
        receiver.recv_timeout(Duration::ZERO),
        Err(RecvTimeoutError::Timeout)
    ));
    let began = Instant::now();
    assert!(matches!(
        receiver.recv_timeout(SOON),
        Err(RecvTimeoutError::Timeout)
    ));
    assert!(began.elapsed() >= SOON);
    sender.send(1).unwrap();
    assert_eq!(receiver.recv_timeout(Duration::ZERO).unwrap(), 1);
    let worker = spawn(move || {
        (
            receiver.recv_timeout(HOUR).unwrap(),
            receiver.recv_timeout(Duration::MAX).unwrap(),
        )
    });
    until_waiting(worker.id());
    sender.send(2).unwrap();
    until_waiting(worker.id());
    sender.send(3).unwrap();
    assert_eq!(join(worker), (2, 3));
}

/// Shows sync::channel::shared I2.
#[test]
fn bound_of_zero_hands_over_and_holds_nothing() {
    let (sender, receiver) = sync_channel(0);
    assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    assert!(matches!(
        receiver.recv_timeout(SOON),
        Err(RecvTimeoutError::Timeout)
    ));
    assert_eq!(
        sender.try_send(1),
        Err(TrySendError::Full(1)),
        "the receiver that gave up wishes nothing"
    );
    let theirs = sender.clone();
    let worker = spawn(move || theirs.send(2).is_ok());
    until_waiting(worker.id());
    assert_eq!(receiver.try_recv(), Ok(2), "from the sender that stands ready");
    assert!(join(worker));
    let worker = spawn(move || (receiver.recv().unwrap_err(), receiver));
    until_waiting(worker.id());
    worker.raise(Stop).unwrap();
    let (error, receiver) = join(worker);
    assert!(error.is::<Stop>());
    assert_eq!(
        sender.try_send(1),
        Err(TrySendError::Full(1)),
        "nor does one that was raised into"
    );
    let worker = spawn(move || receiver.recv().unwrap());
    until("somebody receives", || sender.try_send(3).is_ok());
    assert_eq!(join(worker), 3);
}

#[test]
fn values_left_in_a_channel_are_dropped_once_with_the_receiver() {
    let value = Arc::new(());
    let (sender, receiver) = channel();
    sender.send(Arc::clone(&value)).unwrap();
    sender.send(Arc::clone(&value)).unwrap();
    drop(receiver.recv().unwrap());
    drop(receiver);
    assert_eq!(Arc::strong_count(&value), 1);
    drop(sender.send(Arc::clone(&value)).unwrap_err());
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn exception_is_not_the_end_of_an_iteration() {
    let me = throwto::attach().unwrap();
    let (sender, receiver) = channel();
    sender.send(1).unwrap();
    sender.send(2).unwrap();
    drop(sender);
    let mut values = receiver.iter();
    assert_eq!(values.next().unwrap().unwrap(), 1);
    Raise::new(Stop).to(me.id()).unwrap();
    assert!(values.next().unwrap().unwrap_err().is::<Stop>());
    assert_eq!(values.next().unwrap().unwrap(), 2);
    assert!(values.next().is_none());
}

#[test]
fn errors_turn_into_io_errors_and_back() {
    let me = throwto::attach().unwrap();
    let (sender, receiver) = sync_channel::<u8>(1);
    raise_exc(me.id(), Stop).unwrap();
    let error = std::io::Error::from(receiver.recv().unwrap_err());
    assert!(Raised::from_io(error).unwrap().is::<Stop>());
    raise_exc(me.id(), Stop).unwrap();
    let error = std::io::Error::from(sender.send(1).unwrap_err());
    assert!(Raised::from_io(error).unwrap().is::<Stop>());
    drop(sender);
    let error = std::io::Error::from(receiver.recv().unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

/// Numbered values from several senders, everybody raised into all the time: each arrives once and in its sender's order.
fn values_are_conserved(bound: Option<usize>, per_sender: u64) {
    const SENDERS: u64 = 2;
    let random = Random::seeded("values_are_conserved");
    let stop = Arc::new(AtomicBool::new(false));
    type Send = Box<dyn Fn((u64, u64)) -> Result<(), SendError<(u64, u64)>> + std::marker::Send>;
    let (sends, receiver): (Vec<Send>, _) = match bound {
        None => {
            let (sender, receiver) = channel();
            let send = |sender: throwto::sync::Sender<_>| Box::new(move |value| sender.send(value)) as Send;
            ((0..SENDERS).map(|_| send(sender.clone())).collect(), receiver)
        }
        Some(bound) => {
            let (sender, receiver) = sync_channel(bound);
            let send =
                |sender: throwto::sync::SyncSender<_>| Box::new(move |value| sender.send(value)) as Send;
            ((0..SENDERS).map(|_| send(sender.clone())).collect(), receiver)
        }
    };
    let mut ids = Vec::new();
    let senders: Vec<_> = (0..)
        .zip(sends)
        .map(|(sender, send)| {
            let worker = spawn(move || {
                for number in 0..per_sender {
                    let mut value = (sender, number);
                    while let Err(SendError::Raised(_, back)) = send(value) {
                        value = back;
                    }
                }
            });
            ids.push(worker.id());
            worker
        })
        .collect();
    let worker = spawn(move || {
        let mut next = [0; SENDERS as usize];
        let mut raised = 0_u64;
        for received in &receiver {
            match received {
                Ok((sender, number)) => {
                    assert_eq!(number, next[sender as usize], "from sender {sender}");
                    next[sender as usize] += 1;
                }
                Err(_) => raised += 1,
            }
        }
        (next, raised)
    });
    ids.push(worker.id());
    let raiser = raiser(ids, random, Arc::clone(&stop));
    senders.into_iter().for_each(|sender| join(sender));
    let (next, raised) = join(worker);
    stop.store(true, Ordering::Relaxed);
    raiser.join().unwrap();
    assert_eq!(next, [per_sender; SENDERS as usize]);
    println!("the receiver was raised into {raised} times");
}

/// Shows sync::channel::shared I1.
#[test]
fn every_value_arrives_once_while_raisers_fire() {
    values_are_conserved(None, 20_000);
    values_are_conserved(Some(3), 8_000);
}

/// Shows sync::channel::shared I2, I3.
#[test]
fn every_value_is_handed_over_once_while_raisers_fire() {
    values_are_conserved(Some(0), 4_000);
}

// Threads that never attached

#[test]
fn unattached_threads_lock_wait_send_and_receive_among_attached_ones() {
    let shared = Arc::new((Mutex::new(0_u32), Condvar::new()));
    let (sender, receiver) = sync_channel(1);
    let guard = shared.0.lock().unwrap();
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let (shared, sender) = (Arc::clone(&shared), sender.clone());
            std::thread::spawn(move || {
                assert_eq!(ThreadId::current(), None);
                let guard = shared.0.lock().unwrap();
                let mut guard = shared.1.wait_while(guard, |permits| *permits == 0).unwrap();
                *guard -= 1;
                drop(guard);
                sender.send(1).unwrap();
                sender.send(2).unwrap();
            })
        })
        .collect();
    drop((guard, sender));
    for _ in 0..2 {
        *shared.0.lock().unwrap() += 1;
        shared.1.notify_one();
    }
    let sum: i32 = join(spawn(move || receiver.iter().map(Result::unwrap).sum()));
    assert_eq!(sum, 6);
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    assert_eq!(*shared.0.lock().unwrap(), 0);
}
