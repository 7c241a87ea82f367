//! A C library that reads a pipe and takes a signal for no reason to come back.

use std::io::{self, Write, pipe};
use std::os::fd::AsFd;

use throwto::foreign::Call;
use throwto_fixtures::patient_read;

use crate::case::{Case, Out, StuckIn, Trace, Witness};

pub fn set_up() -> io::Result<Case> {
    let (reader, writer) = pipe()?;
    let stuck = move |witness: &Witness| {
        let (reader, _writer_that_never_writes) = (reader, writer);
        let _guard = witness.guard();
        Call::new("patient_read")
            .fail_syscalls()
            .try_run(|| patient_read(reader.as_fd(), &mut [0]))?;
        Ok(())
    };
    let (reader, mut writer) = pipe()?;
    let next = move || -> Result<i64, Out> {
        let call = Call::new("patient_read").fail_syscalls();
        Ok(call.try_run(|| patient_read(reader.as_fd(), &mut [0; 8]))? as i64)
    };
    let write = move || drop(writer.write_all(b"data"));
    Ok(Case::new(StuckIn::Call("read(fd"), stuck, next, 4)
        .clears(Trace::Descriptor)
        .let_through(write))
}
