//! How many fetches there are at once and how long they are, and what many tasks that come to the same share.

use crate::support::backend::{self, Fault};
use crate::support::files::Regions;
use crate::support::gate::Mode;
use crate::support::source::Fault as SourceFault;
use crate::support::{Backend, Poller, Reader, Source, World, check_read, finish, read};
use gibblox_cache::{CacheConfig, WarmPlan, WiderFetches};
use gibblox_core::{GibbloxResult, ReadContext};
use std::sync::Arc;

const BLOCK: u32 = 16;

/// A device all of whose blocks an earlier process cached, and whose backend reads none of the data of `bad`.
fn unreadable(blocks: u64, bad: core::ops::Range<u64>) -> (Arc<Source>, Arc<Backend>, Reader) {
    let (source, backend, reader) = World::of(blocks).block(BLOCK).found(0..blocks).parts();
    let data = Regions::of(&source).data as u64;
    let bytes = data + bad.start * u64::from(BLOCK)..data + bad.end * u64::from(BLOCK);
    backend.fail(move |call| {
        let end = call.offset + call.len as u64;
        let touches = call.offset < bytes.end && bytes.start < end;
        (call.op == backend::Op::Read && touches).then_some(Fault::Error)
    });
    (source, backend, reader)
}

#[test]
fn readers_of_blocks_that_cannot_be_read_share_two_source_calls_and_change_nothing() {
    for readers in [1, 2, 16, 64] {
        for (lba, blocks) in [(5, 1), (4, 3), (0, 8)] {
            let (source, backend, reader) = unreadable(8, 5..6);
            source.gate.shut();
            backend.gate.once();
            let mut poller = Poller::new();
            let tasks: Vec<_> = (0..readers)
                .map(|_| poller.spawn(read(&reader, lba, blocks)))
                .collect();
            poller.run();
            source.gate.once();
            source.gate.release_all();
            poller.run_to_end();
            for task in tasks {
                source.assert_bytes(lba, &poller.take(task).expect("a well source"));
            }
            let reads = source.reads();
            assert!(reads.len() <= 2, "{readers} readers: {reads:?}");
            assert!(reads.iter().all(|read| *read == (5, 1)), "{reads:?}");
            assert_eq!(backend.count(backend::Op::Write), 0, "nothing is stored");
            assert_eq!(finish(reader.get_stats()).cached_blocks, 8, "nor lost");
            backend.heal();
            source.forget();
            check_read(&reader, &source, 0, 8);
            assert_eq!(source.reads(), []);
        }
    }
}

#[test]
fn a_leader_past_the_cache_that_is_dropped_is_followed_by_the_next() {
    let (source, _backend, reader) = unreadable(8, 5..6);
    source.gate.shut();
    let mut poller = Poller::new();
    let tasks: Vec<_> = (0..16).map(|_| poller.spawn(read(&reader, 5, 1))).collect();
    poller.run();
    for dropped in &tasks[..3] {
        assert_eq!(source.gate.held().len(), 1, "one at a time");
        poller.cancel(*dropped);
        poller.run();
    }
    source.gate.open();
    poller.run_to_end();
    for task in &tasks[3..] {
        source.assert_bytes(5, &poller.take(*task).expect("a well source"));
    }
    assert_eq!(source.reads().len(), 4);
}

#[test]
fn an_error_past_the_cache_is_that_of_all_who_made_the_same_call() {
    let (source, _backend, reader) = unreadable(8, 5..6);
    source.fail_block(5, "bad");
    source.gate.shut();
    let mut poller = Poller::new();
    let tasks: Vec<_> = (0..16).map(|_| poller.spawn(read(&reader, 5, 1))).collect();
    poller.run();
    source.gate.open();
    poller.run_to_end();
    for task in tasks {
        let error = poller.take(task).expect_err("the source is sick too");
        assert_eq!(error.message(), Some("bad"));
    }
    assert_eq!(source.reads(), [(5, 1)]);
}

#[test]
fn a_reader_that_can_read_the_cache_waits_for_none_who_cannot() {
    let (source, backend, reader) = unreadable(8, 5..6);
    source.gate.shut();
    let mut poller = Poller::new();
    let past = poller.spawn(read(&reader, 5, 1));
    poller.run();
    assert_eq!(source.gate.held().len(), 1);
    // It was a fault that passes.
    backend.heal();
    check_read(&reader, &source, 5, 1);
    assert_eq!(source.reads().len(), 1);
    poller.cancel(past);
}

#[test]
fn a_read_past_the_cache_that_begins_after_an_invalidation_gets_the_bytes_of_after_it() {
    let (source, _backend, reader) = unreadable(8, 5..6);
    source.gate.shut();
    let mut poller = Poller::new();
    let old = poller.spawn(read(&reader, 5, 1));
    poller.run();
    finish(reader.invalidate(5, 1)).expect("writes are well");
    source.gate.set(|call| match call.index {
        0 => Mode::Shut,
        _ => Mode::Open,
    });
    // Stored anew, and the backend cannot return it.
    check_read(&reader, &source, 5, 1);
    let reads = source.reads().len();
    check_read(&reader, &source, 5, 1);
    assert_eq!(
        source.reads().len(),
        reads + 1,
        "it does not follow the first"
    );
    assert!(!poller.is_done(old));
    source.gate.open();
    poller.run_to_end();
}

#[test]
fn a_task_that_compares_and_is_dropped_leaves_its_turn_to_the_next() {
    let (source, backend, reader) = World::of(64).block(BLOCK).found(0..64).parts();
    let sums = Regions::of(&source).checksums as u64;
    backend.gate.set(move |call| match call.offset >= sums {
        true => Mode::Shut,
        false => Mode::Open,
    });
    let mut poller = Poller::new();
    let tasks: Vec<_> = (0..16)
        .map(|_| poller.spawn(read(&reader, 0, 64)))
        .collect();
    poller.run();
    for dropped in &tasks[..3] {
        assert_eq!(backend.gate.held().len(), 1, "one compares");
        poller.cancel(*dropped);
        poller.run();
    }
    backend.gate.open();
    poller.run_to_end();
    for task in &tasks[3..] {
        source.assert_bytes(0, &poller.take(*task).expect("it is cached"));
    }
    assert_eq!(source.reads(), []);
    let compared = backend.calls().into_iter();
    let compared = compared.filter(|call| call.op == backend::Op::Read && call.offset >= sums);
    assert_eq!(compared.count(), 4);
}

#[test]
fn a_short_first_read_waits_for_no_long_comparison() {
    let (source, backend, reader) = World::of(64).block(BLOCK).found(0..64).parts();
    let sums = Regions::of(&source).checksums as u64;
    backend
        .gate
        .set(move |call| match call.offset >= sums && call.len > 64 {
            true => Mode::Shut,
            false => Mode::Open,
        });
    let mut poller = Poller::new();
    let long = poller.spawn(read(&reader, 0, 64));
    poller.run();
    check_read(&reader, &source, 3, 1);
    assert!(!poller.is_done(long));
}

#[test]
fn first_readers_of_damage_that_wait_for_a_comparison_get_right_bytes() {
    for blocks in [1, 4, 64] {
        let found = World::of(64).block(BLOCK).found(0..64).damaged(0);
        let (source, backend, reader) = found.parts();
        backend.gate.once();
        source.gate.once();
        let mut poller = Poller::new();
        let tasks: Vec<_> = (0..16)
            .map(|_| poller.spawn(read(&reader, 0, blocks)))
            .collect();
        poller.run_to_end();
        for task in tasks {
            source.assert_bytes(0, &poller.take(task).expect("a well source"));
        }
        assert_eq!(source.reads(), [(0, 1)]);
    }
}

#[test]
fn the_longest_fetch_is_a_whole_number_of_blocks_and_one_at_least() {
    for (bytes, most) in [
        (0, 64),
        (1, 1),
        (BLOCK, 1),
        (3 * BLOCK + 7, 3),
        (u32::MAX, 64),
    ] {
        let config = CacheConfig::new().with_max_fetch_bytes(bytes);
        assert_eq!(config.max_fetch_bytes(), bytes);
        let (source, _, reader) = World::of(64).block(BLOCK).config(config).parts();
        check_read(&reader, &source, 0, 64);
        let longest = source.reads().iter().map(|(_, blocks)| *blocks).max();
        assert_eq!(longest, Some(most), "{bytes} bytes");
        assert_eq!(source.fetches(), [1; 64]);
    }
}

#[test]
fn what_goes_past_the_cache_keeps_to_both_limits() {
    let config = CacheConfig::new()
        .with_max_fetch_bytes(2 * BLOCK)
        .with_fetches_at_once(2);
    let plan = World::of(16).block(BLOCK).config(config).found(0..16);
    let (source, backend, reader) = plan.parts();
    backend.fail_all(backend::Op::Read);
    check_read(&reader, &source, 0, 16);
    assert_eq!(source.reads().len(), 8);
    assert!(source.peak() <= 2);
}

#[test]
fn places_that_are_waited_for_come_back_in_every_order_of_drops() {
    // Four readers of a block each under a limit of one; each set of them is dropped after each number of releases.
    for dropped in 0..1_u32 << 4 {
        for released in 0..4 {
            let config = CacheConfig::new().with_fetches_at_once(1);
            let (source, _, reader) = World::of(8).block(BLOCK).config(config).parts();
            source.gate.shut();
            let mut poller = Poller::new();
            let tasks: Vec<_> = (0..4)
                .map(|lba| poller.spawn(read(&reader, lba, 1)))
                .collect();
            poller.run();
            for _ in 0..released {
                source.gate.release_all();
                // A place may have been given to a reader that is dropped before it looks.
                let woken = poller.woken();
                poller.poll(woken[0]);
            }
            for (index, task) in tasks.iter().enumerate() {
                if dropped >> index & 1 == 1 {
                    poller.cancel(*task);
                }
            }
            source.gate.open();
            poller.run_to_end();
            for (lba, task) in (0..).zip(&tasks) {
                if dropped >> lba & 1 == 0 {
                    source.assert_bytes(lba, &poller.take(*task).expect("a well source"));
                }
            }
            assert_eq!(source.peak(), 1);
            check_read(&reader, &source, 0, 8);
        }
    }
}

#[test]
fn a_task_that_caches_ahead_ends_beside_readers_that_never_stop() {
    let config = CacheConfig::new()
        .with_fetches_at_once(1)
        .with_window_bytes(BLOCK);
    let (source, _, reader) = World::of(64).block(BLOCK).config(config).parts();
    source.fail_block(63, "bad");
    source.gate.once();
    let mut poller: Poller<'_, GibbloxResult<()>> = Poller::new();
    for _ in 0..3 {
        poller.spawn(async {
            loop {
                let _ = read(&reader, 63, 1).await;
                let _ = read(&reader, 62, 2).await;
            }
        });
    }
    let ahead = poller.spawn(async { reader.ensure_cached(0, 4, ReadContext::BACKGROUND).await });
    for _ in 0..100_000 {
        if poller.is_done(ahead) {
            break;
        }
        for task in poller.woken() {
            poller.poll(task);
        }
    }
    poller.take(ahead).expect("its blocks are sound");
}

fn around(blocks: u32) -> CacheConfig {
    CacheConfig::new().with_wider_fetches(WiderFetches::new().with_around_bytes(blocks * BLOCK))
}

#[test]
fn a_failed_wider_fetch_is_forgotten_after_some_requests() {
    let (source, _, reader) = World::of(4096).block(BLOCK).config(around(16)).parts();
    source.fail_block(7, "bad");
    check_read(&reader, &source, 0, 1);
    assert_eq!(source.reads(), [(0, 16), (0, 1)]);
    source.heal();
    source.forget();
    check_read(&reader, &source, 1, 1);
    assert_eq!(source.reads(), [(1, 1)], "it is remembered");
    // Elsewhere reads are as wide as ever.
    source.forget();
    check_read(&reader, &source, 17, 1);
    assert_eq!(source.reads(), [(16, 16)]);
    for span in 2..256 {
        check_read(&reader, &source, span * 16, 1);
    }
    source.forget();
    check_read(&reader, &source, 3, 1);
    assert_eq!(source.reads(), [(2, 14)], "and tried again");
}

#[test]
fn a_source_that_is_out_of_reach_for_a_moment_makes_no_later_read_narrow() {
    let (source, _, reader) = World::of(64).block(BLOCK).config(around(16)).parts();
    source.fail(|_| Some(SourceFault::io("gone")));
    finish(read(&reader, 0, 1)).expect_err("it is gone");
    source.heal();
    source.forget();
    check_read(&reader, &source, 0, 1);
    assert_eq!(source.reads(), [(0, 16)]);
}

#[test]
fn a_backend_that_damages_what_is_cached_again_and_again_ends_caching_ahead() {
    let config = CacheConfig::new().with_window_bytes(BLOCK);
    let (source, backend, reader) = World::of(4).block(BLOCK).config(config).parts();
    let plan = WarmPlan::device().with_windows_at_once(1);
    let mut told = 0;
    let warmed = finish(reader.warm_with_progress(plan, |progress| {
        // When the last block is there, the first is damaged, and a read finds out.
        if progress.fetched_blocks >= 4 && progress.fetched_blocks > told {
            told = progress.fetched_blocks;
            backend.damage(&source.bytes(0, 1));
            finish(reader.flush_cache()).expect("it is well");
            finish(reader.scrub()).expect("it is well");
        }
    }));
    let error = warmed.expect_err("it keeps nothing");
    assert!(
        error.message().unwrap_or_default().contains("damaged"),
        "{error}"
    );
    assert_eq!(reader.counters().checksum_mismatched_blocks, 16);
}
