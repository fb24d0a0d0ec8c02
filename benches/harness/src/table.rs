//! The table at the end.

use std::time::Duration;

use crate::rounds::{Budget, Samples};

/// How thorough a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// All sizes as they are documented.
    Full,
    /// Smaller sizes, fewer rounds: under a minute in all.
    Quick,
    /// The sizes of `Quick`, one round: to see that everything works.
    Once,
}

impl Scale {
    /// `full`, or `quick`.
    #[must_use]
    pub fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick | Self::Once => quick,
        }
    }

    /// For samples of a few milliseconds at most.
    #[must_use]
    pub fn short(self) -> Budget {
        Budget {
            time: self.pick(Duration::from_secs(6), Duration::from_millis(400)),
            least: self.pick(31, 7),
            most: if self == Self::Once { 1 } else { 1000 },
        }
    }

    /// For samples of up to a second.
    #[must_use]
    pub fn long(self) -> Budget {
        Budget {
            time: self.pick(Duration::from_secs(15), Duration::from_millis(1200)),
            least: self.pick(7, 2),
            most: if self == Self::Once { 1 } else { 200 },
        }
    }
}

/// What a ratio to the limit should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// None: the row explains another.
    Open,
}

impl Goal {
    fn text(self, ratio: f64) -> String {
        let (reached, text) = match self {
            Self::AtMost(goal) => (ratio <= goal, format!("≤ {goal}")),
            Self::AtLeast(goal) => (ratio >= goal, format!("≥ {goal}")),
            Self::Open => return String::new(),
        };
        format!("{text} {}", if reached { "yes" } else { "NO" })
    }
}

/// One workload and how it went.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub workload: String,
    /// How figures are written.
    pub unit: fn(f64) -> String,
    /// The published crate's figures, where it can do the workload.
    pub published: Option<Samples>,
    /// This crate's.
    pub ours: Samples,
    /// What the machine allows.
    pub limit: Samples,
    /// What was aimed at.
    pub goal: Goal,
    /// Allocations of one request, of the published crate and of this one, where they were counted.
    pub allocations: Option<[f64; 2]>,
    /// What else was counted. Said when the row comes in, not in the table.
    pub notes: String,
}

/// Rows as they come in.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<[String; 8]>,
}

impl Table {
    /// Takes in a row and says it, so that whoever waits sees how it goes.
    pub fn push(&mut self, row: &Row) {
        let ratio = row.ours.by(&row.limit);
        let middle = ratio.median();
        let figure = |samples: &Samples| {
            let middle = samples.median();
            if middle.is_nan() {
                return "–".into();
            }
            (row.unit)(middle)
        };
        let spread = if ratio.rounds() > 1 {
            format!(" ({:.2}–{:.2})", ratio.quantile(0.25), ratio.quantile(0.75))
        } else {
            String::new()
        };
        let published = row.published.as_ref();
        let cells = [
            row.workload.clone(),
            published.map_or_else(|| "–".into(), figure),
            figure(&row.ours),
            figure(&row.limit),
            format!("{middle:.2}{spread}"),
            published.map_or_else(
                || "–".into(),
                |published| format!("{:.2}", published.by(&row.limit).median()),
            ),
            row.goal.text(middle),
            row.allocations
                .map(|[published, ours]| format!("{published:.1} → {ours:.1}"))
                .unwrap_or_default(),
        ];
        let [
            workload,
            published,
            ours,
            limit,
            ratio,
            published_ratio,
            goal,
            _,
        ] = &cells;
        println!("{workload}");
        println!(
            "    0.0.1 {published}, ours {ours}, limit {limit}; {} rounds",
            row.limit.rounds()
        );
        println!("    ours/limit {ratio}, 0.0.1/limit {published_ratio}; goal {goal}");
        if !row.notes.is_empty() {
            println!("    {}", row.notes);
        }
        self.rows.push(cells);
    }

    /// Prints all rows.
    pub fn print(&self) {
        let heads = [
            "workload",
            "0.0.1",
            "ours",
            "limit",
            "ours/limit",
            "0.0.1/limit",
            "goal",
            "allocations",
        ]
        .map(String::from);
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&heads]);
            cells
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 8] = core::array::from_fn(width);
        let line = |row: &[String; 8]| {
            let mut text = String::from("|");
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                let cell = if column == 0 {
                    format!(" {cell:<width$} |")
                } else {
                    format!(" {cell:>width$} |")
                };
                text.push_str(&cell);
            }
            println!("{text}");
        };
        println!();
        line(&heads);
        line(&widths.map(|width| "-".repeat(width)));
        for row in &self.rows {
            line(row);
        }
    }
}

/// Nanoseconds in a unit that suits them.
#[must_use]
pub fn nanos(figure: f64) -> String {
    match figure {
        _ if figure < 1e3 => format!("{figure:.1} ns"),
        _ if figure < 1e6 => format!("{:.2} µs", figure / 1e3),
        _ => format!("{:.2} ms", figure / 1e6),
    }
}

/// Bytes in a unit that suits them.
#[must_use]
pub fn bytes(figure: f64) -> String {
    match figure {
        _ if figure < 1024.0 * 1024.0 => format!("{:.1} KiB", figure / 1024.0),
        _ => format!("{:.1} MiB", figure / 1024.0 / 1024.0),
    }
}
