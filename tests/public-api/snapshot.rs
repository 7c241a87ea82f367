//! The public names of throwto, all features, beside those in `api.txt`: whoever changes one sees it in the diff.
//!
//! rustdoc describes the crate as JSON, which stable toolchains hold back (hence RUSTC_BOOTSTRAP) and whose format changes
//! now and then. Where this rustdoc writes a format that `public-api` does not read, nothing is compared, and it is said so.
//! `THROWTO_BLESS=1` writes `api.txt` anew.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What rustdoc knows about throwto.
fn described(root: &Path) -> PathBuf {
    let target = root.join("target/public-api-json");
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTDOCFLAGS")
        .args(["rustdoc", "--lib", "--all-features", "--target-dir"])
        .arg(&target)
        .args(["--", "-Zunstable-options", "--output-format", "json"])
        .status()
        .expect("cargo is there: it runs this test");
    assert!(status.success(), "rustdoc does not describe the crate: {status}");
    target.join("doc/throwto.json")
}

/// Whether the JSON is of the format that this test can read.
fn readable(json: &Path) -> bool {
    let text = std::fs::read_to_string(json).expect("rustdoc wrote it");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let written = value["format_version"].as_u64();
    let read = u64::from(rustdoc_types::FORMAT_VERSION);
    if written != Some(read) {
        println!("NOT CHECKED: this rustdoc writes format {written:?}, public-api reads {read}");
    }
    written == Some(read)
}

/// The lines that are in `these` and not in `those`.
fn only_in<'a>(these: &'a str, those: &str) -> Vec<&'a str> {
    let those: std::collections::HashSet<&str> = those.lines().collect();
    these.lines().filter(|line| !those.contains(line)).collect()
}

#[test]
fn the_public_names_are_those_of_the_list() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own
        .ancestors()
        .nth(2)
        .expect("tests/public-api is two below the root");
    let json = described(root);
    if !readable(&json) {
        return;
    }
    let api = public_api::Builder::from_rustdoc_json(&json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(false)
        .omit_auto_derived_impls(true)
        .build()
        .expect("the format is right");
    let now = format!("{api}");
    assert!(now.lines().count() > 100, "next to nothing is public:\n{now}");
    let list = own.join("api.txt");
    if std::env::var_os("THROWTO_BLESS").is_some() {
        std::fs::write(&list, &now).expect("the list can be written");
    }
    let listed = std::fs::read_to_string(&list).expect("tests/public-api/api.txt");
    let (gone, new) = (only_in(&listed, &now), only_in(&now, &listed));
    assert!(
        listed == now,
        "the public names differ from tests/public-api/api.txt.\ngone:\n  {}\nnew:\n  {}\n\
         If that is meant, say so in CHANGELOG.md and write the list anew: THROWTO_BLESS=1 {}",
        gone.join("\n  "),
        new.join("\n  "),
        "cargo test --manifest-path tests/public-api/Cargo.toml"
    );
}
