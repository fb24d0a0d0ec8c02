//! What may be fetched beyond what was asked for: around a read, ahead of a reader, across a gap. No I/O, no waiting.
//!
//! ```text
//!   around:   asked    ....▓▓......            a fetch that would be smaller than the limit grows to
//!             fetched  [--------)              the multiples of the limit around it
//!   ahead:    asked    ▓▓▓▓▓▓                  a reader that came in sequence: its miss grows ahead,
//!             fetched  ▓▓▓▓▓▓--------          each time by twice as much
//!   gap:      asked    ▓▓##▓▓                  two missing runs of a request, with valid blocks between
//!             fetched  ▓▓--▓▓                  them: one fetch, of which only what was missing is stored
//! ```
//!
//! All of it is off unless the configuration says otherwise. A [`Plan`] is made for one request; the table of fetches
//! asks it when it claims a run, under its lock, so that a fetch [grows](widen) only over blocks that are missing and
//! that nobody fetches (I2).
//!
//! # What was not done
//!
//! Fetching ahead before the reader gets to the end of what is there, as an operating system does: somebody has to
//! poll that fetch, and a reader who is done with his own blocks would have to wait for it, or a task be started.
//! Widening a fetch beyond valid blocks that are in its way: it would fetch them twice, or go in pieces.

mod failed;
mod streams;
mod unasked;

use crate::bitmap::State;
use crate::config::wider::WiderFetches;
use crate::geometry::Geometry;
use crate::run::Run;
use crate::sync::{AtomicBool, Ordering};

use failed::Failed;
use streams::Streams;
use unasked::Unasked;

/// What is fetched beyond what was asked for, by all requests of a reader.
#[derive(Debug)]
pub(crate) struct FetchPolicy {
    total_blocks: u64,
    around_blocks: u64,
    gap_blocks: u64,
    streams: Option<Streams>,
    /// The last that was fetched could not be stored, so that more of it would be fetched for nothing.
    unstored: AtomicBool,
    unasked: Unasked,
    failed: Failed,
}

/// What one request may fetch beyond what it asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) total_blocks: u64,
    /// A smaller fetch grows to multiples of this; less than two is off.
    pub(crate) around_blocks: u64,
    /// So many blocks ahead of the request's end.
    pub(crate) ahead_blocks: u64,
    /// The request's end.
    pub(crate) end: u64,
    /// How many valid blocks may lie between two runs of one fetch.
    pub(crate) gap_blocks: u64,
}

impl FetchPolicy {
    pub(crate) fn new(wider: WiderFetches, geometry: Geometry) -> Self {
        let ahead_blocks = geometry.blocks_in(u64::from(wider.ahead_bytes()));
        Self {
            total_blocks: geometry.total_blocks(),
            around_blocks: geometry.blocks_in(u64::from(wider.around_bytes())),
            gap_blocks: u64::from(wider.gap_blocks()),
            streams: (ahead_blocks != 0)
                .then(|| Streams::new(ahead_blocks, wider.ahead_after_reads())),
            unstored: AtomicBool::new(false),
            unasked: Unasked::default(),
            failed: Failed::default(),
        }
    }

    /// `run` was fetched and stored, of which a reader asked for `asked`.
    pub(crate) fn fetched_around(&self, run: Run, asked: Run) {
        let around = [run.first_until(asked.start()), run.from(asked.end())];
        for unasked in around.into_iter().flatten() {
            self.unasked.add(unasked);
        }
    }

    /// `run` was read from the cache; how many of its blocks were fetched unasked and are read for the first time.
    /// `count_valid` tells how many blocks of a run are still valid.
    pub(crate) fn use_unasked(&self, run: Run, count_valid: impl Fn(Run) -> u64) -> u64 {
        if self.around_blocks < 2 && self.streams.is_none() {
            return 0;
        }
        self.unasked.take(run, count_valid)
    }

    /// The plan for a request for `run`, which is no plain hit.
    ///
    /// `misses` tells whether not all of it is valid, `is_trusted` whether reading a run would be a plain hit, hence not
    /// be seen here. `may_widen`: what is fetched unasked can be compared when it is read.
    pub(crate) fn plan(
        &self,
        run: Run,
        misses: impl Fn() -> bool,
        is_trusted: impl Fn(Run) -> bool,
        may_widen: bool,
    ) -> Plan {
        let ahead_blocks = self
            .streams
            .as_ref()
            .map_or(0, |streams| streams.observe(run, misses(), is_trusted));
        if !may_widen || self.unstored.load(Ordering::Relaxed) {
            let plan = Plan {
                gap_blocks: self.gap_blocks,
                ..Plan::default()
            };
            return if plan.widens() && self.failed.is_near(run) {
                Plan::default()
            } else {
                plan
            };
        }
        let plan = Plan {
            total_blocks: self.total_blocks,
            around_blocks: self.around_blocks,
            ahead_blocks,
            end: run.end(),
            gap_blocks: self.gap_blocks,
        };
        if plan.widens() && self.failed.is_near(plan.reach(run)) {
            return Plan::default();
        }
        plan
    }

    /// A wider fetch of `span` failed, and what was asked for came when it was fetched alone.
    pub(crate) fn failed_beside(&self, span: Run) {
        self.failed.add(span);
    }

    /// Something was fetched, and stored or not: until something is, nothing is fetched unasked.
    pub(crate) fn stored(&self, ok: bool) {
        // Mostly nothing changes, and a line that nobody writes to stays in every processor's cache.
        if self.unstored.load(Ordering::Relaxed) == ok {
            self.unstored.store(!ok, Ordering::Relaxed);
        }
    }
}

impl Plan {
    /// Whether it allows anything.
    const fn widens(&self) -> bool {
        self.around_blocks > 1 || self.ahead_blocks != 0 || self.gap_blocks != 0
    }

    /// How far the fetch of `run`, a missing part of the request, may reach; `run` itself at least.
    pub(crate) fn room(&self, run: Run) -> Run {
        let (mut start, mut end) = (run.start(), run.end());
        if run.blocks() < self.around_blocks {
            start -= start % self.around_blocks;
            let past = end % self.around_blocks;
            if past != 0 {
                end = end.saturating_add(self.around_blocks - past);
            }
        }
        if run.end() == self.end {
            end = end.max(self.end.saturating_add(self.ahead_blocks));
        }
        Run::new(start, end.min(self.total_blocks).max(run.end())).unwrap_or(run)
    }

    /// How far the fetches of any parts of `run`, which is all of the request, may reach.
    fn reach(&self, run: Run) -> Run {
        let first = self.room(run.first(1));
        let last = run.from(run.end() - 1).map_or(run, |last| self.room(last));
        self.room(run).hull(first).hull(last)
    }

    /// Whether a missing run is fetched together with the one before it in the same request, with so many valid blocks
    /// between them.
    pub(crate) const fn merges(&self, gap_blocks: u64) -> bool {
        self.gap_blocks != 0 && gap_blocks <= self.gap_blocks
    }
}

/// `run`, which is missing, grown both ways over what is missing of `room`, which contains it.
///
/// `state_at` tells the state of the first block of a run, and the longest beginning of the run that shares it.
pub(crate) fn widen(run: Run, room: Run, state_at: &impl Fn(Run) -> (State, Run)) -> Run {
    let mut start = run.start();
    let mut rest = room.first_until(start);
    while let Some(front) = rest {
        let (state, part) = state_at(front);
        if state == State::Missing && part.end() == run.start() {
            start = part.start();
        }
        rest = front.from(part.end());
    }
    let end = match room.from(run.end()).map(state_at) {
        Some((State::Missing, part)) => part.end(),
        Some((State::Valid, _)) | None => run.end(),
    };
    Run::new(start, end).unwrap_or(run)
}
