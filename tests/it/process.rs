//! Waiting for children.

use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use throwto::process::{wait, wait_timeout};
use throwto::{Stop, ThreadId, thread};

use crate::stuck::{
    HANGS, Op, assert_raised, each_is_broken, each_is_broken_under_a_mask, each_raises_at_entry, join,
    wait_until_blocked,
};

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

/// Ends its child, as a user's guard would: the raise must have left something to end and to reap.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        let status = throwto::uninterruptible(|_| wait(&mut self.0)).unwrap();
        assert!(!status.success());
    }
}

fn ops() -> Vec<Op> {
    let (mut a, mut b) = (Reaped(sleeper()), Reaped(sleeper()));
    vec![
        Op::new("waitid", move || wait(&mut a.0)),
        Op::new("ppoll", move || wait_timeout(&mut b.0, HANGS * 10)),
    ]
}

#[test]
fn every_wait_is_broken_by_a_raise_and_the_child_can_still_be_reaped() {
    each_is_broken(ops());
}

#[test]
fn every_wait_raises_at_entry_what_is_pending() {
    each_raises_at_entry(ops());
}

#[test]
fn every_wait_is_broken_under_a_mask() {
    each_is_broken_under_a_mask(ops(), ops());
}

#[test]
fn a_child_is_reaped_exactly_once_and_its_status_kept() {
    let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
    assert_eq!(wait(&mut child).unwrap().code(), Some(7));
    // A second wait for that number by the system would say that there is no such child, or wait for another.
    assert_eq!(wait(&mut child).unwrap().code(), Some(7));
    assert_eq!(
        wait_timeout(&mut child, Duration::ZERO).unwrap().unwrap().code(),
        Some(7)
    );
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    assert_eq!(nix::sys::wait::waitpid(pid, None), Err(nix::Error::ECHILD));
}

/// Shows process I1.
#[test]
fn a_raise_that_races_the_childs_end_never_loses_the_status() {
    for code in 0..crate::stage::rounds(100) as i32 {
        let script = format!("exit {code}");
        let worker = thread::spawn(move || {
            let mut child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
            loop {
                match wait(&mut child) {
                    Ok(status) => return status,
                    Err(error) => drop(assert_raised::<()>(Err(error))),
                }
            }
        });
        let id = worker.id();
        while worker.is_alive() {
            if let Ok(receipt) = throwto::raise_exc(id, Stop) {
                receipt.wait(HANGS);
            }
        }
        assert_eq!(join(worker).code(), Some(code));
    }
}

#[test]
fn a_wait_closes_the_childs_standard_input() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    assert!(wait(&mut child).unwrap().success());
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    assert!(
        wait_timeout(&mut child, Duration::MAX)
            .unwrap()
            .unwrap()
            .success()
    );
}

#[test]
fn a_time_limit_ends_a_wait_and_leaves_the_child() {
    let mut child = Reaped(sleeper());
    assert_eq!(wait_timeout(&mut child.0, Duration::ZERO).unwrap(), None);
    let began = Instant::now();
    assert_eq!(
        wait_timeout(&mut child.0, Duration::from_millis(20)).unwrap(),
        None
    );
    assert!(began.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_masked_wait_returns_the_status_of_an_ended_child() {
    let _attachment = throwto::attach().unwrap();
    let mut child = Command::new("true").spawn().unwrap();
    throwto::raise_exc(ThreadId::current().unwrap(), Stop).unwrap();
    let ended = throwto::uninterruptible(|_| wait(&mut child));
    assert!(ended.unwrap().success());
    assert!(throwto::mask(|_| wait(&mut child)).unwrap().success());
    assert_raised(wait(&mut child));
}

#[test]
fn an_uninterruptible_wait_ends_with_the_child() {
    let child = sleeper();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let worker = thread::spawn(move || -> io::Result<_> {
        let mut child = child;
        throwto::uninterruptible(|_| wait(&mut child))
    });
    wait_until_blocked(worker.id(), "waitid");
    worker.raise(Stop).unwrap();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(!join(worker).unwrap().success());
}
