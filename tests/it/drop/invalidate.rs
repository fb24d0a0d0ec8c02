//! Looking inside, and dropping blocks of a source that has changed: what is dropped does not come back.
//!
//! The source is renewed before blocks are dropped: from then on it holds other bytes under the same identity, so bytes
//! that come back are seen.

use crate::support::backend::{Call, Fault, Op};
use crate::support::files::{Regions, file_of_ours, file_of_published};
use crate::support::gate::Mode;
use crate::support::poll::drop_after;
use crate::support::powercut::PowerCut;
use crate::support::{
    Backend, Immediate, Oracle, Poller, Reader, Source, cache_blocks, check_read, finish,
    for_seeds, open, open_with, read,
};
use async_trait::async_trait;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, MemoryCacheOps};
use gibblox_core::{GibbloxErrorKind, GibbloxResult, ReadContext};
use std::collections::HashSet;
use std::sync::Arc;

const BLOCK: u32 = 16;
const BLOCKS: u64 = 11;

type FileOf = fn(&Arc<Source>, Range<u64>) -> Vec<u8>;

/// Files of either crate.
const FILES: [FileOf; 2] = [
    |source, blocks| file_of_ours(source, blocks),
    |source, blocks| file_of_published(source, blocks),
];

/// A full file, over which the source has changed.
fn outdated(file_of: FileOf) -> (Arc<Source>, Arc<Backend>) {
    let source = Source::new(21, BLOCK, BLOCKS);
    let backend = Backend::with_bytes(file_of(&source, 0..BLOCKS));
    source.renew();
    source.forget();
    (source, backend)
}

/// Which content each block of the device is read with.
fn read_generations<C: CacheOps>(
    reader: &CachedBlockReader<Arc<Source>, C>,
    source: &Source,
) -> Vec<u64> {
    let bytes = finish(read(reader, 0, source.blocks())).expect("a healthy source reads");
    source.generations(0, &bytes)
}

/// One for the blocks of `range`, else zero.
fn ones(range: &Range<u64>) -> Vec<u64> {
    (0..BLOCKS)
        .map(|lba| u64::from(range.contains(&lba)))
        .collect()
}

fn ranges() -> impl Iterator<Item = Range<u64>> {
    (0..=BLOCKS).flat_map(|start| (start..=BLOCKS).map(move |end| start..end))
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

// ---- looking ----

/// Compares what the reader tells of itself with the oracle.
fn check_inside<C: CacheOps>(
    reader: &CachedBlockReader<Arc<Source>, C>,
    oracle: &Oracle,
    total: u64,
) {
    let mut lba = 0;
    for run in reader.cached_runs() {
        assert!(run.start < run.end, "a run is not empty: {run:?}");
        assert!(lba == 0 || run.start > lba, "runs that adjoin are one");
        assert_eq!(
            oracle.missing(lba, run.start - lba),
            if run.start == lba {
                vec![]
            } else {
                vec![(lba, run.start - lba)]
            }
        );
        assert_eq!(oracle.missing(run.start, len(&run)), []);
        lba = run.end;
    }
    let behind = total - lba;
    assert_eq!(
        oracle
            .missing(lba, behind)
            .iter()
            .map(|run| run.1)
            .sum::<u64>(),
        behind
    );
}

#[test]
fn what_is_cached_is_told_as_it_is_for_every_set_of_blocks_and_every_range() {
    let total = 9;
    for set in 0..1_u64 << total {
        let (source, backend) = (Source::new(21, 1, total), Backend::new());
        let reader = open(&source, &backend);
        let mut oracle = Oracle::new();
        for lba in (0..total).filter(|lba| set >> lba & 1 == 1) {
            check_read(&reader, &source, lba, 1);
            oracle.cache(lba, 1);
        }
        check_inside(&reader, &oracle, total);
        check_inside(&open(&source, &backend), &oracle, total);
        for start in 0..=total {
            for blocks in 0..=total - start {
                let is_cached = reader.is_cached(start, blocks).expect("in range");
                assert_eq!(is_cached, oracle.missing(start, blocks).is_empty());
            }
        }
    }
}

#[test]
fn runs_may_be_of_any_length() {
    let total = 70_000;
    for_seeds(20, |rng| {
        let source = Source::new(21, 1, total);
        let reader = finish(CachedBlockReader::new(
            Arc::clone(&source),
            MemoryCacheOps::new(),
        ));
        let reader = reader.expect("opens");
        let mut oracle = Oracle::new();
        for _ in 0..rng.below(12) {
            let (lba, blocks) = rng.run(total, 30_000);
            check_read(&reader, &source, lba, blocks);
            oracle.cache(lba, blocks);
            check_inside(&reader, &oracle, total);
        }
    });
}

#[test]
fn looking_reads_nothing_and_counts_nothing() {
    let (source, backend) = outdated(FILES[0]);
    let reader = open(&source, &backend);
    backend.forget();
    source.forget();
    assert!(reader.is_cached(0, BLOCKS).unwrap());
    assert!(reader.cached_runs().eq(core::iter::once(0..BLOCKS)));
    assert_eq!((backend.calls(), source.calls()), (vec![], vec![]));
    let stats = finish(reader.get_stats());
    assert_eq!((stats.total_hits, stats.total_misses), (0, 0));
}

#[test]
fn a_range_past_the_end_is_out_of_range() {
    let (source, backend) = outdated(FILES[0]);
    let reader = open(&source, &backend);
    backend.forget();
    for (lba, blocks) in [
        (BLOCKS, 1),
        (0, BLOCKS + 1),
        (u64::MAX, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        let error = reader.is_cached(lba, blocks).unwrap_err();
        assert_eq!(error.kind(), GibbloxErrorKind::OutOfRange);
        let error = finish(reader.invalidate(lba, blocks)).unwrap_err();
        assert_eq!(error.kind(), GibbloxErrorKind::OutOfRange);
    }
    for lba in [0, BLOCKS] {
        assert!(reader.is_cached(lba, 0).unwrap());
        finish(reader.invalidate(lba, 0)).unwrap();
    }
    assert_eq!(backend.calls(), [], "nothing was to be done");
    assert!(reader.is_cached(0, BLOCKS).unwrap());
}

#[test]
fn a_device_without_blocks_has_nothing_to_tell_and_nothing_to_drop() {
    let (source, backend) = (Source::new(21, BLOCK, 0), Backend::new());
    let reader = open(&source, &backend);
    assert_eq!(reader.cached_runs().next(), None);
    finish(reader.clear()).unwrap();
}

#[test]
fn nothing_is_valid_while_the_file_cannot_be_opened() {
    let (source, backend) = outdated(FILES[0]);
    backend.die();
    let reader = open(&source, &backend);
    assert!(!reader.is_cached(0, 1).unwrap());
    assert_eq!(reader.cached_runs().next(), None);
    let error = finish(reader.clear()).unwrap_err();
    assert!(error.message().unwrap().starts_with("backend: "), "{error}");
    backend.heal();
    finish(reader.clear()).unwrap();
    assert_eq!(read_generations(&reader, &source), [1; BLOCKS as usize]);
}

#[test]
fn runs_are_told_while_blocks_come_and_go() {
    let (source, backend) = (Source::new(21, BLOCK, 400), Backend::new());
    let reader = open(&source, &backend);
    for lba in [10, 100, 200, 300] {
        check_read(&reader, &source, lba, 10);
    }
    let mut runs = reader.cached_runs();
    assert_eq!(runs.next(), Some(10..20));
    // In front of it, behind it, at its end, and away.
    check_read(&reader, &source, 0, 5);
    check_read(&reader, &source, 20, 3);
    check_read(&reader, &source, 150, 5);
    finish(reader.invalidate(200, 10)).unwrap();
    finish(reader.invalidate(305, 1)).unwrap();
    assert!(runs.eq([20..23, 100..110, 150..155, 300..305, 306..310]));
}

// ---- dropping ----

#[test]
fn what_is_dropped_is_fetched_anew_and_nothing_else_is() {
    for file_of in FILES {
        for range in ranges() {
            for read_before in [false, true] {
                let (source, backend) = outdated(file_of);
                let reader = open(&source, &backend);
                if read_before {
                    assert_eq!(read_generations(&reader, &source), [0; BLOCKS as usize]);
                }
                finish(reader.invalidate(range.start, len(&range))).unwrap();
                let left = [0..range.start, range.end..BLOCKS];
                let left = left.into_iter().filter(|run| !run.is_empty());
                if !range.is_empty() {
                    assert!(reader.cached_runs().eq(left));
                }
                // In the next process as in this one.
                let next = Backend::with_bytes(backend.bytes());
                for reader in [&reader, &open(&source, &next)] {
                    source.forget();
                    assert_eq!(read_generations(reader, &source), ones(&range));
                    let fetched: u64 = source.reads().iter().map(|(_, blocks)| blocks).sum();
                    assert_eq!(fetched, len(&range));
                    source.forget();
                    assert_eq!(read_generations(reader, &source), ones(&range));
                    assert_eq!(source.reads(), [], "and is kept from then on");
                }
            }
        }
    }
}

#[test]
fn all_is_dropped_by_clearing() {
    for file_of in FILES {
        let (source, backend) = outdated(file_of);
        let reader = open(&source, &backend);
        finish(reader.clear()).unwrap();
        assert_eq!(reader.cached_runs().next(), None);
        assert_eq!(finish(reader.get_stats()).cached_blocks, 0);
        assert_eq!(
            read_generations(&open(&source, &backend), &source),
            [1; BLOCKS as usize]
        );
    }
}

#[test]
fn dropping_is_one_write_of_bits_then_of_checksums_then_a_flush() {
    let (source, backend) = outdated(FILES[0]);
    let regions = Regions::of(&source);
    let reader = open(&source, &backend);
    backend.forget();
    finish(reader.invalidate(2, 3)).unwrap();
    let calls: Vec<_> = backend
        .calls()
        .iter()
        .map(|call| (call.op, call.offset as usize, call.len))
        .collect();
    assert_eq!(
        calls,
        [
            (Op::Write, regions.bitmap, 1),
            (Op::Read, regions.checksums + 16, 24),
            (Op::Write, regions.checksums + 16, 24),
            (Op::Flush, 0, 0),
        ]
    );
    backend.forget();
    finish(reader.invalidate(2, 3)).unwrap();
    assert_eq!(
        backend.count(Op::Write),
        1,
        "the checksums are gone already"
    );
    assert_eq!(backend.count(Op::Flush), 1, "but nobody knows of a flush");
}

#[test]
fn blocks_are_not_valid_in_memory_before_anything_is_written() {
    let (source, backend) = outdated(FILES[0]);
    let reader = open(&source, &backend);
    backend.gate.shut();
    let mut poller = Poller::new();
    poller.spawn(reader.invalidate(2, 3));
    poller.run();
    assert_eq!(backend.gate.labels()[0].op, Op::Write);
    assert!(reader.cached_runs().eq([0..2, 5..BLOCKS]));
}

/// Counts what goes to a sparse memory.
#[derive(Debug, Default)]
struct Counting {
    memory: MemoryCacheOps,
    reads: AtomicU64,
    written_bytes: AtomicU64,
}

#[async_trait]
impl CacheOps for Counting {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.memory.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let bytes = data.len() as u64;
        self.written_bytes.fetch_add(bytes, Ordering::SeqCst);
        self.memory.write_at(offset, data).await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.memory.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.memory.flush().await
    }
}

#[test]
fn dropping_a_large_device_costs_what_was_cached_of_it() {
    let blocks = 1 << 32;
    let source = Source::new(21, BLOCK, blocks);
    let cache = Arc::new(Counting::default());
    let reader = finish(CachedBlockReader::new(
        Arc::clone(&source),
        Arc::clone(&cache),
    ));
    let reader = reader.expect("opens");
    let cached = [5, 40_000, 1 << 20, blocks - 3];
    for lba in cached {
        check_read(&reader, &source, lba, 2);
    }
    source.renew();
    cache.reads.store(0, Ordering::SeqCst);
    cache.written_bytes.store(0, Ordering::SeqCst);
    finish(reader.clear()).unwrap();
    assert_eq!(reader.cached_runs().next(), None);
    // 32 Ki blocks have 4 KiB of bits and 256 KiB of checksums, of which 4 KiB are set.
    let reads = cache.reads.load(Ordering::SeqCst);
    assert_eq!(reads, 4 * (256 / 4));
    let written = cache.written_bytes.load(Ordering::SeqCst);
    assert_eq!(written, 4 * ((4 << 10) + (4 << 10)));
    for lba in cached {
        check_read(&reader, &source, lba, 2);
    }
    assert_eq!(reader.cached_runs().count(), 4);
}

/// Which bytes a read got, or nothing for what is no read.
type Got = Option<Vec<u8>>;

#[test]
fn what_was_asked_for_before_is_served_and_not_kept() {
    // A fetch of old bytes that is held at each of its calls in turn while its blocks are dropped.
    for immediate in [false, true] {
        for held_at in 0..5 {
            let source = Source::new(21, BLOCK, BLOCKS);
            let backend = Backend::new();
            let was_held = if immediate {
                let cache = Immediate(Arc::clone(&backend));
                old_fetch(&source, &backend, cache, held_at)
            } else {
                let cache = Arc::clone(&backend);
                old_fetch(&source, &backend, cache, held_at)
            };
            let calls = if immediate { 1 } else { 4 };
            assert_eq!(was_held, held_at < calls, "{held_at}");
        }
    }
}

/// Whether the fetch was under way when its blocks were dropped.
fn old_fetch<C: CacheOps>(
    source: &Arc<Source>,
    backend: &Arc<Backend>,
    cache: C,
    held_at: usize,
) -> bool {
    let reader = finish(CachedBlockReader::new(Arc::clone(source), cache)).unwrap();
    let mut poller: Poller<'_, Got> = Poller::new();
    source.gate.shut();
    backend.gate.shut();
    let old = poller.spawn(async { Some(read(&reader, 2, 4).await.unwrap()) });
    poller.run();
    for _ in 0..held_at {
        source.gate.release_all();
        backend.gate.release_all();
        poller.run();
    }
    source.renew();
    let dropping = poller.spawn(async {
        reader.invalidate(1, 4).await.unwrap();
        None
    });
    poller.run();
    let is_under_way = !poller.is_done(old);
    source.gate.open();
    backend.gate.open();
    poller.run();
    assert!(poller.take(dropping).is_none());
    let bytes = poller.take(old).unwrap();
    assert_eq!(source.generations(2, &bytes), [0; 4], "it asked before");
    source.forget();
    check_read(&reader, source, 1, 4);
    assert_eq!(source.reads(), [(1, 4)]);
    is_under_way
}

#[test]
fn the_source_is_not_waited_for() {
    let (source, backend) = (Source::new(21, BLOCK, BLOCKS), Backend::new());
    let reader = open(&source, &backend);
    let mut poller: Poller<'_, Got> = Poller::new();
    source.gate.shut();
    let old = poller.spawn(async { Some(read(&reader, 2, 4).await.unwrap()) });
    poller.run();
    source.renew();
    let dropping = poller.spawn(async {
        reader.clear().await.unwrap();
        None
    });
    poller.run();
    assert!(poller.is_done(dropping), "the fetch is void");
    source.gate.open();
    poller.run();
    let bytes = poller.take(old).unwrap();
    assert_eq!(source.generations(2, &bytes), [0; 4], "it asked before");
    assert_eq!(reader.cached_runs().next(), None, "and nothing is kept");
}

#[test]
fn fetches_elsewhere_are_not_waited_for() {
    let (source, backend) = (Source::new(21, BLOCK, BLOCKS), Backend::new());
    let reader = open(&source, &backend);
    let mut poller: Poller<'_, Got> = Poller::new();
    source.gate.shut();
    for lba in [1, 6] {
        let reader = &reader;
        poller.spawn(async move { read(reader, lba, 1).await.ok() });
    }
    poller.run();
    assert_eq!(source.gate.held().len(), 2);
    let dropping = poller.spawn(async {
        reader.invalidate(2, 4).await.unwrap();
        None
    });
    poller.run();
    assert!(poller.is_done(dropping));
}

#[test]
fn readers_of_what_is_being_dropped_wait_for_it_and_fetch_it_once() {
    let (source, backend) = outdated(FILES[0]);
    let reader = open(&source, &backend);
    let mut poller: Poller<'_, Got> = Poller::new();
    backend.gate.shut();
    let dropping = poller.spawn(async {
        reader.invalidate(2, 4).await.unwrap();
        None
    });
    poller.run();
    let readers: Vec<_> = (0..5)
        .map(|_| poller.spawn(async { Some(read(&reader, 2, 4).await.unwrap()) }))
        .collect();
    let others = poller.spawn(async {
        reader.clear().await.unwrap();
        None
    });
    poller.run();
    backend.gate.open();
    poller.run_to_end();
    for id in readers {
        let bytes = poller.take(id).unwrap();
        assert_eq!(source.generations(2, &bytes), [1; 4]);
    }
    for id in [dropping, others] {
        poller.take(id);
    }
    assert!(source.reads().len() <= 2, "once, or twice if dropped twice");
}

#[test]
fn a_dead_backend_is_an_error_and_nothing_is_served_from_it_all_the_same() {
    for file_of in FILES {
        for dead in [Op::Write, Op::Flush] {
            let (source, backend) = outdated(file_of);
            let reader = open(&source, &backend);
            assert_eq!(read_generations(&reader, &source), [0; BLOCKS as usize]);
            backend.fail_all(dead);
            let error = finish(reader.invalidate(1, 9)).unwrap_err();
            assert!(error.message().unwrap().starts_with("backend: "), "{error}");
            assert!((1..10).all(|lba| !reader.is_cached(lba, 1).unwrap()));
            check_read(&reader, &source, 1, 9);
            backend.heal();
            finish(reader.invalidate(1, 9)).unwrap();
            let generations = read_generations(&open(&source, &backend), &source);
            assert_eq!(generations[1..10], [1; 9]);
        }
    }
}

#[test]
fn all_is_dropped_for_this_process_though_the_first_write_fails() {
    let (source, backend) = outdated(FILES[0]);
    let reader = open(&source, &backend);
    finish(reader.invalidate(5, 1)).unwrap();
    backend.gate.shut();
    backend.fail_all(Op::Write);
    let mut poller: Poller<'_, Got> = Poller::new();
    poller.spawn(async { read(&reader, 5, 1).await.ok() });
    poller.run();
    // The fetch is being stored.
    backend.gate.set(|_| Mode::Open);
    let dropping = poller.spawn(async {
        reader.clear().await.unwrap_err();
        None
    });
    poller.run();
    assert!(
        reader.cached_runs().eq(core::iter::once(6..BLOCKS)),
        "the fetch is in between"
    );
    backend.gate.open();
    poller.run();
    poller.take(dropping);
    assert_eq!(reader.cached_runs().next(), None);
}

/// What is done while a backend fails: caches old bytes, drops some, caches new ones, and drops them again.
fn drop_and_fetch<C: CacheOps>(source: &Arc<Source>, backend: &Arc<Backend>, cache: C) {
    let reader = finish(CachedBlockReader::new(Arc::clone(source), cache)).unwrap();
    let mut at_least = [0; BLOCKS as usize];
    let check = |at_least: &[u64]| {
        for (got, want) in read_generations(&reader, source).iter().zip(at_least) {
            assert!(got >= want, "what was dropped came back");
        }
    };
    check(&at_least);
    for range in [2..7, 0..BLOCKS, 5..6] {
        let now = source.renew();
        match finish(reader.invalidate(range.start, len(&range))) {
            Ok(()) => at_least[range.start as usize..range.end as usize].fill(now),
            Err(error) => {
                let message = error.message().unwrap();
                assert!(message.starts_with("backend: "), "{error}");
            }
        }
        let next = open(source, &Backend::with_bytes(backend.bytes()));
        for (got, want) in read_generations(&next, source).iter().zip(&at_least) {
            assert!(
                got >= want,
                "what was dropped came back in the next process"
            );
        }
        check(&at_least);
    }
    backend.heal();
    source.renew();
    finish(reader.clear()).unwrap();
    check_read(&reader, source, 0, BLOCKS);
    check_read(&open(source, backend), source, 0, BLOCKS);
}

#[test]
fn whatever_backend_call_fails_what_was_dropped_with_ok_does_not_come_back() {
    let mut runs = 0;
    for file_of in FILES {
        let (source, backend) = outdated(file_of);
        let has_checksums = backend.bytes()[8] == 1;
        drop_and_fetch(&source, &backend, Arc::clone(&backend));
        let calls = backend.calls().len();
        assert!(calls > 20, "it does something");
        for index in 0..calls {
            let mut faults = vec![Fault::Error, Fault::Torn, Fault::Short];
            // Without checksums, bits that a failed write makes up stand for whatever lies there.
            faults.extend(has_checksums.then_some(Fault::Garbage));
            for fault in faults {
                for for_ever in [false, true] {
                    let fails = move |call: &Call| {
                        let now = call.index == index || for_ever && call.index > index;
                        now.then_some(fault)
                    };
                    let (source, backend) = outdated(file_of);
                    backend.fail(fails);
                    drop_and_fetch(&source, &backend, Arc::clone(&backend));
                    let (source, backend) = outdated(file_of);
                    backend.fail(fails);
                    drop_and_fetch(&source, &backend, Immediate(Arc::clone(&backend)));
                    runs += 2;
                }
            }
        }
    }
    println!("{runs} runs");
}

#[test]
fn a_flush_of_somebody_else_that_fails_meanwhile_is_told() {
    let (source, backend) = outdated(FILES[0]);
    let reader = open(&source, &backend);
    backend.gate.set(|call| match call.op {
        Op::Flush => Mode::Shut,
        _ => Mode::Open,
    });
    let mut fails = true;
    backend.fail(move |call| {
        (call.op == Op::Flush && core::mem::take(&mut fails)).then_some(Fault::Error)
    });
    let mut poller = Poller::new();
    let other = poller.spawn(reader.flush_cache());
    poller.run();
    let mut poller_of_drop = Poller::new();
    let dropping = poller_of_drop.spawn(reader.invalidate(2, 3));
    poller_of_drop.run();
    assert_eq!(backend.gate.release_all(), 2);
    poller.run();
    poller.take(other).unwrap_err();
    poller_of_drop.run();
    let error = poller_of_drop.take(dropping).unwrap_err();
    assert_eq!(error.kind(), GibbloxErrorKind::Io);
    assert!(
        error.message().unwrap().starts_with("a flush failed"),
        "{error}"
    );
    backend.gate.open();
    backend.forget();
    finish(reader.invalidate(2, 3)).unwrap();
    let writes = backend.count(Op::Write);
    assert_eq!(
        writes, 2,
        "zeros that are read need not be those of the medium"
    );
}

// ---- the power goes ----

/// Opens every image of the cuts from the `first` on, and checks that the blocks of `range` hold the newest content.
fn check_images(disk: &PowerCut, first: usize, source: &Arc<Source>, range: &Range<u64>) -> usize {
    let mut images = HashSet::new();
    for cut in &disk.cuts()[first..] {
        let few_enough = cut.every_image(1 << 16, |image| {
            if images.insert(image.to_vec()) {
                let reader = open(source, &Backend::with_bytes(image.to_vec()));
                for (lba, generation) in (0..).zip(read_generations(&reader, source)) {
                    let is_newest = generation == source.generation();
                    assert!(is_newest || !range.contains(&lba), "block {lba} came back");
                }
            }
        });
        assert!(few_enough, "too many images of one cut");
    }
    images.len()
}

fn over(
    disk: &Arc<PowerCut>,
    source: &Arc<Source>,
) -> CachedBlockReader<Arc<Source>, Arc<PowerCut>> {
    let opening = CachedBlockReader::open(
        Arc::clone(source),
        Arc::clone(disk),
        CacheConfig::new().with_flush_every_blocks(3),
    );
    finish(opening).expect("opens")
}

#[test]
fn after_a_power_cut_what_was_dropped_does_not_come_back() {
    let mut images = 0;
    for file_of in FILES {
        for range in ranges().filter(|range| !range.is_empty()) {
            for flushed in [false, true] {
                let source = Source::new(21, BLOCK, BLOCKS);
                let disk = PowerCut::new(if flushed {
                    file_of(&source, 0..BLOCKS)
                } else {
                    file_of(&source, 0..3)
                });
                let reader = over(&disk, &source);
                finish(read(&reader, 0, BLOCKS)).unwrap();
                source.renew();
                finish(reader.invalidate(range.start, len(&range))).unwrap();
                let cuts = disk.cuts();
                assert_eq!(
                    cuts[cuts.len() - 1].pending(),
                    0,
                    "nothing is left to chance"
                );
                images += check_images(&disk, cuts.len() - 1, &source, &range);
            }
        }
    }
    println!("{images} images");
}

#[test]
fn after_a_power_cut_while_it_is_fetched_anew_what_was_dropped_does_not_come_back() {
    let mut images = 0;
    for range in [0..1, 2..3, 1..4, 0..BLOCKS] {
        for block_size in [16, 256, 512] {
            let source = Source::new(21, block_size, BLOCKS);
            let disk = PowerCut::new(file_of_ours(&source, 0..BLOCKS));
            let reader = over(&disk, &source);
            finish(read(&reader, 0, BLOCKS)).unwrap();
            source.renew();
            finish(reader.invalidate(range.start, len(&range))).unwrap();
            let first = disk.cuts().len() - 1;
            for lba in range.clone().take(2) {
                finish(read(&reader, lba, 1)).unwrap();
            }
            images += check_images(&disk, first, &source, &range);
        }
    }
    assert!(images > 100, "only {images} images");
    println!("{images} images");
}

#[test]
fn before_it_is_done_a_power_cut_leaves_each_block_old_or_new() {
    let source = Source::new(21, BLOCK, BLOCKS);
    for file_of in FILES {
        let disk = PowerCut::new(file_of(&source, 0..BLOCKS));
        let reader = over(&disk, &source);
        source.renew();
        finish(reader.invalidate(2, 7)).unwrap();
        assert!(check_images(&disk, 0, &source, &(0..0)) > 1);
    }
}

#[test]
fn what_a_dropped_fetch_left_behind_does_not_come_back_after_a_power_cut() {
    // Old bytes and their checksum are in the file, and no bit: the bit that a new fetch sets must not stand for them.
    let mut images = 0;
    for polls in 0.. {
        let source = Source::new(21, 512, 3);
        let disk = PowerCut::new(file_of_ours(&source, 0..0));
        let reader = over(&disk, &source);
        disk.gate.once();
        let done = drop_after(read(&reader, 1, 1), polls);
        disk.gate.open();
        source.renew();
        finish(reader.invalidate(1, 1)).unwrap();
        let first = disk.cuts().len() - 1;
        finish(read(&reader, 1, 1)).unwrap();
        images += check_images(&disk, first, &source, &(1..2));
        if done {
            assert!(polls > 4, "the fetch was dropped in the middle");
            break;
        }
    }
    println!("{images} images");
}

#[test]
fn what_an_earlier_process_left_without_a_bit_does_not_come_back_beside_what_was_cached() {
    // As above, but whoever drops it does not know that it was ever fetched. A block that is valid near it is enough.
    let mut images = 0;
    for polls in 0.. {
        let source = Source::new(21, 512, 3);
        let disk = PowerCut::new(file_of_ours(&source, 0..1));
        let earlier = over(&disk, &source);
        disk.gate.once();
        let done = drop_after(read(&earlier, 1, 1), polls);
        disk.gate.open();
        drop(earlier);
        source.renew();
        let reader = over(&disk, &source);
        finish(reader.invalidate(1, 1)).unwrap();
        let first = disk.cuts().len() - 1;
        finish(read(&reader, 1, 1)).unwrap();
        images += check_images(&disk, first, &source, &(1..2));
        if done {
            assert!(polls > 4, "the fetch was dropped in the middle");
            break;
        }
    }
    println!("{images} images");
}

#[test]
fn a_dropped_call_is_done_by_the_next() {
    // Dropped after each poll, then called again over a medium that then loses power.
    for file_of in FILES {
        for polls in 0.. {
            let source = Source::new(21, BLOCK, BLOCKS);
            let disk = PowerCut::new(file_of(&source, 0..BLOCKS));
            let reader = over(&disk, &source);
            source.renew();
            disk.gate.once();
            let done = drop_after(reader.invalidate(2, 7), polls);
            disk.gate.open();
            if !done {
                finish(reader.invalidate(2, 7)).unwrap();
            }
            let first = disk.cuts().len() - 1;
            if file_of(&source, 0..1)[8] == 1 {
                finish(read(&reader, 3, 1)).unwrap();
            }
            check_images(&disk, first, &source, &(2..9));
            if done {
                assert!(polls > 2, "no await was the last");
                break;
            }
        }
    }
}

#[test]
fn ensuring_beside_dropping_comes_to_an_end() {
    for_seeds(200, |rng| {
        let (source, backend) = (Source::new(21, BLOCK, BLOCKS), Backend::new());
        let config = CacheConfig::new().with_window_bytes(2 * BLOCK);
        let reader: Reader = open_with(&source, &backend, config);
        cache_blocks(&reader, &source, (0..BLOCKS).filter(|_| rng.chance(50)));
        source.renew();
        source.gate.shut();
        backend.gate.shut();
        let mut poller = Poller::new();
        for _ in 0..6 {
            let (lba, blocks) = rng.run(BLOCKS, BLOCKS);
            if rng.chance(50) {
                let ctx = ReadContext::BACKGROUND;
                let ensuring = reader.ensure_cached(lba, blocks, ctx);
                poller.spawn(Box::pin(ensuring) as core::pin::Pin<Box<dyn Future<Output = _>>>);
            } else {
                poller.spawn(Box::pin(reader.invalidate(lba, blocks)));
            }
        }
        loop {
            let woken = poller.woken();
            let held = [source.gate.held().len(), backend.gate.held().len()];
            if !woken.is_empty() && rng.chance(50) {
                poller.poll(woken[rng.index(woken.len())]);
            } else if held[0] > 0 && rng.chance(50) {
                source
                    .gate
                    .release(source.gate.held()[rng.index(held[0])].0);
            } else if held[1] > 0 {
                backend
                    .gate
                    .release(backend.gate.held()[rng.index(held[1])].0);
            } else if woken.is_empty() && held == [0, 0] {
                break;
            }
        }
        source.gate.open();
        backend.gate.open();
        poller.run_to_end();
        for (_, done) in poller.take_done() {
            done.unwrap();
        }
        finish(reader.clear()).unwrap();
        check_read(&reader, &source, 0, BLOCKS);
    });
}
