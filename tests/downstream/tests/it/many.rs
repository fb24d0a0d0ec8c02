//! A thousand readers of one cache, on all threads there are.

use std::sync::Arc;

use gibblox_cache_downstream::open;
use gibblox_core::ReadContext;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::image::{Random, image, read_all_right, read_right};
use crate::program::folder;
use crate::server::{PROBE, Server, bytes_of};

const READERS: usize = 1000;

/// So few that they meet all the time, and that their fetches at once stay below the limit of open files.
const BLOCKS: u64 = 256;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_readers_at_once_fetch_each_block_once() {
    let image = image(16, 4096 * 256);
    let server = Server::start(image.clone());
    let folder = folder();
    let reader = Arc::new(open(&server.url(), folder.path()).await.unwrap());
    assert_eq!(server.take_asked(), [PROBE]);

    let start = Arc::new(Barrier::new(READERS));
    let mut readers = JoinSet::new();
    for seed in (0..).take(READERS) {
        let (reader, image, start) = (Arc::clone(&reader), image.clone(), Arc::clone(&start));
        readers.spawn(async move {
            let mut random = Random(seed);
            start.wait().await;
            for _ in 0..10 {
                let lba = random.below(BLOCKS);
                let blocks = 1 + random.below((BLOCKS - lba).min(24));
                if random.below(10) == 0 {
                    let ensured = reader.ensure_cached(lba, blocks, ReadContext::READAHEAD);
                    ensured.await.unwrap();
                }
                read_right(&*reader, &image, lba, blocks).await;
            }
        });
    }
    while let Some(read) = readers.join_next().await {
        read.unwrap();
    }

    let mut asked = server.take_asked();
    asked.sort_by_key(|range| range.start);
    for pair in asked.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{pair:?} overlap");
    }
    let stats = reader.get_stats().await;
    assert_eq!(stats.cached_blocks, BLOCKS);
    assert_eq!(bytes_of(&asked), BLOCKS * 4096);
    let counters = reader.counters();
    assert_eq!(counters.backend_failures(), 0, "{counters:?}");
    assert_eq!(counters.checksum_mismatched_blocks, 0, "{counters:?}");
    assert_eq!(counters.fetched_blocks, BLOCKS, "{counters:?}");
    read_all_right(&*reader, &image, BLOCKS).await;
    assert_eq!(server.take_asked(), []);
}
