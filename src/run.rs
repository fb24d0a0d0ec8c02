//! [`Run`]: adjacent blocks treated as one.
//!
//! All bookkeeping is per run, so the cost of a request follows the number of its pieces and not of its blocks. A run
//! is never empty: "nothing" is `None`, and no code below has to ask.

/// A non-empty half-open range of lbas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    start: u64,
    end: u64,
}

impl Run {
    /// `start..end`, or nothing where that is empty.
    #[inline]
    pub(crate) const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// The run of one block. `lba` is the index of a block, hence below `u64::MAX`.
    pub(crate) const fn block(lba: u64) -> Self {
        Self {
            start: lba,
            end: lba + 1,
        }
    }

    #[inline]
    pub(crate) const fn start(self) -> u64 {
        self.start
    }

    /// The lba after the last one.
    #[inline]
    pub(crate) const fn end(self) -> u64 {
        self.end
    }

    #[inline]
    pub(crate) const fn blocks(self) -> u64 {
        self.end - self.start
    }

    /// What both have in common.
    pub(crate) fn clip(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The first `blocks` blocks, or all where there are fewer; `blocks` is at least one.
    pub(crate) fn first(self, blocks: u64) -> Self {
        Self {
            start: self.start,
            end: self.end.min(self.start.saturating_add(blocks.max(1))),
        }
    }

    /// What is in front of `lba`, exclusive.
    pub(crate) fn first_until(self, lba: u64) -> Option<Self> {
        Self::new(self.start, self.end.min(lba))
    }

    /// What is left behind `lba`, inclusive.
    #[inline]
    pub(crate) fn from(self, lba: u64) -> Option<Self> {
        Self::new(self.start.max(lba), self.end)
    }

    /// The same up to `end`, if that is behind the end.
    pub(crate) fn until(self, end: u64) -> Self {
        Self {
            start: self.start,
            end: self.end.max(end),
        }
    }

    /// Both, and what lies between them.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// Two halves, where there are two blocks at least.
    pub(crate) fn halves(self) -> Option<(Self, Self)> {
        let middle = self.start + self.blocks() / 2;
        Some((self.first_until(middle)?, self.from(middle)?))
    }

    /// Both as one, where `next` begins at this one's end.
    pub(crate) fn join(self, next: Self) -> Option<Self> {
        (self.end == next.start).then_some(Self {
            start: self.start,
            end: next.end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = (Run, alloc::vec::Vec<u64>)> {
        (0..6).flat_map(|start| {
            (0..6).filter_map(move |end| {
                Run::new(start, end).map(|run| (run, (start..end).collect()))
            })
        })
    }

    fn blocks_of(run: Option<Run>) -> alloc::vec::Vec<u64> {
        run.map_or_else(Default::default, |run| (run.start()..run.end()).collect())
    }

    #[test]
    fn runs_behave_as_the_sets_of_their_blocks() {
        for (a, set_a) in all() {
            assert_eq!(a.blocks(), set_a.len() as u64);
            for cut in 0..7 {
                let behind: alloc::vec::Vec<_> =
                    set_a.iter().copied().filter(|lba| *lba >= cut).collect();
                assert_eq!(blocks_of(a.from(cut)), behind);
                let in_front: alloc::vec::Vec<_> =
                    set_a.iter().copied().filter(|lba| *lba < cut).collect();
                assert_eq!(blocks_of(a.first_until(cut)), in_front);
                assert_eq!(a.until(cut).end(), a.end().max(cut));
                let first: alloc::vec::Vec<_> = set_a
                    .iter()
                    .copied()
                    .take(usize::try_from(cut.max(1)).unwrap_or(1))
                    .collect();
                assert_eq!(blocks_of(Some(a.first(cut))), first);
            }
            match a.halves() {
                None => assert_eq!(a.blocks(), 1),
                Some((first, second)) => {
                    assert_eq!(first.join(second), Some(a));
                    assert!(second.blocks() - first.blocks() <= 1);
                }
            }
            for (b, set_b) in all() {
                let both: alloc::vec::Vec<_> = set_a
                    .iter()
                    .copied()
                    .filter(|lba| set_b.contains(lba))
                    .collect();
                assert_eq!(blocks_of(a.clip(b)), both);
                assert_eq!(a.join(b).is_some(), a.end() == b.start());
                let hull = a.hull(b);
                assert_eq!(hull.start(), a.start().min(b.start()));
                assert_eq!(hull.end(), a.end().max(b.end()));
            }
        }
    }
}
