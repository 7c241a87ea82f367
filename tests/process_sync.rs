//! Own process: the counters of signals are process-global.

use std::sync::Arc;
use std::time::{Duration, Instant};

use throwto::sync::{Condvar, Mutex, RecvError, channel, sync_channel};
use throwto::thread::{JoinHandle, spawn};
use throwto::{Stop, ThreadState};

/// Nothing here takes that long unless it hangs.
const HANGS: Duration = Duration::from_secs(180);

fn raise_once_it_waits<T>(worker: JoinHandle<T>) -> T {
    let deadline = Instant::now() + HANGS;
    let id = worker.id();
    while !throwto::threads()
        .iter()
        .any(|t| t.id == id && t.state == ThreadState::Waiting)
    {
        assert!(Instant::now() < deadline, "the thread never waits");
        std::thread::yield_now();
    }
    worker.raise(Stop).unwrap();
    let Ok(ended) = worker.join_timeout(HANGS).unwrap() else {
        panic!("it hangs: {:#?}", throwto::threads())
    };
    ended
}

#[test]
fn waits_for_locks_and_channels_are_raised_into_without_a_signal() {
    let before = throwto::stats();
    let mutex = Arc::new(Mutex::new(()));
    let guard = mutex.lock().unwrap();
    for _ in 0..20 {
        let theirs = Arc::clone(&mutex);
        let locked = raise_once_it_waits(spawn(move || theirs.lock().map(drop)));
        assert!(locked.unwrap_err().is::<Stop>());

        let waited = raise_once_it_waits(spawn(|| {
            let mutex = Mutex::new(());
            Condvar::new().wait(mutex.lock()?).map(drop)
        }));
        assert!(waited.unwrap_err().is::<Stop>());

        let (_sender, receiver) = channel::<u8>();
        let received = raise_once_it_waits(spawn(move || receiver.recv()));
        assert!(matches!(received, Err(RecvError::Raised(raised)) if raised.is::<Stop>()));

        let (sender, _receiver) = sync_channel(0);
        let sent = raise_once_it_waits(spawn(move || sender.send(1)));
        assert_eq!(sent.unwrap_err().into_inner(), 1);
    }
    drop(guard);
    let after = throwto::stats();
    assert_eq!((after.nudges, after.renudges), (before.nudges, before.renudges));
}
