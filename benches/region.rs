//! The rows of `rows/region.rs` by themselves.

#[path = "rows/region.rs"]
mod rows;
mod table;

fn main() {
    table::alone(rows::measure, Some(rows::criterion));
}
