//! Counting the presses of Ctrl-C that have found no answer.
//!
//! Owns: the rule. Leaves to `signal` what each press does. Called by one subscription's thread.
//!
//! **Signal context:** no.
//!
//! A press is answered by a thread that has caught an exception of it, or has ended. The next press counts on while a
//! target is alive that has not answered, or while nobody is left to raise into; else it is a first one.

use std::time::{Duration, Instant};

use crate::protocol::receipt::ReceiptState;
use crate::protocol::registry::ThreadId;
use crate::receipt::Receipt;

/// Presses closer together count as one: a terminal and a supervisor may both have sent the signal.
const ECHO: Duration = Duration::from_millis(20);

/// What a press is for the one who pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Press {
    First,
    Second,
    Third,
    /// Of the press before.
    Echo,
}

/// The presses so far.
pub(super) struct Presses {
    count: u32,
    last: Option<Instant>,
    /// Of the raises since the last press that counted.
    receipts: Vec<Receipt>,
}

impl Presses {
    pub(super) fn new() -> Self {
        Self {
            count: 0,
            last: None,
            receipts: Vec::new(),
        }
    }

    /// Counts one, with the targets that are `there` now.
    pub(super) fn count(&mut self, there: &[ThreadId]) -> Press {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < ECHO) {
            return Press::Echo;
        }
        self.last = Some(now);
        let unanswered = there.iter().any(|id| self.waits_for(*id));
        self.count = next(self.count, !there.is_empty(), unanswered);
        self.receipts.clear();
        match self.count {
            1 => Press::First,
            2 => Press::Second,
            _ => Press::Third,
        }
    }

    /// Which of `there` have been raised into since the last press that counted, and have caught nothing of it.
    pub(super) fn unanswered(&self, there: &[ThreadId]) -> Vec<ThreadId> {
        there.iter().copied().filter(|id| self.waits_for(*id)).collect()
    }

    pub(super) fn remember(&mut self, receipts: Vec<Receipt>) {
        // Each superseded one has a later one beside it.
        self.receipts
            .retain(|receipt| receipt.state() != ReceiptState::Superseded);
        self.receipts.extend(receipts);
    }

    /// Whether `id` was raised into since the last press and has caught nothing of it.
    fn waits_for(&self, id: ThreadId) -> bool {
        let mut raised = self
            .receipts
            .iter()
            .filter(|receipt| receipt.target() == id)
            .peekable();
        raised.peek().is_some() && raised.all(|receipt| !is_answer(receipt.state()))
    }
}

/// Somebody who takes a raise back has thought better of it.
fn is_answer(state: ReceiptState) -> bool {
    matches!(state, ReceiptState::Caught | ReceiptState::Revoked)
}

fn next(count: u32, somebody: bool, unanswered: bool) -> u32 {
    if somebody && !unanswered { 1 } else { count + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_presses_without_an_answer_add_up() {
        for (count, somebody, unanswered, expected) in [
            (0, true, false, 1),
            (0, false, false, 1),
            (1, true, true, 2),
            (2, true, true, 3),
            (1, true, false, 1),
            (2, true, false, 1),
            (1, false, false, 2),
            (2, false, false, 3),
        ] {
            assert_eq!(
                next(count, somebody, unanswered),
                expected,
                "{count} {somebody} {unanswered}"
            );
        }
    }

    #[test]
    fn a_press_right_behind_another_is_its_echo() {
        let mut presses = Presses::new();
        presses.last = Some(Instant::now() + ECHO);
        assert_eq!(presses.count(&[]), Press::Echo);
        presses.last = Instant::now().checked_sub(ECHO);
        assert_eq!(presses.count(&[]), Press::First);
    }
}
