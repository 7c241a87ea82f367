//! What a raise leaves open: nothing. In a process of its own, so that its descriptors can be counted.

#![cfg(throwto_ladder)]

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use throwto::io::Interruptible;
use throwto::thread::JoinHandle;
use throwto::{Raised, Stop, raise_exc, thread, threads};

/// Nothing here takes that long unless it hangs.
const HANGS: Duration = Duration::from_secs(180);

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Raises until the thread ends, whatever it is doing; its result.
fn under_fire<T>(worker: JoinHandle<T>) -> T {
    while worker.is_alive() {
        if let Ok(receipt) = raise_exc(&worker, Stop) {
            let state = receipt.wait(HANGS);
            assert!(state.is_final(), "it hangs: {:#?}", threads());
        }
    }
    worker.join().unwrap_or_else(|error| panic!("{error}"))
}

fn is_raised<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| Raised::from_io(error).unwrap().is::<Stop>())
}

/// Shows platform::linux::calls I1.
#[test]
fn no_descriptor_is_left_by_operations_under_fire() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // What the process opens once, such as the driver's, is open from here on.
    assert!(under_fire(thread::spawn({
        let fifo = fifo.clone();
        move || is_raised(throwto::fs::open(fifo))
    })));

    let before = open_descriptors();
    let listener = Interruptible::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.get_ref().local_addr().unwrap();
    let clients = std::thread::spawn(move || {
        for _ in 0..300 {
            drop(TcpStream::connect(addr).unwrap());
        }
    });
    under_fire(thread::spawn(move || {
        let (mut accepted, mut raises) = (0, 0);
        // At the latest when nobody comes any more it is raised into.
        while accepted < 300 || raises == 0 {
            match listener.accept() {
                Ok(_) => accepted += 1,
                error => {
                    assert!(is_raised(error));
                    raises += 1;
                }
            }
        }
    }));
    clients.join().unwrap();

    let (raised, connected) = under_fire(thread::spawn(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (mut raised, mut connected) = (0, 0);
        while raised < 100 || connected < 100 {
            let attempts = [
                throwto::io::connect(addr),
                throwto::io::connect_timeout(&addr, HANGS),
            ];
            for attempt in attempts {
                connected += usize::from(attempt.is_ok());
                raised += usize::from(attempt.is_err() && is_raised(attempt));
            }
            while throwto::uninterruptible(|_| {
                throwto::io::wait_readable(&listener, Some(Duration::ZERO)).unwrap()
            }) {
                drop(listener.accept().unwrap());
            }
        }
        (raised, connected)
    }));
    assert!(raised >= 100 && connected >= 100);

    under_fire(thread::spawn(move || {
        for _ in 0..100 {
            assert!(is_raised(throwto::fs::open(&fifo)));
            assert!(is_raised(throwto::fs::open_write(&fifo)));
        }
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        for _ in 0..100 {
            assert!(is_raised(throwto::process::wait_timeout(&mut child, HANGS * 10)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }));
    assert_eq!(open_descriptors(), before);
}
