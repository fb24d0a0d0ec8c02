//! Whether the backend is asked at all: after so many failures in a row it is not, until a probe finds it well again.
//!
//! ```text
//!              n failures in a row                   m reads went past
//!   Healthy ─────────────────────────► Bypassed ─────────────────────────► Probing
//!      ▲   a success: from the start      ▲    or a caller wants the cache    │ │
//!      │                                  ├────────── failed: m reads again ──┘ │
//!      │                                  └────────── dropped: the next probes ─┤
//!      └──────────────────────────────────────────────────────── answered ──────┘
//! ```
//!
//! A state machine without I/O. Its states change under a lock, of which nobody who finds all well needs to know: calls
//! look at [`Bypass::is_on`], one load, and plain hits not even at that. Whoever enters holds a change of the bitmap open
//! and whoever leaves closes it ([`Validity::begin_change`](crate::bitmap::Validity::begin_change)), so that plain
//! hits find nothing trusted and go the long way by themselves. Both happen under the lock, once for each time it is
//! entered, so openings and closings nest. And the change is open for longer than [`Bypass::is_on`]: whoever is refused a
//! call cannot think that nothing changed meanwhile, and drop what it could not read.
//!
//! A plain hit that succeeds ends a row of failures like any other call, but must not pay for saying so. So a failure
//! asks how many plain hits there were, and if there were more than at the failure before, the row begins with it. So does
//! [`Bypass::is_failing`]. Rows are kept without limits too, so that it can tell.
//!
//! # What was not done
//!
//! A call that hangs is no failure: to call it one takes a clock. Probing by a write would tell of a full disk what a
//! read does not, but there is no byte in the file that is safe to write again at any time. So a backend that reads but
//! does not write is bypassed and used in turns.

use crate::config::BypassPolicy;
use crate::sync::{AtomicUsize, Lock, Ordering};

/// Nothing failed last.
const CALM: usize = 0;
/// Something failed last; a success has to say so.
const FAILING: usize = 1;
/// No call is made.
const ON: usize = 2;

/// Whether the backend of one file is asked.
#[derive(Debug)]
pub(crate) struct Bypass {
    limits: Option<BypassPolicy>,
    /// What of the state is looked at without the lock. Only written under it.
    glance: AtomicUsize,
    state: Lock<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Healthy {
        failures: u32,
        /// How many plain hits there were at the last failure.
        plain_hits: u64,
    },
    Bypassed {
        reads_left: u32,
    },
    Probing,
}

impl Default for State {
    fn default() -> Self {
        Self::Healthy {
            failures: 0,
            plain_hits: 0,
        }
    }
}

/// What whoever wants to use the backend does.
#[derive(Debug)]
pub(crate) enum Turn<'a> {
    Use,
    Pass,
    Probe(Probe<'a>),
}

/// The right, and the duty, to make one call and to tell how it ended. Dropped, the next read gets it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Probe<'a> {
    bypass: &'a Bypass,
}

impl Bypass {
    pub(crate) fn new(limits: Option<BypassPolicy>) -> Self {
        Self {
            limits,
            glance: AtomicUsize::new(CALM),
            state: Lock::default(),
        }
    }

    /// Whether no call is to be made.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.glance.load(Ordering::Acquire) == ON
    }

    /// Whether a row of failures is not over, when there have been so many plain hits. Never while the backend is bypassed.
    pub(crate) fn is_failing(&self, hits_so_far: impl FnOnce() -> u64) -> bool {
        if self.glance.load(Ordering::Acquire) != FAILING {
            return false;
        }
        let hits_so_far = hits_so_far();
        self.state.with(|state| match state {
            State::Healthy {
                failures,
                plain_hits,
            } => *failures != 0 && hits_so_far <= *plain_hits,
            State::Bypassed { .. } | State::Probing => false,
        })
    }

    /// A call failed, when there had been so many plain hits. If that was one too many, `enter` is run, under the lock,
    /// and the answer is true.
    pub(crate) fn failed(&self, hits_so_far: impl FnOnce() -> u64, enter: impl FnOnce()) -> bool {
        let hits_so_far = hits_so_far();
        self.state.with(|state| {
            let State::Healthy {
                failures,
                plain_hits,
            } = state
            else {
                // It was under way when the bypass was entered.
                return false;
            };
            if hits_so_far > *plain_hits {
                *plain_hits = hits_so_far;
                *failures = 0;
            }
            *failures = failures.saturating_add(1);
            let limits = self
                .limits
                .filter(|limits| *failures >= limits.after_failures);
            let Some(limits) = limits else {
                self.glance.store(FAILING, Ordering::Release);
                return false;
            };
            *state = State::Bypassed {
                reads_left: limits.probe_after_reads,
            };
            // The order matters here and in leaving, and is that of the module's head.
            enter();
            self.glance.store(ON, Ordering::Release);
            true
        })
    }

    /// A call that is no plain hit succeeded.
    #[inline]
    pub(crate) fn succeeded(&self) {
        // One that crosses a failure may miss it: neither was first.
        if self.glance.load(Ordering::Acquire) == FAILING {
            self.row_ended();
        }
    }

    #[cold]
    fn row_ended(&self) {
        self.state.with(|state| {
            if let State::Healthy { failures, .. } = state {
                *failures = 0;
                self.glance.store(CALM, Ordering::Release);
            }
        });
    }

    /// What a read does. While the backend is bypassed this counts it.
    pub(crate) fn turn(&self) -> Turn<'_> {
        self.turn_after(|reads_left| {
            let due = *reads_left == 0;
            *reads_left = reads_left.saturating_sub(1);
            due
        })
    }

    /// What somebody does who wants the cache, and not only bytes: probes, unless somebody else does already.
    pub(crate) fn turn_at_once(&self) -> Turn<'_> {
        self.turn_after(|_| true)
    }

    fn turn_after(&self, due: impl FnOnce(&mut u32) -> bool) -> Turn<'_> {
        if !self.is_on() {
            return Turn::Use;
        }
        self.state.with(|state| match state {
            State::Healthy { .. } => Turn::Use,
            State::Probing => Turn::Pass,
            State::Bypassed { reads_left } => {
                if due(reads_left) {
                    *state = State::Probing;
                    Turn::Probe(Probe { bypass: self })
                } else {
                    Turn::Pass
                }
            }
        })
    }

    /// Only one probes at a time, and only a probe ends the state, so it is still that of its beginning.
    fn end_probe(&self, next: State) {
        self.state.with(|state| *state = next);
    }
}

impl Probe<'_> {
    /// The backend is well again. `leave`, which ends what `enter` began, is run under the lock.
    pub(crate) fn answered(self, leave: impl FnOnce()) {
        self.bypass.state.with(|state| {
            *state = State::default();
            self.bypass.glance.store(CALM, Ordering::Release);
            leave();
        });
        core::mem::forget(self);
    }

    /// The backend is as it was.
    pub(crate) fn failed(self) {
        let reads_left = self
            .bypass
            .limits
            .map_or(0, |limits| limits.probe_after_reads);
        self.bypass.end_probe(State::Bypassed { reads_left });
        core::mem::forget(self);
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.bypass.end_probe(State::Bypassed { reads_left: 0 });
    }
}

#[cfg(all(test, not(model)))]
mod tests;

#[cfg(all(test, model))]
mod model;
