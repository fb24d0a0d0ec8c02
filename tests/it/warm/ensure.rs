//! `ensure_cached`, from no block at all to a device that no memory could hold.

use crate::support::backend::Op;
use crate::support::source;
use crate::support::{
    Backend, Oracle, Poller, Source, cache_blocks, check_read, finish, for_seeds, open, open_with,
};
use gibblox_cache::{CacheConfig, CachedBlockReader, MemoryCacheOps};
use gibblox_core::{BlockReader, GibbloxErrorKind, ReadContext};
use std::sync::Arc;

const BLOCK: u32 = 16;

#[test]
fn no_blocks_are_cached_at_once() {
    let (source, backend) = (Source::new(13, BLOCK, 8), Backend::new());
    let reader = open(&source, &backend);
    backend.forget();
    for lba in [0, 4, 8] {
        finish(reader.ensure_cached(lba, 0, ReadContext::BACKGROUND)).unwrap();
    }
    assert_eq!(source.reads(), []);
    assert_eq!(backend.calls(), []);
}

#[test]
fn a_range_past_the_end_is_out_of_range_and_fetches_nothing() {
    let (source, backend) = (Source::new(13, BLOCK, 8), Backend::new());
    let reader = open(&source, &backend);
    for (lba, blocks) in [
        (8, 1),
        (0, 9),
        (7, 2),
        (u64::MAX, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        let done = finish(reader.ensure_cached(lba, blocks, ReadContext::BACKGROUND));
        let kind = done.expect_err("refused").kind();
        assert_eq!(kind, GibbloxErrorKind::OutOfRange, "{blocks} from {lba}");
    }
    assert_eq!(source.reads(), []);
}

#[test]
fn the_whole_device_is_cached_in_windows_each_block_once() {
    for window_blocks in [1, 3, 4, 7, 64, 100] {
        let (source, backend) = (Source::new(13, BLOCK, 64), Backend::new());
        let config = CacheConfig::new().with_window_bytes(window_blocks * BLOCK);
        let reader = open_with(&source, &backend, config);
        finish(reader.ensure_cached(0, 64, ReadContext::BACKGROUND)).unwrap();
        assert_eq!(source.fetches(), [1; 64]);
        let widest = source.reads().into_iter().map(|(_, blocks)| blocks).max();
        assert!(
            widest <= Some(u64::from(window_blocks)),
            "{:?}",
            source.reads()
        );
        let fewest = 64_usize.div_ceil(window_blocks as usize);
        assert!(source.reads().len() <= fewest + 1, "{:?}", source.reads());
        source.forget();
        check_read(&reader, &source, 0, 64);
        assert_eq!(source.reads(), []);
    }
}

#[test]
fn a_window_is_rounded_down_to_whole_blocks_but_to_no_less_than_one() {
    for (window_bytes, blocks) in [(1, 1), (15, 1), (16, 1), (31, 1), (32, 2), (79, 4)] {
        let (source, backend) = (Source::new(13, BLOCK, 8), Backend::new());
        let config = CacheConfig::new().with_window_bytes(window_bytes);
        let reader = open_with(&source, &backend, config);
        finish(reader.ensure_cached(0, 8, ReadContext::BACKGROUND)).unwrap();
        let widest = source.reads().into_iter().map(|(_, blocks)| blocks).max();
        assert_eq!(widest, Some(blocks), "{window_bytes} bytes");
    }
}

#[test]
fn only_what_is_missing_is_fetched() {
    for_seeds(100, |rng| {
        let (source, backend) = (Source::new(13, BLOCK, 64), Backend::new());
        let config = CacheConfig::new()
            .with_window_bytes(BLOCK * (1 + rng.below(20) as u32))
            .with_windows_at_once(1 + rng.below(5) as u32);
        let reader = open_with(&source, &backend, config);
        let mut oracle = Oracle::new();
        for _ in 0..rng.below(12) {
            let (lba, blocks) = rng.run(64, 8);
            check_read(&reader, &source, lba, blocks);
            oracle.cache(lba, blocks);
        }
        source.forget();
        let (lba, blocks) = rng.run(64, 64);
        finish(reader.ensure_cached(lba, blocks, ReadContext::BACKGROUND)).unwrap();
        let mut missing = vec![0; 64];
        for (lba, blocks) in oracle.missing(lba, blocks) {
            missing[lba as usize..(lba + blocks) as usize].fill(1);
        }
        assert_eq!(source.fetches(), missing);
        oracle.cache(lba, blocks);
        let stats = finish(reader.get_stats());
        assert_eq!(stats.cached_blocks, oracle.cached());
    });
}

#[test]
fn several_windows_are_under_way_at_once_and_no_more_than_configured() {
    for windows in 1..=5 {
        let (source, backend) = (Source::new(13, BLOCK, 60), Backend::new());
        let config = CacheConfig::new()
            .with_window_bytes(2 * BLOCK)
            .with_windows_at_once(windows);
        let reader = open_with(&source, &backend, config);
        source.forget();
        source.gate.shut();
        let mut poller = Poller::new();
        let task = poller.spawn(reader.ensure_cached(0, 60, ReadContext::BACKGROUND));
        poller.run();
        let mut rounds = 0;
        while let [.., (ticket, _)] = source.gate.held()[..] {
            let held = source.gate.held().len();
            let left = 30 - rounds;
            assert_eq!(held, left.min(windows as usize), "after {rounds} windows");
            source.gate.release(ticket);
            poller.run();
            rounds += 1;
        }
        poller.take(task).unwrap();
        assert_eq!(source.peak(), windows as usize);
        assert_eq!(source.fetches(), [1; 60]);
    }
}

#[test]
fn a_bad_block_is_reported_as_itself_and_spoils_no_window_but_its_own() {
    let (source, backend) = (Source::new(13, BLOCK, 40), Backend::new());
    let config = CacheConfig::new().with_window_bytes(4 * BLOCK);
    let reader = open_with(&source, &backend, config);
    source.fail_block(17, "block 17 is bad");
    let done = finish(reader.ensure_cached(0, 40, ReadContext::BACKGROUND));
    assert_eq!(done.unwrap_err().message(), Some("block 17 is bad"));
    for lba in (0..40).filter(|lba| *lba != 17) {
        check_read(&reader, &source, lba, 1);
    }
    source.heal();
    finish(reader.ensure_cached(0, 40, ReadContext::BACKGROUND)).unwrap();
    source.forget();
    check_read(&reader, &source, 0, 40);
    assert_eq!(source.reads(), []);
}

#[test]
fn it_is_ok_only_when_every_block_is_valid() {
    let (source, backend) = (Source::new(13, BLOCK, 40), Backend::new());
    let config = CacheConfig::new().with_window_bytes(4 * BLOCK);
    let reader = open_with(&source, &backend, config);
    cache_blocks(&reader, &source, [3, 4, 5]);
    backend.forget();
    for nth in 0.. {
        backend
            .fail(move |call| (call.index == nth).then_some(crate::support::backend::Fault::Error));
        let done = finish(reader.ensure_cached(0, 40, ReadContext::BACKGROUND));
        backend.heal();
        let cached = finish(reader.get_stats()).cached_blocks;
        match done {
            Ok(()) => assert_eq!(cached, 40),
            Err(error) => assert!(error.message().unwrap().starts_with("backend: ")),
        }
        if cached == 40 {
            break;
        }
        backend.forget();
    }
}

#[test]
fn it_reads_no_block_back() {
    let (source, backend) = (Source::new(13, BLOCK, 40), Backend::new());
    let reader = open(&source, &backend);
    backend.forget();
    finish(reader.ensure_cached(0, 40, ReadContext::BACKGROUND)).unwrap();
    assert_eq!(backend.count(Op::Read), 0);
}

/// A device of 1 TiB in blocks of 64 KiB.
const HUGE_BLOCK: u32 = 64 << 10;
const HUGE_BLOCKS: u64 = 1 << 24;

#[test]
fn a_huge_device_whose_first_block_is_bad_is_given_up_within_a_few_windows() {
    let source = Source::new(13, HUGE_BLOCK, HUGE_BLOCKS);
    source.fail_block(0, "block 0 is bad");
    let opening = CachedBlockReader::new(Arc::clone(&source), MemoryCacheOps::new());
    let reader = finish(opening).unwrap();
    let done = finish(reader.ensure_cached(0, HUGE_BLOCKS, ReadContext::BACKGROUND));
    assert_eq!(done.unwrap_err().message(), Some("block 0 is bad"));
    assert!(source.reads().len() <= 8, "{:?}", source.reads());
    let mut buf = vec![0; HUGE_BLOCK as usize];
    finish(reader.read_blocks(HUGE_BLOCKS - 1, &mut buf, ReadContext::FOREGROUND)).unwrap();
    source.assert_bytes(HUGE_BLOCKS - 1, &buf);
}

#[test]
fn a_dropped_prefetch_of_a_huge_device_has_asked_for_a_few_windows() {
    let source = Source::new(13, HUGE_BLOCK, HUGE_BLOCKS);
    let opening = CachedBlockReader::new(Arc::clone(&source), MemoryCacheOps::new());
    let reader = finish(opening).unwrap();
    source.gate.shut();
    let mut poller = Poller::new();
    poller.spawn(reader.ensure_cached(0, HUGE_BLOCKS, ReadContext::BACKGROUND));
    poller.run();
    assert_eq!(source.gate.held().len(), 4);
    let asked: u64 = source.reads().iter().map(|(_, blocks)| blocks).sum();
    assert_eq!(asked, 4 * 16, "four windows of 1 MiB");
    drop(poller);
    source.gate.open();
    source.fail(|call| {
        let late = call.op == source::Op::Read && call.lba >= 16;
        late.then(|| source::Fault::io("enough"))
    });
    let done = finish(reader.ensure_cached(0, 16, ReadContext::BACKGROUND));
    done.unwrap();
}
