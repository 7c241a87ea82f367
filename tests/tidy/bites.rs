//! Each rule on text that breaks it, and beside it the nearest text that does not.

use crate::rules::*;
use crate::rust_text::{code_only, words};

/// The lines at which a rule objects.
fn lines(faults: Vec<Fault>) -> Vec<usize> {
    faults.into_iter().map(|Fault(line, _)| line).collect()
}

const CLEAN: [usize; 0] = [];

#[test]
fn code_only_blanks_comments_and_literals_and_keeps_lines() {
    let text = "a /* b\n/* c */ d */ e // f\nr#\"g\n\"h\"#; \"i\\\"j\" 'k' '\\'' &'l m r#n b\"o\"";
    let code = code_only(text);
    assert_eq!(
        words(&code).map(|(_, w)| w).collect::<Vec<_>>(),
        ["a", "e", "l", "m", "r", "n", "b"]
    );
    assert_eq!(
        words(&code).map(|(l, _)| l).collect::<Vec<_>>(),
        [1, 2, 4, 4, 4, 4, 4]
    );
}

#[test]
fn cfg_fences_bite() {
    let bad = "#[cfg(all(\n    target_os = \"linux\",\n    x\n))]\nfn f() { if cfg!(unix) {} }\n#[cfg(not(loom))]\nfn g() {}\n#[cfg(shuttle)]\nfn h() {}";
    assert_eq!(lines(cfg_fences("src/io.rs", bad)), [2, 5, 6, 8]);
    assert_eq!(lines(cfg_fences("src/platform/linux.rs", bad)), [6, 8]);
    assert_eq!(lines(cfg_fences("src/sync_shim.rs", bad)), [2, 5]);
    let tests = "#[cfg(all(test, not(loom)))]\nmod tests {}\n#[cfg(unix)]\nfn f() {}";
    assert_eq!(lines(cfg_fences("src/protocol/word.rs", tests)), [3]);
    assert_eq!(
        lines(cfg_fences(
            "src/protocol/word.rs",
            "#[cfg(not(loom))]\nmod tests {}"
        )),
        [1]
    );
    assert_eq!(
        lines(cfg_fences(
            "src/io.rs",
            "cfg_select! {\n target_arch = \"a\" => {}\n}"
        )),
        [2]
    );
    assert_eq!(
        lines(cfg_fences(
            "src/io.rs",
            "// cfg(target_os)\n#[cfg(has_futex)] fn f(target_x: u8) {}"
        )),
        CLEAN
    );
}

#[test]
fn header_bites() {
    assert_eq!(
        lines(header("src/io.rs", "use a;\n//! **Signal context:** no")),
        [1]
    );
    assert_eq!(
        lines(header("src/io.rs", "//! Reads.\n// **Signal context:** no")),
        [1]
    );
    assert_eq!(
        lines(header(
            "src/io.rs",
            "//! Reads.\n//!\n//! **Signal context:** no, it allocates."
        )),
        CLEAN
    );
    assert_eq!(lines(header("src/lib.rs", "#![deny(unsafe_code)]")), CLEAN);
}

#[test]
fn size_bites() {
    assert_eq!(lines(size("src/io.rs", &"x\n".repeat(501))), [501]);
    assert_eq!(lines(size("src/io.rs", &"x\n".repeat(500))), CLEAN);
    assert_eq!(lines(short_examples("examples/a.rs", &"x\n".repeat(61))), [61]);
    assert_eq!(lines(short_examples("examples/a.rs", &"x\n".repeat(60))), CLEAN);
    assert_eq!(
        lines(short_examples("examples/rescue/main.rs", &"x\n".repeat(400))),
        CLEAN
    );
}

#[test]
fn protocol_arrows_bite() {
    let bad = "use crate::platform::x;\nuse libc::c_int;\nuse std::time::Instant;\nstd::thread::yield_now();\n\
               use crate::foreign;\nuse crate::{protocol};\nuse std::{thread};\nuse core::sync::atomic::AtomicU64;";
    let mut hit = lines(arrows("src/protocol/word.rs", bad));
    hit.sort_unstable();
    assert_eq!(hit, [1, 2, 3, 4, 5, 6, 7, 8]);
    let good = "use crate::protocol::word;\nuse crate::sync_shim::AtomicU64;\nuse core::time::Duration;\n// libc\n\
                #[cfg(test)]\nmod tests {\n    use crate::platform::fake;\n}";
    assert_eq!(lines(arrows("src/protocol/record.rs", good)), CLEAN);
}

#[test]
fn platform_arrows_bite() {
    let bad = "use crate::protocol::slot::Slot;\nuse crate::protocol::recorder;\nuse crate::raise;\nuse crate::protocol::{word};";
    assert_eq!(lines(arrows("src/platform/linux.rs", bad)), [1, 2, 3, 4]);
    let good = "use crate::protocol::record::Record;\nuse crate::platform::arch;\nuse std::sync::atomic::AtomicI32;\nlibc::pipe;";
    assert_eq!(lines(arrows("src/platform/linux.rs", good)), CLEAN);
}

#[test]
fn face_arrows_bite() {
    let bad = "use libc;\nlet x = nix::libc::EINTR;\nuse std::sync::atomic;\nuse core::sync::atomic;\nlet a: AtomicBool;\nuse crate::sync_shim;";
    let hit = lines(arrows("src/io.rs", bad));
    assert!((1..=6).all(|line| hit.contains(&line)), "{hit:?}");
    let good = "//! Not libc::read.\nuse crate::platform;\nstruct Atomicity;\nlet in_libc = 1;";
    assert_eq!(lines(arrows("src/sync/mutex.rs", good)), CLEAN);
    assert_eq!(lines(arrows("src/sync_shim.rs", bad)), CLEAN);
}

#[test]
fn floors_bite() {
    use crate::floors::{self, HEADING};
    let page =
        format!("# A\n{HEADING}\n\nWords.\n\n```text\n  top     high high::low2\n  bottom  low side\n```\n");
    let rooms = floors::rooms(&page);
    assert_eq!(
        rooms,
        ["low", "side", "high", "high::low2"].map(|room| format!("crate::{room}"))
    );
    let told = |files: &[(&str, &str)]| -> Vec<(String, usize)> {
        let there = [
            "src/low.rs",
            "src/side.rs",
            "src/high.rs",
            "src/high/low2.rs",
            "src/high/part.rs",
        ];
        let mut all: Vec<(String, String)> = there.map(|path| (path.to_owned(), String::new())).to_vec();
        all.retain(|(path, _)| !files.iter().any(|(other, _)| other == path));
        all.extend(
            files
                .iter()
                .map(|(path, text)| ((*path).to_owned(), (*text).to_owned())),
        );
        let faults = floors::faults(&rooms, &all).into_iter();
        faults.map(|(path, Fault(line, _))| (path, line)).collect()
    };
    let low = |line| vec![("src/low.rs".to_owned(), line)];
    // Upward: plain, in braces over lines, spelt out, to a neighbour on the right, through the front page, by a new name.
    assert_eq!(told(&[("src/low.rs", "//! x\nuse crate::high;")]), low(2));
    assert_eq!(
        told(&[(
            "src/low.rs",
            "use std::a;\nuse crate::{\n    protocol,\n    high::{self, X},\n};"
        )]),
        [low(2), low(2)].concat()
    );
    assert_eq!(
        told(&[("src/low.rs", "use a::{\n b,\n c};\nfn f() { crate::high::g() }")]),
        low(4)
    );
    assert_eq!(told(&[("src/low.rs", "use crate::side::X;")]), low(1));
    assert_eq!(
        told(&[
            ("src/lib.rs", "pub use high::X;"),
            ("src/low.rs", "fn f(x: crate::X) {}")
        ]),
        low(1)
    );
    let through = [
        ("src/side.rs", "pub(crate) use crate::high::X as Y;"),
        ("src/low.rs", "use crate::side::Y;"),
    ];
    assert_eq!(
        told(&through),
        [vec![("src/side.rs".to_owned(), 1)], low(1)].concat()
    );
    // A room inside another that is above it: its parent may show what is in it, and not use it.
    assert_eq!(told(&[("src/high.rs", "mod low2;\npub use low2::X;")]), []);
    assert_eq!(
        told(&[("src/high.rs", "use low2::X;\nfn f() { low2::g() }")]),
        [1, 2].map(|line| ("src/high.rs".to_owned(), line))
    );
    assert_eq!(
        told(&[("src/high/part.rs", "use super::low2::X;")]),
        [("src/high/part.rs".to_owned(), 1)]
    );
    // Downward, within a room, and what only looks like an arrow.
    let high = "use crate::low;\nuse crate::side::X;\nuse self::part::Y;\nuse low::Z;\nuse part::W;";
    assert_eq!(
        told(&[
            ("src/high.rs", high),
            ("src/high/part.rs", "use super::A;\nuse crate::high::B;")
        ]),
        []
    );
    assert_eq!(
        told(&[(
            "src/low.rs",
            "// crate::high\nfn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::high;\n}"
        )]),
        []
    );
    assert_eq!(
        told(&[
            ("src/protocol/word.rs", "use crate::high;"),
            ("src/lib.rs", "mod high;")
        ]),
        []
    );
    // A file that the picture does not have.
    assert_eq!(told(&[("src/new.rs", "")]), [("src/new.rs".to_owned(), 1)]);
}

#[test]
fn no_static_mut_bites() {
    assert_eq!(lines(no_static_mut("src/a.rs", "x\nstatic mut A: u8 = 0;")), [2]);
    assert_eq!(
        lines(no_static_mut(
            "src/a.rs",
            "static A: u8 = 0; // static mut\nfn f(a: &'static mut u8) {}"
        )),
        [2]
    );
    assert_eq!(
        lines(no_static_mut("src/a.rs", "static A: u8 = 0; // static mut")),
        CLEAN
    );
}

#[test]
fn telling_names_bite() {
    assert_eq!(lines(telling_names("src/util.rs", "")), [1]);
    assert_eq!(lines(telling_names("tests/common/mod.rs", "")), [1]);
    assert_eq!(lines(telling_names("src/a.rs", "x\nmod helpers {}")), [2]);
    assert_eq!(
        lines(telling_names(
            "src/a.rs",
            "use core::mem; // mod std\nmod utility;"
        )),
        CLEAN
    );
}

#[test]
fn finished_bites() {
    for marker in UNFINISHED {
        assert_eq!(
            lines(finished("src/a.rs", &format!("x\n// {marker}: later"))),
            [2]
        );
        assert_eq!(lines(finished("src/a.rs", &format!("// {marker}X"))), CLEAN);
    }
    assert_eq!(
        lines(finished("src/a.rs", "x\ntodo!()\nunimplemented!()")),
        [2, 3]
    );
    assert_eq!(lines(finished("src/a.rs", "let s = \"todo!()\";")), CLEAN);
}

#[test]
fn safety_comments_bite() {
    assert_eq!(
        lines(safety_comments(
            "src/a.rs",
            "fn f() {\n    unsafe { g() }\n}\nunsafe impl Send for A {}"
        )),
        [2, 4]
    );
    let far = format!("// SAFETY: 1.\n{}unsafe {{ g() }}", "x;\n".repeat(6));
    assert_eq!(lines(safety_comments("src/a.rs", &far)), [8]);
    let near = format!(
        "// SAFETY: 1.\n{}x;\nunsafe {{ g() }}",
        "// and so on\n".repeat(9)
    );
    assert_eq!(lines(safety_comments("src/a.rs", &near)), CLEAN);
    assert_eq!(
        lines(safety_comments("src/a.rs", "unsafe fn f() {}\n// unsafe { g() }")),
        CLEAN
    );
}

#[test]
fn unsafe_declared_bites() {
    assert_eq!(lines(unsafe_declared("src/a.rs", "//! x\nunsafe fn f() {}")), [2]);
    assert_eq!(
        lines(unsafe_declared(
            "src/a.rs",
            "// #![allow(unsafe_code)]\nunsafe { f() }"
        )),
        [2]
    );
    assert_eq!(
        lines(unsafe_declared(
            "src/a.rs",
            "#![allow(unsafe_code)]\nunsafe fn f() {}"
        )),
        CLEAN
    );
    assert_eq!(
        lines(unsafe_declared("src/lib.rs", "#![deny(unsafe_code)] // unsafe")),
        CLEAN
    );
}

#[test]
fn unsafe_audited_bites() {
    let text = "//! x\n#![allow(unsafe_code)]";
    assert_eq!(
        lines(unsafe_audited(
            "src/platform/linux.rs",
            text,
            "## `src/platform/mod.rs`"
        )),
        [1]
    );
    assert_eq!(
        lines(unsafe_audited(
            "src/platform/linux.rs",
            text,
            "## `src/platform/linux.rs`"
        )),
        CLEAN
    );
    assert_eq!(lines(unsafe_audited("src/io.rs", "//! x", "")), CLEAN);
}

#[test]
fn invariants_defined_once_bites() {
    assert_eq!(
        lines(invariants_defined_once(
            "src/a.rs",
            "//! I1 a\n//! - **I2** b\n//! I1: c"
        )),
        [3]
    );
    assert_eq!(
        lines(invariants_defined_once(
            "src/a.rs",
            "//! I1 a\n//! I10 b, see I1\n//! If\n// I1"
        )),
        CLEAN
    );
}

#[test]
fn unshown_invariants_bite() {
    use crate::invariants::{self, ARGUED};
    use std::collections::{BTreeMap, BTreeSet};
    let source = "//! - I1. One.\n//! - I2. Two.\n//! - I3: three.\n\n/// Keeps slot I3.\nfn f() {}\n\
                  #[cfg(test)]\nmod tests {\n    /// Shows `slot` I1.\n}\n";
    let defined = invariants::defined("src/slot.rs", source);
    let numbers: Vec<_> = defined
        .iter()
        .map(|((_, number), line)| (number.as_str(), *line))
        .collect();
    assert_eq!(numbers, [("I1", 1), ("I2", 2), ("I3", 3)]);
    let modules = BTreeSet::from(["slot".to_owned()]);
    let of = |named: BTreeMap<(String, String), usize>| -> Vec<String> {
        named.into_keys().map(|(_, number)| number).collect()
    };
    assert_eq!(
        of(invariants::named("src/slot.rs", source, &modules)),
        ["I1"],
        "above the tests is no test"
    );
    let test = "// slot I1, I2 and I4; see I5.\nlet slot = I6;\n";
    assert_eq!(
        of(invariants::named("tests/it/x.rs", test, &modules)),
        ["I1", "I2", "I4"]
    );
    let page = format!("slot I1\n{ARGUED}\n- `slot I2`: why\n## Next\nslot I3\n");
    assert_eq!(of(invariants::argued(&page, &modules)), ["I2"]);
    assert_eq!(
        invariants::module_of("src/platform/linux/forced/mod.rs"),
        "platform::linux::forced"
    );
    let place = |(one, line): ((String, String), usize)| (one, ("a".to_owned(), line));
    let defined = defined.into_iter().map(place).collect();
    let named = invariants::named("tests/it/x.rs", test, &modules);
    let faults = invariants::faults(&defined, &named.into_iter().map(place).collect());
    let told: Vec<_> = faults.iter().map(|(_, fault)| fault.1.as_str()).collect();
    assert!(
        told[0].contains("slot I3") && told[1].contains("`slot I4` is no"),
        "{told:?}"
    );
    assert_eq!(told.len(), 2);
}
