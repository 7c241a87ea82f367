//! A C++ library that reads a pipe, and takes no error for a reason to come back: not EINTR, and not ECANCELED either.

use std::io::{self, Write, pipe};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;
use std::time::Duration;

use throwto::foreign::{Call, CallError};
use throwto_fixtures::stuck::{NO_CPP, Place, Stage, linked};

use crate::case::{Case, Out, StuckIn, Trace, Witness};

/// The destructors in the order in which they run.
const ALL_CLEANED: i64 = 4231;

pub fn set_up() -> io::Result<Case> {
    let read = linked::cpp_read().ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, NO_CPP))?;
    let (reader, writer) = pipe()?;
    // The library owns the descriptor from here on.
    let stage = Arc::new(Stage::new().at(&reader.into_raw_fd().as_raw_fd()));
    let cleaned = Arc::clone(&stage);
    let stuck = move |witness: &Witness| {
        let _writer_that_never_writes = writer;
        let _guard = witness.guard();
        call(read, &stage)?;
        Ok(())
    };
    let (reader, mut writer) = pipe()?;
    let next_stage = Stage::new().at(&reader.into_raw_fd().as_raw_fd());
    let next = move || -> Result<i64, Out> {
        let read = call(read, &next_stage)?;
        Ok(if next_stage.cleaned() == ALL_CLEANED {
            read
        } else {
            -1
        })
    };
    let write = move || drop(writer.write_all(b"x"));
    let have_run = Trace::Fact(
        "4 destructors run",
        Box::new(move || cleaned.cleaned() == ALL_CLEANED),
    );
    Ok(Case::new(StuckIn::Call("read(fd"), stuck, next, 1)
        .clears(Trace::Descriptor)
        .clears(have_run)
        .let_through(write))
}

fn call(read: Place, stage: &Stage) -> Result<i64, CallError> {
    let call = Call::new("C++")
        .fail_syscalls()
        .unwind_after(Duration::from_millis(5));
    // SAFETY: the stage outlives the call.
    let read = || unsafe { read(stage) };
    // SAFETY: C++ frames with destructors, made to be unwound; the closure owns nothing.
    unsafe { call.run_forced(read) }
}
