//! Signals of the program as exceptions: Ctrl-C raised in a thread of your choice.
//!
//! Owns: [`on`] and its background thread. Leaves to signal-hook the handler (these signals restart system calls, and
//! need not break any), to `raise` the raising, which no handler may do.
//!
//! **Signal context:** no, the raise is made on a thread of its own.

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::FORBIDDEN;
use signal_hook::iterator::{Handle, Signals};

use crate::exception::ExcType;
use crate::raise::{Target, raise_all};
use crate::runtime;

/// Raises at every arrival of a signal, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Raises `exc` in every thread that matches `target` whenever the process gets `signal` (its number, `SIGINT` is 2).
///
/// While the subscription lives the signal's default action, ending the process, is off; afterwards it stays off, as
/// signal-hook has it. Several arrivals may count as one, and a pending exception of the same type is superseded. The
/// target's blocking calls are broken as by any raise; the signal itself restarts them.
///
/// # Errors
/// `InvalidInput` for what is no signal, cannot be caught or must not be (`SIGKILL`, `SIGSTOP`, `SIGILL`, `SIGFPE`,
/// `SIGSEGV`), and for the nudge signal itself; the system's error for a thread that cannot be started.
///
/// ```
/// use throwto::{ExcType, Interrupted, signal, thread};
/// const SIGINT: i32 = 2;
/// let worker = thread::spawn(|| thread::sleep(std::time::Duration::from_secs(3600)));
/// let _ctrl_c = signal::on(SIGINT, worker.id(), ExcType::of::<Interrupted>())?;
/// // As if somebody had pressed Ctrl-C:
/// signal_hook::low_level::raise(SIGINT)?;
/// assert!(worker.join().unwrap().unwrap_err().is::<Interrupted>());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn on(signal: i32, target: impl Into<Target>, exc: ExcType) -> io::Result<Subscription> {
    let target = target.into();
    let wrong = |why| {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("signal {signal} {why}"),
        ))
    };
    if !(1..=64).contains(&signal) {
        return wrong("does not exist");
    }
    if FORBIDDEN.contains(&signal) {
        return wrong("cannot be caught, or must not be");
    }
    if signal == runtime::signal() {
        return wrong("is throwto's nudge signal; choose another with Config::nudge_signal");
    }
    let mut signals = Signals::new([signal])?;
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name(format!("throwto-signal-{signal}"))
        .spawn(move || {
            for _ in signals.forever() {
                // Nobody there: nothing to do. Each receipt would tell, but nobody asks.
                drop(raise_all(target.clone(), exc));
            }
        })?;
    Ok(Subscription {
        handle,
        thread: Some(thread),
    })
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It only raises, and cannot have panicked but in an exception's destructor.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_cannot_be_had_are_errors() {
        for signal in [9, 0, -1, 9999, i32::MIN, runtime::signal()] {
            let refused = on(signal, "nobody", ExcType::of::<crate::Stop>()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{signal}: {refused}");
        }
    }
}
