//! How many fetches are under way at once, over all readers, and who is next.

use super::Findings;
use crate::support::source::Call;
use crate::support::{Backend, Poller, Reader, Source, finish, open_with, read};
use gibblox_cache::CacheConfig;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext, ReadPriority};
use std::sync::Arc;

const BLOCK: u32 = 16;

/// A device whose every second block is cached, so that each read of some blocks has holes.
fn with_holes(blocks: u64, fetches_at_once: u32) -> (Arc<Source>, Reader) {
    let (source, backend) = (Source::new(7, BLOCK, blocks), Backend::new());
    let config = CacheConfig::new().with_fetches_at_once(fetches_at_once);
    let reader = open_with(&source, &backend, config);
    for lba in (1..blocks).step_by(2) {
        finish(read(&reader, lba, 1)).expect("a well source");
    }
    source.forget();
    (source, reader)
}

async fn read_as(
    reader: &Reader,
    lba: u64,
    blocks: u64,
    ctx: ReadContext,
) -> GibbloxResult<Vec<u8>> {
    let mut buf = vec![0xC3; (blocks * u64::from(BLOCK)) as usize];
    reader.read_blocks(lba, &mut buf, ctx).await?;
    Ok(buf)
}

#[test]
fn a_reader_that_is_dropped_gives_its_places_back() {
    for most in [1, 2, 4] {
        for dropped in 0..6 {
            let (source, reader) = with_holes(64, most);
            source.gate.shut();
            let mut poller = Poller::new();
            let tasks: Vec<_> = (0..8)
                .map(|index| poller.spawn(read(&reader, index * 8, 8)))
                .collect();
            poller.run();
            for task in &tasks[..=dropped] {
                poller.cancel(*task);
            }
            poller.run();
            source.gate.once();
            source.gate.release_all();
            poller.run_to_end();
            for (index, task) in (0..).zip(&tasks).skip(dropped + 1) {
                source.assert_bytes(index * 8, &poller.take(*task).expect("well"));
            }
        }
    }
}

#[test]
fn readers_that_follow_each_other_under_a_limit_all_end() {
    // Each leads what another follows: a reader that waits for a place must hold nothing that the place waits for.
    for most in [1, 2, 3] {
        let (source, reader) = with_holes(48, most);
        source.gate.shut();
        let mut poller = Poller::new();
        let ranges: Vec<(u64, u64)> = (0..30).map(|n| (n * 13 % 40, 2 + n % 7)).collect();
        let tasks: Vec<_> = ranges
            .iter()
            .map(|(lba, blocks)| poller.spawn(read(&reader, *lba, *blocks)))
            .collect();
        poller.run();
        while let Some((ticket, _)) = source.gate.held().pop() {
            source.gate.release(ticket);
            poller.run();
        }
        poller.run_to_end();
        for ((lba, _), task) in ranges.iter().zip(tasks) {
            source.assert_bytes(*lba, &poller.take(task).expect("a well source"));
        }
        let twice = source
            .fetches()
            .into_iter()
            .filter(|count| *count > 1)
            .count();
        assert_eq!(twice, 0, "blocks that were fetched twice");
        let calls: Vec<Call> = source.calls();
        assert!(!calls.is_empty());
    }
}
