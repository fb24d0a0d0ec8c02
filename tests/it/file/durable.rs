//! `flush_cache` is `Ok`: all that was valid is on the medium, whatever flush failed or was dropped before.

use crate::support::backend::{Fault, Op};
use crate::support::gate::Mode;
use crate::support::poll::drop_after;
use crate::support::powercut::{Forgets, PowerCut};
use crate::support::{
    Backend, Poller, Source, World, check_read, finish, open, polls_to_finish, read,
};
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, VerifyPolicy};
use gibblox_core::ReadContext;
use std::sync::Arc;

const BLOCK: u32 = 64;
const BLOCKS: u64 = 40;

fn config(flush_every_blocks: u32) -> CacheConfig {
    // Windows of four blocks.
    CacheConfig::new()
        .with_flush_every_blocks(flush_every_blocks)
        .with_window_bytes(4 * BLOCK)
}

type Reader<C> = CachedBlockReader<Arc<Source>, C>;

fn medium(config: CacheConfig) -> (Arc<Source>, Arc<PowerCut>, Reader<Arc<PowerCut>>) {
    let (source, disk) = (Source::new(5, BLOCK, BLOCKS), PowerCut::new(Vec::new()));
    let opening = CachedBlockReader::open(Arc::clone(&source), Arc::clone(&disk), config);
    let reader = finish(opening).unwrap();
    (source, disk, reader)
}

fn valid<C: CacheOps>(reader: &Reader<C>) -> Vec<u64> {
    reader.cached_runs().flatten().collect()
}

/// The power goes right now, with all that is pending lost: these blocks are there, and right.
#[track_caller]
fn assert_durable(source: &Arc<Source>, disk: &PowerCut, blocks: &[u64]) {
    let cuts = disk.cuts();
    let image = cuts[cuts.len() - 1].durable().to_vec();
    let reader = open(source, &Backend::with_bytes(image));
    source.forget();
    for &lba in blocks {
        check_read(&reader, source, lba, 1);
    }
    assert_eq!(source.reads(), [], "of {blocks:?}");
}

#[test]
fn after_an_automatic_flush_that_failed_one_on_request_makes_all_durable() {
    for forgets in Forgets::ALL {
        for ensures in [false, true] {
            let (source, disk, reader) = medium(config(4));
            check_read(&reader, &source, 20, 4);
            assert_durable(&source, &disk, &[20, 21, 22, 23]);
            disk.fail_next_flush(forgets);
            check_read(&reader, &source, 0, 7);
            assert_eq!(reader.counters().backend_flush_failures, 1);
            if ensures {
                let ahead = reader.ensure_cached(0, 7, ReadContext::BACKGROUND);
                finish(ahead).unwrap();
            }
            // One that succeeds says nothing of what the other one lost.
            check_read(&reader, &source, 30, 5);
            finish(reader.flush_cache()).unwrap();
            let valid = valid(&reader);
            let wanted = if forgets == Forgets::Everywhere {
                9
            } else {
                16
            };
            assert_eq!(valid.len(), wanted, "{forgets:?}: {valid:?}");
            assert_durable(&source, &disk, &valid);
        }
    }
}

#[test]
fn after_a_flush_on_request_that_failed_the_next_makes_all_durable() {
    for forgets in Forgets::ALL {
        for times in 1..4 {
            let (source, disk, reader) = medium(config(1000));
            check_read(&reader, &source, 3, 10);
            check_read(&reader, &source, 30, 1);
            for _ in 0..times {
                disk.fail_next_flush(forgets);
                finish(reader.flush_cache()).unwrap_err();
            }
            check_read(&reader, &source, 35, 2);
            finish(reader.flush_cache()).unwrap();
            assert_durable(&source, &disk, &valid(&reader));
            if forgets == Forgets::OnTheMedium {
                assert_eq!(valid(&reader).len(), 13, "nothing was lost");
            }
        }
    }
}

#[test]
fn what_was_fetched_long_ago_and_kept_is_not_written_again() {
    let (source, disk, reader) = medium(config(1000));
    check_read(&reader, &source, 0, 20);
    finish(reader.flush_cache()).unwrap();
    check_read(&reader, &source, 30, 2);
    disk.fail_next_flush(Forgets::Nothing);
    finish(reader.flush_cache()).unwrap_err();
    let writes = reader.counters().backend_writes;
    finish(reader.flush_cache()).unwrap();
    let writes = reader.counters().backend_writes - writes;
    assert_eq!(writes, 3, "data, checksums and bits of one run");
    let writes = reader.counters().backend_writes;
    finish(reader.flush_cache()).unwrap();
    assert_eq!(reader.counters().backend_writes, writes);
}

#[test]
fn a_flush_that_was_dropped_may_have_failed_and_what_it_covered_is_written_again() {
    let (source, backend, reader) = World::of(BLOCKS).block(BLOCK).config(config(4)).parts();
    backend.gate.set(|call| match call.op {
        Op::Flush => Mode::Shut,
        Op::Read | Op::Write | Op::SetLen => Mode::Open,
    });
    assert!(!drop_after(read(&reader, 0, 4), 3));
    backend.gate.open();
    backend.forget();
    source.forget();
    finish(reader.flush_cache()).unwrap();
    assert_eq!((backend.count(Op::Write), backend.count(Op::Flush)), (3, 2));
    assert_eq!(source.reads(), []);
}

#[test]
fn a_block_that_was_lost_for_the_living_process_too_is_dropped_and_not_kept_as_garbage() {
    let (source, disk, reader) = medium(config(1000));
    check_read(&reader, &source, 0, 6);
    disk.fail_next_flush(Forgets::Everywhere);
    finish(reader.flush_cache()).unwrap_err();
    finish(reader.flush_cache()).unwrap();
    assert_eq!(valid(&reader), []);
    check_read(&reader, &source, 0, 6);
    finish(reader.flush_cache()).unwrap();
    assert_durable(&source, &disk, &[0, 1, 2, 3, 4, 5]);
}

#[test]
fn bits_that_were_mended_before_a_flush_that_failed_are_mended_again() {
    let (source, disk, reader) = medium(config(1000));
    check_read(&reader, &source, 0, 2);
    finish(reader.flush_cache()).unwrap();
    // The bits of block 5 fail, and those of the blocks before it lie in the same byte, also on the medium.
    disk.fail_write_after(2);
    check_read(&reader, &source, 5, 1);
    disk.fail_write_after(0);
    finish(reader.flush_cache()).unwrap_err();
    disk.fail_next_flush(Forgets::OnTheMedium);
    finish(reader.flush_cache()).unwrap_err();
    finish(reader.flush_cache()).unwrap();
    assert_durable(&source, &disk, &[0, 1]);
}

#[test]
fn any_call_of_writing_again_may_fail_and_no_byte_is_wrong() {
    for fault in [Fault::Error, Fault::Torn, Fault::Garbage, Fault::Short] {
        for verify in [VerifyPolicy::OnFirstRead, VerifyPolicy::Never] {
            let mut failing = 0;
            loop {
                let config = config(1000).with_verify(verify);
                let (source, backend, reader) =
                    World::of(BLOCKS).block(BLOCK).config(config).parts();
                check_read(&reader, &source, 2, 6);
                check_read(&reader, &source, 11, 3);
                backend.fail_all(Op::Flush);
                finish(reader.flush_cache()).unwrap_err();
                backend.heal();
                backend.forget();
                backend.fail(move |call| (call.index == failing).then_some(fault));
                let flushed = finish(reader.flush_cache());
                let calls = backend.calls().len();
                backend.heal();
                for lba in 0..BLOCKS {
                    check_read(&reader, &source, lba, 1);
                }
                finish(reader.flush_cache()).unwrap();
                drop(reader);
                check_read(&open(&source, &backend), &source, 0, BLOCKS);
                if calls <= failing {
                    flushed.unwrap();
                    break;
                }
                failing += 1;
            }
            assert!(failing > 10, "{failing} calls");
        }
    }
}

#[test]
fn a_flush_that_writes_again_may_be_dropped_at_any_await() {
    let mut polls = 0;
    loop {
        let (source, disk, reader) = medium(config(1000));
        check_read(&reader, &source, 2, 6);
        check_read(&reader, &source, 11, 3);
        disk.fail_next_flush(Forgets::OnTheMedium);
        finish(reader.flush_cache()).unwrap_err();
        disk.gate.once();
        let done = drop_after(reader.flush_cache(), polls);
        disk.gate.open();
        if !done {
            finish(reader.flush_cache()).unwrap();
        }
        let valid = valid(&reader);
        assert_eq!(valid.len(), 9);
        assert_durable(&source, &disk, &valid);
        source.forget();
        check_read(&reader, &source, 2, 6);
        assert_eq!(source.reads(), []);
        if done {
            break;
        }
        polls += 1;
    }
    assert!(polls > 10, "{polls} polls");
}

#[test]
fn readers_go_on_while_blocks_are_written_again() {
    let (source, backend, reader) = World::of(BLOCKS).block(BLOCK).config(config(1000)).parts();
    check_read(&reader, &source, 0, 4);
    backend.fail_all(Op::Flush);
    finish(reader.flush_cache()).unwrap_err();
    backend.heal();
    source.forget();
    backend.gate.set(|call| match call.op {
        Op::Write => Mode::Shut,
        Op::Read | Op::Flush | Op::SetLen => Mode::Open,
    });
    let mut poller = Poller::new();
    let flush = poller.spawn(reader.flush_cache());
    for writes in 0..3 {
        poller.run();
        assert_eq!(backend.gate.held().len(), 1, "write {writes} is under way");
        check_read(&reader, &source, 0, 4);
        check_read(&reader, &source, 2, 1);
        backend.gate.release_all();
    }
    poller.run_to_end();
    poller.take(flush).unwrap();
    assert_eq!(source.reads(), []);
}

#[test]
fn what_is_dropped_while_it_is_written_again_does_not_come_back() {
    // At each write, and with what is left of it fetched anew before the flush goes on, and after.
    for held_writes in 0..3 {
        let (source, disk, reader) = medium(config(1000));
        check_read(&reader, &source, 0, 4);
        disk.fail_next_flush(Forgets::OnTheMedium);
        finish(reader.flush_cache()).unwrap_err();
        disk.gate.shut();
        let mut poller = Poller::new();
        poller.spawn(async { drop(reader.flush_cache().await) });
        poller.run();
        // A flush, two reads, and each write is held before and after it acts.
        for _ in 0..3 + 2 * held_writes {
            disk.gate.release_all();
            poller.run();
        }
        source.renew();
        poller.spawn(async { reader.invalidate(1, 2).await.unwrap() });
        while disk.gate.release_all() > 0 {
            poller.run();
        }
        poller.run_to_end();
        disk.gate.open();
        for lba in [1, 2] {
            let bytes = finish(read(&reader, lba, 1)).unwrap();
            source.assert_bytes(lba, &bytes);
        }
        let cuts = disk.cuts();
        let few = cuts[cuts.len() - 1].every_image(1 << 16, |image| {
            let reader = open(&source, &Backend::with_bytes(image.to_vec()));
            check_read(&reader, &source, 1, 2);
        });
        assert!(few);
    }
}

#[test]
fn writing_again_gives_other_tasks_their_turn() {
    let (source, backend, reader) = World::of(BLOCKS).block(BLOCK).config(config(1000)).parts();
    check_read(&reader, &source, 0, BLOCKS);
    backend.fail_all(Op::Flush);
    finish(reader.flush_cache()).unwrap_err();
    backend.heal();
    let (flushed, polls) = polls_to_finish(reader.flush_cache());
    flushed.unwrap();
    assert!(polls > 2, "ten windows in {polls} polls");
}

#[test]
fn windows_full_of_damage_do_not_end_the_writing_again() {
    let (source, backend, reader) = World::of(BLOCKS).block(BLOCK).config(config(1000)).parts();
    check_read(&reader, &source, 0, BLOCKS);
    backend.fail_all(Op::Flush);
    finish(reader.flush_cache()).unwrap_err();
    backend.heal();
    for lba in 0..BLOCKS - 1 {
        backend.damage(&source.bytes(lba, 1));
    }
    finish(reader.flush_cache()).unwrap();
    assert_eq!(valid(&reader), [BLOCKS - 1]);
}

#[test]
fn what_cannot_be_read_keeps_a_flush_from_being_good_and_the_rest_is_written() {
    let (source, backend, reader) = World::of(BLOCKS).block(BLOCK).config(config(1000)).parts();
    check_read(&reader, &source, 0, 12);
    backend.fail_all(Op::Flush);
    finish(reader.flush_cache()).unwrap_err();
    backend.heal();
    let bad = backend.find(&source.bytes(5, 1)) as u64;
    let covers = move |offset: u64, len: usize| (offset..offset + len as u64).contains(&bad);
    backend.fail(move |call| {
        (call.op == Op::Read && covers(call.offset, call.len)).then_some(Fault::Error)
    });
    for _ in 0..3 {
        backend.forget();
        finish(reader.flush_cache()).unwrap_err();
        assert_eq!(backend.count(Op::Flush), 1, "what can be is flushed");
    }
    assert!(backend.count(Op::Write) == 0, "the rest is written once");
    assert_eq!(valid(&reader).len(), 12);
    backend.heal();
    backend.forget();
    finish(reader.flush_cache()).unwrap();
    assert_eq!(backend.count(Op::Write), 3, "the one that was left");
}
