//! Dropping blocks of a source that has changed: what is dropped does not come back.
//!
//! The source is renewed before blocks are dropped: from then on it holds other bytes under the same identity, so bytes
//! that come back are seen.

use crate::support::backend::{Call, Fault, Op};
use crate::support::files::{Regions, file_of_ours, file_of_published};
use crate::support::gate::Mode;
use crate::support::world::{Plan, SEED};
use crate::support::{
    Backend, Poller, Source, World, check_read, finish, for_seeds, open, read, run_by_chance,
};
use async_trait::async_trait;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, MemoryCacheOps};
use gibblox_core::{GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};
use std::sync::Arc;

pub(super) const BLOCK: u32 = 16;
pub(super) const BLOCKS: u64 = 11;

pub(super) type FileOf = fn(&Arc<Source>, Range<u64>) -> Vec<u8>;

/// Files of either crate.
pub(super) const FILES: [FileOf; 2] = [
    |source, blocks| file_of_ours(source, blocks),
    |source, blocks| file_of_published(source, blocks),
];

fn plan() -> Plan {
    World::of(BLOCKS).block(BLOCK)
}

/// A source, and a full file of it.
fn full(file_of: FileOf) -> Arc<Backend> {
    Backend::with_bytes(file_of(&Source::new(SEED, BLOCK, BLOCKS), 0..BLOCKS))
}

/// A reader over a full file, over which the source has changed.
fn outdated(file_of: FileOf) -> World {
    let world = plan().over(full(file_of)).open();
    world.source.renew();
    world
}

/// Which content each block of the device is read with.
pub(super) fn read_generations<C: CacheOps>(
    reader: &CachedBlockReader<Arc<Source>, C>,
    source: &Source,
) -> Vec<u64> {
    let bytes = finish(read(reader, 0, source.blocks())).expect("a healthy source reads");
    source.generations(0, &bytes)
}

/// What a task of a test gets: bytes of a read, or nothing.
type Got = Option<Vec<u8>>;

impl<C: CacheOps> World<C> {
    fn generations(&self) -> Vec<u64> {
        read_generations(&self.reader, &self.source)
    }

    /// What the next process reads.
    fn next_generations(&self) -> Vec<u64> {
        let next = Backend::with_bytes(self.backend.bytes());
        read_generations(&open(&self.source, &next), &self.source)
    }

    fn invalidate(&self, lba: u64, blocks: u64) -> GibbloxResult<()> {
        finish(self.reader.invalidate(lba, blocks))
    }

    async fn reading(&self, lba: u64, blocks: u64) -> Got {
        Some(read(&self.reader, lba, blocks).await.unwrap())
    }

    async fn dropping(&self, lba: u64, blocks: u64) -> Got {
        self.reader.invalidate(lba, blocks).await.unwrap();
        None
    }

    async fn clearing(&self) -> Got {
        self.reader.clear().await.unwrap();
        None
    }
}

/// The content of every block, where that of `range` is new and the rest old.
fn ones(range: &Range<u64>) -> Vec<u64> {
    (0..BLOCKS)
        .map(|lba| u64::from(range.contains(&lba)))
        .collect()
}

#[track_caller]
fn assert_is_of_the_backend(error: &GibbloxError) {
    assert!(error.message().unwrap().starts_with("backend: "), "{error}");
}

pub(super) fn ranges() -> impl Iterator<Item = Range<u64>> {
    (0..=BLOCKS).flat_map(|start| (start..=BLOCKS).map(move |end| start..end))
}

pub(super) fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

#[test]
fn a_range_past_the_end_is_out_of_range() {
    let world = outdated(FILES[0]);
    let reader = &world.reader;
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
    assert_eq!(world.calls(), 0, "nothing was to be done");
    assert!(reader.is_cached(0, BLOCKS).unwrap());
}

#[test]
fn a_device_without_blocks_has_nothing_to_tell_and_nothing_to_drop() {
    let reader = World::of(0).open().reader;
    assert_eq!(reader.cached_runs().next(), None);
    finish(reader.clear()).unwrap();
}

#[test]
fn nothing_is_valid_while_the_file_cannot_be_opened() {
    let backend = full(FILES[0]);
    backend.die();
    let world = plan().over(backend).open();
    world.source.renew();
    assert!(!world.reader.is_cached(0, 1).unwrap());
    world.assert_cached(None);
    assert_is_of_the_backend(&finish(world.reader.clear()).unwrap_err());
    world.backend.heal();
    finish(world.reader.clear()).unwrap();
    assert_eq!(world.generations(), ones(&(0..BLOCKS)));
}

#[test]
fn what_is_dropped_is_fetched_anew_and_nothing_else_is() {
    for file_of in FILES {
        for range in ranges() {
            for read_before in [false, true] {
                let world = outdated(file_of);
                let World {
                    source,
                    backend,
                    reader,
                } = &world;
                if read_before {
                    assert_eq!(world.generations(), ones(&(0..0)));
                }
                world.invalidate(range.start, len(&range)).unwrap();
                let left = [0..range.start, range.end..BLOCKS];
                let left = left.into_iter().filter(|run| !run.is_empty());
                if !range.is_empty() {
                    assert!(reader.cached_runs().eq(left));
                }
                // In the next process as in this one.
                let next = Backend::with_bytes(backend.bytes());
                for reader in [reader, &open(source, &next)] {
                    source.forget();
                    assert_eq!(read_generations(reader, source), ones(&range));
                    assert_eq!(source.fetches().iter().sum::<usize>() as u64, len(&range));
                    source.forget();
                    assert_eq!(read_generations(reader, source), ones(&range));
                    assert_eq!(source.reads(), [], "and is kept from then on");
                }
            }
        }
    }
}

#[test]
fn all_is_dropped_by_clearing() {
    for file_of in FILES {
        let world = outdated(file_of);
        finish(world.reader.clear()).unwrap();
        world.assert_cached(None);
        assert_eq!(world.cached_blocks(), 0);
        assert_eq!(world.next_generations(), ones(&(0..BLOCKS)));
    }
}

#[test]
fn dropping_is_one_write_of_bits_then_of_checksums_then_a_flush() {
    let world = outdated(FILES[0]);
    let regions = Regions::of(&world.source);
    world.invalidate(2, 3).unwrap();
    let calls = world.backend.calls();
    let calls: Vec<_> = calls
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
    world.forget();
    world.invalidate(2, 3).unwrap();
    let count = |op| world.backend.count(op);
    assert_eq!(count(Op::Write), 1, "the checksums are gone already");
    assert_eq!(count(Op::Flush), 1, "but nobody knows of a flush");
}

#[test]
fn blocks_are_not_valid_in_memory_before_anything_is_written() {
    let world = outdated(FILES[0]);
    world.backend.gate.shut();
    let mut poller = Poller::new();
    poller.spawn(world.dropping(2, 3));
    poller.run();
    assert_eq!(world.backend.gate.labels()[0].op, Op::Write);
    world.assert_cached([0..2, 5..BLOCKS]);
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
    let source = Source::new(SEED, BLOCK, blocks);
    let cache = Arc::new(Counting::default());
    let reader = finish(CachedBlockReader::new(
        Arc::clone(&source),
        Arc::clone(&cache),
    ));
    let reader = reader.expect("opens");
    let cached = [5, 40_000, 1 << 20, blocks - 3];
    for all in [false, true] {
        for lba in cached {
            check_read(&reader, &source, lba, 2);
        }
        assert_eq!(reader.cached_runs().count(), 4);
        source.renew();
        cache.reads.store(0, Ordering::SeqCst);
        cache.written_bytes.store(0, Ordering::SeqCst);
        if all {
            finish(reader.clear()).unwrap();
        } else {
            finish(reader.invalidate(0, blocks - 1)).unwrap();
        }
        assert_eq!(reader.cached_runs().next(), None);
        let reads = cache.reads.load(Ordering::SeqCst);
        let written = cache.written_bytes.load(Ordering::SeqCst);
        // 32 Ki blocks have 4 KiB of bits and 256 KiB of checksums, of which 4 KiB are set.
        let (bits, sums) = (4 * (4 << 10), 4 * (4 << 10));
        if all {
            assert_eq!((reads, written), (2, bits), "the checksums are cut off");
        } else {
            let last = 8;
            assert_eq!((reads, written), (4 * (256 / 4), bits + sums - last));
        }
    }
    for lba in cached {
        check_read(&reader, &source, lba, 2);
    }
    assert_eq!(reader.cached_runs().count(), 4);
}

#[test]
fn what_was_asked_for_before_is_served_and_not_kept() {
    // A fetch of old bytes that is held at each of its calls in turn while its blocks are dropped.
    for immediate in [false, true] {
        for held_at in 0..5 {
            let was_held = if immediate {
                old_fetch(&plan().open_immediate(), held_at)
            } else {
                old_fetch(&plan().open(), held_at)
            };
            let calls = if immediate { 1 } else { 4 };
            assert_eq!(was_held, held_at < calls, "{held_at}");
        }
    }
}

/// Whether the fetch was under way when its blocks were dropped.
fn old_fetch<C: CacheOps>(world: &World<C>, held_at: usize) -> bool {
    let mut poller = Poller::new();
    let old = poller.spawn(world.reading(2, 4));
    world.source.gate.shut();
    world.backend.gate.shut();
    world.let_calls_go(&mut poller, held_at);
    world.source.renew();
    let dropping = poller.spawn(world.dropping(1, 4));
    poller.run();
    let is_under_way = !poller.is_done(old);
    world.open_gates();
    poller.run();
    assert!(poller.take(dropping).is_none());
    let bytes = poller.take(old).unwrap();
    let generations = world.source.generations(2, &bytes);
    assert_eq!(generations, [0; 4], "it asked before");
    world.forget();
    world.read(1, 4);
    assert_eq!(world.source.reads(), [(1, 4)]);
    is_under_way
}

#[test]
fn the_source_is_not_waited_for() {
    let world = plan().open();
    let mut poller = Poller::new();
    world.source.gate.shut();
    let old = poller.spawn(world.reading(2, 4));
    poller.run();
    world.source.renew();
    let dropping = poller.spawn(world.clearing());
    poller.run();
    assert!(poller.is_done(dropping), "the fetch is void");
    world.source.gate.open();
    poller.run();
    let bytes = poller.take(old).unwrap();
    let generations = world.source.generations(2, &bytes);
    assert_eq!(generations, [0; 4], "it asked before");
    world.assert_cached(None);
}

#[test]
fn fetches_elsewhere_are_not_waited_for() {
    let world = plan().open();
    let mut poller = Poller::new();
    world.source.gate.shut();
    for lba in [1, 6] {
        poller.spawn(world.reading(lba, 1));
    }
    poller.run();
    assert_eq!(world.source.gate.held().len(), 2);
    let dropping = poller.spawn(world.dropping(2, 4));
    poller.run();
    assert!(poller.is_done(dropping));
}

#[test]
fn readers_of_what_is_being_dropped_wait_for_it_and_fetch_it_once() {
    let world = outdated(FILES[0]);
    let source = &world.source;
    let mut poller = Poller::new();
    world.backend.gate.shut();
    let dropping = poller.spawn(world.dropping(2, 4));
    poller.run();
    let readers = [(); 5].map(|()| poller.spawn(world.reading(2, 4)));
    let others = poller.spawn(world.clearing());
    poller.run();
    world.backend.gate.open();
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
            let world = outdated(file_of);
            assert_eq!(world.generations(), ones(&(0..0)));
            world.backend.fail_all(dead);
            assert_is_of_the_backend(&world.invalidate(1, 9).unwrap_err());
            assert!((1..10).all(|lba| !world.reader.is_cached(lba, 1).unwrap()));
            world.read(1, 9);
            world.backend.heal();
            world.invalidate(1, 9).unwrap();
            assert_eq!(world.next_generations()[1..10], [1; 9]);
        }
    }
}

#[test]
fn all_is_dropped_for_this_process_though_the_first_write_fails() {
    let world = outdated(FILES[0]);
    world.invalidate(5, 1).unwrap();
    world.backend.gate.shut();
    world.backend.fail_all(Op::Write);
    let mut poller = Poller::new();
    poller.spawn(world.reading(5, 1));
    poller.run();
    // The fetch is being stored.
    world.backend.gate.set(|_| Mode::Open);
    let mut poller_of_drop = Poller::new();
    let dropping = poller_of_drop.spawn(world.reader.clear());
    poller_of_drop.run();
    // The fetch is in between.
    world.assert_cached(Some(6..BLOCKS));
    world.backend.gate.open();
    poller.run();
    poller_of_drop.run();
    poller_of_drop.take(dropping).unwrap_err();
    world.assert_cached(None);
}

/// What is done while a backend fails: caches old bytes, drops some, caches new ones, and drops them again.
fn drop_and_fetch<C: CacheOps>(world: &World<C>) {
    world.source.renew();
    let mut at_least = [0; BLOCKS as usize];
    let check = |at_least: &[u64], generations: Vec<u64>| {
        let mut pairs = generations.iter().zip(at_least);
        assert!(
            pairs.all(|(got, want)| got >= want),
            "what was dropped came back: {generations:?}, but {at_least:?} was to be there"
        );
    };
    check(&at_least, world.generations());
    for range in [2..7, 0..BLOCKS, 5..6] {
        let now = world.source.renew();
        match world.invalidate(range.start, len(&range)) {
            Ok(()) => at_least[range.start as usize..range.end as usize].fill(now),
            Err(error) => assert_is_of_the_backend(&error),
        }
        check(&at_least, world.next_generations());
        check(&at_least, world.generations());
    }
    world.backend.heal();
    world.source.renew();
    finish(world.reader.clear()).unwrap();
    world.read(0, BLOCKS);
    check_read(
        &open(&world.source, &world.backend),
        &world.source,
        0,
        BLOCKS,
    );
}

#[test]
fn whatever_backend_call_fails_what_was_dropped_with_ok_does_not_come_back() {
    let mut runs = 0;
    for file_of in FILES {
        let plan = || plan().over(full(file_of)).remembering();
        let world = plan().open();
        let has_checksums = world.backend.bytes()[8] == 1;
        drop_and_fetch(&world);
        let calls = world.calls();
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
                    drop_and_fetch(&plan().failing(fails).open());
                    drop_and_fetch(&plan().failing(fails).open_immediate());
                    runs += 2;
                }
            }
        }
    }
    println!("{runs} runs");
}

#[test]
fn a_flush_of_somebody_else_that_fails_meanwhile_is_told() {
    let world = outdated(FILES[0]);
    let (backend, reader) = (&world.backend, &world.reader);
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
    // Zeros that are read need not be those of the medium.
    assert_eq!(backend.count(Op::Write), 2);
}

#[test]
fn ensuring_beside_dropping_comes_to_an_end() {
    for_seeds(200, |rng| {
        let config = CacheConfig::new().with_window_bytes(2 * BLOCK);
        let cached = (0..BLOCKS).filter(|_| rng.chance(50));
        let (source, backend, reader) = plan().config(config).cached_singly(cached).parts();
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
        run_by_chance(rng, &mut poller, &[&source.gate, &backend.gate]);
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
