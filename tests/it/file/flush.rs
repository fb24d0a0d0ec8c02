//! When the backend is flushed, who waits for it, and what a flush that failed or was dropped leaves behind.

use crate::support::backend::{self, Op};
use crate::support::files::file_of_published;
use crate::support::gate::Mode;
use crate::support::poll::drop_after;
use crate::support::{
    Backend, Poller, Reader, Source, World, cache_blocks, check_read, finish, open, read,
};
use gibblox_cache::{CacheConfig, CachedBlockReader};
use gibblox_core::{GibbloxErrorKind, GibbloxResult, ReadContext};
use std::sync::Arc;

const BLOCK: u32 = 16;

fn world(flush_every_blocks: u32) -> (Arc<Source>, Arc<Backend>, Reader) {
    let config = CacheConfig::new().with_flush_every_blocks(flush_every_blocks);
    World::of(400).block(BLOCK).config(config).parts()
}

fn hold_flushes(backend: &Backend) {
    backend.gate.set(|call| match call.op {
        Op::Flush => Mode::Shut,
        Op::Read | Op::Write | Op::SetLen => Mode::Open,
    });
}

#[test]
fn after_exactly_so_many_newly_cached_blocks_there_is_one_flush() {
    for every in [1, 2, 5, 64] {
        let (source, backend, reader) = world(every);
        for cached in 1..=4 * u64::from(every) {
            check_read(&reader, &source, cached - 1, 1);
            let flushes = backend.count(Op::Flush) as u64;
            assert_eq!(flushes, cached / u64::from(every), "after {cached} blocks");
        }
    }
}

#[test]
fn without_being_told_there_is_one_after_sixty_four_in_a_file_of_the_published_crate() {
    let source = Source::new(11, BLOCK, 400);
    let backend = Backend::with_bytes(file_of_published(&source, 0..1));
    let opening = CachedBlockReader::new(Arc::clone(&source), Arc::clone(&backend));
    let reader = finish(opening).unwrap();
    backend.forget();
    for cached in 1..=200_u64 {
        check_read(&reader, &source, cached, 1);
        assert_eq!(backend.count(Op::Flush) as u64, cached / 64);
    }
}

#[test]
fn without_being_told_a_file_with_checksums_is_flushed_beside_the_fetch_after_32_mib() {
    const MIB: u32 = 1 << 20;
    let (source, backend) = (Source::new(11, MIB, 70), Backend::new());
    let opening = CachedBlockReader::new(Arc::clone(&source), Arc::clone(&backend));
    let reader = finish(opening).unwrap();
    backend.forget();
    for cached in 0..70_u64 {
        check_read(&reader, &source, cached, 1);
        assert_eq!(
            backend.count(Op::Flush) as u64,
            (cached + 1) / 33,
            "{cached}"
        );
    }
}

#[test]
fn the_old_constructor_sets_the_limit_too() {
    let (source, backend) = (Source::new(11, BLOCK, 400), Backend::new());
    let opening =
        CachedBlockReader::with_flush_block_limit(Arc::clone(&source), Arc::clone(&backend), 7);
    let reader = finish(opening).unwrap();
    backend.forget();
    for cached in 1..=30_u64 {
        check_read(&reader, &source, cached, 1);
        assert_eq!(backend.count(Op::Flush) as u64, cached / 7);
    }
}

/// A reader that is flushed after four blocks, beside the next fetch, and has cached four. Flushes are held.
fn due_beside() -> (Arc<Source>, Arc<Backend>, Reader) {
    let config = CacheConfig::new().with_flush_every_bytes(u64::from(4 * BLOCK + BLOCK / 2));
    let (source, backend, reader) = World::of(400).block(BLOCK).config(config).parts();
    for lba in 100..104 {
        check_read(&reader, &source, lba, 1);
    }
    hold_flushes(&backend);
    backend.forget();
    (source, backend, reader)
}

#[test]
fn a_flush_that_is_due_in_bytes_is_made_beside_the_next_fetch() {
    let (source, backend, reader) = due_beside();
    check_read(&reader, &source, 100, 4);
    assert_eq!(backend.count(Op::Flush), 0, "that was no fetch");
    source.gate.shut();
    let mut poller = Poller::new();
    let reading = poller.spawn(read(&reader, 0, 2));
    poller.run();
    assert_eq!(source.gate.held().len(), 1);
    assert_eq!(backend.gate.held().len(), 1, "while the source works");
    backend.gate.release_all();
    poller.run();
    source.gate.open();
    poller.run();
    source.assert_bytes(0, &poller.take(reading).unwrap());
    for (cached, lba) in (3..30).zip(200..) {
        backend.gate.open();
        check_read(&reader, &source, lba, 1);
        // The fifth finds four, and its flush covers it too, since the source answers at once.
        assert_eq!(backend.count(Op::Flush), 1 + cached / 5);
    }
}

#[test]
fn nobody_waits_for_a_flush_beside_a_fetch_but_the_one_who_makes_it() {
    let (source, backend, reader) = due_beside();
    source.gate.shut();
    let mut poller = Poller::new();
    let flusher = poller.spawn(read(&reader, 0, 3));
    poller.run();
    let follower = poller.spawn(read(&reader, 0, 3));
    let narrow = poller.spawn(read(&reader, 1, 1));
    poller.run();
    source.gate.open();
    poller.run();
    assert_eq!(backend.count(Op::Flush), 1, "the followers make none");
    assert_eq!(backend.gate.held().len(), 1, "the flush is under way");
    assert!(!poller.is_done(flusher));
    source.assert_bytes(0, &poller.take(follower).unwrap());
    source.assert_bytes(1, &poller.take(narrow).unwrap());
    for (lba, blocks) in [(100, 1), (0, 3), (50, 1), (1, 2)] {
        check_read(&reader, &source, lba, blocks);
    }
    assert!(!poller.is_done(flusher));
    backend.gate.open();
    poller.run_to_end();
    source.assert_bytes(0, &poller.take(flusher).unwrap());
    assert_eq!(backend.count(Op::Flush), 1);
}

#[test]
fn a_read_that_follows_leaves_the_flush_to_one_that_fetches() {
    let config = CacheConfig::new().with_flush_every_bytes(u64::from(BLOCK));
    let (source, backend, reader) = World::of(400).block(BLOCK).config(config).parts();
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(read(&reader, 0, 1));
    poller.run();
    finish(async {
        let mut other = Poller::new();
        let stored = other.spawn(read(&reader, 50, 1));
        other.run();
        source.gate.release_where(|call| call.lba == 50);
        other.run();
        other.take(stored).unwrap();
    });
    let follower = poller.spawn(read(&reader, 0, 1));
    poller.run();
    assert_eq!(backend.count(Op::Flush), 0, "it fetches nothing");
    let fetching = poller.spawn(read(&reader, 60, 1));
    poller.run();
    assert_eq!(backend.count(Op::Flush), 1);
    source.gate.open();
    poller.run_to_end();
    for id in [leader, follower, fetching] {
        poller.take(id).unwrap();
    }
}

#[test]
fn a_flush_beside_a_fetch_may_be_dropped_and_is_made_by_the_next() {
    let mut polls = 0;
    loop {
        let (source, backend, reader) = due_beside();
        backend.gate.once();
        source.gate.once();
        let done = drop_after(read(&reader, 0, 1), polls);
        source.gate.open();
        backend.gate.open();
        backend.forget();
        if done {
            break;
        }
        check_read(&reader, &source, 0, 1);
        check_read(&reader, &source, 1, 1);
        check_read(&reader, &source, 2, 1);
        let counted = finish(reader.get_stats());
        assert_eq!(counted.cached_blocks, 7);
        assert!(backend.count(Op::Flush) <= 1);
        finish(reader.flush_cache()).unwrap();
        polls += 1;
    }
    assert!(polls > 3, "{polls} polls");

    let (source, backend, reader) = due_beside();
    source.gate.shut();
    assert!(!drop_after(read(&reader, 0, 1), 3));
    source.gate.open();
    assert_eq!(backend.count(Op::Flush), 1);
    backend.gate.open();
    check_read(&reader, &source, 0, 1);
    assert_eq!(backend.count(Op::Flush), 2);
}

#[test]
fn a_flush_beside_a_fetch_that_fails_fails_no_read_and_is_made_though_the_fetch_fails() {
    let (source, backend, reader) = due_beside();
    backend.gate.open();
    backend.fail_all(Op::Flush);
    check_read(&reader, &source, 0, 2);
    assert_eq!(reader.counters().backend_flush_failures, 1);
    check_read(&reader, &source, 2, 6);
    backend.heal();
    source.fail_block(10, "not now");
    finish(read(&reader, 10, 1)).unwrap_err();
    source.heal();
    assert_eq!(backend.count(Op::Flush), 2);
}

#[test]
fn a_flush_that_is_due_in_bytes_is_made_by_those_who_flush_and_by_those_who_cache_ahead() {
    let (source, backend, reader) = due_beside();
    backend.gate.open();
    finish(reader.flush_cache()).unwrap();
    check_read(&reader, &source, 0, 3);
    assert_eq!(backend.count(Op::Flush), 1);
    finish(reader.ensure_cached(10, 1, ReadContext::BACKGROUND)).unwrap();
    assert_eq!(backend.count(Op::Flush), 2);
    check_read(&reader, &source, 20, 1);
    assert_eq!(backend.count(Op::Flush), 2);
}

#[test]
fn the_limit_that_was_set_last_counts() {
    let blocks = CacheConfig::new()
        .with_flush_every_bytes(7)
        .with_flush_every_blocks(3);
    assert_eq!(
        (blocks.flush_every_blocks(), blocks.flush_every_bytes()),
        (Some(3), None)
    );
    let bytes = blocks.with_flush_every_bytes(7);
    assert_eq!(
        (bytes.flush_every_blocks(), bytes.flush_every_bytes()),
        (None, Some(7))
    );
    let default = CacheConfig::new();
    assert_eq!(default.flush_every_bytes(), Some(32 << 20));
    for config in [
        default.with_flush_every_bytes(0),
        default.with_flush_every_blocks(0),
    ] {
        let opening = CachedBlockReader::open(Source::new(1, 16, 4), Backend::new(), config);
        let error = finish(opening).expect_err("zero");
        assert_eq!(error.kind(), GibbloxErrorKind::InvalidInput);
    }
}

#[test]
fn a_large_run_is_flushed_once_and_the_count_starts_again() {
    let (source, backend, reader) = world(4);
    check_read(&reader, &source, 0, 10);
    assert_eq!(backend.count(Op::Flush), 1);
    check_read(&reader, &source, 10, 3);
    assert_eq!(backend.count(Op::Flush), 1);
    check_read(&reader, &source, 13, 1);
    assert_eq!(backend.count(Op::Flush), 2);
}

#[test]
fn what_was_cached_already_does_not_count() {
    let (source, backend, reader) = world(4);
    check_read(&reader, &source, 0, 3);
    for _ in 0..10 {
        check_read(&reader, &source, 0, 3);
        finish(reader.ensure_cached(0, 3, ReadContext::BACKGROUND)).unwrap();
    }
    assert_eq!(backend.count(Op::Flush), 0);
    check_read(&reader, &source, 0, 4);
    assert_eq!(backend.count(Op::Flush), 1);
}

#[test]
fn a_prefetch_counts_as_a_read_does() {
    let (_, backend, reader) = world(8);
    finish(reader.ensure_cached(0, 7, ReadContext::BACKGROUND)).unwrap();
    assert_eq!(backend.count(Op::Flush), 0);
    finish(reader.ensure_cached(0, 8, ReadContext::BACKGROUND)).unwrap();
    assert_eq!(backend.count(Op::Flush), 1);
}

#[test]
fn flushing_by_hand_always_flushes_and_starts_the_count_again() {
    let (source, backend, reader) = world(4);
    finish(reader.flush_cache()).unwrap();
    finish(reader.flush_cache()).unwrap();
    assert_eq!(backend.count(Op::Flush), 2);
    check_read(&reader, &source, 0, 3);
    finish(reader.flush_cache()).unwrap();
    assert_eq!(backend.count(Op::Flush), 3);
    check_read(&reader, &source, 3, 3);
    assert_eq!(backend.count(Op::Flush), 3);
    check_read(&reader, &source, 6, 1);
    assert_eq!(backend.count(Op::Flush), 4);
}

#[test]
fn flushing_by_hand_reports_the_backends_error() {
    let (source, backend, reader) = world(100);
    check_read(&reader, &source, 0, 3);
    backend.fail_all(Op::Flush);
    let error = finish(reader.flush_cache()).expect_err("the backend failed");
    assert_eq!(error.kind(), backend::error("").kind());
    assert_eq!(error.message(), Some("backend: cannot flush"));
    backend.heal();
    finish(reader.flush_cache()).unwrap();
}

#[test]
fn nobody_waits_for_a_flush_but_the_one_who_ran_into_the_limit() {
    let (source, backend, reader) = world(4);
    cache_blocks(&reader, &source, [100]);
    hold_flushes(&backend);
    source.gate.shut();
    let mut poller = Poller::new();
    let flusher = poller.spawn(read(&reader, 0, 3));
    poller.run();
    let follower = poller.spawn(read(&reader, 0, 3));
    let narrow = poller.spawn(read(&reader, 1, 1));
    poller.run();
    source.gate.open();
    poller.run();
    assert_eq!(backend.gate.held().len(), 1, "the flush is under way");
    assert!(!poller.is_done(flusher));
    source.assert_bytes(0, &poller.take(follower).unwrap());
    source.assert_bytes(1, &poller.take(narrow).unwrap());
    for (lba, blocks) in [(100, 1), (0, 3), (50, 1), (1, 2), (60, 1)] {
        check_read(&reader, &source, lba, blocks);
    }
    finish(reader.ensure_cached(70, 1, ReadContext::BACKGROUND)).unwrap();
    assert!(!poller.is_done(flusher));
    backend.gate.open();
    poller.run_to_end();
    source.assert_bytes(0, &poller.take(flusher).unwrap());
}

#[test]
fn a_flush_covers_what_was_written_before_it_and_no_more() {
    let (source, backend, reader) = world(4);
    hold_flushes(&backend);
    let mut poller = Poller::new();
    let flusher = poller.spawn(read(&reader, 0, 4));
    poller.run();
    check_read(&reader, &source, 10, 3);
    assert_eq!(backend.count(Op::Flush), 1);
    backend.gate.open();
    poller.run_to_end();
    poller.take(flusher).unwrap();
    assert_eq!(backend.count(Op::Flush), 1);
    check_read(&reader, &source, 20, 1);
    assert_eq!(
        backend.count(Op::Flush),
        2,
        "3 during the flush and 1 after"
    );
}

#[test]
fn blocks_of_a_dropped_flush_count_again() {
    let (source, backend, reader) = world(4);
    hold_flushes(&backend);
    let mut poller = Poller::new();
    let flusher = poller.spawn(read(&reader, 0, 4));
    poller.run();
    assert_eq!(backend.gate.held().len(), 1);
    poller.cancel(flusher);
    backend.gate.open();
    check_read(&reader, &source, 0, 4);
    check_read(&reader, &source, 10, 1);
    assert_eq!(backend.count(Op::Flush), 2);
    check_read(&reader, &source, 11, 3);
    assert_eq!(backend.count(Op::Flush), 2);
    check_read(&reader, &source, 14, 1);
    assert_eq!(backend.count(Op::Flush), 3);
}

#[test]
fn blocks_of_a_flush_by_hand_that_was_dropped_count_again() {
    let (source, backend, reader) = world(4);
    check_read(&reader, &source, 0, 3);
    hold_flushes(&backend);
    let mut poller = Poller::new();
    let flush = poller.spawn(reader.flush_cache());
    poller.run();
    poller.cancel(flush);
    backend.gate.open();
    check_read(&reader, &source, 3, 1);
    assert_eq!(backend.count(Op::Flush), 2);
}

#[test]
fn flushes_side_by_side_all_come_to_an_end() {
    let (source, backend, reader) = world(2);
    hold_flushes(&backend);
    let mut poller: Poller<'_, GibbloxResult<()>> = Poller::new();
    for lba in [0, 10, 20] {
        let (reader, source) = (&reader, &source);
        poller.spawn(async move {
            source.assert_bytes(lba, &read(reader, lba, 2).await?);
            Ok(())
        });
        poller.spawn(reader.flush_cache());
    }
    poller.run();
    while backend.gate.release_all() > 0 {
        poller.run();
    }
    poller.run_to_end();
    assert!(poller.take_done().iter().all(|(_, done)| done.is_ok()));
}

#[test]
fn after_a_flush_that_failed_what_was_trusted_is_compared_again() {
    for by_hand in [false, true] {
        let (source, backend, reader) = world(4);
        check_read(&reader, &source, 20, 4);
        assert_eq!(backend.count(Op::Flush), 1, "these are durable");
        backend.fail_all(Op::Flush);
        if by_hand {
            check_read(&reader, &source, 0, 3);
            finish(reader.flush_cache()).unwrap_err();
        } else {
            check_read(&reader, &source, 0, 4);
        }
        assert_eq!(reader.counters().backend_flush_failures, 1);
        backend.heal();
        backend.damage(&source.bytes(1, 1));
        backend.damage(&source.bytes(21, 1));
        source.forget();
        backend.forget();
        check_read(&reader, &source, 0, 3);
        let mut fetched = source.reads();
        fetched.sort_unstable();
        assert_eq!(fetched, [(1, 1)], "by hand: {by_hand}");
        check_read(&reader, &source, 20, 4);
        assert_eq!(source.reads().last(), Some(&(21, 1)));
        assert_eq!(reader.counters().checksum_mismatched_blocks, 2);
        assert!(backend.count(Op::Read) > 2, "checksums were read");
    }
}

#[test]
fn what_was_compared_after_a_failed_flush_is_trusted_again() {
    let (source, backend, reader) = world(100);
    check_read(&reader, &source, 0, 4);
    backend.fail_all(Op::Flush);
    finish(reader.flush_cache()).unwrap_err();
    backend.heal();
    source.forget();
    check_read(&reader, &source, 0, 4);
    assert_eq!(source.reads(), [], "the bytes are all right");
    backend.forget();
    check_read(&reader, &source, 0, 4);
    assert_eq!(backend.calls().len(), 1, "{:?}", backend.calls());
}

#[test]
fn a_block_stored_while_a_flush_failed_is_compared_too() {
    let (source, backend, reader) = world(100);
    check_read(&reader, &source, 0, 1);
    backend.fail_all(Op::Flush);
    hold_flushes(&backend);
    let mut poller = Poller::new();
    let flush = poller.spawn(reader.flush_cache());
    poller.run();
    check_read(&reader, &source, 1, 1);
    backend.gate.open();
    poller.run_to_end();
    poller.take(flush).unwrap_err();
    backend.heal();
    backend.damage(&source.bytes(0, 1));
    backend.damage(&source.bytes(1, 1));
    check_read(&reader, &source, 0, 2);
}

#[test]
fn a_flush_that_failed_does_not_fail_the_read_that_ran_into_it() {
    let (source, backend, reader) = world(2);
    backend.fail_all(Op::Flush);
    check_read(&reader, &source, 0, 6);
    source.forget();
    check_read(&reader, &source, 0, 6);
    assert_eq!(source.reads(), [], "and the blocks are still there");
}

#[test]
fn what_was_written_needs_no_flush_to_be_found_by_the_next_process() {
    let (source, backend, reader) = world(u32::MAX);
    check_read(&reader, &source, 7, 200);
    assert_eq!(backend.count(Op::Flush), 0);
    let left_behind = Backend::with_bytes(backend.bytes());
    core::mem::forget(reader);
    let next = open(&source, &left_behind);
    source.forget();
    check_read(&next, &source, 7, 200);
    assert_eq!(source.reads(), []);
}

#[test]
fn in_a_file_without_checksums_a_flush_that_failed_takes_back_what_was_read_and_written() {
    let source = Source::new(11, BLOCK, 400);
    let backend = Backend::with_bytes(file_of_published(&source, 0..6));
    let reader = open(&source, &backend);
    check_read(&reader, &source, 0, 3);
    check_read(&reader, &source, 8, 2);
    backend.fail_all(Op::Flush);
    finish(reader.flush_cache()).unwrap_err();
    backend.heal();
    assert_eq!(
        finish(reader.get_stats()).cached_blocks,
        3,
        "nobody read these"
    );
    backend.damage(&source.bytes(1, 1));
    backend.damage(&source.bytes(8, 1));
    source.forget();
    check_read(&reader, &source, 0, 10);
    let mut fetched = source.reads();
    fetched.sort_unstable();
    assert_eq!(fetched, [(0, 3), (6, 4)]);
    drop(reader);
    check_read(&open(&source, &backend), &source, 0, 10);
}
