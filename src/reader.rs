//! [`CachedBlockReader`]: the face of the crate. Every public method with what it promises; the work is done in
//! [`engine`](crate::engine).

use alloc::boxed::Box;
use core::fmt;
use core::ops::Range;
use core::pin::Pin;

use async_trait::async_trait;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};

use crate::backend::CacheOps;
use crate::config::CacheConfig;
use crate::engine::Engine;
use crate::stats::{CacheCounters, CacheState, CacheStats, ScrubReport};
use crate::warm::{WarmPlan, WarmProgress};

/// A [`BlockReader`] that keeps what it fetched from `S` in a cache file on `C`.
///
/// Share it between tasks and threads behind an [`Arc`](alloc::sync::Arc) or a reference: all methods take `&self`.
/// However many readers want a block at the same time, it is fetched once; one of them leads, the others follow.
///
/// A future of this reader has to be polled or dropped. If one that leads a fetch is kept but never polled again, its
/// followers wait for it. If it is kept while it stores, so do tasks that invalidate its blocks, or store blocks whose
/// bits share a byte with its own.
///
/// `Debug` prints identity, size and [`state`](Self::state), whatever source and backend are.
///
/// # Examples
///
/// ```
/// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
/// # use image::Image;
/// use gibblox_cache::{CachedBlockReader, MemoryCacheOps};
/// use gibblox_core::{BlockReader, ReadContext};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> gibblox_core::GibbloxResult<()> {
/// let source = Image::new(512, 64); // anything that implements `BlockReader`
/// let reader = CachedBlockReader::new(source, MemoryCacheOps::new()).await?;
///
/// let mut buf = [0; 4 * 512];
/// reader.read_blocks(8, &mut buf, ReadContext::FOREGROUND).await?; // from the source
/// reader.read_blocks(8, &mut buf, ReadContext::FOREGROUND).await?; // from the cache
/// assert_eq!(reader.get_stats().await.hit_rate(), 50.0);
/// # Ok(())
/// # }
/// ```
pub struct CachedBlockReader<S, C> {
    engine: Engine<S, C>,
}

impl<S, C> CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    /// Opens a reader of `inner` over the cache file on `cache`, with the default [`CacheConfig`].
    ///
    /// See [`open`](Self::open) for all that follows.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn new(inner: S, cache: C) -> GibbloxResult<Self> {
        Self::open(inner, cache, CacheConfig::new()).await
    }

    /// Opens a reader that flushes `cache` after `flush_every_blocks` newly cached blocks.
    ///
    /// See [`open`](Self::open) for all that follows.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); `InvalidInput` where `flush_every_blocks` is zero.
    pub async fn with_flush_block_limit(
        inner: S,
        cache: C,
        flush_every_blocks: u32,
    ) -> GibbloxResult<Self> {
        let config = CacheConfig::new().with_flush_every_blocks(flush_every_blocks);
        Self::open(inner, cache, config).await
    }

    /// Opens a reader of `inner` over the cache file on `cache`.
    ///
    /// A file that belongs to `inner` (same identity, block size and number of blocks) is used; anything else on
    /// `cache` is overwritten with an empty cache, unless the [`RebuildPolicy`](crate::RebuildPolicy) keeps it. Any content is
    /// safe to open.
    ///
    /// A backend that fails does not make this fail: the reader then reads from the source alone, and tries to open
    /// the file again when it next misses. [`state`](Self::state) tells whether it is open.
    ///
    /// # Offline
    ///
    /// Where `inner` does not tell its number of blocks, with any error, and `config` says
    /// [`ServeCached`](crate::OfflinePolicy::ServeCached), the number comes from the cache file, if there is one of its
    /// identity and block size. Cached blocks are then served, compared as always. The first read of anything else asks
    /// `inner` again and gets its error, until it answers. An answer is believed if number of blocks, block size and
    /// identity are those of the file, and from then on all is as if `inner` had answered at once. If they are not, the
    /// read fails with `Other`, so that nothing of another source is mixed in. The file is neither reset nor rebuilt by such a
    /// reader, and without such a file the error of `inner` is returned and `cache` is not written to. A source whose
    /// identity cannot be told while it is out of reach (one with a digest or an `ETag` in it that has to be asked
    /// for) cannot be opened so.
    ///
    /// # Errors
    ///
    /// The error of `inner` when it is asked for its number of blocks. `InvalidInput` where its block size is zero or no power
    /// of two, where the device or its cache file would be longer than 2<sup>64</sup> bytes, or where a limit in
    /// `config` is zero. `Other` where there is no memory for the directory of the bitmap.
    ///
    /// # Cancellation
    ///
    /// Strict: a file left in the middle of being rebuilt has no header and is rebuilt by the next to open it.
    ///
    /// # Durability
    ///
    /// A rebuilt file is flushed before and after its header is written. A file that is used is not written to,
    /// unless it is too short.
    ///
    /// # Cost
    ///
    /// One question to the source. Backend reads of the header, of one byte at the file's end, and of the bitmap, one
    /// bit for each block. Memory follows the number of valid blocks, not the size of the device, except for a pointer
    /// for every 16 Ki blocks (4 Ki on 32-bit targets).
    pub async fn open(inner: S, cache: C, config: CacheConfig) -> GibbloxResult<Self> {
        let engine = Engine::open(inner, cache, config).await?;
        Ok(Self { engine })
    }

    /// Fetches what is missing of `blocks` blocks from `lba`, so that all of them are valid.
    ///
    /// Nothing is counted as hit or miss. Blocks that an earlier process cached count as valid by their bit; to have
    /// them compared first, [`scrub`](Self::scrub). An empty range is `Ok`.
    ///
    /// # Errors
    ///
    /// `OutOfRange` where the range reaches past the last block. The source's error as itself, a short read of the
    /// source as `Io`. The backend's error where a block could not be stored, or where an automatic flush failed on
    /// the way; `Io` where the backend damages blocks as fast as they are cached. Blocks that another task drops meanwhile
    /// are cached again. Where the backend is [bypassed](CacheConfig::with_bypass), the error of the probe, or `Io` where another
    /// task is probing, before anything is fetched. After the first error no further fetch is begun, those under way are
    /// finished, and what was fetched stays cached.
    ///
    /// # Cancellation
    ///
    /// Strict: what was fetched stays cached, what was under way is taken over by a task that waits for it.
    ///
    /// # Cost
    ///
    /// One source read, one write of data, of checksums and of bits for each missing run of up to a window, several
    /// windows at once. A flush after every 64 windows and in the end, where the limit is reached. Memory for so
    /// many windows, whatever the length of the range ([`CacheConfig::with_window_bytes`],
    /// [`CacheConfig::with_windows_at_once`]). Where nothing is missing, a look at the bitmap.
    pub async fn ensure_cached(
        &self,
        lba: u64,
        blocks: u64,
        ctx: ReadContext,
    ) -> GibbloxResult<()> {
        self.engine.warming().range(lba, blocks, ctx).await
    }

    /// Caches the blocks of `plan`, beside other readers.
    ///
    /// [`warm_with_progress`](Self::warm_with_progress) tells how far it is. The future has to be polled until it is
    /// done, or dropped, like any other of this reader: put it into a task, or beside what else is awaited. To hold it up
    /// for a while, give the plan a [switch](WarmPlan::with_pause).
    ///
    /// # Priority
    ///
    /// Nothing is claimed before its fetch begins, so a reader that wants blocks which are not cached yet fetches them
    /// at once itself, and `warm` then leaves them out. Only if a fetch of `warm` that holds the blocks is under way,
    /// a reader waits, for this one, of at most a window ([`CacheConfig::with_window_bytes`]): a block is not fetched
    /// twice. That fetch keeps the priority it began with. A source that lets low priorities starve, or hangs, makes
    /// the reader wait with it; dropping `warm` hands over to the reader at once.
    ///
    /// # Errors
    ///
    /// `OutOfRange` where a range reaches past the last block, `InvalidInput` where one ends before it begins or
    /// the number of windows at once is zero, all before anything is fetched. Otherwise as
    /// [`ensure_cached`](Self::ensure_cached): after the first error no further fetch is begun, those under way are
    /// finished, also in a pause, and what was fetched stays cached.
    ///
    /// # Cancellation
    ///
    /// Strict, in a pause too: what was fetched stays cached, what was under way is taken over by a task that
    /// waits for it. Called again, it goes on where it was.
    ///
    /// # Durability
    ///
    /// As [`ensure_cached`](Self::ensure_cached). A pause flushes nothing; [`flush_cache`](Self::flush_cache) does.
    ///
    /// # Cost
    ///
    /// As [`ensure_cached`](Self::ensure_cached). Memory for the ranges, and for as many windows as are under way at once.
    ///
    /// # Examples
    ///
    /// Beside a reader, and paused while it reads:
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CachedBlockReader, MemoryCacheOps, PauseSwitch, WarmPlan};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let reader = CachedBlockReader::new(Image::new(4096, 1000), MemoryCacheOps::new()).await?;
    /// let pause = PauseSwitch::new();
    /// let plan = WarmPlan::ranges([0..100, 500..600]).with_pause(&pause);
    /// let (warmed, read) = tokio::join!(reader.warm(plan), async {
    ///     pause.pause();
    ///     let mut buf = vec![0; 8 * 4096];
    ///     let read = reader.read_blocks(700, &mut buf, ReadContext::FOREGROUND).await;
    ///     pause.resume();
    ///     read
    /// });
    /// assert_eq!((warmed?.done_blocks, read?), (200, 8 * 4096));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn warm(&self, plan: WarmPlan) -> GibbloxResult<WarmProgress> {
        self.engine.warming().plan(&plan, None).await
    }

    /// [Warms](Self::warm), and calls `progress` with how far it is.
    ///
    /// `progress` is called once at the start, when blocks that are cached already count as done, and then whenever a
    /// fetch has added something. The last call before `Ok`, and the returned value, say that all is done. For a plan
    /// without blocks that is the only call. It is called between two polls of the fetches, so it should be short, as
    /// drawing a bar is.
    ///
    /// # Errors
    ///
    /// As [`warm`](Self::warm), and so are cancellation and durability.
    ///
    /// # Cost
    ///
    /// As [`warm`](Self::warm), and a look at the bits of the plan's blocks to count those that are cached.
    ///
    /// # Examples
    ///
    /// A progress bar:
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CachedBlockReader, MemoryCacheOps, WarmPlan};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let reader = CachedBlockReader::new(Image::new(4096, 1000), MemoryCacheOps::new()).await?;
    /// let bar = indicatif::ProgressBar::no_length();
    /// let warmed = reader
    ///     .warm_with_progress(WarmPlan::device(), |progress| {
    ///         bar.set_length(progress.wanted_bytes());
    ///         bar.set_position(progress.done_bytes());
    ///     })
    ///     .await?;
    /// assert_eq!(warmed.done_blocks, 1000);
    /// # assert_eq!(bar.position(), 1000 * 4096);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn warm_with_progress(
        &self,
        plan: WarmPlan,
        mut progress: impl FnMut(&WarmProgress) + Send,
    ) -> GibbloxResult<WarmProgress> {
        self.engine.warming().plan(&plan, Some(&mut progress)).await
    }

    /// Whether all of `blocks` blocks from `lba` are valid. Nothing is counted as hit or miss.
    ///
    /// Blocks that an earlier process cached count by their bit, as they do for
    /// [`ensure_cached`](Self::ensure_cached). While the cache file could not be opened, or the backend is
    /// [bypassed](CacheConfig::with_bypass), nothing is valid. An empty range is.
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
        self.engine.is_cached(lba, blocks)
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
        self.engine.cached_runs()
    }

    /// Drops `blocks` blocks from `lba`, so that they are fetched anew when they are next wanted: for a source that
    /// has changed.
    ///
    /// After `Ok` no read that begins is served a block of the range that was fetched before this call. A fetch that is
    /// under way for any of the range is void: the read that began it gets its bytes, and none of them are stored. So
    /// this never waits for the source. Bytes that are being written to the backend are waited for, and dropped. Reads
    /// that want blocks being dropped wait for a few writes, and then fetch them once. An empty range is `Ok`.
    ///
    /// The room that the blocks take on the backend is not given back; it is used again when they are fetched.
    ///
    /// # Errors
    ///
    /// `OutOfRange` where the range reaches past the last block. The backend's error where the cache file could not be
    /// opened, written or flushed, or where the backend is [bypassed](CacheConfig::with_bypass) and its probe fails;
    /// `Io` where another flush failed or a bypass ended meanwhile, or another task is probing. After an error the range
    /// is dropped for this process, unless the file could not be opened, but may come back with the next: call again.
    ///
    /// # Cancellation
    ///
    /// Strict: what was dropped stays dropped for this process, and calling again does all that is missing.
    ///
    /// # Durability
    ///
    /// After `Ok` what was dropped does not come back, also not when power is lost while it is being fetched again.
    /// Exceptions:
    ///
    /// - *A file of the published 0.0.1* has no checksums. A power cut while blocks are fetched again may leave the old
    ///   bytes under the new bit.
    /// - *Under [`VerifyPolicy::Never`](crate::VerifyPolicy::Never)* nothing is compared, and it may leave them in any file.
    ///   After [`flush_cache`](Self::flush_cache) the new bytes are there.
    /// - *A block that an earlier process wrote but never marked as valid*, because it was killed or lost power in
    ///   between. In a range of more than 8,192 blocks it is found only if one of the same 32 Ki blocks (8 Ki on 32-bit targets) was cached when the file was
    ///   opened, or has been since. If it was not found, such a power cut may bring its old bytes back.
    ///
    /// # Cost
    ///
    /// For each 32 Ki blocks (8 Ki on 32-bit targets) of which any was ever cached, one write of bits, and a read and
    /// a write for each 512 checksums, where these are set; one flush. In a range of up to 8,192 blocks all of it is
    /// looked at. [`clear`](Self::clear) cuts the checksums off where there are more than 8,192.
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
        self.engine.dropping().range(lba, blocks).await
    }

    /// [Drops](Self::invalidate) every block of the device.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate), without `OutOfRange`.
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
        self.engine.dropping().device().await
    }

    /// Goes on with what the source is now, where its bytes and its identity have changed.
    ///
    /// A reader asks its source for its identity before and after each fetch, before it compares what is not trusted yet, and
    /// when [`state`](Self::state) is asked for. Where it is another one than that of the cache file, the source *has
    /// changed*: each read that begins then fails with [`SOURCE_CHANGED`](crate::SOURCE_CHANGED), of kind `Other`, and so
    /// does one whose bytes were fetched meanwhile. None of those bytes are stored, and nothing counts as cached. A read of
    /// blocks that are all trusted does not ask, and is served the earlier version until one of those others has. A source
    /// whose identity stays the same never changes, and one that is out of reach has not changed.
    ///
    /// After `Ok` all of the reader is of the new version: nothing of the one before is served, and what is fetched is cached.
    /// Where the source is again what it was, everything that was cached is there again. A read that was under way is
    /// served anew, and no read mixes two versions.
    ///
    /// The cache file becomes one of the new version as opening would make it, whatever the
    /// [`RebuildPolicy`](crate::RebuildPolicy) says. If it cannot be opened, this is no error; see [`open`](Self::open).
    /// Another reader that uses the same array keeps it, and this one is in the state
    /// [`Taken`](crate::CacheState::Taken), until it has gone or is renewed too and this one misses. A file that was named
    /// by the identity, as [`FileCacheOps`](crate::FileCacheOps) can do, keeps the name that it has.
    ///
    /// # Errors
    ///
    /// That of the source where it does not say how many blocks it has. `InvalidInput` where it has another size or an
    /// identity of another length (that of a [`Versioned`](crate::Versioned) has one length), or fails to write it: such a
    /// version takes a new reader.
    ///
    /// # Cancellation
    ///
    /// Strict: left in the middle, the source counts as changed, and calling again does all that is missing.
    ///
    /// # Durability
    ///
    /// In every image that a loss of power can leave, the file is of the version before, of none, or of the new one; old
    /// blocks are never those of the new one.
    ///
    /// # Cost
    ///
    /// One question to the source, and that of building a file anew. Waits for blocks that are being stored, not for fetches.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{
    ///     CacheState, CachedBlockReader, MemoryCacheOps, SOURCE_CHANGED, SourceVersion, Versioned,
    /// };
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let version = SourceVersion::new("33a64df5");
    /// let source = Versioned::new(Image::new(512, 64), version.clone());
    /// let reader = CachedBlockReader::new(source, MemoryCacheOps::new()).await?;
    /// reader.ensure_cached(0, 32, ReadContext::BACKGROUND).await?;
    ///
    /// version.set("9e107d9d"); // mostly by the source, when an answer says so
    /// let mut buf = [0; 512];
    /// let error = reader.read_blocks(40, &mut buf, ReadContext::FOREGROUND).await.unwrap_err();
    /// assert_eq!(error.message(), Some(SOURCE_CHANGED));
    /// assert_eq!(reader.state(), CacheState::SourceChanged);
    ///
    /// reader.renew_source().await?;
    /// assert_eq!(reader.state(), CacheState::Serving);
    /// assert!(!reader.is_cached(0, 1)?);
    /// reader.read_blocks(40, &mut buf, ReadContext::FOREGROUND).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn renew_source(&self) -> GibbloxResult<()> {
        self.engine.renewing().renew().await
    }

    /// Reads every valid block, compares it with its checksum, and drops what does not match, so that it is fetched
    /// again when it is next wanted.
    ///
    /// Works in windows of up to [`CacheConfig::with_window_bytes`]. Blocks that match are trusted from then on, so that
    /// their first read does not compare them again. In a file that the published 0.0.1 wrote there is nothing to compare with: its blocks are read, and stay.
    ///
    /// # Errors
    ///
    /// The backend's, where the cache file could not be opened, or where what was dropped could not be written or
    /// flushed; it is dropped for this process all the same. Where the backend is or becomes
    /// [bypassed](CacheConfig::with_bypass), that of the probe, or `Io`. `Other` where there is no memory for a window.
    /// The backend's first error where a block could not be read, in the end, when all the others were compared; such
    /// blocks are counted and stay valid.
    ///
    /// # Cancellation
    ///
    /// Strict: what was dropped stays dropped, and the next scrub begins from the beginning.
    ///
    /// # Durability
    ///
    /// What was dropped does not come back after the call returned `Ok`.
    ///
    /// # Cost
    ///
    /// One backend read of data and one of checksums for each valid run of up to a window, one after another; memory
    /// for one window. A flush where anything was dropped.
    pub async fn scrub(&self) -> GibbloxResult<ScrubReport> {
        self.engine.scrubbing().device(None).await
    }

    /// [Scrubs](Self::scrub), and calls `progress` with the counts so far after each window.
    ///
    /// # Errors
    ///
    /// As [`scrub`](Self::scrub), and so are cancellation, durability and cost.
    pub async fn scrub_with_progress(
        &self,
        mut progress: impl FnMut(&ScrubReport) + Send,
    ) -> GibbloxResult<ScrubReport> {
        self.engine.scrubbing().device(Some(&mut progress)).await
    }

    /// Makes everything durable that is cached so far.
    ///
    /// Not needed for a clean exit, nor against a process that is killed: what was written stays readable. A flush is
    /// for the loss of power.
    ///
    /// # Errors
    ///
    /// The backend's, also where the cache file could not be opened, or where blocks that an earlier flush may have lost
    /// could not be read or written again. Where the backend is [bypassed](CacheConfig::with_bypass), that of the probe,
    /// or `Io` where another task is probing. `Io` where other flushes fail beside this one again and again. `Other` where
    /// there is no memory for a window. After a flush that failed nothing in the file is trusted: each block is compared
    /// with its checksum again before it is served.
    ///
    /// # Cancellation
    ///
    /// Strict: a dropped flush promises nothing, what it would have covered is due again, and the next call writes it again.
    ///
    /// # Durability
    ///
    /// After `Ok` all that was valid when this was called, and is still valid, outlives a loss of power, whatever flush
    /// failed before, also one that no caller was told of. After a flush that failed, or was dropped, the medium may have
    /// forgotten what was written before, and later flushes do not tell. So what was written since the last good flush is
    /// compared, written once more, and flushed. What does not match any more is dropped. In a file of the published 0.0.1
    /// there is nothing to compare with, and a flush that fails drops what was read or written there.
    ///
    /// # Cost
    ///
    /// One backend flush, always, unless the backend is bypassed and its probe fails. After a flush that failed or was
    /// dropped, a second one, and for each run of up to a window that may be lost one read and one write each of data and
    /// checksums, and one write of bits; memory for one window. Other readers go on.
    pub async fn flush_cache(&self) -> GibbloxResult<()> {
        self.engine.flushing().flush_cache().await
    }

    /// Hits, misses, and how full the cache is.
    ///
    /// Never waits; asynchronous for the sake of programs that are written so. Counting the valid blocks takes a
    /// microsecond or so for every hundred thousand blocks in the cache.
    #[expect(
        clippy::unused_async,
        reason = "the signature is that of the published crate"
    )]
    pub async fn get_stats(&self) -> CacheStats {
        self.engine.stats()
    }

    /// What was read, fetched and written so far, and which failures of the backend were kept from the callers. Never
    /// waits, takes no lock where there are 64-bit atomics, and costs nothing that grows with the cache.
    pub fn counters(&self) -> CacheCounters {
        self.engine.counters()
    }

    /// Whether the cache file serves, fails, could not be opened yet, or is [bypassed](CacheConfig::with_bypass). Never
    /// waits.
    ///
    /// A moment later it may be another. Whether the *source* is out of reach is [`is_offline`](Self::is_offline).
    ///
    /// # Examples
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::{DeadDisk, Image};
    /// use gibblox_cache::{BypassPolicy, CacheConfig, CacheState, CachedBlockReader, MemoryCacheOps};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let reader = CachedBlockReader::new(Image::new(512, 64), MemoryCacheOps::new()).await?;
    /// assert_eq!(reader.state(), CacheState::Serving);
    ///
    /// let config = CacheConfig::new().with_bypass(BypassPolicy {
    ///     after_failures: 2,
    ///     probe_after_reads: 100,
    /// });
    /// let reader = CachedBlockReader::open(Image::new(512, 64), DeadDisk, config).await?;
    /// assert_eq!(reader.state(), CacheState::NotOpen, "one failure is not two");
    ///
    /// let mut buf = [0; 512];
    /// for lba in 0..50 {
    ///     reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND).await?; // from the source
    /// }
    /// assert_eq!(reader.state(), CacheState::Bypassed);
    /// let counters = reader.counters();
    /// assert_eq!((counters.backend_failures(), counters.bypassed_reads), (2, 49));
    /// # Ok(())
    /// # }
    /// ```
    pub fn state(&self) -> CacheState {
        self.engine.notice_change();
        self.engine.state()
    }

    /// Whether the reader was opened by its cache file alone, and its source has not answered since.
    ///
    /// Blocks that are cached are served all the same; see [`open`](Self::open). Never waits, and does not ask the
    /// source.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// use std::sync::Arc;
    ///
    /// use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps, OfflinePolicy};
    /// use gibblox_core::{BlockReader, ReadContext};
    /// # use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};
    /// # struct Remote(Image, AtomicBool);
    /// # impl Remote {
    /// #     fn new() -> Arc<Self> { Arc::new(Self(Image::new(512, 64), AtomicBool::new(true))) }
    /// #     fn set_reachable(&self, is_reachable: bool) { self.1.store(is_reachable, Ordering::SeqCst) }
    /// #     fn ask(&self) -> GibbloxResult<()> {
    /// #         if self.1.load(Ordering::SeqCst) { Ok(()) } else { Err(GibbloxError::new(GibbloxErrorKind::Io)) }
    /// #     }
    /// # }
    /// # #[async_trait::async_trait]
    /// # impl BlockReader for Remote {
    /// #     fn block_size(&self) -> u32 { self.0.block_size() }
    /// #     async fn total_blocks(&self) -> GibbloxResult<u64> { self.ask()?; self.0.total_blocks().await }
    /// #     fn write_identity(&self, out: &mut dyn std::fmt::Write) -> std::fmt::Result { self.0.write_identity(out) }
    /// #     async fn read_blocks(&self, lba: u64, buf: &mut [u8], ctx: ReadContext) -> GibbloxResult<usize> {
    /// #         self.ask()?;
    /// #         self.0.read_blocks(lba, buf, ctx).await
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> GibbloxResult<()> {
    /// # let (remote, backend) = (Remote::new(), Arc::new(MemoryCacheOps::new()));
    /// let config = CacheConfig::new().with_offline(OfflinePolicy::ServeCached);
    /// let reader = CachedBlockReader::open(Arc::clone(&remote), Arc::clone(&backend), config).await?;
    /// reader.ensure_cached(0, 32, ReadContext::BACKGROUND).await?;
    ///
    /// remote.set_reachable(false); // and the program is started again
    /// let reader = CachedBlockReader::open(Arc::clone(&remote), backend, config).await?;
    /// let mut buf = [0; 512];
    /// reader.read_blocks(31, &mut buf, ReadContext::FOREGROUND).await?;
    /// assert!(reader.read_blocks(32, &mut buf, ReadContext::FOREGROUND).await.is_err());
    /// assert!(reader.is_offline());
    ///
    /// remote.set_reachable(true);
    /// reader.read_blocks(32, &mut buf, ReadContext::FOREGROUND).await?;
    /// assert!(!reader.is_offline());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_offline(&self) -> bool {
        self.engine.is_offline()
    }
}

impl<S, C> fmt::Debug for CachedBlockReader<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let geometry = self.engine.geometry();
        f.debug_struct("CachedBlockReader")
            .field("identity", &self.engine.named().identity())
            .field("block_size", &geometry.block_size())
            .field("total_blocks", &geometry.total_blocks())
            .field("state", &self.engine.state())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<S, C> BlockReader for CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    fn block_size(&self) -> u32 {
        self.engine.geometry().block_size()
    }

    /// What the source said when the reader was opened; it is not asked again.
    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(self.engine.geometry().total_blocks())
    }

    /// Writes `cached:(`, the source's identity, and `)`.
    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.engine.write_identity(out)
    }

    /// Reads as many blocks as fill `buf`, from `lba` on. `Ok(buf.len())`, or an error; never less.
    ///
    /// An empty buffer is `Ok(0)`. `ctx` goes to the source with what is fetched.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the length of `buf` is no multiple of the block size. `OutOfRange` where the range
    /// reaches past the last block. The source's error as itself, a short read of the source as `Io`. Never the
    /// backend's. After an error what `buf` holds is unspecified, and every block can be asked for again.
    ///
    /// # Cancellation
    ///
    /// Strict: runs that were being fetched are taken over by tasks that wait for them.
    ///
    /// # Cost
    ///
    /// Where all blocks are trusted, one backend read into `buf`, no lock and no allocation beside the future. A
    /// missing run takes one source read into `buf`, one write of data, of checksums and of bits; one that is longer than
    /// [`with_max_fetch_bytes`](CacheConfig::with_max_fetch_bytes) takes several. Blocks that the backend cannot read just
    /// now are read from the source once for all tasks that want them at the same time, and stay as they are. Fetching more than is
    /// missing is off unless the [`CacheConfig`] says otherwise; a wider fetch takes memory for all of it, and a copy.
    fn read_blocks<'a, 'b, 'f>(
        &'a self,
        lba: u64,
        buf: &'b mut [u8],
        ctx: ReadContext,
    ) -> Pin<Box<dyn Future<Output = GibbloxResult<usize>> + Send + 'f>>
    where
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        self.engine.read(lba, buf, ctx)
    }
}
