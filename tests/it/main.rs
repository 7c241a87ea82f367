//! Promises of the public face, each a test by name. One process: what is process-global is in `tests/process_*.rs`.

mod sync;
