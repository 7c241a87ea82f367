//! A thread as a row. Green runs, yellow waits, magenta holds exceptions back, red is in trouble.

use ratatui::layout::Constraint::{self, Fill, Length};
use ratatui::style::{Color, Stylize};
use ratatui::widgets::{Cell, Row};
use throwto::{MaskState, ThreadInfo, ThreadState};

const COLUMNS: [(&str, Constraint); 9] = [
    ("ID", Length(5)),
    ("TID", Length(7)),
    ("NAME", Fill(1)),
    ("STATE", Length(8)),
    ("IN", Length(7)),
    ("MASK", Length(8)),
    ("PEND", Length(4)),
    ("BLOCKED IN", Fill(2)),
    ("FOR", Length(7)),
];

pub fn head() -> Row<'static> {
    Row::new(COLUMNS.map(|(name, _)| name)).bold().underlined()
}

pub fn widths() -> [Constraint; 9] {
    COLUMNS.map(|(_, width)| width)
}

pub fn row(thread: &ThreadInfo) -> Row<'_> {
    let (place, time) = place_and_time(&thread.where_blocked);
    let (state, mask, pending) = (thread.state, thread.mask, thread.pending);
    let (running, unmasked) = (state == ThreadState::Running, mask == MaskState::Unmasked);
    let row = Row::new([
        Cell::from(thread.id.to_string()),
        Cell::from(thread.os_tid.to_string()),
        Cell::from(thread.name.as_deref().unwrap_or("-")),
        Cell::from(state.to_string()).fg(if running { Color::Green } else { Color::Yellow }),
        Cell::from(thread.region.unwrap_or("-")),
        Cell::from(mask.to_string()).fg(if unmasked { Color::Reset } else { Color::Magenta }),
        Cell::from(pending.to_string()).fg(if pending == 0 { Color::Reset } else { Color::Red }),
        Cell::from(place),
        Cell::from(time),
    ]);
    let trouble = thread.left_behind || thread.nudge_blocked || thread.refused.is_some();
    if trouble { row.red() } else { row }
}

/// `read(fd 3, pipe) for 2.1 s`, in two.
fn place_and_time(told: &str) -> (&str, &str) {
    match told.rsplit_once(" for ") {
        Some((place, time)) if time.ends_with(" s") => (place, time),
        _ => (told, ""),
    }
}
