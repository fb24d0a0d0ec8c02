//! One `read_blocks`: a hit as short as it can be, and the way to everything else.
//!
//! ```text
//!   [`Read`]  Asked ── hit, and the backend answers at once ──► done
//!               ├───── hit, and the backend has to be waited for ─┐
//!               └───── not a hit: `fill` ─────────────────────────┴─► Waiting, boxed ──► done
//! ```
//!
//! [`Read`] is written by hand since it is what a hit costs beside its copy. The trait boxes it, and a box is filled by
//! copying, so what waits is not in it: an `async fn` is as large as the longest way through it, here four times as
//! large, and making one took a quarter of the time of a hit of 4 KiB. Over a backend that does not answer at once every
//! read waits, and [`CachedBlockReader::read_waiting`] is one box and not two.

use alloc::boxed::Box;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
use tracing::trace;

use crate::backend::CacheOps;
use crate::file::Hit;
use crate::run::Run;

use super::CachedBlockReader;

/// What a read that has to wait ends with.
type Waiting<'a> = Pin<Box<dyn Future<Output = GibbloxResult<usize>> + Send + 'a>>;

/// Whether a read is among the hits and misses yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Yes,
    No,
}

/// One read, as it was asked for or as it waits.
pub(super) enum Read<'a, S, C> {
    Asked {
        reader: &'a CachedBlockReader<S, C>,
        lba: u64,
        buf: &'a mut [u8],
        ctx: ReadContext,
    },
    Waiting(Waiting<'a>),
}

impl<S, C> Future for Read<'_, S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    type Output = GibbloxResult<usize>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match this {
                Self::Asked {
                    reader,
                    lba,
                    buf,
                    ctx,
                } => {
                    let run = match reader.geometry.request(*lba, buf.len()) {
                        Ok(Some(run)) => run,
                        Ok(None) => return Poll::Ready(Ok(0)),
                        Err(error) => return Poll::Ready(Err(error)),
                    };
                    let waiting = if let Some(hit) = reader.find_hit(run, buf) {
                        match reader.file.read_hit_now(hit, buf) {
                            Some(true) => return Poll::Ready(Ok(buf.len())),
                            Some(false) => reader.fill_waiting(run, Counted::Yes, buf, *ctx),
                            None => reader.hit_waiting(run, hit, buf, *ctx),
                        }
                    } else {
                        reader.fill_waiting(run, Counted::No, buf, *ctx)
                    };
                    *this = Self::Waiting(waiting);
                }
                Self::Waiting(waiting) => return waiting.as_mut().poll(context),
            }
        }
    }
}

impl<S, C> CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Whether a read of `run` into `buf` is a plain hit, which is counted then.
    #[inline]
    pub(super) fn find_hit(&self, run: Run, buf: &[u8]) -> Option<Hit> {
        let hit = self.file.find_trusted(run)?;
        let blocks = run.blocks();
        trace!(lba = run.start(), blocks, "hit");
        self.requests.add(buf, blocks, blocks);
        Some(hit)
    }

    #[cold]
    fn hit_waiting<'a>(
        &'a self,
        run: Run,
        hit: Hit,
        buf: &mut &'a mut [u8],
        ctx: ReadContext,
    ) -> Waiting<'a> {
        Box::pin(self.read_hit(run, hit, core::mem::take(buf), ctx))
    }

    #[cold]
    fn fill_waiting<'a>(
        &'a self,
        run: Run,
        counted: Counted,
        buf: &mut &'a mut [u8],
        ctx: ReadContext,
    ) -> Waiting<'a> {
        let buf = core::mem::take(buf);
        Box::pin(async move {
            if counted == Counted::No {
                self.count(run, buf);
            }
            self.fill(run, buf, ctx).await?;
            Ok(buf.len())
        })
    }

    /// Counts a read of `run` into `buf` that is no plain hit.
    fn count(&self, run: Run, buf: &[u8]) {
        let (lba, blocks) = (run.start(), run.blocks());
        let hits = self.file.count_valid(run);
        trace!(lba, blocks, hits, "not all trusted");
        self.requests.add(buf, blocks, hits);
    }

    /// Reads a hit, or fills where that fails.
    async fn read_hit(
        &self,
        run: Run,
        hit: Hit,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        if !self.file.read_hit(hit, buf).await {
            // Boxed, so that the future of a hit stays small.
            Box::pin(self.fill(run, buf, ctx)).await?;
        }
        Ok(buf.len())
    }

    /// [`Read`] for a backend that does not answer at once.
    pub(super) async fn read_waiting(
        &self,
        lba: u64,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        let Some(run) = self.geometry.request(lba, buf.len())? else {
            return Ok(0);
        };
        if let Some(hit) = self.find_hit(run, buf) {
            return self.read_hit(run, hit, buf, ctx).await;
        }
        self.count(run, buf);
        Box::pin(self.fill(run, buf, ctx)).await?;
        Ok(buf.len())
    }
}
