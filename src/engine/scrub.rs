//! [`Scrubbing`]: compares every valid block with its checksum, window by window, and drops what does not match.

use alloc::vec::Vec;

use gibblox_core::GibbloxResult;
use tracing::debug;

use crate::backend::CacheOps;
use crate::bitmap::State;
use crate::file::CacheFile;
use crate::geometry::Geometry;
use crate::run::Run;
use crate::stats::ScrubReport;
use crate::turn::{Turns, yield_now};

use super::flushing::Flushing;
use super::memory::sized;

/// What scrubbing touches.
#[derive(Debug)]
pub(crate) struct Scrubbing<'a, C> {
    pub(super) file: &'a CacheFile<C>,
    pub(super) flushing: Flushing<'a, C>,
    pub(super) geometry: Geometry,
    pub(super) window_blocks: u64,
}

/// How many windows are compared before other tasks get their turn.
pub(super) const WINDOWS_A_TURN: u32 = 4;

/// Called with the counts so far.
type Tell<'t> = &'t mut (dyn FnMut(&ScrubReport) + Send);

impl<C: CacheOps> Scrubbing<'_, C> {
    /// Scrubs the whole device, and calls `tell` after each window.
    ///
    /// Cancellation is strict: what was dropped stays dropped.
    pub(crate) async fn device(&self, mut tell: Option<Tell<'_>>) -> GibbloxResult<ScrubReport> {
        self.file.ready().await?;
        let mut report = ScrubReport::default();
        let mut result = Ok(());
        let since = self.file.now();
        let mut turns = Turns::every(WINDOWS_A_TURN);
        let mut window = Vec::new();
        let mut rest = Run::new(0, self.geometry.total_blocks());
        while let Some(run) = rest {
            let (state, run) = self.file.known_state_at(run)?;
            let mut scanned = run;
            if state == State::Valid {
                scanned = run.first(self.window_blocks);
                let buf = sized(&mut window, self.geometry.len_bytes(scanned.blocks()))?;
                let Ok(scrubbed) = self.file.scrub(scanned, buf).await else {
                    // Some of it is being dropped or written again: what is valid has changed. The task that does it may
                    // be one of this thread.
                    yield_now().await;
                    continue;
                };
                let compared = self.file.has_checksums();
                report.add(
                    scanned.blocks(),
                    scrubbed.dropped_blocks,
                    scrubbed.unread_blocks,
                    compared,
                );
                result = result.and(scrubbed.result);
                turns.done().await;
                if let Some(tell) = &mut tell {
                    tell(&report);
                }
            }
            rest = rest.and_then(|rest| rest.from(scanned.end()));
        }
        debug!(
            scanned_blocks = report.scanned_blocks,
            dropped_blocks = report.dropped_blocks,
            "scrubbed the cache"
        );
        if report.dropped_blocks != 0 {
            let flushed = self.flushing.once().await;
            // As for blocks that are dropped on request: what was written before another flush failed may be lost.
            result = result.and(flushed).and(self.file.kept_since(since));
        }
        result.map(|()| report)
    }
}
