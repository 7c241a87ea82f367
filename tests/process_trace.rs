//! The feature `tracing`: every step of a raise is an event. A process of its own, since the subscriber is the process's.

#[path = "it/stage.rs"]
mod stage;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use throwto::foreign::{Call, CallError};
use throwto::thread::Builder;
use throwto::{Interrupted, ReceiptState, Stop, mask, raise_exc, thread};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use stage::*;

static HEARD: Mutex<Vec<Heard>> = Mutex::new(Vec::new());
/// A lock that the subscriber takes, as one that writes to a file does.
static WRITER: Mutex<()> = Mutex::new(());

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

struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
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

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
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

/// One test: the subscriber is set once.
#[test]
fn every_step_of_a_raise_is_an_event() {
    tracing::subscriber::set_global_default(Listener).unwrap();
    let interrupted = std::any::type_name::<Interrupted>();

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
    std::io::Write::write_all(&mut writer, b"x").unwrap();
    assert_eq!(join(deaf).unwrap(), Ok(1));

    raise_exc("nobody", Stop).unwrap_err();
    until_heard(&[
        ("message", "refused"),
        ("exception", std::any::type_name::<Stop>()),
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
