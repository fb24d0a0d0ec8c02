//! What one reader does while others drop, repair and store blocks beside it.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};

use gibblox_cache::CacheConfig;
use gibblox_core::ReadContext;

use crate::support::backend::{Call, Fault, Op};
use crate::support::files::{Regions, file_of_ours};
use crate::support::gate::Mode;
use crate::support::{Backend, Poller, Source, check_read, finish, open, open_with, read};

const BLOCK: u32 = 64;
const BLOCKS: u64 = 16;

fn writes_data(regions: Regions, call: &Call) -> bool {
    let data = regions.data..regions.checksums;
    call.op == Op::Write && data.contains(&(call.offset as usize))
}

fn reads_block(regions: Regions, call: &Call, lba: u64) -> bool {
    let offset = regions.data + (lba * u64::from(BLOCK)) as usize;
    call.op == Op::Read && call.offset as usize == offset
}

#[test]
fn a_bad_sector_elsewhere_does_not_keep_a_healthy_read_from_ending() {
    let source = Source::new(1, BLOCK, BLOCKS);
    let regions = Regions::of(&source);
    let backend = Backend::new();
    let reader = open(&source, &backend);
    check_read(&reader, &source, 0, 1);
    check_read(&reader, &source, 8, 1);
    source.forget();
    // Block 8 can be written and not read, so each read of it drops it and stores it again.
    backend.fail(move |call| reads_block(regions, call, 8).then_some(Fault::Error));
    backend.gate.set(move |call| {
        if reads_block(regions, call, 0) {
            Mode::Shut
        } else {
            Mode::Open
        }
    });
    let mut poller = Poller::new();
    let slow = poller.spawn(read(&reader, 0, 1));
    poller.run();
    let mut looks = 0;
    while !poller.is_done(slow) {
        check_read(&reader, &source, 8, 1);
        check_read(&reader, &source, 8, 1);
        assert_eq!(backend.gate.release_all(), 1);
        poller.run();
        looks += 1;
        assert!(looks < 10, "it looks again for ever");
    }
    source.assert_bytes(0, &poller.take(slow).unwrap());
    assert_eq!(source.fetches()[0], 0, "what matches is right all the same");
}

#[test]
fn a_prefetch_sees_what_was_dropped_behind_its_back() {
    let source = Source::new(1, BLOCK, BLOCKS);
    let regions = Regions::of(&source);
    let backend = Backend::with_bytes(file_of_ours(&source, 0..4));
    backend.edit(|bytes| bytes[regions.data] ^= 1);
    let config = CacheConfig::new()
        .with_window_bytes(4 * BLOCK)
        .with_windows_at_once(1);
    let reader = open_with(&source, &backend, config);
    source.gate.set(|call| {
        if call.touches(4) {
            Mode::Shut
        } else {
            Mode::Open
        }
    });
    let mut poller = Poller::new();
    let prefetch = poller.spawn(reader.ensure_cached(0, 8, ReadContext::BACKGROUND));
    poller.run();
    // It has passed block 0, which now turns out to be damaged and cannot be stored.
    backend.fail(move |call| writes_data(regions, call).then_some(Fault::Error));
    check_read(&reader, &source, 0, 1);
    backend.heal();
    source.gate.open();
    poller.run();
    poller.take(prefetch).unwrap();
    assert_eq!(finish(reader.get_stats()).cached_blocks, 8);
}

#[test]
fn what_could_not_be_stored_is_not_fetched_by_more_at_once_than_configured() {
    let source = Source::new(1, BLOCK, BLOCKS);
    let regions = Regions::of(&source);
    let backend = Backend::new();
    let reader = open_with(
        &source,
        &backend,
        CacheConfig::new().with_fetches_at_once(1),
    );
    backend.fail(move |call| writes_data(regions, call).then_some(Fault::Error));
    source.gate.shut();
    let mut poller = Poller::new();
    for lba in 0..8 {
        poller.spawn(read(&reader, lba, 1));
    }
    poller.run();
    let wide = poller.spawn(read(&reader, 0, 8));
    poller.run();
    // The limit is over all readers.
    while !poller.is_done(wide) {
        assert_eq!(source.gate.release_all(), 1);
        poller.run();
    }
    source.assert_bytes(0, &poller.take(wide).unwrap());
}

#[test]
fn a_request_of_many_rounds_is_flushed_once() {
    let source = Source::new(1, BLOCK, BLOCKS);
    let backend = Backend::new();
    let config = CacheConfig::new()
        .with_flush_every_blocks(1)
        .with_fetches_at_once(1);
    let reader = open_with(&source, &backend, config);
    for lba in [1, 3, 5, 7] {
        check_read(&reader, &source, lba, 1);
    }
    backend.forget();
    check_read(&reader, &source, 0, 8);
    assert_eq!(backend.count(Op::Flush), 1);
}

#[test]
fn a_read_that_fails_late_does_not_drop_what_was_repaired_meanwhile() {
    let source = Source::new(1, BLOCK, BLOCKS);
    let regions = Regions::of(&source);
    let backend = Backend::with_bytes(file_of_ours(&source, 0..4));
    backend.edit(|bytes| bytes[regions.data] ^= 1);
    let reader = open(&source, &backend);
    source.forget();
    let holds = AtomicBool::new(true);
    backend.gate.set(move |call| {
        if reads_block(regions, call, 0) && holds.swap(false, Ordering::SeqCst) {
            Mode::Shut
        } else {
            Mode::Open
        }
    });
    let mut fails = true;
    backend.fail(move |call| {
        let first = reads_block(regions, call, 0) && mem::take(&mut fails);
        first.then_some(Fault::Error)
    });
    let mut poller = Poller::new();
    let slow = poller.spawn(read(&reader, 0, 1));
    poller.run();
    check_read(&reader, &source, 0, 1);
    backend.gate.open();
    poller.run();
    source.assert_bytes(0, &poller.take(slow).unwrap());
    assert_eq!(source.fetches()[0], 1, "repaired once");
}

#[test]
fn a_wide_request_with_much_damage_takes_time_in_proportion() {
    // Each second block is damaged, and one fetch at a time: if a round moved all that is still waiting, this would
    // take minutes.
    let total = 16 << 10;
    let source = Source::new(1, 16, total);
    let backend = Backend::new();
    let reader = open(&source, &backend);
    check_read(&reader, &source, 0, total);
    let regions = Regions::of(&source);
    backend.edit(|bytes| {
        for lba in (0..total as usize).step_by(2) {
            bytes[regions.data + lba * 16] ^= 1;
        }
    });
    let again = Backend::with_bytes(backend.bytes());
    let reader = open_with(&source, &again, CacheConfig::new().with_fetches_at_once(1));
    check_read(&reader, &source, 0, total);
    assert_eq!(reader.counters().checksum_mismatched_blocks, total / 2);
}
