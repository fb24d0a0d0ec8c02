//! Counters, and snapshots of them. Units are in the names.
//!
//! Counters of the hit path are striped ([`Sharded`]): each thread adds to the stripe that the page of its buffer
//! hashes to, so two threads rarely meet on one, and counting costs a hit a few cycles. Where there are no 64-bit atomics
//! each counter has a lock, held for one addition. A snapshot that is taken while others read may have seen one of two
//! counts of a request, never a wrong sum once they are done (I5).
//!
//! # One addition for a hit
//!
//! A plain hit adds one to one counter. Requests, backend reads, hits and served blocks are derived from it in the
//! snapshot. Extra counters exist for blocks beyond the first and for requests that did not end as plain hits. So that
//! all of these grow at once, a hit is counted when it is over. So is a call ([`Call`]), also one that is dropped.

use crate::sync::{Counter, Sharded};

/// The figures of a reader at one moment.
///
/// Implements `serde::Serialize` on wasm32, and elsewhere with the feature `serde`, as a map of its four fields.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    any(target_arch = "wasm32", feature = "serde"),
    derive(serde::Serialize)
)]
pub struct CacheStats {
    /// Blocks that `read_blocks` was asked for and that were valid when it looked first.
    pub total_hits: u64,
    /// Blocks that `read_blocks` was asked for and that were not valid when it looked first.
    pub total_misses: u64,
    /// Blocks that are valid now.
    pub cached_blocks: u64,
    /// Blocks of the device.
    pub total_blocks: u64,
}

impl CacheStats {
    /// Hits in percent of the blocks asked for; 0.0 before the first.
    ///
    /// ```
    /// # let source = gibblox_cache::CacheStats { total_hits: 3, total_misses: 1, cached_blocks: 1, total_blocks: 8 };
    /// assert_eq!(source.hit_rate(), 75.0);
    /// ```
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        percent(
            self.total_hits,
            self.total_hits.saturating_add(self.total_misses),
        )
    }

    /// Valid blocks in percent of the device; 0.0 for a device without blocks.
    #[must_use]
    pub fn fill_rate(&self) -> f64 {
        percent(self.cached_blocks, self.total_blocks)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a percentage of counts beyond 2^53 is exact enough"
)]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64 * 100.0
    }
}

/// What a reader did, what its source and its backend did for it, and what went wrong underneath and was kept from its
/// callers.
///
/// Counting starts when the reader is opened and includes the calls that opening makes, except the search for a file
/// while the source is unreachable. Numbers only grow, and are exact when nothing is under way; a snapshot that is taken
/// meanwhile may have seen one half of something and not the other. A *call* is counted when it is over: when it
/// answered, failed, or was dropped with the future that waited for it. One that is under way is not counted yet.
///
/// Implements `serde::Serialize` as [`CacheStats`] does.
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
/// # let source = Image::new(512, 64);
/// let reader = CachedBlockReader::new(source, MemoryCacheOps::new()).await?;
/// let mut buf = [0; 4 * 512];
/// reader.read_blocks(8, &mut buf, ReadContext::FOREGROUND).await?; // from the source
///
/// let before = reader.counters();
/// assert_eq!((before.source_reads, before.fetched_bytes), (1, 4 * 512));
///
/// reader.read_blocks(8, &mut buf, ReadContext::FOREGROUND).await?; // from the cache
/// let second = reader.counters().since(&before);
/// assert_eq!((second.source_reads, second.backend_reads, second.served_bytes), (0, 1, 4 * 512));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    any(target_arch = "wasm32", feature = "serde"),
    derive(serde::Serialize)
)]
#[non_exhaustive]
pub struct CacheCounters {
    /// Blocks that `read_blocks` was asked for and that were valid when it looked first: `total_hits` of [`CacheStats`].
    pub hits: u64,
    /// Blocks that `read_blocks` was asked for and that were not valid when it looked first: `total_misses` of
    /// [`CacheStats`].
    pub misses: u64,
    /// Blocks that `read_blocks` returned: hits and misses, less those of requests that failed or were dropped.
    pub served_blocks: u64,
    /// The same in bytes.
    pub served_bytes: u64,
    /// How often a part of a request, of `read_blocks` or `ensure_cached`, began to wait for another task that fetches or
    /// drops it. A part that keeps its place in line, because that task fails or is dropped, counts once.
    pub followed_runs: u64,
    /// Reads of the source, however they ended. Asking it for its number of blocks is none.
    pub source_reads: u64,
    /// Of these, reads that failed or came back short. Dropped ones are not among them.
    pub source_read_failures: u64,
    /// Blocks that came from the source, by reads that did not fail, also where they could not be stored.
    pub fetched_blocks: u64,
    /// The same in bytes.
    pub fetched_bytes: u64,
    /// Of the fetched blocks, those that no caller had asked for: around a read, or ahead of a reader.
    pub unasked_fetched_blocks: u64,
    /// Of these, blocks that were read since, from the cache; each counts once. A block that was dropped before, or
    /// that a flush failed to make durable, does not count when it is read.
    pub unasked_used_blocks: u64,
    /// Of the fetched blocks, those that were valid, and lay between two missing runs of one fetch.
    pub refetched_blocks: u64,
    /// Reads of the backend, however they ended.
    pub backend_reads: u64,
    /// Writes to the backend, and changes of its length, however they ended.
    pub backend_writes: u64,
    /// Flushes of the backend, however they ended.
    pub backend_flushes: u64,
    /// Backend reads that failed or came back short. A short answer is no failure where the end of the file is looked
    /// for: while opening.
    pub backend_read_failures: u64,
    /// Backend writes, and changes of length, that failed.
    pub backend_write_failures: u64,
    /// Backend flushes that failed.
    pub backend_flush_failures: u64,
    /// Blocks that did not match their checksum.
    pub checksum_mismatched_blocks: u64,
    /// How often the backend was found to fail again and again, and was bypassed from then on. Zero unless
    /// [`CacheConfig::with_bypass`](crate::CacheConfig::with_bypass) asks for it, as the two that follow.
    pub bypasses: u64,
    /// Calls of `read_blocks` that went past a bypassed backend, counted when they do: those that came meanwhile, and the
    /// one whose plain hit was the last failure. Others that were under way already are not among them.
    pub bypassed_reads: u64,
    /// Backend reads that were made to see whether it is well again, however they ended.
    pub probes: u64,
}

impl CacheCounters {
    /// Backend calls that failed, of all kinds.
    #[must_use]
    pub const fn backend_failures(&self) -> u64 {
        self.backend_read_failures
            .saturating_add(self.backend_write_failures)
            .saturating_add(self.backend_flush_failures)
    }

    /// What was counted between `earlier` and this snapshot of the same reader.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        macro_rules! difference {
            ($($field:ident),* $(,)?) => {
                Self { $($field: self.$field.saturating_sub(earlier.$field)),* }
            };
        }
        difference! {
            hits,
            misses,
            served_blocks,
            served_bytes,
            followed_runs,
            source_reads,
            source_read_failures,
            fetched_blocks,
            fetched_bytes,
            unasked_fetched_blocks,
            unasked_used_blocks,
            refetched_blocks,
            backend_reads,
            backend_writes,
            backend_flushes,
            backend_read_failures,
            backend_write_failures,
            backend_flush_failures,
            checksum_mismatched_blocks,
            bypasses,
            bypassed_reads,
            probes,
        }
    }
}

/// Whether a reader has its cache, told by [`CachedBlockReader::state`](crate::CachedBlockReader::state).
///
/// Reads of a healthy source succeed in each of them, except in [`SourceChanged`](Self::SourceChanged). A dead disk is [`NotOpen`](Self::NotOpen) from the beginning,
/// [`Failing`](Self::Failing) once the file was open, and [`Bypassed`](Self::Bypassed) if the program asked for that.
///
/// Implements `serde::Serialize` as [`CacheStats`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    any(target_arch = "wasm32", feature = "serde"),
    derive(serde::Serialize)
)]
#[non_exhaustive]
pub enum CacheState {
    /// The cache file is open, and the last backend call that ended did not fail.
    Serving,
    /// The cache file is open, but the last backend call that ended failed. A read that comes back short is no failure,
    /// since it tells that the file is shorter.
    Failing,
    /// The cache file could not be opened yet, so nothing is cached. A later read that misses tries again, as
    /// does any call for the cache itself, such as `flush_cache`.
    NotOpen,
    /// The backend failed again and again, and reads go past it until a probe succeeds. See
    /// [`CacheConfig::with_bypass`](crate::CacheConfig::with_bypass).
    Bypassed,
    /// Another reader uses the array, mostly for another source, and there is no other array to be had. Reads go to the
    /// source; the reader tries again less and less often when it misses.
    Taken,
    /// The array holds another cache, which the [`RebuildPolicy`](crate::RebuildPolicy) keeps. Reads go to the source; the
    /// reader tries again less and less often when it misses.
    Kept,
    /// The source was found to be another version of itself: reads fail with [`SOURCE_CHANGED`](crate::SOURCE_CHANGED)
    /// until [`renew_source`](crate::CachedBlockReader::renew_source).
    SourceChanged,
}

/// What a scrub has seen so far, or in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    any(target_arch = "wasm32", feature = "serde"),
    derive(serde::Serialize)
)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Valid blocks that were looked at.
    pub scanned_blocks: u64,
    /// Of these, blocks that match their checksum.
    pub intact_blocks: u64,
    /// Of these, blocks that do not match. They are no longer valid.
    pub dropped_blocks: u64,
    /// Of these, blocks that could not be read. They stay valid.
    pub unread_blocks: u64,
    /// Of these, blocks of a file without checksums: there is nothing to compare them with. They stay valid.
    pub unchecked_blocks: u64,
}

impl ScrubReport {
    /// Counts a run of `scanned` blocks, of which `dropped` are no longer valid, and `unread` could not be read.
    pub(crate) const fn add(&mut self, scanned: u64, dropped: u64, unread: u64, compared: bool) {
        self.scanned_blocks += scanned;
        self.dropped_blocks += dropped;
        self.unread_blocks += unread;
        if compared {
            self.intact_blocks += scanned - dropped - unread;
        } else {
            self.unchecked_blocks += scanned - dropped - unread;
        }
    }
}

/// Requests of the threads that share a shard. Of a plain hit of one block only the first is touched.
#[derive(Debug, Default)]
struct Requests {
    /// Requests that were served by one backend read, and nothing else.
    plain_hits: Counter,
    /// Their blocks beyond the first of each.
    plain_hits_further_blocks: Counter,
    /// Requests that began as plain hits, and whose backend read failed, was dropped, or told nothing certain.
    lost_hits: Counter,
    /// Hits of all requests but plain hits.
    hits: Counter,
    misses: Counter,
}

/// All that is counted for a reader. What is no hot path is not sharded.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    requests: Sharded<Requests>,
    /// Blocks of requests that were served otherwise than as plain hits.
    pub(crate) filled_blocks: Counter,
    pub(crate) followed_runs: Counter,
    pub(crate) source_reads: Counter,
    pub(crate) source_read_failures: Counter,
    pub(crate) fetched_blocks: Counter,
    pub(crate) unasked_fetched_blocks: Counter,
    pub(crate) unasked_used_blocks: Counter,
    pub(crate) refetched_blocks: Counter,
    /// Reads of the backend but those of plain hits.
    pub(crate) backend_reads: Counter,
    pub(crate) backend_writes: Counter,
    pub(crate) backend_flushes: Counter,
    pub(crate) backend_read_failures: Counter,
    pub(crate) backend_write_failures: Counter,
    pub(crate) backend_flush_failures: Counter,
    pub(crate) mismatched_blocks: Counter,
    pub(crate) bypasses: Counter,
    pub(crate) bypassed_reads: Counter,
    pub(crate) probes: Counter,
}

impl Counts {
    /// Begins a request for `blocks` blocks into `buf`, all of them valid and one backend read away.
    #[inline]
    pub(crate) fn plain_hit(&self, buf: &[u8], blocks: u64) -> PlainHit<'_> {
        PlainHit {
            requests: self.requests.near(buf),
            blocks,
        }
    }

    /// Counts a request for `blocks` blocks into `buf`, of which `hits` were valid, when it looked.
    pub(crate) fn looked(&self, buf: &[u8], blocks: u64, hits: u64) {
        let counts = self.requests.near(buf);
        if hits != 0 {
            counts.hits.add(hits);
        }
        if hits < blocks {
            counts.misses.add(blocks - hits);
        }
    }

    fn sum(&self, of: impl Fn(&Requests) -> u64) -> u64 {
        self.requests.iter().map(of).sum()
    }

    fn plain_blocks(&self) -> u64 {
        self.sum(|counts| counts.plain_hits.get() + counts.plain_hits_further_blocks.get())
    }

    /// Calls of the backend that failed so far, of all kinds.
    pub(crate) fn backend_failures(&self) -> u64 {
        self.backend_read_failures.get()
            + self.backend_write_failures.get()
            + self.backend_flush_failures.get()
    }

    /// Requests that were plain hits so far.
    pub(crate) fn plain_hits(&self) -> u64 {
        self.sum(|counts| counts.plain_hits.get())
    }

    pub(crate) fn hits(&self) -> u64 {
        self.plain_blocks() + self.sum(|counts| counts.hits.get())
    }

    pub(crate) fn misses(&self) -> u64 {
        self.sum(|counts| counts.misses.get())
    }

    /// A snapshot, for blocks of `block_size` bytes.
    pub(crate) fn snapshot(&self, block_size: u32) -> CacheCounters {
        let bytes = |blocks: u64| blocks.saturating_mul(u64::from(block_size));
        let served_blocks = self.plain_blocks() + self.filled_blocks.get();
        let hit_reads = self.sum(|counts| counts.plain_hits.get() + counts.lost_hits.get());
        // What was used was fetched before, so that is read first.
        let unasked_used_blocks = self.unasked_used_blocks.get();
        let fetched_blocks = self.fetched_blocks.get();
        CacheCounters {
            hits: self.hits(),
            misses: self.misses(),
            served_blocks,
            served_bytes: bytes(served_blocks),
            followed_runs: self.followed_runs.get(),
            source_reads: self.source_reads.get(),
            source_read_failures: self.source_read_failures.get(),
            fetched_blocks,
            fetched_bytes: bytes(fetched_blocks),
            unasked_fetched_blocks: self.unasked_fetched_blocks.get(),
            unasked_used_blocks,
            refetched_blocks: self.refetched_blocks.get(),
            backend_reads: hit_reads + self.backend_reads.get(),
            backend_writes: self.backend_writes.get(),
            backend_flushes: self.backend_flushes.get(),
            backend_read_failures: self.backend_read_failures.get(),
            backend_write_failures: self.backend_write_failures.get(),
            backend_flush_failures: self.backend_flush_failures.get(),
            checksum_mismatched_blocks: self.mismatched_blocks.get(),
            bypasses: self.bypasses.get(),
            bypassed_reads: self.bypassed_reads.get(),
            probes: self.probes.get(),
        }
    }
}

/// A plain hit under way. Dropped before it is [served](Self::served), its blocks were hits all the same, and its
/// backend read was made.
#[derive(Debug)]
#[must_use]
pub(crate) struct PlainHit<'a> {
    requests: &'a Requests,
    blocks: u64,
}

impl PlainHit<'_> {
    /// The bytes are in the caller's buffer.
    #[inline]
    pub(crate) fn served(self) {
        self.requests.plain_hits.add(1);
        if self.blocks > 1 {
            let further_blocks = self.blocks - 1;
            self.requests.plain_hits_further_blocks.add(further_blocks);
        }
        core::mem::forget(self);
    }
}

impl Drop for PlainHit<'_> {
    #[cold]
    fn drop(&mut self) {
        self.requests.lost_hits.add(1);
        self.requests.hits.add(self.blocks);
    }
}

/// A call under way, which is counted when it is over: answered, failed or dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Call<'a>(&'a Counter);

impl<'a> Call<'a> {
    pub(crate) const fn of(counter: &'a Counter) -> Self {
        Self(counter)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.add(1);
    }
}
