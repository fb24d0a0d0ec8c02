//! The power goes after blocks were dropped: in no image that is left do they come back.

use super::invalidate::{BLOCK, BLOCKS, FILES, FileOf, len, ranges, read_generations};
use crate::support::poll::drop_after;
use crate::support::powercut::PowerCut;
use crate::support::{Backend, Source, finish, open, read};
use core::ops::Range;
use gibblox_cache::{CacheConfig, CachedBlockReader};
use std::collections::HashSet;
use std::sync::Arc;

/// A reader over a medium that may lose power at any time.
struct Medium {
    source: Arc<Source>,
    disk: Arc<PowerCut>,
    reader: CachedBlockReader<Arc<Source>, Arc<PowerCut>>,
}

impl Medium {
    /// The reader finds a file with these blocks.
    fn new(file_of: FileOf, source: Arc<Source>, blocks: Range<u64>) -> Self {
        let disk = PowerCut::new(file_of(&source, blocks));
        Self::with(source, disk)
    }

    fn with(source: Arc<Source>, disk: Arc<PowerCut>) -> Self {
        let config = CacheConfig::new().with_flush_every_blocks(3);
        let opening = CachedBlockReader::open(Arc::clone(&source), Arc::clone(&disk), config);
        let reader = finish(opening).expect("opens");
        Self {
            source,
            disk,
            reader,
        }
    }

    /// The reader of another process.
    fn reopen(self) -> Self {
        Self::with(self.source, self.disk)
    }

    fn read(&self, lba: u64, blocks: u64) {
        finish(read(&self.reader, lba, blocks)).unwrap();
    }

    /// Drops what is in `range`. Gives back where the cuts begin that come after it.
    fn invalidate(&self, range: &Range<u64>) -> usize {
        finish(self.reader.invalidate(range.start, len(range))).unwrap();
        self.disk.cuts().len() - 1
    }

    /// The source changes, `range` is dropped, its first blocks are fetched anew, and the power goes.
    fn renew_and_check(&self, range: &Range<u64>) -> usize {
        self.source.renew();
        let first = self.invalidate(range);
        for lba in range.clone().take(2) {
            self.read(lba, 1);
        }
        self.check_images(first, range)
    }

    /// Drops a future after so many polls, in which each call is pending once. True if it was done before.
    fn drop_after<T>(&self, future: impl Future<Output = T>, polls: usize) -> bool {
        self.disk.gate.once();
        let done = drop_after(future, polls);
        self.disk.gate.open();
        done
    }

    /// Opens every image of the cuts from the `first` on, and checks that the blocks of `range` hold the newest
    /// content.
    fn check_images(&self, first: usize, range: &Range<u64>) -> usize {
        let mut images = HashSet::new();
        for cut in &self.disk.cuts()[first..] {
            let few_enough = cut.every_image(1 << 16, |image| {
                if images.insert(image.to_vec()) {
                    let reader = open(&self.source, &Backend::with_bytes(image.to_vec()));
                    for (lba, generation) in (0..).zip(read_generations(&reader, &self.source)) {
                        let is_newest = generation == self.source.generation();
                        assert!(is_newest || !range.contains(&lba), "block {lba} came back");
                    }
                }
            });
            assert!(few_enough, "too many images of one cut");
        }
        images.len()
    }
}

/// Does `round` with 0 polls, with 1, and so on, until it says that this was enough for its future to end.
fn after_each_poll(least: usize, mut round: impl FnMut(usize) -> bool) {
    let mut polls = 0;
    while !round(polls) {
        polls += 1;
    }
    assert!(polls > least, "no await was the last");
}

#[test]
fn after_a_power_cut_what_was_dropped_does_not_come_back() {
    let mut images = 0;
    for file_of in FILES {
        for range in ranges().filter(|range| !range.is_empty()) {
            for found in [0..BLOCKS, 0..3] {
                let medium = Medium::new(file_of, Source::new(5, BLOCK, BLOCKS), found);
                medium.read(0, BLOCKS);
                medium.source.renew();
                let last = medium.invalidate(&range);
                let pending = medium.disk.cuts()[last].pending();
                assert_eq!(pending, 0, "nothing is left to chance");
                images += medium.check_images(last, &range);
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
            let source = Source::new(5, block_size, BLOCKS);
            let medium = Medium::new(FILES[0], source, 0..BLOCKS);
            medium.read(0, BLOCKS);
            images += medium.renew_and_check(&range);
        }
    }
    assert!(images > 100, "only {images} images");
    println!("{images} images");
}

#[test]
fn before_it_is_done_a_power_cut_leaves_each_block_old_or_new() {
    for file_of in FILES {
        let medium = Medium::new(file_of, Source::new(5, BLOCK, BLOCKS), 0..BLOCKS);
        medium.source.renew();
        medium.invalidate(&(2..9));
        assert!(medium.check_images(0, &(0..0)) > 1);
    }
}

#[test]
fn what_a_dropped_fetch_left_behind_does_not_come_back_after_a_power_cut() {
    // Old bytes and their checksum are in the file, and no bit: the bit that a new fetch sets must not stand for them.
    let mut images = 0;
    after_each_poll(4, |polls| {
        let medium = Medium::new(FILES[0], Source::new(5, 512, 3), 0..0);
        let done = medium.drop_after(read(&medium.reader, 1, 1), polls);
        images += medium.renew_and_check(&(1..2));
        done
    });
    println!("{images} images");
}

#[test]
fn what_an_earlier_process_left_without_a_bit_does_not_come_back_beside_what_was_cached() {
    // As above, but the process that drops it does not know that it was ever fetched. A valid block near it is enough.
    let mut images = 0;
    after_each_poll(4, |polls| {
        let earlier = Medium::new(FILES[0], Source::new(5, 512, 3), 0..1);
        let done = earlier.drop_after(read(&earlier.reader, 1, 1), polls);
        images += earlier.reopen().renew_and_check(&(1..2));
        done
    });
    println!("{images} images");
}

#[test]
fn a_dropped_call_is_done_by_the_next() {
    // Dropped after each poll, then called again over a medium that then loses power.
    for file_of in FILES {
        after_each_poll(2, |polls| {
            let medium = Medium::new(file_of, Source::new(5, BLOCK, BLOCKS), 0..BLOCKS);
            medium.source.renew();
            let done = medium.drop_after(medium.reader.invalidate(2, 7), polls);
            let first = if done {
                medium.disk.cuts().len() - 1
            } else {
                medium.invalidate(&(2..9))
            };
            if file_of(&medium.source, 0..1)[8] == 1 {
                medium.read(3, 1);
            }
            medium.check_images(first, &(2..9));
            done
        });
    }
}
