//! One request: its parts, what each waits for, and the rounds until all are served.
//!
//! # Progress
//!
//! Each round ends: a leader waits for the source and the backend only, a follower for its leader (I3). And rounds end:
//! a part comes back only where a valid block was dropped, which the next round fetches; where a leader failed or was
//! dropped, of which there are finitely many; or to be fetched *directly*, without a claim, because the backend would
//! not keep or return what a leader had fetched, or because blocks were dropped each time the part was read; or because
//! a fetch failed that brought more than was asked for, after which this request asks for nothing more any more. Without
//! the way past the claims many readers of one block over a dead backend would fetch it one after another, each the follower
//! of the one before, and a reader beside a bad sector might never have done.

use alloc::boxed::Box;

use gibblox_core::{BlockReader, GibbloxError, GibbloxResult, ReadContext};

use futures_util::stream::{FuturesUnordered, StreamExt};
use smallvec::{SmallVec, smallvec};

use crate::backend::CacheOps;
use crate::file::{Looked, NotValid};
use crate::flight::{Claim, Follow, Outcome};
use crate::policy::Plan;
use crate::run::Run;

use super::wide::TooWide;
use super::{CachedBlockReader, Fetched};

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
    /// From the cache, or by whoever leads its fetch.
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
    /// Whether the source is asked, and not somebody else or the backend.
    const fn fetches(&self) -> bool {
        matches!(self, Role::Claimed(Claim::Lead(_)) | Role::Direct)
    }
}

/// Parts with what they wait for. Mostly one.
type Tasks<'t, 'b> = SmallVec<[(Role<'t>, Part<'b>); 1]>;

/// How serving a part ended.
enum Served<'b> {
    Done,
    /// What has to go through another round.
    Again(Parts<'b>),
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
                unsettled: 0,
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
        let mut fetched = false;
        let mut result = Ok(());
        while result.is_ok() && !waiting.is_empty() {
            let tasks = self.assign(&mut waiting);
            fetched |= tasks.iter().any(|(role, _)| role.fetches());
            result = self.round(tasks, &mut waiting, ctx).await;
        }
        (fetched, result)
    }

    /// What a request for `run` may fetch beside it. Nothing while there is nowhere to store it, nor while the source may
    /// be out of reach: it would be asked twice, once for nothing.
    fn plan(&self, run: Run) -> Plan {
        if !self.file.shows_blocks() || self.is_offline() {
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
            unsettled,
        } = part;
        let front = run.first_until(lba);
        let blocks = front.map_or(0, Run::blocks);
        let (front_buf, behind_buf) = buf.split_at_mut(self.geometry.len_bytes(blocks));
        let part = |run: Option<Run>, buf| {
            run.map(|run| Part {
                run,
                buf,
                way,
                unsettled,
            })
        };
        (part(front, front_buf), part(run.from(lba), behind_buf))
    }

    async fn serve<'b>(&self, role: Role<'_>, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match role {
            Role::Claimed(Claim::Valid(_)) => self.read_cached(part, Way::Claim).await,
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
            Role::Claimed(Claim::Follow(follow)) => self.follow(follow, part).await,
            Role::Direct => self.read_direct(part, ctx).await,
        }
    }

    /// Reads a part that was valid; what turns out not to be goes again, on the way `otherwise`.
    async fn read_cached<'b>(&self, part: Part<'b>, otherwise: Way) -> Served<'b> {
        let mut unsettled = part.unsettled;
        let (bad, way) = match self.file.read(part.run, part.buf).await {
            Ok(Looked { bad, settled: true }) => (bad, otherwise),
            Err(NotValid) => (smallvec![part.run], otherwise),
            Ok(Looked { bad, .. }) => {
                unsettled += 1;
                let direct = unsettled == MOST_UNSETTLED;
                (bad, if direct { Way::Direct } else { Way::Claim })
            }
        };
        let count_valid = |run| self.file.count_valid(run);
        let used = self.policy.use_unasked(part.run, count_valid);
        if used != 0 {
            self.file.counts().unasked_used_blocks.add(used);
        }
        let mut rest = Some(part);
        let mut again = Parts::new();
        for run in bad {
            let (_, behind) = rest.map_or((None, None), |rest| self.split(rest, run.start()));
            let (bad, behind) = behind.map_or((None, None), |rest| self.split(rest, run.end()));
            again.extend(bad.map(|bad| Part {
                way,
                unsettled,
                ..bad
            }));
            rest = behind;
        }
        if again.is_empty() {
            Served::Done
        } else {
            Served::Again(again)
        }
    }

    async fn follow<'b>(&self, follow: Follow, part: Part<'b>) -> Served<'b> {
        let shares_fate = follow.shares_fate();
        self.file.counts().followed_runs.add(1);
        match follow.outcome().await {
            Some(Outcome::Published) => self.read_cached(part, Way::Direct).await,
            Some(Outcome::Failed(error)) if shares_fate => part.failed(error),
            Some(Outcome::Unstored(_)) => part.again(Way::Direct),
            Some(Outcome::Failed(_)) | None => part.again(Way::Claim),
        }
    }

    /// Reads a part from the source alone.
    async fn read_direct<'b>(&self, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match self.read_source(part.run, part.buf, ctx).await {
            Ok(()) => Served::Done,
            Err(error) => part.failed(error),
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
