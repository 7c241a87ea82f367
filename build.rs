//! Target facts become named capabilities, so that code asks for an ability and never for a system.
//!
//! - `throwto_nudge`: a thread can be sent a signal. Without it delivery is cooperative: safepoints and the waits of this
//!   crate.
//! - `throwto_ladder`: signals that carry a value, a window stub and readable blocked calls. Never without `throwto_nudge`.
//! - `throwto_forced`: besides, the two rungs that drop frames, which need an unwinder's tables and the GNU C library.
//!
//! `THROWTO_NUDGE_ONLY=1` leaves the ladder out where it could be had, `THROWTO_COOPERATIVE=1` the nudge too, to build and
//! test what other systems get.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(throwto_nudge)");
    println!("cargo::rustc-check-cfg=cfg(throwto_ladder)");
    println!("cargo::rustc-check-cfg=cfg(throwto_forced)");
    let fact = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let asked = |name: &str| {
        println!("cargo::rerun-if-env-changed={name}");
        std::env::var_os(name).is_some()
    };
    let (cooperative, nudge_only) = (asked("THROWTO_COOPERATIVE"), asked("THROWTO_NUDGE_ONLY"));
    let os = fact("OS");
    let has_nudge = ["linux", "macos", "freebsd"].contains(&os.as_str());
    let known_processor = matches!(fact("ARCH").as_str(), "x86_64" | "aarch64");
    let has_ladder = os == "linux" && known_processor && fact("POINTER_WIDTH") == "64";
    if has_nudge && !cooperative {
        println!("cargo::rustc-cfg=throwto_nudge");
    }
    if has_ladder && !cooperative && !nudge_only {
        println!("cargo::rustc-cfg=throwto_ladder");
        if fact("ENV") == "gnu" {
            println!("cargo::rustc-cfg=throwto_forced");
        }
    }
}
