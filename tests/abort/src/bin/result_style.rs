//! Everything in Result style, in a program that is built with panic=abort. Prints what held, a line each.

#[cfg(not(panic = "abort"))]
compile_error!("this program shows something only when it is built with panic=abort");

use std::io::Read;
use std::time::Duration;

use throwto::foreign::{Call, CallError};
use throwto::{Raised, ReceiptState, Stop, TimedOut, attach, bracket, mask, raise_exc, thread, uninterruptible};

const FOREVER: Duration = Duration::from_secs(3600);

fn main() {
    if std::env::args().nth(1).as_deref() == Some("unwind") {
        let attachment = attach().unwrap();
        raise_exc(attachment.id(), Stop).unwrap();
        throwto::safepoint_unwind();
        unreachable!("safepoint_unwind cannot unwind here");
    }
    held("a running thread", || {
        let worker = thread::spawn(|| loop {
            if let Err(raised) = throwto::safepoint() {
                return raised;
            }
        });
        let receipt = worker.raise(Stop).unwrap();
        let is_stop = worker.join().unwrap().is::<Stop>();
        is_stop && receipt.wait(FOREVER) == ReceiptState::Caught
    });
    held("a sleeping thread", || {
        let worker = thread::spawn(|| thread::sleep(FOREVER));
        worker.raise(Stop).unwrap();
        worker.join().unwrap().is_err()
    });
    held("a stubborn read in a foreign call", || {
        let (mut reader, _writer) = std::io::pipe().unwrap();
        let worker = thread::spawn(move || {
            Call::new("read").fail_syscalls().try_run(|| loop {
                match reader.read(&mut [0]) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    end => return end,
                }
            })
        });
        worker.raise(Stop).unwrap();
        matches!(worker.join().unwrap(), Err(CallError::Raised(raised)) if raised.is::<Stop>())
    });
    held("a hook", || {
        let gate = (std::sync::Mutex::new(false), std::sync::Condvar::new());
        let gate = std::sync::Arc::new(gate);
        let worker = thread::spawn(move || {
            let hook = || {
                *gate.0.lock().unwrap() = true;
                gate.1.notify_all();
            };
            Call::new("library").unblock(hook).try_run(|| {
                drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
                Err::<(), _>("interrupted")
            })
        });
        worker.raise(Stop).unwrap();
        matches!(worker.join().unwrap(), Err(CallError::Raised(_)))
    });
    held("masks, order and receipts", || {
        let attachment = attach().unwrap();
        let me = attachment.id();
        let first = raise_exc(me, Stop).unwrap();
        let second = raise_exc(me, TimedOut).unwrap();
        let third = raise_exc(me, throwto::Cancelled).unwrap();
        mask(|m| {
            assert!(throwto::safepoint().is_ok());
            uninterruptible(|_| thread::sleep(Duration::from_millis(1))).unwrap();
            m.restore(|| assert!(throwto::safepoint().unwrap_err().is::<Stop>()));
        });
        let released = std::cell::Cell::new(0);
        let used: Result<(), Raised> =
            bracket(|| (), |()| throwto::safepoint(), |()| released.set(released.get() + 1));
        assert!(used.unwrap_err().is::<TimedOut>() && released.get() == 1);
        assert!(third.revoke() && throwto::safepoint().is_ok());
        first.state() == ReceiptState::Caught && second.state() == ReceiptState::Caught
    });
    held("catch around code that does not unwind", || throwto::catch(|| 7).is_ok_and(|n| n == 7));
    println!("all held");
}

fn held(what: &str, check: impl FnOnce() -> bool) {
    assert!(check(), "{what}");
    println!("{what}");
}
