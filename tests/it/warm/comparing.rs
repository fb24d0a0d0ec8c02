//! A plan that compares: what an earlier process cached is compared, and what does not match is fetched again.

use crate::support::backend::Op;
use crate::support::source::Fault;
use crate::support::{World, check_read, finish, open};
use gibblox_cache::{CacheConfig, PauseSwitch, VerifyPolicy, WarmPlan};

const BLOCKS: u64 = 40;

fn world(damaged: &[u64]) -> World {
    let world = World::of(BLOCKS).found(0..BLOCKS - 8).open();
    for lba in damaged {
        world.backend.damage(&world.source.bytes(*lba, 1));
    }
    world
}

#[test]
fn after_ok_every_block_is_read_without_the_source() {
    for damaged in [&[][..], &[0], &[5, 6, 20], &[31]] {
        let world = world(damaged);
        let plan = WarmPlan::device().with_comparison();
        let warmed = finish(world.reader.warm(plan)).unwrap();
        assert_eq!(warmed.done_blocks, BLOCKS);
        assert_eq!(warmed.fetched_blocks, 8 + damaged.len() as u64);
        world.flush().unwrap();
        for reader in [open(&world.source, &world.backend), world.reader] {
            world.source.fail(|_| Some(Fault::io("no route")));
            for lba in 0..BLOCKS {
                check_read(&reader, &world.source, lba, 1);
            }
            world.source.heal();
        }
    }
}

#[test]
fn without_comparing_a_damaged_block_stays_damaged() {
    let world = world(&[5]);
    finish(world.reader.warm(WarmPlan::device())).unwrap();
    world.source.fail(|_| Some(Fault::io("no route")));
    assert!(finish(crate::support::read(&world.reader, 5, 1)).is_err());
}

#[test]
fn only_what_is_wanted_and_not_trusted_is_read() {
    let world = world(&[3, 12]);
    let plan = || WarmPlan::ranges([0..8, 30..32]).with_comparison();
    finish(world.reader.warm(plan())).unwrap();
    assert_eq!(world.source.reads(), [(3, 1)]);
    let calls = world.calls();
    finish(world.reader.warm(plan())).unwrap();
    assert_eq!(world.calls(), calls, "it was compared before");
}

#[test]
fn a_block_that_cannot_be_read_is_an_error_and_stays() {
    let world = world(&[]);
    world.backend.fail_all(Op::Read);
    assert!(finish(world.reader.warm(WarmPlan::device().with_comparison())).is_err());
    world.backend.heal();
    assert_eq!(world.cached_blocks(), BLOCKS - 8);
    assert_eq!(world.source.reads(), []);
}

#[test]
fn a_pause_holds_the_comparison() {
    let world = world(&[5]);
    let pause = PauseSwitch::new();
    pause.pause();
    let mut poller = crate::support::Poller::new();
    let plan = WarmPlan::device().with_comparison().with_pause(&pause);
    let warming = poller.spawn(world.reader.warm(plan));
    poller.run();
    assert_eq!(world.calls(), 0);
    pause.resume();
    poller.run_to_end();
    assert_eq!(poller.take(warming).unwrap().fetched_blocks, 9);
}

#[test]
fn what_this_process_stored_is_compared_too_where_the_policy_says_so() {
    for verify in [VerifyPolicy::OnFirstReadOfStored, VerifyPolicy::OnEveryRead] {
        let config = CacheConfig::new().with_verify(verify);
        let world = World::of(BLOCKS).config(config).open();
        finish(world.reader.warm(WarmPlan::device())).unwrap();
        world.backend.damage(&world.source.bytes(7, 1));
        finish(world.reader.warm(WarmPlan::device().with_comparison())).unwrap();
        world.source.fail(|_| Some(Fault::io("no route")));
        for lba in 0..BLOCKS {
            check_read(&world.reader, &world.source, lba, 1);
        }
    }
}
