//! Calls that wait until the test lets them go.

use super::lock;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What a call does at its gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Goes through.
    Open,
    /// Is pending once, and wakes its task at once.
    Once,
    /// Is pending until it is let go.
    Shut,
}

/// One held call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

type ModeOf<L> = Box<dyn Fn(&L) -> Mode + Send>;

struct Held<L> {
    label: L,
    waker: Option<Waker>,
    released: bool,
}

struct State<L> {
    mode_of: ModeOf<L>,
    next: u64,
    held: BTreeMap<Ticket, Held<L>>,
}

/// A gate that every call of a source or a backend goes through, with a label that says which call it is.
pub(crate) struct Gate<L> {
    state: Mutex<State<L>>,
}

impl<L> fmt::Debug for Gate<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl<L: Clone> Gate<L> {
    /// A gate that stands open.
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                mode_of: Box::new(|_| Mode::Open),
                next: 0,
                held: BTreeMap::new(),
            }),
        }
    }

    /// From now on each call does what `mode_of` says of it. Held calls stay held.
    pub(crate) fn set(&self, mode_of: impl Fn(&L) -> Mode + Send + 'static) {
        lock(&self.state).mode_of = Box::new(mode_of);
    }

    /// Holds every call from now on.
    pub(crate) fn shut(&self) {
        self.set(|_| Mode::Shut);
    }

    /// Makes every call from now on pending once.
    pub(crate) fn once(&self) {
        self.set(|_| Mode::Once);
    }

    /// Lets everything through, from now on and whatever is held.
    pub(crate) fn open(&self) {
        self.set(|_| Mode::Open);
        self.release_all();
    }

    /// The calls that are held now, oldest first. One whose future was dropped is gone from here.
    pub(crate) fn held(&self) -> Vec<(Ticket, L)> {
        let state = lock(&self.state);
        let held = state.held.iter().filter(|(_, held)| !held.released);
        held.map(|(ticket, held)| (*ticket, held.label.clone()))
            .collect()
    }

    /// The labels of [`held`](Self::held).
    pub(crate) fn labels(&self) -> Vec<L> {
        self.held().into_iter().map(|(_, label)| label).collect()
    }

    /// Lets one call go.
    #[track_caller]
    pub(crate) fn release(&self, ticket: Ticket) {
        let waker = {
            let mut state = lock(&self.state);
            let held = state.held.get_mut(&ticket).expect("the call is held");
            held.released = true;
            held.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Lets all held calls go, and says how many these were.
    pub(crate) fn release_all(&self) -> usize {
        let held = self.held();
        for (ticket, _) in &held {
            self.release(*ticket);
        }
        held.len()
    }

    /// Lets the held calls go for which `which` holds, and says how many these were.
    pub(crate) fn release_where(&self, which: impl Fn(&L) -> bool) -> usize {
        let held = self.held();
        let chosen = held.into_iter().filter(|(_, label)| which(label));
        chosen.map(|(ticket, _)| self.release(ticket)).count()
    }

    /// Waits as the mode of this call says.
    pub(crate) fn pass(&self, label: L) -> Pass<'_, L> {
        Pass {
            gate: self,
            label: Some(label),
            place: Place::Before,
        }
    }
}

enum Place {
    Before,
    Once,
    Held(Ticket),
    Through,
}

/// The future of [`Gate::pass`].
pub(crate) struct Pass<'a, L: Clone> {
    gate: &'a Gate<L>,
    label: Option<L>,
    place: Place,
}

impl<L: Clone + Unpin> Future for Pass<'_, L> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let gate = self.gate;
        match self.place {
            Place::Before => {
                let label = self.label.take().expect("polled first");
                let mut state = lock(&gate.state);
                match (state.mode_of)(&label) {
                    Mode::Open => {
                        self.place = Place::Through;
                        return Poll::Ready(());
                    }
                    Mode::Once => {
                        self.place = Place::Once;
                        cx.waker().wake_by_ref();
                    }
                    Mode::Shut => {
                        let ticket = Ticket(state.next);
                        state.next += 1;
                        let waker = Some(cx.waker().clone());
                        let released = false;
                        let held = Held {
                            label,
                            waker,
                            released,
                        };
                        state.held.insert(ticket, held);
                        self.place = Place::Held(ticket);
                    }
                }
                Poll::Pending
            }
            Place::Once | Place::Through => {
                self.place = Place::Through;
                Poll::Ready(())
            }
            Place::Held(ticket) => {
                let mut state = lock(&gate.state);
                let held = state
                    .held
                    .get_mut(&ticket)
                    .expect("held until it is through");
                if held.released {
                    state.held.remove(&ticket);
                    self.place = Place::Through;
                    return Poll::Ready(());
                }
                held.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<L: Clone> Drop for Pass<'_, L> {
    fn drop(&mut self) {
        if let Place::Held(ticket) = self.place {
            lock(&self.gate.state).held.remove(&ticket);
        }
    }
}
