//! One frame: a headline, the table, the selected thread in full and what became of the last raise, the keys.

use ratatui::Frame;
use ratatui::layout::{Constraint::Fill, Constraint::Length, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Table, TableState, Wrap};
use throwto::{ThreadId, ThreadInfo};

use crate::{keys, row};

#[derive(Default)]
pub struct View {
    /// Whoever it is: the rows move up when others end.
    selected: Option<ThreadId>,
    table: TableState,
    pub said: String,
}

impl View {
    pub fn selected(&self) -> Option<ThreadId> {
        self.selected
    }

    /// Moves the selection by so many rows; from one that has ended, to what took its place.
    pub fn select(&mut self, threads: &[ThreadInfo], rows: isize) {
        let at = threads.iter().position(|thread| Some(thread.id) == self.selected);
        let at = at.or(self.table.selected()).unwrap_or(0);
        let at = at
            .saturating_add_signed(rows)
            .min(threads.len().saturating_sub(1));
        self.selected = threads.get(at).map(|thread| thread.id);
        self.table.select(self.selected.map(|_| at));
    }

    pub fn draw(&mut self, frame: &mut Frame, threads: &[ThreadInfo]) {
        self.select(threads, 0);
        let [head, list, detail, foot] =
            Layout::vertical([Length(1), Fill(1), Length(5), Length(1)]).areas(frame.area());
        frame.render_widget(summary(threads).bold(), head);
        let table = Table::new(threads.iter().map(row::row), row::widths())
            .header(row::head())
            .row_highlight_style(Style::new().reversed())
            .highlight_symbol("> ");
        frame.render_stateful_widget(table, list, &mut self.table);
        let selected = self.table.selected().and_then(|at| threads.get(at));
        let told = selected.map(ThreadInfo::to_string).unwrap_or_default();
        let told = vec![Line::from(self.said.as_str()).bold(), Line::from(told)];
        let told = Paragraph::new(told).wrap(Wrap { trim: true });
        frame.render_widget(told.block(Block::bordered()), detail);
        frame.render_widget(Line::from(keys::TOLD).dim(), foot);
    }
}

fn summary(threads: &[ThreadInfo]) -> String {
    let pending: usize = threads.iter().map(|thread| thread.pending).sum();
    format!(" {} attached threads, {pending} pending", threads.len())
}
