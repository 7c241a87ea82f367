//! What the package depends on, as `cargo metadata` tells: licences and sources of all of it, tests included; and that nobody
//! who uses the library compiles a crate twice. `deny.toml` has the same rules for `cargo deny`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The packages and who needs whom, for the processor that this runs on.
fn metadata() -> Value {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "metadata",
            "--locked",
            "--all-features",
            "--format-version",
            "1",
            "--filter-platform",
            &target,
        ])
        .output()
        .expect("cargo is there: it runs this test");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(list(&metadata["packages"]).len() > 10, "next to no packages");
    metadata
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The strings of `allow = [..]` in deny.toml.
fn allowed(deny: &str) -> BTreeSet<&str> {
    let (_, rest) = deny.split_once("allow = [").expect("deny.toml has a list");
    let (inside, _) = rest.split_once(']').expect("the list ends");
    inside.split('"').skip(1).step_by(2).collect()
}

/// Whether an SPDX expression can be met with the licences of the list. No brackets inside brackets.
fn met(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    if let Some((before, rest)) = expression.split_once('(') {
        let Some((inside, after)) = rest.split_once(')') else {
            return false;
        };
        // What is in brackets is as good as one licence that is allowed, or one that is not.
        let stand_in = if met(inside, allowed) { "MIT" } else { "none" };
        return met(&format!("{before}{stand_in}{after}"), allowed);
    }
    expression
        .replace('/', " OR ")
        .split(" OR ")
        .any(|one| one.split(" AND ").all(|each| allowed.contains(each.trim())))
}

/// Crates that come in more than one version into a build of the library itself: names with versions.
fn doubled(metadata: &Value) -> Vec<String> {
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| (text(node, "id"), node))
        .collect();
    let mut reached = BTreeSet::new();
    let mut ahead = vec![text(&metadata["resolve"], "root")];
    while let Some(id) = ahead.pop() {
        if !reached.insert(id) {
            continue;
        }
        let shipped = |dep: &&Value| {
            list(&dep["dep_kinds"])
                .iter()
                .any(|kind| text(kind, "kind") != "dev")
        };
        ahead.extend(
            list(&nodes[id]["deps"])
                .iter()
                .filter(shipped)
                .map(|dep| text(dep, "pkg")),
        );
    }
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in list(&metadata["packages"])
        .iter()
        .filter(|package| reached.contains(text(package, "id")))
    {
        versions
            .entry(text(package, "name"))
            .or_default()
            .push(text(package, "version"));
    }
    let more = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    more.map(|(name, versions)| format!("{name} {}", versions.join(" and ")))
        .collect()
}

#[test]
fn licences_bite() {
    let allowed = allowed("x = [\"GPL-3.0\"]\nallow = [\n  \"MIT\",\n  \"Zlib\",\n]\nskip = [\"ISC\"]");
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "Unlicense/MIT",
        "(GPL-3.0 OR Zlib) AND MIT",
        "MIT AND Zlib",
    ] {
        assert!(met(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "ISC",
        "MIT AND GPL-3.0",
        "(MIT OR Zlib) AND ISC",
        "MIT-0",
    ] {
        assert!(!met(bad, &allowed), "{bad}");
    }
}

#[test]
fn doubles_bite() {
    let package = |id: &str, name: &str| serde_json::json!({ "id": id, "name": name, "version": id });
    let needs =
        |id: &str, kind: Option<&str>| serde_json::json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
    let tree = |kind| {
        serde_json::json!({
            "packages": [package("r", "root"), package("a", "a"), package("1", "b"), package("2", "b")],
            "resolve": { "root": "r", "nodes": [
                { "id": "r", "deps": [needs("a", None), needs("1", kind)] },
                { "id": "a", "deps": [needs("2", None)] },
                { "id": "1", "deps": [] }, { "id": "2", "deps": [] },
            ] },
        })
    };
    assert_eq!(doubled(&tree(None)), ["b 1 and 2"]);
    assert_eq!(doubled(&tree(Some("build"))), ["b 1 and 2"]);
    assert!(doubled(&tree(Some("dev"))).is_empty());
}

#[test]
fn dependencies_have_the_licences_and_sources_of_the_list_and_come_once() {
    let deny = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let deny = std::fs::read_to_string(deny).expect("deny.toml");
    let (allowed, metadata) = (allowed(&deny), metadata());
    let mut faults: Vec<String> = Vec::new();
    for package in list(&metadata["packages"]) {
        let (name, licence, source) = (
            text(package, "name"),
            text(package, "license"),
            text(package, "source"),
        );
        if !met(licence, &allowed) {
            faults.push(format!(
                "{name}: `{licence}` is not met by the licences in deny.toml"
            ));
        }
        let own = source.is_empty() && text(package, "manifest_path").starts_with(env!("CARGO_MANIFEST_DIR"));
        if !own && source != "registry+https://github.com/rust-lang/crates.io-index" {
            faults.push(format!("{name}: from `{source}`, which is not crates.io"));
        }
    }
    let twice = doubled(&metadata);
    faults.extend(
        twice
            .iter()
            .map(|double| format!("{double}: whoever uses the library compiles both")),
    );
    assert!(
        faults.is_empty(),
        "{} fault(s):\n{}",
        faults.len(),
        faults.join("\n")
    );
}
