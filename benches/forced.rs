//! The rows of `rows/forced.rs` by themselves.

#[path = "rows/forced.rs"]
mod rows;
mod table;

fn main() {
    table::alone(rows::measure, Some(rows::criterion));
}
