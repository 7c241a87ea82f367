//! What the public names promise, on real threads, in one binary.

mod fs;
mod io;
mod process;
mod stuck;
mod sync;
