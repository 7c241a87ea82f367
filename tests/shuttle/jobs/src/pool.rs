//! The shipped files of `src/pool/`, but for their numbers, under the names that `src/pool.rs` gives them.
//!
//! **Signal context:** no.

#[path = "../../../../src/pool/builder.rs"]
mod builder;
#[path = "../../../../src/pool/cell.rs"]
mod cell;
#[path = "../../../../src/pool/crew.rs"]
mod crew;
#[path = "../../../../src/pool/error.rs"]
mod error;
#[path = "../../../../src/pool/handle.rs"]
mod handle;
#[path = "../../../../src/pool/job.rs"]
mod job;
#[path = "number.rs"]
mod number;
#[path = "../../../../src/pool/own.rs"]
mod own;

pub use builder::Builder;
pub use error::{JobError, PoolError, Stuck, SubmitError};
pub use handle::{JobControl, JobHandle, JobState};
pub use job::Job;
pub use number::JobId;
pub use own::{JobPool, PoolStatus, RunningJob};
