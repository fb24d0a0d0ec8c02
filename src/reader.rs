//! [`CachedBlockReader`]: a read told as look, claim, fetch or read, store, publish.
//!
//! ```text
//!   read_blocks ── all trusted? ──► one backend read into the caller's buffer, done
//!        │ no
//!        ▼
//!      claim ──┬── Valid ───► read from the backend, compare what is untrusted ──┬──► served
//!      (again) ├── Lead ────► fetch into the caller's buffer, store, publish ────┤
//!        ▲     └── Follow ──► wait for the leader ──► read from the backend ─────┘
//!        │                                    │
//!        └── could not be read, or did not ───┴ the follower leads now, or gets bytes
//!            match                              that could not be stored
//! ```
//!
//! The parts of one request ([`request`]) are served side by side, each in its own piece of the caller's buffer, so a
//! request with many holes takes about as long as one fetch. A part that has to be claimed again goes into the next
//! round. Caching a range ahead of its readers ([`ahead`]) goes the same way, window by window. A fetch that brings more
//! than was asked for ([`wide`]) goes through memory of its own.
//!
//! # What was not done
//!
//! Reading the whole request from the backend when all of it is cached, as 0.0.1 does: simple, but every hit of a mixed
//! request is then read twice, and every miss once for nothing. Spawning fetches, so that a dropped reader does not
//! drop its fetch: it needs an executor, and a copy of every fetched byte.

mod ahead;
mod inside;
mod offline;
mod read;
mod request;
mod wide;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::pin::Pin;

use async_trait::async_trait;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
use tracing::{debug, trace};

use crate::backend::CacheOps;
use crate::bitmap::State;
use crate::config::{CacheConfig, OfflinePolicy};
use crate::error::{out_of_memory, short_read};
use crate::fetch::{Fetch, Fetches};
use crate::file::CacheFile;
use crate::flush::{FlushGate, FlushTicket};
use crate::geometry::Geometry;
use crate::identity::{cached_reader_identity_string, write_cached};
use crate::policy::FetchPolicy;
use crate::run::Run;
use crate::stats::{CacheCounters, CacheHealth, CacheStats, Call, ScrubReport};
use crate::warm::{Meter, Warm, WarmProgress};

use ahead::Ahead;
use offline::Contact;

/// A [`BlockReader`] that keeps what it fetched from `S` in a cache file on `C`.
///
/// Share it between tasks and threads behind an [`Arc`](alloc::sync::Arc) or a reference: all methods take `&self`.
/// However many readers want a block at the same time, it is fetched once; one of them leads, the others follow.
///
/// A future of this reader has to be polled or dropped. If one that leads a fetch is kept but never polled again, those
/// that follow it wait for it. If it is kept while it stores, so do those that invalidate its blocks, and those that
/// store blocks whose bits share a byte with its own.
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
#[derive(Debug)]
pub struct CachedBlockReader<S, C> {
    source: S,
    file: CacheFile<C>,
    geometry: Geometry,
    config: CacheConfig,
    policy: FetchPolicy,
    flights: Fetches,
    flush_gate: FlushGate,
    contact: Contact,
}

/// A fetch whose bytes are in the buffer.
struct Fetched {
    /// Whether the backend took them.
    stored: GibbloxResult<Stored>,
}

/// What became of bytes that the backend did not refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    All,
    /// Some of them were dropped by another task before they were stored, and are not.
    NotAll,
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
    /// `cache` is overwritten with an empty cache. Any content is safe to open.
    ///
    /// A backend that fails does not make this fail: the reader then reads from the source alone, and tries to open
    /// the file again when it next misses. [`flush_cache`](Self::flush_cache) tells whether it is open.
    ///
    /// # Offline
    ///
    /// Where `inner` does not tell its number of blocks, with whatever error, and `config` says
    /// [`ServeCached`](OfflinePolicy::ServeCached), the number comes from the cache file, if there is one of its
    /// identity and block size. What is cached is then served, compared as ever. The first read of anything else asks
    /// `inner` again and gets its error, until it answers. An answer is believed if number of blocks, block size and
    /// identity are those of the file, and from then on all is as if `inner` had answered at once; else the read fails
    /// with `Other`, so that nothing of another source is mixed in. The file is neither reset nor rebuilt by such a
    /// reader, and without such a file the error of `inner` is returned and `cache` is not written to. A source whose
    /// identity cannot be told while it is out of reach (one with a digest or an `ETag` in it that has to be asked
    /// for) cannot be opened so.
    ///
    /// # Errors
    ///
    /// What `inner` says when asked for its number of blocks. `InvalidInput` where its block size is zero or no power
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
    /// bit for each block. Memory follows the number of valid blocks, not the size of the device, but for a pointer
    /// for every 16 Ki blocks (4 Ki on 32-bit targets).
    pub async fn open(inner: S, cache: C, config: CacheConfig) -> GibbloxResult<Self> {
        config.check()?;
        let total_blocks = match inner.total_blocks().await {
            Ok(total_blocks) => total_blocks,
            Err(error) if config.offline() == OfflinePolicy::ServeCached => {
                return Self::open_offline(inner, cache, config, error).await;
            }
            Err(error) => return Err(error),
        };
        let geometry = Geometry::new(inner.block_size(), total_blocks)?;
        let identity = cached_reader_identity_string(&inner);
        let file = CacheFile::new(cache, geometry, identity, config.verify(), config.bypass())?;
        if let Err(error) = file.open().await {
            debug!(%error, "reading without a cache until its file can be opened");
        }
        Ok(Self::over(inner, file, geometry, config, Contact::made()))
    }

    fn over(
        source: S,
        file: CacheFile<C>,
        geometry: Geometry,
        config: CacheConfig,
        contact: Contact,
    ) -> Self {
        Self {
            source,
            file,
            geometry,
            config,
            policy: FetchPolicy::new(&config, geometry),
            flights: Fetches::default(),
            flush_gate: FlushGate::new(config.flush_every_blocks()),
            contact,
        }
    }

    /// Makes everything durable that is cached so far.
    ///
    /// Not needed for a clean exit, nor against a process that is killed: what was written stays readable. A flush is
    /// for the loss of power.
    ///
    /// # Errors
    ///
    /// The backend's, also where the cache file could not be opened. Where the backend is
    /// [bypassed](CacheConfig::with_bypass), that of the probe, or `Io` where somebody else is probing. After an error nothing in the file is trusted:
    /// each block is compared with its checksum again before it is served.
    ///
    /// # Cancellation
    ///
    /// Strict: a dropped flush promises nothing, and what it would have covered is due again.
    ///
    /// # Cost
    ///
    /// One backend flush, always, unless the backend is bypassed and its probe fails. Other readers go on.
    pub async fn flush_cache(&self) -> GibbloxResult<()> {
        self.file.ready().await?;
        self.flush(self.flush_gate.begin()).await
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
        CacheStats {
            total_hits: self.file.counts().hits(),
            total_misses: self.file.counts().misses(),
            cached_blocks: self.file.valid_blocks(),
            total_blocks: self.geometry.total_blocks(),
        }
    }

    /// What was read, fetched and written so far, and what went wrong underneath and was kept from the callers. Never
    /// waits, takes no lock where there are 64-bit atomics, and costs nothing that grows with the cache.
    pub fn counters(&self) -> CacheCounters {
        self.file.counts().snapshot(self.geometry.block_size())
    }

    /// Whether the backend is used, or [bypassed](CacheConfig::with_bypass) because it failed again and again. Never
    /// waits.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::{DeadDisk, Image};
    /// use gibblox_cache::{CacheConfig, CacheHealth, CachedBlockReader};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// # let source = Image::new(512, 64);
    /// let config = CacheConfig::new().with_bypass(2, 100);
    /// let reader = CachedBlockReader::open(source, DeadDisk, config).await?;
    /// assert_eq!(reader.health(), CacheHealth::Healthy, "one failure is not two");
    ///
    /// let mut buf = [0; 512];
    /// for lba in 0..50 {
    ///     reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND).await?; // from the source
    /// }
    /// assert_eq!(reader.health(), CacheHealth::Bypassed);
    /// let counters = reader.counters();
    /// assert_eq!((counters.backend_failures(), counters.bypassed_reads), (2, 49));
    /// # Ok(())
    /// # }
    /// ```
    pub fn health(&self) -> CacheHealth {
        self.file.health()
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
    /// the way; `Io` where blocks are dropped, because the backend damages or fails to read them, as fast as they are
    /// cached. Where the backend is [bypassed](CacheConfig::with_bypass), the error of the probe, or `Io` where somebody
    /// else is probing, before anything is fetched. After the first error no further fetch is begun, those under way are
    /// finished, and what was fetched
    /// stays cached.
    ///
    /// # Cancellation
    ///
    /// Strict: what was fetched stays cached, what was under way is taken over by whoever waits for it.
    ///
    /// # Cost
    ///
    /// One source read, one write of data, of checksums and of bits for each missing run of up to a window, several
    /// windows at once. A flush after every 64 windows and in the end, where the threshold is reached. Memory for so
    /// many windows, whatever the length of the range ([`CacheConfig::with_window_bytes`],
    /// [`CacheConfig::with_windows_at_once`]). Where nothing is missing, a look at the bitmap.
    pub async fn ensure_cached(
        &self,
        lba: u64,
        blocks: u64,
        ctx: ReadContext,
    ) -> GibbloxResult<()> {
        let Some(range) = self.geometry.range(lba, blocks)? else {
            return Ok(());
        };
        trace!(lba, blocks, "ensuring that blocks are cached");
        let wanted = [range];
        let ahead = Ahead {
            wanted: &wanted,
            ctx,
            windows_at_once: self.config.windows_at_once(),
            pause: None,
        };
        let mut meter = Meter::new(&wanted, self.geometry, None);
        self.cache_ahead(ahead, &mut meter).await
    }

    /// Caches what `warm` wants, in the background of whoever reads, and tells how far it is.
    ///
    /// `progress` is called once at the start, when what is cached already counts as done, and then whenever a fetch
    /// has added something; the last call before `Ok`, and what is returned, says that all is done. For nothing at all
    /// that is the only call. It is called between two polls of the fetches, so it should be short, as drawing a bar is.
    ///
    /// The future has to be polled until it is done, or dropped, like any other of this reader: put it into a task, or
    /// beside what else is awaited. To hold it up for a while, [pause](Warm::with_pause) it.
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
    /// Strict, in a pause too: what was fetched stays cached, what was under way is taken over by whoever waits for
    /// it. Called again, it goes on where it was.
    ///
    /// # Durability
    ///
    /// As [`ensure_cached`](Self::ensure_cached). A pause flushes nothing; [`flush_cache`](Self::flush_cache) does.
    ///
    /// # Cost
    ///
    /// As [`ensure_cached`](Self::ensure_cached), and a look at the bitmap of what is wanted to count what is cached.
    /// Memory for the ranges, and for as many windows as are under way at once.
    ///
    /// # Examples
    ///
    /// A progress bar:
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CachedBlockReader, MemoryCacheOps, Warm};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let reader = CachedBlockReader::new(Image::new(4096, 1000), MemoryCacheOps::new()).await?;
    /// let bar = indicatif::ProgressBar::no_length();
    /// let warmed = reader
    ///     .warm(Warm::device(), |progress| {
    ///         bar.set_length(progress.wanted_bytes());
    ///         bar.set_position(progress.done_bytes());
    ///     })
    ///     .await?;
    /// assert_eq!(warmed.done_blocks, 1000);
    /// # assert_eq!(bar.position(), 1000 * 4096);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Beside a reader, and paused while it reads:
    ///
    /// ```
    /// # mod image { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/image.rs")); }
    /// # use image::Image;
    /// use gibblox_cache::{CachedBlockReader, MemoryCacheOps, Pause, Warm};
    /// use gibblox_core::{BlockReader, ReadContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> gibblox_core::GibbloxResult<()> {
    /// let reader = CachedBlockReader::new(Image::new(4096, 1000), MemoryCacheOps::new()).await?;
    /// let pause = Pause::new();
    /// let ahead = Warm::ranges([0..100, 500..600]).with_pause(&pause);
    /// let (warmed, read) = tokio::join!(reader.warm(ahead, |_| ()), async {
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
    pub async fn warm(
        &self,
        warm: Warm,
        mut progress: impl FnMut(&WarmProgress) + Send,
    ) -> GibbloxResult<WarmProgress> {
        let wanted = warm.wanted(self.geometry)?;
        let ahead = Ahead {
            wanted: &wanted,
            ctx: warm.context(),
            windows_at_once: warm.windows_at_once(self.config.windows_at_once())?,
            pause: warm.pause(),
        };
        let mut meter = Meter::new(&wanted, self.geometry, Some(&mut progress));
        if wanted.is_empty() {
            meter.finish();
            return Ok(meter.progress());
        }
        debug!(
            ranges = wanted.len(),
            blocks = meter.progress().wanted_blocks,
            "caching ahead"
        );
        self.cache_ahead(ahead, &mut meter).await?;
        Ok(meter.progress())
    }

    /// Reads every valid block, compares it with its checksum, and drops what does not match, so that it is fetched
    /// again when it is next wanted.
    ///
    /// `progress` is called with the counts so far, after each window of up to [`CacheConfig::with_window_bytes`].
    /// Blocks that match are trusted from then on, so that their first read does not compare them again. In a file
    /// that the published 0.0.1 wrote there is nothing to compare with: its blocks are read, and stay.
    ///
    /// # Errors
    ///
    /// The backend's, where the cache file could not be opened, or where what was dropped could not be written or
    /// flushed; it is dropped for this process all the same. Where the backend is or becomes
    /// [bypassed](CacheConfig::with_bypass), that of the probe, or `Io`. `Other` where there is no memory for a window. Blocks that
    /// cannot be read are dropped and counted, and are no error.
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
    pub async fn scrub(
        &self,
        mut progress: impl FnMut(&ScrubReport) + Send,
    ) -> GibbloxResult<ScrubReport> {
        self.file.ready().await?;
        let mut report = ScrubReport::default();
        let mut written = Ok(());
        let mut window = Vec::new();
        let mut rest = Run::new(0, self.geometry.total_blocks());
        while let Some(run) = rest {
            let (state, run) = self.file.known_state_at(run)?;
            let mut scanned = run;
            if state == State::Valid {
                scanned = run.first(self.window_blocks());
                let buf = sized(&mut window, self.geometry.len_bytes(scanned.blocks()))?;
                let Ok(scrubbed) = self.file.scrub(scanned, buf).await else {
                    // Some of it was dropped just now: what is valid has changed.
                    continue;
                };
                written = written.and(scrubbed.written);
                report.add(
                    scanned.blocks(),
                    scrubbed.dropped_blocks,
                    self.file.has_checksums(),
                );
                progress(&report);
            }
            rest = rest.and_then(|rest| rest.from(scanned.end()));
        }
        debug!(
            scanned_blocks = report.scanned_blocks,
            dropped_blocks = report.dropped_blocks,
            "scrubbed the cache"
        );
        written?;
        if report.dropped_blocks != 0 {
            self.flush_cache().await?;
        }
        Ok(report)
    }

    fn window_blocks(&self) -> u64 {
        self.geometry
            .blocks_in(u64::from(self.config.window_bytes()))
            .max(1)
    }

    async fn read_source(&self, run: Run, buf: &mut [u8], ctx: ReadContext) -> GibbloxResult<()> {
        if !self.contact.is_made() {
            Box::pin(self.make_contact()).await?;
        }
        let counts = self.file.counts();
        let asked = buf.len();
        let call = Call::of(&counts.source_reads);
        let answer = self.source.read_blocks(run.start(), buf, ctx).await;
        drop(call);
        let failed = match answer {
            Ok(got) if got == asked => {
                counts.fetched_blocks.add(run.blocks());
                return Ok(());
            }
            Ok(got) => short_read("the source", got, asked),
            Err(error) => error,
        };
        counts.source_read_failures.add(1);
        Err(failed)
    }

    /// Fetches what `fetch` claimed, and nothing else, into `buf`, stores it, and tells the followers.
    async fn fetch(
        &self,
        fetch: Fetch<'_>,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<Fetched> {
        if let Err(error) = self.read_source(fetch.span(), buf, ctx).await {
            fetch.failed(&error);
            return Err(error);
        }
        let stored = self.store(fetch, buf).await;
        Ok(Fetched { stored })
    }

    /// Stores the runs that `fetch` leads, of all that it brought, but for those that are void, and tells the followers.
    /// The error is the first.
    async fn store(&self, fetch: Fetch<'_>, bytes: &[u8]) -> GibbloxResult<Stored> {
        let span = fetch.span();
        let mut result = Ok(Stored::All);
        for lead in fetch.leads() {
            if !lead.begin_store() {
                result = result.map(|_| Stored::NotAll);
                continue;
            }
            let run = lead.run();
            let from = self.geometry.len_bytes(run.start() - span.start());
            let len = self.geometry.len_bytes(run.blocks());
            let bytes = bytes.get(from..).and_then(|bytes| bytes.get(..len));
            let bytes = bytes.unwrap_or_default();
            let stored = self.file.store(run, lead.asked(), bytes).await;
            self.policy.stored(stored.is_ok());
            match stored {
                Ok(newly) => {
                    self.flush_gate.wrote(newly);
                    lead.published();
                }
                Err(error) => {
                    lead.unstored(&error, bytes);
                    result = result.and(Err(error));
                }
            }
        }
        result
    }

    /// For whoever has stored something and leads nothing any more.
    async fn flush_where_due(&self, due: Option<FlushTicket<'_>>) -> GibbloxResult<()> {
        match due {
            Some(ticket) => self.flush(ticket).await,
            None => Ok(()),
        }
    }

    async fn flush(&self, ticket: FlushTicket<'_>) -> GibbloxResult<()> {
        // Refused, it is due again.
        self.file.check_used()?;
        let result = self.file.flush().await;
        debug!(
            blocks = ticket.covered_blocks(),
            ok = result.is_ok(),
            "flushed the cache"
        );
        ticket.done();
        result
    }
}

/// `len` bytes of `buf`, which grows where it has to.
fn sized(buf: &mut Vec<u8>, len: usize) -> GibbloxResult<&mut [u8]> {
    if buf.len() < len {
        buf.try_reserve_exact(len - buf.len())
            .map_err(|_| out_of_memory("a window"))?;
        buf.resize(len, 0);
    }
    Ok(buf.get_mut(..len).unwrap_or_default())
}

#[async_trait]
impl<S, C> BlockReader for CachedBlockReader<S, C>
where
    S: BlockReader,
    C: CacheOps,
{
    fn block_size(&self) -> u32 {
        self.geometry.block_size()
    }

    /// What the source said when the reader was opened; it is not asked again.
    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(self.geometry.total_blocks())
    }

    /// Writes `cached:(`, the source's identity, and `)`.
    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write_cached(out, |out| self.source.write_identity(out))
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
    /// Strict: runs that were being fetched are taken over by whoever waits for them.
    ///
    /// # Cost
    ///
    /// Where all blocks are trusted, one backend read into `buf`, no lock and no allocation beside the future. A
    /// missing run takes one source read into `buf`, one write of data, of checksums and of bits. Fetching more than is
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
        self.read(lba, buf, ctx)
    }
}
