//! Scopes: any nesting, cancels and raises in any order, every way to treat an exception, against a stack.
//!
//! Shows protocol::scope I1, I2, I4 and I5 on the public names.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::resume_unwind;

use proptest::prelude::*;
use throwto::scope::{Scope, ScopeHandle};
use throwto::{Cancelled, Interrupted, Raise, Raised, ThreadId, attach, catch};

use super::elsewhere;

#[derive(Clone, Debug)]
enum Step {
    Enter(Vec<Step>),
    /// The scope at this place of all that were ever made, open or over.
    Cancel(prop::sample::Index),
    /// Into the scope at this place, queued.
    RaiseInto(prop::sample::Index),
    /// Into the thread, queued.
    Raise,
    /// Cancels the scope that will be entered next.
    CancelAhead,
    /// A safepoint whose exception is dropped.
    Swallow,
    /// A safepoint whose exception is kept somewhere else.
    PutAside,
    /// `safepoint()?`
    Pass,
    /// A safepoint that unwinds.
    Unwind,
    /// Catches what unwinds.
    Catch(Vec<Step>),
}

/// Whose exception it was: of the scope with this number, or the thread's own.
type Whose = Option<usize>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Nothing,
    /// A `Cancelled` of a scope, or an `Interrupted` with its place in line.
    Met(Met),
    Entered(usize),
    /// The scope's own exception came out of its body.
    Converted(usize),
    /// The body's result stands.
    Kept(usize),
    CaughtUnwinding,
    RaisedInto(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Cancelled,
    Interrupted,
}

enum Out {
    /// Returned as an error.
    Returned(Whose),
    Unwound(Whose),
}

#[derive(Default)]
struct Model {
    /// Cancelled or not, of all that were ever made.
    cancelled: Vec<bool>,
    /// Outermost first.
    open: Vec<usize>,
    waiting: VecDeque<Whose>,
    aside: Vec<Whose>,
    cancel_ahead: bool,
    events: Vec<Event>,
}

impl Model {
    fn note(&mut self, event: Event) {
        self.events.push(event);
    }

    /// What a safepoint raises here.
    fn take(&mut self) -> Option<(Met, Whose)> {
        if let Some(whose) = self.waiting.pop_front() {
            return Some((Met::Interrupted, whose));
        }
        let outermost = self.open.iter().copied().find(|scope| self.cancelled[*scope]);
        outermost.map(|scope| (Met::Cancelled, Some(scope)))
    }

    fn meet(&mut self) -> Option<Whose> {
        let met = self.take();
        self.note(met.map_or(Event::Nothing, |(met, _)| Event::Met(met)));
        met.map(|(_, whose)| whose)
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), Out> {
        steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &Step) -> Result<(), Out> {
        match step {
            Step::Enter(steps) => return self.enter(steps),
            Step::Cancel(which) if !self.cancelled.is_empty() => {
                let which = which.index(self.cancelled.len());
                self.cancelled[which] = true;
            }
            Step::RaiseInto(which) if !self.cancelled.is_empty() => {
                let which = which.index(self.cancelled.len());
                let open = self.open.contains(&which);
                if open {
                    self.waiting.push_back(Some(which));
                }
                self.note(Event::RaisedInto(open));
            }
            Step::Cancel(_) | Step::RaiseInto(_) => {}
            Step::Raise => self.waiting.push_back(None),
            Step::CancelAhead => self.cancel_ahead = true,
            Step::Swallow => {
                let _dropped = self.meet();
            }
            Step::PutAside => {
                let met = self.meet();
                self.aside.extend(met);
            }
            Step::Pass => {
                if let Some(whose) = self.meet() {
                    return Err(Out::Returned(whose));
                }
            }
            Step::Unwind => {
                if let Some(whose) = self.meet() {
                    return Err(Out::Unwound(whose));
                }
            }
            Step::Catch(steps) => match self.run(steps) {
                Err(Out::Unwound(_)) => self.note(Event::CaughtUnwinding),
                other => return other,
            },
        }
        Ok(())
    }

    fn enter(&mut self, steps: &[Step]) -> Result<(), Out> {
        let scope = self.cancelled.len();
        let ahead = std::mem::take(&mut self.cancel_ahead);
        self.cancelled.push(ahead);
        self.open.push(scope);
        self.note(Event::Entered(scope));
        let out = self.run(steps);
        self.open.pop();
        self.waiting.retain(|whose| *whose != Some(scope));
        let own_lives = self.aside.contains(&Some(scope));
        let own = match &out {
            Ok(()) => own_lives,
            Err(Out::Returned(whose)) => own_lives || *whose == Some(scope),
            Err(Out::Unwound(whose)) => *whose == Some(scope),
        };
        if own {
            self.note(Event::Converted(scope));
            return Ok(());
        }
        match out {
            Err(Out::Unwound(_)) => {}
            _ => self.note(Event::Kept(scope)),
        }
        out
    }
}

struct Real {
    handles: RefCell<Vec<ScopeHandle>>,
    aside: RefCell<Vec<Raised>>,
    cancel_ahead: RefCell<bool>,
    events: RefCell<Vec<Event>>,
    elsewhere: bool,
}

impl Real {
    fn note(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    fn handle(&self, which: &prop::sample::Index) -> Option<ScopeHandle> {
        let handles = self.handles.borrow();
        (!handles.is_empty()).then(|| handles[which.index(handles.len())].clone())
    }

    fn meet(&self, met: Result<(), Raised>) -> Option<Raised> {
        let event = match &met {
            Ok(()) => Event::Nothing,
            Err(raised) if raised.is::<Cancelled>() => Event::Met(Met::Cancelled),
            Err(raised) => {
                assert!(raised.is::<Interrupted>(), "{raised:?}");
                Event::Met(Met::Interrupted)
            }
        };
        self.note(event);
        met.err()
    }

    fn run(&self, steps: &[Step]) -> Result<(), Raised> {
        steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&self, step: &Step) -> Result<(), Raised> {
        match step {
            Step::Enter(steps) => return self.enter(steps),
            Step::Cancel(which) => {
                if let Some(handle) = self.handle(which) {
                    elsewhere(self.elsewhere, || handle.cancel());
                }
            }
            Step::RaiseInto(which) => {
                if let Some(handle) = self.handle(which) {
                    let raised = elsewhere(self.elsewhere, || {
                        Raise::new(Interrupted).queue().to_scope(&handle).is_ok()
                    });
                    self.note(Event::RaisedInto(raised));
                }
            }
            Step::Raise => {
                let me = ThreadId::current().unwrap();
                elsewhere(self.elsewhere, || Raise::new(Interrupted).queue().to(me)).unwrap();
            }
            Step::CancelAhead => *self.cancel_ahead.borrow_mut() = true,
            Step::Swallow => drop(self.meet(throwto::safepoint())),
            Step::PutAside => {
                let met = self.meet(throwto::safepoint());
                self.aside.borrow_mut().extend(met);
            }
            Step::Pass => {
                if let Some(raised) = self.meet(throwto::safepoint()) {
                    return Err(raised);
                }
            }
            Step::Unwind => {
                if let Some(raised) = self.meet(catch(throwto::safepoint_unwind)) {
                    resume_unwind(Box::new(raised));
                }
            }
            Step::Catch(steps) => match catch(|| self.run(steps)) {
                Ok(result) => return result,
                Err(_dropped) => self.note(Event::CaughtUnwinding),
            },
        }
        Ok(())
    }

    fn enter(&self, steps: &[Step]) -> Result<(), Raised> {
        let (scope, handle) = Scope::new();
        if self.cancel_ahead.replace(false) {
            handle.cancel();
        }
        let number = self.handles.borrow().len();
        self.handles.borrow_mut().push(handle);
        self.note(Event::Entered(number));
        match scope.run(|| self.run(steps)) {
            Ok(result) => {
                self.note(Event::Kept(number));
                result
            }
            Err(Cancelled) => {
                self.note(Event::Converted(number));
                Ok(())
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let any_index = any::<prop::sample::Index>;
    let leaf = prop_oneof![
        3 => any_index().prop_map(Step::Cancel),
        3 => any_index().prop_map(Step::RaiseInto),
        1 => Just(Step::Raise),
        1 => Just(Step::CancelAhead),
        2 => Just(Step::Swallow),
        1 => Just(Step::PutAside),
        2 => Just(Step::Pass),
        2 => Just(Step::Unwind),
    ];
    let step = leaf.prop_recursive(5, 40, 5, |inner| {
        let block = || prop::collection::vec(inner.clone(), 0..6);
        prop_oneof![
            4 => block().prop_map(Step::Enter),
            1 => block().prop_map(Step::Catch),
        ]
    });
    prop::collection::vec(step, 1..8)
}

proptest! {
    /// Shows protocol::scope I1, I2, I4, I5.
    #[test]
    fn each_scope_converts_its_own_exceptions_and_no_other(
        from_elsewhere in any::<bool>(),
        steps in steps(),
    ) {
        let whole = [Step::Catch(vec![Step::Enter(steps)])];
        let mut model = Model::default();
        let model_out = model.run(&whole);
        let attachment = attach().unwrap();
        let real = Real {
            handles: RefCell::default(),
            aside: RefCell::default(),
            cancel_ahead: RefCell::default(),
            events: RefCell::default(),
            elsewhere: from_elsewhere,
        };
        let real_out = real.run(&whole);
        prop_assert_eq!(&*real.events.borrow(), &model.events);
        prop_assert_eq!(real_out.is_err(), model_out.is_err());
        drop(real_out);
        // All scopes are over: what waits is the thread's own.
        let mut own = 0;
        while throwto::safepoint().is_err() {
            own += 1;
        }
        prop_assert_eq!(own, model.waiting.len());
        real.aside.borrow_mut().clear();
        drop(attachment);
    }
}
