//! [`Dropping`]: makes blocks not valid, for good.

use gibblox_core::GibbloxResult;
use tracing::debug;

use crate::backend::CacheOps;
use crate::fetch::Fetches;
use crate::file::CacheFile;
use crate::geometry::Geometry;
use crate::run::Run;
use crate::turn::yield_now;

use super::flushing::Flushing;

/// How many blocks are claimed at once to be dropped: a task that wants to read one of them waits for a few writes.
const DROP_BLOCKS: u64 = 1 << 16;

/// What dropping touches.
#[derive(Debug)]
pub(crate) struct Dropping<'a, C> {
    pub(super) fetches: &'a Fetches,
    pub(super) file: &'a CacheFile<C>,
    pub(super) flushing: Flushing<'a, C>,
    pub(super) geometry: Geometry,
}

impl<C: CacheOps> Dropping<'_, C> {
    /// Drops every block of the device.
    pub(crate) async fn device(&self) -> GibbloxResult<()> {
        self.range(0, self.geometry.total_blocks()).await
    }

    /// Drops `blocks` blocks from `lba`.
    ///
    /// Cancellation is strict: what was dropped stays dropped for this process.
    pub(crate) async fn range(&self, lba: u64, blocks: u64) -> GibbloxResult<()> {
        let Some(range) = self.geometry.range(lba, blocks)? else {
            return Ok(());
        };
        // Also where the backend is bypassed: its blocks would be there again afterwards.
        let mut written = self.file.ready().await;
        if !self.file.is_open() {
            return written;
        }
        let since = self.file.now();
        if written.is_ok() && self.file.can_erase_at_once(range) {
            written = self.all_at_once(range).await;
        } else {
            written = self.run_by_run(range, written).await;
        }
        debug!(lba, blocks, ok = written.is_ok(), "dropped cached blocks");
        written?;
        self.flushing.all().await?;
        self.file.kept_since(since)
    }

    /// Drops all of the device. No block of it is stored meanwhile, so its checksums can be cut off.
    async fn all_at_once(&self, device: Run) -> GibbloxResult<()> {
        let _taken = self.fetches.take_all(device).await;
        self.file.invalidate(device);
        self.file.erase_all(device).await
    }

    /// Drops `range`, a few blocks at a time. `written` says whether the file is written to.
    async fn run_by_run(&self, range: Run, mut written: GibbloxResult<()>) -> GibbloxResult<()> {
        let mut rest = Some(range);
        while let Some(run) = rest {
            // Fetches of it are void. One that is being stored is waited for, with a place in line.
            let taken = self.fetches.take(run.first(DROP_BLOCKS)).await;
            // First in memory, then in the file: nothing that is being erased is served (I1).
            self.file.invalidate(taken.run());
            if written.is_ok() {
                written = self.file.erase(taken.run()).await;
            }
            rest = range.from(taken.run().end());
            drop(taken);
            if rest.is_some() {
                yield_now().await;
            }
        }
        written
    }
}
