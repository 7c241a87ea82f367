//! Everything at once, ended by the conservation check of P3. `THROWTO_STRESS_SECONDS` makes it longer than two seconds,
//! `THROWTO_SEED` repeats a run as far as threads can be repeated.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use throwto::foreign::{self, Call};
use throwto::{
    ExcType, Raise, RaiseError, Raised, Receipt, ReceiptState, Stop, ThreadId, attach, catch, mask,
    raise_exc, set_async_exc, shield, thread, uninterruptible,
};

use crate::stage::*;

/// What the targets of one run share.
struct Run {
    over: AtomicBool,
    ledger: Arc<Ledger>,
    met: Mutex<HashMap<u64, ThreadId>>,
    live: Mutex<Vec<ThreadId>>,
}

impl Run {
    fn meet(&self, raised: &Raised) {
        if raised.downcast_ref::<Stop>().is_some() {
            return;
        }
        let me = ThreadId::current().unwrap();
        let before = self.met.lock().unwrap().insert(number_of(raised), me);
        assert_eq!(before, None, "delivered twice: {raised:?}");
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn one_step(run: &Run, dice: &mut Dice, reader: &std::io::PipeReader) {
    let met = match dice.roll(9) {
        0 => throwto::safepoint(),
        1 => catch(throwto::safepoint_unwind),
        2 => thread::sleep(Duration::from_micros(dice.roll(200))),
        3 => foreign::call(|| raw_poll(reader)).map(drop),
        4 => Call::new("hooked")
            .unblock(std::hint::spin_loop)
            .run(|| raw_poll(reader))
            .map(drop),
        5 => with_fail(Call::new("failing"), true)
            .run(|| raw_poll(reader))
            .map(drop),
        6 => mask(|m| {
            assert!(throwto::safepoint().is_ok());
            match dice.roll(3) {
                0 => m.restore(throwto::safepoint),
                1 => thread::park_timeout(Duration::from_micros(50)),
                _ => Ok(()),
            }
        }),
        7 => {
            uninterruptible(|_| {
                assert!(throwto::safepoint().is_ok());
                assert!(thread::sleep(Duration::from_micros(20)).is_ok());
                assert!(foreign::call(|| raw_poll(reader)).is_ok());
            });
            Ok(())
        }
        _ => shield(Duration::from_micros(dice.roll(300)), || {
            mask(|_| assert!(throwto::safepoint().is_ok()));
            thread::sleep(Duration::from_micros(100))
        }),
    };
    if let Err(raised) = met {
        run.meet(&raised);
    }
}

/// Blocks for a moment in somebody else's code.
fn raw_poll(reader: &std::io::PipeReader) -> i32 {
    let mut poll = libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(reader),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, borrowed for the call.
    unsafe { libc::poll(&raw mut poll, 1, 1) }
}

fn target(run: &Run, seed: u64) {
    let mut dice = Dice::new(seed);
    let (reader, _writer) = std::io::pipe().unwrap();
    while !run.over() {
        let attachment = attach().unwrap();
        run.live.lock().unwrap().push(attachment.id());
        for _ in 0..dice.roll(60) {
            one_step(run, &mut dice, &reader);
        }
        run.live.lock().unwrap().retain(|id| *id != attachment.id());
        drop(attachment);
    }
}

/// What became of a numbered raise, as far as its raiser knows.
enum Sent {
    Refused(u64),
    Receipt(u64, Receipt),
}

fn raiser(run: &Run, seed: u64) -> Vec<Sent> {
    let mut dice = Dice::new(seed);
    let mut sent = Vec::new();
    while !run.over() {
        let target: throwto::Target = {
            let live = run.live.lock().unwrap();
            match (dice.roll(4), live.len()) {
                (0, _) | (_, 0) => "stressed".into(),
                (_, n) => live[dice.roll(n as u64) as usize].into(),
            }
        };
        if dice.roll(50) == 0 {
            set_async_exc(target, (dice.roll(2) == 0).then(ExcType::of::<Stop>));
            continue;
        }
        let (number, result) = match dice.roll(3) {
            0 => {
                let exception = Other::new(&run.ledger);
                (exception.number, raise_exc(target, exception))
            }
            1 => {
                let exception = Numbered::new(&run.ledger);
                (exception.number, raise_exc(target, exception))
            }
            _ => {
                let exception = Numbered::new(&run.ledger);
                (exception.number, Raise::new(exception).queue().to(target))
            }
        };
        sent.push(match result {
            Ok(receipt) => {
                if dice.roll(4) == 0 {
                    receipt.revoke();
                }
                Sent::Receipt(number, receipt)
            }
            Err(RaiseError::NoSuchThread { .. } | RaiseError::Ambiguous { .. }) => Sent::Refused(number),
            Err(other) => panic!("{other}"),
        });
        if dice.roll(8) == 0 {
            std::thread::yield_now();
        }
    }
    sent
}

#[test]
fn everything_that_was_raised_is_accounted_for() {
    let seed = seed();
    println!("THROWTO_SEED={seed}");
    let seconds =
        std::env::var("THROWTO_STRESS_SECONDS").map_or(2.0, |s| s.parse().expect("a number of seconds"));
    let mut tally = Tally::new();
    // On a machine that gives it little time one run may not come to everything.
    until("every fate", || {
        for (kind, count) in one_run(seed, seconds) {
            *tally.entry(kind).or_default() += count;
        }
        println!("{tally:?}");
        let fates = ["refused", "delivered", "superseded", "revoked", "target ended"];
        fates.iter().all(|kind| tally.contains_key(kind))
    });
}

/// How many raises had which fate.
type Tally = HashMap<&'static str, u64>;

fn one_run(seed: u64, seconds: f64) -> Tally {
    let run = Run {
        over: AtomicBool::new(false),
        ledger: Ledger::new(),
        met: Mutex::default(),
        live: Mutex::default(),
    };
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let sent: Vec<Sent> = std::thread::scope(|s| {
        let run = &run;
        let targets: Vec<_> = (0..4)
            .map(|i| {
                let name = if i < 2 { "stressed" } else { "stressed by id" };
                std::thread::Builder::new()
                    .name(name.into())
                    .spawn_scoped(s, move || target(run, seed ^ i))
                    .unwrap()
            })
            .collect();
        let raisers: Vec<_> = (10..12).map(|i| s.spawn(move || raiser(run, seed ^ i))).collect();
        s.spawn(|| {
            while !run.over() {
                throwto::threads();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        while Instant::now() < end && !targets.iter().any(|t| t.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        run.over.store(true, Ordering::Relaxed);
        targets
            .into_iter()
            .for_each(|t| t.join().unwrap_or_else(|_| panic!("THROWTO_SEED={seed}")));
        raisers.into_iter().flat_map(|r| r.join().unwrap()).collect()
    });
    let met = run.met.lock().unwrap();
    let mut tally = Tally::new();
    for sent in &sent {
        let (kind, number, delivered) = match sent {
            Sent::Refused(number) => ("refused", number, false),
            Sent::Receipt(number, receipt) => match receipt.state() {
                ReceiptState::Caught => {
                    assert_eq!(
                        met.get(number),
                        Some(&receipt.target()),
                        "{number}: by its own target"
                    );
                    ("delivered", number, true)
                }
                ReceiptState::Superseded => ("superseded", number, false),
                ReceiptState::Revoked => ("revoked", number, false),
                ReceiptState::TargetEnded => ("target ended", number, false),
                unsettled => {
                    panic!("{number} is {unsettled:?} after its target has ended; THROWTO_SEED={seed}")
                }
            },
        };
        assert_eq!(
            met.contains_key(number),
            delivered,
            "{number} is {kind}; THROWTO_SEED={seed}"
        );
        *tally.entry(kind).or_default() += 1;
    }
    assert_eq!(tally.values().sum::<u64>(), run.ledger.made());
    assert_eq!(tally.get("delivered").copied().unwrap_or(0), met.len() as u64);
    run.ledger.balance();
    tally
}
