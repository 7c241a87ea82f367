//! The command line.

/// What `--help` prints.
pub const HELP: &str = "\
Threads that are really stuck, set free by an exception, and put back to work.

Usage: cargo run --example rescue -- [options]

  --case NAME   only this case; may be given several times
  --repeat N    N rounds, and p50, p99 and the longest time per case
  --json        for machines
  --list        the cases
  --help        this text

Exit status: 0 all free, 1 some thread was not freed within 60 s or its cleanup or next job failed, 2 bad arguments.
";

/// What is to be done.
#[derive(Debug)]
pub enum Asked {
    Help,
    List,
    /// Hidden: be the process that holds a file lock, for the case `flock`.
    HoldLock(String),
    Rescue(Rescue),
}

#[derive(Debug)]
pub struct Rescue {
    /// Empty: all.
    pub cases: Vec<String>,
    pub repeat: usize,
    pub json: bool,
}

/// Reads the arguments behind the program's name.
pub fn parse(arguments: impl Iterator<Item = String>, known: &[&str]) -> Result<Asked, String> {
    let mut rescue = Rescue {
        cases: Vec::new(),
        repeat: 1,
        json: false,
    };
    let mut arguments = arguments.flat_map(|argument| match argument.split_once('=') {
        Some((option, value)) if option.starts_with("--") => vec![option.to_owned(), value.to_owned()],
        _ => vec![argument],
    });
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--help" | "-h" => return Ok(Asked::Help),
            "--list" => return Ok(Asked::List),
            "--hold-lock" => return Ok(Asked::HoldLock(value()?)),
            "--json" => rescue.json = true,
            "--case" => {
                let name = value()?;
                if !known.contains(&name.as_str()) {
                    return Err(format!("no case {name:?}; there are: {}", known.join(", ")));
                }
                rescue.cases.push(name);
            }
            "--repeat" => {
                let text = value()?;
                rescue.repeat = match text.parse() {
                    Ok(rounds @ 1..=1_000_000) => rounds,
                    _ => return Err(format!("--repeat takes a number from 1 to 1000000, not {text:?}")),
                };
            }
            _ => return Err(format!("unknown argument {argument:?}")),
        }
    }
    Ok(Asked::Rescue(rescue))
}
