//! [`Request`]: one read that is no plain hit. Its parts, what each waits for, and the rounds until all are served.
//!
//! # Progress
//!
//! Each round ends. A leader waits for the source, the backend, and other leaders' writes of the same bytes of the
//! bitmap, and first of all, offline, for the task that asks the source who it is; never for blocks. A follower waits
//! for its leader (I3).
//!
//! Rounds end. A part goes into another round for one of four reasons:
//!
//! - A block was dropped, so that it has to be fetched.
//! - Its leader failed or was dropped.
//! - The backend did not keep what a leader had fetched, or blocks were dropped each time the part was read.
//! - A wide fetch failed.
//!
//! Each of the first two takes another task that drops, fails or goes away. The third makes the part *direct*, to be
//! read from the source without a claim. After the fourth nothing of the request is widened again. Neither comes back.
//!
//! Without direct parts many readers of one block over a dead backend would fetch it one after another, each the
//! follower of the one before, and a reader beside a bad sector might never end.

use alloc::boxed::Box;

use gibblox_core::{BlockReader, GibbloxError, GibbloxResult, ReadContext};

use futures_util::stream::{FuturesUnordered, StreamExt};
use smallvec::{SmallVec, smallvec};

use crate::backend::CacheOps;
use crate::file::{CacheFile, Flaw, Looked, NotValid};
use crate::flight::{Claim, Fetch, FlightTable, Follow, Outcome};
use crate::policy::{FetchPolicy, Plan};
use crate::run::Run;

use super::fetching::Fetching;
use super::wide::TooWide;

/// What a request touches.
#[derive(Debug)]
pub(super) struct Request<'a, S, C> {
    pub(super) flights: &'a FlightTable,
    pub(super) file: &'a CacheFile<C>,
    pub(super) policy: &'a FetchPolicy,
    pub(super) fetching: Fetching<'a, S, C>,
    pub(super) fetches_at_once: u32,
}

/// A part of a request, with its piece of the caller's buffer.
struct Part<'b> {
    run: Run,
    buf: &'b mut [u8],
    way: Way,
    /// How often it was read while blocks were dropped, so that nothing was certain.
    unsettled: u8,
}

/// After so many times a part is read from the source alone.
const MOST_UNSETTLED: u8 = 3;

/// Parts of a request. Mostly one.
type Parts<'b> = SmallVec<[Part<'b>; 1]>;

/// How a part may be served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the cache, or by the leader of its fetch.
    Claim,
    /// From the source alone, since the backend is bypassed, or would not keep or return what was fetched.
    Direct,
}

/// How a part is served in this round.
enum Task<'t> {
    Cached,
    Lead(Fetch<'t>),
    Follow(Follow),
    Direct,
}

impl<'t> From<Claim<'t>> for Task<'t> {
    fn from(claim: Claim<'t>) -> Self {
        match claim {
            Claim::Valid(_) => Self::Cached,
            Claim::Lead(fetch) => Self::Lead(fetch),
            Claim::Follow(follow) => Self::Follow(follow),
        }
    }
}

impl Task<'_> {
    /// Whether the source is asked by this task.
    const fn fetches(&self) -> bool {
        matches!(self, Self::Lead(_) | Self::Direct)
    }
}

/// Parts with their tasks. Mostly one.
type Tasks<'t, 'b> = SmallVec<[(Task<'t>, Part<'b>); 1]>;

/// What a part has of the fetch that it waited for.
#[derive(Clone, Copy)]
enum Share {
    /// The part's own task led it, so the bytes are in the buffer.
    Leader,
    /// Another task led it. Its failure is the part's, too.
    Fate,
    /// Another task led it, for more than this part, so its failure is not the part's.
    Bytes,
}

/// How serving a part ended.
enum Served<'b> {
    Done,
    /// These have to go through another round.
    Again(Parts<'b>),
    /// This has to go through another round, with nothing fetched beside it.
    Alone(Part<'b>),
    Failed {
        lba: u64,
        error: GibbloxError,
    },
}

/// The parts that are still to be served. Both are stacks, since a round takes no more than it begins to fetch.
#[derive(Default)]
struct Waiting<'b> {
    claim: Parts<'b>,
    direct: Parts<'b>,
    /// What may be fetched beside it.
    plan: Plan,
}

impl<'b> Waiting<'b> {
    fn push(&mut self, part: Part<'b>) {
        match part.way {
            Way::Claim => self.claim.push(part),
            Way::Direct => self.direct.push(part),
        }
    }

    fn is_empty(&self) -> bool {
        self.claim.is_empty() && self.direct.is_empty()
    }
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
        let way = if self.file.shows_blocks() || Box::pin(self.file.prepare()).await {
            Way::Claim
        } else {
            // Past a backend that is bypassed nothing can be kept for followers, so no task is made to wait as one.
            Way::Direct
        };
        let plan = self.plan(run);
        // Mostly all of it is missing and no task fetches any of it. The rounds come to the same, in more steps.
        let lead = if way == Way::Claim && plan.room(run) == run {
            self.flights.lead_all(run, |run| self.file.state_at(run))
        } else {
            None
        };
        if let Some(lead) = lead {
            return match self.fetching.fetch(lead, buf, ctx).await {
                Outcome::Failed(error) => (true, Err(error)),
                // A read that has its bytes does not mind whether the backend took them.
                Outcome::Published | Outcome::Unstored(_) => (true, Ok(())),
            };
        }
        let part = Part {
            run,
            buf,
            way,
            unsettled: 0,
        };
        // Boxed, since it is the longest way, and a request should not be as large as another's.
        Box::pin(self.rounds(part, plan, ctx)).await
    }

    /// Serves `part` in rounds; whether anything was fetched, and how it ended.
    async fn rounds(
        &self,
        part: Part<'_>,
        plan: Plan,
        ctx: ReadContext,
    ) -> (bool, GibbloxResult<()>) {
        let mut waiting = Waiting {
            plan,
            ..Waiting::default()
        };
        waiting.push(part);
        let mut fetched = false;
        let mut result = Ok(());
        while result.is_ok() && !waiting.is_empty() {
            let tasks = self.assign(&mut waiting);
            fetched |= tasks.iter().any(|(task, _)| task.fetches());
            result = self.round(tasks, &mut waiting, ctx).await;
        }
        (fetched, result)
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

    /// Works on `tasks` side by side; what has to go through another round is waiting again.
    ///
    /// Where tasks fail the others are finished first: their bytes are fetched by then, others wait for them, and it
    /// is not their failure. The error is that of the first block.
    async fn round<'b>(
        &self,
        mut tasks: Tasks<'_, 'b>,
        waiting: &mut Waiting<'b>,
        ctx: ReadContext,
    ) -> GibbloxResult<()> {
        let mut failed: Option<(u64, GibbloxError)> = None;
        let mut end = |served| match served {
            Served::Done => {}
            Served::Again(parts) => parts.into_iter().for_each(|part| waiting.push(part)),
            Served::Alone(part) => {
                waiting.plan = Plan::default();
                waiting.push(part);
            }
            Served::Failed { lba, error } => {
                if failed.as_ref().is_none_or(|(first, _)| lba < *first) {
                    failed = Some((lba, error));
                }
            }
        };
        if tasks.len() == 1 {
            if let Some((task, part)) = tasks.pop() {
                end(self.work(task, part, ctx).await);
            }
        } else {
            // What waits for the source goes first, so that the source works while the backend is read.
            tasks.sort_by_key(|(task, _)| !task.fetches());
            let mut under_way: FuturesUnordered<_> = tasks
                .into_iter()
                .map(|(task, part)| self.work(task, part, ctx))
                .collect();
            while let Some(served) = under_way.next().await {
                end(served);
            }
        }
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Takes as much of what is waiting as may be fetched at once: what is to be read directly, then what can be
    /// claimed.
    fn assign<'b>(&self, waiting: &mut Waiting<'b>) -> Tasks<'_, 'b> {
        let most = usize::try_from(self.fetches_at_once).unwrap_or(usize::MAX);
        let mut tasks = Tasks::new();
        let keep = waiting.direct.len().saturating_sub(most);
        for part in waiting.direct.drain(keep..) {
            tasks.push((Task::Direct, part));
        }
        let wanted = waiting.claim.iter().rev().map(|part| part.run);
        let most = most - tasks.len();
        let state_at = |run| self.file.state_at(run);
        let claims = self.flights.claim(wanted, most, &waiting.plan, state_at);
        for claim in claims {
            let Some(part) = waiting.claim.pop() else {
                break;
            };
            let (part, rest) = self.split(part, claim.run().end());
            waiting.claim.extend(rest);
            tasks.extend(part.map(|part| (claim.into(), part)));
        }
        tasks
    }

    /// The blocks of `part` before `lba`, and those from `lba` on.
    fn split<'b>(&self, part: Part<'b>, lba: u64) -> (Option<Part<'b>>, Option<Part<'b>>) {
        let Part {
            run,
            buf,
            way,
            unsettled,
        } = part;
        let before = run.first_until(lba);
        let blocks = before.map_or(0, Run::blocks);
        let (before_buf, after_buf) = buf.split_at_mut(self.fetching.geometry().len_bytes(blocks));
        let part = |run: Option<Run>, buf| {
            run.map(|run| Part {
                run,
                buf,
                way,
                unsettled,
            })
        };
        (part(before, before_buf), part(run.from(lba), after_buf))
    }

    async fn work<'b>(&self, task: Task<'_>, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match task {
            Task::Cached => self.read_cached(part, Way::Claim).await,
            Task::Direct => match self.fetching.read_source(part.run, part.buf, ctx).await {
                Ok(()) => Served::Done,
                Err(error) => part.failed(error),
            },
            Task::Lead(fetch) if !fetch.is_exact() => {
                // Boxed, since it is rare, and would make the future of every fetch larger.
                match Box::pin(self.fetching.fetch_wide(fetch, part.buf, ctx)).await {
                    Ok(()) => Served::Done,
                    Err(TooWide) => Served::Alone(part),
                }
            }
            Task::Lead(fetch) => {
                let outcome = self.fetching.fetch(fetch, part.buf, ctx).await;
                self.conclude(part, Some(outcome), Share::Leader).await
            }
            Task::Follow(follow) => {
                let share = if follow.shares_fate() {
                    Share::Fate
                } else {
                    Share::Bytes
                };
                self.file.counts().followed_runs.add(1);
                self.conclude(part, follow.outcome().await, share).await
            }
        }
    }

    /// What the outcome of a fetch, if it has one, means for `part`.
    async fn conclude<'b>(
        &self,
        part: Part<'b>,
        outcome: Option<Outcome>,
        share: Share,
    ) -> Served<'b> {
        match (outcome, share) {
            (Some(Outcome::Failed(error)), Share::Leader | Share::Fate) => part.failed(error),
            // A read that has its bytes does not mind whether the backend took them.
            (Some(Outcome::Published | Outcome::Unstored(_)), Share::Leader) => Served::Done,
            (Some(Outcome::Published), _) => self.read_cached(part, Way::Direct).await,
            (Some(Outcome::Unstored(_)), _) => part.again(Way::Direct),
            (Some(Outcome::Failed(_)) | None, _) => part.again(Way::Claim),
        }
    }

    /// Reads a part that was valid. Blocks that turn out not to be go again, on the way `otherwise`. Blocks that could not
    /// be read come from the source, and stay as they are in the cache.
    async fn read_cached<'b>(&self, part: Part<'b>, otherwise: Way) -> Served<'b> {
        let mut unsettled = part.unsettled;
        let (flaws, way) = match self.file.read(part.run, part.buf).await {
            Err(NotValid) => {
                let run = part.run;
                let all = Flaw {
                    run,
                    is_wrong: true,
                };
                (smallvec![all], otherwise)
            }
            Ok(Looked { flaws, settled, .. }) if settled => (flaws, otherwise),
            Ok(Looked { flaws, .. }) => {
                unsettled += 1;
                let direct = unsettled == MOST_UNSETTLED;
                (flaws, if direct { Way::Direct } else { Way::Claim })
            }
        };
        let count_valid = |run| self.file.count_valid(run);
        let used = self.policy.use_unasked(part.run, count_valid);
        if used != 0 {
            self.file.counts().unasked_used_blocks.add(used);
        }
        let mut rest = Some(part);
        let mut again = Parts::new();
        for Flaw { run, is_wrong } in flaws {
            let way = if is_wrong { way } else { Way::Direct };
            let (_, from) = rest.map_or((None, None), |rest| self.split(rest, run.start()));
            let (bad, after) = from.map_or((None, None), |from| self.split(from, run.end()));
            again.extend(bad.map(|bad| Part {
                way,
                unsettled,
                ..bad
            }));
            rest = after;
        }
        if again.is_empty() {
            Served::Done
        } else {
            Served::Again(again)
        }
    }
}

impl<'b> Part<'b> {
    fn again(self, way: Way) -> Served<'b> {
        Served::Again(smallvec![Part { way, ..self }])
    }

    fn failed(self, error: GibbloxError) -> Served<'b> {
        Served::Failed {
            lba: self.run.start(),
            error,
        }
    }
}
