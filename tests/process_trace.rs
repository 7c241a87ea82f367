//! The feature `tracing`: every step of a raise is an event, every labelled call a span. A process of its own, since the
//! subscriber is the process's.

#[path = "it/child.rs"]
mod child;
#[path = "it/stage.rs"]
mod stage;

use std::collections::HashMap;
use std::fmt;
use std::io::{PipeWriter, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use throwto::foreign::{Call, CallError};
use throwto::scope::Scope;
use throwto::thread::Builder;
use throwto::{Interrupted, ReceiptState, Stop, ThreadId, ThreadState, TimedOut, mask, raise_exc, thread};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use child::*;
use stage::*;

static HEARD: Mutex<Vec<Heard>> = Mutex::new(Vec::new());
/// What became of spans: a verb, the span's fields, who did it and in what state that thread was.
static SPANS: Mutex<Vec<Step>> = Mutex::new(Vec::new());
/// A lock that the subscriber takes, as one that writes to a file does.
static WRITER: Mutex<()> = Mutex::new(());

#[derive(Clone, Debug)]
struct Step {
    verb: &'static str,
    span: Heard,
    by: Option<ThreadId>,
    state: Option<ThreadState>,
}

#[derive(Clone, Debug, Default)]
struct Heard(HashMap<&'static str, String>);

impl Visit for Heard {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").replace('"', ""));
    }
}

impl Heard {
    fn says(&self, field: &str, value: &str) -> bool {
        self.0.get(field).is_some_and(|said| said == value)
    }
}

/// Of the spans, it wants those of calls that are labelled so.
struct Listener;

static NEXT_SPAN: AtomicU64 = AtomicU64::new(1);
static OPEN: Mutex<Vec<(u64, Heard)>> = Mutex::new(Vec::new());

impl Listener {
    fn step(&self, verb: &'static str, id: &Id) {
        let open = OPEN.lock().unwrap();
        let span = open.iter().find(|(number, _)| *number == id.into_u64());
        let span = span.unwrap().1.clone();
        drop(open);
        let by = ThreadId::current();
        let state = by.and_then(info).map(|t| t.state);
        let explosive = span.says("label", "explosive") && verb == "enter"
            || span.says("label", "explosive at its end") && verb == "exit";
        let own = Call::new("the subscriber's own").run(|| 5);
        assert_eq!(own.ok(), Some(5), "nothing is raised in a subscriber");
        SPANS.lock().unwrap().push(Step {
            verb,
            span,
            by,
            state,
        });
        assert!(!explosive, "a subscriber that panics");
    }
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        assert_eq!(
            (span.metadata().target(), span.metadata().level()),
            ("throwto", &Level::TRACE)
        );
        let mut heard = Heard::default();
        span.record(&mut heard);
        let number = NEXT_SPAN.fetch_add(1, Ordering::SeqCst);
        OPEN.lock().unwrap().push((number, heard));
        Id::from_u64(number)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let _writing = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(event.metadata().target(), "throwto");
        let mut heard = Heard::default();
        event.record(&mut heard);
        let explosive = heard.says("exception", std::any::type_name::<Explosive>());
        HEARD.lock().unwrap().push(heard);
        assert!(!explosive, "a subscriber that panics");
    }

    fn enter(&self, id: &Id) {
        self.step("enter", id);
    }

    fn exit(&self, id: &Id) {
        self.step("exit", id);
    }

    fn try_close(&self, id: Id) -> bool {
        self.step("close", &id);
        true
    }
}

#[derive(Debug, Default)]
struct Explosive;

impl fmt::Display for Explosive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("explosive")
    }
}

impl std::error::Error for Explosive {}

/// Waits for an event with these fields.
#[track_caller]
fn until_heard(fields: &[(&str, &str)]) -> Heard {
    let find = || {
        let heard = HEARD.lock().unwrap();
        let fits = |event: &&Heard| fields.iter().all(|(field, value)| event.says(field, value));
        heard.iter().find(fits).cloned()
    };
    until(&format!("{fields:?}"), || find().is_some());
    find().unwrap()
}

/// One test for all that the process's subscriber hears: it is set once.
/// Shows trace I1, and trace::region I1, I2, I3, I4, I5.
#[test]
fn every_step_of_a_raise_is_an_event_and_every_labelled_call_a_span() {
    in_own_process(
        "every_step_of_a_raise_is_an_event_and_every_labelled_call_a_span",
        || {
            tracing::subscriber::set_global_default(Listener).unwrap();
            every_step_is_an_event();
            what_is_refused_is_an_event();
            a_labelled_call_is_a_span_of_its_thread();
            a_call_of_the_driver_is_no_span();
            a_forked_child_tells_nothing();
            a_full_queue_loses_the_newest_and_says_how_many();
        },
    );
}

fn every_step_is_an_event() {
    let interrupted = throwto::ExcType::of::<Interrupted>().name();
    let (reader, _writer) = std::io::pipe().unwrap();
    let body = move || {
        let read = with_fail(Call::new("slow read"), true);
        // It holds what the subscriber waits for while it is stuck: telling must not keep it from coming free.
        let held = WRITER.lock().unwrap();
        let end = read.try_run(|| breakable_read(&reader));
        drop(held);
        matches!(end, Err(CallError::Raised(_)))
    };
    let worker = Builder::new().name("reader".into()).spawn(body).unwrap();
    until_blocked(worker.id(), "read(");
    let id = worker.id().to_string();
    let receipt = worker.raise(Interrupted).unwrap();
    assert_eq!(fate(&receipt), ReceiptState::Caught);
    assert!(join(worker));
    until_heard(&[("message", "raise"), ("thread", &id), ("exception", interrupted)]);
    until_heard(&[("message", "nudge"), ("thread", &id)]);
    let delivered = until_heard(&[("message", "deliver"), ("thread", &id)]);
    assert!(delivered.0.contains_key("rung"), "{delivered:?}");
    let caught = until_heard(&[("message", "caught"), ("thread", &id), ("exception", interrupted)]);
    let latency = |event: &Heard| event.0["latency_us"].parse::<u64>().unwrap();
    assert!(
        latency(&delivered) <= latency(&caught),
        "{delivered:?} {caught:?}"
    );
    assert!(latency(&caught) < LIMIT.as_micros() as u64);

    // The label of the call that a thread is stuck in, and the rungs that are tried on it.
    let (reader, mut writer) = std::io::pipe().unwrap();
    let body = move || Call::new("deaf read").run(|| stubborn_read(&reader).0);
    let deaf = Builder::new().name("deaf".into()).spawn(body).unwrap();
    until_blocked(deaf.id(), "read(");
    let id = deaf.id().to_string();
    let receipt = deaf.raise(Interrupted).unwrap();
    let raised = until_heard(&[("message", "raise"), ("thread", &id)]);
    assert!(
        raised.says("name", "deaf") && raised.says("label", "deaf read"),
        "{raised:?}"
    );
    until_heard(&[("message", "nudge"), ("thread", &id), ("label", "deaf read")]);
    assert!(receipt.revoke());
    until_heard(&[("message", "ended"), ("thread", &id), ("state", "Revoked")]);
    writer.write_all(b"x").unwrap();
    assert_eq!(join(deaf).unwrap(), Ok(1));

    raise_exc("nobody", Stop).unwrap_err();
    until_heard(&[
        ("message", "refused"),
        ("exception", throwto::ExcType::of::<Stop>().name()),
    ]);

    // What a subscriber does is its own affair.
    let masked = thread::spawn(|| mask(|_| thread::sleep(FOREVER)));
    let receipt = masked.raise(Explosive).unwrap();
    assert_eq!(fate(&receipt), ReceiptState::Caught);
    join(masked).unwrap_err();
    until_heard(&[
        ("message", "raise"),
        ("exception", std::any::type_name::<Explosive>()),
    ]);
    raise_exc("nobody", Interrupted).unwrap_err();
    until_heard(&[("message", "refused"), ("exception", interrupted)]);
}

fn what_is_refused_is_an_event() {
    // A raise into a scope that is over.
    let (scope, handle) = Scope::new();
    scope.run(|| ()).unwrap();
    handle.raise(Numbered::new(&Ledger::new())).unwrap_err();
    let refused = until_heard(&[
        ("message", "refused"),
        ("exception", std::any::type_name::<Numbered>()),
    ]);
    assert!(refused.0["why"].contains("scope"), "{refused:?}");

    // One that comes while it is open, and its end.
    let (scope, handle) = Scope::new();
    let receipt = scope
        .run(|| handle.raise(Other::new(&Ledger::new())).unwrap())
        .unwrap();
    assert_eq!(receipt.state(), ReceiptState::TargetEnded);
    until_heard(&[
        ("message", "ended"),
        ("exception", std::any::type_name::<Other>()),
        ("state", "TargetEnded"),
    ]);

    // A raise that is taken back too late.
    let worker = thread::spawn(|| thread::sleep(FOREVER).is_err());
    let id = worker.id().to_string();
    let receipt = worker.raise(Stop).unwrap();
    assert_eq!(fate(&receipt), ReceiptState::Caught);
    assert!(!receipt.revoke());
    until_heard(&[("message", "refused"), ("thread", &id), ("state", "Caught")]);
    join(worker);

    // A limit that passes.
    let limited =
        thread::spawn(|| throwto::time::timeout(Duration::from_millis(1), || thread::sleep(FOREVER)));
    let id = limited.id().to_string();
    join(limited).unwrap_err();
    let timed_out = throwto::ExcType::of::<TimedOut>().name();
    for message in ["raise", "deliver", "caught"] {
        until_heard(&[("message", message), ("thread", &id), ("exception", timed_out)]);
    }
}

/// The steps of the spans with this label, which are over.
#[track_caller]
fn steps_of(label: &str) -> Vec<&'static str> {
    let steps = SPANS.lock().unwrap();
    let steps: Vec<&Step> = steps
        .iter()
        .filter(|step| step.span.says("label", label))
        .collect();
    for step in &steps {
        let by = step.by.unwrap();
        assert!(step.span.says("thread", &by.to_string()), "{step:?}");
        assert_eq!(
            step.state,
            Some(ThreadState::Running),
            "outside the region: {step:?}"
        );
    }
    steps.iter().map(|step| step.verb).collect()
}

fn a_labelled_call_is_a_span_of_its_thread() {
    const ONE: [&str; 3] = ["enter", "exit", "close"];
    let body = || {
        // In the call the span is entered.
        let inside = Call::new("spanned").run(|| (steps_of("spanned"), info(ThreadId::current().unwrap())));
        let (steps, me) = inside.unwrap();
        assert_eq!((steps, me.unwrap().state), (vec!["enter"], ThreadState::Foreign));
        assert_eq!(steps_of("spanned"), ONE);

        let panics = || Call::new("panics").run(|| panic!("out of a call"));
        std::panic::catch_unwind(panics).map(drop).unwrap_err();
        assert_eq!(steps_of("panics"), ONE);

        raise_exc(ThreadId::current().unwrap(), Stop).unwrap();
        Call::new("raised before").run(|| unreachable!()).unwrap_err();
        assert_eq!(steps_of("raised before"), ONE);

        // SAFETY: no forced rung is allowed.
        let forced = unsafe { Call::new("forced").run_forced(|| 7) };
        // Where no call can be left by force there is none to be in.
        let steps = if forced.is_ok() { &ONE[..] } else { &[] };
        assert!(matches!(forced, Ok(7) | Err(CallError::Unsupported { .. })));
        assert_eq!(steps_of("forced"), steps);

        // What a subscriber does is its own affair: panics, and foreign calls.
        assert_eq!(Call::new("explosive").run(|| 6).ok(), Some(6));
        assert_eq!(steps_of("explosive")[0], "enter");
        assert_eq!(Call::new("explosive at its end").run(|| 6).ok(), Some(6));
        assert_eq!(steps_of("explosive at its end")[..2], ["enter", "exit"]);
        assert!(steps_of("the subscriber's own").is_empty());
        assert_eq!(Call::new("afterwards").run(|| 8).ok(), Some(8));
        assert_eq!(steps_of("afterwards"), ONE);
    };
    join(thread::spawn(body));
    // A thread that is not attached is in no region.
    assert_eq!(Call::new("unattached").run(|| 9).ok(), Some(9));
    assert!(steps_of("unattached").is_empty());
}

/// A hook runs on the driver.
fn a_call_of_the_driver_is_no_span() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let hooked = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&hooked);
    let body = move || {
        let hook = move || {
            let made = Call::new("in a hook").run(|| 5);
            told.store(made.ok() == Some(5), Ordering::SeqCst);
        };
        Call::new("hooked").unblock(hook).run(|| stubborn_read(&reader).0)
    };
    let worker = thread::spawn(body);
    until_blocked(worker.id(), "read(");
    let receipt = worker.raise(Interrupted).unwrap();
    until("the hook has made its call", || hooked.load(Ordering::SeqCst));
    assert!(steps_of("in a hook").is_empty());
    receipt.revoke();
    drop(_writer);
    let _ended = join(worker);
}

fn a_forked_child_tells_nothing() {
    let told = || (HEARD.lock().unwrap().len(), SPANS.lock().unwrap().len());
    // Nobody is left to tell of anything, and nobody holds these locks.
    raise_exc("nobody", Interrupted).unwrap_err();
    in_child(|| {
        let before = told();
        let body = || {
            let me = ThreadId::current().unwrap();
            Call::new("in a child").run(|| ()).is_ok()
                && raise_exc(me, Stop).is_ok()
                && throwto::safepoint().is_err()
                && raise_exc("nobody", Stop).is_err()
        };
        let attached = throwto::attach().map_err(|error| error.to_string())?;
        let done = body();
        drop(attached);
        check("a call and two raises", done)?;
        let mut threads = std::fs::read_dir("/proc/self/task").map_err(|error| error.to_string())?;
        let tells = |thread: std::io::Result<std::fs::DirEntry>| {
            let name = std::fs::read_to_string(thread.unwrap().path().join("comm"));
            name.is_ok_and(|name| name.trim() == "throwto-trace")
        };
        check("nobody was started to tell of it", !threads.any(tells))?;
        check("nothing was told", told() == before)
    });
}

fn a_full_queue_loses_the_newest_and_says_how_many() {
    const MANY: usize = 20_000;
    let heard = || {
        let heard = HEARD.lock().unwrap();
        let count = |says: &dyn Fn(&Heard) -> bool| heard.iter().filter(|event| says(event)).count();
        let exploded = count(&|event| event.says("exception", std::any::type_name::<Numbered>()));
        let lost = heard.iter().filter(|event| event.says("message", "lost"));
        let lost: usize = lost.map(|event| event.0["notes"].parse::<usize>().unwrap()).sum();
        (exploded, lost)
    };
    let (before, lost_before) = heard();
    assert_eq!(lost_before, 0);
    let ledger = Ledger::new();
    let held = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody waits for the subscriber, however many these are.
    for _ in 0..MANY {
        raise_exc("nobody", Numbered::new(&ledger)).unwrap_err();
    }
    drop(held);
    until("all are told, or told to be lost", || {
        // The next note brings the number of those that were lost.
        raise_exc("nobody", Stop).unwrap_err();
        let (told, lost) = heard();
        told - before + lost >= MANY
    });
    let (told, lost) = heard();
    assert!(
        told - before <= 4_096 + 2 && lost >= MANY - 4_096 - 2,
        "{told} told, {lost} lost"
    );
    // And it goes on.
    raise_exc("nobody", Other::new(&ledger)).unwrap_err();
    until_heard(&[
        ("message", "refused"),
        ("exception", std::any::type_name::<Other>()),
    ]);
    ledger.balance();
}

/// A child forked while somebody else sets up the telling must not wait for him: he is not there.
/// Shows trace I2.
#[test]
fn a_fork_while_the_telling_thread_is_started_leaves_a_child_that_works() {
    in_own_process(
        "a_fork_while_the_telling_thread_is_started_leaves_a_child_that_works",
        || {
            tracing::subscriber::set_global_default(Listener).unwrap();
            let (mut outcomes, outcome) = std::io::pipe().unwrap();
            // From here on a fork is seen.
            let _attachment = throwto::attach().unwrap();
            // The forks close in on the moment at which the telling thread is there.
            let mut delay = 0_i64;
            let mut early_and_late = [0, 0];
            for round in 0..rounds(300) {
                // Each has yet to tell its first.
                in_child(|| first_told_amid_a_fork(delay, &outcome));
                let mut late = [0];
                outcomes.read_exact(&mut late).unwrap();
                early_and_late[usize::from(late[0])] += 1;
                let step = 1 + 2_000 / (1 + round as i64);
                delay = if late == [1] { delay - step } else { delay + step }.max(0);
            }
            println!("early and late: {early_and_late:?}, at last after {delay}");
        },
    );
}

fn first_told_amid_a_fork(delay: i64, mut outcome: &PipeWriter) -> Result<(), String> {
    let go = AtomicBool::new(false);
    std::thread::scope(|s| {
        let teller = s.spawn(|| {
            while !go.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            raise_exc("nobody", Stop).is_err()
        });
        go.store(true, Ordering::SeqCst);
        for _ in 0..delay {
            std::hint::spin_loop();
        }
        in_child(|| {
            check("refused", raise_exc("nobody", Stop).is_err())?;
            check("a call", Call::new("in a child").run(|| 5).is_ok())?;
            // A child that was forked before its parent told anything tells by itself.
            let threads = std::fs::read_dir("/proc/self/task").map_err(|e| e.to_string())?;
            let late = threads.count() == 1;
            outcome.write_all(&[u8::from(late)]).map_err(|e| e.to_string())
        });
        check("told", teller.join().unwrap())
    })
}
