//! Each counter, exactly, and what adds up. How hits and misses are counted is in `stats`.

use crate::support::backend::{self, Fault as BackendFault};
use crate::support::source::Fault as SourceFault;
use crate::support::{
    Backend, Immediate, Poller, Reader, Source, World, assert_calls_are_counted, cache_blocks,
    check_read, finish, for_seeds, open, open_with, read,
};
use core::sync::atomic::{AtomicU64, Ordering};
use gibblox_cache::{CacheConfig, CacheCounters, CacheOps, CachedBlockReader};
use gibblox_core::ReadContext;
use std::sync::Arc;

const BLOCK: u32 = 16;
const BLOCKS: u64 = 12;

/// A snapshot in which only what `set` sets is not zero.
fn only(set: impl FnOnce(&mut CacheCounters)) -> CacheCounters {
    let mut counters = CacheCounters::default();
    set(&mut counters);
    counters
}

/// What is counted while `work` is done.
fn counted<C: CacheOps, R>(
    reader: &CachedBlockReader<Arc<Source>, C>,
    work: impl FnOnce() -> R,
) -> CacheCounters {
    let before = reader.counters();
    work();
    reader.counters().since(&before)
}

/// What `read_blocks` was asked for, by what was valid when it looked.
fn asked(counters: &mut CacheCounters, hits: u64, misses: u64) {
    counters.hits = hits;
    counters.misses = misses;
}

/// `blocks` blocks served by `read_blocks`.
fn served(counters: &mut CacheCounters, blocks: u64) {
    counters.served_blocks = blocks;
    counters.served_bytes = blocks * u64::from(BLOCK);
}

/// `blocks` blocks that came from the source by so many reads.
fn fetched(counters: &mut CacheCounters, reads: u64, blocks: u64) {
    counters.source_reads = reads;
    counters.fetched_blocks = blocks;
    counters.fetched_bytes = blocks * u64::from(BLOCK);
}

fn setup() -> (Arc<Source>, Arc<Backend>, Reader) {
    World::of(BLOCKS).block(BLOCK).remembering().parts()
}

/// Drops `future` as soon as it waits for something that a gate holds back.
fn drop_where_it_waits<F: Future>(future: F) {
    let mut poller = Poller::new();
    let task = poller.spawn(future);
    poller.run();
    assert!(!poller.is_done(task), "it waits");
    poller.cancel(task);
}

#[test]
fn a_plain_hit_is_one_backend_read_and_its_blocks_are_served() {
    let (source, backend, waiting) = setup();
    let opening = CachedBlockReader::new(Arc::clone(&source), Immediate(Backend::new()));
    let immediate = finish(opening).unwrap();
    check_read(&waiting, &source, 0, BLOCKS);
    check_read(&immediate, &source, 0, BLOCKS);
    for blocks in 1..=BLOCKS {
        let hit = only(|counters| {
            counters.backend_reads = 1;
            asked(counters, blocks, 0);
            served(counters, blocks);
        });
        let by_waiting = counted(&waiting, || check_read(&waiting, &source, 0, blocks));
        let at_once = counted(&immediate, || check_read(&immediate, &source, 0, blocks));
        assert_eq!((by_waiting, at_once), (hit, hit), "{blocks} blocks");
    }
    assert_calls_are_counted(&backend, &waiting.counters());
}

#[test]
fn a_cold_read_is_one_source_read_and_three_writes() {
    let (source, _backend, reader) = setup();
    let cold = counted(&reader, || check_read(&reader, &source, 2, 5));
    assert_eq!(
        cold,
        only(|counters| {
            fetched(counters, 1, 5);
            asked(counters, 0, 5);
            served(counters, 5);
            counters.backend_writes = 3;
        })
    );
    let mixed = counted(&reader, || check_read(&reader, &source, 0, BLOCKS));
    assert_eq!(
        mixed,
        only(|counters| {
            fetched(counters, 2, BLOCKS - 5);
            asked(counters, 5, BLOCKS - 5);
            served(counters, BLOCKS);
            counters.backend_reads = 1;
            counters.backend_writes = 6;
        })
    );
}

#[test]
fn opening_is_counted_call_by_call() {
    let (source, backend, reader) = setup();
    let fresh = reader.counters();
    assert!(fresh.backend_reads > 0 && fresh.backend_writes > 0 && fresh.backend_flushes > 0);
    assert_calls_are_counted(&backend, &fresh);
    assert_eq!((fresh.source_reads, fresh.served_blocks), (0, 0));
    assert_eq!(fresh.backend_failures(), 0, "{fresh:?}");
    check_read(&reader, &source, 0, BLOCKS);

    let shortened = backend.bytes().len() - 1;
    let backend = Backend::with_bytes(backend.bytes()[..shortened].to_vec());
    let reader = open(&source, &backend);
    assert_calls_are_counted(&backend, &reader.counters());
    assert_eq!(
        reader.counters().backend_read_failures,
        0,
        "looking for the end is no failure"
    );
}

#[test]
fn a_hit_that_fails_is_served_by_the_source_and_counted_once() {
    let (source, backend, reader) = setup();
    check_read(&reader, &source, 0, 4);
    backend.fail_all(backend::Op::Read);
    let failed = counted(&reader, || check_read(&reader, &source, 1, 2));
    let expected = only(|counters| {
        fetched(counters, 1, 2);
        asked(counters, 2, 0);
        served(counters, 2);
        // The hit, both blocks once more, and each alone.
        counters.backend_reads = 4;
        counters.backend_read_failures = 4;
    });
    assert_eq!(failed, expected);
    assert_calls_are_counted(&backend, &reader.counters());
    let stats = finish(reader.get_stats());
    assert_eq!((stats.total_hits, stats.total_misses), (2, 4));
}

#[test]
fn a_dropped_hit_was_a_hit_and_a_backend_read_but_not_served() {
    let (source, backend, reader) = setup();
    check_read(&reader, &source, 0, 4);
    backend.gate.shut();
    let dropped = counted(&reader, || drop_where_it_waits(read(&reader, 0, 3)));
    let expected = only(|counters| {
        asked(counters, 3, 0);
        counters.backend_reads = 1;
    });
    assert_eq!(dropped, expected);
    assert_eq!(finish(reader.get_stats()).total_hits, 3);
}

#[test]
fn a_call_under_way_is_counted_when_it_is_over() {
    let (source, backend, reader) = setup();
    let before = reader.counters();
    let so_far = || reader.counters().since(&before);
    source.gate.shut();
    backend.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(read(&reader, 0, 2));
    poller.run();
    let missed = only(|counters| asked(counters, 0, 2));
    assert_eq!(so_far(), missed, "asked, not answered");
    source.gate.open();
    poller.run();
    let fetched = only(|counters| {
        fetched(counters, 1, 2);
        asked(counters, 0, 2);
    });
    assert_eq!(so_far(), fetched, "the first write waits");
    for writes in 1..=3 {
        backend.gate.release_all();
        poller.run();
        assert_eq!(so_far().backend_writes, writes);
    }
    source.assert_bytes(0, &poller.take(task).unwrap());
    assert_eq!(so_far().served_blocks, 2);
}

#[test]
fn source_reads_count_however_they_end_and_only_whole_ones_fetch() {
    let (source, _backend, reader) = setup();
    let failed = only(|counters| {
        counters.source_reads = 1;
        counters.source_read_failures = 1;
    });
    for fault in [SourceFault::io("bad"), SourceFault::Short(BLOCK as usize)] {
        source.fail(move |_| Some(fault.clone()));
        let by_reading = counted(&reader, || assert!(finish(read(&reader, 0, 3)).is_err()));
        let mut missed = failed;
        asked(&mut missed, 0, 3);
        assert_eq!(by_reading, missed);
        let ahead = reader.ensure_cached(0, 3, ReadContext::BACKGROUND);
        let by_caching = counted(&reader, || assert!(finish(ahead).is_err()));
        assert_eq!(by_caching, failed);
    }
    source.heal();
    source.gate.shut();
    let dropped = counted(&reader, || drop_where_it_waits(read(&reader, 0, 3)));
    let expected = only(|counters| {
        asked(counters, 0, 3);
        counters.source_reads = 1;
    });
    assert_eq!(dropped, expected);
    source.gate.open();
    let ahead = reader.ensure_cached(0, 3, ReadContext::BACKGROUND);
    let cached = counted(&reader, || finish(ahead).unwrap());
    let expected = only(|counters| {
        fetched(counters, 1, 3);
        counters.backend_writes = 3;
    });
    assert_eq!(cached, expected, "fetched, and served to nobody");
}

#[test]
fn what_cannot_be_stored_was_fetched_and_is_served() {
    let (source, backend, reader) = setup();
    backend.fail_all(backend::Op::Write);
    let unstored = counted(&reader, || check_read(&reader, &source, 0, 3));
    let expected = only(|counters| {
        fetched(counters, 1, 3);
        asked(counters, 0, 3);
        served(counters, 3);
        counters.backend_writes = 1;
        counters.backend_write_failures = 1;
    });
    assert_eq!(unstored, expected);
}

#[test]
fn followers_are_counted_each_time_they_begin_to_wait() {
    let (source, _backend, reader) = setup();
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(read(&reader, 0, 4));
    poller.run();
    assert_eq!(
        reader.counters().followed_runs,
        0,
        "a leader follows nobody"
    );
    poller.spawn(read(&reader, 0, 4));
    // This one leads what is behind.
    poller.spawn(read(&reader, 2, 4));
    poller.spawn(async {
        let ahead = reader.ensure_cached(1, 2, ReadContext::BACKGROUND);
        ahead.await.map(|()| Vec::new())
    });
    poller.run();
    assert_eq!(reader.counters().followed_runs, 3);
    let gone = poller.spawn(read(&reader, 3, 1));
    poller.run();
    poller.cancel(gone);
    assert_eq!(reader.counters().followed_runs, 4, "it waited all the same");
    poller.cancel(leader);
    poller.run();
    assert_eq!(
        reader.counters().followed_runs,
        4,
        "the first takes over, and the others wait for it in the places that they had"
    );
    source.gate.open();
    poller.run_to_end();
    let counters = reader.counters();
    assert_eq!(counters.followed_runs, 4);
    assert_eq!((counters.source_reads, counters.fetched_blocks), (3, 6));
    assert_eq!(counters.served_blocks, 8);
}

#[test]
fn changes_of_length_are_writes() {
    let (source, backend) = (Source::new(3, BLOCK, BLOCKS), Backend::new());
    backend.fail_all(backend::Op::SetLen);
    let reader = open(&source, &backend);
    let counters = reader.counters();
    assert_eq!(backend.count(backend::Op::SetLen), 1);
    assert_eq!(counters.backend_write_failures, 1);
    assert_calls_are_counted(&backend, &counters);
}

#[test]
fn flushes_count_however_they_end() {
    let (_source, backend, reader) = setup();
    let flush = || finish(reader.flush_cache());
    let fine = counted(&reader, || flush().unwrap());
    assert_eq!(fine, only(|counters| counters.backend_flushes = 1));
    backend.fail_all(backend::Op::Flush);
    let failed = counted(&reader, || assert!(flush().is_err()));
    let expected = only(|counters| {
        counters.backend_flushes = 1;
        counters.backend_flush_failures = 1;
    });
    assert_eq!(failed, expected);
    assert_eq!(failed.backend_failures(), 1);
    backend.heal();
    backend.gate.shut();
    let dropped = counted(&reader, || drop_where_it_waits(reader.flush_cache()));
    assert_eq!(dropped, only(|counters| counters.backend_flushes = 1));
}

#[test]
fn a_dropped_write_is_a_write_and_no_failure() {
    let (source, backend, reader) = setup();
    backend.gate.shut();
    let dropped = counted(&reader, || drop_where_it_waits(read(&reader, 0, 2)));
    let expected = only(|counters| {
        fetched(counters, 1, 2);
        asked(counters, 0, 2);
        counters.backend_writes = 1;
    });
    assert_eq!(dropped, expected);
    backend.gate.open();
    check_read(&reader, &source, 0, 2);
    assert_calls_are_counted(&backend, &reader.counters());
}

#[test]
fn blocks_that_do_not_match_are_counted_and_fetched() {
    let (source, backend, first) = setup();
    check_read(&first, &source, 0, 6);
    for lba in [1, 2, 4] {
        backend.damage(&source.bytes(lba, 1));
    }
    let reader = open(&source, &backend);
    let repaired = counted(&reader, || check_read(&reader, &source, 0, 6));
    let expected = only(|counters| {
        counters.checksum_mismatched_blocks = 3;
        counters.backend_reads = 2;
        fetched(counters, 2, 3);
        counters.backend_writes = 6;
        asked(counters, 6, 0);
        served(counters, 6);
    });
    assert_eq!(repaired, expected);
}

#[test]
fn a_panic_in_a_call_is_counted_as_a_call() {
    let (source, backend, reader) = setup();
    check_read(&reader, &source, 0, 2);
    backend.fail(|_| Some(BackendFault::Panic));
    let before = reader.counters();
    let mut poller = Poller::new();
    let task = poller.spawn(read(&reader, 0, 2));
    poller.poll_panicking(task);
    let task = poller.spawn(read(&reader, 4, 2));
    poller.poll_panicking(task);
    let panicked = reader.counters().since(&before);
    assert_eq!((panicked.backend_reads, panicked.backend_writes), (1, 1));
    assert_eq!(panicked.served_blocks, 0);
    assert_calls_are_counted(&backend, &reader.counters());
}

#[test]
fn refused_and_empty_reads_leave_no_trace() {
    let (_source, _backend, reader) = setup();
    let refused = counted(&reader, || {
        assert!(finish(read(&reader, BLOCKS, 1)).is_err());
        assert!(finish(read(&reader, 0, 0)).is_ok());
    });
    assert_eq!(refused, CacheCounters::default());
}

#[test]
fn a_difference_is_taken_field_by_field() {
    let (source, _backend, reader) = setup();
    cache_blocks(&reader, &source, [0, 3]);
    let counters = reader.counters();
    assert_eq!(counters.since(&CacheCounters::default()), counters);
    assert_eq!(counters.since(&counters), CacheCounters::default());
    let wrong_way = CacheCounters::default().since(&counters);
    assert_eq!(wrong_way, CacheCounters::default(), "never below zero");
}

#[test]
fn whatever_fails_failures_and_calls_are_counted_as_they_arrived_and_the_sums_hold() {
    for_seeds(300, |rng| {
        let (source, backend) = (Source::new(rng.next(), BLOCK, BLOCKS), Backend::new());
        let config = CacheConfig::new().with_flush_every_blocks(1 + rng.below(5) as u32);
        let (failed, fault_rng) = (Arc::new(AtomicU64::new(0)), rng.next());
        let percent = [0, 5, 40][rng.index(3)];
        let mut chance = crate::support::Rng::new(fault_rng);
        let counting = Arc::clone(&failed);
        backend.fail(move |_| {
            let fault = chance.chance(percent).then_some(BackendFault::Error);
            counting.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
            fault
        });
        let reader = open_with(&source, &backend, config);
        let bad_reads = Arc::new(AtomicU64::new(0));
        let (mut served, mut lost) = (0, 0);
        for _ in 0..30 {
            let (lba, blocks) = rng.run(BLOCKS, 6);
            if rng.chance(10) {
                let counting = Arc::clone(&bad_reads);
                source.fail(move |_| {
                    counting.fetch_add(1, Ordering::Relaxed);
                    Some(SourceFault::io("bad"))
                });
            }
            match finish(read(&reader, lba, blocks)) {
                Ok(bytes) => {
                    source.assert_bytes(lba, &bytes);
                    served += blocks;
                }
                Err(_) => lost += blocks,
            }
            source.heal();
            if rng.chance(10) {
                let _ = finish(reader.flush_cache());
            }
        }
        let (counters, stats) = (reader.counters(), finish(reader.get_stats()));
        assert_eq!(stats.total_hits + stats.total_misses, served + lost);
        assert_eq!(
            (counters.hits, counters.misses),
            (stats.total_hits, stats.total_misses)
        );
        assert_eq!(counters.served_blocks, served);
        assert_eq!(counters.served_bytes, served * u64::from(BLOCK));
        assert_eq!(
            counters.fetched_bytes,
            counters.fetched_blocks * u64::from(BLOCK)
        );
        assert_eq!(counters.source_reads, source.reads().len() as u64);
        let bad_reads = bad_reads.load(Ordering::Relaxed);
        assert_eq!(counters.source_read_failures, bad_reads);
        assert_eq!(counters.backend_failures(), failed.load(Ordering::Relaxed));
        assert_calls_are_counted(&backend, &counters);
    });
}

#[cfg(feature = "serde")]
#[test]
fn snapshots_can_be_serialized() {
    fn can_be<T: serde::Serialize>(_: T) {}
    let (_source, _backend, reader) = setup();
    can_be(reader.counters());
    can_be(reader.state());
    can_be(finish(reader.get_stats()));
    can_be(finish(reader.scrub()).unwrap());
}
