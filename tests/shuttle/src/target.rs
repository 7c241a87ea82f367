//! The part of a target: regions, masks, scopes, taking what was raised, and the way out. Twice, in one record or another.
//!
//! Owns: [`Target`], a mirror of `region`, `safepoint`, `scope` and `current` in so far as they touch the protocol.
//!
//! **Signal context:** no.

use std::panic::Location;
use std::ptr::null_mut;

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::sync::atomic::Ordering;
use shuttle::thread;

use crate::driver::Driver;
use crate::kernel::{Kernel, Reach};
use crate::play::{Fault, Ledger, Numbered};
use crate::protocol::deadline::NEVER;
use crate::protocol::entry::Payload;
use crate::protocol::receipt::ReceiptState;
use crate::protocol::record::{AfterLeave, Entered, Fences, Owner};
use crate::protocol::scope::{Begun, Place, ScopeCall, ScopeCell, ScopeId};
use crate::protocol::wait::{NextStep, Raises};
use crate::protocol::word::{Attention, Gate, Kind, Level, Moment, Region};

/// Whether the thread goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    /// It was told to end.
    End,
}

pub(crate) struct Target {
    driver: Arc<Driver>,
    ledger: Arc<Ledger>,
    owner: Owner,
    reach: Reach,
    /// Innermost last.
    scopes: Vec<(ScopeId, Arc<ScopeCell>)>,
}

/// One life of a thread: attach, some steps, exit.
pub(crate) fn live(driver: &Arc<Driver>, ledger: &Arc<Ledger>, name: Option<&str>, steps: u32) {
    let id = driver
        .registry
        .register(name.map(Into::into), None, None, 8)
        .unwrap();
    let record = driver.registry.record(id.index()).unwrap();
    assert!(!record.attention().calls(), "born with somebody else's exception");
    let reach = Reach {
        id,
        kernel: Arc::new(Kernel::default()),
    };
    let mut target = Target {
        driver: driver.clone(),
        ledger: ledger.clone(),
        owner: Owner::of(record),
        reach: reach.clone(),
        scopes: Vec::new(),
    };
    ledger.live.lock().unwrap().push(reach.clone());
    for _ in 0..steps {
        if target.step(2) == Flow::End {
            break;
        }
    }
    target.exit();
}

impl Target {
    /// Whether the play is nearly over: nothing is waited for that may never come.
    fn over(&self) -> bool {
        self.ledger.over.load(Ordering::SeqCst)
    }

    fn kernel(&self) -> &Kernel {
        &self.reach.kernel
    }

    /// Between two steps a signal may arrive.
    fn breathe(&self) {
        self.kernel().handle(self.owner.record());
        thread::yield_now();
    }

    fn step(&mut self, depth: u32) -> Flow {
        self.breathe();
        let kinds = if depth > 0 { 9 } else { 5 };
        match thread_rng().gen_range(0..kinds) {
            0 | 1 => self.safepoint(),
            2 => self.wait(),
            3 => self.window(),
            4 => self.foreign(),
            5 => self.masked(depth),
            6 => self.uninterruptible(),
            7 => self.shielded(depth),
            _ => self.scope(depth),
        }
    }

    fn safepoint(&mut self) -> Flow {
        if self.owner.record().attention().calls() {
            self.take(Moment::Running)
        } else {
            Flow::On
        }
    }

    fn enter(&self, kind: Kind) -> Entered {
        let fences = if kind == Kind::Foreign {
            Fences::Light
        } else {
            Fences::Full
        };
        self.owner.enter(kind, 0, null_mut(), fences)
    }

    /// As `Inside::drop` does.
    fn leave(&self, entered: &Entered) {
        if let AfterLeave::Owes { await_looks, note } = self.owner.leave(entered, Fences::Full) {
            if await_looks {
                self.kernel()
                    .sleep_out(self.owner.record(), || self.owner.await_looks());
            }
            if note && self.owner.record().enlist() {
                self.driver.note(&self.reach);
            }
        }
    }

    fn may_block(&self) -> bool {
        self.owner.region().level() < Level::Uninterruptible && !self.over()
    }

    /// Whether what is pending could come out of a call that blocks.
    fn is_open(&self, moment: Moment) -> bool {
        self.owner.gate(moment, || self.driver.now()) == Gate::Open
    }

    /// As `region::wait_until` does, for time alone: what is revoked ends this wait as well.
    fn wait(&mut self) -> Flow {
        if !self.may_block() {
            return Flow::On;
        }
        let record = self.owner.record();
        let deadline = thread_rng()
            .gen_bool(0.3)
            .then(|| self.driver.now() + thread_rng().gen_range(0..20_u64));
        let entered = self.enter(Kind::Waiting);
        loop {
            let step = self
                .owner
                .next_step(deadline, Raises::End, || false, || self.driver.now());
            match step {
                NextStep::Sleep { word, until } => {
                    self.driver.sleep(&self.reach, record, word.futex(), until);
                }
                NextStep::Raise | NextStep::TimedOut => break,
                NextStep::Ready => unreachable!("it never is"),
            }
        }
        self.leave(&entered);
        self.take(Moment::Blocking)
    }

    /// A call was there on entry, and is held back: the driver comes, should the call really block.
    fn ask_for_help(&self) {
        if self.owner.record().enlist() {
            self.driver.note(&self.reach);
        }
    }

    /// A call of our own: the stub's check and the system call are one step for a signal.
    fn window(&mut self) -> Flow {
        if !self.may_block() {
            return Flow::On;
        }
        let record = self.owner.record();
        let entered = self.enter(Kind::Window);
        if entered.calls && !self.is_open(Moment::Blocking) {
            self.ask_for_help();
            self.kernel().block(record);
        } else {
            while !record.attention().calls() {
                self.breathe_in_window();
            }
        }
        self.leave(&entered);
        self.take(Moment::Blocking)
    }

    /// The window's call, broken by any signal. A signal before the check is seen by the check.
    fn breathe_in_window(&self) {
        let record = self.owner.record();
        if !self.kernel().handle(record) && !record.attention().calls() {
            self.kernel().block(record);
        }
    }

    /// A library that blocks, is interrupted, and tries again for some time.
    fn foreign(&mut self) -> Flow {
        if !self.may_block() {
            return Flow::On;
        }
        let record = self.owner.record();
        let entered = self.enter(Kind::Foreign);
        let held = entered.calls && !self.is_open(Moment::Blocking);
        if held {
            self.ask_for_help();
        }
        if held || !entered.calls {
            let mut patience = thread_rng().gen_range(0..3_u32);
            loop {
                // The library is still computing: a signal that falls here breaks nothing.
                self.breathe();
                self.kernel().block(record);
                if record.attention().calls() {
                    if patience == 0 {
                        break;
                    }
                    patience -= 1;
                }
            }
        }
        self.leave(&entered);
        self.take(Moment::Blocking)
    }

    /// Two steps that a shield holds off for some time, or within one that does so already.
    fn shielded(&mut self, depth: u32) -> Flow {
        let region = self.owner.region();
        if !region.has(Region::SHIELDED) {
            let until = self.driver.now() + thread_rng().gen_range(0..20_u64);
            self.owner.set_shield(until);
        }
        let outer = self.owner.set_mask(region.level(), true);
        let mut flow = Flow::On;
        for _ in 0..2 {
            if flow == Flow::On {
                flow = self.step(depth - 1);
            }
        }
        self.owner.set_mask(outer.0, outer.1);
        flow
    }

    fn masked(&mut self, depth: u32) -> Flow {
        let region = self.owner.region();
        let outer = self
            .owner
            .set_mask(Level::Masked.max(region.level()), region.has(Region::SHIELDED));
        let mut flow = Flow::On;
        for _ in 0..2 {
            if flow == Flow::On {
                flow = self.step(depth - 1);
            }
        }
        self.owner.set_mask(outer.0, outer.1);
        flow
    }

    /// A call that nothing may end, and that ends by itself.
    fn uninterruptible(&mut self) -> Flow {
        let shielded = self.owner.region().has(Region::SHIELDED);
        let outer = self.owner.set_mask(Level::Uninterruptible, shielded);
        let entered = self.enter(Kind::Foreign);
        self.breathe();
        self.leave(&entered);
        self.owner.set_mask(outer.0, outer.1);
        Flow::On
    }

    fn promise(&self, begun: &Begun) {
        if let Some(at) = begun.visit {
            self.driver.visit_at(&self.reach, at);
            self.owner.told_driver(at);
        }
    }

    /// As `Scope::run` and `time::timeout` do.
    fn scope(&mut self, depth: u32) -> Flow {
        let now = self.driver.now();
        let deadline = if thread_rng().gen_bool(0.5) {
            now + thread_rng().gen_range(0..20_u64)
        } else {
            NEVER
        };
        let begun = self.owner.begin_scope(deadline, now, Location::caller());
        self.promise(&begun);
        let (scope, cell) = (begun.id, Arc::new(ScopeCell::new()));
        let place = Place {
            index: self.reach.id.index(),
            generation: self.reach.id.generation(),
            scope,
        };
        self.ledger
            .scopes
            .lock()
            .unwrap()
            .push((self.reach.clone(), cell.clone()));
        if cell.begin(place) {
            let duty =
                self.owner
                    .record()
                    .cancel_scope(place.generation, scope, Location::caller(), Fences::Light);
            self.driver.perform(&self.reach, duty.expect("it is open"), None);
        }
        self.scopes.push((scope, cell));
        let mut flow = Flow::On;
        for _ in 0..2 {
            if flow == Flow::On {
                flow = self.step(depth - 1);
            }
        }
        self.scopes.pop();
        let end = self.owner.end_scope(scope).expect("it is open");
        if end.await_nudge {
            self.await_nudge();
        }
        for entry in end.entries {
            assert_eq!(entry.scope, Some(scope), "somebody else's");
            self.ledger.settle(entry, ReceiptState::TargetEnded);
        }
        flow
    }

    /// As `current::await_nudge` does; a signal that has been sent is taken by entering the kernel.
    fn await_nudge(&self) {
        if self.driver.fault == Some(Fault::NobodyAwaitsNudges) {
            return;
        }
        self.kernel()
            .sleep_out(self.owner.record(), || self.owner.await_nudge());
        if self.owner.nudge_is_on_its_way() {
            self.kernel().handle(self.owner.record());
        }
    }

    /// As `safepoint::take` does.
    fn take(&mut self, moment: Moment) -> Flow {
        if !self.is_open(moment) {
            return Flow::On;
        }
        let attention = self.owner.record().attention();
        if attention.has(Attention::PENDING)
            && let Some(mut entry) = self.owner.take_pending()
        {
            self.await_nudge();
            if let Some(scope) = entry.scope {
                assert!(
                    self.scopes.iter().any(|(open, _)| *open == scope),
                    "delivered after its scope"
                );
            }
            let _nobody_waits = entry.receipt.advance(ReceiptState::Delivered);
            let Payload::Value(value) = entry.payload.take() else {
                unreachable!("the raisers raise values")
            };
            let exception: &Numbered = value.downcast_ref().expect("one of the play's");
            if let Some(number) = exception.number {
                self.kernel().go_on_from(number);
            }
            self.ledger.deliver(exception, self.reach.id);
            let flow = if exception.number.is_none() {
                Flow::End
            } else {
                Flow::On
            };
            drop(value);
            let _nobody_waits = entry.receipt.advance(ReceiptState::Caught);
            return flow;
        }
        if attention.has(Attention::SCOPE) {
            let receipt = self.ledger.new_raise(true).receipt;
            if let ScopeCall::Raise(_) = self.owner.take_scope_call(&receipt) {
                assert!(!self.scopes.is_empty(), "called by a scope that is over");
                self.await_nudge();
            }
        }
        Flow::On
    }

    /// As `current::end` does.
    fn exit(self) {
        self.owner.begin_exit();
        self.kernel()
            .sleep_out(self.owner.record(), || self.owner.await_pins());
        self.kernel().end();
        for entry in self.owner.close() {
            self.ledger.settle(entry, ReceiptState::TargetEnded);
        }
        self.driver.registry.release(self.reach.id);
    }
}
