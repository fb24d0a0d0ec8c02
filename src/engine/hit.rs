//! The fast path: a read of trusted blocks, written by hand so that it costs little beside its copy.
//!
//! ```text
//!   asked ─┬─ all trusted, and the backend answers at once ─► Found: one look, one copy ──► done
//!          │                                                    │
//!          │                         ┌─ Why::{Stale: asked anew, Waits, Failed} ─┘
//!          ├─ all trusted otherwise ─► wait: one backend call ──┬──────────────────────► done
//!          │                                                    └─ failed ─┐
//!          └─ anything else ───────────────────────────────────────────────┴─► the slow path
//! ```
//!
//! The path is chosen when `read_blocks` is called, so the boxed future is only as large as that path. The choice is
//! checked again at the first poll. If blocks were dropped meanwhile, or the backend is bypassed, it is made anew.
//! Nothing is counted or read before.
//!
//! # What was tried
//!
//! An `async fn` in the place of [`Read`]: it is as large as the longest path through it, four times as large as
//! [`Read`], and making it took a quarter of the time of a 4 KiB hit.

use alloc::boxed::Box;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use gibblox_core::{GibbloxResult, ReadContext};
use tracing::trace;

use crate::backend::CacheOps;
use crate::file::{CacheFile, Hit};
use crate::run::Run;
use crate::stats::PlainHit;

/// What `read_blocks` returns.
pub(crate) type ReadBlocks<'a> = Pin<Box<dyn Future<Output = GibbloxResult<usize>> + Send + 'a>>;

/// Where a read goes that is no plain hit, or did not end as one.
pub(super) trait SlowPath: Sync {
    type Backend: CacheOps;

    fn file(&self) -> &CacheFile<Self::Backend>;

    fn serve<'a>(
        &'a self,
        run: Run,
        counted: Counted,
        buf: &'a mut [u8],
        ctx: ReadContext,
    ) -> ReadBlocks<'a>;
}

/// Whether the blocks of a read were counted as hits or misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Yes,
    No,
}

/// A read that was found to be a hit.
enum Read<'a, P> {
    Found {
        slow: &'a P,
        hit: Hit,
        buf: &'a mut [u8],
        ctx: ReadContext,
    },
    Waiting(ReadBlocks<'a>),
}

/// Boxes what `make` makes, in place.
///
/// `Box::pin(v)` builds `v` on the stack and copies it. The wide loads of the copy stall on the narrow stores just made
/// (store forwarding): a tenth of the time of a 4 KiB hit. Allocating first and building in place avoids the copy.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call in between is what it avoids")]
pub(super) fn in_box<T>(make: impl FnOnce() -> T) -> Pin<Box<T>> {
    let room = Box::new_uninit();
    Box::into_pin(Box::write(room, make()))
}

/// The future of a read of `run` into `buf`, which is as long.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "it is half of what a hit costs beside its copy"
)]
pub(super) fn read<'a, P: SlowPath>(
    slow: &'a P,
    run: Run,
    buf: &'a mut [u8],
    ctx: ReadContext,
) -> ReadBlocks<'a> {
    match slow.file().find_trusted(run) {
        Some(hit) if slow.file().answers_at_once() => in_box(|| Read::Found {
            slow,
            hit,
            buf,
            ctx,
        }),
        Some(hit) => in_box(|| wait(slow, hit, None, buf, ctx)),
        None => slow.serve(run, Counted::No, buf, ctx),
    }
}

impl<P: SlowPath> Future for Read<'_, P> {
    type Output = GibbloxResult<usize>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match this {
                Self::Found {
                    slow,
                    hit,
                    buf,
                    ctx,
                } => {
                    let why = if slow.file().is_still(*hit) {
                        let counting = begin(slow.file(), *hit, buf);
                        match slow.file().read_hit_now(*hit, buf) {
                            Some(true) => {
                                counting.served();
                                return Poll::Ready(Ok(buf.len()));
                            }
                            Some(false) => {
                                drop(counting);
                                Why::Failed
                            }
                            None => Why::Waits(counting),
                        }
                    } else {
                        Why::Stale
                    };
                    let waiting = leave(*slow, *hit, why, core::mem::take(buf), *ctx);
                    *this = Self::Waiting(waiting);
                }
                Self::Waiting(waiting) => return waiting.as_mut().poll(context),
            }
        }
    }
}

/// Why a read that was found to be a hit leaves the fast path.
enum Why<'a> {
    /// Blocks were dropped before it was polled.
    Stale,
    /// The backend failed, or blocks were dropped while it was asked.
    Failed,
    /// The backend does not answer at once.
    Waits(PlainHit<'a>),
}

#[cold]
fn leave<'a, P: SlowPath>(
    slow: &'a P,
    hit: Hit,
    why: Why<'a>,
    buf: &'a mut [u8],
    ctx: ReadContext,
) -> ReadBlocks<'a> {
    match why {
        Why::Stale => read(slow, hit.run(), buf, ctx),
        Why::Failed => slow.serve(hit.run(), Counted::Yes, buf, ctx),
        Why::Waits(counting) => in_box(|| wait(slow, hit, Some(counting), buf, ctx)),
    }
}

/// A hit is counted when it is over.
#[inline]
fn begin<'a, C: CacheOps>(file: &'a CacheFile<C>, hit: Hit, buf: &[u8]) -> PlainHit<'a> {
    let (lba, blocks) = (hit.run().start(), hit.run().blocks());
    trace!(lba, blocks, "hit");
    file.counts().plain_hit(buf, blocks)
}

/// A hit over a backend that has to be waited for. `begun` if it is known that it still is one.
async fn wait<'a, P: SlowPath>(
    slow: &'a P,
    hit: Hit,
    begun: Option<PlainHit<'a>>,
    buf: &'a mut [u8],
    ctx: ReadContext,
) -> GibbloxResult<usize> {
    let counting = match begun {
        Some(counting) => counting,
        None if slow.file().is_still(hit) => begin(slow.file(), hit, buf),
        None => return leave(slow, hit, Why::Stale, buf, ctx).await,
    };
    if slow.file().read_hit(hit, buf).await {
        counting.served();
        return Ok(buf.len());
    }
    drop(counting);
    slow.serve(hit.run(), Counted::Yes, buf, ctx).await
}
