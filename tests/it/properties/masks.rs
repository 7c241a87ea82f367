//! Masks: any nesting of masks, shields and handlers, left in any way, against a level that is put on and taken off.
//!
//! Shows mask I1 and mask I2: the model has no guards, and restores by assigning.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use proptest::prelude::*;
use throwto::{Mask, Raise, Raised, attach, catch, mask, thread, uninterruptible};

use crate::stage::{FOREVER, Ledger, Numbered, number_of};

#[derive(Clone, Debug)]
enum Step {
    /// At oneself, queued.
    Raise,
    Safepoint,
    /// A safepoint that unwinds.
    Unwind,
    /// A wait that nobody ends.
    Block,
    Pending,
    /// A panic that is no exception.
    Escape,
    Mask(Vec<Step>),
    Uninterruptible(Vec<Step>),
    /// Under the level outside the innermost mask.
    Restore(Vec<Step>),
    /// For ever, or over at once.
    Shield(bool, Vec<Step>),
    Catch(Vec<Step>),
    CatchWith(Vec<Step>),
    /// Catches everything.
    Contain(Vec<Step>),
    Bracket(Vec<Step>),
    /// Safepoints in a destructor that runs because of a panic.
    DropInPanic,
}

/// What a program is seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Nothing,
    Delivered(u64),
    Unwound(u64),
    Pending(bool),
    Caught(u64),
    Contained,
    Handler,
    Released,
}

/// How a block is left, other than by its end.
enum Out {
    Raised(u64),
    Panic,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Unmasked,
    Masked,
    Uninterruptible,
}

#[derive(Clone, Copy)]
struct InForce {
    level: Level,
    /// A shield without end.
    shielded: bool,
}

/// The model.
struct Model {
    now: InForce,
    queue: VecDeque<u64>,
    raised: u64,
    events: Vec<Event>,
}

impl Model {
    fn take(&mut self, blocking: bool) -> Option<u64> {
        let held = self.now.shielded
            || match self.now.level {
                Level::Unmasked => false,
                Level::Masked => !blocking,
                Level::Uninterruptible => true,
            };
        if held { None } else { self.queue.pop_front() }
    }

    fn note(&mut self, event: Event) {
        self.events.push(event);
    }

    fn under(&mut self, now: InForce, steps: &[Step], outside: Option<InForce>) -> Result<(), Out> {
        let before = std::mem::replace(&mut self.now, now);
        let out = self.run(steps, outside);
        self.now = before;
        out
    }

    fn run(&mut self, steps: &[Step], outside: Option<InForce>) -> Result<(), Out> {
        steps.iter().try_for_each(|step| self.step(step, outside))
    }

    fn step(&mut self, step: &Step, outside: Option<InForce>) -> Result<(), Out> {
        let now = self.now;
        let at_least = |level: Level| InForce {
            level: level.max(now.level),
            ..now
        };
        match step {
            Step::Raise => {
                self.queue.push_back(self.raised);
                self.raised += 1;
            }
            Step::Safepoint | Step::Block => {
                let event = self.take(matches!(step, Step::Block));
                self.note(event.map_or(Event::Nothing, Event::Delivered));
            }
            Step::Unwind => match self.take(false) {
                Some(number) => {
                    self.note(Event::Unwound(number));
                    return Err(Out::Raised(number));
                }
                None => self.note(Event::Nothing),
            },
            Step::Pending => {
                let could = now.level < Level::Uninterruptible && !now.shielded;
                self.note(Event::Pending(could && !self.queue.is_empty()));
            }
            Step::Escape => return Err(Out::Panic),
            Step::Mask(steps) => self.under(at_least(Level::Masked), steps, Some(now))?,
            Step::Uninterruptible(steps) => {
                self.under(at_least(Level::Uninterruptible), steps, Some(now))?;
            }
            Step::Restore(steps) => self.under(outside.unwrap_or(now), steps, outside)?,
            Step::Shield(without_end, steps) => {
                let shielded = now.shielded || *without_end;
                self.under(InForce { shielded, ..now }, steps, outside)?;
            }
            Step::Catch(steps) => match self.run(steps, outside) {
                Err(Out::Raised(number)) => self.note(Event::Caught(number)),
                other => other?,
            },
            Step::CatchWith(steps) => match self.run(steps, outside) {
                Err(Out::Raised(number)) => {
                    self.note(Event::Caught(number));
                    self.under(at_least(Level::Masked), &HANDLER, None)?;
                    self.note(Event::Handler);
                }
                other => other?,
            },
            Step::Contain(steps) => {
                if self.run(steps, outside).is_err() {
                    self.note(Event::Contained);
                }
            }
            Step::Bracket(steps) => {
                let out = self.run(steps, outside);
                self.note(Event::Released);
                out?;
            }
            Step::DropInPanic => {
                self.note(Event::Nothing);
                self.note(Event::Contained);
            }
        }
        Ok(())
    }
}

/// What the handler of a `CatchWith` does.
const HANDLER: [Step; 2] = [Step::Safepoint, Step::Pending];

/// A panic that is no exception.
struct Token;

/// The program on the real thing.
struct Real<'a> {
    expected: &'a [Event],
    events: RefCell<Vec<Event>>,
    ledger: &'a std::sync::Arc<Ledger>,
}

impl Real<'_> {
    fn note(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    fn noted(&self, outcome: Result<(), Raised>) {
        self.note(outcome.map_or_else(|raised| Event::Delivered(number_of(&raised)), |()| Event::Nothing));
    }

    fn run(&self, steps: &[Step], outside: Option<&Mask>) {
        for step in steps {
            self.step(step, outside);
        }
    }

    /// Long if the model says that it is raised into, so that a slow machine fails nothing.
    fn patience(&self) -> Duration {
        match self.expected.get(self.events.borrow().len()) {
            Some(Event::Delivered(_)) => FOREVER,
            _ => Duration::from_micros(1),
        }
    }

    fn unwinding_safepoint(&self) {
        // The number is seen on the way, as the event's place is here and not where it is caught.
        let met = catch(throwto::safepoint_unwind);
        match met {
            Ok(()) => self.note(Event::Nothing),
            Err(raised) => {
                self.note(Event::Unwound(number_of(&raised)));
                resume_unwind(Box::new(raised));
            }
        }
    }

    fn step(&self, step: &Step, outside: Option<&Mask>) {
        match step {
            Step::Raise => {
                let me = throwto::ThreadId::current().unwrap();
                Raise::new(Numbered::new(self.ledger)).queue().to(me).unwrap();
            }
            Step::Safepoint => self.noted(throwto::safepoint()),
            Step::Unwind => self.unwinding_safepoint(),
            Step::Block => self.noted(thread::park_timeout(self.patience())),
            Step::Pending => self.note(Event::Pending(throwto::pending())),
            Step::Escape => resume_unwind(Box::new(Token)),
            Step::Mask(steps) => mask(|m| self.run(steps, Some(m))),
            Step::Uninterruptible(steps) => uninterruptible(|m| self.run(steps, Some(m))),
            Step::Restore(steps) => match outside {
                Some(m) => m.restore(|| self.run(steps, outside)),
                None => self.run(steps, None),
            },
            Step::Shield(without_end, steps) => {
                let limit = if *without_end {
                    Duration::MAX
                } else {
                    Duration::ZERO
                };
                throwto::shield(limit, || self.run(steps, outside));
            }
            Step::Catch(steps) => {
                if let Err(raised) = catch(|| self.run(steps, outside)) {
                    self.note(Event::Caught(number_of(&raised)));
                }
            }
            Step::CatchWith(steps) => throwto::catch_with(
                || self.run(steps, outside),
                |raised| {
                    self.note(Event::Caught(number_of(&raised)));
                    self.run(&HANDLER, None);
                    self.note(Event::Handler);
                },
            ),
            Step::Contain(steps) => {
                if catch_unwind(AssertUnwindSafe(|| self.run(steps, outside))).is_err() {
                    self.note(Event::Contained);
                }
            }
            Step::Bracket(steps) => throwto::bracket(
                || (),
                |()| self.run(steps, outside),
                |()| self.note(Event::Released),
            ),
            Step::DropInPanic => {
                struct Late<'a, 'b>(&'a Real<'b>);
                impl Drop for Late<'_, '_> {
                    fn drop(&mut self) {
                        self.0.noted(throwto::safepoint());
                    }
                }
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    let _late = Late(self);
                    resume_unwind(Box::new(Token));
                }));
                assert!(panicked.is_err());
                self.note(Event::Contained);
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let leaf = prop_oneof![
        4 => Just(Step::Raise),
        3 => Just(Step::Safepoint),
        2 => Just(Step::Unwind),
        2 => Just(Step::Block),
        1 => Just(Step::Pending),
        1 => Just(Step::Escape),
        1 => Just(Step::DropInPanic),
    ];
    let step = leaf.prop_recursive(5, 40, 5, |inner| {
        let block = || prop::collection::vec(inner.clone(), 0..5);
        prop_oneof![
            2 => block().prop_map(Step::Mask),
            1 => block().prop_map(Step::Uninterruptible),
            2 => block().prop_map(Step::Restore),
            1 => (any::<bool>(), block()).prop_map(|(without_end, steps)| Step::Shield(without_end, steps)),
            1 => block().prop_map(Step::Catch),
            1 => block().prop_map(Step::CatchWith),
            1 => block().prop_map(Step::Contain),
            1 => block().prop_map(Step::Bracket),
        ]
    });
    prop::collection::vec(step, 1..8)
}

proptest! {
    /// Shows mask I1, I2.
    #[test]
    fn what_is_delivered_where_under_any_masks_is_what_the_levels_say(steps in steps()) {
        let mut model = Model {
            now: InForce { level: Level::Unmasked, shielded: false },
            queue: VecDeque::new(),
            raised: 0,
            events: Vec::new(),
        };
        let whole = [Step::Contain(steps), Step::Safepoint];
        let _nothing_comes_out = model.run(&whole, None);
        let ledger = Ledger::new();
        let attachment = attach().unwrap();
        let real = Real {
            expected: &model.events,
            events: RefCell::default(),
            ledger: &ledger,
        };
        real.run(&whole, None);
        drop(attachment);
        prop_assert_eq!(&*real.events.borrow(), &model.events);
        ledger.balance();
    }
}
