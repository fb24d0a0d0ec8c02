//! Files go both ways between this crate and the published one, and nothing is fetched twice on the way.

use crate::support::backend::{Fault, Op};
use crate::support::files::{Regions, check_file, file_of_ours, file_of_published};
use crate::support::poll::drop_after;
use crate::support::published::{open_published, read_published};
use crate::support::{Backend, Rng, Source, check_read, finish, for_seeds, open, read};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Sources of many shapes: totals around the bytes and words of the bitmap, several block sizes.
fn sources() -> Vec<Arc<Source>> {
    let totals = [1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 100];
    let sizes = [64, 512, 4096];
    let shapes = totals
        .iter()
        .flat_map(|total| sizes.map(|size| (size, *total)));
    shapes
        .map(|(size, total)| Source::new(total, size, total))
        .collect()
}

/// All blocks, every third, the last, none.
fn fills(source: &Source) -> [Vec<u64>; 4] {
    let total = source.blocks();
    [
        (0..total).collect(),
        (0..total).step_by(3).collect(),
        vec![total - 1],
        Vec::new(),
    ]
}

/// Reads everything by the published crate, and checks it.
#[track_caller]
fn check_published(
    backend: &Arc<Backend>,
    source: &Arc<Source>,
    blocks: impl IntoIterator<Item = u64>,
) {
    finish(async {
        let reader = open_published(source, Arc::clone(backend), 64)
            .await
            .expect("opens");
        for lba in blocks {
            source.assert_bytes(lba, &read_published(&reader, lba, 1).await.expect("reads"));
        }
    });
}

#[test]
fn a_file_that_the_published_crate_wrote_is_used_with_nothing_fetched_again() {
    for source in sources() {
        for cached in fills(&source) {
            let file = file_of_published(&source, cached.iter().copied());
            assert_eq!(file[8..12], [0; 4], "a file without checksums");
            let reader = open(&source, &Backend::with_bytes(file));
            assert_eq!(
                finish(reader.get_stats()).cached_blocks,
                cached.len() as u64
            );
            source.forget();
            for lba in &cached {
                check_read(&reader, &source, *lba, 1);
            }
            assert_eq!(source.reads(), [], "nothing is fetched again");
            check_read(&reader, &source, 0, source.blocks());
            let twice = source.fetches().iter().any(|fetches| *fetches > 1);
            assert!(!twice, "what was missing is fetched once");
        }
    }
}

#[test]
fn a_file_of_ours_is_read_by_the_published_crate_without_the_source() {
    for source in sources() {
        for cached in fills(&source) {
            let backend = Backend::with_bytes(file_of_ours(&source, cached.iter().copied()));
            source.forget();
            check_published(&backend, &source, cached);
            assert_eq!(source.reads(), [], "nothing is fetched again");
        }
    }
}

#[test]
fn a_published_file_that_ours_filled_goes_back_with_nothing_fetched_again() {
    for source in sources() {
        let backend =
            Backend::with_bytes(file_of_published(&source, (0..source.blocks()).step_by(3)));
        check_read(&open(&source, &backend), &source, 0, source.blocks());
        assert_eq!(
            backend.bytes()[8..12],
            [0; 4],
            "it stays a file without checksums"
        );
        source.forget();
        check_published(&backend, &source, 0..source.blocks());
        check_read(&open(&source, &backend), &source, 0, source.blocks());
        assert_eq!(source.reads(), [], "nothing is fetched again");
    }
}

#[test]
fn a_file_of_ours_that_the_published_crate_filled_is_checked_fetched_again_and_whole_afterwards() {
    for source in sources() {
        for cached in fills(&source) {
            let backend = Backend::with_bytes(file_of_ours(&source, cached));
            check_published(&backend, &source, 0..source.blocks());
            check_file(&backend.bytes(), &source);

            check_read(&open(&source, &backend), &source, 0, source.blocks());
            assert_eq!(
                backend.bytes().len(),
                Regions::of(&source).end,
                "the checksums are back"
            );
            source.forget();
            check_read(&open(&source, &backend), &source, 0, source.blocks());
            assert_eq!(source.reads(), [], "and hold");
        }
    }
}

#[test]
fn what_the_published_crate_left_without_checksums_is_never_served_unchecked() {
    for source in sources() {
        let backend = Backend::with_bytes(file_of_ours(&source, []));
        check_published(&backend, &source, 0..source.blocks());
        let data = Regions::of(&source).data;
        backend.edit(|bytes| bytes[data..].iter_mut().for_each(|byte| *byte = !*byte));
        check_file(&backend.bytes(), &source);
    }
}

#[test]
fn a_block_without_a_checksum_that_cannot_be_read_is_not_valid_before_it_is_overwritten() {
    let source = Source::new(3, 64, 9);
    let start = Regions::of(&source).data + 3 * 64;
    let block = start..start + 64;
    let mut overwritten = 0;
    let mut done = false;
    for polls in 1.. {
        let backend = Backend::with_bytes(file_of_published(&source, 0..9));
        backend.edit(|bytes| bytes[block.clone()].fill(0xEE));
        let unreadable = block.start as u64;
        backend.fail(move |call| {
            let covers = (call.offset..call.offset + call.len as u64).contains(&unreadable);
            (call.op == Op::Read && covers && call.len > 1).then_some(Fault::Error)
        });
        let reader = open(&source, &backend);
        backend.gate.once();
        source.gate.once();
        done = done || drop_after(read(&reader, 3, 1), polls);
        source.gate.open();
        let left = backend.bytes();
        // As long as the block is what it was, nothing in the file could tell that it is not the source's.
        if left[block.clone()] != [0xEE; 64] {
            overwritten += 1;
            check_file(&left, &source);
        }
        if done {
            break;
        }
    }
    assert!(overwritten > 1, "the block is overwritten in two halves");
}

#[test]
fn a_file_may_go_back_and_forth() {
    for_seeds(150, |rng| {
        let size = [64, 512, 1024][rng.index(3)];
        let source = Source::new(rng.next(), size, 1 + rng.below(40));
        let backend = Backend::new();
        for _ in 0..6 {
            let runs = runs(&source, rng);
            if rng.chance(50) {
                let reader = open(&source, &backend);
                for (lba, blocks) in runs {
                    check_read(&reader, &source, lba, blocks);
                }
                if rng.chance(50) {
                    finish(reader.flush_cache()).expect("flushes");
                }
            } else {
                check_published(
                    &backend,
                    &source,
                    runs.into_iter().flat_map(|(lba, blocks)| lba..lba + blocks),
                );
            }
        }
        check_file(&backend.bytes(), &source);
        check_published(&backend, &source, 0..source.blocks());
    });
}

#[test]
fn what_ours_filled_last_is_never_fetched_again_by_either() {
    for_seeds(150, |rng| {
        let source = Source::new(rng.next(), 64, 1 + rng.below(40));
        let backend = Backend::new();
        check_published(
            &backend,
            &source,
            runs(&source, rng).into_iter().map(|(lba, _)| lba),
        );
        let reader = open(&source, &backend);
        let mut cached = BTreeSet::new();
        for (lba, blocks) in runs(&source, rng) {
            check_read(&reader, &source, lba, blocks);
            cached.extend(lba..lba + blocks);
        }
        drop(reader);
        source.forget();
        let again = open(&source, &backend);
        for lba in &cached {
            check_read(&again, &source, *lba, 1);
        }
        drop(again);
        check_published(&backend, &source, cached);
        assert_eq!(source.reads(), [], "nothing is fetched again");
    });
}

/// Some runs of a source.
fn runs(source: &Source, rng: &mut Rng) -> Vec<(u64, u64)> {
    (0..=rng.below(5))
        .map(|_| rng.run(source.blocks(), 10))
        .collect()
}
