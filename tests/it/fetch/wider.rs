//! Fetching more than was asked for: around a read, ahead of a reader, across a gap, and none of it by default.

use crate::support::backend::{self, Fault as BackendFault};
use crate::support::files::{Regions, file_of_published};
use crate::support::poll::drop_after;
use crate::support::source::Fault;
use crate::support::{
    Backend, Poller, Reader, Rng, Source, cache_blocks, check_read, finish, for_seeds, open,
    open_with, polls_to_finish, read,
};
use gibblox_cache::{CacheConfig, CachedBlockReader, VerifyPolicy, WiderFetches};
use gibblox_core::{GibbloxErrorKind, ReadContext};
use std::collections::BTreeSet;
use std::sync::Arc;

const BLOCK: u32 = 16;

/// `config`, with fetches that are wider by `widen`.
fn wider(config: CacheConfig, widen: impl FnOnce(WiderFetches) -> WiderFetches) -> CacheConfig {
    config.with_wider_fetches(widen(config.wider_fetches()))
}

fn around(blocks: u32) -> CacheConfig {
    wider(CacheConfig::new(), |fetches| {
        fetches.with_around_bytes(blocks * BLOCK)
    })
}

fn ahead(after: u32, most_blocks: u32) -> CacheConfig {
    wider(CacheConfig::new(), |fetches| {
        fetches
            .with_ahead_after_reads(after)
            .with_ahead_bytes(most_blocks * BLOCK)
    })
}

fn gap(blocks: u32) -> CacheConfig {
    wider(CacheConfig::new(), |fetches| {
        fetches.with_gap_blocks(blocks)
    })
}

/// A device of so many blocks of which these are cached, by a reader that fetches what it is asked for.
fn world(blocks: u64, config: CacheConfig, cached: &[u64]) -> (Arc<Source>, Arc<Backend>, Reader) {
    let (source, backend) = (Source::new(5, BLOCK, blocks), Backend::new());
    cache_blocks(&open(&source, &backend), &source, cached.iter().copied());
    let reader = open_with(&source, &backend, config);
    source.forget();
    backend.forget();
    (source, backend, reader)
}

/// Fetched unasked, used of these, and fetched again.
fn counts(reader: &Reader) -> (u64, u64, u64) {
    let counters = reader.counters();
    (
        counters.unasked_fetched_blocks,
        counters.unasked_used_blocks,
        counters.refetched_blocks,
    )
}

/// Reads each run; which source reads that takes.
fn reads_of(reader: &Reader, source: &Source, runs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    source.forget();
    for (lba, blocks) in runs {
        let bytes = finish(read(reader, *lba, *blocks)).expect("a healthy source reads");
        source.assert_bytes(*lba, &bytes);
    }
    source.reads()
}

#[test]
fn by_default_nothing_is_fetched_that_was_not_asked_for() {
    let (source, _, reader) = world(64, CacheConfig::new(), &[3]);
    let runs: Vec<_> = (0..64).map(|lba| (lba, 1)).collect();
    let mut expected = runs.clone();
    expected.remove(3);
    assert_eq!(reads_of(&reader, &source, &runs), expected);
    assert_eq!(counts(&reader), (0, 0, 0));
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    for after in [0, 1] {
        let (source, backend) = (Source::new(5, BLOCK, 8), Backend::new());
        let opening = CachedBlockReader::open(source, backend, ahead(after, 4));
        let error = finish(opening).expect_err("every read is one in sequence");
        assert_eq!(error.kind(), GibbloxErrorKind::InvalidInput);
    }
    // Less than two blocks around a read, or than one ahead of it, is none.
    let config = wider(around(1), |fetches| {
        fetches
            .with_ahead_bytes(BLOCK - 1)
            .with_ahead_after_reads(2)
    });
    let (source, _, reader) = world(8, config, &[]);
    assert_eq!(
        reads_of(&reader, &source, &[(0, 1), (1, 1), (2, 1)]),
        [(0, 1), (1, 1), (2, 1)]
    );
}

#[test]
fn a_small_read_brings_its_neighbourhood_in_one_call() {
    // 4 blocks, aligned; the device ends in the middle of the last.
    let (source, backend, reader) = world(18, around(4), &[9]);
    assert_eq!(reads_of(&reader, &source, &[(5, 1)]), [(4, 4)]);
    assert_eq!(counts(&reader), (3, 0, 0));
    assert_eq!(
        reads_of(&reader, &source, &[(4, 1), (5, 1), (6, 2), (4, 4)]),
        []
    );
    assert_eq!(counts(&reader), (3, 3, 0));
    // Up to the valid block, though it lies within.
    assert_eq!(reads_of(&reader, &source, &[(11, 1)]), [(10, 2)]);
    // What is as long as that is left alone, and what is shorter reaches both neighbourhoods.
    assert_eq!(reads_of(&reader, &source, &[(0, 4)]), [(0, 4)]);
    assert_eq!(reads_of(&reader, &source, &[(15, 2)]), [(12, 6)]);
    assert_eq!(counts(&reader), (8, 3, 0));
    assert_eq!(finish(reader.get_stats()).cached_blocks, 17);
    assert_eq!(reads_of(&reader, &source, &[(0, 18)]), [(8, 1)]);
    // All of it is in the file, with its checksums.
    check_read(&open(&source, &backend), &source, 0, 18);
    assert_eq!(source.reads().len(), 1);
}

#[test]
fn a_wider_fetch_is_stored_like_any_other() {
    let (source, backend, reader) = world(16, around(4), &[]);
    check_read(&reader, &source, 6, 1);
    assert_eq!(source.reads(), [(4, 4)]);
    let writes: Vec<_> = backend
        .calls()
        .iter()
        .map(|call| (call.op, call.len))
        .collect();
    let op = backend::Op::Write;
    assert_eq!(
        writes,
        [(op, 4 * 16), (op, 4 * 8), (op, 1)],
        "data, checksums, bits"
    );
    // Its first use is compared, and its second is one backend read.
    backend.forget();
    let data = (backend::Op::Read, 16);
    for expected in [&[data, (backend::Op::Read, 8)][..], &[data]] {
        check_read(&reader, &source, 7, 1);
        let calls: Vec<_> = backend
            .calls()
            .iter()
            .map(|call| (call.op, call.len))
            .collect();
        assert_eq!(calls, expected);
        backend.forget();
    }
    // A read of what is asked for alone still goes straight into the caller's buffer.
    let mut buf = vec![0; 4 * 16];
    let _ = finish(gibblox_core::BlockReader::read_blocks(
        &reader,
        8,
        &mut buf,
        ReadContext::FOREGROUND,
    ));
    assert_eq!(
        source.calls().last().expect("a call").place,
        buf.as_ptr().addr()
    );
}

#[test]
fn a_reader_in_sequence_is_fetched_ahead_of_and_a_seek_is_not() {
    let (source, _, reader) = world(1000, ahead(3, 8), &[]);
    let sequence: Vec<_> = (100..150).map(|lba| (lba, 1)).collect();
    let fetched = [
        (100, 1),
        (101, 1),
        (102, 2),
        (104, 3),
        (107, 5),
        (112, 9),
        (121, 9),
        (130, 9),
        (139, 9),
        (148, 9),
    ];
    assert_eq!(reads_of(&reader, &source, &sequence), fetched);
    assert_eq!(counts(&reader), (47, 40, 0));
    // Elsewhere it begins with nothing; where it left off it goes on.
    let elsewhere: Vec<_> = [500, 501, 300].map(|lba| (lba, 1)).to_vec();
    assert_eq!(reads_of(&reader, &source, &elsewhere), elsewhere);
    assert_eq!(
        reads_of(&reader, &source, &[(150, 7), (157, 1)]),
        [(157, 9)]
    );
    // Never past the end of the device.
    let end: Vec<_> = (990..1000).map(|lba| (lba, 1)).collect();
    assert_eq!(
        reads_of(&reader, &source, &end),
        [(990, 1), (991, 1), (992, 2), (994, 3), (997, 3)]
    );
}

#[test]
fn several_readers_in_sequence_have_each_their_own() {
    let (source, _, reader) = world(4000, ahead(2, 16), &[]);
    let mut fetched = Vec::new();
    for read in 0..20 {
        let runs: Vec<_> = (0..8).map(|reader| (reader * 500 + read, 1)).collect();
        fetched.extend(reads_of(&reader, &source, &runs));
    }
    for reader in 0..8 {
        let first = reader * 500;
        let own = fetched
            .iter()
            .filter(|(lba, _)| (first..first + 500).contains(lba));
        let own: Vec<_> = own.map(|(lba, blocks)| (lba - first, *blocks)).collect();
        assert_eq!(own, [(0, 1), (1, 2), (3, 3), (6, 5), (11, 9)]);
    }
}

#[test]
fn a_reader_in_sequence_goes_on_over_what_is_cached() {
    // Found by this process: seen, though it misses nothing. Read by it before: passed over.
    for trusted in [false, true] {
        let cached = [3, 7, 8];
        let (source, _, reader) = world(100, ahead(2, 4), &cached);
        if trusted {
            finish(reader.scrub()).expect("all is healthy");
        }
        let sequence: Vec<_> = (0..14).map(|lba| (lba, 1)).collect();
        let fetched = [(0, 1), (1, 2), (4, 3), (9, 5)];
        assert_eq!(reads_of(&reader, &source, &sequence), fetched, "{trusted}");
    }
}

#[test]
fn random_reads_fetch_nothing_unasked() {
    const BLOCKS: u64 = 1 << 14;
    for percent in [0, 10, 50, 90, 99] {
        for_seeds(2, |rng| {
            let (source, backend) = (Source::new(5, 8, BLOCKS), Backend::new());
            let config = wider(CacheConfig::new(), |fetches| {
                fetches.with_ahead_bytes(1 << 20)
            });
            let cached: Vec<_> = (0..BLOCKS).filter(|_| rng.chance(percent)).collect();
            // Half of what is cached was found, half was fetched by this process.
            let (found, fetched) = cached.split_at(cached.len() / 2);
            cache_blocks(&open(&source, &backend), &source, found.iter().copied());
            let reader = open_with(&source, &backend, CacheConfig::new());
            drop(reader);
            let reader = open_with(&source, &backend, config);
            for lba in fetched {
                finish(reader.ensure_cached(*lba, 1, ReadContext::BACKGROUND)).expect("caches");
            }
            source.forget();
            let mut missed = Vec::new();
            let mut known: BTreeSet<u64> = cached.iter().copied().collect();
            for _ in 0..4000 {
                let lba = rng.below(BLOCKS);
                if known.insert(lba) {
                    missed.push((lba, 1));
                }
                check_read(&reader, &source, lba, 1);
            }
            assert_eq!(source.reads(), missed, "{percent} % cached");
            assert_eq!(counts(&reader), (0, 0, 0));
        });
    }
}

#[test]
fn short_gaps_are_fetched_over_and_not_stored_again() {
    let cached = [2, 6, 7, 12, 13, 14];
    for (most, fetched) in [
        (0, vec![(0, 2), (3, 3), (8, 4), (15, 1)]),
        (1, vec![(0, 6), (8, 4), (15, 1)]),
        (2, vec![(0, 12), (15, 1)]),
        (3, vec![(0, 16)]),
        (9, vec![(0, 16)]),
    ] {
        for at_once in [1, 64] {
            let config = gap(most).with_fetches_at_once(at_once);
            let (source, backend, reader) = world(16, config, &cached);
            let mut reads = reads_of(&reader, &source, &[(0, 16)]);
            reads.sort_unstable();
            assert_eq!(reads, fetched);
            let refetched = fetched.iter().map(|(_, blocks)| blocks).sum::<u64>() - 10;
            assert_eq!(counts(&reader), (0, 0, refetched));
            let data = Regions::of(&source).data as u64..Regions::of(&source).checksums as u64;
            let calls = backend.calls();
            let stored = calls
                .iter()
                .filter(|call| call.op == backend::Op::Write && data.contains(&call.offset));
            let stored: usize = stored.map(|call| call.len).sum();
            assert_eq!(stored, 10 * 16, "what was missing, once");
            check_read(&open(&source, &backend), &source, 0, 16);
        }
    }
    // Straight into the caller's buffer.
    let (source, _, reader) = world(8, gap(2), &[3]);
    let mut buf = vec![0; 8 * 16];
    let _ = finish(gibblox_core::BlockReader::read_blocks(
        &reader,
        0,
        &mut buf,
        ReadContext::FOREGROUND,
    ));
    assert_eq!(
        source.calls().last().expect("a call").place,
        buf.as_ptr().addr()
    );
    source.assert_bytes(0, &buf);
}

#[test]
fn all_of_it_together() {
    let config = wider(around(4), |fetches| {
        fetches
            .with_ahead_bytes(4 * BLOCK)
            .with_ahead_after_reads(2)
            .with_gap_blocks(1)
    });
    let (source, _, reader) = world(100, config, &[3, 11]);
    // Around, up to the valid block.
    assert_eq!(reads_of(&reader, &source, &[(1, 1)]), [(0, 3)]);
    // In sequence: ahead by as much as the read is long, and once more, with a gap.
    assert_eq!(reads_of(&reader, &source, &[(2, 4)]), [(4, 6)]);
    assert_eq!(reads_of(&reader, &source, &[(6, 7)]), [(10, 7)]);
    // The gap is fetched once more, and what was fetched ahead is used.
    assert_eq!(counts(&reader), (2 + 4 + 4, 1 + 4, 1));
    assert_eq!(reads_of(&reader, &source, &[(13, 4)]), []);
    assert_eq!(counts(&reader), (10, 9, 1));
}

/// All three, small enough for a small device.
fn everything() -> CacheConfig {
    wider(around(4), |fetches| {
        fetches
            .with_ahead_bytes(4 * BLOCK)
            .with_ahead_after_reads(2)
            .with_gap_blocks(2)
    })
}

#[test]
fn every_read_over_every_cache_is_right_and_fetches_nothing_twice_but_gaps() {
    const BLOCKS: u64 = 8;
    for config in [around(4), ahead(2, 3), gap(2), everything()] {
        for cached in 0..1_u64 << BLOCKS {
            let (source, backend) = (Source::new(5, BLOCK, BLOCKS), Backend::new());
            let found: Vec<_> = (0..BLOCKS).filter(|lba| cached >> lba & 1 == 1).collect();
            cache_blocks(&open(&source, &backend), &source, found.iter().copied());
            let reader = open_with(&source, &backend, config);
            source.forget();
            // Two reads each, so that the second comes in sequence, or finds what the first brought.
            let start = cached % BLOCKS;
            let end = start + 1 + cached / BLOCKS % (BLOCKS - start);
            check_read(&reader, &source, start, end - start);
            if end < BLOCKS {
                check_read(&reader, &source, end, BLOCKS - end);
            }
            check_read(&reader, &source, 0, BLOCKS);
            let moved: usize = source.fetches().iter().sum();
            let (fetched, used, refetched) = counts(&reader);
            assert_eq!(moved as u64, BLOCKS - found.len() as u64 + refetched);
            assert_eq!(fetched, used, "in the end all was read");
        }
    }
}

#[test]
fn a_bad_neighbour_fails_no_read() {
    for fault in [
        Fault::io("a bad sector"),
        Fault::Short(1),
        Fault::Short(3 * 16),
    ] {
        // Around: the neighbour is bad. Ahead: what comes next is. Gap: what is cached is.
        for (config, warm_up, bad, asked, reads) in [
            (around(4), vec![], 7, (5, 1), vec![(4, 4), (5, 1)]),
            (ahead(2, 4), vec![(0, 2)], 5, (2, 2), vec![(2, 4), (2, 2)]),
            (
                gap(2),
                vec![(9, 1)],
                9,
                (8, 3),
                vec![(8, 3), (8, 1), (10, 1)],
            ),
        ] {
            let (source, _, reader) = world(16, config, &[]);
            reads_of(&reader, &source, &warm_up);
            let fault = fault.clone();
            source.fail(move |call| call.touches(bad).then(|| fault.clone()));
            let mut got = reads_of(&reader, &source, &[asked]);
            got.sort_unstable_by_key(|(lba, blocks)| (u64::MAX - blocks, *lba));
            let mut reads = reads;
            reads.sort_unstable_by_key(|(lba, blocks)| (u64::MAX - blocks, *lba));
            assert_eq!(got, reads);
            assert_eq!(counts(&reader), (0, 0, 0), "what failed brought nothing");
            source.heal();
            assert_eq!(reads_of(&reader, &source, &[asked]), [], "it is cached");
        }
    }
}

#[test]
fn a_bad_block_is_its_readers_error_as_it_is() {
    let (source, _, reader) = world(16, everything(), &[]);
    source.fail_block(6, "a bad sector");
    let error = finish(read(&reader, 5, 2)).expect_err("it was asked for");
    assert_eq!(error.message(), Some("a bad sector"));
    assert_eq!(source.reads(), [(4, 4), (5, 2)], "the second time alone");
    check_read(&reader, &source, 5, 1);
    source.heal();
    check_read(&reader, &source, 4, 4);
}

#[test]
fn who_follows_a_part_of_a_wider_fetch_is_served_by_it_and_asks_for_itself_where_it_fails() {
    for fails in [false, true] {
        let (source, _, reader) = world(16, around(8), &[]);
        source.gate.shut();
        let mut poller = Poller::new();
        let leader = poller.spawn(read(&reader, 9, 1));
        poller.run();
        let asked = [(8, 1), (12, 4), (9, 1), (8, 8)];
        let followers = asked.map(|(lba, blocks)| poller.spawn(read(&reader, lba, blocks)));
        poller.run();
        assert_eq!(source.reads(), [(8, 8)], "one fetch for all");
        if fails {
            source.fail_block(15, "a bad sector");
        }
        source.gate.open();
        poller.run_to_end();
        source.assert_bytes(9, &poller.take(leader).expect("its own block is sound"));
        for (follower, (lba, blocks)) in followers.into_iter().zip(asked) {
            let wants_bad = (lba..lba + blocks).contains(&15);
            match poller.take(follower) {
                Ok(bytes) => source.assert_bytes(lba, &bytes),
                Err(error) => {
                    assert!(fails && wants_bad, "{lba} {blocks}: {error}");
                    assert_eq!(error.message(), Some("a bad sector"));
                }
            }
        }
        if !fails {
            assert_eq!(source.reads().len(), 1);
            // Each of the seven counts once, however many read it.
            assert_eq!(counts(&reader), (7, 7, 0));
        }
    }
}

#[test]
fn a_dropped_wider_fetch_goes_to_whoever_wants_it() {
    // At every await, with somebody who wants the same, a neighbour, or everything; also across gaps.
    let mut dropped = 0;
    for config in [
        around(8),
        gap(2),
        everything(),
        everything().with_fetches_at_once(1),
    ] {
        for other in [None, Some((5, 1)), Some((4, 2)), Some((0, 16))] {
            for polls in 1.. {
                let (source, backend, reader) = world(16, config, &[3, 6, 12]);
                source.gate.once();
                backend.gate.once();
                let victim = read(&reader, 2, 6);
                let done = if let Some((lba, blocks)) = other {
                    let mut poller = Poller::new();
                    let victim = poller.spawn(victim);
                    let follower = poller.spawn(read(&reader, lba, blocks));
                    for _ in 0..polls {
                        for id in [victim, follower] {
                            if poller.woken().contains(&id) {
                                poller.poll(id);
                            }
                        }
                    }
                    let done = poller.is_done(victim);
                    poller.cancel(victim);
                    poller.run_to_end();
                    source.assert_bytes(lba, &poller.take(follower).expect("all is healthy"));
                    done
                } else {
                    drop_after(victim, polls)
                };
                source.gate.open();
                backend.gate.open();
                // What another process finds is right, and nothing is claimed any more.
                let copy = Backend::with_bytes(backend.bytes());
                check_read(&open(&source, &copy), &source, 0, 16);
                check_read(&reader, &source, 0, 16);
                let (fetched, used, _) = counts(&reader);
                assert!(used <= fetched, "what was dropped was fetched for nothing");
                if done {
                    break;
                }
                dropped += 1;
            }
        }
    }
    println!("dropped in the middle: {dropped}");
    assert!(dropped > 100);
}

#[test]
fn after_a_failed_flush_what_no_reader_asked_for_is_compared_like_anything_else() {
    let (source, backend, reader) = world(16, around(4), &[]);
    check_read(&reader, &source, 5, 1);
    backend.fail_all(backend::Op::Flush);
    finish(reader.flush_cache()).expect_err("it fails");
    backend.heal();
    // What the medium lost.
    let lost = source.bytes(6, 1);
    backend.edit(|bytes| {
        let at = bytes.windows(16).position(|window| window == lost);
        bytes[at.expect("it was stored")] ^= 1;
    });
    source.forget();
    check_read(&reader, &source, 4, 4);
    assert_eq!(source.reads(), [(6, 1)]);
    assert_eq!(counts(&reader).1, 2, "what was lost is used by no reader");
    assert_eq!(reader.counters().checksum_mismatched_blocks, 1);
}

#[test]
fn in_a_file_without_checksums_nothing_is_fetched_unasked() {
    let source = Source::new(5, BLOCK, 16);
    let backend = Backend::with_bytes(file_of_published(&source, [1]));
    let reader = open_with(&source, &backend, around(4));
    source.forget();
    let exact = [(2, 1), (3, 1), (5, 1), (4, 1), (6, 2)];
    assert_eq!(reads_of(&reader, &source, &exact), exact);
    assert_eq!(counts(&reader), (0, 0, 0));
}

#[test]
fn with_every_read_compared_it_is_counted_once_and_damage_is_found() {
    let config = everything().with_verify(VerifyPolicy::OnEveryRead);
    let (source, backend, reader) = world(16, config, &[]);
    check_read(&reader, &source, 5, 1);
    for _ in 0..3 {
        check_read(&reader, &source, 4, 1);
    }
    assert_eq!(counts(&reader), (3, 1, 0));
    let block = source.bytes(7, 1);
    backend.edit(|bytes| {
        let at = bytes.windows(16).position(|window| window == block);
        bytes[at.expect("it was stored")] ^= 1;
    });
    check_read(&reader, &source, 7, 1);
    assert_eq!(reader.counters().checksum_mismatched_blocks, 1);
}

#[test]
fn a_scrub_uses_nothing() {
    let (source, _, reader) = world(16, around(8), &[]);
    check_read(&reader, &source, 5, 1);
    let report = finish(reader.scrub()).expect("all is healthy");
    assert_eq!((report.intact_blocks, report.dropped_blocks), (8, 0));
    assert_eq!(counts(&reader), (7, 0, 0));
    // It trusts what it has compared, so that reading it is a plain hit, which counts nothing.
    check_read(&reader, &source, 0, 8);
    assert_eq!(counts(&reader), (7, 0, 0));
    // Nor does caching ahead, nor counting.
    let (source, _, reader) = world(16, around(8), &[]);
    check_read(&reader, &source, 5, 1);
    finish(reader.ensure_cached(0, 16, ReadContext::BACKGROUND)).expect("all is healthy");
    assert_eq!(source.reads(), [(0, 8), (8, 8)]);
    assert_eq!(counts(&reader), (7, 0, 0));
}

#[test]
fn while_nothing_can_be_stored_nothing_is_fetched_unasked() {
    let (source, backend, reader) = world(64, everything(), &[]);
    backend.fail(|call| (call.op == backend::Op::Write).then_some(BackendFault::Error));
    let exact = [(9, 1), (17, 1), (18, 1), (19, 1)];
    assert_eq!(
        reads_of(&reader, &source, &[(5, 1)]),
        [(4, 4)],
        "once, to find out"
    );
    assert_eq!(reads_of(&reader, &source, &exact), exact);
    assert_eq!(counts(&reader), (3, 0, 0));
    backend.heal();
    assert_eq!(
        reads_of(&reader, &source, &[(33, 1), (41, 1)]),
        [(33, 1), (40, 4)]
    );
}

#[test]
fn a_file_that_is_not_open_takes_nothing_unasked() {
    let (source, backend) = (Source::new(5, BLOCK, 64), Backend::new());
    backend.die();
    let reader = open_with(&source, &backend, everything());
    assert_eq!(
        reads_of(&reader, &source, &[(5, 1), (6, 1), (7, 1)]),
        [(5, 1), (6, 1), (7, 1)]
    );
    assert_eq!(counts(&reader), (0, 0, 0));
}

#[test]
fn hits_and_misses_are_counted_by_what_was_asked_for() {
    let (source, _, reader) = world(16, around(8), &[]);
    check_read(&reader, &source, 5, 1);
    check_read(&reader, &source, 0, 8);
    let stats = finish(reader.get_stats());
    assert_eq!(
        (stats.total_hits, stats.total_misses, stats.cached_blocks),
        (8, 1, 8)
    );
}

#[test]
fn a_hit_is_as_short_as_ever() {
    let (source, _, reader) = world(16, everything(), &[]);
    check_read(&reader, &source, 5, 1);
    for lba in 4..8 {
        check_read(&reader, &source, lba, 1);
        let ((), polls) = polls_to_finish(async {
            let bytes = read(&reader, lba, 1).await.expect("a hit");
            source.assert_bytes(lba, &bytes);
        });
        assert_eq!(polls, 1);
    }
}

#[test]
fn readers_at_once_fetch_each_block_once() {
    for_seeds(300, |rng: &mut Rng| {
        let config = wider(around(1 + rng.below(8) as u32), |fetches| {
            fetches
                .with_ahead_bytes(rng.below(8) as u32 * BLOCK)
                .with_ahead_after_reads(2)
        });
        let config = config.with_fetches_at_once(1 + rng.below(4) as u32);
        let (source, _, reader) = world(24, config, &[]);
        source.gate.shut();
        let mut poller = Poller::new();
        let mut tasks = Vec::new();
        for _ in 0..6 {
            let (lba, blocks) = rng.run(24, 6);
            tasks.push((poller.spawn(read(&reader, lba, blocks)), lba));
            poller.run();
            if rng.chance(50) {
                source.gate.release_all();
                poller.run();
            }
        }
        source.gate.open();
        poller.run_to_end();
        for (task, lba) in tasks {
            source.assert_bytes(lba, &poller.take(task).expect("all is healthy"));
        }
        assert!(source.fetches().iter().all(|count| *count <= 1));
    });
}
