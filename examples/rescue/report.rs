//! What is printed: a table, statistics of many rounds, or JSON.

use std::fmt::Write;
use std::time::Duration;

use crate::supervise::{End, Outcome};

/// All rounds of one case.
pub struct Story {
    pub name: &'static str,
    pub outcomes: Vec<Outcome>,
}

impl Story {
    pub fn failures(&self) -> usize {
        self.outcomes
            .iter()
            .filter(|outcome| matches!(outcome.end, End::Failed(_)))
            .count()
    }

    fn last(&self) -> Option<&Outcome> {
        // A failure is what the reader must see, whichever round it was in.
        let failed = self
            .outcomes
            .iter()
            .find(|outcome| matches!(outcome.end, End::Failed(_)));
        failed.or(self.outcomes.last())
    }

    /// The times to freedom, in order.
    fn times(&self) -> Vec<Duration> {
        let mut times: Vec<_> = self
            .outcomes
            .iter()
            .filter_map(|outcome| match &outcome.end {
                End::Freed(freed) => Some(freed.after),
                _ => None,
            })
            .collect();
        times.sort_unstable();
        times
    }
}

/// The value that `percent` of `sorted` do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// One line per case, under a heading and above a summary.
pub fn table(stories: &[Story], rounds: usize) -> String {
    let mut heading = vec!["case", "stuck in, as the system tells", "freed by"];
    match rounds {
        1 => heading.extend(["after", "cleanup", "next job, same thread"]),
        _ => heading.extend(["p50", "p99", "longest", "failed"]),
    }
    let heading = heading.into_iter().map(str::to_owned).collect();
    let lines = std::iter::once(heading).chain(stories.iter().map(|story| line(story, rounds)));
    let threads = if stories.len() == 1 {
        "1 stuck thread"
    } else {
        &format!("{} stuck threads", stories.len())
    };
    let rounds = if rounds == 1 {
        String::new()
    } else {
        format!(", {rounds} rounds")
    };
    let mut text = format!("{threads} at once, raised into one after another{rounds}\n\n");
    align(&lines.collect::<Vec<_>>(), &mut text);
    text.push('\n');
    text.push_str(&summary(stories));
    text
}

fn line(story: &Story, rounds: usize) -> Vec<String> {
    let Some(last) = story.last() else {
        return vec![story.name.into()];
    };
    let mut cells = vec![story.name.to_owned(), last.stuck_in.clone()];
    match &last.end {
        End::Freed(freed) if rounds == 1 => {
            cells.extend([freed.rung.to_string(), time(freed.after)]);
            cells.extend([freed.cleanup.clone(), format!("returned {}", freed.next)]);
        }
        End::Freed(freed) => {
            let times = story.times();
            cells.push(freed.rung.to_string());
            cells.extend([50, 99, 100].map(|percent| time(percentile(&times, percent))));
            cells.push(format!("{} of {rounds}", story.failures()));
        }
        End::Skipped(reason) => cells.push(format!("SKIPPED: {reason}")),
        End::Failed(_) if rounds == 1 => cells.push("FAILED, see below".to_owned()),
        End::Failed(_) => cells.push(format!(
            "FAILED in {} of {rounds} rounds, see below",
            story.failures()
        )),
    }
    cells
}

fn summary(stories: &[Story]) -> String {
    let ends = || {
        stories
            .iter()
            .flat_map(|story| &story.outcomes)
            .map(|outcome| &outcome.end)
    };
    let freed = ends().filter(|end| matches!(end, End::Freed(_))).count();
    let skipped = ends().filter(|end| matches!(end, End::Skipped(_))).count();
    let asked = ends().count() - skipped;
    let mut text = String::new();
    for story in stories {
        if let Some(Outcome {
            end: End::Failed(reason),
            ..
        }) = story.last()
        {
            let _ = writeln!(text, "{}: {reason}", story.name);
        }
    }
    let _ = write!(text, "{freed} of {asked} threads freed, tidy, and back at work");
    if skipped > 0 {
        let _ = write!(text, "; {skipped} skipped");
    }
    text.push('\n');
    text
}

/// Pads every column but the last of each line to its widest cell. A line with fewer cells than the heading ends in a
/// remark, which may be of any width.
fn align(lines: &[Vec<String>], text: &mut String) {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let full = lines.iter().filter(|cells| cells.len() == columns || column < 2);
        full.filter_map(|cells| cells.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for cells in lines {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or(0);
            // Times stand under each other by their units.
            let _ = if cell.ends_with(" us") || cell.ends_with(" ms") {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() * 1e6 {
        micros if micros < 10_000.0 => format!("{micros:.1} us"),
        micros => format!("{:.1} ms", micros / 1e3),
    }
}

/// One object, with one line for each case.
pub fn json(stories: &[Story], rounds: usize) -> String {
    let cases: Vec<String> = stories
        .iter()
        .map(|story| format!("    {}", json_case(story)))
        .collect();
    let failed: usize = stories.iter().map(Story::failures).sum();
    format!(
        "{{\n  \"rounds\": {rounds},\n  \"failures\": {failed},\n  \"cases\": [\n{}\n  ]\n}}\n",
        cases.join(",\n")
    )
}

fn json_case(story: &Story) -> String {
    let mut fields = vec![format!("\"case\": {}", quoted(story.name))];
    if let Some(last) = story.last() {
        fields.push(format!("\"stuck_in\": {}", quoted(&last.stuck_in)));
        fields.push(format!("\"freed\": {}", matches!(last.end, End::Freed(_))));
        match &last.end {
            End::Freed(freed) => fields.extend([
                format!("\"rung\": {}", quoted(&freed.rung.to_string())),
                format!("\"cleanup\": {}", quoted(&freed.cleanup)),
                format!("\"next_job\": {}", freed.next),
            ]),
            End::Skipped(reason) => fields.push(format!("\"skipped\": {}", quoted(reason))),
            End::Failed(reason) => fields.push(format!("\"failed\": {}", quoted(reason))),
        }
    }
    fields.push(format!("\"failures\": {}", story.failures()));
    let times = story.times();
    for (name, percent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
        if !times.is_empty() {
            fields.push(format!(
                "\"{name}_us\": {:.1}",
                percentile(&times, percent).as_secs_f64() * 1e6
            ));
        }
    }
    format!("{{{}}}", fields.join(", "))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            control if control < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}
