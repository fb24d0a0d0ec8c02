//! Processes that use a cache until the power goes: this crate's, and the published one's.

use crate::support::powercut::PowerCut;
use crate::support::published::{open_published, read_published};
use crate::support::{Source, read};
use gibblox_cache::{CacheConfig, CachedBlockReader};
use gibblox_core::ReadContext;
use std::sync::Arc;

/// One thing that a process does with its cache.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Read(u64, u64),
    Ensure(u64, u64),
    Flush,
    Scrub,
    Reopen,
}

use Act::{Ensure, Flush, Read, Reopen, Scrub};

/// Opens, does `acts`, and is gone, all without an error, but for what asks a sick medium to be done.
pub(crate) async fn run(
    disk: &Arc<PowerCut>,
    source: &Arc<Source>,
    flush_every: u32,
    acts: &[Act],
) {
    let config = CacheConfig::new().with_flush_every_blocks(flush_every);
    let open = || CachedBlockReader::open(Arc::clone(source), Arc::clone(disk), config);
    let mut reader = open().await.expect("opens");
    for stay in acts.split_inclusive(|act| matches!(act, Reopen)) {
        work(disk, &reader, source, stay).await;
        if let Some(Reopen) = stay.last() {
            drop(reader);
            reader = open().await.expect("opens again");
        }
    }
}

/// What one task of a process does. Reads succeed, whatever the medium does.
pub(crate) async fn work(
    disk: &PowerCut,
    reader: &CachedBlockReader<Arc<Source>, Arc<PowerCut>>,
    source: &Source,
    acts: &[Act],
) {
    for act in acts {
        match *act {
            Read(lba, blocks) => {
                source.assert_bytes(lba, &read(reader, lba, blocks).await.expect("reads"));
            }
            Ensure(lba, blocks) => {
                let cached = reader
                    .ensure_cached(lba, blocks, ReadContext::BACKGROUND)
                    .await;
                assert!(cached.is_ok() || disk.is_sick(), "caches: {cached:?}");
            }
            Flush => {
                let flushed = reader.flush_cache().await;
                assert!(flushed.is_ok() || disk.is_sick(), "flushes: {flushed:?}");
            }
            Scrub => {
                let scrubbed = reader.scrub().await;
                assert!(scrubbed.is_ok() || disk.is_sick(), "scrubs: {scrubbed:?}");
            }
            Reopen => {}
        }
    }
}

/// The same run by the published crate, which cannot scrub.
pub(crate) async fn run_published(
    disk: &Arc<PowerCut>,
    source: &Arc<Source>,
    flush_every: u32,
    acts: &[Act],
) {
    let open = || open_published(source, Arc::clone(disk), flush_every);
    let mut reader = open().await.expect("opens");
    for act in acts {
        match *act {
            Read(lba, blocks) => {
                source.assert_bytes(
                    lba,
                    &read_published(&reader, lba, blocks).await.expect("reads"),
                );
            }
            Ensure(lba, blocks) => {
                let cached = reader
                    .ensure_cached(lba, blocks, ReadContext::BACKGROUND)
                    .await;
                cached.expect("caches");
            }
            Flush => reader.flush_cache().await.expect("flushes"),
            Scrub => {}
            Reopen => {
                drop(reader);
                reader = open().await.expect("opens again");
            }
        }
    }
}
