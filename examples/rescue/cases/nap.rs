//! Our own sleep: woken by its futex, without a signal.

use std::io;
use std::time::Duration;

use throwto::thread::sleep;

use crate::case::{Case, Out, StuckIn, Witness};

pub fn set_up() -> io::Result<Case> {
    let stuck = |witness: &Witness| {
        let _guard = witness.guard();
        sleep(Duration::from_secs(3600))?;
        Ok(())
    };
    let next = || -> Result<i64, Out> {
        sleep(Duration::from_millis(1))?;
        Ok(1)
    };
    Ok(Case::new(StuckIn::Wait, stuck, next, 1))
}
