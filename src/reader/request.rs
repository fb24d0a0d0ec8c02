//! One request: its parts, what each waits for, and the rounds until all are served.
//!
//! # Progress
//!
//! Each round ends. A leader waits for the source, for bytes of the bitmap and for the backend, and no task that it
//! waits for waits for a block (I7). A follower has a place in line: it is told how the fetch ended, or it is the next to
//! lead, and fetches then in the same round (I3).
//!
//! And rounds end, whatever other tasks do, since a part, or what is left of it, comes back only
//!
//! - where a beginning of it was served: what is left is shorter;
//! - where it was read from the cache in vain, because blocks were damaged or dropped: after [`MOST_READS`] of these it
//!   is fetched *directly*, without a claim;
//! - where a fetch failed that brought more than was asked for: then this request asks for nothing more any more.
//!
//! A fetch of its own serves it or fails, also where it is void, and so does the failure of a fetch that it followed and
//! whose error is its own.

use alloc::boxed::Box;

use gibblox_core::{BlockReader, GibbloxError, GibbloxResult, ReadContext};

use futures_util::stream::{FuturesUnordered, StreamExt};
use smallvec::{SmallVec, smallvec};

use crate::backend::CacheOps;
use crate::fetch::{Claim, Follow, Followed, Outcome, Unstored};
use crate::file::{Looked, NotValid};
use crate::policy::Plan;
use crate::run::Run;

use super::wide::TooWide;
use super::{CachedBlockReader, Fetched};

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
    /// From the cache, or by the task that leads its fetch.
    Claim,
    /// From the source alone, since the backend is bypassed, or would not keep or return what was fetched.
    Direct,
}

/// What a part waits for.
enum Role<'t> {
    Claimed(Claim<'t>),
    Direct,
}

impl Role<'_> {
    /// Whether the source is asked first, and not another task or the backend.
    const fn fetches(&self) -> bool {
        matches!(self, Role::Claimed(Claim::Lead(_)) | Role::Direct)
    }
}

/// Parts with what they wait for. Mostly one.
type Tasks<'t, 'b> = SmallVec<[(Role<'t>, Part<'b>); 1]>;

/// How serving a part ended.
enum Served<'b> {
    Done,
    /// What has to go through another round, if anything.
    Again(Parts<'b>),
    /// The same, of a follower that has fetched something.
    Fetched(Parts<'b>),
    /// What has to go through another round, with nothing fetched beside it.
    Alone(Part<'b>),
    Failed {
        lba: u64,
        error: GibbloxError,
    },
}

/// What of a request is still to be served. Both are stacks, since a round takes no more than it begins to fetch.
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

impl<S, C> CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Serves a request that is no plain hit.
    ///
    /// Cancellation is strict; what this future leads goes to whoever claims it next.
    pub(super) async fn fill(
        &self,
        run: Run,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<()> {
        // Boxed, since it is rare, and would make the future of every read that misses larger.
        let way = if self.file.shows_blocks() || Box::pin(self.file.prepare()).await {
            Way::Claim
        } else {
            // Past a backend that is bypassed nothing can be kept for followers, so nobody is made to wait as one.
            Way::Direct
        };
        let plan = self.plan(run);
        // Mostly all of it is missing and nobody fetches any of it. What is below comes to the same, in more steps.
        let lead = if way == Way::Claim && plan.room(run) == run {
            self.flights.lead_all(run, |run| self.file.state_at(run))
        } else {
            None
        };
        let (fetched, result) = if let Some(lead) = lead {
            (true, self.fetch(lead, buf, ctx).await.map(drop))
        } else {
            let part = Part {
                run,
                buf,
                way,
                reads: 0,
            };
            // Boxed, since it is the longest way, and a request should not be as large as another's.
            Box::pin(self.rounds(part, plan, ctx)).await
        };
        if fetched {
            // Once for a request, and last: whoever follows one of its fetches does not wait for the flush. It is
            // counted and logged where it fails, and the bytes are in the buffer.
            let _ = self.flush_where_due(self.flush_gate.due()).await;
        }
        if result.is_ok() {
            self.file.counts().filled_blocks.add(run.blocks());
        }
        result
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
            waiting.fetched |= tasks.iter().any(|(role, _)| role.fetches());
            result = self.round(tasks, &mut waiting, ctx).await;
        }
        (waiting.fetched, result)
    }

    /// What a request for `run` may fetch beside it. Nothing while there is nowhere to store it, nor while the source may
    /// be out of reach: it would be asked twice, once for nothing.
    fn plan(&self, run: Run) -> Plan {
        if !self.file.shows_blocks() || self.is_offline() {
            return Plan::default();
        }
        let misses = || self.file.count_valid(run) != run.blocks();
        self.policy
            .plan(run, misses, |run| self.file.is_trusted(run))
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
            if let Some((role, part)) = tasks.pop() {
                end(self.serve(role, part, ctx).await);
            }
        } else {
            // What waits for the source goes first, so that the source works while the backend is read.
            tasks.sort_by_key(|(role, _)| !role.fetches());
            let mut under_way: FuturesUnordered<_> = tasks
                .into_iter()
                .map(|(role, part)| self.serve(role, part, ctx))
                .collect();
            while let Some(served) = under_way.next().await {
                end(served);
            }
        }
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Takes as much of what is waiting as may be fetched at once: what is to be read directly, then what can be
    /// claimed.
    fn assign<'t, 'b>(&'t self, waiting: &mut Waiting<'b>) -> Tasks<'t, 'b> {
        let most = usize::try_from(self.config.fetches_at_once()).unwrap_or(usize::MAX);
        let mut tasks = Tasks::new();
        let keep = waiting.direct.len().saturating_sub(most);
        for part in waiting.direct.drain(keep..) {
            tasks.push((Role::Direct, part));
        }
        let wanted = waiting.claim.iter().rev().map(|part| part.run);
        let most = most - tasks.len();
        let state_at = |run| self.file.state_at(run);
        let claims = self.flights.claim(wanted, most, &waiting.plan, state_at);
        for claim in claims {
            let Some(part) = waiting.claim.pop() else {
                break;
            };
            let (part, behind) = self.split(part, claim.run().end());
            waiting.claim.extend(behind);
            tasks.extend(part.map(|part| (Role::Claimed(claim), part)));
        }
        tasks
    }

    /// What of `part` is in front of the block `lba`, and what is behind.
    fn split<'b>(&self, part: Part<'b>, lba: u64) -> (Option<Part<'b>>, Option<Part<'b>>) {
        let Part {
            run,
            buf,
            way,
            reads,
        } = part;
        let front = run.first_until(lba);
        let blocks = front.map_or(0, Run::blocks);
        let (front_buf, behind_buf) = buf.split_at_mut(self.geometry.len_bytes(blocks));
        let part = |run: Option<Run>, buf| {
            run.map(|run| Part {
                run,
                buf,
                way,
                reads,
            })
        };
        (part(front, front_buf), part(run.from(lba), behind_buf))
    }

    async fn serve<'b>(&self, role: Role<'_>, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match role {
            Role::Claimed(Claim::Valid(_)) => {
                Served::Again(self.read_cached(part, Way::Claim).await)
            }
            Role::Claimed(Claim::Lead(fetch)) if !fetch.is_exact() => {
                // Boxed, since it is rare, and would make the future of every fetch larger.
                match Box::pin(self.fetch_wide(fetch, part.buf, ctx)).await {
                    Ok(()) => Served::Done,
                    Err(TooWide) => Served::Alone(part),
                }
            }
            Role::Claimed(Claim::Lead(fetch)) => {
                match self.fetch(fetch, part.buf, ctx).await {
                    // That the backend did not take them is no concern of a read that has its bytes.
                    Ok(Fetched { stored: _ }) => Served::Done,
                    Err(error) => part.failed(error),
                }
            }
            Role::Claimed(Claim::Follow(follow)) => self.follow(follow, part, ctx).await,
            Role::Direct => self.read_direct(part, ctx).await,
        }
    }

    /// Reads a part that was valid; returns what turns out not to be, to go again. What is damaged for certain goes on the
    /// way `damaged`.
    async fn read_cached<'b>(&self, part: Part<'b>, damaged: Way) -> Parts<'b> {
        let reads = part.reads + 1;
        let (bad, way) = match self.file.read(part.run, part.buf).await {
            Ok(Looked { bad, settled: true }) => (bad, damaged),
            // Dropped by another task: damaged, or because the source has changed.
            Err(NotValid) => (smallvec![part.run], Way::Claim),
            Ok(Looked { bad, .. }) => (bad, Way::Claim),
        };
        let way = if reads == MOST_READS {
            Way::Direct
        } else {
            way
        };
        let mut rest = Some(part);
        let mut again = Parts::new();
        for run in bad {
            let (_, behind) = rest.map_or((None, None), |rest| self.split(rest, run.start()));
            let (bad, behind) = behind.map_or((None, None), |rest| self.split(rest, run.end()));
            again.extend(bad.map(|bad| Part { way, reads, ..bad }));
            rest = behind;
        }
        again
    }

    async fn follow<'b>(&self, follow: Follow<'_>, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        self.file.counts().followed_runs.add(1);
        let followed = follow.outcome(|run| self.file.state_at(run)).await;
        let (front, rest) = self.split(part, followed.run().end());
        let Some(part) = front else {
            return Served::Again(rest.into_iter().collect());
        };
        let mut again: Parts<'b> = rest.into_iter().collect();
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
            Followed::Lead(fetch) => match Box::pin(self.fetch(fetch, part.buf, ctx)).await {
                Ok(Fetched { stored: _ }) => return Served::Fetched(again),
                Err(error) => return part.failed(error),
            },
        }
        Served::Again(again)
    }

    /// Gets a part from the bytes that its leader has fetched; returns it where they are not there.
    fn copy_unstored<'b>(&self, unstored: &Unstored, part: Part<'b>) -> Option<Part<'b>> {
        let from = part.run.start().checked_sub(unstored.run.start());
        let bytes = from.and_then(|blocks| unstored.bytes.get(self.geometry.len_bytes(blocks)..));
        let Some(bytes) = bytes.and_then(|bytes| bytes.get(..part.buf.len())) else {
            return Some(Part {
                way: Way::Direct,
                ..part
            });
        };
        part.buf.copy_from_slice(bytes);
        None
    }

    /// Reads a part from the source alone.
    async fn read_direct<'b>(&self, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match self.read_source(part.run, part.buf, ctx).await {
            Ok(()) => Served::Done,
            Err(error) => part.failed(error),
        }
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
