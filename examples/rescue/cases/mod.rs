//! The cases, one file each or one for a pair.

mod accept;
mod allocator;
mod c_library;
mod child;
mod compress;
mod cpu_loop;
mod destructors;
mod flock;
mod lookup;
mod nap;
mod ours;
mod pattern;
mod sqlite;

use std::io;

use crate::case::Case;

pub use flock::hold_lock;

/// A case by name. `set_up` makes what it is stuck at, fresh for each round.
pub struct Kind {
    pub name: &'static str,
    pub about: &'static str,
    pub set_up: fn() -> io::Result<Case>,
}

macro_rules! kinds {
    ($($name:literal $about:literal $set_up:path;)*) => {
        &[$(Kind { name: $name, about: $about, set_up: $set_up }),*]
    };
}

pub const ALL: &[Kind] = kinds! {
    "cpu-loop" "a Rust loop with safepoints" cpu_loop::set_up;
    "sleep" "throwto::thread::sleep for an hour" nap::set_up;
    "accept" "std's TcpListener::accept, unmodified" accept::set_up;
    "child" "std's Child::wait on `sleep 1000`, unmodified" child::set_up;
    "getaddrinfo" "std's ToSocketAddrs against a name server that never answers" lookup::set_up;
    "sqlite-hook" "an endless query, ended by sqlite3_interrupt as the unblock hook" sqlite::set_up_hook;
    "sqlite-progress" "an endless query, ended by a progress handler that polls pending()" sqlite::set_up_progress;
    "c-library" "C code that reads a pipe and retries EINTR for ever" c_library::set_up;
    "flock" "std's File::lock on a file that another process has locked" flock::set_up;
    "lock" "throwto::sync::Mutex, held by another thread" ours::set_up_lock;
    "recv" "a receive from an empty throwto::sync::channel" ours::set_up_recv;
    "pcre2" "a PCRE2 pattern that backtracks for ever, left by force" pattern::set_up;
    "zlib" "zlib compressing without end, left by force" compress::set_up;
    "malloc" "C code that allocates and frees all day, left by force between two calls" allocator::set_up;
    "c++" "a C++ library that reads a pipe for ever, unwound: its destructors run" destructors::set_up;
};
