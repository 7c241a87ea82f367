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
use crate::protocol::receipt::{ReceiptCell, ReceiptState};
use crate::protocol::record::{AfterLeave, Entered, Fences, Owner};
use crate::protocol::scope::{Begun, Place, ScopeCall, ScopeCell, ScopeId};
use crate::protocol::slot::Payload;
use crate::protocol::word::{Attention, Kind, Level};

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
        let kinds = if depth > 0 { 8 } else { 5 };
        match thread_rng().gen_range(0..kinds) {
            0 | 1 => self.safepoint(),
            2 => self.wait(),
            3 => self.window(),
            4 => self.foreign(),
            5 => self.masked(depth),
            6 => self.uninterruptible(),
            _ => self.scope(depth),
        }
    }

    fn safepoint(&mut self) -> Flow {
        if self.owner.record().attention().calls() {
            self.take(false)
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

    /// As `region::wait_until` does.
    fn wait(&mut self) -> Flow {
        if !self.may_block() {
            return Flow::On;
        }
        let record = self.owner.record();
        let entered = self.enter(Kind::Waiting);
        loop {
            self.owner.consume(Attention::NOTIFIED);
            let attention = record.attention();
            if attention.calls() {
                break;
            }
            self.kernel().sleep(record, attention.futex());
        }
        self.leave(&entered);
        self.take(true)
    }

    /// A call of our own: the stub's check and the system call are one step for a signal.
    fn window(&mut self) -> Flow {
        if !self.may_block() {
            return Flow::On;
        }
        let record = self.owner.record();
        let entered = self.enter(Kind::Window);
        while !record.attention().calls() {
            self.breathe_in_window();
        }
        self.leave(&entered);
        self.take(true)
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
        if !entered.calls {
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
        self.take(true)
    }

    fn masked(&mut self, depth: u32) -> Flow {
        let outer = self
            .owner
            .set_mask(Level::Masked.max(self.owner.region().level()), false);
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
        let outer = self.owner.set_mask(Level::Uninterruptible, false);
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
        if self.owner.nudge_is_sent() {
            self.kernel().handle(self.owner.record());
        }
    }

    /// As `safepoint::take` does.
    fn take(&mut self, would_block: bool) -> Flow {
        let allowed = match self.owner.region().level() {
            Level::Unmasked => true,
            Level::Masked => would_block,
            Level::Uninterruptible => false,
        };
        if !allowed {
            return Flow::On;
        }
        let attention = self.owner.record().attention();
        if attention.has(Attention::PENDING)
            && let Some(entry) = self.owner.take_pending()
        {
            self.await_nudge();
            if let Some(scope) = entry.scope {
                assert!(
                    self.scopes.iter().any(|(open, _)| *open == scope),
                    "delivered after its scope"
                );
            }
            let _nobody_waits = entry.receipt.advance(ReceiptState::Delivered);
            let Payload::Value(value) = entry.payload else {
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
            let receipt = Arc::new(ReceiptCell::new());
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
