//! [`Flushing`]: makes the file durable, on request or where the [`FlushGate`] says that it is due.
//!
//! After a flush on request that succeeded, what an earlier one may have lost is written again (a redo pass), and flushed.
//! One that is due is made by a request, after it or beside it ([`Limit`]), and does nothing of the kind: it runs beside reads, and what was lost stays on the list.
//!
//! A run that is written again is held, as one that is dropped is, so no block of it is stored or dropped meanwhile. Its
//! blocks are valid all the time, and readers do not wait for it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;

use gibblox_core::GibbloxResult;
use tracing::debug;

use crate::backend::CacheOps;
use crate::error::not_kept;
use crate::fetch::Fetches;
use crate::file::{CacheFile, NotValid, Rewritten};
use crate::flush::{Deferral, FlushGate, FlushTicket, Limit};
use crate::geometry::Geometry;
use crate::sync::{AtomicBool, Ordering};
use crate::turn::{Turns, yield_now};

use super::memory::sized;

/// How many flushes it takes at most to make all durable, where others fail or are dropped meanwhile. One that fails
/// itself is the last, so so many are needed only beside many tasks that are dropped.
const ROUNDS: u32 = 64;

/// How often a run is looked at where blocks of it are dropped meanwhile.
const LOOKS: u32 = 256;

/// How many blocks of the bitmap are looked at in one go: a few microseconds.
const SCAN_BLOCKS: u64 = 1 << 18;

/// How many runs are written again before other tasks get their turn.
const RUNS_A_TURN: u32 = 4;

/// What a flush touches.
#[derive(Debug)]
pub(crate) struct Flushing<'a, C> {
    pub(super) fetches: &'a Fetches,
    pub(super) file: &'a CacheFile<C>,
    pub(super) gate: &'a FlushGate,
    pub(super) limit: Limit,
    pub(super) geometry: Geometry,
    pub(super) window_blocks: u64,
}

impl<'a, C: CacheOps> Flushing<'a, C> {
    /// Opens the file where it is not open yet, and makes durable all that is valid, whatever failed before.
    ///
    /// Cancellation is strict.
    pub(crate) async fn flush_cache(&self) -> GibbloxResult<()> {
        self.file.ready().await?;
        // First, so that a dead disk is not written over again and again, nor taken for one that is well.
        for _ in 0..ROUNDS {
            if self.flush(self.gate.begin()).await? {
                return Ok(());
            }
            // Boxed, since it is rare, and would make the future of every flush larger.
            Box::pin(self.rewrite_lost()).await?;
        }
        Err(not_kept())
    }

    /// Writes again what a flush may have lost, from the first block to the last.
    async fn rewrite_lost(&self) -> GibbloxResult<()> {
        let mut result = Ok(());
        let mut rewritten_blocks = 0;
        let mut looks = 0;
        let mut turns = Turns::every(RUNS_A_TURN);
        let mut window = Vec::new();
        let mut lba = 0;
        while let Some(run) = self.file.lost_from(lba) {
            let run = run.first(SCAN_BLOCKS);
            if let Some(valid) = self.file.lost_and_valid(run)? {
                let taken = self.fetches.take(valid.first(self.window_blocks)).await;
                // It may have been dropped, or another task have written it again, before it was had.
                let lost = self.file.lost_from(lba);
                let Some(run) = lost.and_then(|lost| lost.clip(taken.run())) else {
                    continue;
                };
                let Some(run) = self.file.lost_and_valid(run)? else {
                    continue;
                };
                let buf = sized(&mut window, self.geometry.len_bytes(run.blocks()))?;
                match self.file.rewrite(run, buf).await {
                    Ok(Rewritten {
                        goes_on,
                        result: rewritten,
                    }) => {
                        rewritten_blocks += run.blocks();
                        result = result.and(rewritten);
                        if !goes_on {
                            break;
                        }
                        lba = run.end();
                    }
                    // Some of it was dropped just now, or is being written again by a task that may be of this thread.
                    Err(NotValid) if looks < LOOKS => {
                        looks += 1;
                        yield_now().await;
                    }
                    Err(NotValid) => return Err(not_kept()),
                }
            }
            turns.done().await;
        }
        debug!(
            blocks = rewritten_blocks,
            ok = result.is_ok(),
            "wrote again what a flush may have lost"
        );
        result
    }

    /// Opens the file where it is not open yet, and flushes all that was written.
    pub(super) async fn once(&self) -> GibbloxResult<()> {
        self.file.ready().await?;
        self.all().await
    }

    /// Flushes all that was written.
    pub(super) async fn all(&self) -> GibbloxResult<()> {
        self.flush(self.gate.begin()).await.map(|_| ())
    }

    /// Flushes if `due` says so. The caller has stored something, and leads nothing any more.
    pub(super) async fn if_due(&self, due: Option<FlushTicket<'_>>) -> GibbloxResult<()> {
        match due {
            Some(ticket) => self.flush(ticket).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Flushes if the limit is exact and reached. The caller has stored something, and leads nothing any more.
    ///
    /// A flush that fails is counted and logged, and the caller has its bytes.
    pub(super) async fn after_request(&self) {
        if let Limit::Exact(_) = self.limit {
            let _ = self.if_due(self.gate.due(self.limit)).await;
        }
    }

    /// Whether a request that asks the source has a flush to make [beside](Self::beside) it.
    pub(super) fn is_due_beside(&self) -> bool {
        matches!(self.limit, Limit::Beside(_)) && self.gate.is_due(self.limit)
    }

    /// Does `work`, and makes the flush that is due at the same time, beginning when the source `is_asked`. If it never
    /// is, another request makes the flush.
    ///
    /// It ends when both have: a flush that is dropped promises nothing, so with a source that is always faster there
    /// would never be one. Others do not wait for it: what `work` leads it has released when it is over.
    pub(super) async fn beside<T>(
        &self,
        is_asked: &AtomicBool,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        let mut result = None;
        // What is due is claimed at the first poll. A flush that fails is counted and logged.
        let mut flush = pin!(async { _ = self.if_due(self.gate.due(self.limit)).await });
        let mut has_flushed = false;
        poll_fn(|cx| {
            // The work first, so that the source works during a flush that blocks this thread.
            if result.is_none() {
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    result = Some(done);
                }
            }
            let flushes = is_asked.load(Ordering::Relaxed);
            if flushes && !has_flushed {
                has_flushed = flush.as_mut().poll(cx).is_ready();
            }
            if flushes != has_flushed {
                return Poll::Pending;
            }
            result.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// For a task that is going to write for long.
    pub(super) fn defer(&self) -> Deferral<'a> {
        self.gate.defer(self.limit)
    }

    /// Whether all that was valid is durable then.
    async fn flush(&self, ticket: FlushTicket<'_>) -> GibbloxResult<bool> {
        // Refused, it is due again.
        self.file.check_used()?;
        let result = self.file.flush().await;
        debug!(
            blocks = ticket.covered_blocks(),
            ok = result.is_ok(),
            "flushed the cache"
        );
        ticket.done();
        result
    }
}
