//! The nudge signal taken by somebody else, or blocked. A process of its own, since it installs handlers.

#[path = "it/stage.rs"]
mod stage;

use nix::sys::signal::{SigSet, Signal};
use throwto::{AttachError, Stop, attach, foreign, thread};

use stage::*;

extern "C" fn deaf(_signal: libc::c_int) {}

fn blocked(signals: SigSet) -> impl FnOnce() -> Option<AttachError> + Send + 'static {
    move || {
        signals.thread_block().unwrap();
        attach().err()
    }
}

fn in_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(f).join().unwrap()
}

/// One test, in this order: a handler that was replaced stays so.
#[test]
fn a_signal_that_cannot_reach_its_thread_is_an_error_at_attach() {
    drop(attach().unwrap());

    let signal = libc::SIGURG;
    assert_eq!(
        in_thread(blocked(Signal::SIGURG.into())),
        Some(AttachError::SignalBlocked { signal })
    );
    assert_eq!(
        in_thread(blocked(SigSet::all())),
        Some(AttachError::SignalBlocked { signal })
    );
    assert_eq!(in_thread(blocked(Signal::SIGUSR1.into())), None);
    assert!(throwto::threads().is_empty(), "who was refused is not attached");

    // A thread that blocks all signals may still start one that can be raised into.
    let (reader, _writer) = std::io::pipe().unwrap();
    let worker = in_thread(move || {
        SigSet::all().thread_block().unwrap();
        thread::spawn(move || foreign::call(|| raw_read(&reader)).unwrap())
    });
    until_blocked(worker.id(), "read(");
    assert!(!info(worker.id()).unwrap().nudge_blocked);
    worker.raise(Stop).unwrap();
    assert_eq!(join(worker), Err(libc::EINTR));

    let ours = attach().unwrap();
    // SAFETY: installs a handler that does nothing and passes nothing on.
    let before = unsafe { libc::signal(signal, deaf as *const () as usize) };
    assert_eq!(
        in_thread(|| attach().err()),
        Some(AttachError::HandlerReplaced { signal })
    );
    assert!(attach().is_ok(), "who is attached already nests");
    // What needs no signal goes on.
    let asleep = thread::spawn(|| thread::sleep(FOREVER));
    until_waiting(asleep.id());
    asleep.raise(Stop).unwrap();
    assert!(join(asleep).is_err());
    // SAFETY: puts ours back; it was installed with flags that `signal` forgets, so only delivery is looked at.
    unsafe { libc::signal(signal, before) };
    drop(ours);
}
