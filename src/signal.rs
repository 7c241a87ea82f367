//! Signals of the program as exceptions: Ctrl-C raised in threads of your choice, and a look at all threads on demand.
//!
//! Owns: [`on`], [`on_termination`], [`dump_on`] and the background thread of each. Leaves to signal-hook the handler (these
//! signals restart system calls, and need not break any), to `signal::reach` the raising, which no handler may do, to
//! `signal::presses` the counting, to `signal::second` what a second press does more, to `signal::terminal` the terminal.
//!
//! **Signal context:** no, everything is done on a thread of its own.
//!
//! - I1. Nothing that the third press needs can be kept from it by a thread that is stuck: no lock of std's output is taken on
//!   the subscription's thread, and what may block there has a time limit.

mod presses;
mod reach;
mod second;
mod terminal;

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::FORBIDDEN;
pub use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::{emulate_default_handler, signal_name};

use crate::exception::ExcType;
use crate::platform::nudge;
use crate::runtime;

use presses::{Press, Presses};
pub use reach::Reach;
use second::tell;
use terminal::Terminal;

/// Signals that somebody sends to end the program. Three of them that find no answer do end it.
const ENDING: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// Listens to its signals until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Raises `exc` in every thread that `reach` names whenever the process gets `signal` (its number): in those that
/// match a target, in a [`ThreadGroup`](crate::thread::ThreadGroup), or in a whole tree ([`Reach::tree`]).
///
/// While the subscription lives the signal's default action, ending the process, is off; afterwards it stays off, as
/// signal-hook has it. Several arrivals may count as one, and a pending exception of the same type is superseded. The
/// target's blocking calls are broken as by any raise; the signal itself restarts them.
///
/// With `SIGINT`, `SIGTERM`, `SIGHUP` and `SIGQUIT` a user who presses Ctrl-C again is listened to:
///
/// 1. The first press raises.
/// 2. A second, when a thread has not caught the first, or nobody is left to raise into, raises again: into the cleanup too, if
///    that is what hangs. It tells on standard error where each thread is stuck that has not caught the first, and climbs the
///    ladder for them: one that is blocked in a system call outside of this crate's calls, or in one that allows less, has that
///    call fail ([`Rung::Fail`](crate::Rung::Fail)), unless it holds exceptions back. The code around it takes its error path, and meets
///    the exception at its next safepoint.
/// 3. A third ends the process by the signal's default action, so that the parent process sees which signal it was. Before
///    that a terminal at standard input gets back the settings that it had when the subscription was made.
///
/// Once every target has caught, the next press is a first one: a prompt may be interrupted all day. Presses within 20 ms
/// of the last count as one (a terminal and a supervisor may both send it); each raises.
///
/// # Errors
/// `InvalidInput` for what is no signal, cannot be caught or must not be (`SIGKILL`, `SIGSTOP`, `SIGILL`, `SIGFPE`,
/// `SIGSEGV`), and for the nudge signal itself; the system's error for a thread that cannot be started.
///
/// ```
/// use throwto::{ExcType, Interrupted, signal, thread};
/// let worker = thread::spawn(|| thread::sleep(std::time::Duration::from_secs(3600)));
/// let _ctrl_c = signal::on(signal::SIGINT, worker.id(), ExcType::of::<Interrupted>())?;
/// // As if somebody had pressed Ctrl-C:
/// signal_hook::low_level::raise(signal::SIGINT)?;
/// assert!(worker.join().unwrap().unwrap_err().is::<Interrupted>());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn on(signal: i32, reach: impl Into<Reach>, exc: ExcType) -> io::Result<Subscription> {
    raise_on(&[signal], reach.into(), exc)
}

/// As [`on`], for `SIGINT`, `SIGTERM` and `SIGHUP`, which are counted together.
///
/// A signal that is ignored when this is called stays so: that is how `nohup` keeps a program from `SIGHUP`, and a shell
/// its background jobs from `SIGINT`.
///
/// # Errors
/// As [`on`].
///
/// ```
/// use throwto::{ExcType, Stop, signal, thread};
/// let servers = thread::ThreadGroup::named("servers");
/// let server = servers.spawn(|| thread::sleep(std::time::Duration::from_secs(3600)));
/// let _asked_to_end = signal::on_termination(&servers, ExcType::of::<Stop>())?;
/// signal_hook::low_level::raise(signal::SIGTERM)?;
/// assert!(server.join().unwrap().unwrap_err().is::<Stop>());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn on_termination(reach: impl Into<Reach>, exc: ExcType) -> io::Result<Subscription> {
    let mut signals = vec![SIGINT, SIGTERM, SIGHUP];
    signals.retain(|&signal| !nudge::is_ignored(signal));
    raise_on(&signals, reach.into(), exc)
}

/// Writes a [`report`](crate::report()) on standard error whenever the process gets `signal`, as the JVM does for [`SIGQUIT`]
/// (its key is Ctrl-\\).
///
/// The threads go on undisturbed, but for the one that the kernel chooses to take the signal: of its blocking calls, those
/// that no system restarts (`poll` and its kin, `nanosleep`) return `EINTR` to foreign code.
///
/// # Errors
/// As [`on`].
///
/// ```
/// const SIGQUIT: i32 = 3;
/// let _dump = throwto::signal::dump_on(SIGQUIT)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn dump_on(signal: i32) -> io::Result<Subscription> {
    listen(&[signal], move |_| {
        tell(format!("throwto: {}\n{}", name_of(signal), crate::report()));
        Ok(())
    })
}

fn raise_on(signals: &[i32], reach: Reach, exc: ExcType) -> io::Result<Subscription> {
    let terminal = Terminal::now();
    let mut presses = Presses::new();
    listen(signals, move |signal| {
        let there = reach.resolve();
        let ends = ENDING.contains(&signal);
        let stuck = presses.unanswered(&there);
        let press = if ends { presses.count(&there) } else { Press::First };
        if press == Press::Third {
            terminal.restore();
            return emulate_default_handler(signal);
        }
        let receipts = reach.raise(exc);
        if ends {
            presses.remember(receipts);
        }
        if press == Press::Second {
            // On a thread of its own (I1).
            second::answer(signal, stuck);
        }
        Ok(())
    })
}

/// Calls `heard` on a thread of its own at every arrival, until it fails.
fn listen(
    signals: &[i32],
    mut heard: impl FnMut(i32) -> io::Result<()> + Send + 'static,
) -> io::Result<Subscription> {
    for &signal in signals {
        check(signal)?;
    }
    let mut arrivals = Signals::new(signals)?;
    let handle = arrivals.handle();
    let name = match signals {
        [one] => format!("throwto-signal-{one}"),
        _ => "throwto-signals".to_owned(),
    };
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        for signal in arrivals.forever() {
            if heard(signal).is_err() {
                break;
            }
        }
    })?;
    Ok(Subscription {
        handle,
        thread: Some(thread),
    })
}

fn check(signal: i32) -> io::Result<()> {
    let why = if !(1..=64).contains(&signal) {
        "does not exist"
    } else if FORBIDDEN.contains(&signal) {
        "cannot be caught, or must not be"
    } else if signal == runtime::signal() {
        "is throwto's nudge signal; choose another with Config::nudge_signal"
    } else {
        return Ok(());
    };
    let told = format!("signal {signal} {why}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, told))
}

fn name_of(signal: i32) -> String {
    signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
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
            let refused = dump_on(signal).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{signal}: {refused}");
        }
    }
}
