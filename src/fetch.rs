//! Single-flight over intervals: of all tasks that want a missing block one leads and fetches it, and the others follow.
//!
//! ```text
//!            claim ──► Valid:  nothing to fetch
//!                  ──► Lead:   no task fetches it yet; the caller does
//!                  ──► Follow: a task does; the caller hears how it ends, or is the next to lead
//!
//!   Lead, fetching:  dropped, or failed ──► a follower is the next to lead, the others follow it
//!                    made void          ──► a task that drops blocks has the run; the leader stores nothing
//!         storing:   finish(outcome)    ──► followers hear the outcome
//! ```
//!
//! The ranges and those who wait are [`Claims`]. A [`Lead`] is a guard: however it ends, its run leaves the table (I3).
//! The bitmap is looked at again under the table's lock before a run is claimed, and a leader publishes in the bitmap
//! before its run leaves the table, so between looking and claiming no other fetch can slip in (I2).
//!
//! **How waiting ends.** A follower hears [`Outcome::Published`] and reads from the cache; or it hears
//! [`Outcome::Unstored`] and gets the bytes, since the source has answered; or it hears [`Outcome::Failed`], if the
//! error is its own ([`Fate`]). Otherwise the run passes on to the followers, in the order in which they came: so no task
//! that fetches a block again and again keeps a follower from ending.
//!
//! **Dropping blocks.** A task that drops blocks [takes](Fetches::take) their run. It does not wait for the source: a
//! fetch of any of it is void, its bytes go to the task that leads it and are not stored, and its followers are in line
//! behind the task that drops. It waits for a lead that has [begun to store](Lead::begin_store), with a place in line.
//!
//! **Waiting goes one way** (I7): for blocks, then for contact with the source, then for bytes of the bitmap, then for
//! the backend. A task that waits in one of these holds nothing that comes later in this list. Two parts of one request
//! wait side by side: the one that leads goes on while the other follows. So there is no circle.
//!
//! **More than was asked for.** A fetch may bring more, as the [`Plan`] of the request says. It grows when it is claimed,
//! under the table's lock, over blocks that are missing and that no task fetches, and all of it is in the table. Across a
//! short gap of valid blocks two runs of a request become one [`Fetch`]. A run that passes on does not grow.
//!
//! A request claims no more than it begins to fetch, so the table stays short.

use alloc::sync::Arc;
use alloc::vec::Vec;

use gibblox_core::GibbloxError;
use smallvec::SmallVec;

use crate::bitmap::State;
use crate::claims::{Claims, Edit, Ended, Found, Group, Held, Wait};
use crate::policy::{Plan, widen};
use crate::run::Run;

/// How a fetch ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The run is valid.
    Published,
    /// The source answered, but the backend did not take the bytes.
    Unstored(Unstored),
    /// The source did not answer, with this error.
    Failed(GibbloxError),
}

/// Bytes that are in no cache, for the tasks that waited for them.
#[derive(Clone, Debug)]
pub(crate) struct Unstored {
    /// The backend's.
    pub(crate) error: GibbloxError,
    /// The run that was led.
    pub(crate) run: Run,
    /// Its bytes. One copy for all followers; empty where there was no memory for it, which only those hear who want
    /// nothing but the error.
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// What a follower wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// The bytes, from wherever they come.
    Bytes,
    /// The blocks in the cache.
    Stored,
}

/// Which outcomes are a follower's own.
///
/// An error is, if the follower wants nothing outside of what its leader tried to fetch, and all of it: then it would
/// have made the same call. If it wants only a part, the part may be sound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    /// All that its request asks for, and that is not valid, is fetched by the leads of this one claim.
    with: Option<Group>,
    /// What it waits for is all that its request asks for and that is not valid.
    alone: bool,
    wants: Wants,
}

impl Fate {
    const fn apart(wants: Wants) -> Self {
        Self {
            with: None,
            alone: false,
            wants,
        }
    }

    /// Whether the error of a lead of `group` is this follower's. `whole`: it wants all of that lead.
    fn shares(&self, whole: bool, group: Group) -> bool {
        whole && (self.alone || self.with == Some(group))
    }
}

/// The runs that are being fetched, or dropped.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    claims: Claims<Outcome, Fate>,
}

/// What a claim found out about a part of what was wanted.
#[derive(Debug)]
pub(crate) enum Claim<'t> {
    Valid(Run),
    Lead(Fetch<'t>),
    Follow(Follow<'t>),
}

/// The parts of a claim, in order. Mostly one.
pub(crate) type Divided<'t> = SmallVec<[Claim<'t>; 1]>;

impl Claim<'_> {
    /// What of the wanted it covers.
    pub(crate) fn run(&self) -> Run {
        match self {
            Claim::Valid(run) => *run,
            Claim::Lead(fetch) => fetch.asked(),
            Claim::Follow(follow) => follow.run(),
        }
    }
}

/// The right, and the duty, to fetch a run. Dropping it passes the run on to those who follow.
#[derive(Debug)]
#[must_use]
pub(crate) struct Lead<'t> {
    held: Held<'t, Outcome, Fate>,
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

/// A run, or a part of one, that another task fetches or drops.
#[derive(Debug)]
#[must_use]
pub(crate) struct Follow<'t> {
    wait: Wait<'t, Outcome, Fate>,
}

/// How following ended, for a beginning of what was followed. What is left has to be claimed again.
#[derive(Debug)]
pub(crate) enum Followed<'t> {
    /// The leader's outcome.
    Ended(Run, Outcome),
    /// It is valid, though its leader did not say so.
    Valid(Run),
    /// The follower leads now.
    Lead(Fetch<'t>),
}

impl Followed<'_> {
    /// Which beginning of what was followed it is about.
    pub(crate) fn run(&self) -> Run {
        match self {
            Followed::Ended(run, _) | Followed::Valid(run) => *run,
            Followed::Lead(fetch) => fetch.asked(),
        }
    }
}

impl<'t> Follow<'t> {
    pub(crate) const fn run(&self) -> Run {
        self.wait.part()
    }

    /// Waits for the outcome, or for the turn to lead. What the follower leads then it has to fetch at once, as it
    /// would what it claimed.
    ///
    /// Cancellation is strict: a dropped follower is forgotten, and what it was given passes on.
    pub(crate) async fn outcome(self, state_at: impl Fn(Run) -> (State, Run)) -> Followed<'t> {
        match self.wait.await {
            Ended::Told(run, outcome) => Followed::Ended(run, outcome),
            Ended::Yours(held) => match state_at(held.run()) {
                (State::Valid, run) => Followed::Valid(run),
                (State::Missing, run) => Followed::Lead(Fetch::of(held.keep(run), run)),
            },
        }
    }
}

impl Fetches {
    /// Divides `wanted` into what is valid, what another task fetches, and what the caller now has to fetch.
    ///
    /// `wanted` are the parts of one request, disjoint and in order. The claims cover them exactly, in order, but end
    /// after the first `most_fetches` fetches: no task should claim what it does not begin to fetch at once, since others
    /// would wait for it. `plan` says what may be fetched beyond what is wanted. `state_at` tells the state of the first
    /// block of a run, and the longest beginning of the run that shares it; it is asked under the table's lock.
    pub(crate) fn claim(
        &self,
        wanted: impl Iterator<Item = Run>,
        most_fetches: usize,
        plan: &Plan,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Divided<'_> {
        let mut claims = Divided::new();
        self.claims.edit(|edit| {
            divide(&mut claims, edit, wanted, most_fetches, plan, &state_at);
            share_fates(&claims, edit);
        });
        claims
    }

    /// Claims the beginning of `run`, for a task that wants it stored: as far as it is in one state, and no further than
    /// one other task fetches it. `is_all`: the task wants nothing outside of `run`.
    pub(crate) fn claim_one(
        &self,
        run: Run,
        is_all: bool,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Claim<'_> {
        self.claims.edit(|edit| {
            let fate = Fate::apart(Wants::Stored);
            let claim = claim_first(edit, run, &Plan::default(), fate, &state_at);
            if let Claim::Follow(follow) = &claim {
                let alone = is_all && follow.run() == run;
                edit.retag(&follow.wait, Fate { alone, ..fate });
            }
            claim
        })
    }

    /// All of `run`, where it is missing and no task has any of it. What [`claim`](Self::claim) comes to then, in fewer
    /// steps.
    pub(crate) fn lead_all(
        &self,
        run: Run,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Option<Fetch<'_>> {
        self.claims.edit(|edit| match edit.find(run) {
            Found::Free(place, free) if free == run && state_at(run) == (State::Missing, run) => {
                Some(Fetch::of(edit.claim(place, run), run))
            }
            _ => None,
        })
    }

    /// Takes the beginning of `run` from all who fetch it, for a task that drops blocks. Waits for those that have begun
    /// to store and for others that drop, in line, and never for the source.
    ///
    /// Cancellation is strict.
    pub(crate) async fn take(&self, run: Run) -> Held<'_, Outcome, Fate> {
        self.claims.take(run).await
    }

    /// Takes all of `run`, as [`take`](Self::take) takes a beginning of it.
    pub(crate) async fn take_all(&self, run: Run) -> Taken<'_> {
        self.claims.take_all(run).await
    }

    /// How many runs are being fetched.
    #[cfg(all(test, not(model)))]
    fn in_flight(&self) -> usize {
        self.claims.len()
    }
}

/// Runs that a task has taken, from the first to the last.
pub(crate) type Taken<'t> = SmallVec<[Held<'t, Outcome, Fate>; 1]>;

/// Claims the parts of a request.
fn divide<'t>(
    claims: &mut Divided<'t>,
    edit: &mut Edit<'_, 't, Outcome, Fate>,
    wanted: impl Iterator<Item = Run>,
    most_fetches: usize,
    plan: &Plan,
    state_at: &impl Fn(Run) -> (State, Run),
) {
    let mut fetches = 0;
    for run in wanted {
        let mut rest = Some(run);
        // How many valid blocks, and nothing more, there are since the last lead of this part.
        let mut gap = None;
        while let Some(run) = rest {
            let merges = gap.is_some_and(|gap| plan.merges(gap));
            if fetches == most_fetches && !merges {
                return;
            }
            let claim = claim_first(edit, run, plan, Fate::apart(Wants::Bytes), state_at);
            let claimed = claim.run();
            rest = run.from(claimed.end());
            match claim {
                Claim::Lead(fetch) if merges => {
                    merge(claims, fetch);
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
}

/// Claims the longest beginning of `run` that is in one state.
fn claim_first<'t>(
    edit: &mut Edit<'_, 't, Outcome, Fate>,
    run: Run,
    plan: &Plan,
    fate: Fate,
    state_at: &impl Fn(Run) -> (State, Run),
) -> Claim<'t> {
    match edit.find(run) {
        // A block that is valid is there to be read, also while a task writes it again, or is about to drop it.
        Found::Taken(place, part) => match state_at(part) {
            (State::Valid, part) => Claim::Valid(part),
            (State::Missing, _) => Claim::Follow(Follow {
                wait: edit.follow(place, part, fate),
            }),
        },
        Found::Free(place, free) => match state_at(free) {
            (State::Valid, part) => Claim::Valid(part),
            (State::Missing, asked) => {
                let mut run = asked;
                let room = plan.room(asked);
                if room != asked {
                    let free = edit.free_around(place);
                    if let Some(room) = free.and_then(|free| free.clip(room)) {
                        run = widen(asked, room, state_at);
                    }
                }
                Claim::Lead(Fetch::of(edit.claim(place, run), asked))
            }
        },
    }
}

/// Settles whose errors the claims of one request take for their own.
fn share_fates<'t>(claims: &Divided<'t>, edit: &mut Edit<'_, 't, Outcome, Fate>) {
    if claims.iter().any(|claim| matches!(claim, Claim::Lead(_))) {
        return;
    }
    let follows = || {
        claims.iter().filter_map(|claim| match claim {
            Claim::Follow(follow) => Some(follow),
            Claim::Valid(_) | Claim::Lead(_) => None,
        })
    };
    let mut groups = follows().map(|follow| edit.group_of(&follow.wait));
    let Some(first) = groups.next() else { return };
    let with = if groups.all(|group| group == first) {
        first
    } else {
        None
    };
    let fate = Fate {
        with,
        alone: follows().count() == 1,
        wants: Wants::Bytes,
    };
    for follow in follows() {
        edit.retag(&follow.wait, fate);
    }
}

/// Makes one of `next` and the fetch that `claims` end with, but for what is valid between the two.
fn merge<'t>(claims: &mut Divided<'t>, next: Fetch<'t>) {
    let between = claims
        .iter()
        .rev()
        .take_while(|claim| matches!(claim, Claim::Valid(_)))
        .count();
    claims.truncate(claims.len() - between);
    match claims.last_mut() {
        Some(Claim::Lead(fetch)) => fetch.more.extend(next.leads()),
        _ => claims.push(Claim::Lead(next)),
    }
}

impl<'t> Fetch<'t> {
    fn of(held: Held<'t, Outcome, Fate>, asked: Run) -> Self {
        Self {
            first: Lead { held, asked },
            more: Vec::new(),
        }
    }

    fn each(&self) -> impl Iterator<Item = &Lead<'t>> {
        core::iter::once(&self.first).chain(&self.more)
    }

    /// What is read from the source.
    pub(crate) fn span(&self) -> Run {
        let last = self.more.last().unwrap_or(&self.first);
        self.first.run().until(last.run().end())
    }

    /// The part of the request that it serves.
    pub(crate) fn asked(&self) -> Run {
        let last = self.more.last().unwrap_or(&self.first);
        self.first.asked.until(last.asked.end())
    }

    /// Whether it brings what was missing and asked for, and nothing more.
    pub(crate) fn is_exact(&self) -> bool {
        self.more.is_empty() && self.first.run() == self.first.asked
    }

    /// The runs that are led.
    pub(crate) fn leads(self) -> impl Iterator<Item = Lead<'t>> {
        core::iter::once(self.first).chain(self.more)
    }

    /// How many blocks it brings that are led, and that were not asked for.
    pub(crate) fn unasked_blocks(&self) -> u64 {
        let unasked = |lead: &Lead<'_>| lead.run().blocks() - lead.asked.blocks();
        self.each().map(unasked).sum()
    }

    /// How many blocks it brings that are valid.
    pub(crate) fn gap_blocks(&self) -> u64 {
        let led: u64 = self.each().map(|lead| lead.run().blocks()).sum();
        self.span().blocks() - led
    }

    /// Releases all runs: the source failed with `error`.
    pub(crate) fn failed(self, error: &GibbloxError) {
        for lead in self.leads() {
            lead.failed(error);
        }
    }
}

impl Lead<'_> {
    pub(crate) const fn run(&self) -> Run {
        self.held.run()
    }

    /// What of the run was asked for.
    pub(crate) const fn asked(&self) -> Run {
        self.asked
    }

    /// The source has answered, and the bytes are about to be written: from now on a task that drops blocks waits. False
    /// where the lead is void: then nothing of it may be written.
    pub(crate) fn begin_store(&self) -> bool {
        self.held.make_firm()
    }

    /// Releases the run, which is valid.
    pub(crate) fn published(self) {
        self.held.end(&Outcome::Published, |_, _| true);
    }

    /// Releases the run: the source failed with `error`. Followers whose error it is not are the next to lead.
    pub(crate) fn failed(self, error: &GibbloxError) {
        let group = self.held.group();
        let outcome = Outcome::Failed(error.clone());
        self.held
            .end(&outcome, |fate, whole| fate.shares(whole, group));
    }

    /// Releases the run, whose bytes the backend did not take, and shares them with the followers.
    ///
    /// Cost: a copy, if there is a follower that wants it. Where there is no memory for one, or a follower came in the
    /// middle, a follower is the next to lead, as if this lead had been dropped.
    pub(crate) fn unstored(self, error: &GibbloxError, bytes: &[u8]) {
        if !self.held.is_awaited(|_| true) {
            return;
        }
        let group = self.held.group();
        let mut copy = Vec::new();
        let is_shared = self.held.is_awaited(|fate| fate.wants == Wants::Bytes)
            && copy.try_reserve_exact(bytes.len()).is_ok();
        if is_shared {
            copy.extend_from_slice(bytes);
        }
        let outcome = Outcome::Unstored(Unstored {
            error: error.clone(),
            run: self.run(),
            bytes: Arc::new(copy),
        });
        self.held.end(&outcome, |fate, whole| match fate.wants {
            Wants::Bytes => is_shared,
            Wants::Stored => fate.shares(whole, group),
        });
    }
}

#[cfg(all(test, not(model)))]
mod tests;

#[cfg(all(test, model))]
mod model;
