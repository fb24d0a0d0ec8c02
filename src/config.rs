//! Limits and policies, each with its default and the reason for it.

use gibblox_core::GibbloxResult;

use crate::error::invalid_input;

/// When the blocks of a cache file are compared with their checksums.
///
/// Blocks that this process fetched itself are in memory's hands and need no comparison, except under
/// [`OnEveryRead`](Self::OnEveryRead). A block that does not match is fetched again; nobody sees an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VerifyPolicy {
    /// Once per process and block, on the first read of a block that an earlier process cached.
    ///
    /// The default: it makes a power cut, a damaged disk and a misplaced block harmless, and costs one pass of the
    /// hash per block and process.
    #[default]
    OnFirstRead,
    /// On every read, also of blocks that this process fetched: for files that others may write to or reset while
    /// this reader is alive. Costs one more backend read and one pass of the hash on every hit.
    OnEveryRead,
    /// Never, unless a flush has failed, the backend was bypassed, or the file became shorter: for a backend that checks
    /// its content itself. What the file says is served.
    Never,
}

/// What opening does when the source does not say how many blocks it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OfflinePolicy {
    /// It fails with the source's error.
    ///
    /// The default: a program that starts learns at once that its source is gone.
    #[default]
    Fail,
    /// It goes by the cache file, if there is one of this source, and serves what is in it.
    ///
    /// For a source that may be out of reach when the program starts. Its identity has to be known without it: a file
    /// is used only where identity and block size are the source's. See
    /// [`CachedBlockReader::open`](crate::CachedBlockReader::open).
    ServeCached,
}

/// How a [`CachedBlockReader`](crate::CachedBlockReader) fetches, stores and checks.
///
/// ```
/// use gibblox_cache::{CacheConfig, VerifyPolicy};
///
/// let config = CacheConfig::new()
///     .with_flush_every_blocks(1024)
///     .with_window_bytes(4 << 20)
///     .with_verify(VerifyPolicy::OnEveryRead);
/// assert_eq!(config.flush_every_blocks(), 1024);
/// assert_eq!(config.fetches_at_once(), CacheConfig::default().fetches_at_once());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    flush_every_blocks: u32,
    window_bytes: u32,
    windows_at_once: u32,
    fetches_at_once: u32,
    verify: VerifyPolicy,
    offline: OfflinePolicy,
    read_around_bytes: u32,
    read_ahead_bytes: u32,
    read_ahead_after: u32,
    merge_gap_blocks: u32,
    bypass: Option<BypassLimits>,
}

/// When a backend is bypassed, and when it is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BypassLimits {
    pub(crate) failures_in_a_row: u32,
    pub(crate) probe_after_reads: u32,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl CacheConfig {
    /// The defaults, as each setter documents them.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            flush_every_blocks: 64,
            window_bytes: 1 << 20,
            windows_at_once: 4,
            fetches_at_once: 64,
            verify: VerifyPolicy::OnFirstRead,
            offline: OfflinePolicy::Fail,
            bypass: None,
            read_around_bytes: 0,
            read_ahead_bytes: 0,
            read_ahead_after: 4,
            merge_gap_blocks: 0,
        }
    }

    /// After how many newly cached blocks the backend is flushed. Default 64, as ever; zero is refused on opening.
    ///
    /// What was written is readable without any flush after a clean exit or a killed process; a flush only bounds
    /// how many blocks a loss of power makes the next process fetch again. Raise it where flushing is expensive. A
    /// request is flushed at most once, when it is done; only a long
    /// [`ensure_cached`](crate::CachedBlockReader::ensure_cached) or [`warm`](crate::CachedBlockReader::warm) flushes
    /// on its way, after every 64 windows. What it has not flushed yet makes no other request flush.
    #[must_use]
    pub const fn with_flush_every_blocks(mut self, blocks: u32) -> Self {
        self.flush_every_blocks = blocks;
        self
    }

    /// How much [`ensure_cached`](crate::CachedBlockReader::ensure_cached), [`warm`](crate::CachedBlockReader::warm)
    /// and [`scrub`](crate::CachedBlockReader::scrub) move in one piece, in bytes. Default 1 MiB; zero is refused on
    /// opening. Rounded down to whole blocks, but never less than one.
    ///
    /// It is also the most that a reader waits for while a device is cached ahead: for the window under way that holds
    /// its blocks. Lower it where a line is so slow that a window takes longer than a reader may wait.
    ///
    /// 1 MiB takes 8 ms on a line of 1 Gbit/s, about as long as the request that asks for it, and fits the caches of a
    /// processor that is to compare or copy it.
    #[must_use]
    pub const fn with_window_bytes(mut self, bytes: u32) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// How many windows `ensure_cached` works on at once, and [`warm`](crate::CachedBlockReader::warm) if it is not told
    /// otherwise. Default 4; zero is refused on opening.
    ///
    /// Enough to keep a source busy while others are written. Peak memory is this many windows, and 8 bytes for each of
    /// their blocks.
    #[must_use]
    pub const fn with_windows_at_once(mut self, windows: u32) -> Self {
        self.windows_at_once = windows;
        self
    }

    /// How many fetches one `read_blocks` has under way at once. Default 64; zero is refused on opening.
    ///
    /// A request with as many holes then takes about as long as one fetch; one with more goes in several rounds. Fetches
    /// need no memory of their own, since each fills its part of the caller's buffer. Lower it for a server that
    /// limits connections.
    #[must_use]
    pub const fn with_fetches_at_once(mut self, fetches: u32) -> Self {
        self.fetches_at_once = fetches;
        self
    }

    /// When blocks are compared with their checksums. Default [`VerifyPolicy::OnFirstRead`].
    #[must_use]
    pub const fn with_verify(mut self, verify: VerifyPolicy) -> Self {
        self.verify = verify;
        self
    }

    /// What opening does when the source cannot be reached. Default [`OfflinePolicy::Fail`].
    #[must_use]
    pub const fn with_offline(mut self, offline: OfflinePolicy) -> Self {
        self.offline = offline;
        self
    }

    /// After how many failures in a row the backend is *bypassed*, and after how many reads that went past it then it
    /// is probed. Off by default; zero of either is refused on opening.
    ///
    /// A failing call may be a slow one: a disk that is about to die answers each after seconds. While it is bypassed no
    /// call is made at all: every block counts as a miss and comes from the source, by one read for each request, since
    /// there is nowhere to keep it for another. Valid blocks stay valid, and are there again afterwards.
    ///
    /// Reads, writes, changes of length and flushes that fail count. Any call that succeeds begins the row again. A read
    /// that comes back short tells that the file is shorter, and one that hangs is not known to have failed: they do
    /// neither.
    ///
    /// After `probe_after_reads` calls of `read_blocks` that went past, the next one reads a byte of the file first,
    /// while others still go past. If that succeeds the backend is used again; what was trusted is compared with its
    /// checksum once more, since nobody knows what the medium went through. Else as many reads go past again. Whoever
    /// wants the cache itself, by `flush_cache`, `ensure_cached`, `warm`, `scrub`, `invalidate` or `clear`, probes at once,
    /// and gets the backend's error if it still fails, or one of kind `Io` if somebody else is probing.
    ///
    /// See [`health`](crate::CachedBlockReader::health), and `bypassed_reads`, `bypasses` and `probes` of
    /// [`CacheCounters`](crate::CacheCounters). A backend that reads but does not write is bypassed and used in turns.
    ///
    /// ```
    /// use gibblox_cache::CacheConfig;
    ///
    /// let config = CacheConfig::new().with_bypass(3, 100);
    /// assert_eq!(config.bypass_after_failures(), Some(3));
    /// assert_eq!(config.probe_after_reads(), Some(100));
    /// ```
    #[must_use]
    pub const fn with_bypass(mut self, failures_in_a_row: u32, probe_after_reads: u32) -> Self {
        self.bypass = Some(BypassLimits {
            failures_in_a_row,
            probe_after_reads,
        });
        self
    }

    /// The smallest fetch of `read_blocks`, in bytes. Default 0: what is missing is fetched, and nothing else.
    ///
    /// A missing run that is shorter is fetched together with its neighbourhood, up to the multiples of so many bytes in
    /// front of it and behind it, so that small reads close to each other take one call of the source and not one each.
    /// Only blocks that are missing and that nobody else is fetching are fetched along, and none past the end of the
    /// device. Rounded down to whole blocks; a single block, or less, is none.
    ///
    /// For a source whose calls are slow and whose readers jump about in the same places: file systems over HTTP, say,
    /// with 64 KiB to 1 MiB. What it costs is bytes: a read of 4 KiB may move all of the limit, and readers that jump
    /// about everywhere move it for nothing. [`CacheCounters`](crate::CacheCounters) tells how much was fetched unasked,
    /// and how much of that was used; where that is little, lower the limit.
    ///
    /// A fetch that was widened and fails is no error: what was asked for is fetched once more, alone. While nothing
    /// can be stored, or a reader that was opened offline has not heard of its source yet, nothing is fetched unasked. A
    /// wider fetch needs memory for all of it, for as long as it takes; where there is none, it is not widened.
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let config = CacheConfig::new().with_read_around_bytes(8 * 512);
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
    pub const fn with_read_around_bytes(mut self, bytes: u32) -> Self {
        self.read_around_bytes = bytes;
        self
    }

    /// How far ahead of a reader in sequence is fetched at most, in bytes. Default 0: not at all.
    ///
    /// After [a few reads](Self::with_read_ahead_after) in sequence, each beginning where the one before ended, the
    /// fetch of a miss is widened ahead by the length of the read, that of the next miss by twice as much, and so on up
    /// to this limit. A read elsewhere starts with nothing, and random reads fetch nothing unasked. Up to 16 readers in
    /// sequence are told apart. Only blocks that are missing and that nobody else is fetching are fetched along, so
    /// a fetch ends in front of the first valid block. Rounded down to whole blocks; less than one is none.
    ///
    /// The fetch is a part of the read that misses, which takes that much longer; nothing goes on in the background.
    /// For a source whose calls are slow and that is read from front to back in small pieces: 256 KiB to 4 MiB. What it
    /// costs is up to so many bytes that nobody reads each time a reader stops, memory for a fetch while it lasts, and a
    /// slower first read of each block that was fetched unasked. Where readers know what they will read,
    /// [`ensure_cached`](crate::CachedBlockReader::ensure_cached) is exact.
    ///
    /// Failures, and counting: as [`with_read_around_bytes`](Self::with_read_around_bytes). Both may be on.
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let config = CacheConfig::new()
    ///     .with_read_ahead_bytes(1 << 20)
    ///     .with_read_ahead_after(2);
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
    pub const fn with_read_ahead_bytes(mut self, bytes: u32) -> Self {
        self.read_ahead_bytes = bytes;
        self
    }

    /// How many reads in sequence it takes before anything is fetched ahead, this one included. Default 4; less than
    /// two is refused on opening, since every read is one in sequence.
    ///
    /// Fewer reads find short sequences, and now and then one in random reads of a small device: by chance, each read in
    /// turn would have to begin at one of 16 blocks out of all. Of no effect unless
    /// [something is fetched ahead](Self::with_read_ahead_bytes).
    #[must_use]
    pub const fn with_read_ahead_after(mut self, reads: u32) -> Self {
        self.read_ahead_after = reads;
        self
    }

    /// How many valid blocks between two missing runs of one `read_blocks` are fetched again, so that both runs are one
    /// fetch. Default 0: each missing run is a fetch of its own, side by side.
    ///
    /// For a source that takes longer for a call than for so many blocks, or that limits calls. The blocks in between
    /// come from the source and not from the cache then; they are not stored again, and are counted
    /// ([`CacheCounters::refetched_blocks`](crate::CacheCounters::refetched_blocks)). Where such a fetch fails, each run
    /// is fetched alone, and what was valid comes from the cache.
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let config = CacheConfig::new().with_merge_gap_blocks(2);
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
    pub const fn with_merge_gap_blocks(mut self, blocks: u32) -> Self {
        self.merge_gap_blocks = blocks;
        self
    }

    /// See [`with_flush_every_blocks`](Self::with_flush_every_blocks).
    #[must_use]
    pub const fn flush_every_blocks(&self) -> u32 {
        self.flush_every_blocks
    }

    /// See [`with_window_bytes`](Self::with_window_bytes).
    #[must_use]
    pub const fn window_bytes(&self) -> u32 {
        self.window_bytes
    }

    /// See [`with_windows_at_once`](Self::with_windows_at_once).
    #[must_use]
    pub const fn windows_at_once(&self) -> u32 {
        self.windows_at_once
    }

    /// See [`with_fetches_at_once`](Self::with_fetches_at_once).
    #[must_use]
    pub const fn fetches_at_once(&self) -> u32 {
        self.fetches_at_once
    }

    /// See [`with_verify`](Self::with_verify).
    #[must_use]
    pub const fn verify(&self) -> VerifyPolicy {
        self.verify
    }

    /// See [`with_offline`](Self::with_offline).
    #[must_use]
    pub const fn offline(&self) -> OfflinePolicy {
        self.offline
    }

    /// See [`with_bypass`](Self::with_bypass); nothing where it is off.
    #[must_use]
    pub const fn bypass_after_failures(&self) -> Option<u32> {
        match self.bypass {
            Some(limits) => Some(limits.failures_in_a_row),
            None => None,
        }
    }

    /// See [`with_bypass`](Self::with_bypass); nothing where it is off.
    #[must_use]
    pub const fn probe_after_reads(&self) -> Option<u32> {
        match self.bypass {
            Some(limits) => Some(limits.probe_after_reads),
            None => None,
        }
    }

    pub(crate) const fn bypass(&self) -> Option<BypassLimits> {
        self.bypass
    }

    /// See [`with_read_around_bytes`](Self::with_read_around_bytes).
    #[must_use]
    pub const fn read_around_bytes(&self) -> u32 {
        self.read_around_bytes
    }

    /// See [`with_read_ahead_bytes`](Self::with_read_ahead_bytes).
    #[must_use]
    pub const fn read_ahead_bytes(&self) -> u32 {
        self.read_ahead_bytes
    }

    /// See [`with_read_ahead_after`](Self::with_read_ahead_after).
    #[must_use]
    pub const fn read_ahead_after(&self) -> u32 {
        self.read_ahead_after
    }

    /// See [`with_merge_gap_blocks`](Self::with_merge_gap_blocks).
    #[must_use]
    pub const fn merge_gap_blocks(&self) -> u32 {
        self.merge_gap_blocks
    }

    /// Refuses limits under which nothing could ever be done.
    pub(crate) fn check(&self) -> GibbloxResult<()> {
        let limits = [
            (self.flush_every_blocks, "flush_every_blocks is zero"),
            (self.window_bytes, "window_bytes is zero"),
            (self.windows_at_once, "windows_at_once is zero"),
            (self.fetches_at_once, "fetches_at_once is zero"),
            (
                self.bypass_after_failures().unwrap_or(1),
                "bypass_after_failures is zero",
            ),
            (
                self.probe_after_reads().unwrap_or(1),
                "probe_after_reads is zero",
            ),
        ];
        for (limit, message) in limits {
            if limit == 0 {
                return Err(invalid_input(message));
            }
        }
        if self.read_ahead_after < 2 {
            return Err(invalid_input("read_ahead_after is less than two"));
        }
        Ok(())
    }
}
