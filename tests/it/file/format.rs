//! The bytes of a file of ours. What is expected here is written from the specification in the format module's
//! documentation, not from its code; the literal figures come from another implementation of XXH3.

use crate::support::files::{hex, identity};
use crate::support::{Backend, finish, read};
use async_trait::async_trait;
use core::fmt;
use gibblox_cache::CachedBlockReader;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// A source whose bytes can be told by looking: byte b of block i is i × block size + b, cut off at a byte.
#[derive(Clone, Debug)]
struct Counting {
    block_size: u32,
    blocks: u64,
    identity: String,
}

impl Counting {
    fn new(block_size: u32, blocks: u64, identity: &str) -> Self {
        Self {
            block_size,
            blocks,
            identity: identity.to_owned(),
        }
    }

    fn bytes(&self, lba: u64, len: usize) -> Vec<u8> {
        let start = lba * u64::from(self.block_size);
        (start..).take(len).map(|byte| byte as u8).collect()
    }

    /// The file after these runs were cached.
    fn file(&self, runs: &[(u64, u64)]) -> Vec<u8> {
        let backend = Backend::new();
        let reader =
            finish(CachedBlockReader::new(self.clone(), Arc::clone(&backend))).expect("opens");
        for &(lba, blocks) in runs {
            finish(read(&reader, lba, blocks)).expect("reads");
        }
        backend.bytes()
    }
}

#[async_trait]
impl BlockReader for Counting {
    fn block_size(&self) -> u32 {
        self.block_size
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(self.blocks)
    }

    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(&self.identity)
    }

    async fn read_blocks(&self, lba: u64, buf: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        buf.copy_from_slice(&self.bytes(lba, buf.len()));
        Ok(buf.len())
    }
}

/// 16 bytes a block, 10 blocks: small enough to be written out.
fn golden() -> Counting {
    Counting::new(16, 10, "golden")
}

/// The header of [`golden`], field by field.
const GOLDEN_HEADER: &str = concat!(
    "474942424c5821",                 // GIBBLX!
    "02",                             // version
    "01",                             // checksums: XXH3
    "71adba",                         // header check
    "10000000",                       // block size
    "0a00000000000000",               // number of blocks
    "0f000000",                       // length of the identity
    "6361636865643a28676f6c64656e29", // cached:(golden)
);

#[test]
fn a_fresh_file_is_a_header_and_zeros() {
    let file = golden().file(&[]);
    assert_eq!(hex(&file[..43]), GOLDEN_HEADER);
    assert_eq!(file[43..], [0; 2 + 10 * 16 + 10 * 8]);
}

#[test]
fn a_cached_block_adds_its_bit_its_bytes_and_its_checksum() {
    let file = golden().file(&[(9, 1)]);
    assert_eq!(hex(&file[..43]), GOLDEN_HEADER);
    assert_eq!(hex(&file[43..45]), "0002");
    assert_eq!(file[45..45 + 9 * 16], [0; 9 * 16]);
    assert_eq!(hex(&file[189..205]), "909192939495969798999a9b9c9d9e9f");
    assert_eq!(file[205..205 + 9 * 8], [0; 9 * 8]);
    assert_eq!(hex(&file[277..]), "7abbc1a8db386c7c");
}

#[test]
fn each_cached_block_has_a_checksum_of_its_own() {
    let file = golden().file(&[(9, 1), (0, 2)]);
    assert_eq!(hex(&file[43..45]), "0302");
    assert_eq!(hex(&file[205..221]), "e26adc5e650a12037be2fcd26e2aa25c");
    assert_eq!(hex(&file[277..]), "7abbc1a8db386c7c");
}

#[test]
fn a_header_check_of_zero_is_written_as_one() {
    // Found by trying: the low 24 bits of this header's hash are zeros, which would say that there is no check.
    let source = Counting::new(16, 10, "check-005ab9f1");
    let file = source.file(&[]);
    assert_eq!(
        xxh3_64(&[&file[..9], &file[12..51]].concat()) & 0xFF_FFFF,
        0
    );
    assert_eq!(hex(&file[8..12]), "01010000");
    let reader = finish(CachedBlockReader::new(
        source.clone(),
        Backend::with_bytes(source.file(&[(0, 10)])),
    ));
    assert_eq!(finish(reader.expect("opens").get_stats()).cached_blocks, 10);
}

/// The file that the specification describes.
fn specified(source: &Counting, cached: &[u64]) -> Vec<u8> {
    let identity = format!("cached:({})", source.identity);
    let mut front = b"GIBBLX!".to_vec();
    front.extend([2, 1]);
    let mut behind = source.block_size.to_le_bytes().to_vec();
    behind.extend(source.blocks.to_le_bytes());
    behind.extend((identity.len() as u32).to_le_bytes());
    behind.extend(identity.as_bytes());
    let check = xxh3_64(&[front.as_slice(), &behind].concat()).to_le_bytes();
    let header = [front.as_slice(), &check[..3], &behind].concat();

    let size = source.block_size as usize;
    let mut bitmap = vec![0; source.blocks.div_ceil(8) as usize];
    let mut data = vec![0; source.blocks as usize * size];
    let mut checksums = vec![0; source.blocks as usize * 8];
    let seed = xxh3_64(identity.as_bytes());
    for &lba in cached {
        let index = lba as usize;
        let block = source.bytes(lba, size);
        let checksum = xxh3_64(&block) ^ xxh3_64_with_seed(&lba.to_le_bytes(), seed);
        bitmap[index / 8] |= 1 << (index % 8);
        data[index * size..][..size].copy_from_slice(&block);
        checksums[index * 8..][..8].copy_from_slice(&checksum.to_le_bytes());
    }
    [header, bitmap, data, checksums].concat()
}

#[test]
fn files_of_any_shape_are_as_specified() {
    let identities = ["", "x", "ümläute ✓", &identity(700, "long")];
    for text in identities {
        for size in [16, 512, 4096] {
            for blocks in [1, 7, 8, 9, 64, 65] {
                let source = Counting::new(size, blocks, text);
                let all: Vec<u64> = (0..blocks).collect();
                assert_eq!(source.file(&[]), specified(&source, &[]));
                assert_eq!(source.file(&[(0, blocks)]), specified(&source, &all));
                assert_eq!(
                    source.file(&[(blocks - 1, 1)]),
                    specified(&source, &all[blocks as usize - 1..])
                );
                let odd: Vec<u64> = (1..blocks).step_by(2).collect();
                let runs: Vec<(u64, u64)> = odd.iter().map(|lba| (*lba, 1)).collect();
                assert_eq!(source.file(&runs), specified(&source, &odd));
            }
        }
    }
}
