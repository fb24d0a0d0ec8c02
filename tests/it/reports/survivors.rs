//! Steps that no other test missed when they were taken out: each test here fails without one of them.

use super::{FILES, cached_blocks, today};
use crate::support::backend::{Fault, Op};
use crate::support::files::{Regions, file_of_ours};
use crate::support::powercut::PowerCut;
use crate::support::{Backend, Poller, Source, finish, open, read};
use gibblox_cache::{CacheConfig, CachedBlockReader};
use std::sync::Arc;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 11;

#[test]
fn what_a_scrub_dropped_is_durable_when_it_returns() {
    for damaged in 0..BLOCKS {
        let source = Source::new(5, BLOCK, BLOCKS);
        let mut file = file_of_ours(&source, 0..BLOCKS);
        file[Regions::of(&source).data + (damaged * u64::from(BLOCK)) as usize] ^= 1;
        let disk = PowerCut::new(file);
        let opening =
            CachedBlockReader::open(Arc::clone(&source), Arc::clone(&disk), CacheConfig::new());
        let reader = finish(opening).expect("a well source");
        let scrubbed = finish(today::scrub(&reader, |_| ())).expect("a well disk");
        assert_eq!(scrubbed.dropped_blocks, 1);
        let cut = disk.cuts().pop().expect("the end");
        assert_eq!(cut.pending(), 0, "nothing is left to chance");
        let few_enough = cut.every_image(1 << 12, |image| {
            let next = open(&source, &Backend::with_bytes(image.to_vec()));
            assert!(
                !next.is_cached(damaged, 1).expect("on the device"),
                "block {damaged} is back"
            );
            assert_eq!(cached_blocks(&next), BLOCKS - 1);
        });
        assert!(few_enough, "one image");
    }
}

#[test]
fn a_scrub_that_dropped_nothing_does_not_flush() {
    let source = Source::new(5, BLOCK, BLOCKS);
    let backend = Backend::with_bytes(file_of_ours(&source, 0..BLOCKS));
    let reader = open(&source, &backend);
    finish(today::scrub(&reader, |_| ())).expect("a well disk");
    assert_eq!(backend.count(Op::Flush), 0);
}

#[test]
fn a_store_that_fails_over_a_block_that_became_valid_meanwhile_leaves_no_garbage_to_be_served() {
    for (file, file_of) in FILES {
        for fault in [Fault::Garbage, Fault::Torn] {
            for lba in 0..BLOCKS {
                let source = Source::new(5, BLOCK, BLOCKS);
                let backend = Backend::with_bytes(file_of(&source, 0..BLOCKS));
                // The file cannot be opened while the fetch begins.
                backend.fail_all(Op::Read);
                let reader = open(&source, &backend);
                source.forget();
                source.gate.set(move |call| {
                    if call.touches(lba) {
                        crate::support::gate::Mode::Shut
                    } else {
                        crate::support::gate::Mode::Open
                    }
                });
                let mut poller = Poller::new();
                let task = poller.spawn(read(&reader, lba, 1));
                poller.run();
                assert_eq!(source.gate.held().len(), 1, "it is being fetched");
                // It is opened, and the block is valid and found to be sound.
                backend.heal();
                finish(reader.flush_cache()).expect("a well disk");
                assert_eq!(cached_blocks(&reader), BLOCKS, "{file}");
                finish(today::scrub(&reader, |_| ())).expect("a well disk");
                // What is fetched is written over it, and that fails in the middle.
                let data = Regions::of(&source).data as u64;
                let end = Regions::of(&source).checksums as u64;
                backend.fail(move |call| {
                    let is_data = call.op == Op::Write && (data..end).contains(&call.offset);
                    is_data.then_some(fault)
                });
                source.gate.open();
                poller.run_to_end();
                source.assert_bytes(lba, &poller.take(task).expect("a well source"));
                backend.heal();
                for _ in 0..2 {
                    let bytes = finish(read(&reader, lba, 1)).expect("a well source");
                    source.assert_bytes(lba, &bytes);
                }
                for lba in 0..BLOCKS {
                    let bytes = finish(read(&reader, lba, 1)).expect("a well source");
                    source.assert_bytes(lba, &bytes);
                }
            }
        }
    }
}

#[test]
fn nothing_is_stored_before_the_bitmap_is_loaded_so_no_bit_of_an_earlier_process_is_lost() {
    // What has to be read of a file before it is open, and a read that misses beside it at each point.
    for (file, file_of) in FILES {
        for beside in 0.. {
            let source = Source::new(5, BLOCK, BLOCKS);
            let backend = Backend::with_bytes(file_of(&source, 0..BLOCKS));
            backend.fail_all(Op::Read);
            let reader = open(&source, &backend);
            backend.heal();
            backend.forget();
            backend.gate.shut();
            let mut poller = Poller::new();
            let opening = poller.spawn(read(&reader, 0, 1));
            for _ in 0..beside {
                poller.run();
                backend.gate.release_all();
            }
            poller.run();
            let is_open = poller.is_done(opening);
            // Its own calls are held as those of the opening are, and let go first.
            let missing = poller.spawn(read(&reader, 5, 1));
            poller.run();
            while !poller.is_done(missing) {
                let held = backend.gate.held();
                let (ticket, _) = held.last().copied().expect("something is under way");
                backend.gate.release(ticket);
                poller.run();
            }
            backend.gate.open();
            poller.run_to_end();
            source.assert_bytes(5, &poller.take(missing).expect("a well source"));
            assert_eq!(
                cached_blocks(&reader),
                BLOCKS,
                "{file}, beside call {beside}"
            );
            drop(poller);
            drop(reader);
            let next = open(&source, &Backend::with_bytes(backend.bytes()));
            assert_eq!(
                cached_blocks(&next),
                BLOCKS,
                "{file}, in the file, beside call {beside}"
            );
            if is_open {
                break;
            }
        }
    }
}
