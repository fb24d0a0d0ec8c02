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
//! **Past the cache.** Blocks that are valid and cannot be read just now stay as they are (I8). Tasks that read them from the source lead and follow in a table of their own: nothing is
//! stored, and the followers get the bytes. Only tasks that could not read the cache themselves come here, so none waits
//! for the source that need not. A task that drops blocks makes fetches in both tables void.
//!
//! **Permits.** A task leads only what it has a permit to fetch ([`Permits`]), so no block is claimed whose fetch does not
//! begin at once. A follower that is the next to lead holds its run while it waits for a permit. It gets one, since all
//! who hold a permit wait for no block.
//!
//! **Waiting goes one way** (I7): for blocks, then for a permit, then for contact with the source, then for bytes of the
//! bitmap, then for the backend. A task that waits in one of these holds nothing that comes later in this list. Two parts
//! of one request wait side by side: the one that leads goes on while the other follows. So there is no circle.
//!
//! **More than was asked for.** A fetch may bring more, as the [`Plan`] of the request says. It grows when it is claimed,
//! under the table's lock, over blocks that are missing and that no task fetches, and all of it is in the table. Across a
//! short gap of valid blocks two runs of a request become one [`Fetch`]. A run that passes on does not grow.
//!
//! **Pieces.** No fetch is longer than the limit. A longer run is led in pieces, each with a claim and a permit of its own.

use alloc::sync::Arc;
use alloc::vec::Vec;

use gibblox_core::GibbloxError;
use smallvec::SmallVec;

use crate::bitmap::State;
use crate::claims::{Claims, Edit, Ended, Found, Group, Held, Wait};
use crate::permits::{Permit, Permits, Rank, Take};
use crate::policy::{Plan, widen};
use crate::run::Run;

/// How a fetch ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The run is valid.
    Published,
    /// The source answered, but the backend did not take the bytes, with this error.
    Unstored(GibbloxError, Brought),
    /// The source answered, and nothing was to be stored.
    Past(Brought),
    /// The source did not answer, with this error.
    Failed(GibbloxError),
}

/// Bytes that are in no cache, for the tasks that waited for them.
#[derive(Clone, Debug)]
pub(crate) struct Brought {
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
#[derive(Debug)]
pub(crate) struct Fetches {
    claims: Claims<Outcome, Fate>,
    /// Those whose bytes are not stored.
    past: Claims<Outcome, Fate>,
    permits: Permits,
    /// No fetch is longer; at least one.
    most_blocks: u64,
}

/// Where the bytes of a fetch go, beside its caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Into the cache.
    Cache,
    /// Nowhere.
    Past,
}

/// How parts of a request are claimed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'p> {
    pub(crate) route: Route,
    /// What may be fetched beyond what is wanted.
    pub(crate) plan: &'p Plan,
    /// How many claims are made at most.
    pub(crate) most_claims: usize,
    /// The request wants nothing more that is not served yet.
    pub(crate) is_rest: bool,
}

/// What a claim of several parts came to.
#[derive(Debug)]
pub(crate) struct Claimed<'t> {
    pub(crate) claims: Divided<'t>,
    /// They end where the next block is missing, and there is no permit.
    pub(crate) wants_permit: bool,
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
    permits: &'t Permits,
    permit: Option<Permit<'t>>,
}

/// A run, or a part of one, that another task fetches or drops.
#[derive(Debug)]
#[must_use]
pub(crate) struct Follow<'t> {
    wait: Wait<'t, Outcome, Fate>,
    fetches: &'t Fetches,
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

    /// Waits for the outcome, or for the turn to lead. What the follower leads then it has to fetch, as it would what it
    /// claimed, when it has [a permit](Fetch::permit).
    ///
    /// Cancellation is strict: a dropped follower is forgotten, and what it was given passes on.
    pub(crate) async fn outcome(self, state_at: impl Fn(Run) -> (State, Run)) -> Followed<'t> {
        let fetches = self.fetches;
        match self.wait.await {
            Ended::Told(run, outcome) => Followed::Ended(run, outcome),
            Ended::Yours(held) => match state_at(held.run()) {
                (State::Valid, run) => Followed::Valid(run),
                (State::Missing, run) => {
                    // What it follows may be longer than a fetch, where a task drops it.
                    let run = run.first(fetches.most_blocks);
                    Followed::Lead(fetches.fetch(held.keep(run), run, None))
                }
            },
        }
    }
}

/// Without limits.
#[cfg(test)]
impl Default for Fetches {
    fn default() -> Self {
        Self::new(u32::MAX, u64::MAX)
    }
}

impl Fetches {
    /// With so many fetches under way at once, none longer than `most_blocks`. Both are at least one.
    pub(crate) fn new(at_once: u32, most_blocks: u64) -> Self {
        Self {
            claims: Claims::default(),
            past: Claims::default(),
            permits: Permits::new(usize::try_from(at_once).unwrap_or(usize::MAX)),
            most_blocks,
        }
    }

    /// Divides `wanted` into what is valid, what another task fetches, and what the caller now has to fetch.
    ///
    /// `wanted` are parts of one request, disjoint. The claims cover them exactly, in order, but end before the first
    /// missing run for which there is no permit: no task should claim what it does not begin to fetch at once, since
    /// others would wait for it. `permit` is used first. `state_at` tells the state of the first block of a run, and the
    /// longest beginning of the run that shares it; it is asked under the table's lock.
    pub(crate) fn claim<'t>(
        &'t self,
        wanted: impl Iterator<Item = Run>,
        ask: Ask<'_>,
        permit: &mut Option<Permit<'t>>,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Claimed<'t> {
        let mut claimed = Claimed {
            claims: Divided::new(),
            wants_permit: false,
        };
        self.table(ask.route).edit(|edit| {
            let is_all = self.divide(&mut claimed, edit, wanted, ask, permit, &state_at);
            if is_all && ask.is_rest {
                share_fates(&claimed.claims, edit);
            }
        });
        claimed
    }

    /// Claims the beginning of `run`, for a task that wants it stored: as far as it is in one state, and no further than
    /// one other task fetches it. Nothing where it is missing and there is no permit. `is_all`: the task wants nothing
    /// outside of `run`.
    pub(crate) fn claim_one<'t>(
        &'t self,
        run: Run,
        is_all: bool,
        permit: &mut Option<Permit<'t>>,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Option<Claim<'t>> {
        self.claims.edit(|edit| {
            let first = First {
                run,
                plan: &Plan::default(),
                fate: Fate::apart(Wants::Stored),
                most_blocks: self.most_blocks,
            };
            let claim =
                self.claim_first(edit, first, || self.permit(permit).map(Some), &state_at)?;
            if let Claim::Follow(follow) = &claim {
                let alone = is_all && follow.run() == run;
                let fate = Fate {
                    alone,
                    ..first.fate
                };
                edit.retag(&follow.wait, fate);
            }
            Some(claim)
        })
    }

    /// All of `run`, where it is missing, no task has any of it, it is no longer than a fetch, and there is a permit. What
    /// [`claim`](Self::claim) comes to then, in fewer steps.
    pub(crate) fn lead_all(
        &self,
        run: Run,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Option<Fetch<'_>> {
        if run.blocks() > self.most_blocks {
            return None;
        }
        self.claims.edit(|edit| match edit.find(run) {
            Found::Free(place, free) if free == run && state_at(run) == (State::Missing, run) => {
                let permit = self.permits.try_take()?;
                Some(self.fetch(edit.claim(place, run), run, Some(permit)))
            }
            _ => None,
        })
    }

    /// Takes the beginning of `run` from all who fetch it, for a task that drops blocks. Waits for those that have begun
    /// to store and for others that drop, in line, and never for the source.
    ///
    /// Cancellation is strict.
    pub(crate) async fn take(&self, run: Run) -> Held<'_, Outcome, Fate> {
        let held = self.claims.take(run).await;
        // A read that begins later follows no fetch that began before. Nothing is stored of them, so none is waited for.
        drop(self.past.take_all(held.run()).await);
        held
    }

    /// Gets in line for a permit. The caller holds no block, or waits for none while it holds the permit.
    pub(crate) fn take_permit(&self, rank: Rank) -> Take<'_> {
        self.permits.take(rank)
    }

    pub(crate) const fn most_blocks(&self) -> u64 {
        self.most_blocks
    }

    /// `permit`, or one that is free.
    pub(crate) fn permit<'t>(&'t self, permit: &mut Option<Permit<'t>>) -> Option<Permit<'t>> {
        permit.take().or_else(|| self.permits.try_take())
    }

    const fn table(&self, route: Route) -> &Claims<Outcome, Fate> {
        match route {
            Route::Cache => &self.claims,
            Route::Past => &self.past,
        }
    }

    const fn fetch<'t>(
        &'t self,
        held: Held<'t, Outcome, Fate>,
        asked: Run,
        permit: Option<Permit<'t>>,
    ) -> Fetch<'t> {
        Fetch {
            first: Lead { held, asked },
            more: Vec::new(),
            permits: &self.permits,
            permit,
        }
    }

    /// Claims the parts of a request; whether all of them.
    fn divide<'t>(
        &'t self,
        claimed: &mut Claimed<'t>,
        edit: &mut Edit<'_, 't, Outcome, Fate>,
        wanted: impl Iterator<Item = Run>,
        ask: Ask<'_>,
        permit: &mut Option<Permit<'t>>,
        state_at: &impl Fn(Run) -> (State, Run),
    ) -> bool {
        let claims = &mut claimed.claims;
        for run in wanted {
            let mut rest = Some(run);
            // How many valid blocks, and nothing more, there are since the last lead of this part.
            let mut gap = None;
            // Where the last fetch begins.
            let mut begins = run.start();
            while let Some(run) = rest {
                if claims.len() >= ask.most_claims {
                    return false;
                }
                // What is added to a fetch must not make it too long.
                let room = self.most_blocks.saturating_sub(run.start() - begins);
                let merges = room != 0 && gap.is_some_and(|gap| ask.plan.merges(gap));
                let first = First {
                    run,
                    plan: ask.plan,
                    fate: Fate::apart(Wants::Bytes),
                    most_blocks: if merges { room } else { self.most_blocks },
                };
                let may_lead = || {
                    if merges {
                        Some(None)
                    } else {
                        self.permit(permit).map(Some)
                    }
                };
                let Some(claim) = self.claim_first(edit, first, may_lead, state_at) else {
                    claimed.wants_permit = true;
                    return false;
                };
                let covered = claim.run();
                rest = run.from(covered.end());
                match claim {
                    Claim::Lead(fetch) if merges => {
                        merge(claims, fetch);
                        gap = Some(0);
                    }
                    claim => {
                        gap = match &claim {
                            Claim::Lead(fetch) => {
                                begins = fetch.span().start();
                                Some(0)
                            }
                            Claim::Valid(_) => gap.map(|gap| gap + covered.blocks()),
                            Claim::Follow(_) => None,
                        };
                        claims.push(claim);
                    }
                }
            }
        }
        true
    }

    /// Claims the longest beginning of a run that is in one state, and no longer than a fetch where it is missing. Nothing
    /// where it is missing and `may_lead` says no; otherwise that gives the permit, if there is to be one.
    fn claim_first<'t>(
        &'t self,
        edit: &mut Edit<'_, 't, Outcome, Fate>,
        first: First<'_>,
        may_lead: impl FnOnce() -> Option<Option<Permit<'t>>>,
        state_at: &impl Fn(Run) -> (State, Run),
    ) -> Option<Claim<'t>> {
        match edit.find(first.run) {
            // A block that is valid is there to be read, also while a task writes it again, or is about to drop it.
            Found::Taken(place, part) => Some(match state_at(part) {
                (State::Valid, part) => Claim::Valid(part),
                (State::Missing, _) => Claim::Follow(Follow {
                    wait: edit.follow(place, part, first.fate),
                    fetches: self,
                }),
            }),
            Found::Free(place, free) => match state_at(free) {
                (State::Valid, part) => Some(Claim::Valid(part)),
                (State::Missing, asked) => {
                    let permit = may_lead()?;
                    let asked = asked.first(first.most_blocks);
                    let mut run = asked;
                    let room = first.plan.room(asked);
                    if room != asked {
                        let free = edit.free_around(place);
                        let room = free.and_then(|free| free.clip(room));
                        let window = window(asked, first.most_blocks);
                        if let Some(room) = room.and_then(|room| room.clip(window)) {
                            run = widen(asked, room, state_at);
                        }
                    }
                    Some(Claim::Lead(self.fetch(
                        edit.claim(place, run),
                        asked,
                        permit,
                    )))
                }
            },
        }
    }

    /// Takes all of `run`, as [`take`](Self::take) takes a beginning of it.
    pub(crate) async fn take_all(&self, run: Run) -> Taken<'_> {
        let held = self.claims.take_all(run).await;
        drop(self.past.take_all(run).await);
        held
    }

    /// How many runs are being fetched.
    #[cfg(all(test, not(model)))]
    fn in_flight(&self) -> usize {
        self.claims.len() + self.past.len()
    }
}

/// Runs that a task has taken, from the first to the last.
pub(crate) type Taken<'t> = SmallVec<[Held<'t, Outcome, Fate>; 1]>;

/// The beginning of what is wanted.
#[derive(Clone, Copy, Debug)]
struct First<'p> {
    run: Run,
    plan: &'p Plan,
    fate: Fate,
    /// No more than this is led.
    most_blocks: u64,
}

/// So many blocks around `asked`, which is no longer: aligned where that holds all of it, so that they meet those of
/// others.
fn window(asked: Run, most_blocks: u64) -> Run {
    let aligned = asked.start() - asked.start() % most_blocks;
    let start = if aligned.saturating_add(most_blocks) >= asked.end() {
        aligned
    } else {
        asked.start()
    };
    Run::block(start).until(start.saturating_add(most_blocks))
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
    /// Waits for a permit, where it has none since the run passed on to it.
    ///
    /// Cancellation is strict.
    pub(crate) async fn permit(&mut self, rank: Rank) {
        if self.permit.is_none() {
            self.permit = Some(self.permits.take(rank).await);
        }
    }

    /// The permit, for as long as the fetch is not over.
    pub(crate) const fn take_permit(&mut self) -> Option<Permit<'t>> {
        self.permit.take()
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
        let copy = self.copy_for_followers(bytes);
        let is_shared = copy.is_some();
        let brought = Brought {
            run: self.run(),
            bytes: Arc::new(copy.unwrap_or_default()),
        };
        let outcome = Outcome::Unstored(error.clone(), brought);
        self.held.end(&outcome, |fate, whole| match fate.wants {
            Wants::Bytes => is_shared,
            Wants::Stored => fate.shares(whole, group),
        });
    }

    /// Releases the run, whose bytes are not to be stored, and shares them with the followers, as
    /// [`unstored`](Self::unstored) does.
    pub(crate) fn past(self, bytes: &[u8]) {
        let Some(copy) = self.copy_for_followers(bytes) else {
            return;
        };
        let outcome = Outcome::Past(Brought {
            run: self.run(),
            bytes: Arc::new(copy),
        });
        self.held
            .end(&outcome, |fate, _| fate.wants == Wants::Bytes);
    }

    /// A copy, if there is a follower that wants it, and memory.
    fn copy_for_followers(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut copy = Vec::new();
        let is_shared = self.held.is_awaited(|fate| fate.wants == Wants::Bytes)
            && copy.try_reserve_exact(bytes.len()).is_ok();
        is_shared.then(|| {
            copy.extend_from_slice(bytes);
            copy
        })
    }
}

#[cfg(all(test, not(model)))]
mod tests;

#[cfg(all(test, model))]
mod model;
