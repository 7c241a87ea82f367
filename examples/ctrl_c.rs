//! Ctrl-C with cleanup: the thread that works is told, wherever it is stuck, and tidies up. The program presses the key itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use throwto::signal::{self, SIGINT};
use throwto::{ExcType, Interrupted, Raised, ThreadState, thread, threads};

/// A folder that is gone when its user is done with it, or is interrupted.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ctrl_c.{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir_all(&self.0).is_ok();
        println!("removed its folder: {removed}");
    }
}

fn work(scratch: &Path) -> Result<(), Raised> {
    println!("working, with a folder: {}", scratch.is_dir());
    thread::sleep(Duration::from_secs(3600))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = thread::spawn(|| {
        let scratch = Scratch::new().map_err(|error| error.to_string())?;
        work(&scratch.0).map_err(|raised| raised.type_name().to_owned())
    });
    let _ctrl_c = signal::on(SIGINT, &worker, ExcType::of::<Interrupted>())?;

    let asleep = |thread: &throwto::ThreadInfo| thread.state == ThreadState::Waiting;
    while !threads().iter().any(asleep) {
        std::thread::yield_now();
    }
    // As if somebody had pressed Ctrl-C. A second press would raise into the cleanup, a third end the process.
    signal_hook::low_level::raise(SIGINT)?;
    println!("ended by {:?}", worker.join()?);
    Ok(())
}

// Output:
// working, with a folder: true
// removed its folder: true
// ended by Err("throwto::Interrupted")
