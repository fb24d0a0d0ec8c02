//! Who fetches which run, and who waits for whom.
//!
//! ```text
//!            claim ──► Valid:  nothing to fetch
//!                  ──► Lead:   nobody fetches it yet; the caller does
//!                  ──► Follow: somebody does; the caller is told how it ends
//!
//!   Lead:  finish(outcome) ──► followers hear the outcome
//!          dropped         ──► followers hear that their leader is gone, and claim again
//! ```
//!
//! A [`Lead`] is a guard: however it ends, by an outcome, an early return, a dropped future or a panic, its run leaves
//! the table (I3). The bitmap is looked at again under the table's lock before a run is claimed, and a leader
//! publishes in the bitmap before its run leaves the table, so between looking and claiming no other fetch can slip
//! in (I2).
//!
//! Nobody who leads waits for anybody in order to go on leading, so there is no circle to wait in: a reader that leads
//! some runs and follows others fetches and waits side by side.
//!
//! Followers learn errors as they were. Whether an error also *is* theirs depends on what they asked for:
//! [`Follow::shares_fate`].
//!
//! A fetch may bring more than was asked for, as the [`Plan`] of the request says. It grows when it is claimed, under the
//! table's lock, over blocks that are missing and that nobody fetches, and all of it is in the table: whoever wants
//! some of it follows. Across a short gap of valid blocks two runs of a request become one [`Fetch`].
//!
//! The table is a sorted vector: it keeps its memory, so that a claim allocates nothing, and a request claims no more
//! than it begins to fetch, so that it stays short.
//!
//! The same table, over the bytes of the bitmap, orders those who write them: see [`FlightTable::alone`].

use alloc::vec::Vec;

use futures_channel::oneshot::{Receiver, Sender, channel};
use gibblox_core::GibbloxError;
use smallvec::SmallVec;

use crate::bitmap::State;
use crate::policy::{Plan, widen};
use crate::run::Run;
use crate::sync::Lock;

/// How a fetch ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The run is valid.
    Published,
    /// The source answered, but the backend did not take the bytes, with this error.
    Unstored(GibbloxError),
    /// The source did not answer, with this error.
    Failed(GibbloxError),
}

/// The runs that are being fetched.
#[derive(Debug, Default)]
pub(crate) struct FlightTable {
    flights: Lock<Flights>,
}

#[derive(Debug, Default)]
struct Flights {
    /// Disjoint, sorted by run.
    sorted: Vec<Flight>,
    /// The last call to `claim`; to be mistaken it would have to wrap within one fetch.
    last_batch: usize,
}

#[derive(Debug)]
struct Flight {
    run: Run,
    /// Which call to `claim` leads it.
    batch: usize,
    followers: Vec<Sender<Outcome>>,
}

/// What a claim found out about a part of what was wanted.
#[derive(Debug)]
pub(crate) enum Claim<'t> {
    Valid(Run),
    Lead(Fetch<'t>),
    Follow(Follow),
}

/// The parts of a claim, in order. Mostly one.
pub(crate) type Claims<'t> = SmallVec<[Claim<'t>; 1]>;

impl Claim<'_> {
    /// What of the wanted it covers.
    pub(crate) fn run(&self) -> Run {
        match self {
            Claim::Valid(run) => *run,
            Claim::Lead(fetch) => fetch.asked(),
            Claim::Follow(follow) => follow.run,
        }
    }
}

/// The right, and the duty, to fetch a run. Dropping it hands the run to whoever claims it next.
#[derive(Debug)]
#[must_use]
pub(crate) struct Lead<'t> {
    table: &'t FlightTable,
    run: Run,
    /// What of the run was asked for.
    asked: Run,
}

/// What one read of the source is to bring: runs that are led, in order, and what is valid between them. Mostly one.
#[derive(Debug)]
#[must_use]
pub(crate) struct Fetch<'t> {
    first: Lead<'t>,
    more: Vec<Lead<'t>>,
}

/// A run, or a part of one, that somebody else fetches.
#[derive(Debug)]
pub(crate) struct Follow {
    run: Run,
    leader: Leader,
    shares_fate: bool,
    outcome: Receiver<Outcome>,
}

/// What a follower knows of its leader's fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leader {
    batch: usize,
    /// The follower wants all of the leader's run.
    whole: bool,
}

impl Follow {
    /// Whether the leader's error is this follower's own.
    ///
    /// It is if the follower wants nothing outside of what its leader tried to fetch, and all of this run: then it
    /// would have made the same call. If it wants only a part, the part may be sound, and it asks for itself.
    pub(crate) const fn shares_fate(&self) -> bool {
        self.shares_fate
    }

    /// Waits for the outcome; nothing where the leader was dropped.
    ///
    /// Cancellation is strict: a dropped follower is forgotten.
    pub(crate) async fn outcome(self) -> Option<Outcome> {
        self.outcome.await.ok()
    }
}

impl FlightTable {
    /// Divides `wanted` into what is valid, what somebody fetches, and what the caller now has to fetch.
    ///
    /// `wanted` are the parts of one request, disjoint and in order. The claims cover them exactly, in order, but end
    /// behind the first `most_fetches` fetches: nobody should claim what it does not begin to fetch at once, since others
    /// would wait for it. `plan` says what may be fetched beyond what is wanted. `state_at` tells the state of the first
    /// block of a run, and the longest beginning of the run that shares it; it is asked under the table's lock.
    pub(crate) fn claim(
        &self,
        wanted: impl Iterator<Item = Run>,
        most_fetches: usize,
        plan: &Plan,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Claims<'_> {
        let mut claims = Claims::new();
        let mut fetches = 0;
        self.flights.with(|flights| {
            let batch = flights.begin_batch();
            for run in wanted {
                let mut rest = Some(run);
                // How many valid blocks, and nothing else, there are since the last lead of this part.
                let mut gap = None;
                while let Some(run) = rest {
                    let merges = gap.is_some_and(|gap| plan.merges(gap));
                    if fetches == most_fetches && !merges {
                        return;
                    }
                    let claim = self.claim_first(flights, batch, run, plan, &state_at);
                    let claimed = claim.run();
                    rest = run.from(claimed.end());
                    match claim {
                        Claim::Lead(fetch) if merges => {
                            merge(&mut claims, fetch);
                            gap = Some(0);
                        }
                        claim => {
                            gap = match claim {
                                Claim::Lead(_) => Some(0),
                                Claim::Valid(_) => gap.map(|gap| gap + claimed.blocks()),
                                Claim::Follow(_) => None,
                            };
                            fetches += usize::from(matches!(claim, Claim::Lead(_)));
                            claims.push(claim);
                        }
                    }
                }
            }
        });
        let mut leaders = claims.iter().filter_map(|claim| match claim {
            Claim::Valid(_) => None,
            Claim::Lead(_) => Some(None),
            Claim::Follow(follow) => Some(Some(follow.leader.batch)),
        });
        let first = leaders.next();
        if leaders.all(|leader| Some(leader) == first) {
            for claim in &mut claims {
                if let Claim::Follow(follow) = claim {
                    follow.shares_fate = follow.leader.whole;
                }
            }
        }
        claims
    }

    /// What is so of the beginning of `run`, up to where something else is. Nothing else is fetched.
    pub(crate) fn claim_one(&self, run: Run, state_at: impl Fn(Run) -> (State, Run)) -> Claim<'_> {
        self.flights.with(|flights| {
            let batch = flights.begin_batch();
            let plan = Plan::default();
            let mut claim = self.claim_first(flights, batch, run, &plan, &state_at);
            if let Claim::Follow(follow) = &mut claim {
                follow.shares_fate = follow.leader.whole && follow.run == run;
            }
            claim
        })
    }

    /// All of `run`, where it is missing and nobody fetches any of it. What [`claim`](Self::claim) comes to then, with
    /// less ado.
    pub(crate) fn lead_all(
        &self,
        run: Run,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Option<Fetch<'_>> {
        self.flights.with(|flights| {
            let index = flights.index_of(run);
            let next = flights.sorted.get(index);
            if next.is_some_and(|flight| flight.run.start() < run.end())
                || state_at(run) != (State::Missing, run)
            {
                return None;
            }
            let batch = flights.begin_batch();
            Some(self.lead(flights, index, batch, run, run))
        })
    }

    /// Waits until nobody else has any of `run`, and has all of it.
    ///
    /// Cancellation is strict. Nothing is held while waiting, so there is no circle to wait in.
    pub(crate) async fn alone(&self, run: Run) -> Fetch<'_> {
        loop {
            if let Some(all) = self.lead_all(run, |run| (State::Missing, run)) {
                return all;
            }
            let wanted = core::iter::once(run);
            let missing = |run| (State::Missing, run);
            let claims = self.claim(wanted, usize::MAX, &Plan::default(), missing);
            let mut others = None;
            for claim in claims {
                match claim {
                    Claim::Lead(all) if all.span() == run => return all,
                    Claim::Follow(follow) => others = others.or(Some(follow)),
                    // A part of it is of no use, and is released.
                    Claim::Lead(_) | Claim::Valid(_) => {}
                }
            }
            if let Some(other) = others {
                // However it ends, that one is gone.
                let _ = other.outcome().await;
            }
        }
    }

    /// What is so of the beginning of `run`.
    fn claim_first<'t>(
        &'t self,
        flights: &mut Flights,
        batch: usize,
        run: Run,
        plan: &Plan,
        state_at: &impl Fn(Run) -> (State, Run),
    ) -> Claim<'t> {
        let index = flights.index_of(run);
        let mut free = run;
        if let Some(flight) = flights.sorted.get_mut(index) {
            if let Some(common) = flight.run.clip(run) {
                if common.start() == run.start() {
                    return Claim::Follow(flight.follow(common));
                }
                free = run.first(common.start() - run.start());
            }
        }
        match state_at(free) {
            (State::Valid, part) => Claim::Valid(part),
            (State::Missing, asked) => {
                let run = flights.widen(index, asked, plan, state_at);
                Claim::Lead(self.lead(flights, index, batch, run, asked))
            }
        }
    }

    /// Puts `run` into the table, in its place `index`.
    fn lead<'t>(
        &'t self,
        flights: &mut Flights,
        index: usize,
        batch: usize,
        run: Run,
        asked: Run,
    ) -> Fetch<'t> {
        flights.sorted.insert(
            index,
            Flight {
                run,
                batch,
                followers: Vec::new(),
            },
        );
        Fetch {
            first: Lead {
                table: self,
                run,
                asked,
            },
            more: Vec::new(),
        }
    }

    /// How many runs are being fetched.
    #[cfg(all(test, not(model)))]
    fn in_flight(&self) -> usize {
        self.flights.with(|flights| flights.sorted.len())
    }

    fn remove(&self, run: Run) -> Vec<Sender<Outcome>> {
        self.flights.with(|flights| {
            let index = flights.index_of(run);
            // Whoever holds the `Lead` is alone in removing it, so it is there.
            if flights
                .sorted
                .get(index)
                .is_some_and(|flight| flight.run == run)
            {
                flights.sorted.remove(index).followers
            } else {
                Vec::new()
            }
        })
    }
}

impl Flights {
    /// Where the first flight is that does not end in front of `run`, and where `run` belongs if it overlaps none.
    fn index_of(&self, run: Run) -> usize {
        self.sorted
            .partition_point(|flight| flight.run.end() <= run.start())
    }

    fn begin_batch(&mut self) -> usize {
        self.last_batch = self.last_batch.wrapping_add(1);
        self.last_batch
    }

    /// `asked`, which is missing and whose place in the table is `index`, and what the plan lets it grow over.
    fn widen(
        &self,
        index: usize,
        asked: Run,
        plan: &Plan,
        state_at: &impl Fn(Run) -> (State, Run),
    ) -> Run {
        let room = plan.room(asked);
        if room == asked {
            return asked;
        }
        let before = index
            .checked_sub(1)
            .and_then(|index| self.sorted.get(index));
        let behind = self.sorted.get(index);
        let free = Run::new(
            before.map_or(0, |flight| flight.run.end()),
            behind.map_or(u64::MAX, |flight| flight.run.start()),
        );
        match free.and_then(|free| free.clip(room)) {
            Some(room) => widen(asked, room, state_at),
            None => asked,
        }
    }
}

/// Makes one of `next` and the fetch that `claims` end with, but for what is valid between the two.
fn merge<'t>(claims: &mut Claims<'t>, next: Fetch<'t>) {
    let between = claims
        .iter()
        .rev()
        .take_while(|claim| matches!(claim, Claim::Valid(_)))
        .count();
    claims.truncate(claims.len() - between);
    match claims.last_mut() {
        Some(Claim::Lead(fetch)) => fetch.merge(next),
        _ => claims.push(Claim::Lead(next)),
    }
}

impl Flight {
    fn follow(&mut self, part: Run) -> Follow {
        // Followers that were dropped leave their senders behind. Clearing up only when the vector would grow keeps
        // it within twice the living, at a constant cost for each.
        if self.followers.len() == self.followers.capacity() {
            self.followers.retain(|follower| !follower.is_canceled());
        }
        let (sender, outcome) = channel();
        self.followers.push(sender);
        Follow {
            run: part,
            leader: Leader {
                batch: self.batch,
                whole: part == self.run,
            },
            shares_fate: false,
            outcome,
        }
    }
}

impl<'t> Fetch<'t> {
    fn merge(&mut self, next: Self) {
        self.more.extend(next.leads());
    }

    fn each(&self) -> impl Iterator<Item = &Lead<'t>> {
        core::iter::once(&self.first).chain(&self.more)
    }

    /// What is read from the source.
    pub(crate) fn span(&self) -> Run {
        let last = self.more.last().unwrap_or(&self.first);
        self.first.run.until(last.run.end())
    }

    /// The part of the request that it serves.
    pub(crate) fn asked(&self) -> Run {
        let last = self.more.last().unwrap_or(&self.first);
        self.first.asked.until(last.asked.end())
    }

    /// Whether it brings what was missing and asked for, and nothing else.
    pub(crate) fn is_exact(&self) -> bool {
        self.more.is_empty() && self.first.run == self.first.asked
    }

    /// The runs that are led.
    pub(crate) fn leads(self) -> impl Iterator<Item = Lead<'t>> {
        core::iter::once(self.first).chain(self.more)
    }

    /// How many blocks it brings that are led, and that were not asked for.
    pub(crate) fn unasked_blocks(&self) -> u64 {
        let unasked = |lead: &Lead<'_>| lead.run.blocks() - lead.asked.blocks();
        self.each().map(unasked).sum()
    }

    /// How many blocks it brings that are valid.
    pub(crate) fn gap_blocks(&self) -> u64 {
        let led: u64 = self.each().map(|lead| lead.run.blocks()).sum();
        self.span().blocks() - led
    }

    /// Releases all runs and tells the followers how it ended.
    pub(crate) fn finish(self, outcome: &Outcome) {
        for lead in self.leads() {
            lead.finish(outcome);
        }
    }
}

impl Lead<'_> {
    pub(crate) const fn run(&self) -> Run {
        self.run
    }

    /// What of the run was asked for.
    pub(crate) const fn asked(&self) -> Run {
        self.asked
    }

    /// Releases the run and tells the followers how it ended.
    pub(crate) fn finish(self, outcome: &Outcome) {
        let followers = self.table.remove(self.run);
        // The run is released, and may be somebody else's by the time a waker panics.
        core::mem::forget(self);
        // Senders are used outside of the table's lock: they wake, and a waker may run anything.
        for follower in followers {
            // A follower that is gone does not mind.
            let _ = follower.send(outcome.clone());
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        // Dropping the senders, outside of the table's lock, tells the followers.
        drop(self.table.remove(self.run));
    }
}

#[cfg(all(test, not(model)))]
mod tests;

#[cfg(all(test, model))]
mod model;
