//! All rows of the design's budgets, each beside its reference, in one table, and the plots.
//!
//!     cargo bench --bench budgets [-- [--check] [--write] [--no-peers] [--only ROWS]]
//!
//! `--check` fails if a row is over its budget. `--write` draws the plots into `docs/plots/` and puts the table into
//! `docs/performance.md`. `--only raise,rate` runs those rows. The peers (`benches/peers/`) are run where they are installed.

#![allow(dead_code, reason = "what the rows have for criterion is for their own files")]

#[path = "rows/detached.rs"]
mod detached;
#[path = "rows/forced.rs"]
mod forced;
#[path = "rows/latency.rs"]
mod latency;
#[path = "rows/memory.rs"]
mod memory;
mod peers;
mod plots;
#[path = "rows/raise.rs"]
mod raise;
#[path = "rows/rate.rs"]
mod rate;
#[path = "rows/region.rs"]
mod region;
#[path = "rows/safepoint.rs"]
mod safepoint;
mod table;
#[path = "rows/timeout.rs"]
mod timeout;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use table::{HEADINGS, Table};

/// In the order in which they run: the memory of threads is counted before any other row has filled the registry.
const ROWS: [(&str, fn(&mut Table)); 9] = [
    ("memory", memory::measure),
    ("safepoint", safepoint::measure),
    ("region", region::measure),
    ("timeout", timeout::measure),
    ("latency", latency::measure),
    ("forced", forced::measure),
    ("raise", raise::measure),
    ("rate", rate::measure),
    ("detached", detached::measure),
];

const BEGIN: &str = "<!-- written by `cargo bench --bench budgets -- --write` -->";
const END: &str = "<!-- end -->";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let said = |word: &str| words.iter().any(|each| each == word);
    if !table::measuring() {
        return ExitCode::SUCCESS;
    }
    let only = words
        .iter()
        .skip_while(|word| *word != "--only")
        .nth(1)
        .map(|names| names.split(',').collect::<Vec<_>>());
    if let Some(unknown) = only
        .iter()
        .flatten()
        .find(|name| ROWS.iter().all(|row| row.0 != **name))
    {
        let known = ROWS.map(|row| row.0).join(", ");
        eprintln!("--only {unknown}: there are no such rows; there are {known}");
        return ExitCode::FAILURE;
    }
    let before = table::machine();
    let mut table = Table::default();
    for (name, measure) in ROWS {
        if only.as_ref().is_none_or(|only| only.contains(&name)) {
            eprintln!("\n== {name}");
            measure(&mut table);
        }
    }
    let peers = if said("--no-peers") {
        Vec::new()
    } else {
        peers::run()
    };
    table.print();
    for peer in &peers {
        println!("{}", peer.join(" | "));
    }
    println!("before: {before}\nafter: {}", table::machine());
    if said("--write") {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        plots::draw(&table, &root.join("plots")).expect("docs/plots/ can be written");
        write_page(&root.join("performance.md"), &page(&table, &peers, &before));
    }
    let over: Vec<_> = table.over().map(|row| row.name.as_str()).collect();
    if over.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} row(s) over budget: {}", over.len(), over.join("; "));
    if said("--check") {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn heading<const N: usize>(cells: [&str; N]) -> String {
    line(&cells.map(str::to_owned)) + &line(&cells.map(|_| "---".to_owned()))
}

/// What changes from run to run.
fn page(table: &Table, peers: &[[String; 4]], before: &str) -> String {
    let mut text = format!("At the start: {before}. At the end: {}.\n\n", table::machine());
    text += &heading(HEADINGS);
    for row in &table.rows {
        text += &line(&row.cells());
    }
    text += "\nWithout a reference:\n\n";
    for note in &table.notes {
        text += &format!("- {note}\n");
    }
    if let [head, peers @ ..] = peers {
        text += "\nPeers, each measured by its own clock (`benches/peers/`):\n\n";
        text += &heading(head.each_ref().map(String::as_str));
        for peer in peers {
            text += &line(peer);
        }
    }
    text
}

/// Replaces what is between the marks of the page.
fn write_page(path: &Path, written: &str) {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (head, rest) = text.split_once(BEGIN).expect("the page marks where it begins");
    let (_, tail) = rest.split_once(END).expect("the page marks where it ends");
    fs::write(path, format!("{head}{BEGIN}\n{written}{END}{tail}")).expect("docs/ can be written");
}
