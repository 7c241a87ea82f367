//! P3 and P4 under fire: ten thousand threads end while they are raised into by id, kernel number and name. A process of
//! its own, since it takes every record there is.

#[path = "it/stage.rs"]
mod stage;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use throwto::os::OsTid;
use throwto::{Raise, RaiseError, Receipt, ReceiptState, Target, ThreadId, foreign, thread};

use stage::*;

const THREADS: u64 = 10_000;
const AT_ONCE: usize = 32;
const NAME: &str = "mayfly";

#[derive(Default)]
struct Sky {
    live: Mutex<Vec<(ThreadId, OsTid)>>,
    met: Mutex<HashMap<u64, ThreadId>>,
}

/// Lives for a moment, in one of several ways, and meets what it meets.
fn mayfly(sky: &'static Sky, kind: u64) {
    let me = ThreadId::current().unwrap();
    sky.live.lock().unwrap().push((me, OsTid::current()));
    let met = match kind % 5 {
        0 => throwto::safepoint(),
        1 => thread::sleep(std::time::Duration::from_micros(100)),
        // SAFETY: no descriptors, so nothing is touched.
        2 => foreign::call(|| unsafe { libc::poll(std::ptr::null_mut(), 0, 1) }).map(drop),
        3 => throwto::mask(|_| Ok(())),
        _ => throwto::catch(throwto::safepoint_unwind),
    };
    if let Err(raised) = met {
        assert_eq!(sky.met.lock().unwrap().insert(number_of(&raised), me), None);
    }
    sky.live.lock().unwrap().retain(|(id, _)| *id != me);
}

#[test]
fn ten_thousand_exiting_threads_under_fire_lose_nothing() {
    in_own_process("ten_thousand_exiting_threads_under_fire_lose_nothing", storm);
}

fn storm() {
    let seed = seed();
    println!("THROWTO_SEED={seed}");
    let sky: &'static Sky = Box::leak(Box::default());
    let ledger = Ledger::new();
    let over = AtomicBool::new(false);
    let sent: Vec<(u64, Target, Result<Receipt, RaiseError>)> = std::thread::scope(|s| {
        let end = Over(&over);
        let raisers: Vec<_> = (0..3)
            .map(|way| {
                let (ledger, over) = (&ledger, &over);
                s.spawn(move || {
                    let mut dice = Dice::new(seed ^ way);
                    let mut sent = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let target: Target = {
                            let live = sky.live.lock().unwrap();
                            if live.is_empty() {
                                continue;
                            }
                            let (id, tid) = live[dice.roll(live.len() as u64) as usize];
                            match way {
                                0 => id.into(),
                                1 => tid.into(),
                                _ => NAME.into(),
                            }
                        };
                        let exception = Numbered::new(ledger);
                        let number = exception.number;
                        sent.push((number, target.clone(), Raise::new(exception).queue().to(target)));
                        std::thread::yield_now();
                    }
                    sent
                })
            })
            .collect();
        let mut flying = std::collections::VecDeque::new();
        for kind in 0..THREADS {
            let builder = thread::Builder::new().name(NAME.into()).stack_size(64 << 10);
            flying.push_back(builder.spawn(move || mayfly(sky, kind)).unwrap());
            if flying.len() >= AT_ONCE {
                join(flying.pop_front().unwrap());
            }
        }
        flying.into_iter().for_each(join);
        drop(end);
        raisers.into_iter().flat_map(|r| r.join().unwrap()).collect()
    });
    assert!(throwto::threads().is_empty());
    let met = sky.met.lock().unwrap();
    let mut caught = 0;
    for (number, target, outcome) in &sent {
        match outcome {
            Err(RaiseError::NoSuchThread { asked }) => assert_eq!(asked, target),
            Err(RaiseError::Ambiguous { matched }) => assert!(*matched > 1),
            Err(other) => panic!("{other}"),
            Ok(receipt) => match receipt.state() {
                ReceiptState::Caught => {
                    assert_eq!(met.get(number), Some(&receipt.target()), "{number} went astray");
                    if let Target::Id(id) = target {
                        assert_eq!(receipt.target(), *id);
                    }
                    caught += 1;
                    continue;
                }
                state => assert_eq!(state, ReceiptState::TargetEnded, "{number}"),
            },
        }
        assert!(!met.contains_key(number), "{number} was delivered after all");
    }
    assert_eq!(caught, met.len());
    println!("{} raised, {caught} delivered", sent.len());
    assert!(caught > 0, "nobody was hit: the test shows nothing");
    ledger.balance();
}
