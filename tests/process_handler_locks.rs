//! Calls of this crate in a signal handler that runs on top of this crate itself, wherever that is: nothing hangs, nothing is lost.
//!
//! One half steps a thread through what it does, instruction by instruction, and has the handler come at each; the other
//! sends signals as fast as they can be handled. A process of its own for each test: they install handlers and trace themselves.
//!
//! Whatever allocates in a handler relies on the allocator's not being what the handler stands on; the C library's is not made for it.
//! So every thread here has memory of its own while it is stepped or shot at.

#![cfg(throwto_ladder)]
#![allow(unsafe_code)]

#[path = "it/stage.rs"]
mod stage;

#[path = "handler_locks/memory.rs"]
mod memory;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "handler_locks/steps.rs"]
mod steps;
#[path = "handler_locks/storm.rs"]
mod storm;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod trap_flag;
