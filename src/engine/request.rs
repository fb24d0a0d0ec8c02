//! [`Request`]: one read that is no plain hit. Its parts, what each waits for, and how they go on until all are served.
//!
//! # Progress
//!
//! Each part ends. A leader waits for contact with the source, for bytes of the bitmap and for the backend, and no task
//! that it waits for waits for a block (I7). A follower has a place in line: it is told how the fetch ended, or it is the
//! next to lead, waits for a permit, and fetches (I3). What is not claimed yet waits for a permit too, in line, and is
//! claimed again when there is one, or when another part of the request is over.
//!
//! Requests end, whatever other tasks do. A part, or what is left of it, is claimed again for one of three reasons:
//!
//! - A beginning of it was served, so that what is left is shorter.
//! - It was read from the cache in vain, because blocks were damaged or dropped. After [`MOST_READS`] of these it goes
//!   *past* the cache, as does at once what could not be read: to the source, together with all who come to the same,
//!   and stored nowhere.
//! - A wide fetch failed. Then nothing of the request is widened again.
//!
//! While the backend is bypassed a request reads all of its blocks from the source, for itself.
//!
//! A fetch of its own serves a part or fails it, also where the fetch is void. An error that a follower is told is its
//! own, and fails it.

use alloc::boxed::Box;

use core::future::{Future, poll_fn};
use core::task::Poll;

use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use gibblox_core::{BlockReader, GibbloxError, GibbloxResult, ReadContext};
use smallvec::{SmallVec, smallvec};

use crate::backend::CacheOps;
use crate::bitmap::State;
use crate::fetch::{Ask, Brought, Claim, Fetch, Fetches, Follow, Followed, Outcome, Route};
use crate::file::{CacheFile, Flaw, Looked, NotValid};
use crate::permits::{Permit, Rank, Take};
use crate::policy::{FetchPolicy, Plan};
use crate::run::Run;
use crate::turn::Turns;

use super::fetching::{Fetched, Fetching};
use super::wide::TooWide;

/// What a request touches.
#[derive(Debug)]
pub(super) struct Request<'a, S, C> {
    pub(super) fetches: &'a Fetches,
    pub(super) file: &'a CacheFile<C>,
    pub(super) policy: &'a FetchPolicy,
    pub(super) fetching: Fetching<'a, S, C>,
    pub(super) fetches_at_once: u32,
}

/// A part of a request, with its piece of the caller's buffer.
struct Part<'b> {
    run: Run,
    buf: &'b mut [u8],
    /// Whether it goes past the cache: the backend is bypassed, or would not keep or return what was fetched.
    route: Route,
    /// How often it was read from the cache in vain.
    reads: u8,
}

/// After so many reads in vain a part goes past the cache.
const MOST_READS: u8 = 3;

/// How many parts end before other tasks get their turn.
const PARTS_A_TURN: u32 = 32;

/// How many parts are under way at once that fetch nothing.
const UNFETCHED_AT_ONCE: usize = 256;

/// How many claims are made under one look.
const CLAIMS_AT_ONCE: usize = 128;

/// Parts of a request. Mostly one.
type Parts<'b> = SmallVec<[Part<'b>; 1]>;

/// How a part is served.
enum Task<'t> {
    Cached,
    /// From the source, for this request alone.
    Direct(Permit<'t>),
    Lead(Route, Fetch<'t>),
    Follow(Route, Follow<'t>),
}

impl<'t> Task<'t> {
    fn new(route: Route, claim: Claim<'t>) -> Self {
        match claim {
            Claim::Valid(_) => Self::Cached,
            Claim::Lead(fetch) => Self::Lead(route, fetch),
            Claim::Follow(follow) => Self::Follow(route, follow),
        }
    }

    /// Whether the source is asked by this task.
    const fn fetches(&self) -> bool {
        matches!(self, Self::Lead(..) | Self::Direct(_))
    }
}

const fn other(route: Route) -> Route {
    match route {
        Route::Cache => Route::Past,
        Route::Past => Route::Cache,
    }
}

/// Parts with their tasks. Mostly one.
type Tasks<'t, 'b> = SmallVec<[(Task<'t>, Part<'b>); 1]>;

/// How serving a part ended.
enum Served<'b> {
    Done,
    /// These, if any, have to be claimed again.
    Again(Parts<'b>),
    /// The same, of a follower that has fetched something.
    Fetched(Parts<'b>),
    /// This has to be claimed again, with nothing fetched beside it.
    Alone(Part<'b>, TooWide),
    Failed {
        lba: u64,
        error: GibbloxError,
    },
}

/// What is still to be begun, and what is known of the whole. The parts are stacks, since no more is taken than can be
/// begun.
#[derive(Default)]
struct Rest<'b> {
    claim: Parts<'b>,
    past: Parts<'b>,
    /// What may be fetched beside it.
    plan: Plan,
    /// The backend is bypassed: what goes past the cache is read for this request alone.
    is_direct: bool,
    /// Whether anything was fetched.
    fetched: bool,
    /// A wider fetch that failed.
    too_wide: Option<Run>,
    /// The first block of a part that failed, and its error.
    failed: Option<(u64, GibbloxError)>,
}

impl<'b> Rest<'b> {
    const fn parts(&mut self, route: Route) -> &mut Parts<'b> {
        match route {
            Route::Cache => &mut self.claim,
            Route::Past => &mut self.past,
        }
    }

    fn push(&mut self, part: Part<'b>) {
        self.parts(part.route).push(part);
    }

    fn is_empty(&self) -> bool {
        self.claim.is_empty() && self.past.is_empty()
    }

    /// A part is served, or is to be claimed again.
    fn take_in(&mut self, served: Served<'b>) {
        match served {
            Served::Done => {}
            Served::Again(parts) => parts.into_iter().for_each(|part| self.push(part)),
            Served::Fetched(parts) => {
                self.fetched = true;
                parts.into_iter().for_each(|part| self.push(part));
            }
            Served::Alone(part, why) => {
                if let TooWide::Failed(span) = why {
                    self.too_wide = Some(self.too_wide.map_or(span, |known| known.hull(span)));
                }
                self.plan = Plan::default();
                self.push(part);
            }
            Served::Failed { lba, error } => {
                if self.failed.as_ref().is_none_or(|(first, _)| lba < *first) {
                    self.failed = Some((lba, error));
                }
            }
        }
    }
}

/// What a request waits for.
enum Next<'t, 'b> {
    Served(Served<'b>),
    Permit(Permit<'t>),
}

/// The next part that is served, or a permit. There is something under way, or in line.
async fn next<'t, 'b, F: Future<Output = Served<'b>>>(
    under_way: &mut FuturesUnordered<F>,
    line: &mut Option<Take<'t>>,
) -> Next<'t, 'b> {
    poll_fn(|cx| {
        // First, since a permit that is not taken fetches nothing.
        if let Some(Poll::Ready(permit)) = line.as_mut().map(|take| take.poll_unpin(cx)) {
            return Poll::Ready(Next::Permit(permit));
        }
        match under_way.poll_next_unpin(cx) {
            Poll::Ready(Some(served)) => Poll::Ready(Next::Served(served)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}

impl<S, C> Request<'_, S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Serves `run` into `buf`, which is as long; whether anything was fetched, and how it ended.
    ///
    /// Cancellation is strict; what this future leads goes to the next task that claims it.
    pub(super) async fn serve(
        &self,
        run: Run,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> (bool, GibbloxResult<()>) {
        // Boxed, since it is rare, and would make the future of every read that misses larger.
        let route = if self.file.shows_blocks() || Box::pin(self.file.prepare()).await {
            Route::Cache
        } else {
            Route::Past
        };
        let plan = self.plan(run);
        // Mostly all of it is missing and no task fetches any of it. What follows comes to the same, in more steps.
        let lead = if route == Route::Cache && plan.room(run) == run {
            self.fetches.lead_all(run, |run| self.file.state_at(run))
        } else {
            None
        };
        if let Some(lead) = lead {
            return match self.fetching.fetch(lead, buf, ctx).await {
                Fetched::Failed(error) => (true, Err(error)),
                // A read that has its bytes does not mind whether the backend took them.
                Fetched::Stored | Fetched::Void | Fetched::Unstored(_) => (true, Ok(())),
            };
        }
        let part = Part {
            run,
            buf,
            route,
            reads: 0,
        };
        // Boxed, since it is the longest way, and a request should not be as large as another's.
        Box::pin(self.stream(part, plan, ctx)).await
    }

    /// Serves `part`, piece by piece; whether anything was fetched, and how it ended.
    ///
    /// The next piece is begun when there is a permit, not when all that is under way is over. Where pieces fail nothing
    /// further is begun, and the others are finished first: their bytes are fetched by then, others wait for them, and it
    /// is not their failure. The error is that of the first block.
    async fn stream(
        &self,
        part: Part<'_>,
        plan: Plan,
        ctx: ReadContext,
    ) -> (bool, GibbloxResult<()>) {
        let mut rest = Rest {
            plan,
            // Nothing is kept past a backend that is bypassed, so no task is made to wait for another there.
            is_direct: part.route == Route::Past,
            ..Rest::default()
        };
        rest.push(part);
        let mut under_way = FuturesUnordered::new();
        // What this waits for while it holds no block, and what it got.
        let mut line: Option<Take<'_>> = None;
        let mut permit: Option<Permit<'_>> = None;
        let mut turns = Turns::every(PARTS_A_TURN);
        loop {
            let mut wants_permit = false;
            if rest.failed.is_none() && !rest.is_empty() {
                let room = self.parts_at_once().saturating_sub(under_way.len());
                let mut tasks;
                (tasks, wants_permit) =
                    self.begin(&mut rest, under_way.is_empty(), room, &mut permit);
                // One that was not needed after all passes on, before this waits for anything.
                permit = None;
                rest.fetched |= tasks.iter().any(|(task, _)| task.fetches());
                if tasks.len() == 1 && under_way.is_empty() && rest.is_empty() {
                    line = None;
                    if let Some((task, part)) = tasks.pop() {
                        let served = self.work(task, part, ctx).await;
                        rest.take_in(served);
                        turns.done().await;
                    }
                    continue;
                }
                // What waits for the source goes first, so that the source works while the backend is read.
                tasks.sort_by_key(|(task, _)| !task.fetches());
                let works = tasks.into_iter();
                under_way.extend(works.map(|(task, part)| self.work(task, part, ctx)));
            }
            if rest.is_empty() || rest.failed.is_some() {
                (line, permit) = (None, None);
            } else if wants_permit {
                line.get_or_insert_with(|| self.fetches.take_permit(Rank::of(ctx)));
            }
            if under_way.is_empty() && line.is_none() {
                if rest.is_empty() || rest.failed.is_some() {
                    break;
                }
                turns.done().await;
                continue;
            }
            match next(&mut under_way, &mut line).await {
                Next::Served(served) => {
                    rest.take_in(served);
                    turns.done().await;
                }
                Next::Permit(taken) => {
                    line = None;
                    permit = Some(taken);
                }
            }
        }
        if rest.failed.is_none() {
            if let Some(span) = rest.too_wide {
                self.policy.failed_beside(span);
            }
        }
        (
            rest.fetched,
            rest.failed.map_or(Ok(()), |(_, error)| Err(error)),
        )
    }

    /// How many parts are under way at once; more of them have no permit than have one.
    fn parts_at_once(&self) -> usize {
        usize::try_from(self.fetches_at_once)
            .unwrap_or(usize::MAX)
            .saturating_add(UNFETCHED_AT_ONCE)
    }

    /// What a request for `run` may fetch beside it. Nothing while there is nowhere to store it, nor while the source may
    /// be out of reach: it would be asked twice, once for nothing.
    fn plan(&self, run: Run) -> Plan {
        if !self.file.shows_blocks() || self.fetching.is_offline() {
            return Plan::default();
        }
        let misses = || self.file.count_valid(run) != run.blocks();
        let is_trusted = |run| self.file.is_trusted(run);
        self.policy
            .plan(run, misses, is_trusted, self.file.has_checksums())
    }

    /// Takes as much of the rest as may be begun, and not more than `room` parts: what is to be read past the cache, then
    /// what can be claimed. Whether it ended for want of a permit. `is_alone`: nothing of the request is under way.
    fn begin<'s, 'b>(
        &'s self,
        rest: &mut Rest<'b>,
        is_alone: bool,
        room: usize,
        permit: &mut Option<Permit<'s>>,
    ) -> (Tasks<'s, 'b>, bool) {
        let mut tasks = Tasks::new();
        let mut room = room.min(CLAIMS_AT_ONCE);
        let plan = rest.plan;
        while rest.is_direct && tasks.len() < room {
            let Some(part) = rest.past.pop() else {
                break;
            };
            let Some(permit) = self.fetches.permit(permit) else {
                rest.past.push(part);
                return (tasks, true);
            };
            let end = part.run.first(self.fetches.most_blocks()).end();
            let (part, after) = self.split(part, end);
            rest.past.extend(after);
            tasks.extend(part.map(|part| (Task::Direct(permit), part)));
        }
        if rest.is_direct && !rest.past.is_empty() {
            return (tasks, false);
        }
        for route in [Route::Past, Route::Cache] {
            let is_rest = is_alone && rest.parts(other(route)).is_empty() && tasks.is_empty();
            let parts = rest.parts(route);
            let wanted = parts.iter().rev().map(|part| part.run);
            let ask = Ask {
                route,
                plan: if route == Route::Cache {
                    &plan
                } else {
                    &Plan::default()
                },
                most_claims: room,
                is_rest,
            };
            let state_at = |run| self.state_at(route, run);
            let claimed = self.fetches.claim(wanted, ask, permit, state_at);
            for claim in claimed.claims {
                let Some(part) = parts.pop() else {
                    break;
                };
                let (part, after) = self.split(part, claim.run().end());
                parts.extend(after);
                tasks.extend(part.map(|part| (Task::new(route, claim), part)));
            }
            if claimed.wants_permit {
                return (tasks, true);
            }
            room = room.saturating_sub(tasks.len());
        }
        (tasks, false)
    }

    /// The state of the first block of `run`, and the longest beginning of `run` that shares it. Past the cache nothing
    /// is valid.
    fn state_at(&self, route: Route, run: Run) -> (State, Run) {
        match route {
            Route::Cache => self.file.state_at(run),
            Route::Past => (State::Missing, run),
        }
    }

    /// The blocks of `part` before `lba`, and those from `lba` on.
    fn split<'b>(&self, part: Part<'b>, lba: u64) -> (Option<Part<'b>>, Option<Part<'b>>) {
        let Part {
            run,
            buf,
            route,
            reads,
        } = part;
        let before = run.first_until(lba);
        let blocks = before.map_or(0, Run::blocks);
        let (before_buf, after_buf) = buf.split_at_mut(self.fetching.geometry().len_bytes(blocks));
        let part = |run: Option<Run>, buf| {
            run.map(|run| Part {
                run,
                buf,
                route,
                reads,
            })
        };
        (part(before, before_buf), part(run.from(lba), after_buf))
    }

    async fn work<'b>(&self, task: Task<'_>, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match task {
            Task::Cached => Served::Again(self.read_cached(part, Route::Cache).await),
            Task::Direct(_permit) => {
                match self.fetching.read_source(part.run, part.buf, ctx).await {
                    Ok(()) => Served::Done,
                    Err(error) => part.failed(error),
                }
            }
            Task::Lead(Route::Cache, fetch) if !fetch.is_exact() => {
                // Boxed, since it is rare, and would make the future of every fetch larger.
                match Box::pin(self.fetching.fetch_wide(fetch, part.buf, ctx)).await {
                    Ok(()) => Served::Done,
                    Err(too_wide) => Served::Alone(part, too_wide),
                }
            }
            Task::Lead(route, fetch) => self.lead(route, fetch, part, ctx).await,
            Task::Follow(route, follow) => self.follow(route, follow, part, ctx).await,
        }
    }

    async fn lead<'b>(
        &self,
        route: Route,
        fetch: Fetch<'_>,
        part: Part<'b>,
        ctx: ReadContext,
    ) -> Served<'b> {
        let failed = match route {
            Route::Cache => match self.fetching.fetch(fetch, part.buf, ctx).await {
                Fetched::Failed(error) => error,
                // A read that has its bytes does not mind whether the backend took them.
                Fetched::Stored | Fetched::Void | Fetched::Unstored(_) => return Served::Done,
            },
            Route::Past => match self.fetching.fetch_past(fetch, part.buf, ctx).await {
                Err(error) => error,
                Ok(()) => return Served::Done,
            },
        };
        part.failed(failed)
    }

    async fn follow<'b>(
        &self,
        route: Route,
        follow: Follow<'_>,
        part: Part<'b>,
        ctx: ReadContext,
    ) -> Served<'b> {
        self.file.counts().followed_runs.add(1);
        let followed = follow.outcome(|run| self.state_at(route, run)).await;
        let (part, rest) = self.split(part, followed.run().end());
        let mut again: Parts<'b> = rest.into_iter().collect();
        let Some(part) = part else {
            return Served::Again(again);
        };
        match followed {
            // What the backend does not return as it was stored just now it would not return the next time either.
            Followed::Ended(_, Outcome::Published) => {
                again.extend(self.read_cached(part, Route::Past).await);
            }
            Followed::Ended(_, Outcome::Unstored(_, brought) | Outcome::Past(brought)) => {
                again.extend(self.copy_brought(&brought, part));
            }
            Followed::Ended(_, Outcome::Failed(error)) => return part.failed(error),
            Followed::Valid(_) => again.extend(self.read_cached(part, Route::Cache).await),
            Followed::Lead(mut fetch) => {
                // Boxed, since it is rare, and would make the future of every follower larger.
                let lead = Box::pin(async {
                    fetch.permit(Rank::of(ctx)).await;
                    self.lead(route, fetch, part, ctx).await
                });
                return match lead.await {
                    Served::Done => Served::Fetched(again),
                    failed => failed,
                };
            }
        }
        Served::Again(again)
    }

    /// Gets a part from the bytes that its leader has fetched; returns it where they are not there.
    fn copy_brought<'b>(&self, brought: &Brought, part: Part<'b>) -> Option<Part<'b>> {
        let from = part.run.start().checked_sub(brought.run.start());
        let len_bytes = |blocks| self.fetching.geometry().len_bytes(blocks);
        let bytes = from.and_then(|blocks| brought.bytes.get(len_bytes(blocks)..));
        let Some(bytes) = bytes.and_then(|bytes| bytes.get(..part.buf.len())) else {
            return Some(Part {
                route: Route::Past,
                ..part
            });
        };
        part.buf.copy_from_slice(bytes);
        None
    }

    /// Reads a part that was valid, and returns what turns out not to be, to be claimed again; blocks that are wrong for
    /// certain on the route `wrong`. Blocks that could not be read come from the source, and stay as they are in the cache.
    async fn read_cached<'b>(&self, part: Part<'b>, wrong: Route) -> Parts<'b> {
        let reads = part.reads + 1;
        let (flaws, route) = match self.file.read(part.run, part.buf).await {
            // Dropped by another task: damaged, or because the source has changed.
            Err(NotValid) => {
                let run = part.run;
                let all = Flaw {
                    run,
                    is_wrong: true,
                };
                (smallvec![all], Route::Cache)
            }
            Ok(Looked { flaws, settled, .. }) if settled => (flaws, wrong),
            Ok(Looked { flaws, .. }) => (flaws, Route::Cache),
        };
        let route = if reads == MOST_READS {
            Route::Past
        } else {
            route
        };
        let count_valid = |run| self.file.count_valid(run);
        let used = self.policy.use_unasked(part.run, count_valid);
        if used != 0 {
            self.file.counts().unasked_used_blocks.add(used);
        }
        let mut rest = Some(part);
        let mut again = Parts::new();
        for Flaw { run, is_wrong } in flaws {
            let route = if is_wrong { route } else { Route::Past };
            let (_, from) = rest.map_or((None, None), |rest| self.split(rest, run.start()));
            let (bad, after) = from.map_or((None, None), |from| self.split(from, run.end()));
            again.extend(bad.map(|bad| Part {
                route,
                reads,
                ..bad
            }));
            rest = after;
        }
        again
    }
}

impl Part<'_> {
    fn failed<'b>(self, error: GibbloxError) -> Served<'b> {
        Served::Failed {
            lba: self.run.start(),
            error,
        }
    }
}
