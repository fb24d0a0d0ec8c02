//! What `read_blocks` takes, what it gives back, and what it costs.

use crate::support::backend::{self, Fault as BackendFault};
use crate::support::gate::Mode;
use crate::support::source::{self, Fault};
use crate::support::{
    Backend, Immediate, Oracle, Poller, Source, cache_blocks, check_read, finish, open, open_with,
    read,
};
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, VerifyPolicy};
use gibblox_core::{BlockReader, GibbloxErrorKind, ReadContext};
use std::sync::Arc;

const BLOCK: u32 = 32;

/// The kind of the error that reading `len` bytes from `lba` on ends with.
#[track_caller]
fn refusal<S: BlockReader, C: CacheOps>(
    reader: &CachedBlockReader<S, C>,
    lba: u64,
    len: usize,
) -> GibbloxErrorKind {
    let mut buf = vec![0; len];
    let read = finish(reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND));
    read.expect_err("refused").kind()
}

#[test]
fn an_empty_buffer_is_zero_bytes_anywhere() {
    let (source, backend) = (Source::new(1, BLOCK, 4), Backend::new());
    let reader = open(&source, &backend);
    for lba in [0, 3, 4, 5, u64::MAX] {
        let read = finish(reader.read_blocks(lba, &mut [], ReadContext::FOREGROUND));
        assert_eq!(read.unwrap(), 0, "at {lba}");
    }
    assert_eq!(source.reads(), []);
}

#[test]
fn a_length_that_is_no_multiple_of_the_block_size_is_invalid_input() {
    let (source, backend) = (Source::new(1, BLOCK, 4), Backend::new());
    let reader = open(&source, &backend);
    for len in [1, 31, 33, 63, 65] {
        assert_eq!(refusal(&reader, 0, len), GibbloxErrorKind::InvalidInput);
    }
    assert_eq!(source.reads(), []);
}

#[test]
fn a_range_past_the_end_is_out_of_range() {
    let (source, backend) = (Source::new(1, BLOCK, 4), Backend::new());
    let reader = open(&source, &backend);
    for (lba, blocks) in [(0, 5), (1, 4), (3, 2), (4, 1), (5, 1), (1 << 40, 1)] {
        let kind = refusal(&reader, lba, blocks * BLOCK as usize);
        assert_eq!(kind, GibbloxErrorKind::OutOfRange, "{blocks} from {lba}");
    }
    assert_eq!(source.reads(), []);
}

#[test]
fn a_range_that_overflows_is_out_of_range() {
    let (source, backend) = (Source::new(1, BLOCK, 4), Backend::new());
    let reader = open(&source, &backend);
    let in_bytes = u64::MAX / u64::from(BLOCK);
    for lba in [u64::MAX, u64::MAX - 1, u64::MAX - 2, in_bytes, in_bytes + 1] {
        for blocks in 1..4 {
            let kind = refusal(&reader, lba, blocks * BLOCK as usize);
            assert_eq!(kind, GibbloxErrorKind::OutOfRange, "{blocks} from {lba}");
        }
    }
}

#[test]
fn the_first_block_the_last_and_the_whole_device_can_be_read() {
    for blocks in [1, 2, 7, 8, 9, 63, 64, 65, 129] {
        let (source, backend) = (Source::new(2, BLOCK, blocks), Backend::new());
        let reader = open(&source, &backend);
        check_read(&reader, &source, 0, 1);
        check_read(&reader, &source, blocks - 1, 1);
        check_read(&reader, &source, 0, blocks);
        check_read(&reader, &source, 0, blocks);
        assert_eq!(finish(reader.get_stats()).cached_blocks, blocks);
    }
}

#[test]
fn a_device_without_blocks_has_nothing_to_read() {
    let (source, backend) = (Source::new(1, BLOCK, 0), Backend::new());
    let reader = open(&source, &backend);
    assert_eq!(finish(reader.total_blocks()).unwrap(), 0);
    let read = finish(reader.read_blocks(0, &mut [], ReadContext::FOREGROUND));
    assert_eq!(read.unwrap(), 0);
    let kind = refusal(&reader, 0, BLOCK as usize);
    assert_eq!(kind, GibbloxErrorKind::OutOfRange);
    finish(reader.ensure_cached(0, 0, ReadContext::BACKGROUND)).unwrap();
    finish(reader.flush_cache()).unwrap();
    drop(reader);
    let again = open(&source, &backend);
    assert_eq!(finish(again.get_stats()).total_blocks, 0);
}

#[test]
fn a_block_of_one_byte_is_a_block() {
    let (source, backend) = (Source::new(1, 1, 20), Backend::new());
    let reader = open(&source, &backend);
    cache_blocks(&reader, &source, (0..20).step_by(3));
    check_read(&reader, &source, 0, 20);
    check_read(&open(&source, &backend), &source, 0, 20);
}

#[test]
fn the_geometry_is_the_sources() {
    let (source, backend) = (Source::new(1, 4096, 77), Backend::new());
    let reader = open(&source, &backend);
    assert_eq!(reader.block_size(), 4096);
    assert_eq!(finish(reader.total_blocks()).unwrap(), 77);
}

/// Every range of a device of six blocks, in every pattern of cached blocks.
fn exhaust<C: CacheOps>(
    reopen: bool,
    make: impl Fn(&Arc<Backend>, &Arc<Source>) -> CachedBlockReader<Arc<Source>, C>,
) {
    const BLOCKS: u64 = 6;
    for pattern in 0_u32..1 << BLOCKS {
        for lba in 0..BLOCKS {
            for blocks in 1..=BLOCKS - lba {
                let (source, backend) = (Source::new(3, BLOCK, BLOCKS), Backend::new());
                let mut reader = make(&backend, &source);
                let mut oracle = Oracle::new();
                for block in (0..BLOCKS).filter(|block| pattern & (1 << block) != 0) {
                    check_read(&reader, &source, block, 1);
                    oracle.read(block, 1);
                }
                if reopen {
                    drop(reader);
                    reader = make(&backend, &source);
                    oracle = Oracle::after_reopening(&oracle);
                }
                source.forget();
                let missing = oracle.missing(lba, blocks);
                oracle.read(lba, blocks);
                check_read(&reader, &source, lba, blocks);
                let case = format!("{pattern:06b}, {blocks} from {lba}");
                assert_eq!(source.reads(), missing, "only what is missing: {case}");
                let stats = finish(reader.get_stats());
                assert_eq!(stats.total_hits, oracle.hits(), "{case}");
                assert_eq!(stats.total_misses, oracle.misses(), "{case}");
                assert_eq!(stats.cached_blocks, oracle.cached(), "{case}");
                check_read(&reader, &source, 0, BLOCKS);
                let twice = source.fetches().iter().any(|count| *count > 1);
                assert!(!twice, "nothing is fetched twice: {case}");
            }
        }
    }
}

#[test]
fn every_range_is_right_in_every_pattern_of_cached_blocks() {
    exhaust(false, |backend, source| open(source, backend));
}

#[test]
fn every_range_is_right_in_every_pattern_that_an_earlier_process_cached() {
    exhaust(true, |backend, source| open(source, backend));
}

#[test]
fn every_range_is_right_over_a_backend_that_answers_at_once() {
    exhaust(false, |backend, source| {
        let backend = Immediate(Arc::clone(backend));
        finish(CachedBlockReader::new(Arc::clone(source), backend)).unwrap()
    });
}

#[test]
fn every_range_is_right_when_every_read_is_compared() {
    exhaust(false, |backend, source| {
        let config = CacheConfig::new().with_verify(VerifyPolicy::OnEveryRead);
        open_with(source, backend, config)
    });
}

#[test]
fn a_short_read_of_the_source_is_io_and_leaves_nothing_cached() {
    for missing in [1, BLOCK as usize - 1, BLOCK as usize, 3 * BLOCK as usize] {
        let (source, backend) = (Source::new(1, BLOCK, 8), Backend::new());
        let reader = open(&source, &backend);
        source.fail(move |call| (call.op == source::Op::Read).then_some(Fault::Short(missing)));
        assert_eq!(
            refusal(&reader, 2, 3 * BLOCK as usize),
            GibbloxErrorKind::Io
        );
        assert_eq!(finish(reader.get_stats()).cached_blocks, 0);
        source.heal();
        check_read(&reader, &source, 2, 3);
    }
}

#[test]
fn the_source_hears_who_asks() {
    let (source, backend) = (Source::new(1, BLOCK, 8), Backend::new());
    let reader = open(&source, &backend);
    source.forget();
    let mut buf = vec![0; BLOCK as usize];
    finish(reader.read_blocks(0, &mut buf, ReadContext::READAHEAD)).unwrap();
    finish(reader.ensure_cached(1, 1, ReadContext::BACKGROUND)).unwrap();
    let heard: Vec<_> = source.calls().iter().map(|call| call.ctx).collect();
    assert_eq!(heard, [ReadContext::READAHEAD, ReadContext::BACKGROUND]);
}

/// The lengths of the writes so far, longest first.
fn written(backend: &Backend) -> Vec<usize> {
    let calls = backend.calls();
    let writes = calls.iter().filter(|call| call.op == backend::Op::Write);
    let mut lengths: Vec<_> = writes.map(|call| call.len).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths
}

#[test]
fn a_warm_read_of_one_run_is_one_backend_read_into_the_callers_buffer() {
    let (source, backend) = (Source::new(1, 512, 200), Backend::new());
    let reader = open(&source, &backend);
    check_read(&reader, &source, 10, 150);
    source.forget();
    backend.forget();
    let mut buf = vec![0; 512 * 100];
    finish(reader.read_blocks(20, &mut buf, ReadContext::FOREGROUND)).unwrap();
    source.assert_bytes(20, &buf);
    assert_eq!(source.calls(), []);
    let calls = backend.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!((calls[0].op, calls[0].len), (backend::Op::Read, buf.len()));
    assert_eq!(calls[0].place, buf.as_ptr().addr());
}

#[test]
fn blocks_of_an_earlier_process_are_compared_once_and_then_cost_one_read() {
    let (source, backend) = (Source::new(1, 512, 200), Backend::new());
    check_read(&open(&source, &backend), &source, 0, 200);
    let reader = open(&source, &backend);
    source.forget();
    backend.forget();
    check_read(&reader, &source, 20, 100);
    assert_eq!(backend.count(backend::Op::Read), 2, "data and checksums");
    assert_eq!(backend.calls().len(), 2, "{:?}", backend.calls());
    backend.forget();
    check_read(&reader, &source, 20, 100);
    assert_eq!(backend.calls().len(), 1, "{:?}", backend.calls());
    assert_eq!(source.calls(), []);
}

#[test]
fn a_cold_read_of_one_run_is_one_source_read_into_the_callers_buffer_and_three_writes() {
    let (source, backend) = (Source::new(1, 512, 200), Backend::new());
    let reader = open(&source, &backend);
    source.forget();
    backend.forget();
    let mut buf = vec![0; 512 * 40];
    finish(reader.read_blocks(20, &mut buf, ReadContext::FOREGROUND)).unwrap();
    source.assert_bytes(20, &buf);
    let calls = source.calls();
    assert_eq!(source.reads(), [(20, 40)]);
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].place, buf.as_ptr().addr());
    let calls = backend.calls();
    assert_eq!(calls.len(), 3, "{calls:?}");
    let lengths = written(&backend);
    assert_eq!(lengths[..2], [512 * 40, 8 * 40], "data and checksums");
    assert!((6..=32).contains(&lengths[2]), "bits: {lengths:?}");
}

#[test]
fn a_mixed_read_costs_one_backend_read_or_one_fetch_for_each_run() {
    let (source, backend) = (Source::new(1, 512, 40), Backend::new());
    let reader = open(&source, &backend);
    for (lba, blocks) in [(4, 6), (16, 3), (25, 1)] {
        check_read(&reader, &source, lba, blocks);
    }
    source.forget();
    backend.forget();
    check_read(&reader, &source, 0, 30);
    let mut fetched = source.reads();
    fetched.sort_unstable();
    assert_eq!(fetched, [(0, 4), (10, 6), (19, 6), (26, 4)]);
    let calls = backend.calls();
    let reads = calls.iter().filter(|call| call.op == backend::Op::Read);
    let mut lengths: Vec<_> = reads.map(|call| call.len / 512).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [1, 3, 6], "each hit once");
    let lengths = written(&backend);
    let (data, rest) = lengths.split_at(4);
    assert_eq!(data, [6 * 512, 6 * 512, 4 * 512, 4 * 512]);
    assert_eq!(rest[..4], [48, 48, 32, 32], "checksums");
    assert!(rest.len() <= 8, "at most one write of bits for each run");
    assert_eq!(backend.count(backend::Op::Flush), 0);
}

#[test]
fn holes_are_fetched_side_by_side() {
    let (source, backend) = (Source::new(1, BLOCK, 20), Backend::new());
    let reader = open(&source, &backend);
    cache_blocks(&reader, &source, [2, 6, 10, 14]);
    source.forget();
    source.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(read(&reader, 0, 20));
    poller.run();
    let held: Vec<_> = source.gate.labels().iter().map(|call| call.lba).collect();
    assert_eq!(
        held,
        [0, 3, 7, 11, 15],
        "all are asked for before any answers"
    );
    let tickets: Vec<_> = source.gate.held().into_iter().rev().collect();
    for (ticket, _) in tickets {
        source.gate.release(ticket);
        poller.run();
    }
    source.assert_bytes(0, &poller.take(task).unwrap());
}

#[test]
fn no_more_fetches_are_under_way_than_the_configuration_allows() {
    for most in 1..=6 {
        let (source, backend) = (Source::new(1, BLOCK, 40), Backend::new());
        let config = CacheConfig::new().with_fetches_at_once(most);
        let reader = open_with(&source, &backend, config);
        cache_blocks(&reader, &source, (1..40).step_by(2));
        source.forget();
        source.gate.shut();
        let mut poller = Poller::new();
        let task = poller.spawn(read(&reader, 0, 40));
        poller.run();
        while source.gate.release_all() > 0 {
            poller.run();
        }
        source.assert_bytes(0, &poller.take(task).unwrap());
        assert_eq!(source.peak(), most as usize);
    }
}

#[test]
fn a_hit_waits_for_no_miss_no_flush_and_no_other_hit() {
    let (source, backend) = (Source::new(1, BLOCK, 20), Backend::new());
    let config = CacheConfig::new().with_flush_every_blocks(4);
    let reader = open_with(&source, &backend, config);
    cache_blocks(&reader, &source, 0..8);
    let mut poller = Poller::new();
    source.gate.set(|call| match call.lba {
        10 => Mode::Shut,
        _ => Mode::Open,
    });
    let miss = poller.spawn(read(&reader, 10, 1));
    poller.run();
    // One miss hangs in its data write, and one in its flush; a hit hangs in its read.
    let held_up = [backend::Op::Write, backend::Op::Flush, backend::Op::Read];
    let mut others = vec![miss];
    for (op, lba, blocks) in [(held_up[0], 11, 1), (held_up[1], 12, 4), (held_up[2], 0, 1)] {
        backend.gate.set(move |call| {
            if call.op == op && (op == backend::Op::Flush || call.len == BLOCK as usize) {
                Mode::Shut
            } else {
                Mode::Open
            }
        });
        others.push(poller.spawn(read(&reader, lba, blocks)));
        poller.run();
        backend.gate.set(|_| Mode::Open);
    }
    let held: Vec<_> = backend.gate.labels().iter().map(|call| call.op).collect();
    for op in held_up {
        assert!(held.contains(&op), "{op:?} is not held: {held:?}");
    }
    let flush = poller.spawn(async {
        reader.flush_cache().await?;
        Ok(Vec::new())
    });
    poller.run();
    for lba in 1..8 {
        check_read(&reader, &source, lba, 1);
    }
    assert!(!others.iter().any(|task| poller.is_done(*task)));
    source.gate.open();
    backend.gate.open();
    poller.run_to_end();
    poller.take(flush).unwrap();
    for (task, lba) in others.into_iter().zip([10, 11, 12, 0]) {
        source.assert_bytes(lba, &poller.take(task).unwrap());
    }
}

#[test]
fn a_backend_read_that_fails_or_is_short_is_a_miss() {
    for fault in [BackendFault::Error, BackendFault::Short] {
        let (source, backend) = (Source::new(1, BLOCK, 8), Backend::new());
        let reader = open(&source, &backend);
        check_read(&reader, &source, 0, 8);
        source.forget();
        backend.fail(move |call| (call.op == backend::Op::Read).then_some(fault));
        check_read(&reader, &source, 1, 4);
        assert_eq!(source.reads(), [(1, 4)]);
        assert!(reader.counters().backend_read_failures >= 1);
        backend.heal();
        source.forget();
        check_read(&reader, &source, 0, 8);
        check_read(&reader, &source, 0, 8);
        assert!(
            source.reads().is_empty(),
            "stored again: {:?}",
            source.reads()
        );
    }
}

#[test]
fn with_nothing_wrong_nothing_is_counted_as_wrong() {
    let (source, backend) = (Source::new(1, BLOCK, 40), Backend::new());
    let reader = open(&source, &backend);
    check_read(&reader, &source, 3, 20);
    check_read(&reader, &source, 0, 40);
    finish(reader.flush_cache()).unwrap();
    let counters = reader.counters();
    assert_eq!(counters.source_read_failures, 0, "{counters:?}");
    assert_eq!(counters.backend_failures(), 0, "{counters:?}");
    assert_eq!(counters.checksum_mismatched_blocks, 0, "{counters:?}");
}
