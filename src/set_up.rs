//! Setting the process up, before its first thread attaches: the signal handler, the fork handlers, the fences.
//!
//! Owns: that it is done once. Leaves to `runtime` what was chosen, to `fork` what a child starts with.
//! [`ready`] makes a few system calls the first time and one load later.
//!
//! **Signal context:** no.

use std::sync::OnceLock;

use crate::error::AttachError;
use crate::platform::{handler, membarrier};
use crate::runtime::Config;
use crate::{current, fork, runtime};

static READY: OnceLock<Result<(), AttachError>> = OnceLock::new();

/// Sets the process up, once.
pub(crate) fn ready() -> Result<&'static Config, AttachError> {
    let config = runtime::config();
    match READY.get_or_init(|| set_up(config)) {
        Ok(_) => Ok(config),
        Err(error) => Err(error.clone()),
    }
}

fn set_up(config: &Config) -> Result<(), AttachError> {
    let signal = config.signal;
    handler::install(signal, current::of_token, current::of_thread).map_err(|failed| {
        AttachError::Signal {
            signal,
            errno: failed.errno,
        }
    })?;
    if !fork::register() {
        return Err(AttachError::OutOfMemory);
    }
    membarrier::register();
    Ok(())
}
