//! One request: its parts, what each waits for, and the rounds until all are served.
//!
//! # Progress
//!
//! Each round ends: a leader waits for the source and the backend only, a follower for its leader (I3). And rounds end:
//! a part comes back only where a valid block was dropped, which the next round fetches; where a leader failed or was
//! dropped, of which there are finitely many; where enough fetches were begun already; or to be fetched *directly*,
//! without a claim, because the backend would not keep or return what a leader had fetched. Without that last way out
//! many readers of one block over a dead backend would fetch it one after another, each the follower of the one before.

use gibblox_core::{BlockReader, GibbloxError, GibbloxResult, ReadContext};

use futures_util::stream::{FuturesUnordered, StreamExt};
use smallvec::{SmallVec, smallvec};

use crate::backend::CacheOps;
use crate::flight::{Claim, Follow, Outcome};
use crate::run::Run;

use super::{CachedBlockReader, Fetched};

/// A part of a request, with its piece of the caller's buffer.
struct Part<'b> {
    run: Run,
    buf: &'b mut [u8],
    way: Way,
}

/// Parts of a request, in order. Mostly one.
type Parts<'b> = SmallVec<[Part<'b>; 1]>;

/// How a part may be served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the cache, or by whoever leads its fetch.
    Claim,
    /// From the source alone, since the backend would not keep or return what was fetched.
    Direct,
}

/// What a part waits for.
enum Role<'t> {
    Claimed(Claim<'t>),
    Direct,
}

/// Parts of a request with what they wait for. Mostly one.
type Tasks<'t, 'b> = SmallVec<[(Role<'t>, Part<'b>); 1]>;

impl Role<'_> {
    /// Whether the source is asked, and not somebody else or the backend.
    const fn fetches(&self) -> bool {
        matches!(self, Role::Claimed(Claim::Lead(_)) | Role::Direct)
    }
}

/// How serving a part ended.
enum Served<'b> {
    Done,
    /// What has to go through another round.
    Again(Parts<'b>),
    Failed {
        lba: u64,
        error: GibbloxError,
    },
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
        self.file.open_unless_busy().await;
        let mut parts = Parts::new();
        parts.push(Part {
            run,
            buf,
            way: Way::Claim,
        });
        while !parts.is_empty() {
            parts = self.round(parts, ctx).await?;
        }
        Ok(())
    }

    /// Serves `parts` side by side; returns what has to go through another round.
    ///
    /// Where parts fail the others are finished first: their bytes are fetched by then, others wait for them, and it
    /// is not their failure. The error is that of the first block.
    async fn round<'b>(&self, parts: Parts<'b>, ctx: ReadContext) -> GibbloxResult<Parts<'b>> {
        let (mut tasks, mut again) = self.assign(parts);
        let fetches = tasks.iter().any(|(role, _)| role.fetches());
        let mut failed: Option<(u64, GibbloxError)> = None;
        let mut end = |served| match served {
            Served::Done => {}
            Served::Again(parts) => again.extend(parts),
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
        if fetches {
            // Only now: whoever follows one of these fetches does not wait for the flush. It was counted and logged
            // where it failed, and the bytes are in the buffer.
            let _ = self.flush_where_due(self.flush_gate.due()).await;
        }
        if let Some((_, error)) = failed {
            return Err(error);
        }
        again.sort_by_key(|part| part.run.start());
        Ok(again)
    }

    /// Claims what of `parts` is to be claimed, and divides the buffers accordingly. What could not be claimed yet,
    /// because enough fetches are begun, is for another round.
    fn assign<'t, 'b>(&'t self, parts: Parts<'b>) -> (Tasks<'t, 'b>, Parts<'b>) {
        let wanted = parts
            .iter()
            .filter(|part| part.way == Way::Claim)
            .map(|part| part.run);
        let most = usize::try_from(self.config.fetches_at_once()).unwrap_or(usize::MAX);
        let claims = self
            .flights
            .claim(wanted, most, |run| self.file.state_at(run));
        let mut claims = claims.into_iter();
        let mut tasks = Tasks::new();
        let mut later = Parts::new();
        for part in parts {
            if part.way == Way::Direct {
                tasks.push((Role::Direct, part));
                continue;
            }
            let mut rest = Some(part);
            while let Some(part) = rest.take() {
                let Some(claim) = claims.next() else {
                    later.push(part);
                    break;
                };
                let (part, behind) = self.split(part, claim.run().end());
                tasks.push((Role::Claimed(claim), part));
                rest = behind;
            }
        }
        (tasks, later)
    }

    /// `part` up to the block `lba`, and what is behind.
    fn split<'b>(&self, part: Part<'b>, lba: u64) -> (Part<'b>, Option<Part<'b>>) {
        let Part { run, buf, way } = part;
        let Some(behind) = run.from(lba) else {
            return (Part { run, buf, way }, None);
        };
        let Some(front) = Run::new(run.start(), behind.start()) else {
            return (Part { run, buf, way }, None);
        };
        let (buf, rest) = buf.split_at_mut(self.geometry.len_bytes(front.blocks()));
        (
            Part {
                run: front,
                buf,
                way,
            },
            Some(Part {
                run: behind,
                buf: rest,
                way,
            }),
        )
    }

    async fn serve<'b>(&self, role: Role<'_>, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match role {
            Role::Claimed(Claim::Valid(_)) => self.read_cached(part, Way::Claim).await,
            Role::Claimed(Claim::Lead(lead)) => {
                match self.fetch(lead, part.buf, ctx).await {
                    // That the backend did not take them is no concern of a read that has its bytes.
                    Ok(Fetched { stored: _ }) => Served::Done,
                    Err(error) => part.failed(error),
                }
            }
            Role::Claimed(Claim::Follow(follow)) => self.follow(follow, part, ctx).await,
            Role::Direct => self.read_direct(part, ctx).await,
        }
    }

    /// Reads a part that is valid; what turns out not to be goes again, on the way `otherwise`.
    async fn read_cached<'b>(&self, part: Part<'b>, otherwise: Way) -> Served<'b> {
        let unreadable = self.file.read(part.run, part.buf).await;
        let mut rest = Some(part);
        let mut again = Parts::new();
        for run in unreadable {
            let Some(part) = rest.take() else {
                break;
            };
            let (front, behind) = self.split(part, run.start());
            let bad = if front.run.end() <= run.start() {
                behind
            } else {
                Some(front)
            };
            if let Some(bad) = bad {
                let (mut bad, behind) = self.split(bad, run.end());
                bad.way = otherwise;
                again.push(bad);
                rest = behind;
            }
        }
        if again.is_empty() {
            Served::Done
        } else {
            Served::Again(again)
        }
    }

    async fn follow<'b>(&self, follow: Follow, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        let shares_fate = follow.shares_fate();
        match follow.outcome().await {
            Some(Outcome::Published) => self.read_cached(part, Way::Direct).await,
            Some(Outcome::Unstored(_)) => self.read_direct(part, ctx).await,
            Some(Outcome::Failed(error)) if shares_fate => part.failed(error),
            Some(Outcome::Failed(_)) | None => part.again(),
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
    fn again(self) -> Served<'b> {
        Served::Again(smallvec![self])
    }

    fn failed(self, error: GibbloxError) -> Served<'b> {
        Served::Failed {
            lba: self.run.start(),
            error,
        }
    }
}
