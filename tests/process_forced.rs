//! Forced rungs where something is the whole process's: a handler of its own, a library that is being loaded.
#![cfg(throwto_forced)]

#[path = "it/forced.rs"]
mod forced;
#[path = "it/stage.rs"]
mod stage;

use std::io::{Write, pipe};
use std::os::fd::AsRawFd;

use throwto_fixtures::stuck::{CONSTRUCTOR_FD, LET_GO, Stage};

use forced::*;

/// On the thread's alternate stack, with the kernel's frame and the C library's between it and the region.
#[test]
fn a_thread_in_a_signal_handler_is_refused() {
    let visitor = Visitor::start(
        abandoned("in a handler"),
        "in a handler",
        place("spin_in_handler"),
        Stage::new(),
    );
    visitor.until_spinning();
    visitor.raise();
    let refused = visitor.until_refused_for(|refused| refused.times >= 5);
    assert!(!refused.to_string().is_empty());
    visitor.until_spinning();
    visitor.stage.let_go();
    assert_eq!(visitor.leave().unwrap(), LET_GO);
}

/// The loader holds its lock: whoever opened a library after it was left there would wait for ever.
#[test]
fn a_library_that_is_being_loaded_is_refused() {
    let (reader, mut writer) = pipe().unwrap();
    // SAFETY: a number that nobody else here uses.
    let copy = unsafe { libc::dup2(reader.as_raw_fd(), CONSTRUCTOR_FD) };
    assert_eq!(copy, CONSTRUCTOR_FD);
    let visitor = Visitor::start(
        unwound("being loaded"),
        "being loaded",
        place("load"),
        Stage::new().with_constructor(),
    );
    visitor.until_blocked("read(");
    visitor.raise();
    let refused = visitor.until_refused_for(|refused| refused.times >= 5);
    assert!(
        ["ld-linux", "libc.so.6", "ld.so"]
            .iter()
            .any(|at| refused.place().contains(at)),
        "{refused}"
    );
    writer.write_all(b"x").unwrap();
    assert_eq!(visitor.leave().unwrap(), LET_GO);
}
