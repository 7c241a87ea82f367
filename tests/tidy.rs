//! House rules that a program can check: arrows between modules, cfg fences, file headers, sizes, unsafe, names.
//!
//! `tidy/rules.rs` holds the rules, each a pure function from (path, text) to faults; `tidy/bites.rs` shows that
//! each objects to a small bad sample before it is trusted with the tree; `tidy/invariants.rs` has the rule that spans
//! sources and tests, `tidy/floors.rs` the one about the rooms of the face; `tidy/rust_text.rs` knows as much of Rust as they need; `tidy/dependencies.rs` looks at what the package
//! depends on. This file walks the tree. Nothing is exempt: the rules for tests hold of these files too.

#[path = "tidy/bites.rs"]
mod bites;
#[path = "tidy/dependencies.rs"]
mod dependencies;
#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/invariants.rs"]
mod invariants;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/rust_text.rs"]
mod rust_text;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rules::Fault;

/// Every Rust file below the given folders (or the file itself), with its path from the package root.
fn tree(roots: &[&str]) -> Vec<(String, String)> {
    let mut files = Vec::new();
    roots.iter().for_each(|root| gather(root, &mut files));
    files
}

fn gather(path: &str, files: &mut Vec<(String, String)>) {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if full.is_dir() {
        let entries = fs::read_dir(&full).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|n| n != "target" && !n.starts_with('.'));
        names.sort();
        names
            .iter()
            .for_each(|name| gather(&format!("{path}/{name}"), files));
    } else if path.ends_with(".rs") && full.is_file() {
        files.push((
            path.to_owned(),
            fs::read_to_string(&full).unwrap_or_else(|e| panic!("{path}: {e}")),
        ));
    }
}

#[track_caller]
fn hold(rule: impl Fn(&str, &str) -> Vec<Fault>, files: &[(String, String)]) {
    let faults = files.iter().flat_map(|(path, text)| {
        rule(path, text)
            .into_iter()
            .map(move |Fault(line, what)| format!("{path}:{line}: {what}"))
    });
    let faults: Vec<String> = faults.collect();
    assert!(
        faults.is_empty(),
        "{} breach(es):\n{}",
        faults.len(),
        faults.join("\n")
    );
}

fn src() -> Vec<(String, String)> {
    let files = tree(&["src"]);
    assert!(
        !files.is_empty(),
        "no source found: every rule would hold of nothing"
    );
    files
}

fn everything() -> Vec<(String, String)> {
    tree(&["src", "tests", "examples", "benches", "build.rs"])
}

#[test]
fn only_the_platform_names_a_target_and_only_the_shim_names_the_models() {
    hold(rules::cfg_fences, &src());
}

#[test]
fn every_header_states_its_signal_context() {
    hold(rules::header, &src());
}

#[test]
fn no_file_outgrows_its_reader() {
    hold(rules::size, &src());
}

#[test]
fn the_arrows_point_one_way() {
    hold(rules::arrows, &src());
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let rooms = floors::rooms(&fs::read_to_string(page).unwrap());
    let faults = floors::faults(&rooms, &src());
    let told: Vec<String> = faults
        .iter()
        .map(|(path, Fault(line, what))| format!("{path}:{line}: {what}"))
        .collect();
    assert!(told.is_empty(), "{} breach(es):\n{}", told.len(), told.join("\n"));
}

#[test]
fn no_mutable_statics() {
    hold(rules::no_static_mut, &everything());
}

#[test]
fn names_say_what_they_hold() {
    hold(rules::telling_names, &everything());
}

#[test]
fn nothing_is_left_unfinished() {
    hold(rules::finished, &everything());
}

#[test]
fn every_unsafe_block_has_its_argument() {
    hold(rules::safety_comments, &src());
}

#[test]
fn unsafe_is_declared_at_the_top_of_its_file() {
    hold(rules::unsafe_declared, &src());
}

#[test]
fn the_audit_map_is_complete() {
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("SAFETY.md");
    let map = fs::read_to_string(map).unwrap_or_else(|e| panic!("SAFETY.md: {e}"));
    hold(|path, text| rules::unsafe_audited(path, text, &map), &src());
}

#[test]
fn invariant_numbers_are_defined_once() {
    hold(rules::invariants_defined_once, &src());
}

#[test]
fn every_invariant_is_shown_by_a_test_that_names_it() {
    let defined: BTreeMap<_, _> = src()
        .iter()
        .flat_map(|(path, text)| {
            let all = invariants::defined(path, text).into_iter();
            all.map(|(one, line)| (one, (path.clone(), line)))
        })
        .collect();
    let modules: BTreeSet<String> = defined.keys().map(|(module, _)| module.clone()).collect();
    let page = "docs/verification.md";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let mut named: BTreeMap<_, _> = invariants::argued(&text, &modules)
        .into_iter()
        .map(|(one, line)| (one, (page.to_owned(), line)))
        .collect();
    let mut tests = tree(&["src", "tests"]);
    tests.retain(|(path, _)| !path.starts_with("tests/tidy"));
    for (path, text) in tests {
        for (one, line) in invariants::named(&path, &text, &modules) {
            named.insert(one, (path.clone(), line));
        }
    }
    let faults = invariants::faults(&defined, &named);
    let told: Vec<String> = faults
        .iter()
        .map(|(path, Fault(line, what))| format!("{path}:{line}: {what}"))
        .collect();
    assert!(told.is_empty(), "{} breach(es):\n{}", told.len(), told.join("\n"));
}

#[test]
fn examples_fit_on_a_page() {
    hold(rules::short_examples, &tree(&["examples"]));
}
