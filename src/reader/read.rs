//! One `read_blocks`: a hit as short as it can be, and the way to everything else.
//!
//! ```text
//!   asked ─┬─ all trusted, and the backend answers at once ─► Hit: one look, one copy ──► done
//!          │                                                   └─ not so any more ──┐
//!          ├─ all trusted, and the backend is waited for ────► `read_hit` ──────────┤
//!          └─ anything else ─────────────────────────────────────────────────► `fill`
//! ```
//!
//! Which way it goes is looked up when the read is asked for, so that its future has the size of its way; what was found
//! holds as long as no block loses what it has ([`Hit`]), however late the future is polled; else it is looked up anew,
//! before the backend is asked, which may be bypassed by then. Nothing is counted, and nothing is read, before that.
//!
//! [`Read`] is written by hand since it is what a hit costs beside its copy. The trait boxes it, and a box is filled by
//! copying: an `async fn` is as large as the longest way through it, four times as large as this one, and making one
//! took a quarter of the time of a hit of 4 KiB.

use alloc::boxed::Box;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
use tracing::trace;

use crate::backend::CacheOps;
use crate::file::Hit;
use crate::run::Run;
use crate::stats::PlainHit;

use super::CachedBlockReader;

/// What `read_blocks` returns.
pub(super) type ReadBlocks<'a> = Pin<Box<dyn Future<Output = GibbloxResult<usize>> + Send + 'a>>;

/// Boxes what `make` makes: room first, then what goes there.
///
/// The other way round, which is [`Box::pin`]'s, a future is put together elsewhere and moved, in larger steps than it
/// was written in, and each has to wait until the smaller ones have arrived: a tenth of the time of a hit of 4 KiB.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call in between is what it avoids")]
fn in_box<T>(make: impl FnOnce() -> T) -> Pin<Box<T>> {
    let room = Box::new_uninit();
    Box::into_pin(Box::write(room, make()))
}

/// A read that was found to be a hit.
pub(super) enum Read<'a, S, C> {
    Hit {
        reader: &'a CachedBlockReader<S, C>,
        hit: Hit,
        buf: &'a mut [u8],
        ctx: ReadContext,
    },
    Waiting(ReadBlocks<'a>),
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
                Self::Hit {
                    reader,
                    hit,
                    buf,
                    ctx,
                } => {
                    let waiting = if reader.file.is_still(*hit) {
                        let counting = reader.begin_hit(*hit, buf);
                        match reader.file.read_hit_now(*hit, buf) {
                            Some(true) => {
                                counting.served();
                                return Poll::Ready(Ok(buf.len()));
                            }
                            Some(false) => {
                                drop(counting);
                                reader.fill_waiting(*hit, core::mem::take(buf), *ctx)
                            }
                            None => reader.hit_waiting(*hit, counting, core::mem::take(buf), *ctx),
                        }
                    } else {
                        reader.look_anew(*hit, core::mem::take(buf), *ctx)
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
    /// The future of a read, as large as what it is going to do.
    #[inline]
    pub(super) fn read<'a>(
        &'a self,
        lba: u64,
        buf: &'a mut [u8],
        ctx: ReadContext,
    ) -> ReadBlocks<'a> {
        let request = self.geometry.request(lba, buf.len());
        let hit = match request {
            Ok(Some(run)) => self.file.find_trusted(run),
            _ => None,
        };
        match hit {
            Some(hit) if self.file.answers_at_once() => in_box(|| Read::Hit {
                reader: self,
                hit,
                buf,
                ctx,
            }),
            Some(hit) => self.hit_to_count(hit, buf, ctx),
            None => self.fill_to_count(request, buf, ctx),
        }
    }

    /// A hit is counted when it is over.
    #[inline]
    fn begin_hit(&self, hit: Hit, buf: &[u8]) -> PlainHit<'_> {
        let (lba, blocks) = (hit.run().start(), hit.run().blocks());
        trace!(lba, blocks, "hit");
        self.file.counts().plain_hit(buf, blocks)
    }

    /// A hit that may be none by the time it is polled, before anything was counted.
    #[cold]
    fn look_anew<'a>(&'a self, hit: Hit, buf: &'a mut [u8], ctx: ReadContext) -> ReadBlocks<'a> {
        self.read(hit.run().start(), buf, ctx)
    }

    /// A hit that the backend is waited for.
    fn hit_to_count<'a>(&'a self, hit: Hit, buf: &'a mut [u8], ctx: ReadContext) -> ReadBlocks<'a> {
        in_box(|| async move {
            if !self.file.is_still(hit) {
                return self.look_anew(hit, buf, ctx).await;
            }
            let counting = self.begin_hit(hit, buf);
            self.read_hit(hit, counting, buf, ctx).await
        })
    }

    /// A hit that the backend is waited for, after all.
    #[cold]
    fn hit_waiting<'a>(
        &'a self,
        hit: Hit,
        counting: PlainHit<'a>,
        buf: &'a mut [u8],
        ctx: ReadContext,
    ) -> ReadBlocks<'a> {
        Box::pin(self.read_hit(hit, counting, buf, ctx))
    }

    /// A hit that was none.
    #[cold]
    fn fill_waiting<'a>(&'a self, hit: Hit, buf: &'a mut [u8], ctx: ReadContext) -> ReadBlocks<'a> {
        Box::pin(async move {
            self.fill(hit.run(), buf, ctx).await?;
            Ok(buf.len())
        })
    }

    /// What is no hit.
    fn fill_to_count<'a>(
        &'a self,
        request: GibbloxResult<Option<Run>>,
        buf: &'a mut [u8],
        ctx: ReadContext,
    ) -> ReadBlocks<'a> {
        in_box(|| async move {
            let Some(run) = request? else {
                return Ok(0);
            };
            let (lba, blocks) = (run.start(), run.blocks());
            let hits = self.file.count_valid(run);
            trace!(lba, blocks, hits, "not all trusted");
            self.file.counts().looked(buf, blocks, hits);
            self.fill(run, buf, ctx).await?;
            Ok(buf.len())
        })
    }

    /// Reads a hit, or fills where that fails.
    async fn read_hit(
        &self,
        hit: Hit,
        counting: PlainHit<'_>,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        if self.file.read_hit(hit, buf).await {
            counting.served();
        } else {
            drop(counting);
            // Boxed, so that the future of a hit stays small.
            Box::pin(self.fill(hit.run(), buf, ctx)).await?;
        }
        Ok(buf.len())
    }
}
