//! The queue and the receipts: raising in every way, revoking, clearing, taking, catching by type, against a `Vec`.
//!
//! Shows protocol::slot I1, I2, I3 and protocol::receipt I1, I2 on the public names: after each step every receipt ever
//! given out is in the state that the model says.

use std::fmt;
use std::sync::Arc;

use proptest::prelude::*;
use throwto::{
    ExcType, Raise, RaiseError, Raised, Receipt, ReceiptState, ThreadId, attach, catch, catch_only,
    raise_all, raise_exc, set_async_exc,
};

use super::elsewhere;
use crate::stage::{Ledger, Numbered, Other, number_of};

/// The types of exceptions: two with a number, one that is made in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Numbered,
    Other,
    Plain,
}

#[derive(Debug, Default)]
struct Plain;

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain")
    }
}

impl std::error::Error for Plain {}

#[derive(Clone, Debug)]
enum Step {
    Raise {
        kind: Kind,
        queued: bool,
    },
    /// `raise_all`, of a type.
    RaiseAll,
    Set,
    Clear,
    /// The receipt at this place, modulo how many there are.
    Revoke(prop::sample::Index),
    /// Delivers one and keeps it.
    Safepoint,
    /// Delivers one by unwinding, to where only `Numbered` is caught, and then everything.
    CatchOnly,
    /// Drops the delivered exception at this place.
    Drop(prop::sample::Index),
    /// Takes the value out of it.
    Downcast(prop::sample::Index),
}

#[derive(Clone, Copy)]
struct Waiting {
    kind: Kind,
    queued: bool,
    /// The number of its receipt; a set exception has none.
    receipt: Option<usize>,
}

#[derive(Default)]
struct Model {
    waiting: Vec<Waiting>,
    states: Vec<ReceiptState>,
    /// The delivered ones that are kept.
    kept: Vec<Waiting>,
}

impl Model {
    fn settle(&mut self, one: Waiting, state: ReceiptState) {
        if let Some(receipt) = one.receipt {
            self.states[receipt] = state;
        }
    }

    fn raise(&mut self, kind: Kind, queued: bool) {
        let new = Waiting {
            kind,
            queued,
            receipt: Some(self.states.len()),
        };
        self.states.push(ReceiptState::Pending);
        let twin = |old: &Waiting| !queued && !old.queued && old.kind == kind;
        match self.waiting.iter().position(twin) {
            Some(at) => {
                let old = std::mem::replace(&mut self.waiting[at], new);
                self.settle(old, ReceiptState::Superseded);
            }
            None => self.waiting.push(new),
        }
    }

    fn replace_all(&mut self, state: ReceiptState) {
        for old in std::mem::take(&mut self.waiting) {
            self.settle(old, state);
        }
    }

    /// Whether it was still waiting.
    fn revoke(&mut self, receipt: usize) -> bool {
        let Some(at) = self.waiting.iter().position(|one| one.receipt == Some(receipt)) else {
            return false;
        };
        self.waiting.remove(at);
        self.states[receipt] = ReceiptState::Revoked;
        true
    }

    fn deliver(&mut self) -> Option<Waiting> {
        (!self.waiting.is_empty()).then(|| self.waiting.remove(0))
    }
}

struct Real {
    me: ThreadId,
    ledger: Arc<Ledger>,
    /// Raises are made by another thread.
    elsewhere: bool,
    receipts: Vec<Receipt>,
    kept: Vec<Raised>,
    /// By receipt: the number in the exception, for those that have one.
    numbers: Vec<Option<u64>>,
}

impl Real {
    fn raise(&mut self, kind: Kind, queued: bool) {
        let (me, ledger) = (self.me, self.ledger.clone());
        let (receipt, number) = elsewhere(self.elsewhere, || {
            fn to<E: throwto::IntoException>(exc: E, queued: bool, me: ThreadId) -> Receipt {
                let raise = Raise::new(exc);
                let raise = if queued { raise.queue() } else { raise };
                raise.to(me).unwrap()
            }
            match kind {
                Kind::Numbered => {
                    let exc = Numbered::new(&ledger);
                    let number = exc.number;
                    (to(exc, queued, me), Some(number))
                }
                Kind::Other => {
                    let exc = Other::new(&ledger);
                    let number = exc.number;
                    (to(exc, queued, me), Some(number))
                }
                Kind::Plain => (to(ExcType::of::<Plain>(), queued, me), None),
            }
        });
        self.receipts.push(receipt);
        self.numbers.push(number);
    }

    fn is(&self, raised: &Raised, expected: Waiting) -> Result<(), TestCaseError> {
        let kind = if raised.is::<Numbered>() {
            Kind::Numbered
        } else if raised.is::<Other>() {
            Kind::Other
        } else {
            Kind::Plain
        };
        prop_assert_eq!(kind, expected.kind);
        if let Some(number) = expected.receipt.and_then(|receipt| self.numbers[receipt]) {
            prop_assert_eq!(number_of(raised), number);
        }
        Ok(())
    }

    fn states(&self) -> Vec<ReceiptState> {
        self.receipts.iter().map(Receipt::state).collect()
    }
}

fn play(real: &mut Real, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    let me = real.me;
    match step {
        Step::Raise { kind, queued } => {
            model.raise(*kind, *queued);
            real.raise(*kind, *queued);
        }
        Step::RaiseAll => {
            model.raise(Kind::Plain, false);
            let mut receipts = elsewhere(real.elsewhere, || raise_all(me, ExcType::of::<Plain>()));
            prop_assert_eq!(receipts.len(), 1);
            real.receipts.append(&mut receipts);
            real.numbers.push(None);
        }
        Step::Set => {
            model.replace_all(ReceiptState::Superseded);
            model.waiting.push(Waiting {
                kind: Kind::Plain,
                queued: false,
                receipt: None,
            });
            let set = elsewhere(real.elsewhere, || set_async_exc(me, Some(ExcType::of::<Plain>())));
            prop_assert_eq!(set, 1);
        }
        Step::Clear => {
            model.replace_all(ReceiptState::Revoked);
            let cleared = elsewhere(real.elsewhere, || set_async_exc(me, None));
            prop_assert_eq!(cleared, 1);
        }
        Step::Revoke(which) if !real.receipts.is_empty() => {
            let which = which.index(real.receipts.len());
            let receipt = &real.receipts[which];
            let revoked = elsewhere(real.elsewhere, || receipt.revoke());
            prop_assert_eq!(revoked, model.revoke(which));
        }
        Step::Safepoint => match (throwto::safepoint(), model.deliver()) {
            (Ok(()), None) => {}
            (Err(raised), Some(expected)) => {
                real.is(&raised, expected)?;
                model.settle(expected, ReceiptState::Delivered);
                model.kept.push(expected);
                real.kept.push(raised);
            }
            (met, expected) => {
                let expected = expected.map(|one| one.kind);
                return Err(TestCaseError::fail(format!("{met:?}, expected {expected:?}")));
            }
        },
        Step::CatchOnly => {
            let expected = model.deliver();
            let outer = catch(|| catch_only::<Numbered, _>(throwto::safepoint_unwind));
            match (outer, expected) {
                (Ok(Ok(())), None) => {}
                (Ok(Err(raised)), Some(expected)) => {
                    prop_assert_eq!(expected.kind, Kind::Numbered, "caught inside");
                    real.is(&raised, expected)?;
                    model.settle(expected, ReceiptState::Caught);
                }
                (Err(raised), Some(expected)) => {
                    prop_assert_ne!(expected.kind, Kind::Numbered, "passed through");
                    real.is(&raised, expected)?;
                    model.settle(expected, ReceiptState::Caught);
                }
                (_, expected) => prop_assert!(false, "expected {:?}", expected.map(|one| one.kind)),
            }
        }
        Step::Drop(which) | Step::Downcast(which) if !real.kept.is_empty() => {
            let which = which.index(real.kept.len());
            let raised = real.kept.remove(which);
            let expected = model.kept.remove(which);
            if matches!(step, Step::Downcast(_)) && expected.kind == Kind::Numbered {
                prop_assert!(raised.downcast::<Numbered>().is_ok());
            } else {
                drop(raised);
            }
            model.settle(expected, ReceiptState::Caught);
        }
        Step::Revoke(_) | Step::Drop(_) | Step::Downcast(_) => {}
    }
    prop_assert_eq!(real.states(), model.states.clone());
    prop_assert_eq!(throwto::pending(), !model.waiting.is_empty());
    Ok(())
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(Kind::Numbered), Just(Kind::Other), Just(Kind::Plain)];
    let any_index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (kind, any::<bool>()).prop_map(|(kind, queued)| Step::Raise { kind, queued }),
        1 => Just(Step::RaiseAll),
        1 => Just(Step::Set),
        1 => Just(Step::Clear),
        2 => any_index().prop_map(Step::Revoke),
        3 => Just(Step::Safepoint),
        2 => Just(Step::CatchOnly),
        2 => any_index().prop_map(Step::Drop),
        1 => any_index().prop_map(Step::Downcast),
    ]
}

proptest! {
    /// Shows protocol::slot I1, I2 and protocol::receipt I2.
    #[test]
    fn each_receipt_ends_as_the_order_of_raises_and_deliveries_says(
        from_elsewhere in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let attachment = attach().unwrap();
        let mut real = Real {
            me: attachment.id(),
            ledger: Ledger::new(),
            elsewhere: from_elsewhere,
            receipts: Vec::new(),
            kept: Vec::new(),
            numbers: Vec::new(),
        };
        let mut model = Model::default();
        for step in &steps {
            play(&mut real, &mut model, step)?;
        }
        // The thread leaves: what it keeps counts as caught, what waits as ended.
        drop(attachment);
        model.replace_all(ReceiptState::TargetEnded);
        for kept in std::mem::take(&mut model.kept) {
            model.settle(kept, ReceiptState::Caught);
        }
        prop_assert_eq!(real.states(), model.states);
        let late = raise_exc(real.me, ExcType::of::<Plain>());
        prop_assert!(matches!(late, Err(RaiseError::NoSuchThread { .. })), "the id is dead for good");
        prop_assert!(!real.receipts.iter().any(Receipt::revoke));
        real.kept.clear();
        real.ledger.balance();
    }
}
