//! P12: signals that are not ours. A process of its own, since it installs handlers before the runtime does.

#[cfg(throwto_ladder)]
#[path = "it/child.rs"]
mod child;
#[path = "it/stage.rs"]
mod stage;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use throwto::os::OsTid;
use throwto::{Stop, attach, foreign, thread};

use stage::*;

static SEEN: AtomicUsize = AtomicUsize::new(0);
static LAST_CODE: AtomicI32 = AtomicI32::new(0);
static LAST_VALUE: AtomicU64 = AtomicU64::new(0);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const URG: libc::c_int = libc::SIGURG;
/// What the handler takes for its own; see `src/platform/linux/handler.rs`.
const NUDGE_CODE: libc::c_int = -0x7474;

/// A library's handler that was there first, with everything that SA_SIGINFO gives. It spoils errno.
extern "C" fn previous(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    assert!(signal == URG && !info.is_null() && !context.is_null());
    // SAFETY: the kernel's siginfo, handed on.
    let info = unsafe { &*info };
    LAST_CODE.store(info.si_code, Ordering::SeqCst);
    // SAFETY: queued signals carry a value; for others it is not looked at.
    LAST_VALUE.store(unsafe { info.si_value() }.sival_ptr as u64, Ordering::SeqCst);
    // SAFETY: no arguments.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: this thread's errno.
    unsafe { *errno = libc::EXDEV };
    SEEN.fetch_add(1, Ordering::SeqCst);
}

/// Installs the previous handler once, before the runtime.
fn ready() -> std::sync::MutexGuard<'static, ()> {
    let guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all zero is a sigaction with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = previous as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: installs the handler above.
        let sent = unsafe { libc::sigaction(URG, &raw const action, std::ptr::null_mut()) };
        assert_eq!(sent, 0);
    });
    guard
}

fn own_pid() -> libc::pid_t {
    std::process::id() as libc::pid_t
}

fn kill() {
    // SAFETY: a signal that has a handler.
    assert_eq!(unsafe { libc::kill(own_pid(), URG) }, 0);
}

fn tgkill(tid: OsTid) {
    // SAFETY: as above.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, own_pid(), tid.as_raw(), URG) };
    assert_eq!(sent, 0);
}

fn sigqueue(value: usize) {
    let value = libc::sigval {
        sival_ptr: value as *mut libc::c_void,
    };
    // SAFETY: as above; the value is not a pointer to anybody.
    assert_eq!(unsafe { libc::sigqueue(own_pid(), URG, value) }, 0);
}

#[test]
fn foreign_signals_go_to_the_handler_before_and_raise_nothing() {
    let _ready = ready();
    let attachment = attach().unwrap();
    let before = throwto::stats();
    let seen = SEEN.load(Ordering::SeqCst);
    kill();
    until("kill is passed on", || SEEN.load(Ordering::SeqCst) == seen + 1);
    assert_eq!(LAST_CODE.load(Ordering::SeqCst), libc::SI_USER);
    tgkill(OsTid::current());
    until("tgkill is passed on", || SEEN.load(Ordering::SeqCst) == seen + 2);
    assert_eq!(LAST_CODE.load(Ordering::SeqCst), libc::SI_TKILL);
    sigqueue(0xBEEF);
    until("sigqueue is passed on", || {
        SEEN.load(Ordering::SeqCst) == seen + 3
    });
    assert_eq!(
        (
            LAST_CODE.load(Ordering::SeqCst),
            LAST_VALUE.load(Ordering::SeqCst)
        ),
        (libc::SI_QUEUE, 0xBEEF)
    );
    assert!(!throwto::pending() && throwto::safepoint().is_ok());
    let after = throwto::stats();
    assert_eq!(
        (after.foreign_signals, after.forged_signals),
        (before.foreign_signals + 3, before.forged_signals)
    );
    drop(attachment);
}

#[test]
fn our_own_nudges_are_not_passed_on() {
    let _ready = ready();
    drop(attach().unwrap());
    let seen = SEEN.load(Ordering::SeqCst);
    let (reader, _writer) = std::io::pipe().unwrap();
    let worker = thread::spawn(move || foreign::call(|| raw_read(&reader)).unwrap());
    until_blocked(worker.id(), "read(");
    worker.raise(Stop).unwrap();
    assert_eq!(join(worker), Err(libc::EINTR));
    assert_eq!(SEEN.load(Ordering::SeqCst), seen);
}

/// A queued signal as the kernel takes it: code and sender are the caller's claim.
#[repr(C)]
struct Forged {
    head: [libc::c_int; 4],
    pid: libc::pid_t,
    uid: libc::uid_t,
    value: u64,
    rest: [u64; 12],
}

/// Sends the nudge signal to `tid` of this process's parent or itself, with our code.
fn forge(pid: libc::pid_t, tid: OsTid, claimed_pid: libc::pid_t, value: u64) -> bool {
    let forged = Forged {
        head: [URG, 0, NUDGE_CODE, 0],
        pid: claimed_pid,
        uid: 0,
        value,
        rest: [0; 12],
    };
    // SAFETY: the kernel reads 128 bytes of `forged`.
    unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            pid,
            tid.as_raw(),
            URG,
            &raw const forged,
        ) == 0
    }
}

#[cfg(throwto_ladder)]
#[test]
fn a_forged_code_from_another_process_raises_nothing_and_is_counted() {
    let _ready = ready();
    let worker = thread::spawn(|| throwto::mask(|_| thread::park()).map_err(|raised| raised.is::<Stop>()));
    until_waiting(worker.id());
    let tid = info(worker.id()).unwrap().os_tid;
    let before = throwto::stats().forged_signals;
    let parent = own_pid();
    // SAFETY: the child makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: no arguments.
        let own = unsafe { libc::getpid() };
        let mut sent = true;
        for value in [0, 1, 0x1000, u64::MAX, (&raw const SEEN) as u64] {
            sent &= forge(parent, tid, own, value) && forge(parent, tid, parent, value);
        }
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!sent)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the kernel lets them through");
    // The ten coalesce: SIGURG is not queued twice.
    until("counted", || throwto::stats().forged_signals > before);
    assert!(worker.is_alive());
    worker.unpark();
    assert_eq!(join(worker), Ok(()));
}

#[test]
fn a_forged_nudge_that_names_the_right_record_raises_nothing_either() {
    let _ready = ready();
    let attachment = attach().unwrap();
    for value in 0..64 {
        forge(own_pid(), OsTid::current(), own_pid(), value * 8);
    }
    assert!(!throwto::pending() && throwto::safepoint().is_ok());
    drop(attachment);
}

/// Calls the kernel with a bad descriptor, again and again, and looks at errno after each, while nudged and bombarded.
#[test]
fn errno_is_kept_whatever_arrives() {
    let _ready = ready();
    let over = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU64::new(0));
    let worker = {
        let (over, rounds) = (Arc::clone(&over), Arc::clone(&rounds));
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // An exception raised before entry means that the call was not made.
                let _ = foreign::call(|| {
                    for _ in 0..100 {
                        // SAFETY: no such descriptor, so nothing is closed.
                        assert_eq!(unsafe { libc::close(-1) }, -1);
                        std::hint::spin_loop();
                        assert_eq!(errno(), libc::EBADF);
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                });
                let _ = throwto::safepoint();
            }
        })
    };
    until("it runs", || rounds.load(Ordering::Relaxed) > 0);
    let tid = info(worker.id()).unwrap().os_tid;
    let seen = SEEN.load(Ordering::SeqCst);
    let nudges = throwto::stats().nudges;
    // In turn: of two signals of one number the kernel keeps one, and on one processor it would mostly be the stranger's.
    until("two hundred of each", || {
        fate(&worker.raise(Stop).unwrap());
        let before = SEEN.load(Ordering::SeqCst);
        tgkill(tid);
        until("passed on", || {
            if !cfg!(throwto_ladder) {
                // One that comes while a nudge is awaited is taken for it.
                tgkill(tid);
            }
            SEEN.load(Ordering::SeqCst) > before
        });
        before >= seen + 200 && throwto::stats().nudges >= nudges + 200
    });
    over.store(true, Ordering::Relaxed);
    join(worker);
}

/// The other kind of handler, in a process of its own.
#[test]
fn a_plain_handler_before_us_is_called_too() {
    static PLAIN: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn plain(signal: libc::c_int) {
        PLAIN.fetch_add(usize::from(signal == URG), Ordering::SeqCst);
    }
    in_own_process("a_plain_handler_before_us_is_called_too", || {
        // SAFETY: installs the handler above.
        unsafe { libc::signal(URG, plain as *const () as usize) };
        let _attachment = attach().unwrap();
        tgkill(OsTid::current());
        assert_eq!(PLAIN.load(Ordering::SeqCst), 1);
        assert_eq!(throwto::stats().foreign_signals, 1);
    });
}

/// Nobody's handler before us: the system's own answer to the signal is given. In a process of its own, whose children begin anew.
#[cfg(throwto_ladder)]
#[test]
fn a_foreign_signal_that_was_ignored_or_harmless_stays_so() {
    in_own_process("a_foreign_signal_that_was_ignored_or_harmless_stays_so", || {
        for (signal, before) in [
            (URG, libc::SIG_DFL),
            (libc::SIGWINCH, libc::SIG_DFL),
            (libc::SIGUSR1, libc::SIG_IGN),
        ] {
            child::in_child(|| {
                // SAFETY: no function.
                unsafe { libc::signal(signal, before) };
                throwto::Config::new()
                    .nudge_signal(signal)
                    .apply()
                    .map_err(|error| error.to_string())?;
                let _attachment = attach().map_err(|error| error.to_string())?;
                // SAFETY: that signal has our handler.
                unsafe { libc::raise(signal) };
                child::check("one foreign signal", throwto::stats().foreign_signals == 1)?;
                child::check("nothing was raised", throwto::safepoint().is_ok())
            });
        }
    });
}

/// Where signals carry no value a late nudge looks like a stranger's, and nothing is done.
#[cfg(throwto_ladder)]
#[test]
fn a_foreign_signal_whose_default_is_death_ends_the_process() {
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    in_own_process("a_foreign_signal_whose_default_is_death_ends_the_process", || {
        // SAFETY: the child ends, one way or the other.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let config = throwto::Config::new().nudge_signal(libc::SIGUSR1);
                let ready = config.apply().is_ok() && attach().map(std::mem::forget).is_ok();
                if ready {
                    // SAFETY: that signal has our handler.
                    unsafe { libc::raise(libc::SIGUSR1) };
                }
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(!ready)) };
            }
            ForkResult::Parent { child } => {
                let end = waitpid(child, None).unwrap();
                assert!(
                    matches!(end, WaitStatus::Signaled(_, Signal::SIGUSR1, _)),
                    "{end:?}"
                );
            }
        }
    });
}
