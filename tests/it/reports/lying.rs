//! A backend whose write is `Ok` and stored nothing, as one that takes the code of an error for a count.

use super::{Findings, today};
use crate::support::{Source, finish, read};
use async_trait::async_trait;
use core::sync::atomic::{AtomicUsize, Ordering};
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, MemoryCacheOps, VerifyPolicy};
use gibblox_core::GibbloxResult;
use std::sync::Arc;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 16;

/// Which writes of more than a header store nothing.
#[derive(Clone, Copy, Debug)]
enum Lies {
    All,
    From(usize),
    Only(usize),
    /// Those that begin from this byte on, as on a full disk.
    Behind(u64),
}

/// A backend that lies once it is open.
struct Liar {
    memory: MemoryCacheOps,
    lies: Lies,
    writes: AtomicUsize,
}

impl Liar {
    fn is_lie(&self, offset: u64) -> bool {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        match self.lies {
            Lies::All => true,
            Lies::From(first) => number >= first,
            Lies::Only(only) => number == only,
            Lies::Behind(end) => offset >= end,
        }
    }
}

#[async_trait]
impl CacheOps for Liar {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.memory.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        if self.is_lie(offset) {
            return Ok(());
        }
        self.memory.write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.memory.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.memory.flush().await
    }
}

fn all_lies() -> Vec<Lies> {
    let mut lies = vec![Lies::All];
    lies.extend((0..12).flat_map(|number| [Lies::From(number), Lies::Only(number)]));
    lies.extend([0, 28, 60, 200, 600, 1100].map(Lies::Behind));
    lies
}

/// Reads everything twice; in how many blocks the bytes were wrong.
fn wrong_blocks(lies: Lies, config: CacheConfig, blocks_a_read: u64) -> usize {
    let source = Source::new(2, BLOCK, BLOCKS);
    let backend = Arc::new(Liar {
        memory: MemoryCacheOps::new(),
        lies,
        writes: AtomicUsize::new(0),
    });
    let mut wrong = 0;
    // The second process finds what the first one left.
    for _ in 0..2 {
        let opening = CachedBlockReader::open(Arc::clone(&source), Arc::clone(&backend), config);
        let reader = finish(opening).expect("a well source");
        for _ in 0..3 {
            for lba in (0..BLOCKS).step_by(blocks_a_read as usize) {
                let bytes = finish(read(&reader, lba, blocks_a_read)).expect("a well source");
                let right = source.bytes(lba, blocks_a_read);
                let blocks = bytes
                    .chunks(BLOCK as usize)
                    .zip(right.chunks(BLOCK as usize));
                wrong += blocks.filter(|(got, want)| got != want).count();
            }
        }
    }
    wrong
}

fn check(config: CacheConfig) {
    let mut findings = Findings::default();
    for lies in all_lies() {
        for blocks_a_read in [1, 4, BLOCKS] {
            let wrong = wrong_blocks(lies, config, blocks_a_read);
            findings.check(wrong == 0, || {
                format!("{lies:?}, {blocks_a_read} blocks a read: {wrong} blocks are wrong")
            });
        }
    }
    findings.end();
}

#[test]
fn comparing_on_every_read_serves_right_bytes_whatever_writes_stored_nothing() {
    check(CacheConfig::new().with_verify(VerifyPolicy::OnEveryRead));
}

#[test]
fn comparing_after_storing_serves_right_bytes_whatever_writes_stored_nothing() {
    check(today::with_compared_after_storing(CacheConfig::new()));
}
