//! The rows of `rows/memory.rs` by themselves.

#[path = "rows/memory.rs"]
mod rows;
mod table;

fn main() {
    table::alone(rows::measure, None);
}
