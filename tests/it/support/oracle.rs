//! The naive twin: a set of blocks, and no opinion on how they got there.

use std::collections::BTreeSet;

/// Which blocks a cache holds, and what its counters say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Oracle {
    cached: BTreeSet<u64>,
    hits: u64,
    misses: u64,
}

impl Oracle {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// What another process finds: the blocks, and counters at zero.
    pub(crate) fn after_reopening(before: &Self) -> Self {
        let cached = before.cached.clone();
        Self {
            cached,
            ..Self::default()
        }
    }

    /// A read from its first block on; counts, and then everything is cached.
    pub(crate) fn read(&mut self, lba: u64, blocks: u64) {
        self.look(lba, blocks);
        self.cache(lba, blocks);
    }

    /// A read that looks, and that may or may not come to an end.
    pub(crate) fn look(&mut self, lba: u64, blocks: u64) {
        let hits = self.cached.range(lba..lba + blocks).count() as u64;
        self.hits += hits;
        self.misses += blocks - hits;
    }

    /// These blocks became valid.
    pub(crate) fn cache(&mut self, lba: u64, blocks: u64) {
        self.cached.extend(lba..lba + blocks);
    }

    /// The holes of a range, as first block and length.
    pub(crate) fn missing(&self, lba: u64, blocks: u64) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for block in (lba..lba + blocks).filter(|block| !self.cached.contains(block)) {
            match runs.last_mut() {
                Some((start, count)) if *start + *count == block => *count += 1,
                _ => runs.push((block, 1)),
            }
        }
        runs
    }

    pub(crate) fn cached(&self) -> u64 {
        self.cached.len() as u64
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits
    }

    pub(crate) fn misses(&self) -> u64 {
        self.misses
    }
}
