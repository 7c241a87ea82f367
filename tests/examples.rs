//! Every example runs and prints what the comment at its end says; the rescue frees every thread.
//!
//! In an `// Output:` block `..` stands for anything within a line.

#[path = "examples/top.rs"]
mod top;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The built example: `cargo test` builds them all beside this test, `target/PROFILE/deps/examples-HASH`.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(name);
    assert!(
        program.is_file(),
        "{} is missing; build it with: cargo build --examples",
        program.display()
    );
    program
}

/// Its standard input is a pipe that never says anything and never ends.
fn run(name: &str, arguments: &[&str]) -> Output {
    let (silent, _kept_open) = std::io::pipe().unwrap();
    let mut command = Command::new(program(name));
    command.args(arguments).stdin(silent).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The lines of the block that closes the source.
fn promised(source: &str) -> Vec<&str> {
    let (_, block) = source
        .split_once("\n// Output:\n")
        .expect("no `// Output:` block");
    block
        .lines()
        .map(|line| line.strip_prefix("// ").unwrap_or(""))
        .collect()
}

/// Whether `line` is `pattern` with something for each `..`.
fn fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("..");
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn dots_stand_for_anything_and_nothing_else_does() {
    for (pattern, line, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a..", "ab", true),
        ("a..", "a", true),
        ("..b", "ab", true),
        ("a..c..e", "abcde", true),
        ("a..c..e", "abde", false),
        ("in ..ms", "in 3ms", true),
        ("in ..ms", "in 3us", false),
    ] {
        assert_eq!(fits(pattern, line), expected, "{pattern:?} and {line:?}");
    }
}

const OF_FEATURES: [&str; 2] = ["axum_query", "tokio_abort"];

fn prints_what_it_promises(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.rs"));
    let source = fs::read_to_string(path).unwrap();
    let output = run(name, &[]);
    let printed = text(&output.stdout);
    let expected = promised(&source);
    let fitting = expected.len() == printed.lines().count()
        && expected
            .iter()
            .zip(printed.lines())
            .all(|(pattern, line)| fits(pattern, line));
    assert!(
        fitting && output.status.success(),
        "{name}: {}\nprinted:\n{printed}\npromised:\n{}\nerrors:\n{}",
        output.status,
        expected.join("\n"),
        text(&output.stderr)
    );
}

#[test]
fn each_example_prints_what_it_promises() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        // Those of other features have a test of their own, and so has one that wants a window.
        if OF_FEATURES.contains(&name) || cfg!(not(throwto_ladder)) && name == "read_line" {
            continue;
        }
        prints_what_it_promises(name);
        checked += 1;
    }
    assert!(checked >= 5, "only {checked} examples found");
}

#[test]
fn the_list_of_examples_has_each_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let list = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut listed = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "README.md" {
            continue;
        }
        let links = [format!("({name})"), format!("({name}/main.rs)")];
        let links: usize = links.iter().map(|link| list.matches(link).count()).sum();
        assert_eq!(links, 1, "links to {name} in examples/README.md");
        listed += 1;
    }
    assert_eq!(list.matches("](").count(), listed, "a link to nothing");
}

/// Built by `cargo build --features tokio,tower --example NAME`, not by `cargo test`.
#[test]
#[cfg(all(feature = "tokio", feature = "tower"))]
fn the_examples_of_tokio_print_what_they_promise() {
    OF_FEATURES.into_iter().for_each(prints_what_it_promises);
}

#[test]
#[cfg(not(throwto_ladder))]
fn an_example_that_needs_a_window_says_so_where_there_is_none() {
    let output = run("read_line", &[]);
    let errors = text(&output.stderr);
    assert!(
        !output.status.success() && errors.contains("throwto::io"),
        "{errors}"
    );
}

/// All at the same time. On an emulated processor one after another: together they would take longer than a resolver waits.
#[test]
fn the_rescue_frees_every_thread() {
    let known = text(&run("rescue", &["--list"]).stdout);
    let names: Vec<_> = known
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut printed = String::new();
    let together: &[&str] = &["--json"];
    let one_by_one: Vec<_> = names.iter().map(|name| ["--json", "--case", name]).collect();
    let runs: Vec<&[&str]> = if std::env::var_os("THROWTO_EMULATED").is_some() {
        one_by_one.iter().map(<[_; 3]>::as_slice).collect()
    } else {
        vec![together]
    };
    for arguments in runs {
        let output = run("rescue", arguments);
        printed += &text(&output.stdout);
        assert!(
            output.status.success(),
            "{}\n{printed}\n{}",
            output.status,
            text(&output.stderr)
        );
    }
    for name in names {
        let case = format!("{{\"case\": \"{name}\", ");
        let line = printed.lines().find(|line| line.trim_start().starts_with(&case));
        let line = line.unwrap_or_else(|| panic!("{name} is not reported:\n{printed}"));
        assert!(
            line.contains("\"freed\": true") || line.contains("\"skipped\": "),
            "{line}"
        );
    }
}

#[test]
fn the_rescue_refuses_bad_arguments() {
    for (arguments, complaint) in [
        (&["--case"][..], "--case needs a value"),
        (&["--case", "nap"], "no case \"nap\""),
        (&["--repeat", "0"], "not \"0\""),
        (&["--repeat=-1"], "not \"-1\""),
        (&["--quick"], "unknown argument \"--quick\""),
        (&["sleep"], "unknown argument \"sleep\""),
    ] {
        let output = run("rescue", arguments);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(
            told.contains(complaint) && output.stdout.is_empty(),
            "{arguments:?}: {told}"
        );
    }
}
