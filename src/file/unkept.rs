//! [`Unkept`]: a redo list. Which blocks were written since the last flush that kept them, and which a flush may have lost.
//!
//! ```text
//!   wrote ──► written ── a flush begins ──► covered ── all flushes under way kept theirs ──► forgotten
//!                │                             │
//!                └── a flush fails, or is dropped ──► lost ── rewritten ──► written
//! ```
//!
//! A flush that fails is no promise about any write that came before its answer: the medium may have forgotten it, and a
//! later flush that succeeds does not tell. So everything that was written and not kept is lost then: what the flush
//! covered, what other flushes under way cover, and what was written beside them. A flush that is dropped may have failed.
//!
//! What is covered is forgotten when no flush is under way any more. Until then one of them may still turn out to have
//! failed before another one succeeded.
//!
//! Memory is bounded: a set of runs keeps [`MOST_RUNS`] of them at most, and joins those that lie close to each other. So
//! a set may hold more than was put in, and never less. Blocks that are in it and not valid cost a look.

use alloc::vec::Vec;

use crate::run::Run;
use crate::sync::{AtomicUsize, Lock, Ordering};

/// How many runs a set keeps apart.
const MOST_RUNS: usize = 64;

/// What was written and is not known to be durable.
#[derive(Debug, Default)]
pub(super) struct Unkept {
    state: Lock<State>,
    /// How often anything was lost. Wraps.
    losses: AtomicUsize,
}

/// A moment between two losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since(usize);

#[derive(Debug, Default)]
struct State {
    written: Writes,
    covered: Writes,
    flushes_under_way: usize,
    lost: Runs,
    /// Blocks whose bits may have gone wrong in the file: a write of them, or of their neighbours, failed.
    torn: Option<Run>,
    /// How many tasks write such bits once more.
    mending: usize,
}

#[derive(Debug, Default)]
struct Writes {
    /// Data, checksums and bits.
    blocks: Runs,
    /// Bits that were written once more.
    mended: Option<Run>,
}

impl Writes {
    fn append(&mut self, other: &mut Self) {
        self.blocks.append(&mut other.blocks);
        if let Some(run) = other.mended.take() {
            widen(&mut self.mended, run);
        }
    }
}

fn widen(hull: &mut Option<Run>, run: Run) {
    *hull = Some(hull.map_or(run, |hull| hull.hull(run)));
}

/// A flush that is under way. Dropped, what it covers is lost.
#[derive(Debug)]
#[must_use]
pub(super) struct Covering<'u> {
    unkept: &'u Unkept,
    since: Since,
}

impl Unkept {
    /// Now, to be given to [`wrote`](Self::wrote) or [`rewritten`](Self::rewritten).
    pub(super) fn now(&self) -> Since {
        Since(self.losses.load(Ordering::Acquire))
    }

    /// Whether anything was ever lost.
    pub(super) fn has_ever_lost(&self) -> bool {
        self.now() != Since(0)
    }

    /// All of `run` was written, all of it since `since`. It is called before the run counts as valid.
    pub(super) fn wrote(&self, run: Run, since: Since) {
        self.state.with(|state| {
            if self.now() == since {
                state.written.blocks.add(run);
            } else {
                state.lost.add(run);
            }
        });
    }

    /// No block of `run` was valid at a moment after `since`: there is nothing to write again.
    pub(super) fn gone(&self, run: Run, since: Since) {
        self.state.with(|state| {
            if self.now() == since {
                state.lost.remove(run);
            }
        });
    }

    /// All of `run` that is valid was written once more since `since`.
    pub(super) fn rewritten(&self, run: Run, since: Since) {
        self.state.with(|state| {
            if self.now() == since {
                state.lost.remove(run);
                state.written.blocks.add(run);
            }
        });
    }

    /// The first run at or after `lba` that a flush may have lost.
    pub(super) fn lost_from(&self, lba: u64) -> Option<Run> {
        self.state.with(|state| state.lost.first_from(lba))
    }

    /// The bits of `run` may have gone wrong.
    pub(super) fn tore(&self, run: Run) {
        self.state.with(|state| widen(&mut state.torn, run));
    }

    /// The bits that may have gone wrong. The caller writes them, or [tears](Self::tore) them again.
    /// Until [`end_mending`](Self::end_mending) no flush is said to have kept everything.
    pub(super) fn take_torn(&self) -> Option<Run> {
        self.state.with(|state| {
            state.mending += 1;
            state.torn.take()
        })
    }

    /// `left` of what was torn still is.
    pub(super) fn end_mending(&self, left: Option<Run>) {
        self.state.with(|state| {
            state.mending -= 1;
            if let Some(left) = left {
                widen(&mut state.torn, left);
            }
        });
    }

    /// The bits of `run` were written once more.
    pub(super) fn mended(&self, run: Run) {
        self.state
            .with(|state| widen(&mut state.written.mended, run));
    }

    /// A flush begins that covers all that was written.
    pub(super) fn begin(&self) -> Covering<'_> {
        let since = self.state.with(|state| {
            state.flushes_under_way += 1;
            state.covered.append(&mut state.written);
            self.now()
        });
        Covering {
            unkept: self,
            since,
        }
    }
}

impl Covering<'_> {
    /// The flush succeeded. Whether all that was written before it is kept: nothing was lost before or meanwhile that has
    /// not been written again.
    pub(super) fn kept(self) -> bool {
        let all = self.unkept.state.with(|state| {
            state.flushes_under_way -= 1;
            if state.flushes_under_way == 0 {
                state.covered = Writes::default();
            }
            let is_torn = state.torn.is_some() || state.mending != 0;
            !is_torn && state.lost.is_empty() && self.unkept.now() == self.since
        });
        core::mem::forget(self);
        all
    }
}

impl Drop for Covering<'_> {
    fn drop(&mut self) {
        self.unkept.state.with(|state| {
            state.flushes_under_way -= 1;
            state.covered.append(&mut state.written);
            state.lost.append(&mut state.covered.blocks);
            if let Some(run) = state.covered.mended.take() {
                widen(&mut state.torn, run);
            }
            // Under the lock, so that a write is in one of the sets before this, or sees it.
            self.unkept.losses.fetch_add(1, Ordering::AcqRel);
        });
    }
}

/// A set of blocks, in order, as few runs. It may grow by what lies between them.
#[derive(Debug, Default)]
struct Runs(Vec<Run>);

impl Runs {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, run: Run) {
        let from = self.0.partition_point(|other| other.end() < run.start());
        let to = self.0.partition_point(|other| other.start() <= run.end());
        let joined = self.0.get(from..to).unwrap_or_default().iter();
        let joined = joined.fold(run, |joined, other| joined.hull(*other));
        if let Some(place) = self.0.get_mut(from).filter(|_| from < to) {
            *place = joined;
            self.0.drain(from + 1..to);
        } else if self.0.try_reserve(1).is_ok() {
            self.0.insert(from, run);
        } else if let Some(near) = self.0.get_mut(from.saturating_sub(1)) {
            // No memory. It lies after this one, or before the first.
            *near = near.hull(run);
            self.join_overlapping();
        }
        if self.0.len() > MOST_RUNS {
            self.join_closest();
        }
    }

    fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            core::mem::swap(self, other);
        }
        for run in other.0.drain(..) {
            self.add(run);
        }
    }

    fn remove(&mut self, run: Run) {
        let mut split = None;
        self.0.retain_mut(|other| {
            let (before, after) = (other.first_until(run.start()), other.from(run.end()));
            if before.is_some() && after.is_some() {
                split = after;
            }
            before.or(after).inspect(|left| *other = *left).is_some()
        });
        if let Some(after) = split {
            self.add(after);
        }
    }

    fn first_from(&self, lba: u64) -> Option<Run> {
        let place = self.0.partition_point(|other| other.end() <= lba);
        self.0.get(place).and_then(|run| run.from(lba))
    }

    /// Makes half as many of them, of those that lie closest to each other.
    fn join_closest(&mut self) {
        let gap = |pair: &[Run]| match pair {
            [before, after] => after.start() - before.end(),
            _ => 0,
        };
        let mut gaps = [0; MOST_RUNS];
        for (to, pair) in gaps.iter_mut().zip(self.0.windows(2)) {
            *to = gap(pair);
        }
        let (_, &mut widest, _) = gaps.select_nth_unstable(MOST_RUNS / 2);
        self.join_where(|before, after| after.start() - before.end() <= widest);
    }

    fn join_overlapping(&mut self) {
        self.join_where(|before, after| after.start() <= before.end());
    }

    fn join_where(&mut self, joins: impl Fn(Run, Run) -> bool) {
        self.0.dedup_by(|after, before| {
            let joins = joins(*before, *after);
            if joins {
                *before = before.hull(*after);
            }
            joins
        });
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    fn run(start: u64, end: u64) -> Run {
        Run::new(start, end).expect("not empty")
    }

    fn has(runs: &Runs, lba: u64) -> bool {
        runs.first_from(lba).is_some_and(|run| run.start() == lba)
    }

    #[test]
    fn a_set_holds_what_was_added_and_not_removed_and_stays_in_order() {
        // Each bit of `steps` adds or removes one of these.
        let all = [run(0, 2), run(1, 4), run(4, 5), run(6, 9), run(3, 7)];
        for steps in 0..all.len().pow(4) * 16 {
            let mut runs = Runs::default();
            let mut naive = [false; 10];
            let mut rest = steps;
            for _ in 0..4 {
                let (adds, which) = (rest % 2 == 0, all[rest / 2 % all.len()]);
                rest /= 2 * all.len();
                for lba in which.start()..which.end() {
                    naive[usize::try_from(lba).expect("small")] = adds;
                }
                if adds {
                    runs.add(which);
                } else {
                    runs.remove(which);
                }
            }
            for (lba, is_in) in (0..).zip(naive) {
                assert_eq!(has(&runs, lba), is_in, "{lba} of {runs:?}, {steps}");
            }
            assert!(runs.0.windows(2).all(|two| two[0].end() < two[1].start()));
        }
    }

    #[test]
    fn a_set_of_many_runs_stays_small_and_loses_none() {
        let mut runs = Runs::default();
        let mut state = 7_u64;
        let mut all = Vec::new();
        for _ in 0..5_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let lba = state >> 40;
            all.push(lba);
            runs.add(run(lba, lba + 1 + state % 3));
            assert!(runs.0.len() <= MOST_RUNS);
            assert!(runs.0.windows(2).all(|two| two[0].end() < two[1].start()));
        }
        assert!(all.iter().all(|lba| has(&runs, *lba)));
    }

    fn lost(unkept: &Unkept) -> Vec<(u64, u64)> {
        let mut from = 0;
        let next = || {
            let run = unkept.lost_from(from)?;
            from = run.end();
            Some((run.start(), run.end()))
        };
        core::iter::from_fn(next).collect()
    }

    #[test]
    fn what_a_flush_kept_is_forgotten_and_what_it_did_not_is_lost() {
        let unkept = Unkept::default();
        let since = unkept.now();
        unkept.wrote(run(0, 2), since);
        assert!(unkept.begin().kept());
        unkept.wrote(run(4, 5), since);
        let flush = unkept.begin();
        unkept.wrote(run(6, 7), since);
        drop(flush);
        assert_eq!(lost(&unkept), [(4, 5), (6, 7)], "also what came meanwhile");
        unkept.wrote(run(8, 9), since);
        assert_eq!(lost(&unkept).len(), 3, "it was begun before");
        assert!(!unkept.begin().kept(), "a later flush says nothing of it");
        let since = unkept.now();
        unkept.rewritten(run(4, 9), since);
        assert!(unkept.begin().kept());
    }

    #[test]
    fn a_flush_that_succeeds_beside_one_that_fails_promises_nothing() {
        for first_fails_late in [false, true] {
            let unkept = Unkept::default();
            unkept.wrote(run(0, 1), unkept.now());
            let first = unkept.begin();
            unkept.wrote(run(2, 3), unkept.now());
            let second = unkept.begin();
            if first_fails_late {
                assert!(second.kept(), "it does not know yet");
                drop(first);
            } else {
                drop(first);
                assert!(!second.kept());
            }
            assert_eq!(lost(&unkept), [(0, 1), (2, 3)]);
        }
    }

    #[test]
    fn what_is_lost_while_it_is_rewritten_stays_lost() {
        let unkept = Unkept::default();
        unkept.wrote(run(0, 4), unkept.now());
        drop(unkept.begin());
        let since = unkept.now();
        drop(unkept.begin());
        unkept.rewritten(run(0, 4), since);
        assert_eq!(lost(&unkept), [(0, 4)]);
    }

    #[test]
    fn bits_that_were_mended_are_torn_again_by_a_flush_that_fails() {
        let unkept = Unkept::default();
        unkept.tore(run(3, 4));
        unkept.tore(run(8, 9));
        assert!(!unkept.begin().kept(), "it is torn");
        assert_eq!(unkept.take_torn(), Some(run(3, 9)));
        assert!(!unkept.begin().kept(), "it is being mended");
        unkept.mended(run(3, 9));
        unkept.end_mending(None);
        drop(unkept.begin());
        assert_eq!(unkept.take_torn(), Some(run(3, 9)));
        unkept.mended(run(3, 9));
        unkept.end_mending(None);
        assert!(unkept.begin().kept());
        drop(unkept.begin());
        assert_eq!(unkept.take_torn(), None);
        unkept.end_mending(Some(run(4, 5)));
        assert_eq!(unkept.take_torn(), Some(run(4, 5)));
    }
}
