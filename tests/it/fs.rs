//! File locks and FIFOs.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use nix::sys::stat::Mode;
use throwto::fs::{lock, lock_shared, open, open_write, try_lock, try_lock_shared};
use throwto::{Stop, ThreadId, raise_exc, thread};

use crate::stuck::{
    Op, assert_raised, each_is_broken, each_is_broken_under_a_mask, each_raises_at_entry, join, wait_for,
};

/// Two open files of one new file, the first of them locked.
fn contended(dir: &Path, name: &str) -> (File, File) {
    let path = dir.join(name);
    let owner = File::create(&path).unwrap();
    owner.lock().unwrap();
    (owner, File::open(path).unwrap())
}

fn fifo(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

/// How many descriptors of this process are open on `path`.
fn open_on(path: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter(|link| std::fs::read_link(link.as_ref().unwrap().path()).is_ok_and(|to| to == path))
        .count()
}

fn ops() -> Vec<Op> {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (contended(dir.path(), "a"), contended(dir.path(), "b"));
    let (c, d) = (fifo(dir.path(), "c"), fifo(dir.path(), "d"));
    vec![
        Op::new("flock", move || {
            drop(lock(&a.1)?);
            Ok(a.0)
        }),
        Op::new("flock", move || {
            drop(lock_shared(&b.1)?);
            Ok(b.0)
        }),
        Op::new("openat", move || {
            let opened = open(&c);
            assert_eq!(open_on(&c), 0);
            opened
        }),
        Op::new("openat", move || {
            let opened = open_write(&d);
            assert_eq!(open_on(&d), 0);
            drop(dir);
            opened
        }),
    ]
}

#[test]
fn every_blocked_operation_is_broken_by_a_raise() {
    each_is_broken(ops());
}

#[test]
fn every_operation_raises_at_entry_what_is_pending() {
    each_raises_at_entry(ops());
}

#[test]
fn every_blocked_operation_is_broken_under_a_mask() {
    each_is_broken_under_a_mask(ops(), ops());
}

#[test]
fn a_raised_lock_is_not_held() {
    let dir = tempfile::tempdir().unwrap();
    let (owner, other) = contended(dir.path(), "file");
    let third = File::open(dir.path().join("file")).unwrap();
    let worker = thread::spawn(move || {
        let raised = lock(&other).map(drop);
        (raised, other)
    });
    wait_for("flock", || {
        throwto::threads()
            .iter()
            .any(|t| t.id == worker.id() && t.where_blocked.starts_with("flock("))
    });
    worker.raise(Stop).unwrap();
    let (raised, other) = join(worker);
    assert_raised(raised);
    owner.unlock().unwrap();
    // `other` is still open, and holds nothing.
    drop(try_lock(&third).unwrap());
    drop(other);
}

/// Locks under fire: a lock is held exactly when a guard says so.
#[test]
fn a_lock_under_fire_is_held_exactly_when_there_is_a_guard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let other = File::create(&path).unwrap();
    let worker = thread::spawn({
        let path = path.clone();
        move || {
            let (mine, probe) = (File::open(&path).unwrap(), File::open(&path).unwrap());
            let (mut locked, mut raised) = (0, 0);
            while locked < 500 || raised < 500 {
                match lock(&mine) {
                    Ok(guard) => {
                        locked += 1;
                        assert!(probe.try_lock().is_err(), "a guard without a lock");
                        drop(guard);
                    }
                    Err(error) => {
                        raised += 1;
                        assert_raised::<()>(Err(error));
                    }
                }
            }
        }
    });
    while worker.is_alive() {
        let _held = other.try_lock();
        if let Ok(receipt) = raise_exc(&worker, Stop) {
            receipt.wait(crate::stuck::HANGS);
        }
        other.unlock().unwrap();
    }
    join(worker);
    drop(try_lock(&other).unwrap());
}

#[test]
fn a_guard_gives_the_lock_back_and_shared_locks_are_shared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let (a, b) = (File::create(&path).unwrap(), File::open(&path).unwrap());
    let shared = (lock_shared(&a).unwrap(), try_lock_shared(&b).unwrap());
    assert!(try_lock(&b).is_err());
    // The failed attempt converts nothing for `a`; both guards go.
    drop(shared);
    let guard = lock(&b).unwrap();
    assert!(try_lock_shared(&a).is_err());
    drop(guard);
    assert!(try_lock_shared(&a).is_ok());
}

#[test]
fn a_fifo_opens_when_the_other_end_comes() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "fifo");
    let reader = thread::spawn({
        let path = path.clone();
        move || {
            let mut text = String::new();
            open(path)?.read_to_string(&mut text).map(|_| text)
        }
    });
    open_write(&path).unwrap().write_all(b"through").unwrap();
    assert_eq!(join(reader).unwrap(), "through");
    let error = open(dir.path().join("absent")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(open("a\0b").unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_masked_lock_of_a_free_file_is_taken() {
    let _attachment = throwto::attach().unwrap();
    let file = tempfile::tempfile().unwrap();
    raise_exc(ThreadId::current().unwrap(), Stop).unwrap();
    throwto::mask(|_| drop(lock(&file).unwrap()));
    assert_raised(lock(&file).map(drop));
}
