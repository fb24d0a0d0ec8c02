//! What happens next, chosen by chance: a woken task is polled, or a held call is let go.

use super::Rng;
use super::gate::Gate;
use super::poll::{Id, Poller};

/// A gate, whatever passes through it.
pub(crate) trait Holds {
    /// Lets one held call go, if there is one.
    fn release_any(&self, rng: &mut Rng);

    fn held_calls(&self) -> usize;
}

impl<L: Clone> Holds for Gate<L> {
    fn release_any(&self, rng: &mut Rng) {
        let held = self.held();
        if !held.is_empty() {
            self.release(held[rng.index(held.len())].0);
        }
    }

    fn held_calls(&self) -> usize {
        self.held().len()
    }
}

/// One thing that may happen.
pub(crate) enum Next {
    /// This woken task is polled.
    Poll(Id),
    /// A call that this gate holds is let go.
    Release(usize),
}

/// Chooses among the woken tasks and the held calls, each as likely as the others. Nothing where there is none.
pub(crate) fn next<T>(rng: &mut Rng, poller: &Poller<'_, T>, gates: &[&dyn Holds]) -> Option<Next> {
    let polls = poller.woken().into_iter().map(Next::Poll);
    let releases = gates.iter().enumerate();
    let releases = releases.flat_map(|(index, gate)| {
        core::iter::repeat_with(move || Next::Release(index)).take(gate.held_calls())
    });
    let mut choices: Vec<Next> = polls.chain(releases).collect();
    (!choices.is_empty()).then(|| choices.swap_remove(rng.index(choices.len())))
}

/// Lets things happen until nothing is left that can.
pub(crate) fn run_by_chance<T>(rng: &mut Rng, poller: &mut Poller<'_, T>, gates: &[&dyn Holds]) {
    while let Some(next) = next(rng, poller, gates) {
        match next {
            Next::Poll(id) => _ = poller.poll(id),
            Next::Release(gate) => gates[gate].release_any(rng),
        }
    }
}
