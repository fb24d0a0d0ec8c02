//! Invalidating: what is dropped in memory, and what of it is erased in the file so that it does not come back.
//!
//! The caller leads the run that it drops, so no block of it is stored meanwhile. Everything goes by the parts of the
//! bitmap that there is room for: no bit was set outside of them, and no checksum written by this process, so dropping a
//! whole device of which a little is cached costs a little. What an earlier process wrote there, data and checksum, and
//! had no bit for in the end, stays; only all checksums of the device would tell.

use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};

use crate::backend::CacheOps;
use crate::bitmap::{Epoch, any_set};
use crate::format::layout::Layout;
use crate::run::Run;

use super::{CacheFile, zeroed};

/// How many checksums are looked at in one go: 4 KiB of them. Where one of them is set all of these are written, so
/// that few blocks here and there do not take much more room for having been dropped.
const SUMS_AT_ONCE: u64 = 512;

impl<C: CacheOps> CacheFile<C> {
    /// Makes `run` not valid for this process.
    pub(crate) fn invalidate(&self, run: Run) {
        for part in self.validity.reserved(run) {
            self.validity.invalidate(part);
        }
    }

    /// Writes to the file that `run`, which is not valid, is not; it is durable after the next flush.
    ///
    /// Cost: for each part that there is room for in the bitmap, one write of bits, and one read and at most one write
    /// for each [`SUMS_AT_ONCE`] checksums.
    pub(crate) async fn erase(&self, run: Run) -> GibbloxResult<()> {
        for part in self.validity.reserved(run) {
            // Also where no bit is set in memory: a write that was dropped or failed may have left one in the file.
            self.write_bits(part, None).await?;
            if self.has_checksums() {
                self.erase_sums(part).await?;
            }
        }
        Ok(())
    }

    async fn erase_sums(&self, run: Run) -> GibbloxResult<()> {
        // After a flush that failed, zeros that are read need not be those of the medium.
        let always = self.validity.was_distrusted();
        let mut sums = zeroed(Layout::sums_len(run.first(SUMS_AT_ONCE)), "checksums")?;
        let mut rest = Some(run);
        while let Some(run) = rest {
            let piece = run.first(SUMS_AT_ONCE);
            rest = run.from(piece.end());
            let sums = sums.get_mut(..Layout::sums_len(piece)).unwrap_or_default();
            let offset = self.layout.sum_offset(piece.start());
            let found = self.read_some(offset, sums).await;
            if always
                || found.is_err()
                || found.is_ok_and(|got| any_set(sums.get(..got).unwrap_or_default()))
            {
                sums.fill(0);
                self.write(offset, sums).await?;
            }
        }
        Ok(())
    }

    /// Now, to be given to [`kept_since`](Self::kept_since).
    pub(crate) fn epoch(&self) -> Epoch {
        self.validity.epoch()
    }

    /// Fails where a flush has failed since `since`, or a bypass has ended: what was written before may be lost, and a
    /// later flush that succeeds does not tell.
    pub(crate) fn kept_since(&self, since: Epoch) -> GibbloxResult<()> {
        if self.validity.epoch() == since {
            return Ok(());
        }
        Err(GibbloxError::with_message(
            GibbloxErrorKind::Io,
            "a flush failed, or a bypass ended, while blocks were dropped",
        ))
    }
}
