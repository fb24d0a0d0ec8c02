//! Power cuts: whatever a medium is left with, the next process reads the source's bytes, and nobody sees an error.
//!
//! A run happens on a [`PowerCut`], which knows every image that a loss of power at any point of the run can leave
//! behind. Each image is opened by this crate, over the source of the run and over every other source whose cache the
//! file ever was, and every block is read. The published crate gets the same images as a control: a test that cannot
//! see it serve garbage could not see anything.

mod process;
mod seeded;
mod tally;

use crate::support::files::{Regions, file_of_ours, file_of_published, identity};
use crate::support::poll::drop_after;
use crate::support::powercut::PowerCut;
use crate::support::{Rng, Source, finish};
use gibblox_core::{BlockReader, block_identity_string};
use process::Act::{self, Ensure, Flush, Read, Reopen, Scrub};
use process::{run, run_published};
use std::sync::Arc;
use tally::{MOST_IMAGES, Tally};

/// Small sources: all within one sector but for the end, blocks that straddle sectors, an identity that does.
fn small_sources() -> [Arc<Source>; 4] {
    [
        Source::with_identity(1, 64, 9, "one"),
        Source::with_identity(1, 16, 13, "tiny, with bits in two bytes"),
        Source::with_identity(1, 512, 4, "straddles"),
        Source::with_identity(1, 64, 11, &identity(613, "one")),
    ]
}

/// Other sources whose caches a file may be before it becomes that of `source`.
fn others(source: &Source) -> Vec<Arc<Source>> {
    let (size, blocks) = (source.block_size(), source.blocks());
    let name = block_identity_string(source);
    let len = name.len();
    vec![
        Source::with_identity(2, size, blocks, &identity(len, "two")),
        Source::with_identity(2, size, blocks - 2, &identity(len, "two")),
        Source::with_identity(2, size, blocks + 9, &identity(len, "two")),
        Source::with_identity(2, size, blocks, &identity(len - 1, "2")),
        Source::with_identity(2, size, blocks, &identity(len + 131, "two")),
        Source::with_identity(2, size * 2, blocks, &identity(len, "two")),
        // The same source after it grew, with other bytes.
        Source::with_identity(2, size, blocks + 1, &name),
    ]
}

/// Fills, flushes, scrubs and reopens a small cache.
fn small_acts(blocks: u64) -> Vec<Act> {
    vec![
        Read(0, 1),
        Read(blocks - 1, 1),
        Flush,
        Read(0, 2),
        Scrub,
        Reopen,
        Read(1, 2),
        Ensure(0, blocks - 1),
        Flush,
        Scrub,
        Reopen,
        Read(0, blocks),
    ]
}

#[test]
fn no_image_of_a_fresh_cache_serves_a_wrong_byte() {
    let mut tally = Tally::default();
    for source in small_sources() {
        let alone = [2, 0, 3, 1].map(|lba| Read(lba, 1));
        for (flush_every, acts) in [
            (1, small_acts(source.blocks())),
            (2, small_acts(source.blocks())),
            (3, small_acts(source.blocks())),
            (64, small_acts(source.blocks())),
            (64, alone.to_vec()),
        ] {
            let disk = PowerCut::new(Vec::new());
            finish(run(&disk, &source, flush_every, &acts));
            tally.try_every_image(&disk, &[&source]);
        }
    }
    println!("fresh: {tally}");
    assert!(tally.published_wrong > 0, "the control sees no corruption");
}

#[test]
fn no_image_of_a_rebuild_over_our_file_of_another_source_serves_a_wrong_byte() {
    rebuild_over("ours", |other| file_of_ours(other, 0..other.blocks()));
}

#[test]
fn no_image_of_a_rebuild_over_a_published_file_of_another_source_serves_a_wrong_byte() {
    rebuild_over("0.0.1's", |other| {
        file_of_published(other, 0..other.blocks())
    });
}

/// Makes the full file of another source that of a small one, and tries every image over both.
fn rebuild_over(whose: &str, file_of: impl Fn(&Arc<Source>) -> Vec<u8>) {
    let mut tally = Tally::default();
    for source in small_sources() {
        for other in others(&source) {
            let disk = PowerCut::new(file_of(&other));
            finish(run(
                &disk,
                &source,
                2,
                &[Read(0, 2), Flush, Read(1, 2), Reopen, Ensure(0, 4)],
            ));
            tally.try_every_image(&disk, &[&source, &other]);
        }
    }
    println!("rebuilt over {whose}: {tally}");
    assert!(tally.published_wrong > 0, "the control sees no corruption");
}

#[test]
fn a_header_that_can_be_read_stands_in_front_of_an_empty_bitmap_in_every_image_of_a_rebuild() {
    let mut tally = Tally::default();
    for source in small_sources() {
        let regions = Regions::of(&source);
        let fresh = file_of_ours(&source, []);
        for other in others(&source) {
            for file_of in [file_of_ours, file_of_published] {
                let disk = PowerCut::new(file_of(&other, 0..other.blocks()));
                finish(run(&disk, &source, 1, &[]));
                let cuts = disk.cuts();
                assert_eq!(cuts.last().unwrap().pending(), 0, "an open file is durable");
                for cut in cuts {
                    tally.cuts += 1;
                    let few_enough = cut.every_image(MOST_IMAGES, |image| {
                        if image.starts_with(&fresh[..regions.bitmap]) {
                            assert_eq!(
                                image[regions.bitmap..regions.data],
                                fresh[regions.bitmap..regions.data]
                            );
                        }
                        tally.try_only_published(image, &source);
                    });
                    assert!(few_enough, "too many images of one cut: {cut:?}");
                }
            }
        }
    }
    println!("opened: {tally}");
    let wrong = tally.published_wrong + tally.published_failed;
    assert_eq!(
        wrong, 0,
        "nothing is cached yet, so that even 0.0.1 is right"
    );
}

#[test]
fn no_image_of_opening_a_shortened_file_serves_a_wrong_byte() {
    let mut tally = Tally::default();
    for source in small_sources() {
        for file_of in [file_of_ours, file_of_published] {
            let file = file_of(&source, 0..source.blocks());
            let step = source.block_size() as usize / 2 + 1;
            for len in (0..file.len()).step_by(step) {
                let disk = PowerCut::new(file[..len].to_vec());
                finish(run(&disk, &source, 1, &[]));
                tally.try_every_image(&disk, &[&source]);
            }
        }
    }
    println!("shortened: {tally}");
    assert!(tally.published_wrong > 0, "the control sees no corruption");
}

#[test]
fn the_published_crate_serves_garbage_after_a_power_cut_of_its_own() {
    let mut tally = Tally::default();
    for source in small_sources() {
        for flush_every in [2, 64] {
            let disk = PowerCut::new(Vec::new());
            finish(run_published(
                &disk,
                &source,
                flush_every,
                &small_acts(source.blocks()),
            ));
            for cut in disk.cuts() {
                tally.cuts += 1;
                (0..200).for_each(|seed| {
                    tally.try_only_published(&cut.sample(&mut Rng::new(seed)), &source);
                });
            }
        }
    }
    println!("0.0.1 alone: {tally}");
    assert!(tally.published_wrong > 0, "the control sees no corruption");
}

#[test]
fn no_image_after_an_opening_that_was_given_up_serves_a_wrong_byte() {
    let mut tally = Tally::default();
    for source in small_sources() {
        for other in others(&source) {
            for file_of in [file_of_ours, file_of_published] {
                for next in [&source, &other] {
                    let base = file_of(&other, 0..other.blocks());
                    let opened_by = give_up_openings(&mut tally, &base, [&source, &other], next);
                    assert!(opened_by > 1, "an opening takes several polls");
                }
            }
        }
    }
    println!("given up: {tally}");
}

/// Gives up opening `base` over the first source after each number of polls, lets `next` have the file, and tries
/// every image over both. Returns how many polls were enough to open it and read a block.
fn give_up_openings(
    tally: &mut Tally,
    base: &[u8],
    sources: [&Arc<Source>; 2],
    next: &Arc<Source>,
) -> usize {
    let mut polls = 0;
    let mut done = false;
    while !done {
        polls += 1;
        let disk = PowerCut::new(base.to_vec());
        disk.gate.once();
        done = drop_after(run(&disk, sources[0], 1, &[Read(1, 1)]), polls);
        disk.gate.open();
        finish(run(&disk, next, 2, &[Read(0, 2)]));
        tally.try_every_image(&disk, &sources);
    }
    polls
}

#[test]
fn no_image_of_a_file_of_ours_that_the_published_crate_fills_serves_a_wrong_byte() {
    let mut tally = Tally::default();
    for source in small_sources() {
        let acts = [
            Read(1, 2),
            Flush,
            Ensure(0, source.blocks()),
            Reopen,
            Read(0, 1),
        ];
        for cached in [0..0, 0..2, 0..source.blocks()] {
            let disk = PowerCut::new(file_of_ours(&source, cached));
            finish(run_published(&disk, &source, 2, &acts));
            tally.try_every_image(&disk, &[&source]);
            // And then by ours again, which finds blocks without checksums.
            let disk = PowerCut::new(disk.live());
            finish(run(&disk, &source, 2, &small_acts(source.blocks())));
            tally.try_every_image(&disk, &[&source]);
        }
    }
    println!("filled by 0.0.1: {tally}");
    assert!(tally.published_wrong > 0, "the control sees no corruption");
}
