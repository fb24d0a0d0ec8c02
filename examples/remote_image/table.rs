//! The table at the end: one row per pass, columns as wide as what is in them.

use std::fmt;
use std::iter;
use std::time::Duration;

use indicatif::BinaryBytes;

/// What one pass did and what it cost.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// What the readers asked the cache for, together.
    pub(crate) read_bytes: u64,
    /// What the cache asked the remote for.
    pub(crate) requests: u64,
    pub(crate) received_bytes: u64,
    /// From the first read to the last, the check of the bytes included.
    pub(crate) time: Duration,
    /// Blocks.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

/// Rows under a header. Its `Display` ends with the last row, without a newline.
#[derive(Debug)]
pub(crate) struct Table {
    lines: Vec<[String; COLUMNS]>,
}

const COLUMNS: usize = 6;

impl Table {
    pub(crate) fn of(rows: impl IntoIterator<Item = Row>) -> Self {
        let header = [
            "",
            "read",
            "requests",
            "over the network",
            "time",
            "hit rate",
        ]
        .map(String::from);
        let rows = rows.into_iter().map(|row| {
            [
                row.name,
                bytes(row.read_bytes),
                row.requests.to_string(),
                bytes(row.received_bytes),
                time(row.time),
                percent(row.hits, row.misses),
            ]
        });
        Self {
            lines: iter::once(header).chain(rows).collect(),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            for (column, cell) in line.iter().enumerate() {
                let width = self
                    .lines
                    .iter()
                    .map(|line| line[column].chars().count())
                    .max()
                    .unwrap_or(0);
                // Names to the left, figures to the right, under each other.
                if column == 0 {
                    write!(f, "{cell:<width$}")?;
                } else {
                    write!(f, "   {cell:>width$}")?;
                }
            }
        }
        Ok(())
    }
}

/// `64.00 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    BinaryBytes(count).to_string()
}

pub(crate) fn time(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rounded percentage has no use for more than 52 bits"
)]
fn percent(hits: u64, misses: u64) -> String {
    match hits + misses {
        0 => "-".into(),
        all => format!("{:.1} %", hits as f64 * 100.0 / all as f64),
    }
}
