//! Guarded calls, instruction by instruction: at each one a raise is made while the thread stands there, then it goes on.
//!
//! A process of its own for the tracer, since it traces, and one for the tracee. The header of `single_step/tracer.rs` tells
//! how. Every place on the way is a round; a round that loses anything, or hangs, names the place.

#![cfg(all(throwto_ladder, target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)]

#[path = "it/stage.rs"]
mod stage;
#[path = "single_step/tracee.rs"]
mod tracee;
#[path = "single_step/tracer.rs"]
mod tracer;

use std::collections::HashMap;
use std::time::Instant;

use tracee::{ALL, BEGIN, END, FAILED, Guarded, KEPT, RAISE, RAISED, READY, TRACEE, WRITE};
use tracer::{Refused, Stop, Tracer};

/// Places this near to a system call are all stood at, the others one in `FAR` unless `THROWTO_STEPS=all`.
const NEAR: usize = 150;
const FAR: usize = 7;
/// Instructions from one mark to the next: more are a loop without end.
const LONGEST: usize = 100_000;

/// What happens before the steps begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    Nothing,
    /// The call is asleep, and a signal of somebody else comes: the steps go through its handler and back.
    Stray(i32),
    /// The call is asleep, raised into and nudged, then asleep again; the driver orders it to fail, and the signal that
    /// brings the order is kept back. What comes at each place is that signal, too late.
    Ordered {
        byte: bool,
    },
}

/// One way through a call.
#[derive(Clone, Copy, Debug)]
struct Scene {
    guarded: Guarded,
    lead: Lead,
    /// A second nudge comes with the raise: one that the driver, say, has sent for a region that is over.
    nudge: bool,
}

impl Scene {
    fn there(self) -> u64 {
        let ready = matches!(
            self.guarded,
            Guarded::ReadReady | Guarded::AcceptReady | Guarded::FailReady
        );
        u64::from(ready || self.lead == Lead::Ordered { byte: true })
    }

    /// Whether the thread may fall asleep in the call after the raise: there it is masked, or the call is not ours.
    fn may_sleep(self) -> bool {
        matches!(
            self.guarded,
            Guarded::MaskedRead | Guarded::FailEmpty | Guarded::FailReady
        )
    }

    /// Every way that the call may end.
    fn ends(self) -> &'static [u64] {
        match (self.guarded, self.lead) {
            (_, Lead::Ordered { byte: true }) => &[KEPT, FAILED],
            (_, Lead::Ordered { byte: false }) => &[FAILED],
            (Guarded::ReadReady | Guarded::AcceptReady, _) => &[RAISED, KEPT],
            (Guarded::FailEmpty, _) => &[RAISED, FAILED],
            (Guarded::FailReady, _) => &[RAISED, KEPT, FAILED],
            _ => &[RAISED],
        }
    }
}

/// The program counters from the first mark on, each before its instruction; and whether the way ends asleep.
#[derive(Default)]
struct Way {
    pcs: Vec<u64>,
    asleep: bool,
}

impl Way {
    /// The last place up to `index` that is passed once.
    fn anchor(&self, index: usize, times: &HashMap<u64, u32>) -> Option<usize> {
        (1..=index).rev().take(400).find(|&i| times[&self.pcs[i]] == 1)
    }
}

/// One round. Stands still at place `index`; further on than the way goes, at its end.
struct Round {
    end: u64,
    /// Where it stood; 0 asleep.
    at: u64,
    /// Whether it came as far as `index`.
    reached: bool,
    /// The raise waited for something that the thread held where it stood.
    late: bool,
    /// A nudge found the thread asleep in a system call that it had come to after the raise.
    slept: bool,
}

fn round(
    tracer: &mut Tracer,
    scene: Scene,
    index: usize,
    anchor: Option<(usize, u64)>,
    way: Option<&mut Way>,
) -> Round {
    tracer.answer(ALL.iter().position(|g| *g == scene.guarded).unwrap() as u64);
    tracer.run_to_mark(0);
    assert_eq!(tracer.said().0, BEGIN);
    let mut signal = 0;
    let mut stop = Stop::Stepped;
    let mut done = 0;
    match scene.lead {
        Lead::Nothing => {}
        Lead::Stray(number) => {
            tracer.run_into_read();
            tracer.signal(number);
            assert_eq!(tracer.wait(false), Stop::Signal(number));
            signal = number;
        }
        Lead::Ordered { byte } => {
            tracer.run_into_read();
            tracer.have_done(RAISE);
            assert_eq!(tracer.wait(false), Stop::Signal(libc::SIGURG));
            tracer.go(libc::SIGURG);
            stop = tracer.wait(false);
            if byte {
                // Without a signal to handle the kernel makes the read again.
                tracer.have_done(WRITE);
            } else {
                signal = libc::SIGWINCH;
            }
        }
    }
    let ordered = matches!(scene.lead, Lead::Ordered { .. });
    if let Some((at, pc)) = anchor.filter(|_| !ordered)
        && tracer.run_to(pc, signal)
    {
        (done, signal) = (at, 0);
    }
    let mut recorded = way;
    while done < index && stop != Stop::Mark {
        if let Some(way) = &mut recorded {
            way.pcs.push(tracer.registers().rip);
            assert!(way.pcs.len() < LONGEST);
        }
        stop = tracer.step(signal);
        signal = match stop {
            Stop::Signal(number) if !(ordered && number == libc::SIGURG) => number,
            _ => 0,
        };
        if stop == Stop::Asleep {
            break;
        }
        done += 1;
    }
    if let Some(way) = recorded {
        way.asleep = stop == Stop::Asleep;
    }
    let asleep = stop == Stop::Asleep;
    let reached = done == index || asleep;
    let at = if asleep { 0 } else { tracer.registers().rip };
    let punctual = if ordered {
        tracer.send_nudge();
        true
    } else {
        let made = tracer.raise();
        if scene.nudge {
            tracer.send_nudge();
        }
        made
    };
    if asleep {
        signal = match tracer.wait(false) {
            Stop::Signal(number) => number,
            other => {
                stop = other;
                0
            }
        };
    }
    let slept = stop != Stop::Mark && tracer.run_to_mark_from(at, signal) && !asleep;
    assert_eq!(tracer.said().0, END);
    tracer.answer(u64::from(punctual) | scene.there() << 1);
    tracer.run_to_mark(0);
    let end = tracer.said().0;
    if !punctual {
        tracer.late();
    }
    tracer.answer(0);
    tracer.run_to_mark(0);
    assert_eq!(tracer.said().0, READY);
    let late = !punctual;
    Round {
        end,
        at,
        reached,
        late,
        slept,
    }
}

/// Stands at every place of one scene's way.
fn walk(tracer: &mut Tracer, scene: Scene, all: bool) {
    let began = Instant::now();
    let mut way = Way::default();
    for turn in 0..50 {
        // What is set up the first time has been by the fourth. An order may come with the first signal, on a busy machine.
        way = Way::default();
        let _ = round(tracer, scene, LONGEST, None, Some(&mut way));
        if turn >= 3 && !way.pcs.is_empty() {
            break;
        }
    }
    let mut times: HashMap<u64, u32> = HashMap::new();
    for pc in &way.pcs {
        *times.entry(*pc).or_default() += 1;
    }
    let mut calls: Vec<usize> = (0..way.pcs.len())
        .filter(|&i| tracer.is_call(way.pcs[i]))
        .collect();
    if scene.lead != Lead::Nothing {
        calls.insert(0, 0);
    }
    let near = |index: usize| calls.iter().any(|call| index.abs_diff(*call) <= NEAR);
    let mut ends: HashMap<u64, u32> = HashMap::new();
    let (mut rounds, mut late, mut reached) = (0, 0, 0);
    for index in 0..=way.pcs.len() {
        if !all && !near(index) && !index.is_multiple_of(FAR) {
            continue;
        }
        let anchor = way
            .anchor(index.min(way.pcs.len() - 1), &times)
            .map(|at| (at, way.pcs[at]));
        let round = round(tracer, scene, index, anchor, None);
        assert!(
            scene.ends().contains(&round.end),
            "{scene:?}: ended with {} after a raise at place {index} of {}, {:#x}",
            round.end,
            way.pcs.len(),
            round.at
        );
        assert!(
            !round.slept || scene.may_sleep() || round.late,
            "{scene:?}: it fell asleep after a raise at place {index} of {}, {:#x}",
            way.pcs.len(),
            round.at
        );
        *ends.entry(round.end).or_default() += 1;
        rounds += 1;
        reached += u32::from(round.reached);
        late += u32::from(round.late);
    }
    let of = |end| ends.get(&end).copied().unwrap_or(0);
    println!(
        "{scene:?}: {} instructions, {} system calls{}, {rounds} rounds ({reached} as far) in {:?}: raised {}, kept {}, failed {}, late {late}",
        way.pcs.len(),
        calls.len(),
        if way.asleep { ", asleep in the last" } else { "" },
        began.elapsed(),
        of(RAISED),
        of(KEPT),
        of(FAILED),
    );
    assert!(!calls.is_empty());
}

/// Walks `scenes` in one tracee.
fn walk_all(name: &str, scenes: &[Scene]) {
    if std::env::var_os(TRACEE).is_some() {
        return tracee::run();
    }
    let mut tracer = match Tracer::start(name) {
        Ok(tracer) => tracer,
        Err(Refused(error)) => {
            eprintln!("NOT RUN: {name}: this system does not let a process trace its child ({error})");
            return;
        }
    };
    tracer.run_to_mark(0);
    assert_eq!(tracer.said().0, READY);
    let all = std::env::var("THROWTO_STEPS").is_ok_and(|steps| steps == "all");
    for scene in scenes {
        walk(&mut tracer, *scene, all);
    }
    tracer.finish();
}

fn scenes(guarded: &[Guarded], leads: &[Lead], nudges: &[bool]) -> Vec<Scene> {
    let mut scenes = Vec::new();
    for &guarded in guarded {
        for &lead in leads {
            for &nudge in nudges {
                scenes.push(Scene { guarded, lead, nudge });
            }
        }
    }
    scenes
}

#[test]
fn a_raise_at_any_instruction_of_a_read_breaks_it_or_leaves_its_result() {
    walk_all(
        "a_raise_at_any_instruction_of_a_read_breaks_it_or_leaves_its_result",
        &scenes(
            &[Guarded::ReadEmpty, Guarded::ReadReady, Guarded::MaskedRead],
            &[Lead::Nothing],
            &[false, true],
        ),
    );
}

#[test]
fn a_raise_at_any_instruction_of_an_accept_or_a_sleep_does_too() {
    walk_all(
        "a_raise_at_any_instruction_of_an_accept_or_a_sleep_does_too",
        &scenes(
            &[Guarded::AcceptEmpty, Guarded::AcceptReady, Guarded::Sleep],
            &[Lead::Nothing],
            &[false],
        ),
    );
}

#[test]
fn a_raise_at_any_instruction_of_anothers_handler_on_top_of_a_read_is_met_after_it() {
    walk_all(
        "a_raise_at_any_instruction_of_anothers_handler_on_top_of_a_read_is_met_after_it",
        &scenes(
            &[Guarded::ReadEmpty, Guarded::MaskedRead],
            &[Lead::Stray(libc::SIGWINCH), Lead::Stray(libc::SIGPROF)],
            &[false, true],
        ),
    );
}

#[test]
fn a_raise_at_any_instruction_of_libcs_read_ends_it_or_leaves_its_result() {
    walk_all(
        "a_raise_at_any_instruction_of_libcs_read_ends_it_or_leaves_its_result",
        &scenes(
            &[Guarded::FailEmpty, Guarded::FailReady],
            &[Lead::Nothing],
            &[false, true],
        ),
    );
}

#[test]
fn an_order_to_fail_that_comes_too_late_at_any_instruction_replaces_no_result() {
    let leads = [Lead::Ordered { byte: false }, Lead::Ordered { byte: true }];
    walk_all(
        "an_order_to_fail_that_comes_too_late_at_any_instruction_replaces_no_result",
        &scenes(&[Guarded::FailEmpty], &leads, &[false]),
    );
}
