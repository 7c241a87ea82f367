//! Target facts become named capabilities, so that code asks for an ability and never for a system.
//!
//! - `throwto_ladder`: directed signals, a window stub and readable blocked calls. Without it delivery is cooperative:
//!   safepoints and the waits of this crate.
//! - `throwto_forced`: besides, the two rungs that drop frames, which need an unwinder's tables and the GNU C library.
//!
//! `THROWTO_COOPERATIVE=1` leaves the ladder out where it could be had, to build and test that half.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=THROWTO_COOPERATIVE");
    println!("cargo::rustc-check-cfg=cfg(throwto_ladder)");
    println!("cargo::rustc-check-cfg=cfg(throwto_forced)");
    let fact = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let known_processor = matches!(fact("ARCH").as_str(), "x86_64" | "aarch64");
    let has_ladder = fact("OS") == "linux" && known_processor && fact("POINTER_WIDTH") == "64";
    if has_ladder && std::env::var_os("THROWTO_COOPERATIVE").is_none() {
        println!("cargo::rustc-cfg=throwto_ladder");
        if fact("ENV") == "gnu" {
            println!("cargo::rustc-cfg=throwto_forced");
        }
    }
}
