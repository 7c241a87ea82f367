//! [`Shared`]: what the two ends of a channel have in common, and every step on it.
//!
//! Owns: the values under way, who is left, and when to wait and to notify. Leaves to `channel` the public ends, to
//! `queue` the waiters. [`Shared::send`] (bounded) and [`Shared::receive`] block; the lock is held for some steps only,
//! and neither a value's destructor nor a notification runs under it.
//!
//! **Signal context:** no.
//!
//! - I1. A value is put in and taken out in one step under the lock, which is also the test that ends the wait. So raised
//!   or timed out means: not sent and handed back, not received and still there.
//! - I2. A bound of zero: a value is put in only while the receiver waits (`wanted`) and nothing is under way; that step
//!   uses the wish up. A receiver that is raised into withdraws its wish; a value that came in that very moment stays for
//!   its next call.
//! - I3. A sender that has to wait counts in `offering` from before its first test. Who makes room, or wishes for a value,
//!   sees the count and notifies, or comes before it and the test sees the room.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::{RecvError, SendError, TryRecvError, TrySendError};
use crate::raised::Raised;
use crate::region::{Raises, Waited};
use crate::sync::queue::WaitQueue;

pub(super) struct Shared<T> {
    state: Mutex<State<T>>,
    /// `None`: a send never waits.
    bound: Option<usize>,
    receivers: WaitQueue,
    senders: WaitQueue,
}

struct State<T> {
    values: VecDeque<T>,
    senders: usize,
    receiver_lives: bool,
    /// The receiver found nothing and waits: who puts something in notifies it.
    wanted: bool,
    /// Senders that wait for room.
    offering: usize,
}

/// What a look into the channel found.
enum Look<T> {
    Value(T),
    Nothing,
    Disconnected,
}

/// What came of trying to put a value in.
enum Put<T> {
    In,
    Full(T),
    Disconnected(T),
}

/// How long a receiver waits.
pub(super) enum Received<T> {
    Value(T),
    TimedOut,
    Error(RecvError),
}

impl<T> Shared<T> {
    pub(super) fn new(bound: Option<usize>) -> Self {
        let values = VecDeque::new();
        let state = State {
            values,
            senders: 1,
            receiver_lives: true,
            wanted: false,
            offering: 0,
        };
        Self {
            state: Mutex::new(state),
            bound,
            receivers: WaitQueue::new(),
            senders: WaitQueue::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, state: &State<T>) -> bool {
        match self.bound {
            None => true,
            Some(0) => state.wanted && state.values.is_empty(),
            Some(bound) => state.values.len() < bound,
        }
    }

    fn put(&self, value: T) -> Put<T> {
        let mut state = self.state();
        if !state.receiver_lives {
            return Put::Disconnected(value);
        }
        if !self.has_room(&state) {
            return Put::Full(value);
        }
        state.values.push_back(value);
        let wanted = std::mem::take(&mut state.wanted);
        drop(state);
        if wanted {
            self.receivers.notify_one();
        }
        Put::In
    }

    pub(super) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        match self.put(value) {
            Put::In => Ok(()),
            Put::Full(value) => Err(TrySendError::Full(value)),
            Put::Disconnected(value) => Err(TrySendError::Disconnected(value)),
        }
    }

    /// The caller has met its safepoint.
    #[track_caller]
    pub(super) fn send(&self, value: T) -> Result<(), SendError<T>> {
        let mut kept = match self.put(value) {
            Put::In => return Ok(()),
            Put::Disconnected(value) => return Err(SendError::Disconnected(value)),
            Put::Full(value) => Some(value),
        };
        let mut disconnected = false;
        let _offering = Offering::begin(self);
        let waited = self.senders.wait_until(None, Raises::End, || {
            let Some(value) = kept.take() else { return true };
            match self.put(value) {
                Put::In => return true,
                Put::Full(value) => kept = Some(value),
                Put::Disconnected(value) => {
                    kept = Some(value);
                    disconnected = true;
                }
            }
            disconnected
        });
        match (kept, waited) {
            (Some(value), Waited::Raised(raised)) => Err(SendError::Raised(raised, value)),
            (Some(value), _) => Err(SendError::Disconnected(value)),
            (None, _) => Ok(()),
        }
    }

    /// Takes the first value out. If there is none and `wish`, the next to put one in notifies the receivers' queue, in
    /// which the caller is.
    fn look(&self, wish: bool) -> Look<T> {
        let mut state = self.state();
        let look = match state.values.pop_front() {
            Some(value) => Look::Value(value),
            None if state.senders == 0 => Look::Disconnected,
            None => Look::Nothing,
        };
        match look {
            Look::Value(_) => state.wanted = false,
            Look::Nothing => state.wanted = wish,
            Look::Disconnected => {}
        }
        let made_room = matches!(look, Look::Value(_)) && self.bound != Some(0);
        let made_wish = state.wanted && self.bound == Some(0);
        let notify = (made_room || made_wish) && state.offering > 0;
        drop(state);
        if notify {
            self.senders.notify_one();
        }
        look
    }

    pub(super) fn try_receive(&self) -> Result<T, TryRecvError> {
        let mut look = self.look(false);
        if self.bound == Some(0) && matches!(look, Look::Nothing) && self.state().offering > 0 {
            // Senders stand ready to hand a value over: they will, or they leave.
            let _uninterrupted = self.receivers.wait_until(None, Raises::Stay, || {
                look = self.look(true);
                !matches!(look, Look::Nothing) || self.state().offering == 0
            });
            if matches!(look, Look::Nothing) {
                look = self.look(false);
            }
        }
        match look {
            Look::Value(value) => Ok(value),
            Look::Nothing => Err(TryRecvError::Empty),
            Look::Disconnected => Err(TryRecvError::Disconnected),
        }
    }

    /// The caller has met its safepoint.
    #[track_caller]
    pub(super) fn receive(&self, deadline: Option<u64>) -> Received<T> {
        let mut look = self.look(false);
        if matches!(look, Look::Nothing) {
            let waited = self.receivers.wait_until(deadline, Raises::End, || {
                look = self.look(true);
                !matches!(look, Look::Nothing)
            });
            match waited {
                Waited::Ready => {}
                Waited::Raised(raised) => return self.withdraw(raised),
                // Takes the wish back; what came in the last moment is received.
                Waited::TimedOut => look = self.look(false),
            }
        }
        match look {
            Look::Value(value) => Received::Value(value),
            Look::Nothing => Received::TimedOut,
            Look::Disconnected => Received::Error(RecvError::Disconnected),
        }
    }

    #[cold]
    fn withdraw(&self, raised: Raised) -> Received<T> {
        self.state().wanted = false;
        Received::Error(RecvError::Raised(raised))
    }

    pub(super) fn add_sender(&self) {
        self.state().senders += 1;
    }

    pub(super) fn drop_sender(&self) {
        let mut state = self.state();
        state.senders -= 1;
        let last = state.senders == 0;
        drop(state);
        if last {
            self.receivers.notify_all();
        }
    }

    pub(super) fn drop_receiver(&self) {
        let mut state = self.state();
        state.receiver_lives = false;
        let values = std::mem::take(&mut state.values);
        drop(state);
        self.senders.notify_all();
        drop(values);
    }
}

/// A sender that waits for room, counted until it leaves.
struct Offering<'a, T> {
    shared: &'a Shared<T>,
}

impl<'a, T> Offering<'a, T> {
    fn begin(shared: &'a Shared<T>) -> Self {
        shared.state().offering += 1;
        Self { shared }
    }
}

impl<T> Drop for Offering<'_, T> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.offering -= 1;
        let last = state.offering == 0;
        drop(state);
        if last && self.shared.bound == Some(0) {
            // A `try_receive` may count on it.
            self.shared.receivers.notify_all();
        }
    }
}
