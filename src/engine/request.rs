//! [`Request`]: one read that is no plain hit. Its parts, what each waits for, and the rounds until all are served.
//!
//! # Progress
//!
//! Each round ends. A leader waits for contact with the source, for bytes of the bitmap and for the backend, and no task
//! that it waits for waits for a block (I7). A follower has a place in line: it is told how the fetch ended, or it is the
//! next to lead, and fetches then in the same round (I3).
//!
//! Rounds end, whatever other tasks do. A part, or what is left of it, goes into another round for one of three reasons:
//!
//! - A beginning of it was served, so that what is left is shorter.
//! - It was read from the cache in vain, because blocks were damaged or dropped. After [`MOST_READS`] of these it is
//!   *direct*: read from the source without a claim.
//! - A wide fetch failed. Then nothing of the request is widened again.
//!
//! A fetch of its own serves a part or fails it, also where the fetch is void. An error that a follower is told is its
//! own, and fails it.

use alloc::boxed::Box;

use gibblox_core::{BlockReader, GibbloxError, GibbloxResult, ReadContext};

use futures_util::stream::{FuturesUnordered, StreamExt};
use smallvec::{SmallVec, smallvec};

use crate::backend::CacheOps;
use crate::fetch::{Claim, Fetch, Fetches, Follow, Followed, Outcome, Unstored};
use crate::file::{CacheFile, Flaw, Looked, NotValid};
use crate::policy::{FetchPolicy, Plan};
use crate::run::Run;

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
    way: Way,
    /// How often it was read from the cache in vain.
    reads: u8,
}

/// After so many reads in vain a part is read from the source alone.
const MOST_READS: u8 = 3;

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
    Follow(Follow<'t>),
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

/// How serving a part ended.
enum Served<'b> {
    Done,
    /// These, if any, have to go through another round.
    Again(Parts<'b>),
    /// The same, of a follower that has fetched something.
    Fetched(Parts<'b>),
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
    /// Whether anything was fetched.
    fetched: bool,
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
            way,
            reads: 0,
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
        let mut result = Ok(());
        while result.is_ok() && !waiting.is_empty() {
            let tasks = self.assign(&mut waiting);
            waiting.fetched |= tasks.iter().any(|(task, _)| task.fetches());
            result = self.round(tasks, &mut waiting, ctx).await;
        }
        (waiting.fetched, result)
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
            Served::Fetched(parts) => {
                waiting.fetched = true;
                parts.into_iter().for_each(|part| waiting.push(part));
            }
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
        let claims = self.fetches.claim(wanted, most, &waiting.plan, state_at);
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
            reads,
        } = part;
        let before = run.first_until(lba);
        let blocks = before.map_or(0, Run::blocks);
        let (before_buf, after_buf) = buf.split_at_mut(self.fetching.geometry().len_bytes(blocks));
        let part = |run: Option<Run>, buf| {
            run.map(|run| Part {
                run,
                buf,
                way,
                reads,
            })
        };
        (part(before, before_buf), part(run.from(lba), after_buf))
    }

    async fn work<'b>(&self, task: Task<'_>, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match task {
            Task::Cached => Served::Again(self.read_cached(part, Way::Claim).await),
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
            Task::Lead(fetch) => match self.fetching.fetch(fetch, part.buf, ctx).await {
                Fetched::Failed(error) => part.failed(error),
                Fetched::Stored | Fetched::Void | Fetched::Unstored(_) => Served::Done,
            },
            Task::Follow(follow) => self.follow(follow, part, ctx).await,
        }
    }

    async fn follow<'b>(&self, follow: Follow<'_>, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        self.file.counts().followed_runs.add(1);
        let followed = follow.outcome(|run| self.file.state_at(run)).await;
        let (part, rest) = self.split(part, followed.run().end());
        let mut again: Parts<'b> = rest.into_iter().collect();
        let Some(part) = part else {
            return Served::Again(again);
        };
        match followed {
            // What the backend does not return as it was stored just now it would not return the next time either.
            Followed::Ended(_, Outcome::Published) => {
                again.extend(self.read_cached(part, Way::Direct).await);
            }
            Followed::Ended(_, Outcome::Unstored(unstored)) => {
                again.extend(self.copy_unstored(&unstored, part));
            }
            Followed::Ended(_, Outcome::Failed(error)) => return part.failed(error),
            Followed::Valid(_) => again.extend(self.read_cached(part, Way::Claim).await),
            // Boxed, since it is rare, and would make the future of every follower larger.
            Followed::Lead(fetch) => {
                return match Box::pin(self.fetching.fetch(fetch, part.buf, ctx)).await {
                    Fetched::Failed(error) => part.failed(error),
                    Fetched::Stored | Fetched::Void | Fetched::Unstored(_) => {
                        Served::Fetched(again)
                    }
                };
            }
        }
        Served::Again(again)
    }

    /// Gets a part from the bytes that its leader has fetched; returns it where they are not there.
    fn copy_unstored<'b>(&self, unstored: &Unstored, part: Part<'b>) -> Option<Part<'b>> {
        let from = part.run.start().checked_sub(unstored.run.start());
        let len_bytes = |blocks| self.fetching.geometry().len_bytes(blocks);
        let bytes = from.and_then(|blocks| unstored.bytes.get(len_bytes(blocks)..));
        let Some(bytes) = bytes.and_then(|bytes| bytes.get(..part.buf.len())) else {
            return Some(Part {
                way: Way::Direct,
                ..part
            });
        };
        part.buf.copy_from_slice(bytes);
        None
    }

    /// Reads a part that was valid, and returns what turns out not to be, to go again; blocks that are wrong for certain on
    /// the way `wrong`. Blocks that could not be read come from the source, and stay as they are in the cache.
    async fn read_cached<'b>(&self, part: Part<'b>, wrong: Way) -> Parts<'b> {
        let reads = part.reads + 1;
        let (flaws, way) = match self.file.read(part.run, part.buf).await {
            // Dropped by another task: damaged, or because the source has changed.
            Err(NotValid) => {
                let run = part.run;
                let all = Flaw {
                    run,
                    is_wrong: true,
                };
                (smallvec![all], Way::Claim)
            }
            Ok(Looked { flaws, settled, .. }) if settled => (flaws, wrong),
            Ok(Looked { flaws, .. }) => (flaws, Way::Claim),
        };
        let way = if reads == MOST_READS {
            Way::Direct
        } else {
            way
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
            again.extend(bad.map(|bad| Part { way, reads, ..bad }));
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
