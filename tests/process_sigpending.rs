//! `RLIMIT_SIGPENDING` of nothing: the kernel delivers our signal without its details. A process of its own, as the
//! limit is the process's.

#[path = "it/stage.rs"]
mod stage;

use std::sync::atomic::{AtomicUsize, Ordering};

use throwto::{ReceiptState, Stop, attach, foreign, thread};

use stage::*;

static PASSED_ON: AtomicUsize = AtomicUsize::new(0);

extern "C" fn previous(_signal: libc::c_int) {
    PASSED_ON.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_raise_breaks_a_blocked_read_without_any_room_for_details() {
    // SAFETY: installs the handler above.
    unsafe { libc::signal(libc::SIGURG, previous as *const () as usize) };
    let nothing = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads one rlimit.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const nothing) };
    assert_eq!(set, 0);
    let attachment = attach().unwrap();
    let before_raising = PASSED_ON.load(Ordering::SeqCst);

    for _ in 0..20 {
        let (reader, _writer) = std::io::pipe().unwrap();
        let worker = thread::spawn(move || {
            let read = with_fail(foreign::Call::new("read"), true)
                .run(|| breakable_read(&reader))
                .unwrap();
            (read, spin())
        });
        until_blocked(worker.id(), "read(");
        let receipt = worker.raise(Stop).unwrap();
        let (read, raised) = join(worker);
        assert_eq!(read, Err(BROKEN));
        assert!(raised.is::<Stop>());
        drop(raised);
        assert_eq!(receipt.state(), ReceiptState::Caught);
    }

    // Somebody else's queued signal has lost its details as well: it must still reach its handler.
    let passed = PASSED_ON.load(Ordering::SeqCst);
    assert!(passed >= before_raising);
    let value = libc::sigval {
        sival_ptr: std::ptr::null_mut(),
    };
    // SAFETY: no arguments.
    let me = unsafe { libc::pthread_self() };
    // SAFETY: the calling thread, and a signal that has a handler.
    let sent = unsafe { libc::pthread_sigqueue(me, libc::SIGURG, value) };
    assert_eq!(sent, 0);
    assert_eq!(PASSED_ON.load(Ordering::SeqCst), passed + 1);
    assert!(throwto::safepoint().is_ok());
    drop(attachment);
}
