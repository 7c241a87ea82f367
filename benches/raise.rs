//! The rows of `rows/raise.rs` by themselves.

#[path = "rows/raise.rs"]
mod rows;
mod table;

fn main() {
    table::alone(rows::measure, Some(rows::criterion));
}
