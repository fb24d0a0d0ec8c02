//! [`Loose`]: bytes that may be written again, under locks.
//!
//! ```text
//!   offset ─► chunk of 64 KiB  ─► shard (chunk number mod 16): a lock, and its chunks, sorted
//!                                  chunk ─► extents: sorted, disjoint pieces of memory; a gap reads as zero
//! ```
//!
//! A write fills the gaps that it covers with new extents and copies into those that are there. So a block that is
//! cached alone costs its own bytes and not a page, wherever the data region begins. Small extents begin and end at
//! multiples of 64 bytes, so that writing single bytes of a bitmap does not make an extent of each.
//!
//! Everything is allocated in ways that may fail, so a heap that is full is an error and no more.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use gibblox_core::{GibbloxError, GibbloxResult};

use crate::error::out_of_memory;
use crate::sync::SharedLock;

/// Bytes that a chunk covers.
const CHUNK: u64 = 64 << 10;

/// Small extents begin and end at multiples of this.
const GRAIN: usize = 64;

/// What is not small, and gets an extent of exactly its own: a block, mostly. Rounding would make it share its ends
/// with its neighbours, and be written and read in three pieces.
const SMALL: usize = 512;

const SHARDS: usize = 16;

/// Bytes that may be written again.
#[derive(Debug, Default)]
pub(super) struct Loose {
    shards: [SharedLock<Shard>; SHARDS],
}

/// The chunks whose number leaves the same remainder.
#[derive(Debug, Default)]
struct Shard {
    /// Sorted by number.
    chunks: Vec<Chunk>,
}

/// What was written of a chunk.
#[derive(Debug)]
struct Chunk {
    number: u64,
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

impl Shard {
    fn search(&self, number: u64) -> Result<usize, usize> {
        self.chunks
            .binary_search_by_key(&number, |chunk| chunk.number)
    }

    fn chunk_or_new(&mut self, number: u64) -> GibbloxResult<&mut Chunk> {
        let index = match self.search(number) {
            Ok(index) => index,
            Err(index) => {
                self.chunks.try_reserve(1).map_err(|_| no_memory())?;
                let extents = Vec::new();
                self.chunks.insert(index, Chunk { number, extents });
                index
            }
        };
        Ok(&mut self.chunks[index])
    }
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

/// The pieces of `len` bytes at `offset`, each within a chunk: its number, where in it, and where in the whole.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a remainder below a chunk's length"
)]
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = offset.checked_add(done as u64)?;
        let within = (at % CHUNK) as usize;
        let count = (CHUNK as usize - within).min(len - done);
        let piece = (at / CHUNK, within..within + count, done..done + count);
        done += count;
        (count != 0).then_some(piece)
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a remainder below a chunk's length, and a shard's number"
)]
impl Loose {
    fn shard(&self, chunk: u64) -> &SharedLock<Shard> {
        &self.shards[(chunk % SHARDS as u64) as usize]
    }

    /// Copies what lies at `offset` into `out`; what was never written reads as zero.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        for (number, within, part) in pieces(offset, out.len()) {
            let out = &mut out[part];
            self.shard(number).read(|shard| match shard.search(number) {
                Ok(index) => shard.chunks[index].read(&within, out),
                Err(_) => out.fill(0),
            });
        }
    }

    /// Copies `data` to `offset`; it ends below 2<sup>64</sup>.
    ///
    /// Where memory runs out, what came before it is written and nothing else is touched.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        for (number, within, part) in pieces(offset, data.len()) {
            self.shard(number).write(|shard| {
                let chunk = shard.chunk_or_new(number)?;
                chunk.write(&within, &data[part])
            })?;
        }
        Ok(())
    }

    /// Whether nothing was ever written to the `len` bytes at `offset`, nor near enough to share memory with it.
    pub(super) fn is_untouched(&self, offset: u64, len: usize) -> bool {
        pieces(offset, len).all(|(number, within, _)| {
            self.shard(number).read(|shard| {
                let Ok(index) = shard.search(number) else {
                    return true;
                };
                let extents = &shard.chunks[index].extents;
                let first = extents.partition_point(|extent| extent.end() <= within.start);
                extents
                    .get(first)
                    .is_none_or(|extent| within.end <= extent.start)
            })
        })
    }

    /// Forgets what lies from `end` on.
    pub(super) fn truncate(&self, end: u64) {
        for shard in &self.shards {
            shard.write(|shard| {
                shard.chunks.retain_mut(|chunk| {
                    let left = end.saturating_sub(chunk.number * CHUNK);
                    if left < CHUNK {
                        chunk.truncate(left as usize);
                    }
                    left != 0
                });
            });
        }
    }
}
