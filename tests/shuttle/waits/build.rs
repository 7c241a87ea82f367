//! Turns `src/sync_shim.rs` to shuttle, for this crate alone.

fn main() {
    println!("cargo::rustc-cfg=shuttle");
    println!("cargo::rerun-if-changed=build.rs");
}
