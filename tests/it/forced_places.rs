//! The fixtures of the forced rungs by themselves: each is stuck until it is let go, and then returns. So that a place that
//! is left was really stuck, and one that is refused could have gone on.

use std::io::{Write, pipe};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use throwto_fixtures::stuck::{CONSTRUCTOR_FD, HAS_CPP, LET_GO, Library, Lock, Stage};

use crate::stage::until;

/// Enters a place in a thread of its own, waits until it is in it, lets it go, and returns what it returned.
fn played(name: &str, stage: Stage, let_go: impl FnOnce(&Stage)) -> i64 {
    let place = Library::open().unwrap().place(name).unwrap();
    let stage = Arc::new(stage);
    let same = Arc::clone(&stage);
    // SAFETY: nobody forces it out, and the stage lives as long as the call.
    let thread = std::thread::spawn(move || unsafe { place(&raw const *same) });
    let_go(&stage);
    until(name, || thread.is_finished());
    thread.join().unwrap()
}

#[test]
fn what_spins_returns_when_it_is_let_go() {
    let plain = [
        "spin_o0",
        "spin_o2",
        "spin_o3",
        "spin_framed",
        "spin_longjmp",
        "spin_altstack",
        "spin_with_mask",
        "spin_strings",
        "spin_malloc",
        "spin_qsort",
        "spin_coroutine",
        "spin_rounding",
        "spin_x87",
        "spin_backwards",
        "spin_aligned",
    ];
    let plus = ["cpp_spin", "cpp_spin_throwing"];
    for name in plain.iter().chain(if HAS_CPP { &plus[..] } else { &[] }) {
        let returned = played(name, Stage::new(), |stage| {
            until(name, || stage.rounds() > 10);
            stage.let_go();
        });
        assert_eq!(returned, LET_GO, "{name}");
    }
    let lock = Lock::new();
    let returned = played("spin_with_lock", Stage::new().with_lock(lock), |stage| {
        until("locked", || stage.rounds() > 10 && !lock.try_lock());
        stage.let_go();
    });
    assert!(returned == LET_GO && lock.try_lock());
}

#[test]
fn what_reads_returns_when_something_comes() {
    let plain = ["read_for_ever", "poll_for_ever", "read_with_cleanup", "fgets"];
    let plus = [
        "cpp_rethrow",
        "cpp_swallow",
        "cpp_catch_known",
        "cpp_noexcept",
        "cpp_read",
    ];
    for name in plain.iter().chain(if HAS_CPP { &plus[..] } else { &[] }) {
        let (reader, mut writer) = pipe().unwrap();
        let stage = Stage::new().at(&reader);
        if *name == "cpp_read" {
            // It closes what it reads.
            std::mem::forget(reader);
        }
        let returned = played(name, stage, |_| writer.write_all(b"\n").unwrap());
        assert_eq!(returned, 1, "{name}");
    }
}

#[test]
fn what_waits_for_a_lock_or_twice_returns_too() {
    let lock = Lock::new();
    assert!(lock.try_lock());
    assert_eq!(
        played("lock", Stage::new().with_lock(lock), |_| lock.unlock()),
        LET_GO
    );
    assert!(lock.try_lock());
    if HAS_CPP {
        let ((reader, mut writer), (second, mut later)) = (pipe().unwrap(), pipe().unwrap());
        let stage = Stage::new().at(&reader).then_at(&second);
        let returned = played("cpp_waits", stage, |stage| {
            writer.write_all(b"x").unwrap();
            until("the destructor waits", || stage.cleaned() == 1);
            later.write_all(b"x").unwrap();
        });
        assert_eq!(returned, 1);
    }
}

#[test]
fn a_library_whose_constructor_waits_is_loaded_when_something_comes() {
    let (reader, mut writer) = pipe().unwrap();
    // SAFETY: a number that nobody else here uses.
    let copy = unsafe { libc::dup2(reader.as_raw_fd(), CONSTRUCTOR_FD) };
    assert_eq!(copy, CONSTRUCTOR_FD);
    let returned = played("load", Stage::new().with_constructor(), |_| {
        writer.write_all(b"x").unwrap();
    });
    assert_eq!(returned, LET_GO);
}
