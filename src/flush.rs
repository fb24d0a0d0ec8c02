//! When a flush is due, and which blocks it covers: a state machine without I/O.
//!
//! ```text
//!   wrote(n) ──► unflushed += n
//!   due()    ──► limit reached? ──► a ticket covers them, unflushed = 0
//!   begin()  ──────────────────────►
//!
//!   ticket:  done    ──► durable, or failed and written off: the next is due after another `limit` blocks
//!            dropped ──► unflushed += covered: whoever writes next finds it due again
//! ```
//!
//! A flush covers exactly what was counted when it began; what is written while it runs belongs to the next, and
//! whoever reaches the limit again flushes again, beside the first. So nobody waits for the medium but who holds a
//! ticket, and nothing that reached the limit is left behind.
//!
//! A failed flush is written off because a dead disk would otherwise be flushed on every fill; what it covered is no
//! longer trusted, so nothing rests on it.

use crate::sync::Lock;

/// Counts unflushed blocks and says when to flush.
#[derive(Debug)]
pub(crate) struct FlushGate {
    limit_blocks: u64,
    unflushed_blocks: Lock<u64>,
}

/// A flush that is to be done. Dropped before it is done, what it covers counts as unflushed again.
#[derive(Debug)]
#[must_use]
pub(crate) struct FlushTicket<'a> {
    gate: &'a FlushGate,
    covered_blocks: u64,
}

impl FlushGate {
    pub(crate) fn new(limit_blocks: u32) -> Self {
        Self {
            limit_blocks: u64::from(limit_blocks),
            unflushed_blocks: Lock::default(),
        }
    }

    /// Counts `blocks` newly cached blocks.
    pub(crate) fn wrote(&self, blocks: u64) {
        self.unflushed_blocks
            .with(|unflushed| *unflushed = unflushed.saturating_add(blocks));
    }

    /// The flush that is due, if one is. For whoever has written.
    pub(crate) fn due(&self) -> Option<FlushTicket<'_>> {
        self.due_at(0)
    }

    /// The flush that is due, if one is and covers at least `blocks`. For whoever is still writing.
    pub(crate) fn due_at(&self, blocks: u64) -> Option<FlushTicket<'_>> {
        let covered = self.unflushed_blocks.with(|unflushed| {
            (*unflushed >= self.limit_blocks.max(blocks)).then(|| core::mem::take(unflushed))
        });
        covered.map(|covered_blocks| FlushTicket {
            gate: self,
            covered_blocks,
        })
    }

    /// A flush that the caller asked for; it is done in any case.
    pub(crate) fn begin(&self) -> FlushTicket<'_> {
        FlushTicket {
            gate: self,
            covered_blocks: self.unflushed_blocks.with(core::mem::take),
        }
    }
}

impl FlushTicket<'_> {
    /// How many blocks were written since the flush before.
    pub(crate) const fn covered_blocks(&self) -> u64 {
        self.covered_blocks
    }

    /// The backend answered, for better or worse.
    pub(crate) fn done(mut self) {
        self.covered_blocks = 0;
    }
}

impl Drop for FlushTicket<'_> {
    fn drop(&mut self) {
        self.gate.wrote(self.covered_blocks);
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    fn wrote(gate: &FlushGate, blocks: u64) -> Option<FlushTicket<'_>> {
        gate.wrote(blocks);
        gate.due()
    }

    #[test]
    fn a_flush_is_due_exactly_at_the_limit_and_covers_what_was_written_before_it() {
        for limit in 1..5 {
            let gate = FlushGate::new(limit);
            for round in 0..3 {
                for _ in 1..limit {
                    assert!(wrote(&gate, 1).is_none(), "round {round}");
                }
                let ticket = wrote(&gate, 1).expect("the limit is reached");
                assert_eq!(ticket.covered_blocks(), u64::from(limit));
                assert!(gate.due().is_none(), "once");
                ticket.done();
            }
        }
    }

    #[test]
    fn what_is_written_during_a_flush_belongs_to_the_next() {
        let gate = FlushGate::new(2);
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
        let gate = FlushGate::new(2);
        drop(wrote(&gate, 2).expect("due"));
        let again = wrote(&gate, 1).expect("due again");
        assert_eq!(again.covered_blocks(), 3);
        again.done();
        drop(gate.begin());
        assert!(wrote(&gate, 1).is_none());
    }

    #[test]
    fn a_flush_on_request_counts_like_any_other() {
        let gate = FlushGate::new(3);
        assert!(wrote(&gate, 2).is_none());
        let asked = gate.begin();
        assert_eq!(asked.covered_blocks(), 2);
        asked.done();
        assert!(wrote(&gate, 2).is_none());
        wrote(&gate, 1).expect("due").done();
    }
}
