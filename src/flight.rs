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
//! The table is a sorted vector. With a few leads for each of a thousand readers it is as fast as a tree, which
//! allocates for each.
//!
//! The same table, over the bytes of the bitmap, orders those who write them: see [`FlightTable::alone`].

use alloc::vec::Vec;

use futures_channel::oneshot::{Receiver, Sender, channel};
use gibblox_core::GibbloxError;
use smallvec::SmallVec;

use crate::bitmap::State;
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
    Lead(Lead<'t>),
    Follow(Follow),
}

/// The parts of a claim, in order. Mostly one.
pub(crate) type Claims<'t> = SmallVec<[Claim<'t>; 1]>;

impl Claim<'_> {
    pub(crate) fn run(&self) -> Run {
        match self {
            Claim::Valid(run) => *run,
            Claim::Lead(lead) => lead.run,
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
    /// behind the first `most_leads` leads: nobody should claim what it does not begin to fetch at once, since others
    /// would wait for it. `state_at` tells the state of the first block of a run, and the longest beginning of the run that shares it; it
    /// is asked under the table's lock.
    pub(crate) fn claim(
        &self,
        wanted: impl Iterator<Item = Run>,
        most_leads: usize,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Claims<'_> {
        let mut claims = Claims::new();
        let mut leads = 0;
        self.flights.with(|flights| {
            let batch = flights.begin_batch();
            for run in wanted {
                let mut rest = Some(run);
                while let Some(run) = rest {
                    if leads == most_leads {
                        return;
                    }
                    let claim = self.claim_first(flights, batch, run, &state_at);
                    rest = run.from(claim.run().end());
                    leads += usize::from(matches!(claim, Claim::Lead(_)));
                    claims.push(claim);
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

    /// What is so of the beginning of `run`, up to where something else is.
    pub(crate) fn claim_one(&self, run: Run, state_at: impl Fn(Run) -> (State, Run)) -> Claim<'_> {
        self.flights.with(|flights| {
            let batch = flights.begin_batch();
            let mut claim = self.claim_first(flights, batch, run, &state_at);
            if let Claim::Follow(follow) = &mut claim {
                follow.shares_fate = follow.leader.whole && follow.run == run;
            }
            claim
        })
    }

    /// Waits until nobody else has any of `run`, and has all of it.
    ///
    /// Cancellation is strict. Nothing is held while waiting, so there is no circle to wait in.
    pub(crate) async fn alone(&self, run: Run) -> Lead<'_> {
        loop {
            let claims = self.claim(core::iter::once(run), usize::MAX, |run| {
                (State::Missing, run)
            });
            let mut others = None;
            for claim in claims {
                match claim {
                    Claim::Lead(lead) if lead.run == run => return lead,
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
        state_at: &impl Fn(Run) -> (State, Run),
    ) -> Claim<'t> {
        let index = flights
            .sorted
            .partition_point(|flight| flight.run.end() <= run.start());
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
            (State::Missing, part) => {
                flights.sorted.insert(
                    index,
                    Flight {
                        run: part,
                        batch,
                        followers: Vec::new(),
                    },
                );
                Claim::Lead(Lead {
                    table: self,
                    run: part,
                })
            }
        }
    }

    /// How many runs are being fetched.
    #[cfg(all(test, not(model)))]
    fn in_flight(&self) -> usize {
        self.flights.with(|flights| flights.sorted.len())
    }

    fn remove(&self, run: Run) -> Vec<Sender<Outcome>> {
        self.flights.with(|flights| {
            let index = flights
                .sorted
                .partition_point(|flight| flight.run.end() <= run.start());
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
    fn begin_batch(&mut self) -> usize {
        self.last_batch = self.last_batch.wrapping_add(1);
        self.last_batch
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

impl Lead<'_> {
    pub(crate) const fn run(&self) -> Run {
        self.run
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
mod tests {
    use std::vec::Vec;

    use futures_util::FutureExt;
    use gibblox_core::GibbloxErrorKind;

    use super::*;

    fn run(start: u64, end: u64) -> Run {
        Run::new(start, end).expect("not empty")
    }

    /// Blocks 4 and 5 are valid.
    fn state_at(run: Run) -> (State, Run) {
        let (state, end) = match run.start() {
            0..4 => (State::Missing, 4),
            4..6 => (State::Valid, 6),
            _ => (State::Missing, u64::MAX),
        };
        (
            state,
            Run::new(run.start(), end.min(run.end())).expect("not empty"),
        )
    }

    fn claim(table: &FlightTable, wanted: Run) -> Claims<'_> {
        table.claim(core::iter::once(wanted), usize::MAX, state_at)
    }

    fn kinds(claims: &Claims<'_>) -> Vec<(char, u64, u64)> {
        claims
            .iter()
            .map(|claim| {
                let kind = match claim {
                    Claim::Valid(_) => 'v',
                    Claim::Lead(_) => 'l',
                    Claim::Follow(_) => 'f',
                };
                (kind, claim.run().start(), claim.run().end())
            })
            .collect()
    }

    fn follows(claims: Claims<'_>) -> Vec<Follow> {
        claims
            .into_iter()
            .filter_map(|claim| match claim {
                Claim::Follow(follow) => Some(follow),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn claims_cover_what_is_wanted_in_order() {
        let table = FlightTable::default();
        let first = claim(&table, run(2, 8));
        assert_eq!(kinds(&first), [('l', 2, 4), ('v', 4, 6), ('l', 6, 8)]);
        let second = claim(&table, run(0, 10));
        assert_eq!(
            kinds(&second),
            [
                ('l', 0, 2),
                ('f', 2, 4),
                ('v', 4, 6),
                ('f', 6, 8),
                ('l', 8, 10)
            ]
        );
        assert_eq!(table.in_flight(), 4);
        drop(first);
        drop(second);
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn a_dropped_leader_tells_its_followers_and_leaves() {
        let table = FlightTable::default();
        let lead = claim(&table, run(0, 2));
        let mut followers = follows(claim(&table, run(0, 2)));
        let mut outcome = core::pin::pin!(followers.remove(0).outcome());
        assert!(outcome.as_mut().now_or_never().is_none(), "it waits");
        drop(lead);
        assert!(matches!(outcome.now_or_never(), Some(None)));
        assert_eq!(kinds(&claim(&table, run(0, 2))), [('l', 0, 2)]);
    }

    #[test]
    fn the_leaders_error_is_that_of_who_wants_the_same_and_of_nobody_else() {
        // What the leader wants, what the follower wants, and which of its follows share the leader's fate.
        let cases: [(Run, Run, &[bool]); 6] = [
            (run(0, 4), run(0, 4), &[true]),
            (run(0, 4), run(0, 3), &[false]),
            (run(0, 4), run(1, 2), &[false]),
            (run(0, 3), run(0, 4), &[false]),
            (run(0, 9), run(0, 9), &[true, true]),
            // What is valid in between does not matter: nobody fetches it.
            (run(0, 9), run(0, 5), &[true]),
        ];
        for (leader, follower, expected) in cases {
            let table = FlightTable::default();
            let led = claim(&table, leader);
            let shares: Vec<_> = follows(claim(&table, follower))
                .iter()
                .map(Follow::shares_fate)
                .collect();
            assert_eq!(shares, expected, "{leader:?} {follower:?}");
            drop(led);
        }
        // Two leaders: the follower asks for more than each of them.
        let table = FlightTable::default();
        let led = (claim(&table, run(0, 2)), claim(&table, run(2, 4)));
        let shares: Vec<_> = follows(claim(&table, run(0, 4)))
            .iter()
            .map(Follow::shares_fate)
            .collect();
        assert_eq!(shares, [false, false]);
        drop(led);
    }

    #[test]
    fn outcomes_reach_followers_as_they_are() {
        let table = FlightTable::default();
        let mut claims = claim(&table, run(0, 2));
        let follow = follows(claim(&table, run(0, 2))).remove(0);
        let Some(Claim::Lead(lead)) = claims.pop() else {
            panic!("nobody else leads");
        };
        let error = GibbloxError::with_message(GibbloxErrorKind::Unsupported, "as it is");
        lead.finish(&Outcome::Failed(error));
        match follow.outcome().now_or_never() {
            Some(Some(Outcome::Failed(error))) => {
                assert_eq!(error.kind(), GibbloxErrorKind::Unsupported);
                assert_eq!(error.message(), Some("as it is"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn no_more_is_claimed_than_is_begun() {
        let table = FlightTable::default();
        for most in 1..4 {
            let claims = table.claim([run(0, 1), run(2, 9)].into_iter(), most, state_at);
            let all = [('l', 0, 1), ('l', 2, 4), ('v', 4, 6), ('l', 6, 9)];
            assert_eq!(kinds(&claims), all[..[1, 2, 4][most - 1]]);
        }
    }

    #[test]
    fn only_one_is_alone() {
        let table = FlightTable::default();
        let first = table.alone(run(2, 4)).now_or_never().expect("nobody else");
        let other = table.alone(run(4, 6)).now_or_never().expect("elsewhere");
        let mut both = core::pin::pin!(table.alone(run(0, 9)));
        assert!(both.as_mut().now_or_never().is_none());
        assert_eq!(table.in_flight(), 2, "nothing is held while waiting");
        drop(first);
        assert!(both.as_mut().now_or_never().is_none());
        drop(other);
        assert_eq!(both.now_or_never().expect("all are gone").run(), run(0, 9));
    }

    #[test]
    fn followers_that_were_dropped_do_not_pile_up() {
        let table = FlightTable::default();
        let lead = claim(&table, run(0, 1));
        for _ in 0..10_000 {
            drop(claim(&table, run(0, 1)));
        }
        let kept = table
            .flights
            .with(|flights| flights.sorted[0].followers.len());
        assert!(kept < 16, "{kept}");
        drop(lead);
    }
}

/// Every interleaving of two threads, explored by a model checker.
#[cfg(all(test, model))]
mod model {
    use loom::thread;
    use std::sync::Arc;

    use super::*;
    use crate::bitmap::Validity;

    struct Shared {
        table: FlightTable,
        validity: Validity,
    }

    fn shared() -> Arc<Shared> {
        let validity = Validity::new(4).expect("memory");
        validity.reserve(Run::block(0)).expect("memory");
        Arc::new(Shared {
            table: FlightTable::default(),
            validity,
        })
    }

    /// Claims block 0; where it leads, publishes, or is dropped in the middle. Returns whether it led.
    fn read(shared: &Shared, dropped: bool) -> bool {
        let claims = shared
            .table
            .claim(core::iter::once(Run::block(0)), usize::MAX, |run| {
                shared.validity.state_at(run)
            });
        let mut led = false;
        for claim in claims {
            if let Claim::Lead(lead) = claim {
                led = true;
                if !dropped {
                    shared.validity.publish(lead.run(), shared.validity.epoch());
                    lead.finish(&Outcome::Published);
                }
            }
        }
        led
    }

    #[test]
    fn a_block_has_one_leader_and_is_fetched_once() {
        loom::model(|| {
            let shared = shared();
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || read(&shared, false))
            };
            let led = read(&shared, false);
            let other_led = other.join().expect("no panic");
            assert!(led ^ other_led, "exactly one fetched");
            assert_eq!(shared.validity.valid_blocks(), 1);
        });
    }

    #[test]
    fn a_dropped_leader_leaves_nothing_claimed() {
        loom::model(|| {
            let shared = shared();
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || read(&shared, true))
            };
            read(&shared, true);
            other.join().expect("no panic");
            assert!(read(&shared, false), "it is there to be led");
        });
    }
}
