//! Checksums of blocks and of the header.
//!
//! XXH3-64 from `twox-hash`: fixed by a public specification that several crates implement, `no_std`, and with `std` as
//! wide as the processor at hand. Measured on x86-64 beside `xxhash-rust`, which has to be compiled for the processor:
//! 0.60 of its time for 4 KiB, 0.54 for 64 KiB and 1 MiB. Looked at and not taken: `rapidhash`, since a file outlives a
//! crate and a 32-bit processor multiplies 64 by 64 bits in four steps; CRC-64 by tables, which does 1 GB/s.
//!
//! Seeding the hash of the block itself would derive a new secret for each block. Hashing the lba under the identity's
//! seed and combining the two binds as well, and costs a few cycles.

use twox_hash::XxHash3_64;

/// Bytes of the header check.
pub(crate) const CHECK_BYTES: usize = 3;

/// Bytes of a checksum in the file.
pub(crate) const SUM_BYTES: usize = 8;

/// Whether a file carries a checksum for every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksums {
    /// A file of 0.0.1.
    Absent,
    /// XXH3-64, as the format describes.
    Xxh3,
}

impl Checksums {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Absent => 0,
            Self::Xxh3 => 1,
        }
    }
}

/// Computes the checksums of the blocks of one source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockHasher {
    seed: u64,
}

impl BlockHasher {
    pub(crate) fn new(identity: &str) -> Self {
        Self {
            seed: XxHash3_64::oneshot(identity.as_bytes()),
        }
    }

    /// The checksum of block `lba`; never zero.
    pub(crate) fn sum(self, lba: u64, block: &[u8]) -> [u8; SUM_BYTES] {
        let sum = XxHash3_64::oneshot(block)
            ^ XxHash3_64::oneshot_with_seed(self.seed, &lba.to_le_bytes());
        sum.max(1).to_le_bytes()
    }
}

/// The check over a header without the bytes of the check; never zero.
///
/// In one piece: the hash of two pieces takes memory that cannot be refused.
pub(crate) fn header_check(header: &[u8]) -> [u8; CHECK_BYTES] {
    let [a, b, c, ..] = XxHash3_64::oneshot(header).to_le_bytes();
    if [a, b, c] == [0; CHECK_BYTES] {
        [1, 0, 0]
    } else {
        [a, b, c]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_specification() {
        // Computed with the reference implementation of XXH3.
        let hasher = BlockHasher::new("cached:(x)");
        assert_eq!(
            hasher.sum(0, &[0; 512]),
            0x1667_A170_F90A_93B5_u64.to_le_bytes()
        );
        assert_eq!(
            hasher.sum(7, &[7; 512]),
            0xAEAB_7873_76E4_F9C5_u64.to_le_bytes()
        );
    }

    #[test]
    fn a_block_matches_in_its_place_of_its_source_only() {
        let hasher = BlockHasher::new("cached:(x)");
        let sum = hasher.sum(7, &[7; 512]);
        assert_ne!(sum, hasher.sum(8, &[7; 512]));
        assert_ne!(sum, BlockHasher::new("cached:(y)").sum(7, &[7; 512]));
        for bit in 0..512 * 8 {
            let mut flipped = [7; 512];
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(sum, hasher.sum(7, &flipped));
        }
    }
}
