//! std's `File::lock` on a file that another process has locked.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use throwto::foreign::Call;

use crate::case::{Case, Out, StuckIn, Trace, Witness};

pub fn set_up() -> io::Result<Case> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("locked");
    let file = File::create(&path)?;
    let holder = Holder::start(&path)?;
    let stuck = move |witness: &Witness| {
        let file = file;
        let _guard = witness.guard();
        Call::new("flock").fail_syscalls().try_run(|| file.lock())?;
        Ok(())
    };
    let next = move || -> Result<i64, Out> {
        let _removed_at_the_end = folder;
        let mut file = File::options().read(true).write(true).open(&path)?;
        Call::new("flock").fail_syscalls().try_run(|| file.lock())?;
        file.write_all(b"mine")?;
        Ok(file.metadata()?.len() as i64)
    };
    let let_go = move || drop(holder);
    Ok(Case::new(StuckIn::Call("flock(fd"), stuck, next, 4)
        .clears(Trace::Descriptor)
        .let_through(let_go))
}

/// This program once more, as the process that has the lock.
struct Holder(Child);

impl Holder {
    /// Returns when the lock is held.
    fn start(path: &Path) -> io::Result<Self> {
        let mut holder = Command::new(std::env::current_exe()?);
        holder
            .arg("--hold-lock")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut holder = Self(holder.spawn()?);
        let mut ready = String::new();
        holder
            .0
            .stdout
            .take()
            .ok_or(io::ErrorKind::BrokenPipe)?
            .read_to_string(&mut ready)?;
        if ready == READY {
            Ok(holder)
        } else {
            Err(io::Error::other("the process that holds the lock has failed"))
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Its exit status says nothing that the next job will not find out.
        let _ = self.0.wait();
    }
}

const READY: &str = "held";

/// In the other process: holds the lock until standard input ends, which it does at the latest with our parent.
pub fn hold_lock(path: &str) -> io::Result<()> {
    let file = File::open(path)?;
    file.lock()?;
    io::stdout().write_all(READY.as_bytes())?;
    io::stdout().flush()?;
    // The end of the word: the reader waits for it.
    nix::unistd::close(1)?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    drop(file);
    Ok(())
}
