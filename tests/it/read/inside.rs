//! Looking inside: which blocks are valid, told without a call.

use crate::support::{Backend, Oracle, Source, World, check_read, finish, for_seeds, open};
use gibblox_cache::{CacheOps, CachedBlockReader, MemoryCacheOps};
use std::sync::Arc;

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
        assert_eq!(oracle.missing(run.start, run.end - run.start), []);
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
        let (source, backend) = (Source::new(5, 1, total), Backend::new());
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
        let source = Source::new(5, 1, total);
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
    let world = World::of(11).found(0..11).open();
    assert!(world.reader.is_cached(0, 11).unwrap());
    world.assert_cached(Some(0..11));
    assert_eq!((world.calls(), world.source.calls()), (0, vec![]));
    let stats = finish(world.reader.get_stats());
    assert_eq!((stats.total_hits, stats.total_misses), (0, 0));
}

#[test]
fn runs_are_told_while_blocks_come_and_go() {
    let runs = [10, 100, 200, 300].into_iter();
    let plan = runs.fold(World::of(400), |plan, lba| plan.cached(lba..lba + 10));
    let (source, _, reader) = plan.parts();
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
