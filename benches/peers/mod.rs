//! What other runtimes take, by small scripts beside this file. Each prints lines of `what TAB p50 TAB p99`, microseconds.
//!
//! They are not references: each has its own clock, scheduler and way to block. A runtime that is not installed is said so.

use std::path::{Path, PathBuf};
use std::process::Command;

/// peer, what, p50, p99.
type Row = [String; 4];

pub fn run() -> Vec<Row> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let built = std::env::temp_dir().join(format!("throwto-peers-{}", std::process::id()));
    std::fs::create_dir_all(&built).expect("a folder for temporary files");
    let ghc = built.join("ghc");
    let mut compile = Command::new("ghc");
    compile
        .args(["-v0", "-O1", "-threaded", "-outputdir"])
        .arg(&built)
        .arg("-o")
        .arg(&ghc)
        .arg(scripts.join("raise.hs"));
    let mut rows = vec![["peer", "what", "p50 us", "p99 us"].map(str::to_owned)];
    rows.extend(ask("CPython", run_by("python3", &scripts.join("raise.py"))));
    rows.extend(ask("Ruby", run_by("ruby", &scripts.join("raise.rb"))));
    rows.extend(ask("Java", run_by("java", &scripts.join("Raise.java"))));
    rows.extend(match compile.status() {
        Ok(status) if status.success() => ask("GHC", Command::new(&ghc)),
        Ok(status) => vec![says("GHC", &format!("does not compile the script ({status})"))],
        Err(_) => vec![says("GHC", "not installed")],
    });
    drop(std::fs::remove_dir_all(built));
    rows
}

fn run_by(program: &str, script: &PathBuf) -> Command {
    let mut command = Command::new(program);
    command.arg(script);
    command
}

fn says(peer: &str, what: &str) -> Row {
    [peer, what, "-", "-"].map(str::to_owned)
}

fn ask(peer: &str, mut command: Command) -> Vec<Row> {
    eprintln!("\n== {peer}");
    let Ok(output) = command.output() else {
        return vec![says(peer, "not installed")];
    };
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return vec![says(peer, &format!("failed ({})", output.status))];
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.split('\t').map(str::to_owned);
        Some([peer.to_owned(), cells.next()?, cells.next()?, cells.next()?])
    });
    rows.collect()
}
