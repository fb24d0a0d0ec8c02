//! Counters, and snapshots of them. Units are in the names.
//!
//! Counting takes no lock and no atomic that two threads on the hit path share ([`Sharded`]), so it costs a hit a few
//! cycles. A snapshot that is taken while others read may have seen one of two counts of a request, never a wrong sum
//! once they are done (I5).

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

/// What went wrong underneath a reader and was kept from its callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    any(target_arch = "wasm32", feature = "serde"),
    derive(serde::Serialize)
)]
#[non_exhaustive]
pub struct CacheCounters {
    /// Blocks that did not match their checksum.
    pub checksum_mismatched_blocks: u64,
    /// Backend reads that failed or came back short.
    pub backend_read_failures: u64,
    /// Backend writes, and changes of length, that failed.
    pub backend_write_failures: u64,
    /// Backend flushes that failed.
    pub backend_flush_failures: u64,
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
    /// Of these, blocks that do not match or could not be read. They are no longer valid.
    pub dropped_blocks: u64,
    /// Of these, blocks of a file without checksums: there is nothing to compare them with. They stay valid.
    pub unchecked_blocks: u64,
}

impl ScrubReport {
    /// Counts a run of `scanned` blocks, of which `dropped` are no longer valid.
    pub(crate) fn add(&mut self, scanned: u64, dropped: u64, compared: bool) {
        self.scanned_blocks += scanned;
        self.dropped_blocks += dropped;
        if compared {
            self.intact_blocks += scanned - dropped;
        } else {
            self.unchecked_blocks += scanned - dropped;
        }
    }
}

/// Hits and misses of the threads that share a shard.
#[derive(Debug, Default)]
struct Requests {
    hits: Counter,
    misses: Counter,
}

/// Hits and misses of a reader.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts(Sharded<Requests>);

impl RequestCounts {
    /// Counts a request for `blocks` blocks into `buf`, of which `hits` were valid.
    #[inline]
    pub(crate) fn add(&self, buf: &[u8], blocks: u64, hits: u64) {
        let counts = self.0.near(buf);
        if hits != 0 {
            counts.hits.add(hits);
        }
        if hits < blocks {
            counts.misses.add(blocks - hits);
        }
    }

    pub(crate) fn hits(&self) -> u64 {
        self.0.iter().map(|counts| counts.hits.get()).sum()
    }

    pub(crate) fn misses(&self) -> u64 {
        self.0.iter().map(|counts| counts.misses.get()).sum()
    }
}

/// Failures underneath a reader. Not sharded: a failure is no hot path.
#[derive(Debug, Default)]
pub(crate) struct FailureCounts {
    pub(crate) mismatched_blocks: Counter,
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) flushes: Counter,
}

impl FailureCounts {
    pub(crate) fn snapshot(&self) -> CacheCounters {
        CacheCounters {
            checksum_mismatched_blocks: self.mismatched_blocks.get(),
            backend_read_failures: self.reads.get(),
            backend_write_failures: self.writes.get(),
            backend_flush_failures: self.flushes.get(),
        }
    }
}
