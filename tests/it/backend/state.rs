//! The state of a cache: serving, failing, not open yet, bypassed; and what `Debug` prints of a reader.

use crate::support::backend::{Fault, Op};
use crate::support::{Backend, Immediate, Source, check_read, finish, open, open_with};
use gibblox_cache::{
    BypassPolicy, CacheConfig, CacheOps, CacheState, CachedBlockReader, MemoryCacheOps,
};
use gibblox_core::BlockReader;
use std::sync::Arc;

const BLOCK: u32 = 16;
const BLOCKS: u64 = 12;

fn parts() -> (Arc<Source>, Arc<Backend>) {
    (Source::new(5, BLOCK, BLOCKS), Backend::new())
}

#[test]
fn a_dead_disk_is_not_open_until_it_is_well_again() {
    let (source, backend) = parts();
    backend.die();
    let reader = open(&source, &backend);
    for lba in 0..20 {
        assert_eq!(reader.state(), CacheState::NotOpen);
        check_read(&reader, &source, lba % BLOCKS, 1);
    }
    backend.heal();
    assert_eq!(reader.state(), CacheState::NotOpen, "asking makes no call");
    check_read(&reader, &source, 0, 1);
    assert_eq!(reader.state(), CacheState::Serving);
}

/// Fails one call of each kind, and lets one of each kind end the row.
fn every_failure_begins_a_row_and_every_success_ends_it<C: CacheOps>(
    (source, backend): &(Arc<Source>, Arc<Backend>),
    reader: &CachedBlockReader<Arc<Source>, C>,
) {
    // Block 5 is for a write that fails, and 6 for one that does not.
    let call = |op, lba| match op {
        Op::Read | Op::Write => check_read(reader, source, lba, 1),
        _ => drop(finish(reader.flush_cache())),
    };
    for failing in [Op::Read, Op::Write, Op::Flush] {
        for succeeding in [Op::Read, Op::Write, Op::Flush] {
            finish(reader.clear()).unwrap();
            check_read(reader, source, 0, 3);
            assert_eq!(reader.state(), CacheState::Serving);
            // After a read that fails the block is fetched and stored, and that would be a success.
            let also = if failing == Op::Read {
                Op::Write
            } else {
                failing
            };
            backend.fail(move |call| {
                let fails = call.op == failing || call.op == also;
                fails.then_some(Fault::Error)
            });
            let lba = if failing == Op::Read { 0 } else { 5 };
            call(failing, lba);
            assert_eq!(reader.state(), CacheState::Failing, "{failing:?}");
            call(failing, lba);
            assert_eq!(reader.state(), CacheState::Failing, "{failing:?} again");
            backend.heal();
            backend.forget();
            assert_eq!(reader.state(), CacheState::Failing, "{failing:?}");
            assert_eq!(backend.calls().len(), 0, "asking makes no call");
            call(succeeding, if succeeding == Op::Read { 1 } else { 6 });
            assert_eq!(backend.calls().first().unwrap().op, succeeding);
            assert_eq!(reader.state(), CacheState::Serving, "after {failing:?}");
        }
    }
}

#[test]
fn a_disk_is_failing_from_a_failed_call_to_the_next_that_succeeds() {
    let parts = parts();
    let (source, backend) = &parts;
    let waiting = open(source, backend);
    every_failure_begins_a_row_and_every_success_ends_it(&parts, &waiting);

    let parts = self::parts();
    let (source, backend) = &parts;
    let opening = CachedBlockReader::new(Arc::clone(source), Immediate(Arc::clone(backend)));
    every_failure_begins_a_row_and_every_success_ends_it(&parts, &finish(opening).unwrap());
}

#[test]
fn a_disk_that_fails_every_call_stays_failing_without_any_policy() {
    let (source, backend) = parts();
    let reader = open(&source, &backend);
    check_read(&reader, &source, 0, 6);
    backend.die();
    for round in 0..50 {
        check_read(&reader, &source, round % BLOCKS, 1);
        assert_eq!(reader.state(), CacheState::Failing);
    }
}

#[test]
fn a_shorter_file_is_no_failure() {
    let (source, backend) = parts();
    let reader = open(&source, &backend);
    check_read(&reader, &source, 0, 6);
    backend.edit(|bytes| bytes.truncate(bytes.len() / 2));
    check_read(&reader, &source, 0, 6);
    assert_eq!(reader.state(), CacheState::Serving);
}

#[test]
fn a_bypass_comes_before_all_else() {
    let (source, backend) = parts();
    let config = CacheConfig::new().with_bypass(BypassPolicy {
        after_failures: 2,
        probe_after_reads: 3,
    });
    let reader = open_with(&source, &backend, config);
    check_read(&reader, &source, 0, 6);
    backend.fail_all(Op::Write);
    check_read(&reader, &source, 6, 1);
    assert_eq!(reader.state(), CacheState::Failing);
    check_read(&reader, &source, 6, 1);
    assert_eq!(reader.state(), CacheState::Bypassed);
    backend.heal();
    finish(reader.flush_cache()).unwrap();
    assert_eq!(reader.state(), CacheState::Serving);

    let (source, backend) = parts();
    backend.die();
    let reader = open_with(&source, &backend, config);
    assert_eq!(reader.state(), CacheState::NotOpen);
    check_read(&reader, &source, 0, 1);
    assert_eq!(reader.state(), CacheState::Bypassed);
}

#[test]
fn debug_is_short_and_works_over_parts_of_any_kind() {
    fn shown<S, C>(reader: &CachedBlockReader<S, C>) -> String {
        format!("{reader:?}")
    }
    let (source, backend) = parts();
    let identity = gibblox_cache::cached_reader_identity_string(&source);
    let source: Arc<dyn BlockReader> = source;
    let cache: Arc<dyn CacheOps> = Arc::clone(&backend) as _;
    let reader = finish(CachedBlockReader::new(Arc::clone(&source), cache)).unwrap();
    let expected = |state: &str| {
        format!(
            "CachedBlockReader {{ identity: {identity:?}, block_size: 16, total_blocks: 12, state: {state}, .. }}"
        )
    };
    assert_eq!(format!("{reader:?}"), expected("Serving"));
    backend.die();
    assert!(finish(reader.flush_cache()).is_err());
    assert_eq!(shown(&reader), expected("Failing"));

    let reader = finish(CachedBlockReader::new(source, MemoryCacheOps::new())).unwrap();
    assert_eq!(shown(&reader), expected("Serving"));
}
