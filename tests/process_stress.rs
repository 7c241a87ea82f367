//! Stress with conservation: everything this crate can do at once, and at the end of each shift every account must balance.
//!
//! A shift is two seconds of work. Six targets do whatever blocks or is left by force, in scopes, limits, masks and groups,
//! and start and end threads and children; three raisers raise by id, by name, by scope, by tree and by group, and take
//! back what they please; another library's signals hit everybody; a forker forks amid all that; somebody looks on. Then the books are
//! closed (`books`): raised = delivered + revoked + superseded + rejected, each exception dropped once, bytes and values that
//! went in came out, locks were entered as often as told, no descriptor, child or thread is left. A watchdog ends the
//! process if anybody makes no step for a minute, and says where everybody is.
//!
//! `THROWTO_STRESS_SECONDS=3600 cargo test --release --test process_stress -- --nocapture` runs it for an hour (ten seconds
//! otherwise); `THROWTO_SEED` repeats a run as far as threads can be repeated. It is printed.

#![cfg(throwto_ladder)]
#![allow(unsafe_code)]

#[path = "stress/books.rs"]
mod books;
#[path = "stress/neighbours.rs"]
mod neighbours;
#[path = "stress/raiser.rs"]
mod raiser;
#[path = "it/stage.rs"]
mod stage;
#[path = "stress/target.rs"]
mod target;
#[path = "stress/watchdog.rs"]
mod watchdog;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use books::{Belongings, Books};
use stage::*;

const TARGETS: u64 = 6;
const RAISERS: u64 = 3;
/// Of the forced calls: what is poisoned is the target's own.
const LABELS: [&str; TARGETS as usize] = [
    "stress 0", "stress 1", "stress 2", "stress 3", "stress 4", "stress 5",
];
const SHIFT: Duration = Duration::from_secs(2);

/// How often each thing has happened.
pub type Tally = BTreeMap<&'static str, u64>;

#[test]
fn every_account_balances_after_each_shift() {
    let seed = seed();
    println!("THROWTO_SEED={seed}");
    let seconds =
        std::env::var("THROWTO_STRESS_SECONDS").map_or(10.0, |s| s.parse().expect("a number of seconds"));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    neighbours::install();
    target::open_library();
    // The others would work on for ever, and wait for whoever has failed.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
    // What the process opens and starts once is there after the first shift.
    let mut tally = shift(seed);
    let before = Belongings::now();
    let mut count = 1;
    // On a machine that gives it little time one shift may not come to everything.
    while Instant::now() < end || !everything(&tally) {
        for (kind, more) in shift(seed.wrapping_add(count)) {
            *tally.entry(kind).or_default() += more;
        }
        count += 1;
        before.are_all_there_is();
        if count % 10 == 0 || Instant::now() >= end {
            let (resident, allocated) = (books::resident(), books::allocated() / 1024);
            println!("{count} shifts, {resident} kB resident, {allocated} kB allocated: {tally:?}");
        }
        assert!(
            Instant::now() < end + 2 * LIMIT,
            "it never comes to everything: {tally:?}"
        );
    }
    println!("{count} shifts: {tally:#?}");
}

/// Under a sanitizer (`.ci/sanitizers` says so) no call is left by force: it stands between the C library and its callers,
/// where nothing may be dropped, and remembers frames that are gone.
fn sanitized() -> bool {
    std::env::var_os("THROWTO_SANITIZED").is_some()
}

/// Whether each fate and each rung has been seen.
fn everything(tally: &Tally) -> bool {
    let all = [
        "refused",
        "delivered",
        "revoked",
        "superseded",
        "target ended",
        "by safepoint",
        "by wake",
        "by nudge",
        "by fail",
        "by hook",
        "scope cancelled",
        "limit passed",
        "left behind",
        "children reaped",
        "forks",
    ];
    let forced = ["by unwind", "by abandon"]
        .iter()
        .filter(|_| cfg!(throwto_forced) && !sanitized());
    all.iter()
        .chain(forced)
        .all(|kind| tally.get(kind).is_some_and(|count| *count > 0))
}

fn shift(seed: u64) -> Tally {
    let books = Arc::new(Books::new());
    let watchdog = watchdog::Watchdog::new(seed, (TARGETS + RAISERS + 3) as usize);
    std::thread::scope(|s| {
        let books = &*books;
        let mut beats = watchdog.beats();
        let mut named = |name: &str| {
            let beat = beats.next().unwrap();
            beat.is(name);
            (std::thread::Builder::new().name(name.into()), beat)
        };
        let targets: Vec<_> = (0..TARGETS)
            .map(|i| {
                // A name of one's own, and one that is shared.
                let (builder, beat) = named(if i % 2 == 0 {
                    "stressed"
                } else {
                    ["lone 1", "lone 3", "lone 5"][i as usize / 2]
                });
                builder
                    .spawn_scoped(s, move || {
                        target::work(books, LABELS[i as usize], seed ^ ((i + 1) << 8), &beat)
                    })
                    .unwrap()
            })
            .collect();
        let raisers: Vec<_> = (0..RAISERS)
            .map(|i| {
                let (builder, beat) = named("raiser");
                builder
                    .spawn_scoped(s, move || raiser::work(books, seed ^ ((i + 1) << 16), &beat))
                    .unwrap()
            })
            .collect();
        let (builder, beat) = named("forker");
        let forker = builder
            .spawn_scoped(s, move || neighbours::fork_amid_all(books, &beat))
            .unwrap();
        let (builder, beat) = named("signaller");
        let signaller = builder
            .spawn_scoped(s, move || neighbours::signal_everybody(books, seed ^ 7, &beat))
            .unwrap();
        let (builder, beat) = named("looker");
        let looker = builder
            .spawn_scoped(s, move || neighbours::look_on(books, &beat))
            .unwrap();
        let end = Instant::now() + SHIFT;
        while Instant::now() < end && !targets.iter().any(|target| target.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        books.close();
        for target in targets {
            target.join().unwrap();
        }
        for raiser in raisers {
            raiser.join().unwrap();
        }
        forker.join().unwrap();
        signaller.join().unwrap();
        // Last: it keeps the pipe and the channel from staying empty or full.
        books.everybody_has_gone();
        looker.join().unwrap();
    });
    watchdog.end();
    books.audit(seed)
}
