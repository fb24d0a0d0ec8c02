//! Caching ahead: the windows of some ranges, several at once, each claimed when its fetch begins.
//!
//! A *step* is one claim: it fetches the beginning of a window, or waits for the task that does, and is the next to lead
//! where that task fails or is dropped. What is left of the window goes back to be begun like any other. So between two steps nothing is claimed, which is where work is paused,
//! and where it ends after an error; and what is only queued is never waited for by anybody: a reader that wants it
//! claims it, and the step that gets there finds it valid.
//!
//! # What was not done
//!
//! Smaller windows for a low priority. Whoever wants a block of a window under way waits for all of that window, so
//! its size is a bound on waiting; but it is the caller's to choose (`window_bytes`), and smaller ones are more calls
//! for everybody.

use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::task::Poll;

use futures_channel::oneshot::Receiver;
use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};

use crate::backend::CacheOps;
use crate::bitmap::State;
use crate::fetch::{Claim, Fetch, Followed, Outcome, Unstored};
use crate::flush::Deferral;
use crate::run::Run;
use crate::warm::{Meter, Pause};

use super::{CachedBlockReader, Stored, sized};

/// How often a range is cached that does not stay valid. Each time takes somebody who finds damage in it meanwhile, so
/// this many times in a row mean that the backend keeps nothing.
const ATTEMPTS: u32 = 16;

#[cold]
fn dropped_again() -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::Io,
        "blocks were dropped as fast as they were cached",
    )
}

/// After how many windows caching ahead flushes before it is done. One request is flushed once, but one for a whole
/// device takes hours, and what is lost with the power should be minutes. A flush for each window, which the threshold
/// for single reads would mean, took twice the time of a fill without any.
const FLUSH_WINDOWS: u64 = 64;

/// How many blocks of the bitmap are looked at in one go: a few microseconds.
const SCAN_BLOCKS: u64 = 1 << 18;

/// What is to be cached ahead, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead<'a> {
    /// Disjoint and in order.
    pub(super) wanted: &'a [Run],
    pub(super) ctx: ReadContext,
    pub(super) windows_at_once: u32,
    pub(super) pause: Option<&'a Pause>,
}

impl Ahead<'_> {
    /// What tells the end of the pause, if there is one.
    fn resumed(&self) -> Option<Receiver<()>> {
        self.pause.and_then(Pause::resumed)
    }
}

/// One way through what is wanted, window by window.
#[derive(Debug)]
struct Walk<'a> {
    window_blocks: u64,
    rest: Option<Run>,
    behind: core::slice::Iter<'a, Run>,
}

impl<'a> Walk<'a> {
    fn new(wanted: &'a [Run], window_blocks: u64) -> Self {
        Self {
            window_blocks,
            rest: None,
            behind: wanted.iter(),
        }
    }

    /// The next run that is missing, within one window of the device: aligned windows meet those of other callers.
    fn next(
        &mut self,
        meter: &mut Meter<'_>,
        state_at: impl Fn(Run) -> (State, Run),
    ) -> Option<Run> {
        loop {
            let rest = match self.rest {
                Some(rest) => rest,
                None => *self.behind.next()?,
            };
            // Not all of the rest at once, or a large device that is empty would be scanned for each window.
            let (found, run) = state_at(rest.first(self.window_blocks.max(SCAN_BLOCKS)));
            if found == State::Valid {
                self.rest = rest.from(run.end());
                meter.found_valid(run.blocks());
                continue;
            }
            let in_window = self.window_blocks - run.start() % self.window_blocks;
            let run = run.first(in_window);
            self.rest = rest.from(run.end());
            meter.begun(run.blocks());
            return Some(run);
        }
    }
}

/// How far a step came.
#[derive(Debug)]
struct Step {
    /// What of its run is not known to be valid.
    left: Option<Run>,
    done_blocks: u64,
    fetched_blocks: u64,
    /// The error, and the block at which the step began.
    failed: Option<(u64, GibbloxError)>,
    /// For the next one.
    buf: Vec<u8>,
}

impl<S, C> CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    fn are_valid(&self, wanted: &[Run]) -> bool {
        let mut wanted = wanted.iter();
        wanted.all(|run| self.file.state_at(*run) == (State::Valid, *run))
    }

    /// Makes every block of what is wanted valid.
    ///
    /// Cancellation is strict: what was fetched stays cached, what was under way goes to whoever claims it next.
    pub(super) async fn cache_ahead(
        &self,
        ahead: Ahead<'_>,
        meter: &mut Meter<'_>,
    ) -> GibbloxResult<()> {
        self.file.ready().await?;
        let count_valid = |run: &Run| self.file.count_valid(*run);
        meter.start(|| ahead.wanted.iter().map(count_valid).sum());
        let unflushed = self.flush_gate.defer();
        let mut result = Ok(());
        let mut attempts = 0;
        while result.is_ok() && !self.are_valid(ahead.wanted) {
            // A block may be found damaged, and dropped, behind the back of those who have passed it.
            result = if attempts < ATTEMPTS {
                self.cache_missing(ahead, &unflushed, meter).await
            } else {
                Err(dropped_again())
            };
            attempts += 1;
        }
        if attempts > 0 {
            result = result.and(self.flush_where_due(unflushed.due_at(0)).await);
        }
        if result.is_ok() {
            meter.finish();
        }
        result
    }

    /// Goes through what is wanted once, and caches what is missing, several windows at once.
    ///
    /// After an error nothing further is begun, what is under way is finished, and the error is that of the first block.
    async fn cache_missing(
        &self,
        ahead: Ahead<'_>,
        unflushed: &Deferral<'_>,
        meter: &mut Meter<'_>,
    ) -> GibbloxResult<()> {
        let most = usize::try_from(ahead.windows_at_once).unwrap_or(usize::MAX);
        let mut walk = Walk::new(ahead.wanted, self.window_blocks());
        // What is left of windows that were begun: no more than there are windows at once.
        let mut again: Vec<Run> = Vec::new();
        let mut spare: Vec<Vec<u8>> = Vec::new();
        let mut under_way = FuturesUnordered::new();
        let mut failed: Option<(u64, GibbloxError)> = None;
        loop {
            let mut paused = None;
            while failed.is_none() && under_way.len() < most {
                let queued = again.pop();
                let Some(run) = queued.or_else(|| walk.next(meter, |run| self.file.state_at(run)))
                else {
                    break;
                };
                paused = ahead.resumed();
                if paused.is_some() {
                    again.push(run);
                    break;
                }
                let buf = spare.pop().unwrap_or_default();
                under_way.push(self.step(run, ahead, unflushed, buf));
            }
            meter.tell();
            if under_way.is_empty() && paused.is_none() {
                break;
            }
            if let Some(step) = next_step(&mut under_way, paused).await {
                // Told before anything further is begun, so that whoever is told may pause.
                meter.done(step.done_blocks, step.fetched_blocks);
                meter.tell();
                again.extend(step.left);
                spare.push(step.buf);
                if let Some((lba, error)) = step.failed {
                    if failed.as_ref().is_none_or(|(first, _)| lba < *first) {
                        failed = Some((lba, error));
                    }
                }
            }
        }
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Makes the beginning of `run` valid, as far as one claim goes.
    async fn step(
        &self,
        run: Run,
        ahead: Ahead<'_>,
        unflushed: &Deferral<'_>,
        buf: Vec<u8>,
    ) -> Step {
        let mut step = Step {
            left: Some(run),
            done_blocks: 0,
            fetched_blocks: 0,
            failed: None,
            buf,
        };
        // The window may be a part of what the caller wants.
        let is_all = ahead.wanted == [run];
        let state_at = |run| self.file.state_at(run);
        let result = match self.flights.claim_one(run, is_all, state_at) {
            Claim::Valid(piece) => {
                step.passed(piece);
                Ok(())
            }
            Claim::Lead(fetch) => self.lead_step(fetch, &mut step, unflushed, ahead.ctx).await,
            Claim::Follow(follow) => {
                self.file.counts().followed_runs.add(1);
                match follow.outcome(state_at).await {
                    // It may have been dropped again, and is looked at again when all is done.
                    Followed::Ended(piece, Outcome::Published) | Followed::Valid(piece) => {
                        step.passed(piece);
                        Ok(())
                    }
                    Followed::Ended(
                        _,
                        Outcome::Failed(error) | Outcome::Unstored(Unstored { error, .. }),
                    ) => Err(error),
                    Followed::Lead(fetch) => {
                        self.lead_step(fetch, &mut step, unflushed, ahead.ctx).await
                    }
                }
            }
        };
        step.failed = result.err().map(|error| (run.start(), error));
        step
    }

    async fn lead_step(
        &self,
        fetch: Fetch<'_>,
        step: &mut Step,
        unflushed: &Deferral<'_>,
        ctx: ReadContext,
    ) -> GibbloxResult<()> {
        let piece = fetch.span();
        let buf = sized(&mut step.buf, self.geometry.len_bytes(piece.blocks()))?;
        let stored = self.fetch(fetch, buf, ctx).await?.stored?;
        // Where another task dropped it meanwhile it counts as stored and dropped, and the next pass gets to it.
        step.passed(piece);
        if stored == Stored::NotAll {
            return Ok(());
        }
        step.fetched_blocks = piece.blocks();
        unflushed.put_off(piece.blocks());
        let many = self.window_blocks().saturating_mul(FLUSH_WINDOWS);
        self.flush_where_due(unflushed.due_at(many)).await
    }
}

impl Step {
    /// `piece`, the beginning of the run, is valid.
    fn passed(&mut self, piece: Run) {
        self.left = self.left.and_then(|left| left.from(piece.end()));
        self.done_blocks = piece.blocks();
    }
}

/// The next step that is done; nothing where the pause ends before.
async fn next_step<F: Future>(
    under_way: &mut FuturesUnordered<F>,
    mut paused: Option<Receiver<()>>,
) -> Option<F::Output> {
    poll_fn(|cx| match under_way.poll_next_unpin(cx) {
        Poll::Ready(Some(step)) => Poll::Ready(Some(step)),
        Poll::Ready(None) | Poll::Pending => match &mut paused {
            Some(resumed) => resumed.poll_unpin(cx).map(|_| None),
            None => Poll::Pending,
        },
    })
    .await
}
