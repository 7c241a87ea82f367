//! Climbing: what the driver does for one thread in one look.
//!
//! Owns: [`Watch`], the pauses between looks, acting on a region that may not end meanwhile (invariant I1 of the module above).
//! Leaves to `protocol::record` what a thread needs, to `protocol::ladder` which rung is due, to the module above when to look.
//!
//! **Signal context:** no.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::{BED, DOZE, GLANCE, IN_HOOK_OF, LONGEST_PAUSE};
use crate::current::{REGISTRY, release};
use crate::foreign::frame;
use crate::platform::{direct, futex, membarrier, nudge, probe};
use crate::protocol::ladder::{Found, Step, Times};
use crate::protocol::record::{Need, Record};
use crate::protocol::registry::ThreadId;
use crate::protocol::word::{Attention, Kind, Region, Sender};
use crate::rung::{FAILED, HOOKED, Rung};
use crate::runtime;
use crate::trace;

/// Attempts, 3 ms of them, in which a signal that has not arrived is left its time: its thread waits for a processor.
const ON_ITS_WAY: u32 = 2;
/// Attempts, 31 ms of them, after which it counts as lost for good: to a handler that has taken our place and passes
/// nothing on. Between the two it is sent again, which costs little and changes nothing if it is still on its way: it may
/// have fallen together with somebody else's signal of the same number.
const SURELY_LOST: u32 = 5;
/// The first looks at a thread whose calls are made to fail, a glance apart. Then the pauses grow.
const GLANCES: u32 = 8;

/// One thread that the driver keeps an eye on.
pub(super) struct Watch {
    attempt: u32,
    glances: u32,
    /// Whether an order to fail a call has been given.
    ordered: bool,
    pub(super) due: Instant,
    stay: Option<Stay>,
}

/// A region with forced rungs that the thread has been seen in. Their times count from the first look at it.
#[derive(Clone, Copy)]
struct Stay {
    region: Region,
    frame: *const (),
    since: Instant,
    times: Times,
    unwind_was_last: bool,
    /// The hook has been run here.
    hooked: bool,
}

/// What one attempt comes to.
enum Attempt {
    /// The thread needs no more help.
    Over,
    Again(Duration),
    /// Calls are being made to fail: the thread may have been missed between two of them, or be in its next one already
    /// (a resolver tries server after server). Look again at once, some times.
    Soon,
    /// A forced rung was ordered, and may be refused where the thread happens to be: several tries in a row, then a pause.
    Burst,
}

/// Looks at one thread and does what its region asks for. `false` once there is nothing left to do.
pub(super) fn look(id: ThreadId, watch: &mut Watch) -> bool {
    let Some(pin) = REGISTRY.pin(id) else { return false };
    let attempt = climb(id, pin.record(), watch);
    release(pin);
    let pause = match attempt {
        Attempt::Over => return false,
        Attempt::Soon | Attempt::Burst if watch.glances < GLANCES => {
            watch.glances += 1;
            watch.due = Instant::now() + GLANCE;
            return true;
        }
        Attempt::Soon => pause_after(watch.attempt),
        Attempt::Burst => {
            watch.glances = 0;
            pause_after(watch.attempt)
        }
        Attempt::Again(pause) => pause,
    };
    watch.attempt += 1;
    watch.due = Instant::now() + watch.until_next_rung().map_or(pause, |next| next.min(pause));
    true
}

impl Watch {
    pub(super) fn new(due: Instant) -> Self {
        Self {
            attempt: 0,
            glances: 0,
            ordered: false,
            due,
            stay: None,
        }
    }

    fn until_next_rung(&self) -> Option<Duration> {
        let stay = self.stay?;
        stay.times.next(stay.region, stay.since.elapsed())
    }

    /// Whether a forced rung is due in a region whose hook has not been run.
    fn owes_hook(&self) -> bool {
        self.stay.is_some_and(|stay| {
            let due = stay.times.forced_is_due(stay.region, stay.since.elapsed());
            due && stay.region.has(Region::HOOK) && !stay.hooked
        })
    }

    /// Takes note of a region with forced rungs, and when they are due.
    fn see(&mut self, id: ThreadId, record: &'static Record, region: Region) {
        let frame = record.frame();
        if !region.has(Region::FORCED) {
            self.stay = None;
        } else if !matches!(self.stay, Some(stay) if stay.region == region && stay.frame == frame) {
            in_region(id, region, |record| {
                self.stay = Some(Stay {
                    region,
                    frame,
                    since: Instant::now(),
                    times: frame::times_of(record),
                    unwind_was_last: false,
                    hooked: false,
                });
            });
        }
    }
}

fn pause_after(attempt: u32) -> Duration {
    Duration::from_millis(1 << attempt.min(6)).min(LONGEST_PAUSE)
}

/// One attempt.
fn climb(id: ThreadId, record: &'static Record, watch: &mut Watch) -> Attempt {
    let attempt = watch.attempt;
    let region = match record.need(futex::now) {
        Need::Nothing => return Attempt::Over,
        Need::Wake => {
            futex::wake(record.attention_word());
            return Attempt::Over;
        }
        Need::Later(end) => {
            return Attempt::Again(Duration::from_nanos(end.saturating_sub(futex::now())));
        }
        Need::Break(region) => region,
    };
    let hook_is_due = region.has(Region::HOOK) && (attempt > 0 || !region.has(Region::FAIL));
    let mut forced = false;
    // To look where a thread is blocked whose signal has not arrived would take the processor's time from it.
    if record.attention().has(Attention::NUDGE) && attempt < SURELY_LOST {
        if attempt >= ON_ITS_WAY {
            in_region(id, region, again);
        }
    } else if region.kind() == Kind::Window {
        in_region(id, region, again);
    } else {
        watch.see(id, record, region);
        if watch.owes_hook() {
            run_hook_in(id, region, watch);
            return Attempt::Again(DOZE);
        }
        forced = break_call(id, record, region, watch);
    }
    // Once in a burst.
    if hook_is_due && (!forced || watch.glances == 0) {
        run_hook_in(id, region, watch);
    }
    if forced {
        Attempt::Burst
    } else if region.has(Region::FAIL) {
        Attempt::Soon
    } else {
        Attempt::Again(pause_after(attempt))
    }
}

/// Acts on the region that was seen, if it is still there behind a heavy fence, and keeps it from ending meanwhile (I1):
/// no signal comes after it. The exception must still be there too: a region like the one that was seen may be the
/// thread's next one, whose calls are nobody's to break.
fn in_region(id: ThreadId, seen: Region, act: impl FnOnce(&'static Record)) {
    if let Some(look) = REGISTRY.look(id) {
        membarrier::heavy_fence();
        if look.record().attention().calls() && look.record().region() == seen {
            act(look.record());
        }
        release(look);
    }
}

fn again(record: &'static Record) {
    BED.renudges.add_one();
    nudge::send(record, Sender::Other, record.os_tid(), runtime::signal());
}

/// The rungs that take a signal. `true` if one of the forced ones was ordered.
fn break_call(id: ThreadId, record: &'static Record, region: Region, watch: &mut Watch) -> bool {
    let seen = probe::probe(record.os_tid());
    let found = Found {
        region,
        blocked: !matches!(seen, probe::Probe::Running),
        waited: watch.stay.map_or(Duration::ZERO, |stay| stay.since.elapsed()),
        unwind_was_last: watch.stay.is_some_and(|stay| stay.unwind_was_last),
    };
    let times = watch.stay.map(|stay| stay.times).unwrap_or_default();
    let step = times.step(found);
    let rung = match step {
        Step::Nothing => return false,
        Step::Nudge => Rung::Nudge,
        Step::Fail => Rung::Fail,
        Step::Unwind => Rung::Unwind,
        Step::Abandon => Rung::Abandon,
    };
    in_region(id, region, |record| {
        match step {
            Step::Fail => {
                // One call has been made to fail, and the thread is in the next.
                let again = watch.ordered && record.rung() >= FAILED;
                watch.ordered |= direct::arm(record.order.cell(), seen, again).unwrap_or(false);
            }
            Step::Unwind => {
                if let Err((pc, why)) = direct::arm_unwind(record.order.cell(), seen) {
                    frame::refuse_in(record, why, pc);
                }
            }
            Step::Abandon => direct::arm_abandon(record.order.cell()),
            Step::Nudge | Step::Nothing => {}
        }
        let refused = frame::refused_in(record).filter(|_| rung >= Rung::Unwind);
        trace::rung(id, rung, refused);
        again(record);
    });
    let forced = matches!(step, Step::Unwind | Step::Abandon);
    if let Some(stay) = watch.stay.as_mut().filter(|_| forced) {
        stay.unwind_was_last = step == Step::Unwind;
    }
    forced
}

fn run_hook_in(id: ThreadId, region: Region, watch: &mut Watch) {
    trace::rung(id, Rung::Hook, None);
    IN_HOOK_OF.set(Some(id));
    in_region(id, region, run_hook);
    IN_HOOK_OF.set(None);
    if let Some(stay) = &mut watch.stay {
        stay.hooked = true;
    }
}

/// Runs the region's hook. The caller holds a look at it.
fn run_hook(record: &'static Record) {
    record.note_rung(HOOKED);
    let ran = catch_unwind(AssertUnwindSafe(|| frame::run_hook_of(record)));
    if ran.is_err() {
        BED.hook_panics.add_one();
    }
}
