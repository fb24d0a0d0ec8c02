//! What is served, and the comparison of everything that is read with it.

use std::path::Path;
use std::sync::Arc;

use gibblox_cache_downstream::BLOCK_SIZE;
use gibblox_core::{BlockReader, ReadContext};

/// An image in memory.
pub(crate) type Image = Arc<Vec<u8>>;

/// Numbers that look random and are the same each time: splitmix64.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// `len` bytes of which no two blocks are alike.
pub(crate) fn image(seed: u64, len: usize) -> Image {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(len);
    Arc::new(bytes)
}

/// The bytes of `blocks` blocks from `lba` on. Behind the end of the image the last block has zeros.
pub(crate) fn blocks_of(image: &[u8], lba: u64, blocks: u64) -> Vec<u8> {
    let block = usize::try_from(BLOCK_SIZE).unwrap();
    let start = usize::try_from(lba).unwrap() * block;
    let len = usize::try_from(blocks).unwrap() * block;
    let end = image.len().min(start + len);
    let mut bytes = image[start..end].to_vec();
    bytes.resize(len, 0);
    bytes
}

/// How many blocks it takes to hold `image`.
pub(crate) fn blocks_in(image: &[u8]) -> u64 {
    u64::try_from(image.len())
        .unwrap()
        .div_ceil(BLOCK_SIZE.into())
}

/// Reads `blocks` blocks from `lba` on; they must be those of `image`.
#[track_caller]
pub(crate) fn read_right(
    reader: &(impl BlockReader + ?Sized),
    image: &[u8],
    lba: u64,
    blocks: u64,
) -> impl Future<Output = ()> + Send {
    let expected = blocks_of(image, lba, blocks);
    async move {
        let mut buf = vec![0xa5; expected.len()];
        let read = reader
            .read_blocks(lba, &mut buf, ReadContext::FOREGROUND)
            .await;
        assert_eq!(read.unwrap(), buf.len());
        assert!(buf == expected, "wrong bytes in {blocks} blocks from {lba}");
    }
}

/// Reads all of `reader`, `at_once` blocks at a time; it must be `image`.
pub(crate) async fn read_all_right(
    reader: &(impl BlockReader + ?Sized),
    image: &[u8],
    at_once: u64,
) {
    let total = blocks_in(image);
    assert_eq!(reader.total_blocks().await.unwrap(), total);
    let mut lba = 0;
    while lba < total {
        let blocks = at_once.min(total - lba);
        read_right(reader, image, lba, blocks).await;
        lba += blocks;
    }
}

/// The file at `path` must be `image`, with zeros up to the end of the last block of `block_size` bytes.
#[track_caller]
pub(crate) fn assert_file_is(path: &Path, image: &[u8], block_size: usize) {
    let found = std::fs::read(path).unwrap();
    let mut expected = image.to_vec();
    expected.resize(image.len().next_multiple_of(block_size), 0);
    assert!(found == expected, "wrong bytes in {}", path.display());
}

/// Bytes in front of the partition of the served disk: a sector with the partition table, and room.
const BEFORE_PARTITION: usize = 64 << 10;

/// A disk with `partition` as its first one.
pub(crate) fn disk_with(partition: &[u8]) -> Vec<u8> {
    let sectors = |bytes: usize| u32::try_from(bytes / 512).unwrap().to_le_bytes();
    let mut disk = vec![0; BEFORE_PARTITION];
    disk[446 + 4] = 0x83;
    disk[446 + 8..][..4].copy_from_slice(&sectors(BEFORE_PARTITION));
    disk[446 + 12..][..4].copy_from_slice(&sectors(partition.len()));
    disk[510..][..2].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(partition);
    disk
}
