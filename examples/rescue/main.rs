//! Threads that are really stuck, set free by an exception, and put back to work.
//!
//! `cargo run --example rescue`, with `-- --help` for more. Each case is a thread with a queue of jobs. Its
//! first job gets stuck; the supervisor, this program's main thread, waits until the system shows that it is, raises
//! into it, checks that the job has cleared away what it had, and gives the same thread its next job.
//!
//! `cases/` holds the ways to be stuck, `linked` finds a C library inside this program, `supervise` is the story above,
//! `report` what is printed of it.

mod arguments;
mod case;
mod cases;
mod linked;
mod report;
mod supervise;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;

use arguments::{Asked, HELP, Rescue};
use cases::{ALL, Kind};
use report::Story;

fn main() -> ExitCode {
    let known: Vec<&str> = ALL.iter().map(|kind| kind.name).collect();
    let given = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let done = match arguments::parse(given, &known) {
        Ok(Asked::Help) => print(HELP),
        Ok(Asked::List) => print(
            &ALL.iter()
                .map(|kind| format!("{:16} {}\n", kind.name, kind.about))
                .collect::<String>(),
        ),
        Ok(Asked::HoldLock(path)) => cases::hold_lock(&path),
        Ok(Asked::Rescue(asked)) => {
            let stories = rescue(&asked);
            let failed = stories.iter().any(|story| story.failures() > 0);
            let text = if asked.json { report::json } else { report::table }(&stories, asked.repeat);
            match print(&text) {
                Ok(()) if failed => return ExitCode::FAILURE,
                done => done,
            }
        }
        Err(complaint) => {
            eprintln!("rescue: {complaint}\nrescue: --help tells what there is");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rescue: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the cases that are asked for, as often as asked for.
fn rescue(asked: &Rescue) -> Vec<Story> {
    let wanted = |kind: &&Kind| asked.cases.is_empty() || asked.cases.iter().any(|name| name == kind.name);
    let kinds: Vec<&'static Kind> = ALL.iter().filter(wanted).collect();
    let mut stories: Vec<Story> = kinds
        .iter()
        .map(|kind| Story {
            name: kind.name,
            outcomes: Vec::new(),
        })
        .collect();
    for _ in 0..asked.repeat {
        for (story, outcome) in stories.iter_mut().zip(supervise::rescue(&kinds)) {
            story.outcomes.push(outcome);
        }
    }
    stories
}

/// Unlike `println!` this fails when nobody reads on, and does not panic.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
