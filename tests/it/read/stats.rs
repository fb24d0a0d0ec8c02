//! What is counted, and what is not.

use crate::support::backend;
use crate::support::{
    Backend, Immediate, Oracle, Poller, Source, cache_blocks, check_read, finish, for_seeds, open,
    open_with, read,
};
use gibblox_cache::{CacheConfig, CacheOps, CacheStats, CachedBlockReader, VerifyPolicy};
use gibblox_core::{BlockReader, ReadContext};
use std::sync::Arc;

const BLOCK: u32 = 16;

fn stats(hits: u64, misses: u64, cached: u64, total: u64) -> CacheStats {
    CacheStats {
        total_hits: hits,
        total_misses: misses,
        cached_blocks: cached,
        total_blocks: total,
    }
}

#[test]
#[allow(clippy::float_cmp, reason = "these quotients are exact")]
fn rates_are_percent_and_zero_where_there_is_nothing_to_divide_by() {
    assert_eq!(stats(0, 0, 0, 0).hit_rate(), 0.0);
    assert_eq!(stats(0, 0, 0, 0).fill_rate(), 0.0);
    assert_eq!(stats(3, 1, 0, 8).hit_rate(), 75.0);
    assert_eq!(stats(0, 9, 2, 8).hit_rate(), 0.0);
    assert_eq!(stats(9, 0, 2, 8).hit_rate(), 100.0);
    assert_eq!(stats(0, 9, 2, 8).fill_rate(), 25.0);
    assert_eq!(stats(0, 9, 8, 8).fill_rate(), 100.0);
}

#[test]
fn hits_and_misses_are_the_blocks_that_were_asked_for() {
    for_seeds(100, |rng| {
        let (source, backend) = (Source::new(6, BLOCK, 40), Backend::new());
        let reader = open(&source, &backend);
        let mut oracle = Oracle::new();
        for _ in 0..20 {
            let (lba, blocks) = rng.run(40, 10);
            if rng.chance(30) {
                finish(reader.ensure_cached(lba, blocks, ReadContext::BACKGROUND)).unwrap();
                oracle.cache(lba, blocks);
            } else {
                oracle.read(lba, blocks);
                check_read(&reader, &source, lba, blocks);
            }
            let stats = finish(reader.get_stats());
            assert_eq!(stats.total_hits, oracle.hits());
            assert_eq!(stats.total_misses, oracle.misses());
            assert_eq!(stats.cached_blocks, oracle.cached());
            assert_eq!(stats.total_blocks, 40);
        }
    });
}

#[test]
fn a_prefetch_counts_neither_hits_nor_misses() {
    let (source, backend) = (Source::new(6, BLOCK, 8), Backend::new());
    let reader = open(&source, &backend);
    for _ in 0..2 {
        finish(reader.ensure_cached(0, 8, ReadContext::BACKGROUND)).unwrap();
        let stats = finish(reader.get_stats());
        assert_eq!((stats.total_hits, stats.total_misses), (0, 0));
        assert_eq!(stats.cached_blocks, 8);
    }
}

#[test]
fn refused_reads_are_not_counted() {
    let (source, backend) = (Source::new(6, BLOCK, 8), Backend::new());
    let reader = open(&source, &backend);
    let mut buf = [0; 24];
    for (lba, len) in [(0, 24), (8, 16), (u64::MAX, 16), (0, 0)] {
        let _refused = finish(reader.read_blocks(lba, &mut buf[..len], ReadContext::FOREGROUND));
    }
    let stats = finish(reader.get_stats());
    assert_eq!((stats.total_hits, stats.total_misses), (0, 0));
}

#[test]
fn a_follower_that_takes_over_is_counted_once() {
    let (source, backend) = (Source::new(6, BLOCK, 8), Backend::new());
    let reader = open(&source, &backend);
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(read(&reader, 0, 4));
    poller.run();
    poller.spawn(read(&reader, 0, 4));
    poller.run();
    poller.cancel(leader);
    poller.run();
    source.gate.open();
    poller.run_to_end();
    let stats = finish(reader.get_stats());
    assert_eq!((stats.total_hits, stats.total_misses), (0, 8));
}

#[test]
fn a_failed_read_is_counted_by_what_was_valid_when_it_looked() {
    let (source, backend) = (Source::new(6, BLOCK, 8), Backend::new());
    let reader = open(&source, &backend);
    cache_blocks(&reader, &source, [0, 1]);
    source.fail_block(3, "bad");
    assert!(finish(read(&reader, 0, 8)).is_err());
    let stats = finish(reader.get_stats());
    assert_eq!((stats.total_hits, stats.total_misses), (2, 2 + 6));
}

/// Asks for two blocks that are cached, and does `meanwhile` before the read is polled. Hits, misses and backend reads of
/// the read alone.
fn polled_after<C: CacheOps>(
    reader: &CachedBlockReader<Arc<Source>, C>,
    source: &Source,
    meanwhile: impl FnOnce(),
) -> (u64, u64, u64) {
    check_read(reader, source, 0, 8);
    let mut buf = [0; 2 * BLOCK as usize];
    let late = reader.read_blocks(2, &mut buf, ReadContext::FOREGROUND);
    meanwhile();
    let (before, reads) = (finish(reader.get_stats()), reader.counters());
    finish(late).unwrap();
    source.assert_bytes(2, &buf);
    let after = finish(reader.get_stats());
    (
        after.total_hits - before.total_hits,
        after.total_misses - before.total_misses,
        reader.counters().since(&reads).backend_reads,
    )
}

fn late_reads_are_counted_by_what_is_so_when_they_are_polled<C: CacheOps>(
    cache: C,
    flush: &Backend,
) {
    let source = Source::new(6, BLOCK, 16);
    let reader = finish(CachedBlockReader::new(Arc::clone(&source), cache)).unwrap();
    let drop_block = |lba| finish(reader.invalidate(lba, 1)).unwrap();
    assert_eq!(polled_after(&reader, &source, || ()), (2, 0, 1));
    let elsewhere = polled_after(&reader, &source, || drop_block(7));
    assert_eq!(elsewhere, (2, 0, 1), "still a plain hit");
    let dropped = polled_after(&reader, &source, || drop_block(3));
    assert_eq!(dropped, (1, 1, 1), "it is fetched");
    let distrusted = polled_after(&reader, &source, || {
        flush.fail_all(backend::Op::Flush);
        assert!(finish(reader.flush_cache()).is_err());
        flush.heal();
    });
    assert_eq!(distrusted, (2, 0, 2), "compared with the checksums");

    let before = finish(reader.get_stats());
    let mut buf = [0; BLOCK as usize];
    drop(reader.read_blocks(2, &mut buf, ReadContext::FOREGROUND));
    drop(reader.read_blocks(12, &mut buf, ReadContext::FOREGROUND));
    let after = finish(reader.get_stats());
    assert_eq!(
        before.total_hits, after.total_hits,
        "never polled, never asked"
    );
    assert_eq!(before.total_misses, after.total_misses);
}

#[test]
fn a_read_that_is_polled_late_is_counted_by_what_is_so_then() {
    let backend = Backend::new();
    late_reads_are_counted_by_what_is_so_when_they_are_polled(Arc::clone(&backend), &backend);
    let backend = Backend::new();
    let at_once = Immediate(Arc::clone(&backend));
    late_reads_are_counted_by_what_is_so_when_they_are_polled(at_once, &backend);
}

#[test]
fn a_hit_that_turns_out_to_be_corrupt_was_a_hit_when_it_looked() {
    let (source, backend) = (Source::new(6, BLOCK, 8), Backend::new());
    let config = CacheConfig::new().with_verify(VerifyPolicy::OnEveryRead);
    let reader = open_with(&source, &backend, config);
    check_read(&reader, &source, 0, 8);
    damage(&source, &backend, 5);
    check_read(&reader, &source, 4, 4);
    let stats = finish(reader.get_stats());
    assert_eq!((stats.total_hits, stats.total_misses), (4, 8));
    assert_eq!(stats.cached_blocks, 8, "it was fetched and stored again");
    assert_eq!(reader.counters().checksum_mismatched_blocks, 1);
}

/// Flips a bit of a cached block.
fn damage(source: &Source, backend: &Backend, lba: u64) {
    let block = source.bytes(lba, 1);
    backend.edit(|bytes| {
        let at = bytes
            .windows(block.len())
            .position(|window| window == block);
        bytes[at.expect("the block is stored")] ^= 1;
    });
}

#[test]
fn a_scrub_reports_what_it_saw_and_drops_what_is_damaged() {
    let (source, backend) = (Source::new(6, BLOCK, 16), Backend::new());
    let config = CacheConfig::new().with_window_bytes(3 * BLOCK);
    let reader = open_with(&source, &backend, config);
    for (lba, blocks) in [(0, 6), (8, 7)] {
        check_read(&reader, &source, lba, blocks);
    }
    for lba in [1, 4, 12] {
        damage(&source, &backend, lba);
    }
    let mut seen = Vec::new();
    let report = finish(reader.scrub_with_progress(|progress| seen.push(*progress))).unwrap();
    assert_eq!(report.scanned_blocks, 13);
    assert_eq!(report.intact_blocks, 10);
    assert_eq!(report.dropped_blocks, 3);
    assert_eq!(report.unchecked_blocks, 0);
    assert_eq!(seen.last(), Some(&report), "the last word is the report");
    let counts: Vec<_> = seen.iter().map(|seen| seen.scanned_blocks).collect();
    assert!(counts.is_sorted() && counts.len() >= 5, "{counts:?}");
    assert_eq!(finish(reader.get_stats()).cached_blocks, 10);
    source.forget();
    check_read(&reader, &source, 0, 6);
    check_read(&reader, &source, 8, 7);
    let mut fetched = source.reads();
    fetched.sort_unstable();
    assert_eq!(fetched, [(1, 1), (4, 1), (12, 1)]);
}

#[test]
fn what_fails_underneath_is_counted() {
    let (source, backend) = (Source::new(6, BLOCK, 8), Backend::new());
    let config = CacheConfig::new().with_flush_every_blocks(4);
    let reader = open_with(&source, &backend, config);
    check_read(&reader, &source, 0, 2);

    backend.forget();
    backend.fail_all(backend::Op::Read);
    check_read(&reader, &source, 0, 2);
    let failed = backend.count(backend::Op::Read) as u64;
    assert!(failed >= 1);
    assert_eq!(reader.counters().backend_read_failures, failed);

    backend.fail_all(backend::Op::Write);
    check_read(&reader, &source, 4, 1);
    assert_eq!(reader.counters().backend_write_failures, 1);

    backend.fail_all(backend::Op::Flush);
    assert!(finish(reader.flush_cache()).is_err());
    assert_eq!(reader.counters().backend_flush_failures, 1);
    check_read(&reader, &source, 4, 4);
    assert_eq!(reader.counters().backend_flush_failures, 2);
}

#[test]
fn statistics_wait_for_nobody() {
    let (source, backend) = (Source::new(6, BLOCK, 8), Backend::new());
    let config = CacheConfig::new().with_flush_every_blocks(1);
    let reader = open_with(&source, &backend, config);
    let mut poller = Poller::new();
    source.gate.shut();
    backend.gate.shut();
    let task = poller.spawn(read(&reader, 0, 4));
    poller.run();
    while source.gate.release_all() + backend.gate.release_all() > 0 {
        assert_eq!(finish(reader.get_stats()).total_misses, 4);
        poller.run();
        assert_eq!(finish(reader.get_stats()).total_blocks, 8);
    }
    source.assert_bytes(0, &poller.take(task).unwrap());
}
