//! Looking inside: what is cached, and dropping it for good.

use core::ops::Range;

use gibblox_core::{BlockReader, GibbloxResult};
use tracing::debug;

use crate::backend::CacheOps;
use crate::bitmap::State;
use crate::run::Run;

use super::CachedBlockReader;

/// How many blocks are claimed at once to be dropped: whoever wants to read one of them waits for a few writes.
const DROP_BLOCKS: u64 = 1 << 16;

impl<S, C> CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Whether all of `blocks` blocks from `lba` are valid. Nothing is counted as hit or miss.
    ///
    /// Blocks that an earlier process cached count by their bit, as they do for
    /// [`ensure_cached`](Self::ensure_cached). While the cache file could not be opened, or the backend is
    /// [bypassed](crate::CacheConfig::with_bypass), nothing is valid. An empty range is.
    ///
    /// # Errors
    ///
    /// `OutOfRange` where the range reaches past the last block.
    ///
    /// # Cost
    ///
    /// A look at the bitmap, by words. Never waits.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
    /// use gibblox_core::ReadContext;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let reader = CachedBlockReader::new(Image::new(512, 64), MemoryCacheOps::new()).await?;
    /// reader.ensure_cached(8, 4, ReadContext::BACKGROUND).await?;
    /// assert!(reader.is_cached(8, 4)?);
    /// assert!(!reader.is_cached(8, 5)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_cached(&self, lba: u64, blocks: u64) -> GibbloxResult<bool> {
        let range = self.geometry.range(lba, blocks)?;
        Ok(range.is_none_or(|range| self.file.state_at(range) == (State::Valid, range)))
    }

    /// The runs of valid blocks of the device, as ranges of lbas, in ascending order; none where
    /// [`is_cached`](Self::is_cached) says that nothing is valid.
    ///
    /// Nothing is held while the iterator is consumed, so others may cache and drop blocks meanwhile. A block that is
    /// valid, or not, from the first call of `next` to the last is told as it is; one that changes may be told either
    /// way. Two runs never overlap; they adjoin only where something changed between two calls of `next`.
    ///
    /// # Cost
    ///
    /// One pass over the bitmap, by words; parts of the device of which nothing was ever cached are skipped. No
    /// allocation. Never waits.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
    /// use gibblox_core::ReadContext;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let reader = CachedBlockReader::new(Image::new(512, 64), MemoryCacheOps::new()).await?;
    /// reader.ensure_cached(8, 4, ReadContext::BACKGROUND).await?;
    /// reader.ensure_cached(60, 4, ReadContext::BACKGROUND).await?;
    /// assert!(reader.cached_runs().eq([8..12, 60..64]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cached_runs(&self) -> impl Iterator<Item = Range<u64>> {
        let mut rest = Run::new(0, self.geometry.total_blocks());
        core::iter::from_fn(move || {
            while let Some(run) = rest {
                let (state, run) = self.file.state_at(run);
                rest = rest.and_then(|rest| rest.from(run.end()));
                if state == State::Valid {
                    return Some(run.start()..run.end());
                }
            }
            None
        })
    }

    /// Drops `blocks` blocks from `lba`, so that they are fetched anew when they are next wanted: for a source that
    /// has changed.
    ///
    /// After `Ok` no read that begins is served a block of the range that was fetched before this call. A fetch that is
    /// under way for any of the range is void: the read that began it gets its bytes, and none of them are stored. So
    /// this never waits for the source. Bytes that are being written to the backend are waited for, and dropped. Reads
    /// that want what is being dropped wait until it is, and then fetch it once. An empty range is `Ok`.
    ///
    /// The room that the blocks take on the backend is not given back; it is used again when they are fetched.
    ///
    /// # Errors
    ///
    /// `OutOfRange` where the range reaches past the last block. The backend's error where the cache file could not be
    /// opened, written or flushed, or where it is [bypassed](crate::CacheConfig::with_bypass) and its probe fails; `Io`
    /// where another flush failed or a bypass ended meanwhile, or somebody else is probing. After an error the range is
    /// dropped for this process, unless the file could not be opened, but may come back with the next: call again.
    ///
    /// # Cancellation
    ///
    /// Strict: what was dropped stays dropped for this process, and calling again does all that is missing.
    ///
    /// # Durability
    ///
    /// After `Ok` what was dropped does not come back, also not when power is lost while it is being fetched again. A
    /// file that the published 0.0.1 made has no checksums: there the last does not hold, and such a loss may leave
    /// the old bytes in front of the new bit, as it may leave any others. Nor does it hold for a block that an earlier
    /// process fetched but could not mark as valid, being killed or losing power in between, unless one of the same 32
    /// Ki blocks (8 Ki on 32-bit targets) was cached when the file was opened, or has been
    /// since, before this call.
    ///
    /// # Cost
    ///
    /// For each 32 Ki blocks (8 Ki on 32-bit targets) of which any was ever cached, one write of bits, and a read and
    /// a write for each 512 checksums, where these are set; one flush.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
    /// use gibblox_core::ReadContext;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let reader = CachedBlockReader::new(Image::new(512, 64), MemoryCacheOps::new()).await?;
    /// reader.ensure_cached(0, 64, ReadContext::BACKGROUND).await?;
    /// reader.invalidate(10, 20).await?;
    /// assert!(reader.cached_runs().eq([0..10, 30..64]));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn invalidate(&self, lba: u64, blocks: u64) -> GibbloxResult<()> {
        let Some(range) = self.geometry.range(lba, blocks)? else {
            return Ok(());
        };
        // Also where the backend is bypassed: its blocks would be there again afterwards.
        let mut written = self.file.ready().await;
        if !self.file.is_open() {
            return written;
        }
        let since = self.file.epoch();
        let mut rest = Some(range);
        while let Some(run) = rest {
            // Fetches of it are void. One that is being stored is waited for, with a place in line.
            let taken = self.flights.take(run.first(DROP_BLOCKS)).await;
            // First in memory, then in the file: nothing that is being erased is served (I1).
            self.file.invalidate(taken.run());
            if written.is_ok() {
                written = self.file.erase(taken.run()).await;
            }
            rest = range.from(taken.run().end());
        }
        debug!(lba, blocks, ok = written.is_ok(), "dropped cached blocks");
        written?;
        self.flush(self.flush_gate.begin()).await?;
        self.file.kept_since(since)
    }

    /// [Drops](Self::invalidate) every block of the device.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate), but for `OutOfRange`.
    ///
    /// # Cancellation
    ///
    /// Strict, as [`invalidate`](Self::invalidate).
    ///
    /// # Examples
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
    /// use gibblox_core::ReadContext;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let reader = CachedBlockReader::new(Image::new(512, 64), MemoryCacheOps::new()).await?;
    /// reader.ensure_cached(0, 64, ReadContext::BACKGROUND).await?;
    /// reader.clear().await?;
    /// assert_eq!(reader.cached_runs().next(), None);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn clear(&self) -> GibbloxResult<()> {
        self.invalidate(0, self.geometry.total_blocks()).await
    }
}
