//! [`Geometry`]: block size and block count, and the only place where blocks become bytes.
//!
//! A geometry is checked when it is made: the block size is a power of two, and the whole device fits 64 bits of
//! bytes. From then on a run inside the device converts without a check.

use gibblox_core::GibbloxResult;

use crate::error::{invalid_input, out_of_range};
use crate::run::Run;

/// Size and number of the blocks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    block_size: u32,
    total_blocks: u64,
}

impl Geometry {
    pub(crate) fn new(block_size: u32, total_blocks: u64) -> GibbloxResult<Self> {
        if !block_size.is_power_of_two() {
            return Err(invalid_input("block size must be a non-zero power of two"));
        }
        if total_blocks.checked_mul(u64::from(block_size)).is_none() {
            return Err(invalid_input("the device is larger than 2^64 bytes"));
        }
        Ok(Self {
            block_size,
            total_blocks,
        })
    }

    #[inline]
    pub(crate) const fn block_size(self) -> u32 {
        self.block_size
    }

    #[inline]
    pub(crate) const fn total_blocks(self) -> u64 {
        self.total_blocks
    }

    /// The blocks of a request for `blocks` blocks from `lba`; nothing for an empty one.
    #[inline]
    pub(crate) fn range(self, lba: u64, blocks: u64) -> GibbloxResult<Option<Run>> {
        match lba.checked_add(blocks) {
            _ if blocks == 0 => Ok(None),
            Some(end) if end <= self.total_blocks => Ok(Run::new(lba, end)),
            _ => Err(out_of_range()),
        }
    }

    /// The blocks of a request that fills `len_bytes` from `lba`; nothing for an empty one.
    #[inline]
    pub(crate) fn request(self, lba: u64, len_bytes: usize) -> GibbloxResult<Option<Run>> {
        let len_bytes = len_bytes as u64;
        if len_bytes & u64::from(self.block_size - 1) != 0 {
            return Err(invalid_input("the buffer is no multiple of the block size"));
        }
        self.range(lba, len_bytes >> self.block_size.trailing_zeros())
    }

    /// Where block `lba` begins, counted from block 0. `lba` is at most the number of blocks.
    #[inline]
    pub(crate) const fn offset_bytes(self, lba: u64) -> u64 {
        lba << self.block_size.trailing_zeros()
    }

    /// How many bytes the first `blocks` blocks of a buffer take. The buffer holds them, so the answer fits.
    pub(crate) fn len_bytes(self, blocks: u64) -> usize {
        usize::try_from(self.offset_bytes(blocks)).unwrap_or(usize::MAX)
    }

    /// How many whole blocks fit `bytes`.
    pub(crate) const fn blocks_in(self, bytes: u64) -> u64 {
        bytes >> self.block_size.trailing_zeros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gibblox_core::GibbloxErrorKind;

    #[test]
    fn block_sizes_are_powers_of_two() {
        for size in (0..70).chain([511, 512, 513, 1 << 31, u32::MAX]) {
            let accepted = Geometry::new(size, 8).is_ok();
            assert_eq!(accepted, (0..32).any(|shift| size == 1 << shift), "{size}");
        }
    }

    #[test]
    fn a_device_fits_64_bits_of_bytes() {
        assert!(Geometry::new(512, u64::MAX / 512).is_ok());
        assert!(Geometry::new(512, u64::MAX / 512 + 1).is_err());
        assert!(Geometry::new(1, u64::MAX).is_ok());
    }

    #[test]
    fn ranges_end_where_the_device_ends() {
        let geometry = Geometry::new(512, 10).expect("a valid geometry");
        assert_eq!(geometry.range(0, 10).expect("in range"), Run::new(0, 10));
        assert_eq!(geometry.range(99, 0).expect("empty"), None);
        assert_eq!(geometry.request(9, 512).expect("in range"), Run::new(9, 10));
        for (lba, blocks) in [(0, 11), (10, 1), (1, 10), (u64::MAX, 1), (2, u64::MAX)] {
            let error = geometry.range(lba, blocks).expect_err("out of range");
            assert_eq!(error.kind(), GibbloxErrorKind::OutOfRange);
        }
        let error = geometry.request(0, 513).expect_err("unaligned");
        assert_eq!(error.kind(), GibbloxErrorKind::InvalidInput);
    }
}
