//! A lock and a channel of ours: woken by their futex, without a signal.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;

use throwto::sync::{Mutex, RecvError, channel};

use crate::case::{Case, Out, StuckIn, Trace, Witness};

impl From<RecvError> for Out {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Raised(raised) => Self::Raised(raised),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// It has one lock and waits for another, which another thread holds: half of a deadlock.
pub fn set_up_lock() -> io::Result<Case> {
    let (outer, inner) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (same_outer, same_inner) = (Arc::clone(&outer), Arc::clone(&inner));

    let held = Arc::clone(&inner);
    let (ready, is_held) = mpsc::channel();
    let (let_go, until) = mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        let _held = held.lock();
        let _ = ready.send(());
        let _the_other_end_is_gone = until.recv();
    });
    is_held.recv().map_err(io::Error::other)?;

    let released = Arc::clone(&outer);
    let is_released = Trace::Lock(Box::new(move || released.try_lock().is_some()));
    let stuck = move |witness: &Witness| {
        let _outer = outer.lock()?;
        let _guard = witness.guard();
        let _inner = inner.lock()?;
        Ok(())
    };
    let next = move || -> Result<i64, Out> {
        let (mut outer, mut inner) = (same_outer.lock()?, same_inner.lock()?);
        *outer += 1;
        *inner += 2;
        Ok(*outer + *inner)
    };
    let release = move || {
        drop(let_go);
        // A holder that panicked has let go as well.
        let _ = holder.join();
    };
    Ok(Case::new(StuckIn::Wait, stuck, next, 3)
        .clears(is_released)
        .let_through(release))
}

/// It waits for a value that nobody sends; the next job receives one through the same channel.
pub fn set_up_recv() -> io::Result<Case> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(std::sync::Mutex::new(receiver));
    let same = Arc::clone(&receiver);
    let receive = |receiver: &std::sync::Mutex<throwto::sync::Receiver<i64>>, witness: &Witness| {
        let receiver = receiver
            .lock()
            .map_err(|_| Out::Failed("a job panicked".into()))?;
        let _guard = witness.guard();
        Ok(receiver.recv()?)
    };
    let stuck = move |witness: &Witness| receive(&receiver, witness).map(drop);
    let next = move || receive(&same, &Witness::default());
    let send = move || drop(sender.send(11));
    Ok(Case::new(StuckIn::Wait, stuck, next, 11).let_through(send))
}
