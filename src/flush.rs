//! When a flush is due, and which blocks it covers: a state machine without I/O.
//!
//! ```text
//!   wrote(n) ──► unflushed += n
//!   due(l)   ──► limit l reached? ──► a ticket covers them, unflushed = 0
//!   begin()  ───────────────────────►
//!
//!   defer()  ──► a task that caches for long puts off what it wrote: it is due for that task alone
//!
//!   ticket:  done    ──► durable, or failed and written off: the next is due after another `limit` blocks
//!            dropped ──► unflushed += covered: it is due again, except for what was put off
//! ```
//!
//! A flush covers exactly what was counted when it began. What is written while it runs belongs to the next, and a task
//! that reaches the limit again flushes again, beside the first. So no task waits for the medium except the one that
//! holds a ticket, and nothing that reached the limit is left behind.
//!
//! **Who makes it** ([`Limit`]). A limit in blocks is exact: the request that reaches it flushes, last of all it does. A
//! limit in bytes is about how much a loss of power may cost: a flush that is due waits for the next request that asks
//! the source, and is made beside it. So no reader waits for the medium unless its source is faster. Tried: flushing in
//! the request that reaches the limit. Every such read took a few milliseconds longer, and nothing else went on.
//!
//! What is put off is due at a limit of its own, for a task that caches ahead, and for others only when no task does any
//! more. A reader that misses while a device is cached ahead would otherwise wait for a flush of all that was written
//! since its last miss.
//!
//! A failed flush is written off, because a dead disk would otherwise be flushed on every fill. The file remembers what it
//! covered, and trusts none of it.

use crate::sync::Lock;

/// After how many newly cached blocks a flush is due, and who makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The request that reaches it.
    Exact(u64),
    /// The next request that asks the source.
    Beside(u64),
}

impl Limit {
    const fn blocks(self) -> u64 {
        match self {
            Self::Exact(blocks) | Self::Beside(blocks) => blocks,
        }
    }
}

/// Counts unflushed blocks and says when to flush.
#[derive(Debug, Default)]
pub(crate) struct FlushGate {
    unflushed: Lock<Unflushed>,
}

#[derive(Debug, Default)]
struct Unflushed {
    /// Due when they reach the limit.
    blocks: u64,
    /// Due for those who have put them off.
    deferred_blocks: u64,
    /// How many there are of those.
    deferring: usize,
}

impl Unflushed {
    /// All of them, where `of` are at least `limit`.
    fn take_at(&mut self, limit: u64, of: impl FnOnce(&Self) -> u64) -> Option<Covered> {
        (of(self) >= limit).then(|| Covered {
            blocks: core::mem::take(&mut self.blocks),
            deferred_blocks: core::mem::take(&mut self.deferred_blocks),
        })
    }

    /// What was taken is due again, for those for whom it was.
    fn put_back(&mut self, covered: Covered) {
        self.blocks = self.blocks.saturating_add(covered.blocks);
        self.deferred_blocks = self.deferred_blocks.saturating_add(covered.deferred_blocks);
        self.end_deferring();
    }

    /// What was put off is due for all, where nobody is left who has put it off.
    const fn end_deferring(&mut self) {
        if self.deferring == 0 {
            self.blocks = self.all();
            self.deferred_blocks = 0;
        }
    }

    const fn all(&self) -> u64 {
        self.blocks.saturating_add(self.deferred_blocks)
    }
}

/// What a flush covers.
#[derive(Clone, Copy, Debug, Default)]
struct Covered {
    blocks: u64,
    deferred_blocks: u64,
}

/// A flush that is to be done. Dropped before it is done, what it covers counts as unflushed again.
#[derive(Debug)]
#[must_use]
pub(crate) struct FlushTicket<'a> {
    gate: &'a FlushGate,
    covered: Covered,
}

/// The right to put off flushing, for a task that writes for long and flushes on its way.
#[derive(Debug)]
#[must_use]
pub(crate) struct Deferral<'a> {
    gate: &'a FlushGate,
    limit: Limit,
}

impl FlushGate {
    /// Counts `blocks` newly cached blocks.
    pub(crate) fn wrote(&self, blocks: u64) {
        self.unflushed
            .with(|unflushed| unflushed.blocks = unflushed.blocks.saturating_add(blocks));
    }

    /// The flush that is due, if one is.
    pub(crate) fn due(&self, limit: Limit) -> Option<FlushTicket<'_>> {
        let covered = self
            .unflushed
            .with(|unflushed| unflushed.take_at(limit.blocks(), |unflushed| unflushed.blocks));
        covered.map(|covered| self.ticket(covered))
    }

    /// Whether a flush is due.
    pub(crate) fn is_due(&self, limit: Limit) -> bool {
        self.unflushed
            .with(|unflushed| unflushed.blocks >= limit.blocks())
    }

    /// A flush that the caller asked for; it is done in any case.
    pub(crate) fn begin(&self) -> FlushTicket<'_> {
        let covered = self
            .unflushed
            .with(|unflushed| unflushed.take_at(0, Unflushed::all));
        self.ticket(covered.unwrap_or_default())
    }

    const fn ticket(&self, covered: Covered) -> FlushTicket<'_> {
        FlushTicket {
            gate: self,
            covered,
        }
    }

    /// For a task that is going to write for long.
    pub(crate) fn defer(&self, limit: Limit) -> Deferral<'_> {
        self.unflushed.with(|unflushed| unflushed.deferring += 1);
        Deferral { gate: self, limit }
    }
}

impl<'a> Deferral<'a> {
    /// Puts off `blocks` blocks that were counted as written.
    pub(crate) fn put_off(&self, blocks: u64) {
        self.gate.unflushed.with(|unflushed| {
            let blocks = blocks.min(unflushed.blocks);
            unflushed.blocks -= blocks;
            unflushed.deferred_blocks = unflushed.deferred_blocks.saturating_add(blocks);
        });
    }

    /// The flush that is due, if one is and covers at least `blocks`.
    pub(crate) fn due_at(&self, blocks: u64) -> Option<FlushTicket<'a>> {
        let limit = self.limit.blocks().max(blocks);
        let covered = self
            .gate
            .unflushed
            .with(|unflushed| unflushed.take_at(limit, Unflushed::all));
        covered.map(|covered| self.gate.ticket(covered))
    }
}

impl Drop for Deferral<'_> {
    fn drop(&mut self) {
        self.gate.unflushed.with(|unflushed| {
            unflushed.deferring -= 1;
            unflushed.end_deferring();
        });
    }
}

impl FlushTicket<'_> {
    /// How many blocks were written since the flush before.
    pub(crate) const fn covered_blocks(&self) -> u64 {
        self.covered
            .blocks
            .saturating_add(self.covered.deferred_blocks)
    }

    /// The backend answered, for better or worse.
    pub(crate) fn done(mut self) {
        self.covered = Covered::default();
    }
}

impl Drop for FlushTicket<'_> {
    fn drop(&mut self) {
        let covered = self.covered;
        self.gate
            .unflushed
            .with(|unflushed| unflushed.put_back(covered));
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    /// A gate, with a limit.
    struct Limited(FlushGate, Limit);

    impl Limited {
        fn new(blocks: u64) -> Self {
            Self(FlushGate::default(), Limit::Exact(blocks))
        }

        fn wrote(&self, blocks: u64) {
            self.0.wrote(blocks);
        }

        fn due(&self) -> Option<FlushTicket<'_>> {
            let is_due = self.0.is_due(self.1);
            let due = self.0.due(self.1);
            assert_eq!(due.is_some(), is_due);
            due
        }

        fn begin(&self) -> FlushTicket<'_> {
            self.0.begin()
        }

        fn defer(&self) -> Deferral<'_> {
            self.0.defer(self.1)
        }
    }

    fn wrote(gate: &Limited, blocks: u64) -> Option<FlushTicket<'_>> {
        gate.wrote(blocks);
        gate.due()
    }

    #[test]
    fn a_flush_is_due_exactly_at_the_limit_and_covers_what_was_written_before_it() {
        for limit in 1..5 {
            let gate = Limited::new(limit);
            for round in 0..3 {
                for _ in 1..limit {
                    assert!(wrote(&gate, 1).is_none(), "round {round}");
                }
                let ticket = wrote(&gate, 1).expect("the limit is reached");
                assert_eq!(ticket.covered_blocks(), limit);
                assert!(gate.due().is_none(), "once");
                ticket.done();
            }
        }
    }

    #[test]
    fn what_is_written_during_a_flush_belongs_to_the_next() {
        let gate = Limited::new(2);
        let first = wrote(&gate, 3).expect("due");
        assert!(wrote(&gate, 1).is_none());
        let second = wrote(&gate, 1).expect("due, whatever the first is doing");
        assert_eq!((first.covered_blocks(), second.covered_blocks()), (3, 2));
        first.done();
        second.done();
        assert!(gate.due().is_none());
    }

    #[test]
    fn a_dropped_flush_is_due_again_with_the_next_write() {
        let gate = Limited::new(2);
        drop(wrote(&gate, 2).expect("due"));
        let again = wrote(&gate, 1).expect("due again");
        assert_eq!(again.covered_blocks(), 3);
        again.done();
        drop(gate.begin());
        assert!(wrote(&gate, 1).is_none());
    }

    #[test]
    fn a_flush_on_request_counts_like_any_other() {
        let gate = Limited::new(3);
        assert!(wrote(&gate, 2).is_none());
        let asked = gate.begin();
        assert_eq!(asked.covered_blocks(), 2);
        asked.done();
        assert!(wrote(&gate, 2).is_none());
        wrote(&gate, 1).expect("due").done();
    }

    #[test]
    fn what_was_put_off_stays_that_when_its_flush_is_dropped() {
        let gate = Limited::new(2);
        let (first, second) = (gate.defer(), gate.defer());
        gate.wrote(5);
        first.put_off(5);
        // By the one who did, who goes then; and by somebody who flushes everything.
        drop(first.due_at(5).expect("five are there"));
        drop(first);
        drop(gate.begin());
        assert!(wrote(&gate, 1).is_none(), "only one is not put off");
        let last = gate.begin();
        assert_eq!(last.covered_blocks(), 6);
        drop(second);
        drop(last);
        let ticket = gate.due().expect("nobody else is there to flush them");
        assert_eq!(ticket.covered_blocks(), 6);
        ticket.done();
    }

    #[test]
    fn what_is_put_off_is_due_for_those_who_did_and_for_all_when_they_are_gone() {
        let gate = Limited::new(3);
        let (first, second) = (gate.defer(), gate.defer());
        gate.wrote(5);
        first.put_off(5);
        assert!(wrote(&gate, 2).is_none(), "only two are not put off");
        assert!(second.due_at(8).is_none());
        let ticket = wrote(&gate, 1).expect("three are not put off");
        assert_eq!(ticket.covered_blocks(), 8, "a flush covers everything");
        ticket.done();
        gate.wrote(4);
        second.put_off(100);
        drop(second.due_at(4).expect("four are there"));
        first.put_off(4);
        drop(first);
        assert!(gate.due().is_none());
        drop(second);
        let ticket = gate.due().expect("nobody else is there to flush them");
        assert_eq!(ticket.covered_blocks(), 4);
        ticket.done();
        let asked = gate.begin();
        assert_eq!(asked.covered_blocks(), 0);
        asked.done();
    }
}
