//! All threads as a table: [`report`].
//!
//! Owns: how a [`ThreadInfo`] and a table of them read. Leaves to `status` the looking.
//!
//! **Signal context:** no.

use std::fmt;

use crate::status::{MaskState, ThreadInfo, threads};

/// What all attached threads are doing, printed as a table. Made by [`report`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The rows.
    pub threads: Vec<ThreadInfo>,
}

/// Looks at all attached threads, as [`threads`] does, for a table that people can read.
///
/// ```
/// use throwto::thread::{self, Builder};
/// let worker = Builder::new()
///     .name("sleeper".into())
///     .spawn(|| thread::sleep(std::time::Duration::from_secs(3600)))?;
/// let report = throwto::report();
/// println!("{report}");
/// // ID    TID    NAME     STATE    MASK      PENDING  WHERE
/// // #0.1  11234  sleeper  waiting  unmasked  0        futex wait
/// assert!(report.to_string().contains("sleeper"));
/// # worker.raise(throwto::Stop)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn report() -> Report {
    Report { threads: threads() }
}

const HEAD: [&str; 7] = ["ID", "TID", "NAME", "STATE", "MASK", "PENDING", "WHERE"];

fn row(info: &ThreadInfo) -> [String; 7] {
    [
        info.id.to_string(),
        info.os_tid.to_string(),
        info.name.as_deref().map_or_else(|| "-".to_owned(), one_line),
        info.state.to_string(),
        info.mask.to_string(),
        info.pending.to_string(),
        place(info),
    ]
}

/// Where it is, in which call, and what stands in the way of a raise.
fn place(info: &ThreadInfo) -> String {
    let mut told = one_line(&info.where_blocked);
    if let Some(label) = info.region {
        told = format!("{told}, in {label}");
    }
    if info.left_behind {
        told.push_str(", left behind");
    }
    if info.nudge_blocked {
        told.push_str(", blocks the nudge signal");
    }
    if let Some(refusal) = &info.refused {
        told = format!("{told}, refused: {refusal}");
    }
    told
}

/// Names and paths may hold anything; a terminal shall not obey them.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.threads.iter().map(row).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.fold(HEAD[column].len(), usize::max)
        };
        let widths: Vec<usize> = (0..HEAD.len() - 1).map(width).collect();
        let head = HEAD.map(str::to_owned);
        for row in std::iter::once(&head).chain(&rows) {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", row[HEAD.len() - 1])?;
        }
        if rows.is_empty() {
            writeln!(f, "no thread is attached")?;
        }
        Ok(())
    }
}

/// One thread in one line: `thread #3.1 "worker", foreign, read(fd 3, pipe) for 2.1 s, in read, 1 pending`.
impl fmt::Display for ThreadInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.id)?;
        if let Some(name) = &self.name {
            write!(f, " \"{}\"", one_line(name))?;
        }
        write!(f, ", {}", self.state)?;
        if self.mask != MaskState::Unmasked {
            write!(f, ", {}", self.mask)?;
        }
        write!(f, ", {}", place(self))?;
        if self.pending > 0 {
            write!(f, ", {} pending", self.pending)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign;

    #[test]
    fn a_table_has_a_row_for_each_thread_and_columns_that_line_up() {
        let attachment = crate::attach().unwrap();
        let me = |report: &Report| {
            let mine = |info: &&ThreadInfo| info.id == attachment.id();
            report.threads.iter().find(mine).cloned().unwrap()
        };
        let (masked, seen) = crate::mask(|_| foreign::call(|| (1, report())).unwrap());
        assert_eq!(masked, 1);
        let mut mine = me(&seen);
        assert_eq!(mine.mask, MaskState::Masked);
        assert_eq!(me(&report()).mask, MaskState::Unmasked);

        mine.name = Some("a\x1b[2Jb\n".into());
        mine.region = Some("query");
        let mut long = mine.clone();
        long.name = Some("a much longer name".into());
        let table = Report {
            threads: vec![mine, long],
        }
        .to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        let column = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
        assert_eq!(column(lines[0], "STATE"), column(lines[1], "foreign"), "{table}");
        assert_eq!(
            column(lines[1], "foreign"),
            column(lines[2], "foreign"),
            "{table}"
        );
        assert_eq!(column(lines[0], "MASK"), column(lines[2], "masked"), "{table}");
        assert!(lines[1].ends_with(", in query"), "{table}");
        assert!(!table.contains('\x1b'), "a name gives no orders to the terminal");
    }

    #[test]
    fn nobody_is_said_so() {
        let table = Report { threads: Vec::new() }.to_string();
        assert!(table.ends_with("no thread is attached\n"), "{table}");
    }
}
