//! The half that storms: threads that raise, take, set limits and attach as fast as they can, and signals as fast as they are handled, each
//! with a handler that sets a limit of its own and waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use throwto::time::timeout;
use throwto::{Interrupted, Raise, Receipt, ReceiptState, ThreadId, attach, raise_exc, safepoint, thread};

use super::stage::*;

const SOON: Duration = Duration::from_micros(200);

static PASSED: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static RAISED: Mutex<Vec<Receipt>> = Mutex::new(Vec::new());

extern "C" fn limited(_signal: i32) {
    let outcome = timeout(SOON, || thread::sleep(FOREVER));
    // Or what its thread has pending, or a limit that it is in.
    if outcome.is_err() || outcome.is_ok_and(|slept| slept.is_err()) {
        PASSED.fetch_add(1, Ordering::SeqCst);
    } else {
        WRONG.fetch_add(1, Ordering::SeqCst);
    }
    if let Some(me) = ThreadId::current()
        && let Ok(receipt) = Raise::new(Interrupted).queue().to(me)
    {
        // Its own thread never holds it: signals are blocked while this runs, and nobody else's handler waits under it.
        RAISED.lock().unwrap().push(receipt);
    }
}

fn install() {
    // SAFETY: all zero is an action with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = limited as *const () as usize;
    // SAFETY: the handler has the signature that is wanted without SA_SIGINFO.
    let installed = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
}

/// Works until `over`, under signals. Returns the receipts of all it has raised.
fn work(me: ThreadId, peer: &Mutex<Option<ThreadId>>, over: &AtomicBool) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    let mut limit = Duration::from_secs(100_000);
    while !over.load(Ordering::Relaxed) {
        receipts.retain(|receipt: &Receipt| !receipt.state().is_final());
        receipts.push(Raise::new(Interrupted).queue().to(me).unwrap());
        receipts.extend(raise_exc(me, Interrupted));
        let peer = *peer.lock().unwrap();
        receipts.extend(peer.and_then(|peer| raise_exc(peer, Interrupted).ok()));
        limit -= Duration::from_millis(1);
        let _ = timeout(limit, || {
            let _attachment = attach().unwrap();
            safepoint()
        });
        let _ = timeout(Duration::ZERO, safepoint);
        while safepoint().is_err() {}
    }
    receipts
}

#[test]
fn limits_set_in_handlers_pass_in_a_storm_of_signals() {
    in_own_process("storm::limits_set_in_handlers_pass_in_a_storm_of_signals", || {
        install();
        let over = Arc::new(AtomicBool::new(false));
        let places: Arc<[Mutex<Option<ThreadId>>; 2]> = Arc::default();
        let workers: Vec<_> = (0..2)
            .map(|n| {
                let (over, places) = (Arc::clone(&over), Arc::clone(&places));
                thread::spawn(move || {
                    let me = ThreadId::current().unwrap();
                    *places[n].lock().unwrap() = Some(me);
                    let receipts = work(me, &places[1 - n], &over);
                    *places[n].lock().unwrap() = None;
                    while safepoint().is_err() {}
                    receipts
                })
            })
            .collect();
        let tids: Vec<_> = workers
            .iter()
            .map(|worker| {
                until("it runs", || {
                    info(worker.id()).is_some_and(|t| t.os_tid.as_raw() != 0)
                });
                info(worker.id()).unwrap().os_tid.as_raw()
            })
            .collect();
        let end = Instant::now() + Duration::from_secs(8);
        let mut last = (PASSED.load(Ordering::SeqCst), Instant::now());
        while Instant::now() < end {
            for tid in &tids {
                // SAFETY: numbers only; the threads live.
                let sent =
                    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), *tid, libc::SIGUSR1) };
                assert_eq!(sent, 0);
            }
            std::thread::sleep(Duration::from_micros(300));
            let now = PASSED.load(Ordering::SeqCst);
            if now != last.0 {
                last = (now, Instant::now());
            }
            assert!(last.1.elapsed() < LIMIT, "no limit passes any more");
        }
        over.store(true, Ordering::SeqCst);
        let mut receipts: Vec<_> = workers.into_iter().flat_map(join).collect();
        receipts.append(&mut RAISED.lock().unwrap());
        assert!(
            receipts.iter().all(|receipt| receipt.state().is_final()),
            "nothing is lost"
        );
        assert!(
            receipts
                .iter()
                .all(|receipt| receipt.state() != ReceiptState::Pending)
        );
        let (passed, wrong) = (PASSED.load(Ordering::SeqCst), WRONG.load(Ordering::SeqCst));
        println!("{passed} limits passed in handlers");
        assert!(passed > 100 && wrong == 0, "{passed} passed, {wrong} did not");
    });
}
