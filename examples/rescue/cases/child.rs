//! `std::process::Child::wait`, which retries EINTR for ever.

use std::io;
use std::process::{Child, Command};

use throwto::foreign::Call;

use crate::case::{Case, Out, StuckIn, Trace, Witness};

/// A child that does not outlive its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself. Reaped it must be in either case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn set_up() -> io::Result<Case> {
    let child = Owned(Command::new("sleep").arg("1000").spawn()?);
    let pid = child.0.id();
    let stuck = move |witness: &Witness| {
        let mut child = child;
        let _guard = witness.guard();
        Call::new("wait").fail_syscalls().try_run(|| child.0.wait())?;
        Ok(())
    };
    let next = || -> Result<i64, Out> {
        let mut child = Owned(Command::new("sh").args(["-c", "exit 7"]).spawn()?);
        let status = Call::new("wait").fail_syscalls().try_run(|| child.0.wait())?;
        Ok(status.code().map_or(-1, i64::from))
    };
    Ok(Case::new(StuckIn::Call("wait"), stuck, next, 7).clears(Trace::Child(pid)))
}
