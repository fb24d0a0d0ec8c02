//! [`Trouble`]: a log limiter. One kind of call's failures are told when they begin and when they are over, with counts.
//!
//! A single bad sector fails between many reads that succeed, so trouble is over only after some successes in a row.
//! The calls in between are told at `debug`.

use gibblox_core::GibbloxError;
use tracing::{debug, warn};

use crate::sync::{AtomicBool, Lock, Ordering};

/// So many successes in a row end it.
const OVER_AFTER: u32 = 64;

/// The failures of one kind of call.
#[derive(Debug)]
pub(super) struct Trouble {
    what: &'static str,
    /// Whether there is any; looked at without the lock.
    is_on: AtomicBool,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u64,
    successes_since: u32,
}

impl Trouble {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            is_on: AtomicBool::new(false),
            state: Lock::default(),
        }
    }

    #[cold]
    pub(super) fn failed(&self, offset: u64, error: &GibbloxError) {
        let what = self.what;
        let is_first = self.state.with(|state| {
            state.failures = state.failures.saturating_add(1);
            state.successes_since = 0;
            self.is_on.store(true, Ordering::Relaxed);
            state.failures == 1
        });
        if is_first {
            warn!(offset, %error, "{what} the cache failed; further failures are counted");
        } else {
            debug!(offset, %error, "{what} the cache failed again");
        }
    }

    #[inline]
    pub(super) fn answered(&self) {
        // One that crosses a failure may miss it: neither was first.
        if self.is_on.load(Ordering::Relaxed) {
            self.answered_in_trouble();
        }
    }

    #[cold]
    fn answered_in_trouble(&self) {
        let what = self.what;
        let failures = self.state.with(|state| {
            state.successes_since += 1;
            if state.successes_since < OVER_AFTER {
                return 0;
            }
            self.is_on.store(false, Ordering::Relaxed);
            core::mem::take(state).failures
        });
        if failures != 0 {
            warn!(failures, "{what} the cache succeeds again");
        }
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;
    use gibblox_core::GibbloxErrorKind;

    fn failures(trouble: &Trouble) -> u64 {
        trouble.state.with(|state| state.failures)
    }

    #[test]
    fn trouble_is_over_after_successes_in_a_row_and_not_before() {
        let trouble = Trouble::new("reading");
        let error = GibbloxError::new(GibbloxErrorKind::Io);
        trouble.answered();
        assert_eq!(failures(&trouble), 0);
        for round in 1..4 {
            trouble.failed(0, &error);
            for _ in 1..OVER_AFTER {
                trouble.answered();
            }
            assert_eq!(failures(&trouble), round, "one success short of the end");
        }
        trouble.answered();
        assert_eq!(failures(&trouble), 0);
        assert!(!trouble.is_on.load(Ordering::Relaxed));
    }
}
