//! Every interleaving of threads, explored by a model checker.

use alloc::sync::Arc;
use loom::thread;

use super::*;
use crate::bitmap::Validity;
use crate::run::Run;

struct Shared {
    bypass: Bypass,
    validity: Validity,
}

impl Shared {
    fn new() -> Arc<Self> {
        let validity = Validity::new(4).expect("memory");
        let block = Run::block(0);
        validity.fill(block).expect("memory").publish(Some(block));
        Arc::new(Self {
            bypass: Bypass::new(Some(BypassPolicy {
                after_failures: 1,
                probe_after_reads: 1,
            })),
            validity,
        })
    }

    /// Whether a look that begins now is disturbed.
    fn is_disturbed(&self) -> bool {
        let look = self.validity.look(Run::block(0));
        look.is_none_or(|look| look.is_disturbed())
    }

    fn fail(&self) -> bool {
        self.bypass.failed(|| 0, || self.validity.begin_change())
    }

    /// Probes where it may; true where that ended the bypass.
    fn probe(&self) -> bool {
        match self.bypass.turn_at_once() {
            Turn::Use | Turn::Pass => false,
            Turn::Probe(probe) => {
                probe.answered(|| self.validity.end_change());
                true
            }
        }
    }

    fn check(&self, entered: usize, left: usize) {
        assert_eq!(entered - left, usize::from(self.bypass.is_on()));
        assert_eq!(self.is_disturbed(), self.bypass.is_on());
    }
}

#[test]
fn whoever_enters_and_leaves_opens_and_closes_one_change() {
    loom::model(|| {
        let shared = Shared::new();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || (usize::from(shared.fail()), usize::from(shared.probe())))
        };
        let mut entered = usize::from(shared.fail());
        let mut left = usize::from(shared.probe());
        let (entered_there, left_there) = other.join().expect("no panic");
        entered += entered_there;
        left += left_there;
        shared.check(entered, left);
    });
}

#[test]
fn only_one_probes_at_a_time_and_a_dropped_probe_is_another_s() {
    loom::model(|| {
        let shared = Shared::new();
        shared.fail();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || match shared.bypass.turn_at_once() {
                Turn::Probe(probe) => drop(probe),
                Turn::Use | Turn::Pass => {}
            })
        };
        let left = usize::from(shared.probe());
        other.join().expect("no panic");
        shared.check(1, left);
        if left == 0 {
            assert!(shared.probe(), "nobody is stuck");
        }
        shared.check(1, 1);
    });
}

#[test]
fn whoever_is_refused_a_call_knows_that_something_changed() {
    loom::model(|| {
        let shared = Shared::new();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.fail();
                shared.probe();
            })
        };
        if let Some(look) = shared.validity.look(Run::block(0)) {
            let refused = shared.bypass.is_on();
            assert!(!refused || look.is_disturbed());
        }
        other.join().expect("no panic");
        shared.check(1, 1);
    });
}

#[test]
fn a_success_that_came_after_a_failure_ends_the_row() {
    loom::model(|| {
        let bypass = Arc::new(Bypass::new(Some(BypassPolicy {
            after_failures: 3,
            probe_after_reads: 1,
        })));
        let other = {
            let bypass = Arc::clone(&bypass);
            thread::spawn(move || {
                bypass.failed(|| 0, || ());
            })
        };
        bypass.failed(|| 0, || ());
        bypass.succeeded();
        other.join().expect("no panic");
        // At most the other's failure is in the row, and this one.
        assert!(!bypass.failed(|| 0, || ()));
    });
}
