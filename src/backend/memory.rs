//! [`MemoryCacheOps`]: a backend in plain memory, whose size follows what is written and not where.
//!
//! ```text
//!   offset ─► chunk of 256 KiB ─► shard (chunk number mod 16): a lock, and its chunks in a tree
//!                                  chunk ─► extents: sorted, disjoint pieces of memory; a gap reads as zero
//! ```
//!
//! A write fills the gaps that it covers with new extents and copies into those that are there. So a block that is
//! cached alone costs its own bytes and not a page, wherever the data region begins. Small extents begin and end at
//! multiples of 256 bytes, so that writing single bytes of a bitmap does not make an extent of each.
//!
//! Readers of a shard share its lock, and readers of different chunks mostly do not even meet on it, so hits of
//! several threads copy at the same time. A write holds one shard at a time, for the copy of at most one chunk.
//!
//! One vector would be simpler, but it is as large as the device. Pages of a fixed size would be found faster, but the
//! data region begins anywhere, so a block that is cached alone would take two.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use async_trait::async_trait;
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult};

use super::CacheOps;
use crate::error::out_of_memory;
use crate::sync::SharedLock;

/// Bytes that one tree entry covers.
const CHUNK: u64 = 256 << 10;

/// Small extents begin and end at multiples of this.
const GRAIN: usize = 256;

/// What is not small, and gets an extent of exactly its own: a block, mostly. Rounding would make it share its ends
/// with its neighbours, and be written and read in three pieces.
const SMALL: usize = 512;

const SHARDS: usize = 16;

/// A cache in memory: gone with the process, and as large as what is cached.
///
/// Memory is what was written, small pieces rounded to 256 bytes, plus some 40 bytes a piece; the length
/// that [`set_len`](CacheOps::set_len) gives costs nothing. Calls answer at once and never wait but for a copy of at
/// most 256 KiB by another thread. Where the allocator has no room for the bytes, the write fails and nothing else does.
///
/// # Examples
///
/// ```
/// use gibblox_cache::{CacheOps, MemoryCacheOps};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> gibblox_core::GibbloxResult<()> {
/// let memory = MemoryCacheOps::new();
/// memory.set_len(1 << 40).await?; // costs nothing
/// memory.write_at(1 << 39, b"cached").await?;
///
/// let mut buf = [0xFF; 8];
/// assert_eq!(memory.read_at(1 << 39, &mut buf).await?, 8);
/// assert_eq!(&buf, b"cached\0\0");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct MemoryCacheOps {
    shards: [SharedLock<Shard>; SHARDS],
}

/// The chunks whose number leaves the same remainder.
#[derive(Debug, Default)]
struct Shard {
    /// How long the whole array is. Each shard has a copy, so that a read takes one lock.
    len: u64,
    chunks: BTreeMap<u64, Chunk>,
}

/// What was written of a chunk.
#[derive(Debug, Default)]
struct Chunk {
    /// Sorted, disjoint, none empty.
    extents: Vec<Extent>,
}

#[derive(Debug)]
struct Extent {
    start: usize,
    bytes: Box<[u8]>,
}

impl Extent {
    fn end(&self) -> usize {
        self.start + self.bytes.len()
    }
}

/// Where two ranges overlap; empty where they do not.
fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

fn shift(range: &Range<usize>, down: usize) -> Range<usize> {
    range.start - down..range.end - down
}

fn no_memory() -> GibbloxError {
    out_of_memory("a cached block")
}

impl Chunk {
    /// Copies `within` of the chunk into `out`, which is as long.
    fn read(&self, within: &Range<usize>, out: &mut [u8]) {
        let first = self
            .extents
            .partition_point(|extent| extent.end() <= within.start);
        let mut filled = within.start;
        for extent in self.extents.iter().skip(first) {
            let common = overlap(within, &(extent.start..extent.end()));
            if common.is_empty() {
                break;
            }
            if filled < common.start {
                out[shift(&(filled..common.start), within.start)].fill(0);
            }
            out[shift(&common, within.start)]
                .copy_from_slice(&extent.bytes[shift(&common, extent.start)]);
            filled = common.end;
            if filled == within.end {
                return;
            }
        }
        out[shift(&(filled..within.end), within.start)].fill(0);
    }

    /// Copies `data` to `within` of the chunk, which is as long.
    ///
    /// Where memory runs out, what came before it is written and nothing else is touched.
    fn write(&mut self, within: &Range<usize>, data: &[u8]) -> GibbloxResult<()> {
        let mut at = within.start;
        let mut index = self.extents.partition_point(|extent| extent.end() <= at);
        while at < within.end {
            match self.extents.get_mut(index) {
                Some(extent) if extent.start <= at => {
                    let common = at..extent.end().min(within.end);
                    extent.bytes[shift(&common, extent.start)]
                        .copy_from_slice(&data[shift(&common, within.start)]);
                    at = common.end;
                    index += 1;
                }
                next => {
                    // A gap: a new extent, a small one rounded outwards as far as its neighbours let it.
                    let limit = next.map_or(usize::MAX, |next| next.start);
                    let before = index
                        .checked_sub(1)
                        .map_or(0, |index| self.extents[index].end());
                    let fresh = at..within.end.min(limit);
                    let (mut start, mut end) = (fresh.start, fresh.end);
                    if fresh.len() < SMALL {
                        start = (start - start % GRAIN).max(before);
                        end = end.next_multiple_of(GRAIN).min(limit);
                    }
                    let mut bytes = Vec::new();
                    bytes
                        .try_reserve_exact(end - start)
                        .map_err(|_| no_memory())?;
                    bytes.resize(fresh.start - start, 0);
                    bytes.extend_from_slice(&data[shift(&fresh, within.start)]);
                    bytes.resize(end - start, 0);
                    self.extents.try_reserve(1).map_err(|_| no_memory())?;
                    self.extents.insert(
                        index,
                        Extent {
                            start,
                            bytes: bytes.into_boxed_slice(),
                        },
                    );
                    at = fresh.end;
                    index += 1;
                }
            }
        }
        Ok(())
    }

    /// Forgets what lies from `end` on.
    fn truncate(&mut self, end: usize) {
        self.extents.retain_mut(|extent| {
            if let Some(tail) = extent.bytes.get_mut(end.saturating_sub(extent.start)..) {
                tail.fill(0);
            }
            extent.start < end
        });
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a remainder below a chunk's length, and a shard's number"
)]
impl MemoryCacheOps {
    /// An empty cache. Allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn shard(&self, chunk: u64) -> &SharedLock<Shard> {
        &self.shards[(chunk % SHARDS as u64) as usize]
    }

    /// The pieces of `len` bytes at `offset`, each within a chunk: its number, where in it, and where in the whole.
    fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            // A read may reach past the end of all offsets; nothing is there, so it stops short in any case.
            let at = offset.checked_add(done as u64)?;
            let within = (at % CHUNK) as usize;
            let count = (CHUNK as usize - within).min(len - done);
            let piece = (at / CHUNK, within..within + count, done..done + count);
            done += count;
            (count != 0).then_some(piece)
        })
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let within = (offset % CHUNK) as usize;
        if out.len() <= CHUNK as usize - within {
            return self.read_piece(offset / CHUNK, within, out);
        }
        for (chunk, within, part) in Self::pieces(offset, out.len()) {
            let count = self.read_piece(chunk, within.start, &mut out[part.clone()]);
            if count < part.len() {
                return part.start + count;
            }
        }
        out.len()
    }

    /// Reads from `start` of a chunk; `out` does not reach past its end.
    fn read_piece(&self, chunk: u64, start: usize, out: &mut [u8]) -> usize {
        self.shard(chunk).read(|shard| {
            // Another thread may shorten the array between two pieces; each piece goes by what it finds.
            let left = shard.len.saturating_sub(chunk * CHUNK + start as u64);
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
            let out = &mut out[..count];
            match shard.chunks.get(&chunk) {
                Some(chunk) => chunk.read(&(start..start + count), out),
                None => out.fill(0),
            }
            count
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let end = offset.checked_add(data.len() as u64).ok_or_else(|| {
            GibbloxError::with_message(GibbloxErrorKind::InvalidInput, "the write ends past 2^64")
        })?;
        let mut short = false;
        for (chunk, within, part) in Self::pieces(offset, data.len()) {
            self.shard(chunk).write(|shard| {
                short |= shard.len < end;
                let chunk = shard.chunks.entry(chunk).or_default();
                chunk.write(&within, &data[part])
            })?;
        }
        if short {
            for shard in &self.shards {
                shard.write(|shard| shard.len = shard.len.max(end));
            }
        }
        Ok(())
    }

    fn resize(&self, len: u64) {
        for shard in &self.shards {
            shard.write(|shard| {
                shard.len = len;
                let cut = shard.chunks.split_off(&len.div_ceil(CHUNK));
                drop(cut);
                if let Some(mut last) = shard.chunks.last_entry() {
                    let start = last.key() * CHUNK;
                    if len - start < CHUNK {
                        last.get_mut().truncate((len - start) as usize);
                    }
                }
            });
        }
    }
}

#[async_trait]
impl CacheOps for MemoryCacheOps {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        Ok(self.read(offset, out))
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        self.write(offset, data)
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.resize(len);
        Ok(())
    }

    /// Does nothing: there is nothing that outlives the process.
    async fn flush(&self) -> GibbloxResult<()> {
        Ok(())
    }

    fn read_now(&self, offset: u64, out: &mut [u8]) -> Option<GibbloxResult<usize>> {
        Some(Ok(self.read(offset, out)))
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Option<GibbloxResult<()>> {
        Some(self.write(offset, data))
    }
}
