//! The rows of `rows/latency.rs` by themselves.

#[path = "rows/latency.rs"]
mod rows;
mod table;

fn main() {
    table::alone(rows::measure, Some(rows::criterion));
}
