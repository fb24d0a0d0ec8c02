//! One fetch per block, however many want it, and what becomes of those who wait when it fails.

use crate::support::backend;
use crate::support::source::Fault;
use crate::support::{
    Backend, Poller, Reader, Rng, Source, cache_blocks, check_read, finish, for_seeds, open,
    open_with, read,
};
use gibblox_cache::CacheConfig;
use gibblox_core::{GibbloxErrorKind, GibbloxResult, ReadContext};
use std::sync::Arc;

const BLOCK: u32 = 16;

type Outcome = GibbloxResult<Vec<u8>>;

fn world(blocks: u64) -> (Arc<Source>, Arc<Backend>, Reader) {
    let (source, backend) = (Source::new(5, BLOCK, blocks), Backend::new());
    let reader = open(&source, &backend);
    source.forget();
    (source, backend, reader)
}

async fn ensure(reader: &Reader, lba: u64, blocks: u64) -> Outcome {
    let done = reader.ensure_cached(lba, blocks, ReadContext::BACKGROUND);
    done.await.map(|()| Vec::new())
}

#[test]
fn overlapping_readers_share_what_they_share() {
    let (source, _, reader) = world(12);
    source.gate.shut();
    let mut poller = Poller::new();
    let ranges = [(2, 4), (4, 4), (0, 12), (2, 4), (7, 1)];
    let tasks = ranges.map(|(lba, blocks)| poller.spawn(read(&reader, lba, blocks)));
    poller.run();
    assert_eq!(source.fetches(), [1; 12], "each block is under way once");
    while source.gate.release_all() > 0 {
        poller.run();
    }
    for (task, (lba, _)) in tasks.into_iter().zip(ranges) {
        source.assert_bytes(lba, &poller.take(task).unwrap());
    }
    assert_eq!(source.fetches(), [1; 12]);
}

#[test]
fn a_reader_and_a_prefetch_share_too() {
    for reader_first in [true, false] {
        let (source, _, reader) = world(8);
        source.gate.shut();
        let mut poller = Poller::new();
        if reader_first {
            poller.spawn(read(&reader, 2, 4));
            poller.run();
        }
        poller.spawn(ensure(&reader, 0, 8));
        poller.run();
        if !reader_first {
            poller.spawn(read(&reader, 2, 4));
            poller.run();
        }
        while source.gate.release_all() > 0 {
            poller.run();
        }
        poller.run_to_end();
        assert!(poller.take_done().iter().all(|(_, done)| done.is_ok()));
        assert_eq!(source.fetches(), [1; 8]);
    }
}

/// Polls and lets go in an order that `rng` chooses, until nothing is left to do.
fn shuffle(rng: &mut Rng, poller: &mut Poller<Outcome>, source: &Source, backend: &Backend) {
    loop {
        let woken = poller.woken();
        let fetching = source.gate.held();
        let storing = backend.gate.held();
        let choices = woken.len() + fetching.len() + storing.len();
        if choices == 0 {
            return;
        }
        let choice = rng.index(choices);
        if let Some(id) = woken.get(choice) {
            poller.poll(*id);
        } else if let Some((ticket, _)) = fetching.get(choice - woken.len()) {
            source.gate.release(*ticket);
        } else {
            let (ticket, _) = &storing[choice - woken.len() - fetching.len()];
            backend.gate.release(*ticket);
        }
    }
}

#[test]
fn each_block_is_fetched_once_in_every_order_of_events() {
    for_seeds(600, |rng| {
        let (source, backend) = (Source::new(5, BLOCK, 12), Backend::new());
        let config = CacheConfig::new()
            .with_flush_every_blocks(1 + rng.below(8) as u32)
            .with_window_bytes(BLOCK * (1 + rng.below(5) as u32))
            .with_windows_at_once(1 + rng.below(3) as u32)
            .with_fetches_at_once(1 + rng.below(4) as u32);
        let reader = open_with(&source, &backend, config);
        source.forget();
        source.gate.shut();
        backend.gate.shut();
        let mut poller = Poller::new();
        let mut ranges = Vec::new();
        for _ in 0..2 + rng.below(8) {
            let (lba, blocks) = rng.run(12, 12);
            let id = if rng.chance(80) {
                poller.spawn(read(&reader, lba, blocks))
            } else {
                poller.spawn(ensure(&reader, lba, blocks))
            };
            ranges.push((id, lba));
            // Some start while others are well under way.
            for _ in 0..rng.below(6) {
                if let [.., id] = poller.woken()[..] {
                    poller.poll(id);
                }
                if let [(ticket, _), ..] = source.gate.held()[..] {
                    source.gate.release(ticket);
                }
            }
        }
        shuffle(rng, &mut poller, &source, &backend);
        poller.run_to_end();
        for (id, lba) in ranges {
            source.assert_bytes(lba, &poller.take(id).unwrap());
        }
        let twice = source.fetches().iter().any(|count| *count > 1);
        assert!(!twice, "fetched twice: {:?}", source.reads());
    });
}

#[test]
fn a_dropped_leader_hands_its_run_to_a_follower() {
    let (source, _, reader) = world(8);
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(read(&reader, 0, 8));
    poller.run();
    let ranges = [(0, 8), (2, 3), (7, 1), (0, 1)];
    let followers = ranges.map(|(lba, blocks)| poller.spawn(read(&reader, lba, blocks)));
    poller.run();
    assert_eq!(source.reads(), [(0, 8)], "the followers wait");
    poller.cancel(leader);
    poller.run();
    while source.gate.release_all() > 0 {
        poller.run();
    }
    for (task, (lba, _)) in followers.into_iter().zip(ranges) {
        source.assert_bytes(lba, &poller.take(task).unwrap());
    }
    assert_eq!(
        source.fetches(),
        [2; 8],
        "once more each, for all followers"
    );
}

#[test]
fn leaders_dropped_one_after_the_other_leave_the_last_one_fed() {
    let (source, _, reader) = world(4);
    source.gate.shut();
    let mut poller = Poller::new();
    let tasks: Vec<_> = (0..6).map(|_| poller.spawn(read(&reader, 0, 4))).collect();
    poller.run();
    for (dropped, task) in tasks.iter().enumerate().take(5) {
        assert_eq!(
            source.gate.held().len(),
            1,
            "one leads, after {dropped} drops"
        );
        poller.cancel(*task);
        poller.run();
    }
    source.gate.open();
    poller.run_to_end();
    source.assert_bytes(0, &poller.take(tasks[5]).unwrap());
}

#[test]
fn a_dropped_prefetch_hands_its_windows_to_a_follower() {
    let (source, _, reader) = world(8);
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(ensure(&reader, 0, 8));
    poller.run();
    let follower = poller.spawn(read(&reader, 1, 6));
    poller.run();
    poller.cancel(leader);
    poller.run();
    source.gate.open();
    poller.run_to_end();
    source.assert_bytes(1, &poller.take(follower).unwrap());
}

#[test]
fn a_panicking_leader_hands_its_runs_to_a_follower() {
    let (source, _, reader) = world(12);
    cache_blocks(&reader, &source, [3, 7]);
    source.forget();
    source.fail(|call| (call.index < 3 && call.touches(5)).then_some(Fault::Panic));
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(read(&reader, 0, 12));
    poller.run();
    let follower = poller.spawn(read(&reader, 2, 9));
    poller.run();
    assert_eq!(source.reads().len(), 3, "the follower waits");
    let released = source.gate.release_where(|call| call.touches(5));
    assert_eq!(released, 1);
    assert!(poller.poll_panicking(leader).contains("the source panics"));
    source.gate.open();
    poller.run_to_end();
    source.assert_bytes(2, &poller.take(follower).unwrap());
    check_read(&reader, &source, 0, 12);
}

#[test]
fn a_leader_that_panics_at_once_leaves_nothing_claimed() {
    let (source, _, reader) = world(4);
    source.fail(|call| (call.index == 0).then_some(Fault::Panic));
    let mut poller = Poller::new();
    let leader = poller.spawn(read(&reader, 0, 4));
    poller.poll_panicking(leader);
    check_read(&reader, &source, 0, 4);
    assert_eq!(source.fetches(), [2; 4]);
}

#[test]
fn a_leader_and_its_equals_get_the_sources_own_error_from_one_call() {
    let (source, _, reader) = world(8);
    source.fail_block(3, "the disk is on fire");
    source.gate.shut();
    let mut poller = Poller::new();
    let mut tasks: Vec<_> = (0..3).map(|_| poller.spawn(read(&reader, 2, 4))).collect();
    poller.run();
    tasks.push(poller.spawn(ensure(&reader, 2, 4)));
    poller.run();
    source.gate.open();
    poller.run_to_end();
    for task in tasks {
        let error = poller.take(task).expect_err("the source failed");
        assert_eq!(error.kind(), GibbloxErrorKind::Io);
        assert_eq!(error.message(), Some("the disk is on fire"));
    }
    assert_eq!(source.reads(), [(2, 4)]);
    source.heal();
    check_read(&reader, &source, 0, 8);
}

#[test]
fn the_error_keeps_its_kind() {
    for kind in [
        GibbloxErrorKind::InvalidInput,
        GibbloxErrorKind::OutOfRange,
        GibbloxErrorKind::Unsupported,
        GibbloxErrorKind::Other,
    ] {
        let (source, _, reader) = world(4);
        source.fail(move |_| Some(Fault::Error(gibblox_core::GibbloxError::new(kind))));
        source.gate.once();
        let mut poller = Poller::new();
        let tasks = [0, 1].map(|_| poller.spawn(read(&reader, 0, 2)));
        poller.run_to_end();
        for task in tasks {
            let error = poller.take(task).expect_err("the source failed");
            assert_eq!((error.kind(), error.message()), (kind, None));
        }
    }
}

#[test]
fn a_follower_of_part_of_a_failed_fetch_asks_for_its_part_itself() {
    let (source, _, reader) = world(8);
    source.fail_block(0, "block 0 is bad");
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(read(&reader, 0, 8));
    poller.run();
    let healthy = poller.spawn(read(&reader, 3, 2));
    let prefetch = poller.spawn(ensure(&reader, 6, 2));
    let sick = poller.spawn(read(&reader, 0, 2));
    poller.run();
    assert_eq!(source.reads(), [(0, 8)]);
    source.gate.open();
    poller.run_to_end();
    source.assert_bytes(3, &poller.take(healthy).unwrap());
    poller.take(prefetch).unwrap();
    for task in [leader, sick] {
        let error = poller.take(task).expect_err("block 0 is bad");
        assert_eq!(error.message(), Some("block 0 is bad"));
    }
    source.forget();
    check_read(&reader, &source, 3, 2);
    check_read(&reader, &source, 6, 2);
    assert_eq!(source.reads(), [], "what succeeded is cached");
}

#[test]
fn a_follower_that_wants_more_than_failed_ends_with_the_sources_error() {
    let (source, _, reader) = world(8);
    source.fail_block(2, "block 2 is bad");
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(read(&reader, 1, 3));
    poller.run();
    let wider = poller.spawn(read(&reader, 0, 8));
    poller.run();
    while source.gate.release_all() > 0 {
        poller.run();
    }
    for task in [leader, wider] {
        let error = poller.take(task).expect_err("block 2 is bad");
        assert_eq!(error.message(), Some("block 2 is bad"));
    }
    source.gate.open();
    for lba in [0, 1, 3, 4, 5, 6, 7] {
        check_read(&reader, &source, lba, 1);
    }
}

#[test]
fn a_failing_first_second_or_last_run_fails_no_other_block() {
    for waiting in [false, true] {
        for (bad, run) in [(1, 0..2), (5, 3..6), (9, 7..10)] {
            let (source, _, reader) = world(10);
            cache_blocks(&reader, &source, [2, 6]);
            source.fail_block(bad, "bad block");
            source.gate.shut();
            let mut poller = Poller::new();
            let leader = poller.spawn(read(&reader, 0, 10));
            poller.run();
            let others: Vec<_> = (0..10)
                .filter(|lba| waiting && *lba != bad)
                .map(|lba| (lba, poller.spawn(read(&reader, lba, 1))))
                .collect();
            poller.run();
            source.gate.open();
            poller.run_to_end();
            let error = poller.take(leader).expect_err("one block is bad");
            assert_eq!(error.message(), Some("bad block"));
            for (lba, task) in others {
                source.assert_bytes(lba, &poller.take(task).unwrap());
            }
            source.forget();
            for lba in (0..10).filter(|lba| !run.contains(lba)) {
                check_read(&reader, &source, lba, 1);
            }
            assert_eq!(source.reads(), [], "the runs beside the bad one were kept");
            for lba in run.filter(|lba| *lba != bad) {
                check_read(&reader, &source, lba, 1);
            }
            source.heal();
            check_read(&reader, &source, 0, 10);
        }
    }
}

#[test]
fn a_block_that_cannot_be_stored_reaches_the_leader_and_its_followers() {
    let (source, backend, reader) = world(8);
    backend.fail_all(backend::Op::Write);
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(read(&reader, 0, 4));
    poller.run();
    let followers = [(0, 4), (1, 2), (2, 6)]
        .map(|(lba, blocks)| (lba, poller.spawn(read(&reader, lba, blocks))));
    let prefetch = poller.spawn(ensure(&reader, 0, 4));
    poller.run();
    source.gate.open();
    poller.run_to_end();
    source.assert_bytes(0, &poller.take(leader).unwrap());
    for (lba, task) in followers {
        source.assert_bytes(lba, &poller.take(task).unwrap());
    }
    let error = poller.take(prefetch).expect_err("nothing was stored");
    assert_eq!(error.message(), Some("backend: cannot write"));
    assert_eq!(finish(reader.get_stats()).cached_blocks, 0);
    assert!(reader.counters().backend_write_failures >= 1);
}

#[test]
fn a_prefetch_that_leads_and_cannot_store_reports_the_backends_error() {
    let (source, backend, reader) = world(8);
    backend.fail_all(backend::Op::Write);
    let error = finish(ensure(&reader, 0, 8)).expect_err("nothing was stored");
    assert_eq!(error.message(), Some("backend: cannot write"));
    backend.heal();
    finish(ensure(&reader, 0, 8)).unwrap();
    source.forget();
    check_read(&reader, &source, 0, 8);
    assert_eq!(source.reads(), []);
}

#[test]
fn a_follower_of_a_prefetch_gets_the_bytes_although_nothing_can_be_stored() {
    let (source, backend, reader) = world(8);
    backend.fail_all(backend::Op::Write);
    source.gate.shut();
    let mut poller = Poller::new();
    let leader = poller.spawn(ensure(&reader, 0, 8));
    poller.run();
    let follower = poller.spawn(read(&reader, 0, 8));
    poller.run();
    source.gate.open();
    poller.run_to_end();
    assert!(poller.take(leader).is_err());
    source.assert_bytes(0, &poller.take(follower).unwrap());
}

#[test]
fn a_follower_whose_stored_bytes_cannot_be_read_back_fetches_them() {
    let (source, backend, reader) = world(4);
    backend.fail_all(backend::Op::Read);
    source.gate.shut();
    let mut poller = Poller::new();
    let tasks = [0, 1, 2].map(|_| poller.spawn(read(&reader, 0, 4)));
    poller.run();
    source.gate.open();
    poller.run_to_end();
    for task in tasks {
        source.assert_bytes(0, &poller.take(task).unwrap());
    }
}

#[test]
fn readers_that_find_the_same_damage_fetch_it_once() {
    for_seeds(200, |rng| {
        let (source, backend, reader) = world(6);
        check_read(&reader, &source, 0, 6);
        let block = source.bytes(3, 1);
        backend.edit(|bytes| {
            let at = bytes
                .windows(block.len())
                .position(|window| window == block);
            bytes[at.expect("the block is stored")] ^= 1;
        });
        let reader = open(&source, &backend);
        source.forget();
        source.gate.shut();
        backend.gate.shut();
        let mut poller = Poller::new();
        let ranges = [(2, 3), (3, 1), (0, 6)];
        let tasks = ranges.map(|(lba, blocks)| poller.spawn(read(&reader, lba, blocks)));
        shuffle(rng, &mut poller, &source, &backend);
        for (task, (lba, _)) in tasks.into_iter().zip(ranges) {
            source.assert_bytes(lba, &poller.take(task).unwrap());
        }
        assert_eq!(source.reads(), [(3, 1)]);
    });
}
