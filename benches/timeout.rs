//! The rows of `rows/timeout.rs` by themselves.

#[path = "rows/timeout.rs"]
mod rows;
mod table;

fn main() {
    table::alone(rows::measure, Some(rows::criterion));
}
