//! Cache files: made by either crate, and judged.

use super::published::{open_published, read_published};
use super::{Backend, Source, cache_blocks, check_read, finish, open};
use core::fmt::Write;
use std::sync::Arc;
use std::thread;

/// A file of ours in which these blocks are cached.
pub(crate) fn file_of_ours(source: &Arc<Source>, blocks: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let backend = Backend::new();
    cache_blocks(&open(source, &backend), source, blocks);
    backend.bytes()
}

/// A file of the published crate in which these blocks are cached.
pub(crate) fn file_of_published(
    source: &Arc<Source>,
    blocks: impl IntoIterator<Item = u64>,
) -> Vec<u8> {
    let backend = Backend::new();
    finish(async {
        let reader = open_published(source, Arc::clone(&backend), 64)
            .await
            .expect("opens");
        for lba in blocks {
            read_published(&reader, lba, 1).await.expect("reads");
        }
    });
    backend.bytes()
}

/// Opens `file` over `source` and reads every block, twice, and once more in another process.
#[track_caller]
pub(crate) fn check_file(file: &[u8], source: &Arc<Source>) {
    let _dump = Dump(file);
    let backend = Backend::with_bytes(file.to_vec());
    let reader = open(source, &backend);
    for lba in 0..source.blocks() {
        check_read(&reader, source, lba, 1);
    }
    source.forget();
    check_read(&reader, source, 0, source.blocks());
    assert_eq!(source.reads(), [], "the first pass healed the cache");
    drop(reader);
    check_read(&open(source, &backend), source, 0, source.blocks());
    assert_eq!(source.reads(), [], "a clean exit loses nothing");
}

/// Shows the file on the way out of a panic: its first rows that are not all zeros.
struct Dump<'a>(&'a [u8]);

impl Drop for Dump<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the file, {} bytes:", self.0.len());
            let rows = self.0.chunks(32).enumerate();
            let written = rows.filter(|(_, row)| row.iter().any(|byte| *byte != 0));
            for (index, row) in written.take(64) {
                eprintln!("{:6}: {}", index * 32, hex(row));
            }
        }
    }
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

/// An identity of this length that says only at its end whose it is.
pub(crate) fn identity(len: usize, owner: &str) -> String {
    format!("{}{owner}", "i".repeat(len - owner.len()))
}

/// What the header of a file of `source` says of its regions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Regions {
    pub(crate) bitmap: usize,
    pub(crate) data: usize,
    pub(crate) checksums: usize,
    pub(crate) end: usize,
}

impl Regions {
    /// By the specification of the format.
    pub(crate) fn of(source: &Arc<Source>) -> Self {
        let blocks = source.blocks() as usize;
        let bitmap = 28 + gibblox_cache::cached_reader_identity_string(source).len();
        let data = bitmap + blocks.div_ceil(8);
        let checksums = data + source.bytes(0, source.blocks()).len();
        let end = checksums + 8 * blocks;
        Self {
            bitmap,
            data,
            checksums,
            end,
        }
    }
}
