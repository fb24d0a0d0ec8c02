//! Caching ahead: the windows of a range, and the workers that cache one after another.

use alloc::vec::Vec;

use futures_util::stream::{FuturesUnordered, StreamExt};
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};

use crate::backend::CacheOps;
use crate::bitmap::State;
use crate::flight::{Claim, Outcome};
use crate::run::Run;
use crate::sync::Lock;

use super::{CachedBlockReader, sized};

/// How often a range is cached that does not stay valid. Each time takes somebody who finds damage in it meanwhile, so
/// this many times in a row mean that the backend keeps nothing.
pub(super) const ATTEMPTS: u32 = 16;

#[cold]
pub(super) fn dropped_again() -> GibbloxError {
    GibbloxError::with_message(
        GibbloxErrorKind::Io,
        "blocks were dropped as fast as they were cached",
    )
}

/// After how many windows `ensure_cached` flushes before it is done. One request is flushed once, but one for a whole
/// device takes hours, and what is lost with the power should be minutes. A flush for each window, which the threshold
/// for single reads would mean, took twice the time of a fill without any.
const FLUSH_WINDOWS: u64 = 64;

/// How many blocks of the bitmap are looked at in one go: a few microseconds.
const SCAN_BLOCKS: u64 = 1 << 18;

/// The windows of a range that are still to be cached, shared by those who work on them.
#[derive(Debug)]
struct Windows {
    window_blocks: u64,
    state: Lock<WindowsState>,
}

#[derive(Debug)]
struct WindowsState {
    rest: Option<Run>,
    failed: Option<(u64, GibbloxError)>,
}

impl Windows {
    fn new(range: Run, window_blocks: u64) -> Self {
        Self {
            window_blocks,
            state: Lock::new(WindowsState {
                rest: Some(range),
                failed: None,
            }),
        }
    }

    /// The next run that is missing, within one window of the device: aligned windows meet those of other callers.
    fn next(&self, state_at: impl Fn(Run) -> (State, Run)) -> Option<Run> {
        self.state.with(|state| {
            loop {
                // Not all of the rest at once, or a large device that is empty would be scanned for each window.
                let rest = state.rest?;
                let (found, run) = state_at(rest.first(self.window_blocks.max(SCAN_BLOCKS)));
                if found == State::Valid {
                    state.rest = rest.from(run.end());
                    continue;
                }
                let in_window = self.window_blocks - run.start() % self.window_blocks;
                let run = run.first(in_window);
                state.rest = rest.from(run.end());
                return Some(run);
            }
        })
    }

    /// No further window is begun; the error of the first block is the result.
    fn failed(&self, window: Run, error: GibbloxError) {
        self.state.with(|state| {
            state.rest = None;
            let lba = window.start();
            if state.failed.as_ref().is_none_or(|(first, _)| lba < *first) {
                state.failed = Some((lba, error));
            }
        });
    }

    fn result(self) -> GibbloxResult<()> {
        match self.state.with(|state| state.failed.take()) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

impl<S, C> CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Whether all of `range` is valid.
    pub(super) fn is_valid(&self, range: Run) -> bool {
        self.file.state_at(range) == (State::Valid, range)
    }

    /// Caches what is missing of `range`, several windows at once.
    pub(super) async fn cache_range(&self, range: Run, ctx: ReadContext) -> GibbloxResult<()> {
        let windows = Windows::new(range, self.window_blocks());
        let most = range.blocks().div_ceil(self.window_blocks());
        let mut workers: FuturesUnordered<_> = (0..most
            .min(u64::from(self.config.windows_at_once())))
            .map(|_| self.cache_windows(range, &windows, ctx))
            .collect();
        while workers.next().await.is_some() {}
        drop(workers);
        windows.result()
    }

    /// Caches one window after another until none is left or one failed.
    async fn cache_windows(&self, range: Run, windows: &Windows, ctx: ReadContext) {
        let mut buf = Vec::new();
        while let Some(window) = windows.next(|run| self.file.state_at(run)) {
            if let Err(error) = self.cache_window(range, window, &mut buf, ctx).await {
                windows.failed(window, error);
            }
        }
    }

    /// Makes every block of `window`, a part of what `range` asks for, valid.
    ///
    /// One piece after another, each claimed when the one before is done: nobody waits for what is only queued here.
    async fn cache_window(
        &self,
        range: Run,
        window: Run,
        buf: &mut Vec<u8>,
        ctx: ReadContext,
    ) -> GibbloxResult<()> {
        let mut rest = Some(window);
        while let Some(run) = rest {
            let claim = self.flights.claim_one(run, |run| self.file.state_at(run));
            let piece = claim.run();
            rest = run.from(piece.end());
            match claim {
                Claim::Valid(_) => {}
                Claim::Lead(lead) => {
                    let buf = sized(buf, self.geometry.len_bytes(piece.blocks()))?;
                    self.fetch(lead, buf, ctx).await?.stored?;
                    let many = self.window_blocks().saturating_mul(FLUSH_WINDOWS);
                    self.flush_where_due(self.flush_gate.due_at(many)).await?;
                }
                Claim::Follow(follow) => {
                    // The window may be a part of what the caller wants.
                    let own_failure = follow.shares_fate() && piece == range;
                    match follow.outcome().await {
                        Some(Outcome::Failed(error) | Outcome::Unstored(error)) if own_failure => {
                            return Err(error);
                        }
                        // It may have been dropped again, so it is looked at again in any case.
                        _ => rest = Some(run),
                    }
                }
            }
        }
        Ok(())
    }
}
