//! [`Layout`]: where the regions of a cache file lie, in bytes from its beginning.

use core::ops::Range;

use gibblox_core::GibbloxResult;

use crate::error::invalid_input;
use crate::geometry::Geometry;
use crate::run::Run;

use super::checksum::{self, Checksums};

/// Bytes of a checksum.
const SUM_BYTES: u64 = checksum::SUM_BYTES as u64;

/// Where the regions of the cache file of one geometry and identity lie. Everything fits 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    geometry: Geometry,
    bitmap: u64,
    data: u64,
    sums: u64,
    end: u64,
}

impl Layout {
    /// Fails where the file would be longer than 64 bits can say.
    pub(crate) fn new(geometry: Geometry, header_bytes: usize) -> GibbloxResult<Self> {
        let blocks = geometry.total_blocks();
        let bitmap = header_bytes as u64;
        let after = |offset: u64, len: Option<u64>| len.and_then(|len| offset.checked_add(len));
        let data = after(bitmap, Some(blocks.div_ceil(8)));
        let sums = data.and_then(|data| after(data, Some(geometry.offset_bytes(blocks))));
        let end = sums.and_then(|sums| after(sums, blocks.checked_mul(SUM_BYTES)));
        match (data, sums, end) {
            (Some(data), Some(sums), Some(end)) => Ok(Self {
                geometry,
                bitmap,
                data,
                sums,
                end,
            }),
            _ => Err(invalid_input(
                "the cache file would be longer than 2^64 bytes",
            )),
        }
    }

    /// The bytes of the bitmap.
    pub(crate) const fn bitmap(&self) -> Range<u64> {
        self.bitmap..self.data
    }

    /// The bytes of the checksums.
    pub(crate) const fn sums(&self) -> Range<u64> {
        self.sums..self.end
    }

    /// The byte of the bitmap that holds the bit of block `lba`, counted from the bitmap's first.
    pub(crate) const fn bitmap_byte(lba: u64) -> u64 {
        lba / 8
    }

    /// Where the data of block `lba` begins.
    #[inline]
    pub(crate) const fn data_offset(&self, lba: u64) -> u64 {
        self.data + self.geometry.offset_bytes(lba)
    }

    /// Where the checksum of block `lba` lies.
    pub(crate) const fn sum_offset(&self, lba: u64) -> u64 {
        self.sums + lba * SUM_BYTES
    }

    /// How many bytes the checksums of `run` take; they are a part of what its data takes or a small multiple of it.
    pub(crate) fn sums_len(run: Run) -> usize {
        usize::try_from(run.blocks().saturating_mul(SUM_BYTES)).unwrap_or(usize::MAX)
    }

    /// How long the file is.
    pub(crate) const fn len(&self, checksums: Checksums) -> u64 {
        match checksums {
            Checksums::Absent => self.sums,
            Checksums::Xxh3 => self.end,
        }
    }

    /// How many blocks from the first on lie wholly, with their checksums, in a file that is `len` bytes long.
    pub(crate) const fn blocks_within(&self, len: u64, checksums: Checksums) -> u64 {
        let blocks = match checksums {
            Checksums::Absent => self.geometry.blocks_in(len.saturating_sub(self.data)),
            Checksums::Xxh3 => len.saturating_sub(self.sums) / SUM_BYTES,
        };
        if blocks < self.geometry.total_blocks() {
            blocks
        } else {
            self.geometry.total_blocks()
        }
    }
}

/// Finds out how long a file is that can only be asked for bytes: mostly in one question, else by halving.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measuring {
    /// The file is at least so long.
    is_there: u64,
    /// The file is at most so long, as far as it matters.
    most: u64,
    /// The length that is in question.
    probe: u64,
}

impl Measuring {
    /// A file that should be `len` bytes long, and may be longer.
    pub(crate) const fn up_to(len: u64) -> Self {
        Self {
            is_there: 0,
            most: len,
            probe: len,
        }
    }

    /// The offset of a byte that there is, or is not; nothing once the length is known.
    pub(crate) const fn next(&self) -> Option<u64> {
        if self.is_there < self.most {
            Some(self.probe - 1)
        } else {
            None
        }
    }

    /// Whether the [next](Self::next) byte is there.
    pub(crate) const fn answer(&mut self, is_there: bool) {
        if is_there {
            self.is_there = self.probe;
        } else {
            self.most = self.probe - 1;
        }
        self.probe = self.is_there + (self.most - self.is_there).div_ceil(2);
    }

    /// How long the file is.
    pub(crate) const fn len(&self) -> u64 {
        self.is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_measured_and_the_expected_one_by_one_question() {
        for expected in 0..40 {
            for actual in 0..50 {
                let mut measuring = Measuring::up_to(expected);
                let mut questions = 0;
                while let Some(offset) = measuring.next() {
                    assert!(offset < expected);
                    measuring.answer(offset < actual);
                    questions += 1;
                }
                assert_eq!(measuring.len(), actual.min(expected));
                assert!(questions <= if actual < expected { 7 } else { 1 });
            }
        }
        let mut measuring = Measuring::up_to(u64::MAX);
        while let Some(offset) = measuring.next() {
            measuring.answer(offset < 12345);
        }
        assert_eq!(measuring.len(), 12345);
    }
}
