//! A backend that fails again and again is bypassed, probed, and used again.

use crate::support::backend::{self, Backend, Fault};
use crate::support::files::file_of_published;
use crate::support::gate::Mode;
use crate::support::poll::drop_after;
use crate::support::{
    Immediate, Poller, Source, assert_calls_are_counted, check_read, finish, lock, open_with, read,
};
use core::future::Future;
use core::pin::Pin;
use gibblox_cache::{
    BypassPolicy, CacheConfig, CacheOps, CacheState, CachedBlockReader, VerifyPolicy, WarmPlan,
};
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, ReadContext};
use std::sync::{Arc, Mutex};
use std::thread;

const BLOCK: u32 = 16;
const BLOCKS: u64 = 12;

/// More reads than any test makes.
const NEVER: u32 = 1_000_000;

fn config(after_failures: u32, probe_after_reads: u32) -> CacheConfig {
    CacheConfig::new().with_bypass(BypassPolicy {
        after_failures,
        probe_after_reads,
    })
}

struct World<C = Arc<Backend>> {
    source: Arc<Source>,
    backend: Arc<Backend>,
    reader: CachedBlockReader<Arc<Source>, C>,
}

/// A reader with blocks 0 to 5 cached and trusted.
fn world(config: CacheConfig) -> World {
    let (source, backend) = (Source::new(5, BLOCK, BLOCKS), Backend::new());
    let reader = open_with(&source, &backend, config);
    let world = World {
        source,
        backend,
        reader,
    };
    world.cache();
    world
}

/// The same over a backend that answers at once.
fn immediate_world(config: CacheConfig) -> World<Immediate> {
    let (source, backend) = (Source::new(5, BLOCK, BLOCKS), Backend::new());
    let cache = Immediate(Arc::clone(&backend));
    let opening = CachedBlockReader::open(Arc::clone(&source), cache, config);
    let world = World {
        reader: finish(opening).unwrap(),
        source,
        backend,
    };
    world.cache();
    world
}

/// A reader that is bypassed since the first failure, of a plain hit, and a backend that is well again. The hit went past
/// the backend then, as the first read.
fn bypassed_world(probe_after_reads: u32) -> World {
    let world = world(config(1, probe_after_reads));
    world.enter();
    world
}

impl<C: CacheOps> World<C> {
    fn cache(&self) {
        check_read(&self.reader, &self.source, 0, 6);
        self.forget();
    }

    fn forget(&self) {
        self.backend.forget();
        self.source.forget();
    }

    fn read(&self, lba: u64, blocks: u64) {
        check_read(&self.reader, &self.source, lba, blocks);
    }

    /// Lets a plain hit fail, which is enough, and forgets it.
    fn enter(&self) {
        self.backend.fail_all(backend::Op::Read);
        self.read(0, 1);
        self.assert_bypassed();
        self.backend.heal();
        self.forget();
    }

    fn calls(&self) -> usize {
        self.backend.calls().len()
    }

    fn cached_blocks(&self) -> u64 {
        finish(self.reader.get_stats()).cached_blocks
    }

    #[track_caller]
    fn assert_bypassed(&self) {
        assert_eq!(self.reader.state(), CacheState::Bypassed);
    }

    #[track_caller]
    fn assert_used(&self) {
        let state = self.reader.state();
        let used = [CacheState::Serving, CacheState::Failing];
        assert!(used.contains(&state), "{state:?}");
    }

    /// Everything works as if nothing had ever been wrong.
    #[track_caller]
    fn check_recovered(&self) {
        assert_eq!(self.reader.state(), CacheState::Serving);
        self.read(0, BLOCKS);
        finish(
            self.reader
                .ensure_cached(0, BLOCKS, ReadContext::BACKGROUND),
        )
        .unwrap();
        self.read(0, BLOCKS);
        self.forget();
        self.read(0, BLOCKS);
        assert_eq!(self.source.reads(), [], "everything is cached");
        assert_eq!(self.calls(), 1, "and a hit is plain");
        finish(self.reader.flush_cache()).unwrap();
    }

    /// The calls that the cache was asked for by those who want it, and not only bytes.
    fn wishes(&self) -> Vec<Task<'_>> {
        vec![
            Box::pin(self.reader.flush_cache()),
            Box::pin(self.reader.ensure_cached(0, 4, ReadContext::BACKGROUND)),
            Box::pin(async { self.reader.scrub().await.map(drop) }),
            Box::pin(async { self.reader.warm(WarmPlan::device()).await.map(drop) }),
            // Last: it drops its blocks whatever becomes of it.
            Box::pin(self.reader.invalidate(0, 2)),
        ]
    }
}

type Task<'a> = Pin<Box<dyn Future<Output = Result<(), GibbloxError>> + 'a>>;

#[track_caller]
fn assert_is_bypassed(error: &GibbloxError) {
    let message = error.message().unwrap_or_default();
    assert!(message.contains("is bypassed"), "{error}");
    assert_eq!(error.kind(), GibbloxErrorKind::Io);
}

#[test]
fn without_being_asked_for_it_never_happens() {
    let world = world(CacheConfig::new());
    world.backend.die();
    for _ in 0..100 {
        world.read(0, 2);
    }
    assert_eq!(world.reader.state(), CacheState::Failing);
    assert!(world.calls() >= 100, "each read tries");
    assert_eq!(world.reader.counters().bypasses, 0);
}

#[test]
fn limits_of_zero_are_refused() {
    for (failures, reads) in [(0, 1), (1, 0), (0, 0)] {
        let source = Source::new(5, BLOCK, BLOCKS);
        let opening = CachedBlockReader::open(source, Backend::new(), config(failures, reads));
        let error = finish(opening).unwrap_err();
        assert_eq!(error.kind(), GibbloxErrorKind::InvalidInput);
    }
    assert_eq!(CacheConfig::new().bypass(), None);
}

fn no_call_after_so_many_failures<C: CacheOps>(failures: u32, world: &World<C>) {
    world.backend.die();
    for round in 0..20 {
        world.read(round % 4, 1 + round % 7);
    }
    assert_eq!(world.calls(), failures as usize, "and then none");
    world.assert_bypassed();
    let counters = world.reader.counters();
    assert_eq!(counters.bypasses, 1);
    assert_eq!(counters.backend_failures(), u64::from(failures));
    assert_eq!(
        counters.served_blocks,
        6 + (0..20).map(|round| 1 + round % 7).sum::<u64>()
    );
}

#[test]
fn after_so_many_failures_in_a_row_no_call_is_made() {
    for failures in 1..=8 {
        let config = config(failures, NEVER);
        no_call_after_so_many_failures(failures, &world(config));
        no_call_after_so_many_failures(failures, &immediate_world(config));
    }
}

fn a_hit_that_is_polled_later_makes_no_call<C: CacheOps>(world: &World<C>) {
    let mut buf = [0; 2 * BLOCK as usize];
    let late = world
        .reader
        .read_blocks(2, &mut buf, ReadContext::FOREGROUND);
    world.enter();
    let before = world.reader.counters();
    assert_eq!(finish(late).unwrap(), 2 * BLOCK as usize);
    world.source.assert_bytes(2, &buf);
    assert_eq!(world.calls(), 0);
    let counted = world.reader.counters().since(&before);
    assert_eq!((counted.backend_reads, counted.bypassed_reads), (0, 1));
}

#[test]
fn a_hit_that_was_asked_for_before_and_is_polled_while_it_is_bypassed_makes_no_call() {
    a_hit_that_is_polled_later_makes_no_call(&world(config(1, NEVER)));
    a_hit_that_is_polled_later_makes_no_call(&immediate_world(config(1, NEVER)));
}

#[test]
fn failures_of_every_kind_count() {
    let dead = Backend::new();
    dead.die();
    let source = Source::new(5, BLOCK, BLOCKS);
    let reader = open_with(&source, &dead, config(1, NEVER));
    assert_eq!(reader.state(), CacheState::Bypassed, "while opening");
    check_read(&reader, &source, 0, 4);
    assert_eq!(dead.calls().len(), 1);

    let rigid = Backend::new();
    rigid.fail_all(backend::Op::SetLen);
    let reader = open_with(&source, &rigid, config(1, NEVER));
    assert_eq!(reader.state(), CacheState::Bypassed, "a change of length");

    let reading = world(config(2, NEVER));
    reading.backend.fail_all(backend::Op::Read);
    reading.read(0, 1);
    reading.assert_bypassed();
    assert_eq!(reading.backend.count(backend::Op::Read), 2);

    let writing = world(config(2, NEVER));
    writing.backend.fail_all(backend::Op::Write);
    for lba in 6..12 {
        writing.read(lba, 1);
    }
    writing.assert_bypassed();
    assert_eq!(writing.calls(), 2, "one write for each of two misses");

    let flushing = world(config(3, NEVER));
    flushing.backend.fail_all(backend::Op::Flush);
    for _ in 0..3 {
        flushing.assert_used();
        assert!(finish(flushing.reader.flush_cache()).is_err());
    }
    flushing.assert_bypassed();
}

#[test]
fn a_shorter_file_is_no_sick_backend() {
    let world = world(config(1, NEVER));
    let len = world.backend.bytes().len();
    for cut in 0..len {
        world.backend.edit(|bytes| bytes.truncate(len - cut));
        world.read(0, 6);
        world.assert_used();
        world.check_recovered();
    }
}

#[test]
fn a_bad_sector_is_written_anew_however_soon_the_backend_is_bypassed() {
    let world = world(config(1, 1));
    let block = world.source.bytes(2, 1);
    let bytes = world.backend.bytes();
    let mut windows = bytes.windows(block.len());
    let bad = windows.position(|window| window == block).unwrap() as u64;
    let mut is_bad = true;
    world.backend.fail(move |call| {
        let touches = (call.offset..call.offset + call.len as u64).contains(&bad);
        is_bad &= !(touches && call.op == backend::Op::Write);
        (touches && is_bad).then_some(Fault::Error)
    });
    for _ in 0..8 {
        world.read(2, 1);
    }
    world.check_recovered();
}

#[test]
fn a_success_begins_the_row_again() {
    let world = world(config(3, NEVER));
    world
        .backend
        .fail(|call| (call.index % 3 != 2).then_some(Fault::Error));
    for round in 0..200 {
        world.read(round % 7, 1 + round % 5);
        let _ = finish(world.reader.flush_cache());
        world.assert_used();
    }
    assert!(world.reader.counters().backend_failures() > 200);
    // One failure more without a success is enough.
    world.backend.die();
    world.read(0, BLOCKS);
    world.assert_bypassed();

    let backend = Backend::new();
    backend.die();
    let reader = open_with(&world.source, &backend, config(2, NEVER));
    backend.fail_all(backend::Op::SetLen);
    assert!(finish(reader.flush_cache()).is_err());
    assert_eq!(
        reader.state(),
        CacheState::NotOpen,
        "what was read first of all succeeded"
    );
}

fn a_plain_hit_ends_a_row<C: CacheOps>(world: &World<C>) {
    world.backend.fail_all(backend::Op::Write);
    for round in 0..50 {
        world.read(6 + round % 6, 1);
        world.read(round % 6, 1);
        world.assert_used();
    }
    assert_eq!(world.reader.counters().backend_write_failures, 50);
    world.read(6, 1);
    world.read(7, 1);
    world.assert_bypassed();
}

#[test]
fn a_plain_hit_ends_a_row_too() {
    a_plain_hit_ends_a_row(&world(config(2, NEVER)));
    a_plain_hit_ends_a_row(&immediate_world(config(2, NEVER)));
}

#[test]
fn after_so_many_reads_one_probes_with_one_call() {
    for reads in 1..=4 {
        let world = bypassed_world(reads);
        let before = world.reader.counters();
        assert_eq!((before.bypasses, before.bypassed_reads), (1, 1));
        world.backend.die();
        for round in 0..3 {
            for _ in u32::from(round == 0)..reads {
                world.read(0, 2);
            }
            assert_eq!(world.calls(), 0, "past it");
            world.read(0, 2);
            let calls = world.backend.calls();
            assert_eq!(calls.len(), 1, "one probes");
            let probe = calls[0];
            assert_eq!(
                (probe.op, probe.offset, probe.len),
                (backend::Op::Read, 0, 1)
            );
            world.assert_bypassed();
            world.forget();
        }
        let after = world.reader.counters().since(&before);
        assert_eq!(after.probes, 3);
        let past = 3 * (u64::from(reads) + 1) - 1;
        assert_eq!(after.bypassed_reads, past);
        assert_eq!(
            after.backend_read_failures, 3,
            "a failed probe is a failed read"
        );
        assert_eq!((after.backend_reads, after.bypasses), (3, 0));

        world.backend.heal();
        for _ in 0..reads {
            world.read(0, 2);
        }
        assert_eq!(world.calls(), 0, "past it, as long as nobody knows");
        world.source.forget();
        world.read(0, 2);
        world.assert_used();
        assert_eq!(
            world.source.reads(),
            [],
            "the one that probed is served by the cache"
        );
        assert_eq!(world.calls(), 3, "probe, data, checksums");
        let after = world.reader.counters().since(&before);
        assert_eq!(after.probes, 4);
        assert_eq!(after.bypassed_reads, past + u64::from(reads));
        world.check_recovered();
    }
}

#[test]
fn while_it_is_bypassed_valid_blocks_are_misses_and_stay_valid() {
    let world = bypassed_world(NEVER);
    assert_eq!(world.cached_blocks(), 6);
    let before = finish(world.reader.get_stats());
    world.read(0, 6);
    world.read(4, 4);
    let after = finish(world.reader.get_stats());
    assert_eq!(after.total_hits, before.total_hits);
    assert_eq!(after.total_misses, before.total_misses + 10);
    assert_eq!(after.cached_blocks, 6);
    assert_eq!(
        world.source.reads(),
        [(0, 6), (4, 4)],
        "whole, whatever is valid"
    );
    assert_eq!(world.calls(), 0);

    finish(world.reader.flush_cache()).unwrap();
    world.source.forget();
    world.read(0, 6);
    assert_eq!(world.source.reads(), []);
    world.check_recovered();
}

#[test]
fn what_is_invalidated_meanwhile_does_not_come_back() {
    let world = bypassed_world(NEVER);
    assert!(!world.reader.is_cached(0, 1).unwrap(), "out of sight");
    assert_eq!(world.reader.cached_runs().next(), None);
    world.backend.die();
    assert!(finish(world.reader.invalidate(1, 3)).is_err());
    assert_eq!(world.calls(), 1, "the probe");
    assert_eq!(world.cached_blocks(), 3);
    world.backend.heal();
    finish(world.reader.flush_cache()).unwrap();
    assert!(world.reader.cached_runs().eq([0..1, 4..6]));
    world.read(0, 6);
    assert_eq!(world.source.reads(), [(1, 3)]);
    world.check_recovered();

    // Again, and it succeeds where the probe does.
    world.enter();
    finish(world.reader.clear()).unwrap();
    assert_eq!(world.cached_blocks(), 0);
    world.check_recovered();
}

#[test]
fn a_bypass_that_comes_and_goes_while_blocks_are_dropped_is_an_error() {
    let world = world(config(1, NEVER));
    world.backend.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(world.reader.invalidate(1, 3));
    poller.run();
    let (first_write, _) = world.backend.gate.held()[0];
    world.backend.fail_all(backend::Op::Read);
    world.backend.gate.set(|_| Mode::Open);
    world.read(0, 1);
    world.assert_bypassed();
    world.backend.heal();
    finish(world.reader.flush_cache()).unwrap();
    world.assert_used();
    world.backend.gate.release(first_write);
    poller.run_to_end();
    let error = poller.take(task).unwrap_err();
    assert!(
        error.message().unwrap().contains("a bypass ended"),
        "{error}"
    );
    drop(poller);
    assert_eq!(world.cached_blocks(), 3, "dropped all the same");
    finish(world.reader.invalidate(1, 3)).unwrap();
    world.check_recovered();
}

#[test]
fn what_was_damaged_meanwhile_is_noticed() {
    for verify in [VerifyPolicy::OnFirstRead, VerifyPolicy::Never] {
        let world = world(config(1, NEVER).with_verify(verify));
        world.enter();
        let block = world.source.bytes(3, 1);
        world.backend.edit(|bytes| {
            let mut windows = bytes.windows(block.len());
            let at = windows.position(|window| window == block).unwrap();
            bytes[at] ^= 1;
        });
        finish(world.reader.flush_cache()).unwrap();
        world.read(0, 6);
        assert_eq!(world.source.reads(), [(3, 1)], "{verify:?}");
        assert_eq!(world.reader.counters().checksum_mismatched_blocks, 1);
        world.check_recovered();
    }
}

#[test]
fn a_file_without_checksums_keeps_what_it_has_unless_a_flush_failed() {
    let source = Source::new(5, BLOCK, BLOCKS);
    for op in [backend::Op::Read, backend::Op::Flush] {
        let backend = Backend::with_bytes(file_of_published(&source, 0..6));
        let world = World {
            reader: open_with(&source, &backend, config(1, NEVER)),
            source: Arc::clone(&source),
            backend,
        };
        world.read(0, 4);
        world.backend.fail_all(op);
        if op == backend::Op::Read {
            world.read(0, 1);
        } else {
            assert!(finish(world.reader.flush_cache()).is_err());
        }
        world.assert_bypassed();
        world.backend.heal();
        finish(world.reader.flush_cache()).unwrap();
        let kept = if op == backend::Op::Read { 6 } else { 2 };
        assert_eq!(world.cached_blocks(), kept, "{op:?}");
        world.source.forget();
        world.read(0, 6);
        let fetched: u64 = world.source.reads().iter().map(|(_, blocks)| blocks).sum();
        assert_eq!(fetched, 6 - kept, "{op:?}");
        world.check_recovered();
    }
}

#[test]
fn whoever_wants_the_cache_probes_at_once_and_hears_how_that_ends() {
    for wish in 0..5 {
        let world = bypassed_world(NEVER);
        world.backend.die();
        for _ in 0..2 {
            let error = finish(world.wishes().swap_remove(wish)).unwrap_err();
            assert_eq!(error.message(), Some("backend: cannot read"));
            assert_eq!(world.calls(), 1, "the probe");
            assert_eq!(world.source.reads(), [], "nothing is fetched for nothing");
            world.assert_bypassed();
            world.forget();
        }
        world.backend.heal();
        finish(world.wishes().swap_remove(wish)).unwrap();
        world.check_recovered();
        assert_eq!(world.reader.counters().probes, 3);
        assert_eq!(world.reader.counters().bypassed_reads, 1, "the hit");
    }
}

#[test]
fn while_one_probes_the_others_wait_for_nobody() {
    let world = bypassed_world(1);
    world.backend.gate.shut();
    let mut poller = Poller::new();
    let prober = poller.spawn(read(&world.reader, 0, 4));
    poller.run();
    assert_eq!(world.calls(), 1);
    world.assert_bypassed();
    for _ in 0..5 {
        world.read(0, 4);
    }
    for wish in world.wishes() {
        assert_is_bypassed(&finish(wish).unwrap_err());
    }
    assert_eq!(world.calls(), 1);
    world.source.forget();
    world.backend.gate.open();
    poller.run_to_end();
    world.source.assert_bytes(0, &poller.take(prober).unwrap());
    let dropped = [(0, 2)];
    assert_eq!(
        world.source.reads(),
        dropped,
        "by the wish to invalidate, and the rest is cached"
    );
    drop(poller);
    world.check_recovered();
}

#[test]
fn a_dropped_probe_is_made_by_the_next_read() {
    let world = bypassed_world(2);
    world.read(0, 1);
    world.backend.gate.shut();
    for probes in 1..=3 {
        let mut poller = Poller::new();
        let prober = poller.spawn(read(&world.reader, 0, 1));
        poller.run();
        assert_eq!(world.calls(), probes);
        poller.cancel(prober);
        world.assert_bypassed();
    }
    assert_eq!(world.reader.counters().probes, 3);
    world.backend.gate.open();
    world.read(0, 1);
    world.check_recovered();
}

#[test]
fn a_call_that_hangs_is_no_failure_and_no_success() {
    let world = world(config(2, NEVER));
    world.backend.fail_all(backend::Op::Write);
    world.read(6, 1);
    world.backend.gate.shut();
    for _ in 0..10 {
        let mut poller = Poller::new();
        let task = poller.spawn(read(&world.reader, 0, 1));
        poller.run();
        poller.cancel(task);
    }
    world.assert_used();
    world.backend.gate.open();
    world.read(7, 1);
    world.assert_bypassed();
}

#[test]
fn reads_past_the_backend_wait_for_nobody() {
    let world = bypassed_world(NEVER);
    world.source.gate.shut();
    let mut poller = Poller::new();
    let readers: Vec<_> = (0..3)
        .map(|_| poller.spawn(read(&world.reader, 2, 8)))
        .collect();
    poller.run();
    assert_eq!(world.source.reads(), [(2, 8); 3]);
    let (ticket, _) = world.source.gate.held()[1];
    world.source.gate.release(ticket);
    poller.run();
    assert!(poller.is_done(readers[1]));
    world.source.gate.open();
    poller.run_to_end();
    for reader in readers {
        world.source.assert_bytes(2, &poller.take(reader).unwrap());
    }
    assert_eq!(world.reader.counters().followed_runs, 0);
}

#[test]
fn a_flush_that_was_due_is_due_when_it_is_over() {
    let world = world(config(1, 1).with_flush_every_blocks(9));
    world.backend.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(read(&world.reader, 6, 3));
    poller.run();
    for _ in 0..2 {
        world.backend.gate.release_all();
        poller.run();
    }
    // Before the last write answers, the bypass begins.
    let mut hit = Poller::new();
    let hit_task = hit.spawn(read(&world.reader, 0, 1));
    world.backend.fail_all(backend::Op::Read);
    hit.run();
    let of_hit = |call: &backend::Call| call.op == backend::Op::Read;
    assert_eq!(world.backend.gate.release_where(of_hit), 1);
    hit.run_to_end();
    hit.take(hit_task).unwrap();
    world.assert_bypassed();
    world.backend.gate.open();
    world.backend.heal();
    poller.run_to_end();
    poller.take(task).unwrap();
    assert_eq!(world.backend.count(backend::Op::Flush), 0, "refused");

    world.read(0, 1);
    world.read(0, 1);
    world.assert_used();
    assert_eq!(
        world.backend.count(backend::Op::Flush),
        0,
        "nothing was stored since"
    );
    world.read(9, 1);
    assert_eq!(
        world.backend.count(backend::Op::Flush),
        1,
        "with the next block"
    );
}

#[test]
fn a_store_that_is_overtaken_takes_back_nothing_and_makes_nothing_valid() {
    // The bypass begins before the first, second and third write of a store answers.
    for answered in 0..3 {
        let world = world(config(1, NEVER));
        world.backend.gate.shut();
        let mut poller = Poller::new();
        let task = poller.spawn(read(&world.reader, 6, 3));
        poller.run();
        for _ in 0..answered {
            world.backend.gate.release_all();
            poller.run();
        }
        world.backend.fail_all(backend::Op::Read);
        let mut hit = Poller::new();
        let hit_task = hit.spawn(read(&world.reader, 0, 1));
        hit.run();
        world
            .backend
            .gate
            .release_where(|call| call.op == backend::Op::Read);
        hit.run_to_end();
        hit.take(hit_task).unwrap();
        world.assert_bypassed();
        world.backend.heal();
        world.backend.gate.open();
        poller.run_to_end();
        world.source.assert_bytes(6, &poller.take(task).unwrap());
        drop(poller);
        let stored = if answered == 2 { 3 } else { 0 };
        assert_eq!(world.cached_blocks(), 6 + stored, "{answered}");
        assert_eq!(world.backend.count(backend::Op::Write), answered + 1);
        finish(world.reader.flush_cache()).unwrap();
        world.check_recovered();
    }
}

#[test]
fn a_read_that_is_overtaken_takes_back_nothing() {
    let World {
        source, backend, ..
    } = world(config(1, NEVER));
    // Another process, which has compared the last block only.
    let world = World {
        reader: open_with(&source, &backend, config(1, NEVER)),
        source,
        backend,
    };
    world.read(5, 1);
    world.forget();
    world.backend.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(read(&world.reader, 0, 3));
    poller.run();
    world.backend.fail_all(backend::Op::Read);
    let mut hit = Poller::new();
    let hit_task = hit.spawn(read(&world.reader, 5, 1));
    hit.run();
    let (ticket, _) = world.backend.gate.held()[1];
    world.backend.gate.release(ticket);
    hit.run_to_end();
    hit.take(hit_task).unwrap();
    world.assert_bypassed();
    world.backend.heal();
    world.backend.gate.open();
    poller.run_to_end();
    world.source.assert_bytes(0, &poller.take(task).unwrap());
    drop(poller);
    assert_eq!(world.calls(), 2, "data of either, no checksums, no writes");
    assert_eq!(world.cached_blocks(), 6);
    finish(world.reader.flush_cache()).unwrap();
    world.source.forget();
    world.read(0, 6);
    assert_eq!(world.source.reads(), []);
    world.check_recovered();
}

#[test]
fn whoever_waits_for_the_file_to_be_opened_is_refused_when_that_was_the_last_failure() {
    let (source, backend) = (Source::new(5, BLOCK, BLOCKS), Backend::new());
    backend.fail_all(backend::Op::Read);
    let world = World {
        reader: open_with(&source, &backend, config(2, NEVER)),
        source,
        backend,
    };
    world.forget();
    world.backend.gate.shut();
    let mut poller = Poller::new();
    let tasks: Vec<_> = (0..3)
        .map(|_| poller.spawn(world.reader.flush_cache()))
        .collect();
    poller.run();
    world.backend.gate.open();
    poller.run_to_end();
    let mut errors = tasks.into_iter().map(|task| poller.take(task).unwrap_err());
    assert_eq!(
        errors.next().unwrap().message(),
        Some("backend: cannot read")
    );
    errors.for_each(|error| assert_is_bypassed(&error));
    assert_eq!(world.calls(), 1);
    world.backend.heal();
    finish(world.reader.flush_cache()).unwrap();
    world.check_recovered();
}

#[test]
fn a_scrub_that_is_overtaken_is_an_error_and_not_a_small_report() {
    let config = config(1, NEVER).with_window_bytes(BLOCK);
    let calls = {
        let world = world(config);
        finish(world.reader.scrub()).unwrap();
        world.calls()
    };
    assert_eq!(calls, 12, "data and checksums of six windows");
    for failing in 0..calls {
        let world = world(config);
        world
            .backend
            .fail(move |call| (call.index == failing).then_some(Fault::Error));
        let error = finish(world.reader.scrub()).unwrap_err();
        assert_is_bypassed(&error);
        assert_eq!(
            world.cached_blocks(),
            5,
            "only what could not be read is dropped"
        );
        assert_eq!(world.calls(), failing + 1);
        world.backend.heal();
        let report = finish(world.reader.scrub()).unwrap();
        assert_eq!((report.scanned_blocks, report.intact_blocks), (5, 5));
        world.check_recovered();
    }
}

#[test]
fn a_scrub_beside_which_a_bypass_begins_is_an_error_too() {
    // While each of its calls waits, a hit of somebody else fails.
    for waiting in 0..12 {
        let world = world(config(1, NEVER).with_window_bytes(BLOCK));
        world.backend.gate.shut();
        let mut poller = Poller::new();
        let task = poller.spawn(world.reader.scrub());
        poller.run();
        for _ in 0..waiting {
            world.backend.gate.release_all();
            poller.run();
        }
        world.backend.fail_all(backend::Op::Read);
        let mut hit = Poller::new();
        let hit_task = hit.spawn(read(&world.reader, 5, 1));
        hit.run();
        let (ticket, _) = world.backend.gate.held()[1];
        world.backend.gate.release(ticket);
        hit.run_to_end();
        hit.take(hit_task).unwrap();
        world.assert_bypassed();
        world.backend.heal();
        world.backend.gate.open();
        poller.run_to_end();
        let result = poller.take(task);
        drop(poller);
        assert_is_bypassed(&result.unwrap_err());
        assert_eq!(world.cached_blocks(), 6, "{waiting}");
        finish(world.reader.flush_cache()).unwrap();
        world.check_recovered();
    }
}

#[test]
fn caching_ahead_that_is_overtaken_is_an_error() {
    let config = config(1, NEVER)
        .with_window_bytes(BLOCK)
        .with_windows_at_once(2);
    let ahead = |world: &World| {
        finish(
            world
                .reader
                .ensure_cached(0, BLOCKS, ReadContext::BACKGROUND),
        )
    };
    let calls = {
        let world = world(config);
        ahead(&world).unwrap();
        world.calls()
    };
    for failing in 0..calls {
        let world = world(config);
        world
            .backend
            .fail(move |call| (call.index == failing).then_some(Fault::Error));
        assert!(ahead(&world).is_err());
        world.assert_bypassed();
        world.backend.heal();
        ahead(&world).unwrap();
        world.check_recovered();
    }
}

#[test]
fn each_time_it_is_over_hits_are_plain_again() {
    let world = world(config(1, NEVER));
    for round in 1..=20 {
        world.enter();
        finish(world.reader.flush_cache()).unwrap();
        world.check_recovered();
        assert_eq!(world.reader.counters().bypasses, round);
    }
}

#[test]
fn every_future_may_be_dropped_at_every_await_before_in_and_after() {
    let mut dropped = 0;
    for task in 0..7 {
        for polls in 0.. {
            let mut ended = 0;
            // The backend dies with this call, or is dead already, or is bypassed and well again.
            for dies_at in 0..8 {
                let world = world(config(2, 1).with_window_bytes(BLOCK));
                world.backend.gate.once();
                world.source.gate.once();
                if dies_at < 6 {
                    world
                        .backend
                        .fail(move |call| (call.index >= dies_at).then_some(Fault::Error));
                } else {
                    world.backend.die();
                    world.read(0, 1);
                    world.read(0, 1);
                    world.assert_bypassed();
                    if dies_at == 7 {
                        world.backend.heal();
                    }
                }
                let future: Task<'_> = match task {
                    0 => Box::pin(async { read(&world.reader, 2, 1).await.map(drop) }),
                    1 => Box::pin(async { read(&world.reader, 3, 8).await.map(drop) }),
                    task => world.wishes().swap_remove(task - 2),
                };
                ended += usize::from(drop_after(future, polls));
                dropped += 1;
                world.backend.heal();
                world.backend.gate.open();
                world.source.gate.open();
                world.read(0, 1);
                world.read(0, 1);
                world.check_recovered();
                assert_calls_since(&world);
            }
            if ended == 8 {
                break;
            }
            assert!(polls < 200, "it ends");
        }
    }
    println!("{dropped} futures dropped around a bypass");
}

/// Probes are calls like others.
fn assert_calls_since(world: &World) {
    let before = world.reader.counters();
    world.backend.forget();
    world.read(0, 3);
    assert_calls_are_counted(&world.backend, &world.reader.counters().since(&before));
}

#[test]
fn threads_that_enter_and_leave_at_once_leave_nothing_behind() {
    let source = Source::new(5, BLOCK, BLOCKS);
    let backend = Backend::new();
    let cache = Immediate(Arc::clone(&backend));
    let opening = CachedBlockReader::open(Arc::clone(&source), cache, config(3, 5));
    let reader = finish(opening).unwrap();
    let world = World {
        source,
        backend,
        reader,
    };
    world
        .backend
        .fail(|call| (call.index / 40 % 2 == 1).then_some(Fault::Error));
    thread::scope(|scope| {
        for first in 0..4 {
            let world = &world;
            scope.spawn(move || {
                for round in 0..3000 {
                    let lba = (first * 5 + round * 7) % BLOCKS;
                    let blocks = 1 + round % (BLOCKS - lba);
                    let mut poller = Poller::new();
                    let task = poller.spawn(read(&world.reader, lba, blocks));
                    poller.run();
                    // A follower of another thread's fetch waits for it, and is dropped here.
                    if poller.is_done(task) {
                        world.source.assert_bytes(lba, &poller.take(task).unwrap());
                    }
                }
            });
        }
    });
    let counters = world.reader.counters();
    assert!(counters.bypasses > 10, "{counters:?}");
    assert!(counters.probes >= counters.bypasses - 1, "{counters:?}");
    assert_calls_are_counted(&world.backend, &counters);
    world.backend.heal();
    finish(world.reader.flush_cache()).unwrap();
    world.check_recovered();
}

/// Keeps the messages of events, with their levels.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(tracing::Level, String)>>>);

impl tracing::field::Visit for Log {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn core::fmt::Debug) {
        if field.name() == "message" {
            lock(&self.0).last_mut().expect("an event").1 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let level = *event.metadata().level();
        lock(&self.0).push((level, String::new()));
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn entering_and_leaving_are_said_aloud_once_each() {
    let log = Log::default();
    let said = |level, part| {
        let log = lock(&log.0);
        let hits = log
            .iter()
            .filter(|(at, text)| *at == level && text.contains(part));
        hits.count()
    };
    tracing::subscriber::with_default(log.clone(), || {
        // Other tests meet these events at the same time, and one of them may just have found nobody listening.
        bypassed_world(1).read(0, 1);
        tracing::callsite::rebuild_interest_cache();
        lock(&log.0).clear();
        let world = world(config(3, 2));
        world.backend.die();
        for _ in 0..20 {
            world.read(0, 2);
        }
        assert_eq!(said(tracing::Level::WARN, "is bypassed"), 1);
        let failures = said(tracing::Level::WARN, "failed");
        assert_eq!(failures, 2 + 1, "reading and writing, once each");
        world.backend.heal();
        for _ in 0..20 {
            world.read(0, 2);
        }
        assert_eq!(said(tracing::Level::DEBUG, "answers again"), 1);
    });
}
