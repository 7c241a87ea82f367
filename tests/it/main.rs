//! What the public names promise, on real threads, in one binary: what is process-global is in `tests/process_*.rs`.

mod fs;
mod io;
mod process;
mod stuck;
mod sync;
