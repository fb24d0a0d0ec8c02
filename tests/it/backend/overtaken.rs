//! Calls that are under way when a bypass begins, or a file that is being opened.

use super::bypass::{BLOCK, BLOCKS, NEVER, Task, assert_is_bypassed, config, empty, world};
use crate::support::backend::{self, Backend, Fault};
use crate::support::gate::Mode;
use crate::support::poll::drop_after;
use crate::support::{Poller, World, assert_calls_are_counted, finish, read};

impl World {
    /// While calls are held, a plain hit fails, which is enough; then the backend is well again and holds nothing.
    #[track_caller]
    fn overtake(&self, lba: u64) {
        let gate = &self.backend.gate;
        let held_before = gate.held().len();
        self.backend.fail_all(backend::Op::Read);
        let mut poller = Poller::new();
        let hit = poller.spawn(read(&self.reader, lba, 1));
        poller.run();
        let held = gate.held();
        assert_eq!(held.len(), held_before + 1, "a hit is one call");
        let (ticket, call) = held[held_before];
        assert_eq!(call.op, backend::Op::Read);
        gate.release(ticket);
        poller.run_to_end();
        self.source.assert_bytes(lba, &poller.take(hit).unwrap());
        self.assert_bypassed();
        self.backend.heal();
        gate.open();
    }
}

/// The one call of [`World::calls`] that fails.
fn fail_call(world: &World, index: usize) {
    world
        .backend
        .fail(move |call| (call.index == index).then_some(Fault::Error));
}

#[test]
fn a_bypass_that_comes_and_goes_while_blocks_are_dropped_is_an_error() {
    let world = world(config(1, NEVER));
    world.backend.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(world.reader.invalidate(1, 3));
    poller.run();
    let (first_write, _) = world.backend.gate.held()[0];
    world.backend.gate.set(|_| Mode::Open);
    world.enter();
    world.flush().unwrap();
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
fn a_flush_that_was_due_is_due_when_it_is_over() {
    let world = world(config(1, 1).with_flush_every_blocks(9));
    let mut poller = Poller::new();
    let task = poller.spawn(read(&world.reader, 6, 3));
    // Before the last write answers, the bypass begins.
    world.backend.gate.shut();
    world.let_calls_go(&mut poller, 2);
    world.overtake(0);
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
        let mut poller = Poller::new();
        let task = poller.spawn(read(&world.reader, 6, 3));
        world.backend.gate.shut();
        world.let_calls_go(&mut poller, answered);
        world.overtake(0);
        poller.run_to_end();
        world.source.assert_bytes(6, &poller.take(task).unwrap());
        drop(poller);
        let stored = if answered == 2 { 3 } else { 0 };
        assert_eq!(world.cached_blocks(), 6 + stored, "{answered}");
        assert_eq!(world.backend.count(backend::Op::Write), answered + 1);
        world.flush().unwrap();
        world.check_recovered();
    }
}

#[test]
fn a_read_that_is_overtaken_takes_back_nothing() {
    // Another process, which has compared the last block only.
    let world = empty(config(1, NEVER)).found(0..6).cached(5..6).open();
    world.backend.gate.shut();
    let mut poller = Poller::new();
    let task = poller.spawn(read(&world.reader, 0, 3));
    poller.run();
    world.overtake(5);
    poller.run_to_end();
    world.source.assert_bytes(0, &poller.take(task).unwrap());
    drop(poller);
    assert_eq!(world.calls(), 2, "data of either, no checksums, no writes");
    assert_eq!(world.cached_blocks(), 6);
    world.flush().unwrap();
    world.source.forget();
    world.read(0, 6);
    assert_eq!(world.source.reads(), []);
    world.check_recovered();
}

#[test]
fn whoever_waits_for_the_file_to_be_opened_is_refused_when_that_was_the_last_failure() {
    let backend = Backend::new();
    backend.fail_all(backend::Op::Read);
    let world = empty(config(2, NEVER)).over(backend).open();
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
    world.flush().unwrap();
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
        fail_call(&world, failing);
        let error = finish(world.reader.scrub()).unwrap_err();
        assert_is_bypassed(&error);
        assert_eq!(world.cached_blocks(), 6, "nothing is dropped");
        assert_eq!(world.calls(), failing + 1);
        world.backend.heal();
        let report = finish(world.reader.scrub()).unwrap();
        assert_eq!((report.scanned_blocks, report.intact_blocks), (6, 6));
        world.check_recovered();
    }
}

#[test]
fn a_scrub_beside_which_a_bypass_begins_is_an_error_too() {
    // While each of its calls waits, a hit of somebody else fails.
    for waiting in 0..12 {
        let world = world(config(1, NEVER).with_window_bytes(BLOCK));
        let mut poller = Poller::new();
        let task = poller.spawn(world.reader.scrub());
        world.backend.gate.shut();
        world.let_calls_go(&mut poller, waiting);
        world.overtake(5);
        poller.run_to_end();
        let result = poller.take(task);
        drop(poller);
        assert_is_bypassed(&result.unwrap_err());
        assert_eq!(world.cached_blocks(), 6, "{waiting}");
        world.flush().unwrap();
        world.check_recovered();
    }
}

#[test]
fn caching_ahead_that_is_overtaken_is_an_error() {
    let config = config(1, NEVER)
        .with_window_bytes(BLOCK)
        .with_windows_at_once(2);
    let calls = {
        let world = world(config);
        world.ensure(0, BLOCKS).unwrap();
        world.calls()
    };
    for failing in 0..calls {
        let world = world(config);
        fail_call(&world, failing);
        assert!(world.ensure(0, BLOCKS).is_err());
        world.assert_bypassed();
        world.backend.heal();
        world.ensure(0, BLOCKS).unwrap();
        world.check_recovered();
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
                world.open_gates();
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
