//! Starts the program that is built with panic=abort: everything works in Result style, and unwinding ends the process
//! with a message instead of undefined behaviour.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

fn main() {
    let program = env!("CARGO_BIN_EXE_result_style");
    let ran = Command::new(program).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && told.ends_with("all held\n"), "{ran:?}");
    let unwound = Command::new(program).arg("unwind").output().unwrap();
    assert_eq!(unwound.status.signal(), Some(6), "SIGABRT: {unwound:?}");
    let message = String::from_utf8_lossy(&unwound.stderr);
    assert!(message.contains("safepoint_unwind") && message.contains("panic=abort"), "{message}");
    println!("{told}");
}
