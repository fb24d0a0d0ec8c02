//! A backend that fails again and again is bypassed, probed, and used again.

use crate::support::backend::{self, Backend, Fault};
use crate::support::files::file_of_published;
use crate::support::log::Log;
use crate::support::world::Plan;
use crate::support::{Poller, Source, World, assert_calls_are_counted, finish, open_with, read};
use core::future::Future;
use core::pin::Pin;
use gibblox_cache::{
    BypassPolicy, CacheConfig, CacheOps, CacheState, CachedBlockReader, VerifyPolicy, WarmPlan,
};
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, ReadContext};
use std::thread;

pub(super) const BLOCK: u32 = 16;
pub(super) const BLOCKS: u64 = 12;

/// More reads than any test makes.
pub(super) const NEVER: u32 = 1_000_000;

pub(super) fn config(after_failures: u32, probe_after_reads: u32) -> CacheConfig {
    CacheConfig::new().with_bypass(BypassPolicy {
        after_failures,
        probe_after_reads,
    })
}

pub(super) fn empty(config: CacheConfig) -> Plan {
    World::of(BLOCKS).block(BLOCK).config(config)
}

/// Blocks 0 to 5 are cached and trusted.
pub(super) fn plan(config: CacheConfig) -> Plan {
    empty(config).cached(0..6)
}

pub(super) fn world(config: CacheConfig) -> World {
    plan(config).open()
}

/// A reader that is bypassed since the first failure, of a plain hit, and a backend that is well again. The hit went past
/// the backend then, as the first read.
pub(super) fn bypassed_world(probe_after_reads: u32) -> World {
    let world = world(config(1, probe_after_reads));
    world.enter();
    world
}

impl<C: CacheOps> World<C> {
    /// Lets a plain hit fail, which is enough, and forgets it.
    pub(super) fn enter(&self) {
        self.backend.fail_all(backend::Op::Read);
        self.read(0, 1);
        self.assert_bypassed();
        self.backend.heal();
        self.forget();
    }

    #[track_caller]
    pub(super) fn assert_bypassed(&self) {
        assert_eq!(self.reader.state(), CacheState::Bypassed);
    }

    #[track_caller]
    pub(super) fn assert_used(&self) {
        let state = self.reader.state();
        let used = [CacheState::Serving, CacheState::Failing];
        assert!(used.contains(&state), "{state:?}");
    }

    /// Everything works as if nothing had ever been wrong.
    #[track_caller]
    pub(super) fn check_recovered(&self) {
        assert_eq!(self.reader.state(), CacheState::Serving);
        self.read(0, BLOCKS);
        self.ensure(0, BLOCKS).unwrap();
        self.read(0, BLOCKS);
        self.forget();
        self.read(0, BLOCKS);
        self.assert_fetched([], "everything is cached");
        assert_eq!(self.calls(), 1, "and a hit is plain");
        self.flush().unwrap();
    }

    /// The calls that the cache was asked for by those who want it, and not only bytes.
    pub(super) fn wishes(&self) -> Vec<Task<'_>> {
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

pub(super) type Task<'a> = Pin<Box<dyn Future<Output = Result<(), GibbloxError>> + 'a>>;

#[track_caller]
pub(super) fn assert_is_bypassed(error: &GibbloxError) {
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
        no_call_after_so_many_failures(failures, &plan(config).open_immediate());
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
    a_hit_that_is_polled_later_makes_no_call(&plan(config(1, NEVER)).open_immediate());
}

#[test]
fn failures_of_every_kind_count() {
    let dead = empty(config(1, NEVER)).failing(|_| Some(Fault::Error));
    let dead = dead.remembering().open();
    dead.assert_bypassed();
    dead.read(0, 4);
    assert_eq!(dead.calls(), 1, "while opening");

    let is_set_len = |call: &backend::Call| call.op == backend::Op::SetLen;
    let rigid = empty(config(1, NEVER));
    let rigid = rigid.failing(move |call| is_set_len(call).then_some(Fault::Error));
    rigid.open().assert_bypassed();

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
fn a_bad_sector_takes_nothing_back_however_soon_the_backend_is_bypassed() {
    let world = world(config(1, 1));
    let bad = world.backend.find(&world.source.bytes(2, 1)) as u64;
    world.backend.fail(move |call| {
        let touches = (call.offset..call.offset + call.len as u64).contains(&bad);
        touches.then_some(Fault::Error)
    });
    for _ in 0..8 {
        world.read(2, 1);
    }
    world.backend.heal();
    world.flush().unwrap();
    assert_eq!(world.cached_blocks(), 6);
    world.source.forget();
    world.read(0, 6);
    world.assert_fetched([], "all of it is there");
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
        let _ = world.flush();
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
    assert_eq!(reader.state(), CacheState::NotOpen);
    assert!(finish(reader.flush_cache()).is_err());
    assert_eq!(
        reader.state(),
        CacheState::Bypassed,
        "an opening that fails is one failure, whatever succeeds on its way"
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
    a_plain_hit_ends_a_row(&plan(config(2, NEVER)).open_immediate());
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
        world.assert_fetched([], "the one that probed is served by the cache");
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
    world.assert_fetched([(0, 6), (4, 4)], "whole, whatever is valid");
    assert_eq!(world.calls(), 0);

    world.flush().unwrap();
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
    world.flush().unwrap();
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
fn what_was_damaged_meanwhile_is_noticed() {
    for verify in [VerifyPolicy::OnFirstRead, VerifyPolicy::Never] {
        let world = world(config(1, NEVER).with_verify(verify));
        world.enter();
        world.backend.damage(&world.source.bytes(3, 1));
        world.flush().unwrap();
        world.read(0, 6);
        world.assert_fetched([(3, 1)], "{verify:?}");
        assert_eq!(world.reader.counters().checksum_mismatched_blocks, 1);
        world.check_recovered();
    }
}

#[test]
fn a_file_without_checksums_keeps_what_it_has_unless_a_flush_failed() {
    for op in [backend::Op::Read, backend::Op::Flush] {
        let file = file_of_published(&Source::new(5, BLOCK, BLOCKS), 0..6);
        let world = empty(config(1, NEVER))
            .over(Backend::with_bytes(file))
            .cached(0..4)
            .open();
        world.backend.fail_all(op);
        if op == backend::Op::Read {
            world.read(0, 1);
        } else {
            assert!(world.flush().is_err());
        }
        world.assert_bypassed();
        world.backend.heal();
        world.flush().unwrap();
        let kept = if op == backend::Op::Read { 6 } else { 2 };
        assert_eq!(world.cached_blocks(), kept, "{op:?}");
        world.source.forget();
        world.read(0, 6);
        let fetched: usize = world.source.fetches().iter().sum();
        assert_eq!(fetched as u64, 6 - kept, "{op:?}");
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
            world.assert_fetched([], "nothing is fetched for nothing");
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
fn each_time_it_is_over_hits_are_plain_again() {
    let world = world(config(1, NEVER));
    for round in 1..=20 {
        world.enter();
        world.flush().unwrap();
        world.check_recovered();
        assert_eq!(world.reader.counters().bypasses, round);
    }
}

#[test]
fn threads_that_enter_and_leave_at_once_leave_nothing_behind() {
    let world = empty(config(3, 5)).remembering().open_immediate();
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
    world.flush().unwrap();
    world.check_recovered();
}

#[test]
fn entering_and_leaving_are_said_aloud_once_each() {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        // Other tests meet these events at the same time, and one of them may just have found nobody listening.
        bypassed_world(1).read(0, 1);
        tracing::callsite::rebuild_interest_cache();
        log.forget();
        let world = world(config(3, 2));
        world.backend.die();
        for _ in 0..20 {
            world.read(0, 2);
        }
        assert_eq!(log.count(tracing::Level::WARN, "is bypassed"), 1);
        let failures = log.count(tracing::Level::WARN, "failed");
        assert_eq!(failures, 1 + 1, "reading, once, and the bypass");
        world.backend.heal();
        for _ in 0..20 {
            world.read(0, 2);
        }
        assert_eq!(log.count(tracing::Level::DEBUG, "answers again"), 1);
    });
}
