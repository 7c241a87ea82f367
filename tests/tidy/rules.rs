//! The rules of the house. Comments and literals are blanked first, except where a rule is about comments.

use crate::rust_text::{
    at_or_below, cfg_names, code_only, crate_paths, is_word, mentions, shipped, starts_with_word, words,
};

/// The only paths of the protocol that `src/platform/` may name: what the signal handler reads.
const HANDLER_MAY_READ: &[&str] = &[
    "crate::protocol::record",
    "crate::protocol::word",
    "crate::protocol::order",
];
const MAX_LINES: usize = 500;
const MAX_EXAMPLE_LINES: usize = 60;
const VAGUE_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "core", "std"];
pub const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// One breach: the line (from 1) and what is wrong there.
#[derive(Debug)]
pub struct Fault(pub usize, pub String);

/// Target cfgs stay below `src/platform/`, those of the models in the shim; a closing test module may opt out of loom.
pub fn cfg_fences(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let code = code_only(text);
    let shipped_lines = shipped(&code).lines().count();
    for (line, name) in cfg_names(&code) {
        let os = name.starts_with("target_") || name == "unix" || name == "windows";
        if os && !path.starts_with("src/platform/") {
            faults.push(Fault(
                line,
                format!("cfg on `{name}` outside src/platform/; ask build.rs for a capability"),
            ));
        }
        let model = name == "loom" || name == "shuttle";
        if model && path != "src/sync_shim.rs" && line <= shipped_lines {
            faults.push(Fault(line, format!("cfg on `{name}` outside src/sync_shim.rs")));
        }
    }
    faults
}

/// Every file opens with `//!` and says whether a signal handler may enter it; `lib.rs` is the front page.
pub fn header(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    if path == "src/lib.rs" {
        return faults;
    }
    if !text.starts_with("//!") {
        faults.push(Fault(1, "the file does not open with a `//!` header".into()));
    }
    if !text.lines().any(|l| l.starts_with("//! **Signal context:**")) {
        faults.push(Fault(
            1,
            "the header has no line starting `//! **Signal context:**`".into(),
        ));
    }
    faults
}

/// No source file is longer than 500 lines. There is no list of exceptions: split the file.
pub fn size(_path: &str, text: &str) -> Vec<Fault> {
    longer_than(MAX_LINES, text)
}

/// Face, protocol and platform see of each other only what the layout allows.
pub fn arrows(path: &str, text: &str) -> Vec<Fault> {
    let code = shipped(&code_only(text));
    if path.starts_with("src/protocol/") {
        protocol_arrows(&code)
    } else if path.starts_with("src/platform/") {
        platform_arrows(&code)
    } else if path == "src/lib.rs" || path == "src/sync_shim.rs" || path.starts_with("src/sync_shim/") {
        Vec::new()
    } else {
        face_arrows(&code)
    }
}

fn protocol_arrows(code: &str) -> Vec<Fault> {
    // `std::{` and `super::super` would hide what they import; the atomics must be those that loom can see.
    let banned = [
        "libc",
        "nix",
        "std::time",
        "std::thread",
        "std::os",
        "std::{",
        "sync::atomic",
        "super::super",
    ];
    let mut faults = mentions(
        code,
        &banned,
        "is not for the protocol: no OS, no clock, atomics from the shim",
    );
    for (line, path) in crate_paths(code) {
        if !["crate::protocol", "crate::sync_shim"]
            .iter()
            .any(|ok| at_or_below(&path, ok))
        {
            faults.push(Fault(
                line,
                format!("`{path}`: the protocol sees only crate::protocol and crate::sync_shim"),
            ));
        }
    }
    faults
}

fn platform_arrows(code: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (line, path) in crate_paths(code) {
        let own = at_or_below(&path, "crate::platform") || at_or_below(&path, "crate::sync_shim");
        if !own && !HANDLER_MAY_READ.iter().any(|ok| at_or_below(&path, ok)) {
            faults.push(Fault(
                line,
                format!("`{path}`: the platform sees of the crate only HANDLER_MAY_READ"),
            ));
        }
    }
    faults
}

fn face_arrows(code: &str) -> Vec<Fault> {
    let banned = [
        "libc",
        "core::sync::atomic",
        "std::sync::atomic",
        "crate::sync_shim",
    ];
    let mut faults = mentions(
        code,
        &banned,
        "is not for the face: go through the protocol or the platform",
    );
    for (line, word) in words(code) {
        if word
            .strip_prefix("Atomic")
            .is_some_and(|rest| rest.starts_with(char::is_uppercase))
        {
            faults.push(Fault(line, format!("`{word}`: the face holds no atomics")));
        }
    }
    faults
}

/// No mutable statics.
pub fn no_static_mut(_path: &str, text: &str) -> Vec<Fault> {
    let code = code_only(text);
    let all: Vec<_> = words(&code).collect();
    let pairs = all
        .windows(2)
        .filter(|w| w[0].1 == "static" && w[1].1 == "mut" && w[0].0 == w[1].0);
    pairs.map(|w| Fault(w[0].0, "`static mut`".into())).collect()
}

/// No file, folder or inline module has a name that says nothing.
pub fn telling_names(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for part in path
        .trim_end_matches(".rs")
        .split('/')
        .filter(|p| VAGUE_NAMES.contains(p))
    {
        faults.push(Fault(1, format!("`{part}` is no name for a file or a folder")));
    }
    let code = code_only(text);
    let all: Vec<_> = words(&code).collect();
    for w in all
        .windows(2)
        .filter(|w| w[0].1 == "mod" && VAGUE_NAMES.contains(&w[1].1))
    {
        faults.push(Fault(w[0].0, format!("`{}` is no name for a module", w[1].1)));
    }
    faults
}

/// Nothing is left for later in the tree: no marker words, no placeholder macros.
pub fn finished(_path: &str, text: &str) -> Vec<Fault> {
    let macros = mentions(
        &code_only(text),
        &["todo!(", "unimplemented!("],
        "left in the tree",
    );
    let marker = |word: &str| UNFINISHED.contains(&word);
    let words = words(text).filter(|(_, word)| marker(word));
    macros
        .into_iter()
        .chain(words.map(|(line, word)| Fault(line, format!("`{word}` left in the tree"))))
        .collect()
}

/// Every unsafe block and impl has its argument above it: at most five lines of code between.
pub fn safety_comments(_path: &str, text: &str) -> Vec<Fault> {
    let lines: Vec<&str> = text.lines().collect();
    let argued = |at: usize| {
        let mut code_lines = 0;
        lines[at].contains("// SAFETY:")
            || lines[..at]
                .iter()
                .rev()
                .take_while(|l| near(l, &mut code_lines))
                .any(|l| is_safety(l))
    };
    let opens = |line: &str| {
        line.match_indices("unsafe").any(|(at, word)| {
            let rest = line[at + word.len()..].trim_start();
            is_word(line, at, word) && (rest.starts_with('{') || starts_with_word(rest, "impl"))
        })
    };
    let found = code_only(text)
        .lines()
        .enumerate()
        .filter(|(_, l)| opens(l))
        .map(|(at, _)| at)
        .collect::<Vec<_>>();
    let bare = found.into_iter().filter(|at| !argued(*at));
    bare.map(|at| Fault(at + 1, "unsafe without a `// SAFETY:` comment just above".into()))
        .collect()
}

fn is_safety(line: &str) -> bool {
    line.trim_start().starts_with("// SAFETY:")
}

/// A SAFETY comment may be long, and may stand above a statement of several lines, but not above a screenful.
fn near(line: &str, code_lines: &mut usize) -> bool {
    *code_lines += usize::from(!line.trim_start().starts_with("//"));
    *code_lines <= 5
}

/// The keyword appears only in files that say so at their top.
pub fn unsafe_declared(_path: &str, text: &str) -> Vec<Fault> {
    if allows_unsafe(text) {
        return Vec::new();
    }
    mentions(
        &code_only(text),
        &["unsafe"],
        "needs `#![allow(unsafe_code)]` at the top of the file",
    )
}

/// Every file that allows unsafe code is argued in SAFETY.md, by its path.
pub fn unsafe_audited(path: &str, text: &str, safety_md: &str) -> Vec<Fault> {
    if allows_unsafe(text) && !safety_md.contains(path) {
        return vec![Fault(
            1,
            "allows unsafe code but SAFETY.md does not name it".into(),
        )];
    }
    Vec::new()
}

fn allows_unsafe(text: &str) -> bool {
    code_only(text)
        .lines()
        .any(|l| l.starts_with("#![allow(") && words(l).any(|(_, w)| w == "unsafe_code"))
}

/// The invariants that a header defines, with their lines: those whose line begins with `I3` or the like.
pub fn invariants_of(text: &str) -> Vec<(usize, String)> {
    let headers = text.lines().enumerate().filter_map(|(at, line)| {
        let entry = line.strip_prefix("//!")?.trim_start_matches([' ', '-', '*']);
        let word = entry
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_');
        Some((at + 1, word.collect::<String>()))
    });
    let is_number = |n: &str| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit());
    headers
        .filter(|(_, name)| name.strip_prefix('I').is_some_and(is_number))
        .collect()
}

/// A file defines each invariant's number once.
pub fn invariants_defined_once(_path: &str, text: &str) -> Vec<Fault> {
    let all = invariants_of(text);
    let again = all
        .iter()
        .enumerate()
        .filter(|(at, (_, name))| all[..*at].iter().any(|(_, earlier)| earlier == name));
    again
        .map(|(_, (line, name))| {
            let what = format!("invariant {name} is defined twice; a reference may not open a line");
            Fault(*line, what)
        })
        .collect()
}

/// An example is read in one go. `examples/rescue/` is a program, not a lesson.
pub fn short_examples(path: &str, text: &str) -> Vec<Fault> {
    if path.starts_with("examples/rescue/") {
        return Vec::new();
    }
    longer_than(MAX_EXAMPLE_LINES, text)
}

fn longer_than(limit: usize, text: &str) -> Vec<Fault> {
    let lines = text.lines().count();
    if lines > limit {
        vec![Fault(limit + 1, format!("{lines} lines, more than {limit}"))]
    } else {
        Vec::new()
    }
}
