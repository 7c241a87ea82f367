//! The rows of `rows/rate.rs` by themselves.

#[path = "rows/rate.rs"]
mod rows;
mod table;

fn main() {
    table::alone(rows::measure, None);
}
