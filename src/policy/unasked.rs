//! [`Unasked`]: a ring of the runs that were fetched unasked last, so that their first use can be counted.
//!
//! Such a block is valid and not trusted, so its first read is no plain hit and passes here. The ring is short: what was
//! pushed out of it is used uncounted.

use alloc::collections::VecDeque;

use crate::run::Run;
use crate::sync::Lock;

/// How many runs are remembered.
const RUNS: usize = 1024;

/// Runs that no reader has asked for yet.
#[derive(Debug, Default)]
pub(super) struct Unasked(Lock<VecDeque<Run>>);

impl Unasked {
    /// Remembers `run`, where there is memory for it.
    pub(super) fn add(&self, run: Run) {
        self.0.with(|runs| {
            while runs.len() >= RUNS {
                runs.pop_front();
            }
            if runs.try_reserve(1).is_ok() {
                runs.push_back(run);
            }
        });
    }

    /// Forgets what is in `run`, and says how much that was, by `count` of each part.
    pub(super) fn take(&self, run: Run, count: impl Fn(Run) -> u64) -> u64 {
        self.0.with(|runs| {
            let mut taken = 0;
            for _ in 0..runs.len() {
                let Some(known) = runs.pop_front() else { break };
                let common = known.clip(run);
                taken += common.map_or(0, &count);
                let rest = match common {
                    Some(common) => [known.first_until(common.start()), known.from(common.end())],
                    None => [Some(known), None],
                };
                for part in rest.into_iter().flatten() {
                    if runs.len() < RUNS && runs.try_reserve(1).is_ok() {
                        runs.push_back(part);
                    }
                }
            }
            taken
        })
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    fn run(start: u64, end: u64) -> Run {
        Run::new(start, end).expect("not empty")
    }

    #[test]
    fn each_block_is_taken_once_in_whatever_pieces() {
        for first in 0..10 {
            for end in first + 1..=10 {
                let unasked = Unasked::default();
                unasked.add(run(2, 6));
                unasked.add(run(8, 9));
                let expected = [2, 3, 4, 5, 8];
                let of = |run: Run| {
                    let inside = |lba: &&u64| (run.start()..run.end()).contains(lba);
                    expected.iter().filter(inside).count() as u64
                };
                let asked = run(first, end);
                assert_eq!(unasked.take(asked, Run::blocks), of(asked));
                assert_eq!(unasked.take(asked, Run::blocks), 0, "once");
                let left = 5 - of(asked);
                assert_eq!(unasked.take(run(0, 10), Run::blocks), left);
            }
        }
    }

    #[test]
    fn the_oldest_are_forgotten_where_there_are_too_many() {
        let unasked = Unasked::default();
        for lba in 0..RUNS as u64 + 3 {
            unasked.add(Run::block(lba * 2));
        }
        assert_eq!(unasked.take(run(0, 6), Run::blocks), 0);
        assert_eq!(unasked.take(run(6, u64::MAX), Run::blocks), RUNS as u64);
        // Also where one is split.
        for lba in 0..RUNS as u64 {
            unasked.add(run(lba * 4, lba * 4 + 3));
            unasked.take(run(lba * 4 + 1, lba * 4 + 2), Run::blocks);
        }
        assert!(unasked.0.with(|runs| runs.len()) <= RUNS);
    }

    #[test]
    fn only_what_is_counted_counts() {
        let unasked = Unasked::default();
        unasked.add(run(0, 10));
        assert_eq!(unasked.take(run(0, 10), |_| 3), 3);
    }
}
