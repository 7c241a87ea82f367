//! The rows of `rows/safepoint.rs` by themselves.

#[path = "rows/safepoint.rs"]
mod rows;
mod table;

fn main() {
    table::alone(rows::measure, Some(rows::criterion));
}
