//! The rows of `rows/detached.rs` by themselves.

#[path = "rows/detached.rs"]
mod rows;
mod table;

fn main() {
    table::alone(rows::measure, Some(rows::criterion));
}
