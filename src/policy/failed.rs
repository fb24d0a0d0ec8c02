//! [`Failed`]: a ring of the spans whose wider fetch failed last, so that reads beside a bad block are not widened over it
//! again and again.
//!
//! A span is remembered for [`REQUESTS`] requests that could have been widened, and then tried again: a source may have
//! failed for a moment. There is no clock.

use alloc::collections::VecDeque;

use crate::run::Run;
use crate::sync::{AtomicUsize, Lock, Ordering};

/// How many spans are remembered.
const SPANS: usize = 32;

/// For how many requests.
const REQUESTS: u32 = 256;

/// Spans in which not every block can be fetched.
#[derive(Debug, Default)]
pub(super) struct Failed {
    /// How many there are, so that mostly no lock is taken.
    count: AtomicUsize,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests so far. Wraps.
    clock: u32,
    /// With the request after which each was added, oldest first.
    spans: VecDeque<(Run, u32)>,
}

impl Failed {
    /// Remembers `span`, where there is memory for it.
    pub(super) fn add(&self, span: Run) {
        self.state.with(|state| {
            state.spans.retain(|(known, _)| *known != span);
            if state.spans.len() == SPANS {
                state.spans.pop_front();
            }
            if state.spans.try_reserve(1).is_ok() {
                state.spans.push_back((span, state.clock));
            }
            self.count.store(state.spans.len(), Ordering::Relaxed);
        });
    }

    /// A request may reach over `room`; whether that meets a span that is remembered.
    pub(super) fn is_near(&self, room: Run) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.state.with(|state| {
            state.clock = state.clock.wrapping_add(1);
            let clock = state.clock;
            state
                .spans
                .retain(|(_, added)| clock.wrapping_sub(*added) <= REQUESTS);
            self.count.store(state.spans.len(), Ordering::Relaxed);
            let mut spans = state.spans.iter();
            spans.any(|(span, _)| span.clip(room).is_some())
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
    fn a_span_is_remembered_for_some_requests_and_then_tried_again() {
        let failed = Failed::default();
        assert!(!failed.is_near(run(0, 16)));
        failed.add(run(0, 16));
        for _ in 0..REQUESTS {
            assert!(failed.is_near(run(15, 20)));
        }
        assert!(!failed.is_near(run(15, 20)));
        failed.add(run(0, 16));
        assert!(failed.is_near(run(0, 1)));
        assert!(!failed.is_near(run(16, 32)));
    }

    #[test]
    fn the_oldest_are_forgotten_where_there_are_too_many() {
        let failed = Failed::default();
        for lba in 0..=SPANS as u64 {
            failed.add(Run::block(lba));
        }
        assert!(!failed.is_near(run(0, 1)));
        for lba in 1..=SPANS as u64 {
            assert!(failed.is_near(Run::block(lba)));
        }
    }
}
