//! Limits and policies, each with its default and the reason for it.

pub(crate) mod wider;

use gibblox_core::GibbloxResult;

use crate::error::invalid_input;

use wider::WiderFetches;

/// When the blocks of a cache file are compared with their checksums.
///
/// Blocks that this process fetched are trusted and read back without comparison, except under
/// [`OnFirstReadOfStored`](Self::OnFirstReadOfStored) and [`OnEveryRead`](Self::OnEveryRead). A block that does not match is fetched again, and its read succeeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VerifyPolicy {
    /// Once per process and block, on the first read of a block that an earlier process cached.
    ///
    /// The default: it makes a power cut, a damaged disk and a misplaced block harmless, and costs one pass of the
    /// hash per block and process.
    #[default]
    OnFirstRead,
    /// As [`OnFirstRead`](Self::OnFirstRead), and the first read from the cache of a block that this process stored is
    /// compared too: for a backend that may say that it wrote and has not. A browser's file system that runs out of space
    /// is known to. Costs one more backend read of 8 bytes a block, and the hash, once for each stored block.
    OnFirstReadOfStored,
    /// On every read, also of blocks that this process fetched: for files that others may write to or reset while
    /// this reader is alive. Costs one more backend read and one pass of the hash on every hit.
    OnEveryRead,
    /// Never, unless a flush has failed, the backend was bypassed, or the file became shorter: for a backend that checks
    /// its content itself. What the file says is served.
    ///
    /// It takes a flush to make what this serves certain. If power is lost before one, a block may count as valid whose
    /// bytes did not arrive: it is served with what the medium has in their place, also with the old bytes of a block that
    /// was [dropped](crate::CachedBlockReader::invalidate) and fetched again.
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

/// Which cache opening may overwrite with an empty one of its own source.
///
/// An array without a cache file, one that was never finished and one whose header is damaged are made one of this source
/// under each policy. A reader that may not overwrite what is there goes without a cache, says so once at `warn`, and is in
/// the state [`Kept`](crate::CacheState::Kept).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RebuildPolicy {
    /// Any.
    ///
    /// The default: a cache of another source is of no use to this one. Whose it was is told at `warn`.
    Always,
    /// Any but one of the same identity, with another block size or number of blocks.
    ///
    /// The default under [`OfflinePolicy::ServeCached`]. A source that is half out of reach may say 0 for once, or the length of
    /// an error page, and one wrong answer must not cost what is wanted when it is out of reach. A source that really has
    /// another length has another version, which belongs into its identity ([`Versioned`](crate::Versioned)).
    OtherIdentity,
    /// None.
    Never,
}

/// How a [`CachedBlockReader`](crate::CachedBlockReader) fetches, stores and checks.
///
/// ```
/// use gibblox_cache::{CacheConfig, VerifyPolicy};
///
/// let config = CacheConfig::new()
///     .with_flush_every_bytes(16 << 20)
///     .with_window_bytes(4 << 20)
///     .with_verify(VerifyPolicy::OnEveryRead);
/// assert_eq!(config.flush_every_bytes(), Some(16 << 20));
/// assert_eq!(config.fetches_at_once(), CacheConfig::default().fetches_at_once());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    flush_limit: FlushLimit,
    window_bytes: u32,
    windows_at_once: u32,
    fetches_at_once: u32,
    max_fetch_bytes: u32,
    verify: VerifyPolicy,
    offline: OfflinePolicy,
    rebuild: Option<RebuildPolicy>,
    wider_fetches: WiderFetches,
    bypass: Option<BypassPolicy>,
}

/// After how much the backend is flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushLimit {
    /// [`FLUSH_EVERY_BYTES`] in a file with checksums, [`FLUSH_EVERY_BLOCKS`] in one without.
    Default,
    Blocks(u32),
    Bytes(u64),
}

/// The limit that is the default in a file with checksums, where a loss of power costs nothing else than what is fetched
/// again.
pub(crate) const FLUSH_EVERY_BYTES: u64 = 32 << 20;

/// The limit that is the default in a file without checksums, where a flush is all that there is: that of 0.0.1.
pub(crate) const FLUSH_EVERY_BLOCKS: u32 = 64;

/// When a backend that fails is bypassed, and when it is probed. See [`CacheConfig::with_bypass`].
///
/// ```
/// use gibblox_cache::{BypassPolicy, CacheConfig};
///
/// let policy = BypassPolicy {
///     after_failures: 3,
///     probe_after_reads: 100,
/// };
/// assert_eq!(CacheConfig::new().with_bypass(policy).bypass(), Some(policy));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BypassPolicy {
    /// After how many failed backend calls in a row the backend is bypassed. Zero is refused on opening.
    pub after_failures: u32,
    /// After how many calls of `read_blocks` that went past the backend the next one probes it. Zero is refused on
    /// opening.
    pub probe_after_reads: u32,
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
            flush_limit: FlushLimit::Default,
            window_bytes: 1 << 20,
            windows_at_once: 4,
            fetches_at_once: 64,
            max_fetch_bytes: 0,
            verify: VerifyPolicy::OnFirstRead,
            offline: OfflinePolicy::Fail,
            rebuild: None,
            wider_fetches: WiderFetches::new(),
            bypass: None,
        }
    }

    /// After how many bytes of newly cached blocks the backend is flushed. Default 32 MiB in a file with checksums; zero is
    /// refused on opening. Rounded down to whole blocks, but never less than one. It replaces a limit
    /// [in blocks](Self::with_flush_every_blocks), and the other way round.
    ///
    /// What was written is readable without any flush after a clean exit or a killed process. A flush only bounds how
    /// much a loss of power makes the next process fetch again: about so many bytes, and what is written while the flush
    /// is due or under way.
    ///
    /// *Who waits.* A flush that is due is made beside the next `read_blocks` that asks the source, and that one ends when
    /// both are done: with a source that takes longer than the flush no reader waits for it. Other readers, also those
    /// of the same blocks, go on. Until there is such a read, [`flush_cache`](crate::CachedBlockReader::flush_cache) makes
    /// it, or a call that caches ahead: [`ensure_cached`](crate::CachedBlockReader::ensure_cached) and
    /// [`warm`](crate::CachedBlockReader::warm) flush when they end, if so much was written, and on their way after every 64
    /// windows. What they have not flushed yet makes no other request flush.
    ///
    /// A file that the published 0.0.1 made has no checksums, and there the default is its limit of 64 blocks.
    #[must_use]
    pub const fn with_flush_every_bytes(mut self, bytes: u64) -> Self {
        self.flush_limit = FlushLimit::Bytes(bytes);
        self
    }

    /// After exactly how many newly cached blocks the backend is flushed; zero is refused on opening. The default is a
    /// limit [in bytes](Self::with_flush_every_bytes), which this replaces, and the other way round.
    ///
    /// The request that reaches the limit flushes, when it is done, and waits for the flush. A request is flushed at most
    /// once. Only a long [`ensure_cached`](crate::CachedBlockReader::ensure_cached) or
    /// [`warm`](crate::CachedBlockReader::warm) flushes on its way, after every 64 windows. What it has not flushed yet makes
    /// no other request flush.
    ///
    /// For a program that counts on it, as programs made for 0.0.1 may. Where it is only about how much a loss of power
    /// costs, a limit in bytes is faster: on a disk a flush takes milliseconds.
    #[must_use]
    pub const fn with_flush_every_blocks(mut self, blocks: u32) -> Self {
        self.flush_limit = FlushLimit::Blocks(blocks);
        self
    }

    /// How much [`ensure_cached`](crate::CachedBlockReader::ensure_cached), [`warm`](crate::CachedBlockReader::warm)
    /// and [`scrub`](crate::CachedBlockReader::scrub) move in one piece, in bytes. Default 1 MiB; zero is refused on
    /// opening. Rounded down to whole blocks, but never less than one.
    ///
    /// It is also the most that a reader waits for while a device is warmed: for the window under way that holds
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
    /// otherwise. Default 4; zero is refused on opening. No more than
    /// [`with_fetches_at_once`](Self::with_fetches_at_once) are fetched at once.
    ///
    /// Enough to keep a source busy while others are written. Peak memory is this many windows, and 8 bytes for each of
    /// their blocks.
    #[must_use]
    pub const fn with_windows_at_once(mut self, windows: u32) -> Self {
        self.windows_at_once = windows;
        self
    }

    /// How many fetches are under way at once, over all calls of a reader. Default 64; zero is refused on opening.
    ///
    /// A request with as many holes takes about as long as one fetch. One with more begins the next fetch when one is
    /// over. Fetches of `read_blocks` need no memory of their own, since each fills its part of the caller's buffer. Lower
    /// it for a server that limits connections.
    ///
    /// Where there are more to be made, reads come before what is cached ahead
    /// ([`ensure_cached`](crate::CachedBlockReader::ensure_cached), [`warm`](crate::CachedBlockReader::warm)), and reads
    /// of a higher priority ([`ReadContext`](gibblox_core::ReadContext)) before others; within these the first come is the
    /// first served. One in 33 goes to the call that has waited longest, so that each has its turn. While a call waits it
    /// has claimed nothing, and no other waits for it. A fetch counts until its bytes are stored. A call whose future is
    /// kept and not polled keeps the places of its fetches.
    ///
    /// Opening, and asking a source that was out of reach who it is, do not count.
    #[must_use]
    pub const fn with_fetches_at_once(mut self, fetches: u32) -> Self {
        self.fetches_at_once = fetches;
        self
    }

    /// The longest fetch, in bytes, for a source that refuses longer reads or is slow to begin them. Default 0: none is too
    /// long. Rounded down to whole blocks, but never less than one.
    ///
    /// A longer run is fetched in pieces side by side, up to [`with_fetches_at_once`](Self::with_fetches_at_once) at
    /// once. Each piece is stored when it arrives, so a large read that is dropped, or of which a piece fails, keeps what
    /// had arrived. Windows of [`ensure_cached`](crate::CachedBlockReader::ensure_cached) and
    /// [`warm`](crate::CachedBlockReader::warm) are no longer than this, nor are [wider
    /// fetches](Self::with_wider_fetches). Each piece costs a call of the source and a write of data, of checksums and of
    /// bits.
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let config = CacheConfig::new().with_max_fetch_bytes(8 * 512);
    /// let reader = CachedBlockReader::open(Image::new(512, 64), MemoryCacheOps::new(), config).await?;
    /// let mut buf = [0; 20 * 512];
    /// reader.read_blocks(0, &mut buf, ReadContext::FOREGROUND).await?; // 8, 8 and 4 blocks.
    /// assert_eq!(reader.counters().source_reads, 3);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn with_max_fetch_bytes(mut self, bytes: u32) -> Self {
        self.max_fetch_bytes = bytes;
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

    /// Which cache opening may overwrite. Default [`RebuildPolicy::Always`], and
    /// [`OtherIdentity`](RebuildPolicy::OtherIdentity) with [`OfflinePolicy::ServeCached`].
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use std::sync::Arc;
    ///
    /// use gibblox_cache::{
    ///     CacheConfig, CacheState, CachedBlockReader, MemoryCacheOps, RebuildPolicy, Versioned,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let backend = Arc::new(MemoryCacheOps::new());
    /// let config = CacheConfig::new().with_rebuild(RebuildPolicy::OtherIdentity);
    /// let disk = |blocks| Versioned::named(Image::new(512, blocks), "disk"); // one name, whatever its length
    /// let reader = CachedBlockReader::open(disk(64), Arc::clone(&backend), config).await?;
    /// assert_eq!(reader.state(), CacheState::Serving);
    /// # drop(reader);
    ///
    /// let reader = CachedBlockReader::open(disk(3), backend, config).await?;
    /// assert_eq!(reader.state(), CacheState::Kept);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn with_rebuild(mut self, rebuild: RebuildPolicy) -> Self {
        self.rebuild = Some(rebuild);
        self
    }

    /// Makes no calls to a backend that fails again and again (a circuit breaker). Off by default; a `policy` with a zero
    /// is refused on opening.
    ///
    /// A failing call may be a slow one: a disk that is about to die answers each after seconds. After
    /// [`after_failures`](BypassPolicy::after_failures) failures in a row the backend is *bypassed*. While it is, no call
    /// is made at all: every block counts as a miss and comes from the source, by one read for each request, since there
    /// is nowhere to keep it for another. Valid blocks stay valid, and are there again afterwards.
    ///
    /// Reads, writes, changes of length and flushes that fail count. Any call that succeeds begins the row again. A read
    /// that comes back short tells that the file is shorter, and one that hangs is not known to have failed: they do
    /// neither.
    ///
    /// After [`probe_after_reads`](BypassPolicy::probe_after_reads) calls of `read_blocks` that went past, the next one
    /// reads a byte of the file first, while others still go past. If that succeeds the backend is used again. Trusted
    /// blocks are compared with their checksums once more, since the medium may have lost them. If it fails, as many
    /// reads go past again. Calls for the cache itself (`flush_cache`, `ensure_cached`, `warm`, `scrub`, `invalidate`,
    /// `clear`) probe at once. Their error is the backend's if the probe fails, or of kind `Io` if another task is
    /// probing.
    ///
    /// See [`state`](crate::CachedBlockReader::state), and `bypassed_reads`, `bypasses` and `probes` of
    /// [`CacheCounters`](crate::CacheCounters). A backend that reads but does not write is bypassed and used in turns.
    #[must_use]
    pub const fn with_bypass(mut self, policy: BypassPolicy) -> Self {
        self.bypass = Some(policy);
        self
    }

    /// What `read_blocks` fetches beyond what is missing. Default [`WiderFetches::new`]: nothing.
    #[must_use]
    pub const fn with_wider_fetches(mut self, wider_fetches: WiderFetches) -> Self {
        self.wider_fetches = wider_fetches;
        self
    }

    /// See [`with_flush_every_bytes`](Self::with_flush_every_bytes); nothing where the limit is in blocks. The default is
    /// told as that of a file with checksums.
    #[must_use]
    pub const fn flush_every_bytes(&self) -> Option<u64> {
        match self.flush_limit {
            FlushLimit::Default => Some(FLUSH_EVERY_BYTES),
            FlushLimit::Bytes(bytes) => Some(bytes),
            FlushLimit::Blocks(_) => None,
        }
    }

    /// See [`with_flush_every_blocks`](Self::with_flush_every_blocks); nothing where the limit is in bytes.
    #[must_use]
    pub const fn flush_every_blocks(&self) -> Option<u32> {
        match self.flush_limit {
            FlushLimit::Blocks(blocks) => Some(blocks),
            FlushLimit::Default | FlushLimit::Bytes(_) => None,
        }
    }

    pub(crate) const fn flush_limit(&self) -> FlushLimit {
        self.flush_limit
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

    /// See [`with_max_fetch_bytes`](Self::with_max_fetch_bytes); zero where there is no limit.
    #[must_use]
    pub const fn max_fetch_bytes(&self) -> u32 {
        self.max_fetch_bytes
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

    /// See [`with_rebuild`](Self::with_rebuild): what was set, or the default that goes with the others.
    #[must_use]
    pub const fn rebuild(&self) -> RebuildPolicy {
        match (self.rebuild, self.offline) {
            (Some(rebuild), _) => rebuild,
            (None, OfflinePolicy::Fail) => RebuildPolicy::Always,
            (None, OfflinePolicy::ServeCached) => RebuildPolicy::OtherIdentity,
        }
    }

    /// See [`with_bypass`](Self::with_bypass); nothing where it is off.
    #[must_use]
    pub const fn bypass(&self) -> Option<BypassPolicy> {
        self.bypass
    }

    /// See [`with_wider_fetches`](Self::with_wider_fetches).
    #[must_use]
    pub const fn wider_fetches(&self) -> WiderFetches {
        self.wider_fetches
    }

    /// Refuses limits under which nothing could ever be done.
    pub(crate) fn check(&self) -> GibbloxResult<()> {
        let bypass = self.bypass.unwrap_or(BypassPolicy {
            after_failures: 1,
            probe_after_reads: 1,
        });
        match self.flush_limit {
            FlushLimit::Blocks(0) => return Err(invalid_input("flush_every_blocks is zero")),
            FlushLimit::Bytes(0) => return Err(invalid_input("flush_every_bytes is zero")),
            FlushLimit::Default | FlushLimit::Blocks(_) | FlushLimit::Bytes(_) => {}
        }
        let limits = [
            (self.window_bytes, "window_bytes is zero"),
            (self.windows_at_once, "windows_at_once is zero"),
            (self.fetches_at_once, "fetches_at_once is zero"),
            (bypass.after_failures, "after_failures is zero"),
            (bypass.probe_after_reads, "probe_after_reads is zero"),
        ];
        for (limit, message) in limits {
            if limit == 0 {
                return Err(invalid_input(message));
            }
        }
        self.wider_fetches.check()
    }
}
