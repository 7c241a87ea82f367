//! No memory at the Nth allocation: an error, or the end that Rust's own allocation failure is. Never a hang, never silence.
//!
//! Each N in a process of its own, whose allocator counts the allocations of one thread and fails one of them.

#![cfg(throwto_ladder)]
#![allow(unsafe_code)]

#[path = "it/stage.rs"]
mod stage;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use throwto::{AttachError, ReceiptState, Stop, thread};

use stage::*;

const FAILING: &str = "THROWTO_FAILING";

thread_local! {
    /// Allocations until one of this thread's fails; 0 for none.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

struct Failing;

impl Failing {
    fn fails() -> bool {
        let left = LEFT.get();
        LEFT.set(left.saturating_sub(1));
        left == 1
    }
}

// SAFETY: the system's allocator, which now and then has nothing.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if Self::fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static FAILING_ALLOCATOR: Failing = Failing;

/// Runs `body` in a process of its own with the `nth` allocation of its thread failing.
fn with_failing(name: &str, nth: u64, body: fn() -> String) -> Option<Output> {
    if let Ok(asked) = std::env::var(FAILING) {
        if asked == nth.to_string() {
            LEFT.set(nth);
            let end = body();
            let left = LEFT.replace(0);
            println!("{end}, {left} left");
            std::process::exit(0);
        }
        return None;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(FAILING, nth.to_string())
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!(
                "{name}, allocation {nth}: it hangs: {:?}",
                child.wait_with_output()
            );
        }
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    Some(child.wait_with_output().unwrap())
}

/// Runs `body` with the 1st, 2nd, .. allocation failing until there are no more. Returns how each ended.
fn each_allocation(name: &str, body: fn() -> String) -> Vec<String> {
    let mut ends = Vec::new();
    for nth in 1..10_000 {
        let Some(output) = with_failing(name, nth, body) else {
            continue;
        };
        let (told, error) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let end = told.lines().last().unwrap_or_default().to_owned();
        if output.status.success() {
            let all = end.ends_with(" 0 left");
            assert!(all || end.starts_with("worked"), "{nth}: {end}");
            ends.push(end);
            if !all {
                return ends;
            }
        } else {
            // As for any other allocation: a line on standard error, and SIGABRT.
            assert!(
                output.status.signal() == Some(libc::SIGABRT) && error.contains("memory allocation of"),
                "{nth}: {}, {end}\n{error}",
                output.status
            );
            ends.push("aborted".into());
        }
    }
    ends
}

fn summary(ends: &[String]) -> String {
    let aborted = ends.iter().filter(|end| *end == "aborted").count();
    let refused: Vec<_> = ends.iter().filter(|end| end.starts_with("refused")).collect();
    format!(
        "{} allocations, {aborted} aborted, refused: {refused:?}",
        ends.len()
    )
}

#[test]
fn attaching_without_memory_is_an_error_or_an_abort() {
    fn body() -> String {
        match throwto::attach() {
            Ok(attachment) => {
                drop(attachment);
                assert!(throwto::threads().is_empty());
                "worked".into()
            }
            Err(AttachError::OutOfMemory) => "refused".into(),
            Err(other) => panic!("{other}"),
        }
    }
    let ends = each_allocation("attaching_without_memory_is_an_error_or_an_abort", body);
    if !ends.is_empty() {
        println!("{}", summary(&ends));
        assert!(
            ends.iter().any(|end| end.starts_with("refused")),
            "the registry's growth says so: {ends:?}"
        );
    }
}

#[test]
fn raising_without_memory_is_an_abort_and_never_half_a_raise() {
    fn body() -> String {
        let left = LEFT.replace(0);
        let worker = thread::spawn(|| thread::sleep(FOREVER).is_err());
        until_waiting(worker.id());
        LEFT.set(left);
        let receipt = worker.raise(Stop).unwrap();
        let left = LEFT.replace(0);
        assert_eq!(fate(&receipt), ReceiptState::Caught);
        assert!(join(worker));
        LEFT.set(left);
        "worked".into()
    }
    let ends = each_allocation("raising_without_memory_is_an_abort_and_never_half_a_raise", body);
    if !ends.is_empty() {
        println!("{}", summary(&ends));
    }
}

#[test]
fn spawning_a_thread_without_memory_is_an_error_or_an_abort() {
    fn body() -> String {
        match thread::Builder::new().name("worker".into()).spawn(|| 5) {
            Ok(worker) => {
                let left = LEFT.replace(0);
                assert_eq!(join(worker), 5);
                LEFT.set(left);
                "worked".into()
            }
            Err(error) => format!("refused {error}"),
        }
    }
    let ends = each_allocation("spawning_a_thread_without_memory_is_an_error_or_an_abort", body);
    if !ends.is_empty() {
        println!("{}", summary(&ends));
        assert!(ends.iter().any(|end| end.starts_with("refused")));
    }
}
