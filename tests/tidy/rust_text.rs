//! As much of Rust's surface as the rules need: what is code, what is a word, which paths, which cfgs.

use crate::rules::Fault;

/// The text with comments, strings and character literals blanked; lines and columns stay where they are.
pub fn code_only(text: &str) -> String {
    let src: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < src.len() {
        let end = literal_end(&src, at);
        match end {
            Some(end) => out.extend(src[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' })),
            None => out.push(src[at]),
        }
        at = end.unwrap_or(at + 1);
    }
    out
}

/// Where the comment or literal that starts at `at` ends; None if none starts there.
fn literal_end(src: &[char], at: usize) -> Option<usize> {
    let next = |n: usize| src.get(at + n).copied().unwrap_or('\0');
    let find =
        |from: usize, hit: &dyn Fn(usize) -> bool| (from..src.len()).find(|i| hit(*i)).unwrap_or(src.len());
    match (src[at], next(1)) {
        ('/', '/') => Some(find(at, &|i| src[i] == '\n')),
        ('/', '*') => {
            let (mut depth, mut i) = (1, at + 2);
            while i < src.len() && depth > 0 {
                let step = match (src[i], src.get(i + 1)) {
                    ('/', Some('*')) => (1, 2),
                    ('*', Some('/')) => (-1, 2),
                    _ => (0, 1),
                };
                depth += step.0;
                i += step.1;
            }
            Some(i.min(src.len()))
        }
        ('r', '"' | '#') if at == 0 || !is_ident(src[at - 1]) || "bc".contains(src[at - 1]) => {
            let hashes = src[at + 1..].iter().take_while(|c| **c == '#').count();
            if next(1 + hashes) != '"' {
                return None; // r#identifier
            }
            let closes = |i: usize| src[i] == '"' && (1..=hashes).all(|n| src.get(i + n) == Some(&'#'));
            Some((find(at + 2 + hashes, &closes) + 1 + hashes).min(src.len()))
        }
        ('"', _) => Some(quoted_end(src, at, '"')),
        ('\'', '\\') => Some(quoted_end(src, at, '\'')),
        ('\'', _) if next(2) == '\'' => Some(at + 3),
        _ => None, // code, or the tick of a lifetime
    }
}

fn quoted_end(src: &[char], open: usize, quote: char) -> usize {
    let mut i = open + 1;
    while i < src.len() && src[i] != quote {
        i += if src[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(src.len())
}

/// The code before a closing `#[cfg(test)] mod tests { .. }`, or `mod tests;`: tests may reach further than what ships.
pub fn shipped(code: &str) -> String {
    let lines: Vec<&str> = code.lines().collect();
    let tests = |at: &usize| {
        ["#[cfg(test)]", "#[cfg(all(test, not(loom)))]"].contains(&lines[*at])
            && lines.get(at + 1).is_some_and(|l| {
                let file = *l == "mod tests;" && at + 2 == lines.len();
                file || l.starts_with("mod ") && l.contains('{')
            })
    };
    let end = (0..lines.len()).find(tests).unwrap_or(lines.len());
    lines[..end].join("\n")
}

pub fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub fn is_word(line: &str, at: usize, word: &str) -> bool {
    let before = line[..at].chars().next_back().is_some_and(is_ident);
    let after = line[at + word.len()..].chars().next().is_some_and(is_ident);
    !(before && word.starts_with(is_ident) || after && word.ends_with(is_ident))
}

pub fn starts_with_word(line: &str, word: &str) -> bool {
    line.starts_with(word) && is_word(line, 0, word)
}

/// Identifiers and numbers, each with its line.
pub fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate();
    numbered.flat_map(|(at, l)| {
        l.split(|c| !is_ident(c))
            .filter(|w| !w.is_empty())
            .map(move |w| (at + 1, w))
    })
}

/// A fault for each line that holds one of `banned`, as whole words.
pub fn mentions(code: &str, banned: &[&str], why: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (at, line) in code.lines().enumerate() {
        let hit = |needle: &&&str| {
            line.match_indices(**needle)
                .any(|(i, _)| is_word(line, i, needle))
        };
        faults.extend(
            banned
                .iter()
                .filter(hit)
                .map(|needle| Fault(at + 1, format!("`{needle}` {why}"))),
        );
    }
    faults
}

/// Every `crate::a::b` in the code, as far as it is written without braces.
pub fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (at, line) in code.lines().enumerate() {
        for (i, _) in line
            .match_indices("crate::")
            .filter(|(i, word)| is_word(line, *i, word))
        {
            let path: String = line[i..]
                .chars()
                .take_while(|c| is_ident(*c) || *c == ':')
                .collect();
            paths.push((at + 1, path));
        }
    }
    paths
}

pub fn at_or_below(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The names inside every `cfg(..)`, `cfg!(..)`, `cfg_attr(..)`, `cfg_select! {..}`, over as many lines as it has.
pub fn cfg_names(code: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for (i, _) in code
        .match_indices("cfg")
        .filter(|(i, _)| !code[..*i].ends_with(is_ident))
    {
        let rest = code[i..]
            .trim_start_matches(is_ident)
            .trim_start_matches(['!', ' ']);
        if !rest.starts_with(['(', '{']) {
            continue;
        }
        let mut depth = 0;
        let end = rest.find(|c| {
            depth += i32::from(matches!(c, '(' | '{' | '[')) - i32::from(matches!(c, ')' | '}' | ']'));
            depth == 0
        });
        let first = code[..code.len() - rest.len()].matches('\n').count();
        names.extend(
            words(&rest[..end.unwrap_or(rest.len())]).map(|(line, word)| (first + line, word.to_owned())),
        );
    }
    names
}
