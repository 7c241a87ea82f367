//! The shipped files of `src/tokio/`, but for the list of runtimes, under the names that `src/tokio.rs` gives them.
//!
//! **Signal context:** no.

#[path = "../../../../src/tokio/builder.rs"]
mod builder;
#[path = "../../../../src/tokio/error.rs"]
mod error;
#[path = "../../../../src/tokio/group.rs"]
mod group;
#[path = "../../../../src/tokio/handle.rs"]
mod handle;
#[path = "../../../../src/tokio/live.rs"]
mod live;
#[path = "runtimes.rs"]
pub(crate) mod runtimes;
#[path = "../../../../src/tokio/task.rs"]
mod task;
#[path = "../../../../src/tokio/token.rs"]
mod token;

pub use builder::Builder;
pub use error::JoinError;
pub use group::TaskGroup;
pub use handle::{AbortHandle, JoinHandle};
pub use live::{Survivor, shutdown};
pub use token::{current_token, with_token};
