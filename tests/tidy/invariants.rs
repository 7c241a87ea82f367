//! Every invariant of a header is shown by a test that names it, or is owned up to in docs/verification.md.
//!
//! A test names `src/protocol/record.rs`, I3, as `protocol::record I3`, in a comment; several follow with commas. What is
//! argued only is named so in the page's part on it, below [`ARGUED`].

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::{Fault, invariants_of};
use crate::rust_text::{code_only, shipped};

/// The heading in docs/verification.md.
pub const ARGUED: &str = "## Invariants that no test shows";

/// A module and a number: `protocol::record`, `I3`.
pub type Invariant = (String, String);

/// How tests name the module in this file: its path without what it is wrapped in.
pub fn module_of(path: &str) -> String {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner.trim_end_matches("/mod").replace('/', "::")
}

/// The invariants that the header of `path` defines, with their lines.
pub fn defined(path: &str, text: &str) -> Vec<(Invariant, usize)> {
    let module = module_of(path);
    let all = invariants_of(text).into_iter();
    all.map(|(line, number)| ((module.clone(), number), line))
        .collect()
}

/// What the comments of a test file, or of the tests at the end of a source file, name. `modules` are those that have
/// invariants; `line` is the first in which one is named.
pub fn named(path: &str, text: &str, modules: &BTreeSet<String>) -> BTreeMap<Invariant, usize> {
    let all_test = !path.starts_with("src/") || path.ends_with("tests.rs") || path.contains("/tests/");
    let skipped = if all_test {
        0
    } else {
        shipped(&code_only(text)).lines().count()
    };
    let lines = text.lines().enumerate().skip(skipped);
    let comments = lines.filter_map(|(at, line)| Some((at + 1, line.trim_start().strip_prefix("//")?)));
    in_prose(comments, modules)
}

/// What a page names, below a heading and up to the next.
pub fn argued(page: &str, modules: &BTreeSet<String>) -> BTreeMap<Invariant, usize> {
    let lines = page.lines().enumerate().map(|(at, line)| (at + 1, line));
    let below = lines.skip_while(|(_, line)| *line != ARGUED).skip(1);
    in_prose(below.take_while(|(_, line)| !line.starts_with("## ")), modules)
}

fn in_prose<'a>(
    lines: impl Iterator<Item = (usize, &'a str)>,
    modules: &BTreeSet<String>,
) -> BTreeMap<Invariant, usize> {
    let mut named = BTreeMap::new();
    let mut module: Option<&String> = None;
    for (at, line) in lines {
        for word in line.split_whitespace() {
            let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            if bare.is_empty() || bare == "and" {
                continue;
            }
            let number = bare.strip_prefix('I').filter(|n| n.parse::<u32>().is_ok());
            match (number, module) {
                (Some(_), Some(module)) => {
                    named.entry((module.clone(), bare.to_owned())).or_insert(at);
                }
                _ => module = modules.get(bare),
            }
        }
    }
    named
}

/// What is defined and nowhere named, and what is named and nowhere defined.
pub fn faults(
    defined: &BTreeMap<Invariant, (String, usize)>,
    named: &BTreeMap<Invariant, (String, usize)>,
) -> Vec<(String, Fault)> {
    let unshown = defined.iter().filter(|(one, _)| !named.contains_key(*one));
    let unshown = unshown.map(|((module, number), (path, line))| {
        let what =
            format!("no test names `{module} {number}`, and docs/verification.md does not own up to it");
        (path.clone(), Fault(*line, what))
    });
    let stale = named.iter().filter(|(one, _)| !defined.contains_key(*one));
    let stale = stale.map(|((module, number), (path, line))| {
        (
            path.clone(),
            Fault(*line, format!("`{module} {number}` is no invariant")),
        )
    });
    unshown.chain(stale).collect()
}
