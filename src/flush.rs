//! When a flush is due, and which blocks it covers: a state machine without I/O.
//!
//! ```text
//!   wrote(n) ──► unflushed += n ──► limit reached, none under way? ──► a ticket covers them, unflushed = 0
//!
//!   ticket:  durable ──► done            failed ──► written off: the next flush is due after another `limit` blocks
//!            dropped ──► unflushed += covered: the next write finds it due again
//! ```
//!
//! A flush covers exactly what was counted when it began; what is written while it runs belongs to the next. While an
//! automatic flush is under way no second one begins, however many blocks are written: nobody but the task that
//! holds the ticket waits for the medium. A failed flush is written off because a dead disk would otherwise be
//! flushed on every fill; what it covered is no longer trusted, so nothing rests on it.

use crate::sync::Lock;

/// Counts unflushed blocks and says when to flush.
#[derive(Debug)]
pub(crate) struct FlushGate {
    limit_blocks: u64,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    unflushed_blocks: u64,
    automatic_under_way: bool,
}

/// Who asked for a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Threshold,
    Caller,
}

/// A flush that is to be done. Dropped before its end is told, what it covers counts as unflushed again.
#[derive(Debug)]
#[must_use]
pub(crate) struct FlushTicket<'a> {
    gate: &'a FlushGate,
    covered_blocks: u64,
    cause: Cause,
}

impl FlushGate {
    pub(crate) fn new(limit_blocks: u32) -> Self {
        Self {
            limit_blocks: u64::from(limit_blocks),
            state: Lock::default(),
        }
    }

    /// Counts `blocks` newly cached blocks. A ticket comes back where a flush is due.
    pub(crate) fn wrote(&self, blocks: u64) -> Option<FlushTicket<'_>> {
        self.state.with(|state| {
            state.unflushed_blocks = state.unflushed_blocks.saturating_add(blocks);
            if state.automatic_under_way || state.unflushed_blocks < self.limit_blocks {
                return None;
            }
            state.automatic_under_way = true;
            Some(self.ticket(state, Cause::Threshold))
        })
    }

    /// A flush that the caller asked for; it is done in any case.
    pub(crate) fn begin(&self) -> FlushTicket<'_> {
        self.state.with(|state| self.ticket(state, Cause::Caller))
    }

    fn ticket(&self, state: &mut State, cause: Cause) -> FlushTicket<'_> {
        FlushTicket {
            gate: self,
            covered_blocks: core::mem::take(&mut state.unflushed_blocks),
            cause,
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
        self.gate.state.with(|state| {
            state.unflushed_blocks = state.unflushed_blocks.saturating_add(self.covered_blocks);
            if self.cause == Cause::Threshold {
                state.automatic_under_way = false;
            }
        });
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_due_exactly_at_the_limit_and_covers_what_was_written_before_it() {
        for limit in 1..5 {
            let gate = FlushGate::new(limit);
            for round in 0..3 {
                for _ in 1..limit {
                    assert!(gate.wrote(1).is_none(), "round {round}");
                }
                let ticket = gate.wrote(1).expect("the limit is reached");
                assert_eq!(ticket.covered_blocks(), u64::from(limit));
                ticket.done();
            }
        }
    }

    #[test]
    fn what_is_written_during_a_flush_belongs_to_the_next() {
        let gate = FlushGate::new(2);
        let first = gate.wrote(2).expect("due");
        assert!(gate.wrote(5).is_none(), "one automatic flush at a time");
        first.done();
        let second = gate.wrote(1).expect("due since the first ended");
        assert_eq!(second.covered_blocks(), 6);
        second.done();
    }

    #[test]
    fn a_dropped_flush_is_due_again_with_the_next_write() {
        let gate = FlushGate::new(2);
        drop(gate.wrote(2).expect("due"));
        let again = gate.wrote(1).expect("due again");
        assert_eq!(again.covered_blocks(), 3);
        again.done();
        drop(gate.begin());
        assert!(gate.wrote(1).is_none());
    }

    #[test]
    fn a_flush_on_request_counts_like_any_other() {
        let gate = FlushGate::new(3);
        assert!(gate.wrote(2).is_none());
        let asked = gate.begin();
        assert_eq!(asked.covered_blocks(), 2);
        asked.done();
        assert!(gate.wrote(2).is_none());
        let automatic = gate.wrote(1).expect("due");
        let asked = gate.begin();
        assert_eq!(asked.covered_blocks(), 0);
        asked.done();
        automatic.done();
    }
}
