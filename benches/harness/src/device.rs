//! Devices of any size whose every block is different and known, and orders to read them in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};

/// A good mixing of 64 bits (splitmix64).
#[must_use]
pub const fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A source in memory: reading it is one `memcpy`.
///
/// A device that is larger than its pool repeats it, with the lba stamped over the first eight bytes of each block, so
/// that a block in the wrong place is seen.
#[derive(Clone, Debug)]
pub struct Device {
    pool: Arc<Vec<u8>>,
    block_size: usize,
    blocks: u64,
    calls: Arc<AtomicU64>,
    blocks_read: Arc<AtomicU64>,
}

impl Device {
    /// `blocks` blocks of `block_size` bytes, of which up to `pool_bytes` are held in memory.
    #[must_use]
    pub fn new(block_size: usize, blocks: u64, pool_bytes: usize) -> Self {
        let pool_blocks = (pool_bytes / block_size).clamp(1, blocks as usize);
        let mut pool = vec![0; pool_blocks * block_size];
        for (index, word) in (0..).zip(pool.chunks_exact_mut(8)) {
            word.copy_from_slice(&mix(index).to_le_bytes());
        }
        let device = Self {
            pool: Arc::new(Vec::new()),
            block_size,
            blocks,
            calls: Arc::default(),
            blocks_read: Arc::default(),
        };
        for (lba, block) in (0..).zip(pool.chunks_exact_mut(block_size)) {
            stamp(lba, block);
        }
        Self {
            pool: Arc::new(pool),
            ..device
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_len(&self) -> usize {
        self.block_size
    }

    /// How many blocks there are.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Reads, without a future.
    pub fn copy_to(&self, lba: u64, buf: &mut [u8]) {
        let pool_blocks = (self.pool.len() / self.block_size) as u64;
        let mut at = lba % pool_blocks;
        let mut rest = &mut *buf;
        while !rest.is_empty() {
            let offset = at as usize * self.block_size;
            let count = rest.len().min(self.pool.len() - offset);
            let (front, behind) = rest.split_at_mut(count);
            front.copy_from_slice(&self.pool[offset..offset + count]);
            rest = behind;
            at = 0;
        }
        if pool_blocks < self.blocks {
            for (lba, block) in (lba..).zip(buf.chunks_exact_mut(self.block_size)) {
                stamp(lba, block);
            }
        }
    }

    /// Panics where `buf` is not what the device holds from `lba` on.
    pub fn check(&self, lba: u64, buf: &[u8]) {
        let pool_blocks = (self.pool.len() / self.block_size) as u64;
        for (lba, block) in (lba..).zip(buf.chunks_exact(self.block_size)) {
            let offset = (lba % pool_blocks) as usize * self.block_size;
            let known = &self.pool[offset..offset + self.block_size];
            let right = block[..8] == lba.to_le_bytes() && block[8..] == known[8..];
            assert!(right, "block {lba} holds the wrong bytes");
        }
    }

    /// Calls of `read_blocks` and blocks read since this was last asked.
    #[must_use]
    pub fn take_counts(&self) -> (u64, u64) {
        (
            self.calls.swap(0, Relaxed),
            self.blocks_read.swap(0, Relaxed),
        )
    }
}

fn stamp(lba: u64, block: &mut [u8]) {
    block[..8].copy_from_slice(&lba.to_le_bytes());
}

#[async_trait]
impl BlockReader for Device {
    fn block_size(&self) -> u32 {
        self.block_size as u32
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(self.blocks)
    }

    fn write_identity(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        out.write_str("bench device")
    }

    async fn read_blocks(&self, lba: u64, buf: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        self.calls.fetch_add(1, Relaxed);
        self.blocks_read
            .fetch_add((buf.len() / self.block_size) as u64, Relaxed);
        self.copy_to(lba, buf);
        Ok(buf.len())
    }
}

/// The same pseudorandom order of `count` numbers every time, to be gone round.
#[derive(Clone, Debug)]
pub struct Order {
    numbers: Vec<u64>,
    next: usize,
}

impl Order {
    /// All numbers below `count`, each once, shuffled.
    #[must_use]
    pub fn shuffled(count: u64) -> Self {
        Self::shuffle((0..count).collect())
    }

    /// These numbers, shuffled.
    #[must_use]
    pub fn shuffle(mut numbers: Vec<u64>) -> Self {
        for last in (1..numbers.len()).rev() {
            let other = mix(last as u64) % (last as u64 + 1);
            numbers.swap(last, other as usize);
        }
        Self { numbers, next: 0 }
    }

    /// These numbers as they are.
    #[must_use]
    pub const fn in_sequence(numbers: Vec<u64>) -> Self {
        Self { numbers, next: 0 }
    }

    /// The next number; the first again after the last.
    pub fn step(&mut self) -> u64 {
        let number = self.numbers[self.next];
        self.next += 1;
        if self.next == self.numbers.len() {
            self.next = 0;
        }
        number
    }

    /// All numbers in their order.
    #[must_use]
    pub fn numbers(&self) -> &[u64] {
        &self.numbers
    }
}
