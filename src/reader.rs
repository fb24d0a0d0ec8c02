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
//!        └── could not be read, did not match,┴ leader gone, or its failure not ours
//! ```
//!
//! The parts of one request are served side by side, each in its own piece of the caller's buffer, so a request with
//! many holes takes about as long as one fetch. A part that has to be claimed again goes into the next round.
//!
//! # Progress
//!
//! Each round ends: a leader waits for the source and the backend only, a follower for its leader (I3). And rounds end:
//! a part comes back only where a valid block was dropped, which the next round fetches; or where a leader failed or
//! was dropped, of which there are finitely many; or to be fetched *directly*, without a claim, because the backend
//! would not keep or return what a leader had fetched. Without that last way out many readers of one block over a
//! dead backend would fetch it one after another, each the follower of the one before.
//!
//! # What was tried and dropped
//!
//! Reading the whole request again from the backend when all was fetched: simple, but it read every hit twice.
//! Spawning fetches: it would need an executor, and a copy of every fetched byte.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt};
use gibblox_core::{BlockReader, GibbloxError, GibbloxResult, ReadContext};
use smallvec::{SmallVec, smallvec};
use tracing::{debug, trace};

use crate::backend::CacheOps;
use crate::bitmap::State;
use crate::config::CacheConfig;
use crate::error::{out_of_memory, short_read};
use crate::file::CacheFile;
use crate::flight::{Claim, FlightTable, Follow, Lead, Outcome};
use crate::flush::{FlushGate, FlushTicket};
use crate::geometry::Geometry;
use crate::identity::{cached_reader_identity_string, write_cached};
use crate::run::Run;
use crate::stats::{CacheCounters, CacheStats, RequestCounts, ScrubReport};
use crate::sync::Lock;

/// A [`BlockReader`] that keeps what it fetched from `S` in a cache file on `C`.
///
/// Share it between tasks and threads behind an [`Arc`](alloc::sync::Arc) or a reference: all methods take `&self`.
/// However many readers want a block at the same time, it is fetched once; one of them leads, the others follow.
///
/// A future of this reader has to be polled or dropped. If one that leads a fetch is kept but never polled again,
/// those who follow it wait for it, and so do those who store blocks whose bits share a byte with its own.
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
    flights: FlightTable,
    flush_gate: FlushGate,
    requests: RequestCounts,
}

/// A part of a request, with its piece of the caller's buffer.
struct Part<'b> {
    run: Run,
    buf: &'b mut [u8],
    way: Way,
}

/// Parts of a request, in order. Mostly one.
type Parts<'b> = SmallVec<[Part<'b>; 1]>;

/// How a part may be served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the cache, or by whoever leads its fetch.
    Claim,
    /// From the source alone, since the backend would not keep or return what was fetched.
    Direct,
}

/// What a part waits for.
enum Role<'t> {
    Claimed(Claim<'t>),
    Direct,
}

/// Parts of a request with what they wait for. Mostly one.
type Tasks<'t, 'b> = SmallVec<[(Role<'t>, Part<'b>); 1]>;

impl Role<'_> {
    /// Whether the source is asked, and not somebody else or the backend.
    const fn fetches(&self) -> bool {
        matches!(self, Role::Claimed(Claim::Lead(_)) | Role::Direct)
    }
}

/// How serving a part ended.
enum Served<'b> {
    Done,
    /// What has to go through another round.
    Again(Parts<'b>),
    Failed {
        lba: u64,
        error: GibbloxError,
    },
}

/// A fetch whose bytes are in the buffer.
struct Fetched {
    /// Whether the backend took them.
    stored: GibbloxResult<()>,
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
    /// for every 16 Ki blocks (8 Ki on 32-bit targets).
    pub async fn open(inner: S, cache: C, config: CacheConfig) -> GibbloxResult<Self> {
        config.check()?;
        let geometry = Geometry::new(inner.block_size(), inner.total_blocks().await?)?;
        let identity = cached_reader_identity_string(&inner);
        let file = CacheFile::new(cache, geometry, identity, config.verify())?;
        if let Err(error) = file.open().await {
            debug!(%error, "reading without a cache until its file can be opened");
        }
        Ok(Self {
            source: inner,
            file,
            geometry,
            config,
            flights: FlightTable::default(),
            flush_gate: FlushGate::new(config.flush_every_blocks()),
            requests: RequestCounts::default(),
        })
    }

    /// Makes everything durable that is cached so far.
    ///
    /// Not needed for a clean exit, nor against a process that is killed: what was written stays readable. A flush is
    /// for the loss of power.
    ///
    /// # Errors
    ///
    /// The backend's, also where the cache file could not be opened. After an error nothing in the file is trusted:
    /// each block is compared with its checksum again before it is served.
    ///
    /// # Cancellation
    ///
    /// Strict: a dropped flush promises nothing, and what it would have covered is due again.
    ///
    /// # Cost
    ///
    /// One backend flush, always. Other readers go on.
    pub async fn flush_cache(&self) -> GibbloxResult<()> {
        if !self.file.is_open() {
            self.file.open().await?;
        }
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
            total_hits: self.requests.hits(),
            total_misses: self.requests.misses(),
            cached_blocks: self.file.valid_blocks(),
            total_blocks: self.geometry.total_blocks(),
        }
    }

    /// What went wrong underneath and was kept from the callers. Never waits.
    pub fn counters(&self) -> CacheCounters {
        self.file.failures().snapshot()
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
    /// the way. After the first error no further window is begun, those under way are finished, and what was fetched
    /// stays cached.
    ///
    /// # Cancellation
    ///
    /// Strict: what was fetched stays cached, what was under way is taken over by whoever waits for it.
    ///
    /// # Cost
    ///
    /// One source read, one write of data, of checksums and of bits for each missing run of up to a window, several
    /// windows at once. A flush after every 64 windows and in the end, where the threshold is reached. Memory for so many windows, whatever the length of the range
    /// ([`CacheConfig::with_window_bytes`], [`CacheConfig::with_windows_at_once`]). Where nothing is missing, a look
    /// at the bitmap.
    pub async fn ensure_cached(
        &self,
        lba: u64,
        blocks: u64,
        ctx: ReadContext,
    ) -> GibbloxResult<()> {
        let Some(range) = self.geometry.range(lba, blocks)? else {
            return Ok(());
        };
        if !self.file.is_open() {
            self.file.open().await?;
        }
        trace!(lba, blocks, "ensuring that blocks are cached");
        let windows = Windows::new(range, self.window_blocks());
        let mut workers = FuturesUnordered::new();
        let most = range.blocks().div_ceil(self.window_blocks());
        for _ in 0..most.min(u64::from(self.config.windows_at_once())) {
            workers.push(self.cache_windows(range, &windows, ctx));
        }
        while workers.next().await.is_some() {}
        drop(workers);
        let flushed = self.flush_where_due(self.flush_gate.due()).await;
        windows.result().and(flushed)
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
    /// flushed; it is dropped for this process all the same. `Other` where there is no memory for a window. Blocks that cannot be read are dropped and counted, and are no error.
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
        if !self.file.is_open() {
            self.file.open().await?;
        }
        let mut report = ScrubReport::default();
        let mut written = Ok(());
        let mut window = Vec::new();
        let mut rest = Run::new(0, self.geometry.total_blocks());
        while let Some(run) = rest {
            let (state, run) = self.file.state_at(run);
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

    // ---- one request ----

    /// Serves a request that is no plain hit.
    ///
    /// Cancellation is strict; what this future leads goes to whoever claims it next.
    async fn fill(&self, run: Run, buf: &mut [u8], ctx: ReadContext) -> GibbloxResult<()> {
        self.file.open_unless_busy().await;
        let mut parts = Parts::new();
        parts.push(Part {
            run,
            buf,
            way: Way::Claim,
        });
        while !parts.is_empty() {
            parts = self.round(parts, ctx).await?;
        }
        Ok(())
    }

    /// Serves `parts` side by side; returns what has to go through another round.
    ///
    /// Where parts fail the others are finished first: their bytes are fetched by then, others wait for them, and it
    /// is not their failure. The error is that of the first block.
    async fn round<'b>(&self, parts: Parts<'b>, ctx: ReadContext) -> GibbloxResult<Parts<'b>> {
        let (mut tasks, mut again) = self.assign(parts);
        let fetches = tasks.iter().any(|(role, _)| role.fetches());
        let mut failed: Option<(u64, GibbloxError)> = None;
        let mut end = |served| match served {
            Served::Done => {}
            Served::Again(parts) => again.extend(parts),
            Served::Failed { lba, error } => {
                if failed.as_ref().is_none_or(|(first, _)| lba < *first) {
                    failed = Some((lba, error));
                }
            }
        };
        if tasks.len() == 1 {
            if let Some((role, part)) = tasks.pop() {
                end(self.serve(role, part, ctx).await);
            }
        } else {
            // What waits for the source goes first, so that the source works while the backend is read.
            tasks.sort_by_key(|(role, _)| !role.fetches());
            let mut under_way: FuturesUnordered<_> = tasks
                .into_iter()
                .map(|(role, part)| self.serve(role, part, ctx))
                .collect();
            while let Some(served) = under_way.next().await {
                end(served);
            }
        }
        if fetches {
            // Only now: whoever follows one of these fetches does not wait for the flush. It was counted and logged
            // where it failed, and the bytes are in the buffer.
            let _ = self.flush_where_due(self.flush_gate.due()).await;
        }
        if let Some((_, error)) = failed {
            return Err(error);
        }
        again.sort_by_key(|part| part.run.start());
        Ok(again)
    }

    /// Claims what of `parts` is to be claimed, and divides the buffers accordingly. What could not be claimed yet,
    /// because enough fetches are begun, is for another round.
    fn assign<'t, 'b>(&'t self, parts: Parts<'b>) -> (Tasks<'t, 'b>, Parts<'b>) {
        let wanted = parts
            .iter()
            .filter(|part| part.way == Way::Claim)
            .map(|part| part.run);
        let most = usize::try_from(self.config.fetches_at_once()).unwrap_or(usize::MAX);
        let claims = self
            .flights
            .claim(wanted, most, |run| self.file.state_at(run));
        let mut claims = claims.into_iter();
        let mut tasks = Tasks::new();
        let mut later = Parts::new();
        for part in parts {
            if part.way == Way::Direct {
                tasks.push((Role::Direct, part));
                continue;
            }
            let mut rest = Some(part);
            while let Some(part) = rest.take() {
                let Some(claim) = claims.next() else {
                    later.push(part);
                    break;
                };
                let (part, behind) = self.split(part, claim.run().end());
                tasks.push((Role::Claimed(claim), part));
                rest = behind;
            }
        }
        (tasks, later)
    }

    /// `part` up to the block `lba`, and what is behind.
    fn split<'b>(&self, part: Part<'b>, lba: u64) -> (Part<'b>, Option<Part<'b>>) {
        let Part { run, buf, way } = part;
        let Some(behind) = run.from(lba) else {
            return (Part { run, buf, way }, None);
        };
        let Some(front) = Run::new(run.start(), behind.start()) else {
            return (Part { run, buf, way }, None);
        };
        let (buf, rest) = buf.split_at_mut(self.geometry.len_bytes(front.blocks()));
        (
            Part {
                run: front,
                buf,
                way,
            },
            Some(Part {
                run: behind,
                buf: rest,
                way,
            }),
        )
    }

    async fn serve<'b>(&self, role: Role<'_>, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match role {
            Role::Claimed(Claim::Valid(_)) => self.read_cached(part, Way::Claim).await,
            Role::Claimed(Claim::Lead(lead)) => {
                match self.fetch(lead, part.buf, ctx).await {
                    // That the backend did not take them is no concern of a read that has its bytes.
                    Ok(Fetched { stored: _ }) => Served::Done,
                    Err(error) => part.failed(error),
                }
            }
            Role::Claimed(Claim::Follow(follow)) => self.follow(follow, part, ctx).await,
            Role::Direct => self.read_direct(part, ctx).await,
        }
    }

    /// Reads a part that is valid; what turns out not to be goes again, on the way `otherwise`.
    async fn read_cached<'b>(&self, part: Part<'b>, otherwise: Way) -> Served<'b> {
        let unreadable = self.file.read(part.run, part.buf).await;
        let mut rest = Some(part);
        let mut again = Parts::new();
        for run in unreadable {
            let Some(part) = rest.take() else {
                break;
            };
            let (front, behind) = self.split(part, run.start());
            let bad = if front.run.end() <= run.start() {
                behind
            } else {
                Some(front)
            };
            if let Some(bad) = bad {
                let (mut bad, behind) = self.split(bad, run.end());
                bad.way = otherwise;
                again.push(bad);
                rest = behind;
            }
        }
        if again.is_empty() {
            Served::Done
        } else {
            Served::Again(again)
        }
    }

    async fn follow<'b>(&self, follow: Follow, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        let shares_fate = follow.shares_fate();
        match follow.outcome().await {
            Some(Outcome::Published) => self.read_cached(part, Way::Direct).await,
            Some(Outcome::Unstored(_)) => self.read_direct(part, ctx).await,
            Some(Outcome::Failed(error)) if shares_fate => part.failed(error),
            Some(Outcome::Failed(_)) | None => part.again(),
        }
    }

    /// Reads a part from the source alone.
    async fn read_direct<'b>(&self, part: Part<'b>, ctx: ReadContext) -> Served<'b> {
        match self.read_source(part.run, part.buf, ctx).await {
            Ok(()) => Served::Done,
            Err(error) => part.failed(error),
        }
    }

    async fn read_source(&self, run: Run, buf: &mut [u8], ctx: ReadContext) -> GibbloxResult<()> {
        let asked = buf.len();
        let got = self.source.read_blocks(run.start(), buf, ctx).await?;
        if got == asked {
            Ok(())
        } else {
            Err(short_read("the source", got, asked))
        }
    }

    /// Fetches what `lead` claimed into `buf`, stores it, and tells the followers.
    async fn fetch(
        &self,
        lead: Lead<'_>,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<Fetched> {
        let run = lead.run();
        if let Err(error) = self.read_source(run, buf, ctx).await {
            lead.finish(&Outcome::Failed(error.clone()));
            return Err(error);
        }
        let stored = match self.file.store(run, buf).await {
            Ok(newly) => {
                self.flush_gate.wrote(newly);
                lead.finish(&Outcome::Published);
                Ok(())
            }
            Err(error) => {
                lead.finish(&Outcome::Unstored(error.clone()));
                Err(error)
            }
        };
        Ok(Fetched { stored })
    }

    /// For whoever has stored something and leads nothing any more.
    async fn flush_where_due(&self, due: Option<FlushTicket<'_>>) -> GibbloxResult<()> {
        match due {
            Some(ticket) => self.flush(ticket).await,
            None => Ok(()),
        }
    }

    async fn flush(&self, ticket: FlushTicket<'_>) -> GibbloxResult<()> {
        let result = self.file.flush().await;
        debug!(
            blocks = ticket.covered_blocks(),
            ok = result.is_ok(),
            "flushed the cache"
        );
        ticket.done();
        result
    }

    // ---- caching ahead ----

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

impl<'b> Part<'b> {
    fn again(self) -> Served<'b> {
        Served::Again(smallvec![self])
    }

    fn failed(self, error: GibbloxError) -> Served<'b> {
        Served::Failed {
            lba: self.run.start(),
            error,
        }
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
    /// missing run takes one source read into `buf`, one write of data, of checksums and of bits.
    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        let Some(run) = self.geometry.request(lba, buf.len())? else {
            return Ok(0);
        };
        let blocks = run.blocks();
        if let Some(hit) = self.file.find_trusted(run) {
            trace!(lba, blocks, "hit");
            self.requests.add(buf, blocks, blocks);
            let served = match self.file.read_hit_now(hit, buf) {
                Some(served) => served,
                None => self.file.read_hit(hit, buf).await,
            };
            if served {
                return Ok(buf.len());
            }
        } else {
            let hits = self.file.count_valid(run);
            trace!(lba, blocks, hits, "not all trusted");
            self.requests.add(buf, blocks, hits);
        }
        // Boxed, so that the future of a hit stays small.
        Box::pin(self.fill(run, buf, ctx)).await?;
        Ok(buf.len())
    }
}
