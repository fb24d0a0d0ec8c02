//! [`WiderFetches`]: read-around, read-ahead and gap merging.

use gibblox_core::GibbloxResult;

use crate::error::invalid_input;

/// What `read_blocks` fetches beyond what is missing: around a read, ahead of a reader, across a gap. All of it is off
/// until it is asked for, and a part of the read that misses: nothing runs in the background.
///
/// Given to [`CacheConfig::with_wider_fetches`](crate::CacheConfig::with_wider_fetches). All three may be on together.
///
/// ```
/// use gibblox_cache::{CacheConfig, WiderFetches};
///
/// let wider_fetches = WiderFetches::new()
///     .with_around_bytes(64 << 10)
///     .with_ahead_bytes(1 << 20);
/// let config = CacheConfig::new().with_wider_fetches(wider_fetches);
/// assert_eq!(config.wider_fetches().ahead_bytes(), 1 << 20);
/// assert_eq!(config.wider_fetches().gap_blocks(), 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WiderFetches {
    around_bytes: u32,
    ahead_bytes: u32,
    ahead_after_reads: u32,
    gap_blocks: u32,
}

impl Default for WiderFetches {
    fn default() -> Self {
        Self::new()
    }
}

impl WiderFetches {
    /// Nothing beyond what is missing, as each setter documents its default.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            around_bytes: 0,
            ahead_bytes: 0,
            ahead_after_reads: 4,
            gap_blocks: 0,
        }
    }

    /// The smallest fetch of `read_blocks`, in bytes. Default 0: what is missing is fetched, and nothing else.
    ///
    /// *Read-around.* A missing run that is shorter is fetched together with its neighbourhood, up to the multiples of so
    /// many bytes before and after it, so that small reads close to each other take one call of the source and not one
    /// each. Only blocks that are missing and that no task is fetching are fetched along, and none past the end of the
    /// device. Rounded down to whole blocks; a single block, or less, is none.
    ///
    /// For a source whose calls are slow and whose readers jump about in the same places: file systems over HTTP, say,
    /// with 64 KiB to 1 MiB. It costs bytes: a read of 4 KiB may move all of the limit, and readers that jump
    /// about everywhere move it for nothing. [`CacheCounters`](crate::CacheCounters) tells how much was fetched unasked,
    /// and how much of that was used; where that is little, lower the limit.
    ///
    /// A fetch that was widened and fails is no error: what was asked for is fetched once more, alone. If that succeeds, no
    /// read is widened over the same place until 256 more that could have been widened, anywhere, have come. While nothing
    /// can be stored, or a reader that was opened offline has not heard of its source yet, nothing is fetched unasked. A
    /// wider fetch needs memory for all of it, for as long as it takes; where there is none, it is not widened.
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps, WiderFetches};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let around = WiderFetches::new().with_around_bytes(8 * 512);
    /// let config = CacheConfig::new().with_wider_fetches(around);
    /// let source = Image::new(512, 64);
    /// let reader = CachedBlockReader::open(source, MemoryCacheOps::new(), config).await?;
    /// let mut block = [0; 512];
    /// reader.read_blocks(19, &mut block, ReadContext::FOREGROUND).await?; // Fetches blocks 16 to 23.
    /// reader.read_blocks(21, &mut block, ReadContext::FOREGROUND).await?; // Fetches nothing.
    /// let counters = reader.counters();
    /// assert_eq!((counters.unasked_fetched_blocks, counters.unasked_used_blocks), (7, 1));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn with_around_bytes(mut self, bytes: u32) -> Self {
        self.around_bytes = bytes;
        self
    }

    /// How far ahead of a reader in sequence is fetched at most, in bytes. Default 0: not at all.
    ///
    /// *Read-ahead.* After [a few reads](Self::with_ahead_after_reads) in sequence, each beginning where the one before
    /// ended, the fetch of a miss is widened ahead by the length of the read, that of the next miss by twice as much, and
    /// so on up to this limit. A read elsewhere starts with nothing, and random reads fetch nothing unasked. Up to 16
    /// readers in sequence are told apart. Only blocks that are missing and that no task is fetching are fetched along, so
    /// a fetch ends before the first valid block. Rounded down to whole blocks; less than one is none.
    ///
    /// The fetch is a part of the read that misses, which takes that much longer; nothing goes on in the background.
    /// For a source whose calls are slow and that is read from front to back in small pieces: 256 KiB to 4 MiB. It
    /// costs up to so many bytes that are never read each time a reader stops, memory for a fetch while it lasts, and a
    /// slower first read of each block that was fetched unasked. Where readers know what they will read,
    /// [`ensure_cached`](crate::CachedBlockReader::ensure_cached) is exact.
    ///
    /// Failures, and counting: as [`with_around_bytes`](Self::with_around_bytes). Both may be on.
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps, WiderFetches};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let ahead = WiderFetches::new().with_ahead_bytes(1 << 20).with_ahead_after_reads(2);
    /// let config = CacheConfig::new().with_wider_fetches(ahead);
    /// let source = Image::new(512, 64);
    /// let reader = CachedBlockReader::open(source, MemoryCacheOps::new(), config).await?;
    /// let mut block = [0; 512];
    /// for lba in 0..12 {
    ///     reader.read_blocks(lba, &mut block, ReadContext::FOREGROUND).await?;
    /// }
    /// // Fetched were block 0, then 1 and 2, 3 to 5, 6 to 10, 11 to 19.
    /// let counters = reader.counters();
    /// assert_eq!((counters.unasked_fetched_blocks, counters.unasked_used_blocks), (15, 7));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn with_ahead_bytes(mut self, bytes: u32) -> Self {
        self.ahead_bytes = bytes;
        self
    }

    /// How many reads in sequence it takes before anything is fetched ahead, this one included. Default 4; less than
    /// two is refused on opening, since every read is one in sequence.
    ///
    /// Fewer reads catch shorter sequences, and are fooled more often: a random read continues one of 16 streams with
    /// probability of about 16 / number of blocks. Of no effect unless
    /// [something is fetched ahead](Self::with_ahead_bytes).
    #[must_use]
    pub const fn with_ahead_after_reads(mut self, reads: u32) -> Self {
        self.ahead_after_reads = reads;
        self
    }

    /// How many valid blocks between two missing runs of one `read_blocks` are fetched again, so that both runs are one
    /// fetch. Default 0: each missing run is a fetch of its own, side by side.
    ///
    /// *Gap merging.* For a source that takes longer for a call than for so many blocks, or that limits calls. The blocks
    /// in between come from the source and not from the cache then; they are not stored again, and are counted
    /// ([`CacheCounters::refetched_blocks`](crate::CacheCounters::refetched_blocks)). Where such a fetch fails, each run
    /// is fetched alone, and what was valid comes from the cache.
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps, WiderFetches};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let gaps = WiderFetches::new().with_gap_blocks(2);
    /// let config = CacheConfig::new().with_wider_fetches(gaps);
    /// let source = Image::new(512, 64);
    /// let reader = CachedBlockReader::open(source, MemoryCacheOps::new(), config).await?;
    /// let mut buf = [0; 8 * 512];
    /// reader.read_blocks(3, &mut buf[..512], ReadContext::FOREGROUND).await?;
    /// reader.read_blocks(0, &mut buf, ReadContext::FOREGROUND).await?; // One fetch, of blocks 0 to 7.
    /// assert_eq!(reader.counters().refetched_blocks, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn with_gap_blocks(mut self, blocks: u32) -> Self {
        self.gap_blocks = blocks;
        self
    }

    /// See [`with_around_bytes`](Self::with_around_bytes).
    #[must_use]
    pub const fn around_bytes(&self) -> u32 {
        self.around_bytes
    }

    /// See [`with_ahead_bytes`](Self::with_ahead_bytes).
    #[must_use]
    pub const fn ahead_bytes(&self) -> u32 {
        self.ahead_bytes
    }

    /// See [`with_ahead_after_reads`](Self::with_ahead_after_reads).
    #[must_use]
    pub const fn ahead_after_reads(&self) -> u32 {
        self.ahead_after_reads
    }

    /// See [`with_gap_blocks`](Self::with_gap_blocks).
    #[must_use]
    pub const fn gap_blocks(&self) -> u32 {
        self.gap_blocks
    }

    /// Refuses a threshold that every read reaches.
    pub(crate) fn check(self) -> GibbloxResult<()> {
        if self.ahead_after_reads < 2 {
            return Err(invalid_input("ahead_after_reads is less than two"));
        }
        Ok(())
    }
}
