//! The floors of the face: who may import whom, as drawn in ARCHITECTURE.md.
//!
//! A *room* is a module of the face with all below it that has no place of its own in the picture. The picture orders the
//! rooms, and an arrow goes to an earlier one: so there is no circle between rooms. A name is followed to the room that it
//! comes from, through the tables of contents that `pub use` makes; such a line, in a parent for its child, is no arrow.

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::Fault;
use crate::rust_text::{at_or_below, code_only, is_ident, shipped};

/// The heading above the picture.
pub const HEADING: &str = "## The floors of the face";
/// What is below the face, or above it, and has rules of its own.
const NOT_THE_FACE: &[&str] = &["crate::protocol", "crate::platform", "crate::sync_shim"];

/// The rooms of the picture, lowest first: floors from the bottom up, on each from left to right behind the floor's name.
pub fn rooms(page: &str) -> Vec<String> {
    let picture = page.split_once(HEADING).map_or("", |(_, rest)| rest);
    let picture = picture.split("```").nth(1).unwrap_or("");
    let floors: Vec<&str> = picture.lines().skip(1).collect();
    let rooms = floors
        .iter()
        .rev()
        .flat_map(|floor| floor.split_whitespace().skip(1));
    rooms.map(|room| format!("crate::{room}")).collect()
}

/// What is wrong between the rooms of `files`, each with its path.
pub fn faults(rooms: &[String], files: &[(String, String)]) -> Vec<(String, Fault)> {
    let modules: BTreeSet<String> = files.iter().map(|(path, _)| module_of(path)).collect();
    let uses: Vec<(&String, Vec<Use>)> = files
        .iter()
        .map(|(path, text)| (path, uses_in(&module_of(path), &code_of(text), &modules)))
        .collect();
    let contents: BTreeMap<String, String> = uses
        .iter()
        .flat_map(|(path, uses)| {
            let module = module_of(path);
            let shown = uses.iter().filter(|one| one.shown);
            shown.map(move |one| (format!("{module}::{}", one.name), one.path.clone()))
        })
        .collect();
    let place = |path: &str| (0..rooms.len()).rev().find(|at| rooms[*at] == path);
    let home = |path: &str| {
        let named = rooms.iter().filter(|room| at_or_below(path, room));
        named.max_by_key(|room| room.len())
    };
    let page = "ARCHITECTURE.md".to_owned();
    let mut faults: Vec<(String, Fault)> = Vec::new();
    for (at, room) in rooms.iter().enumerate() {
        if !modules.contains(room) || rooms[..at].contains(room) {
            let what = format!("`{room}` in the picture is no module, or there twice");
            faults.push((page.clone(), Fault(1, what)));
        }
    }
    for (path, uses) in uses {
        let module = module_of(path);
        if module == "crate" || NOT_THE_FACE.iter().any(|below| at_or_below(&module, below)) {
            continue;
        }
        let Some(from) = home(&module) else {
            let what =
                format!("`{module}` is on no floor: put it into the picture under \"{HEADING}\" in {page}");
            faults.push((path.clone(), Fault(1, what)));
            continue;
        };
        for one in uses.iter().filter(|one| !one.is_contents_of(&module)) {
            let origin = followed(&one.path, &contents);
            if let Some(to) = home(&origin)
                && place(to) > place(from)
            {
                let what = format!("`{}`: {from} is below {to} in the picture in {page}", one.path);
                faults.push((path.clone(), Fault(one.line, what)));
            }
        }
    }
    faults
}

/// The module that a file is.
fn module_of(path: &str) -> String {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod").replace('/', "::");
    match &*path {
        "lib" => "crate".to_owned(),
        _ => format!("crate::{path}"),
    }
}

/// Where a name comes from, behind all tables of contents.
fn followed(path: &str, contents: &BTreeMap<String, String>) -> String {
    let mut path = path.to_owned();
    // A chain is short; two tables that show each other would be a fault of the compiler's to find.
    for _ in 0..8 {
        let ends = path.match_indices("::").map(|(at, _)| at).chain([path.len()]);
        let shown = ends.filter_map(|end| Some((end, contents.get(&path[..end])?)));
        let Some((end, origin)) = shown.last().filter(|(end, origin)| path[..*end] != ***origin) else {
            break;
        };
        path = format!("{origin}{}", &path[end..]);
    }
    path
}

/// One path that a file names.
#[derive(Debug)]
pub struct Use {
    line: usize,
    path: String,
    /// What it is called here.
    name: String,
    /// By `pub use`.
    shown: bool,
}

impl Use {
    /// Whether it is a line in the table of contents of `module`: a child's name shown as the parent's own.
    fn is_contents_of(&self, module: &str) -> bool {
        self.shown && self.path.starts_with(&format!("{module}::"))
    }
}

fn code_of(text: &str) -> String {
    shipped(&code_only(text))
}

/// Every path into the crate that `module` names, absolute.
fn uses_in(module: &str, code: &str, modules: &BTreeSet<String>) -> Vec<Use> {
    let mut found = Vec::new();
    let mut rest = String::new();
    let mut at = 0;
    while let Some(start) = next_use(code, at) {
        let end = code[start..].find(';').map_or(code.len(), |end| start + end);
        rest.push_str(&code[at..start]);
        // Its lines stay, so that the rest keeps its own.
        rest.extend(code[start..end].chars().filter(|c| *c == '\n'));
        let line = code[..start].matches('\n').count() + 1;
        let before = code[..start].trim_end();
        let shown = before.ends_with("pub") || before.ends_with(')') && code[..start].ends_with(") ");
        let tree: String = code[start + "use ".len()..end].to_owned();
        for (path, name) in leaves("", &tree) {
            found.extend(absolute(module, &path, modules).map(|path| Use {
                line,
                path,
                name,
                shown,
            }));
        }
        at = end;
    }
    rest.push_str(&code[at..]);
    for (at, line) in rest.lines().enumerate() {
        let mut word = String::new();
        for c in line.chars().chain([' ']) {
            if is_ident(c) || c == ':' {
                word.push(c);
                continue;
            }
            let path = std::mem::take(&mut word);
            if let Some(path) = path
                .contains("::")
                .then(|| absolute(module, &path, modules))
                .flatten()
            {
                found.push(Use {
                    line: at + 1,
                    path,
                    name: String::new(),
                    shown: false,
                });
            }
        }
    }
    found
}

/// Where the next `use` stands that is a statement and not a capture (`+ use<'a>`).
fn next_use(code: &str, from: usize) -> Option<usize> {
    let mut hits = code[from..].match_indices("use ").map(|(at, _)| from + at);
    hits.find(|at| !code[..*at].ends_with(is_ident))
}

/// The single paths of a `use`, each with the name that it gets.
fn leaves(prefix: &str, tree: &str) -> Vec<(String, String)> {
    let tree = tree.trim();
    if let Some((head, tail)) = tree.split_once('{') {
        let inner = tail.rsplit_once('}').map_or(tail, |(inner, _)| inner);
        let prefix = format!("{prefix}{}", head.trim());
        let mut depth = 0;
        let parts = inner.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        return parts
            .filter(|part| !part.trim().is_empty())
            .flat_map(|part| leaves(&prefix, part))
            .collect();
    }
    let (path, name) = match tree.split_once(" as ") {
        Some((path, name)) => (path.trim(), Some(name.trim())),
        None => (tree, None),
    };
    let path = format!("{prefix}{path}");
    let path = path.trim_end_matches("::self").to_owned();
    let last = path.rsplit("::").next().unwrap_or("").to_owned();
    let name = name.map_or(last, str::to_owned);
    vec![(path, name)]
}

/// The path from the crate's root; `None` if it leads out of the crate.
fn absolute(module: &str, path: &str, modules: &BTreeSet<String>) -> Option<String> {
    if at_or_below(path, "crate") {
        return Some(path.to_owned());
    }
    if let Some(rest) = path.strip_prefix("self::") {
        return Some(format!("{module}::{rest}"));
    }
    let (mut base, mut path) = (module, path);
    while let Some(rest) = path.strip_prefix("super::") {
        base = base.rsplit_once("::")?.0;
        path = rest;
    }
    let below = format!("{base}::{path}");
    if base != module {
        return Some(below);
    }
    // Relative, if it begins with a child of this module.
    let first = path.split("::").next()?;
    modules.contains(&format!("{module}::{first}")).then_some(below)
}
