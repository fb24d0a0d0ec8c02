//! Every future dropped at every await: with nobody, one and many others waiting, and every call pending in between.

use crate::support::backend::{self, Backend};
use crate::support::poll::drop_after;
use crate::support::{
    Poller, Reader, Source, cache_blocks, check_read, finish, open_with, polls_to_finish, read,
};
use core::future::Future;
use core::pin::Pin;
use gibblox_cache::{CacheConfig, CachedBlockReader, PauseSwitch, VerifyPolicy, WarmPlan};
use gibblox_core::ReadContext;
use std::sync::Arc;

const BLOCK: u32 = 16;
const BLOCKS: u64 = 10;

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// What happens between two polls of the one that will be dropped.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// Every call is pending once.
    Once,
    /// Calls wait, and the oldest is let go.
    Oldest,
    /// Calls wait, and the newest is let go.
    Newest,
}

const PACES: [Pace; 3] = [Pace::Once, Pace::Oldest, Pace::Newest];

/// Who else is there.
#[derive(Clone, Copy, Debug)]
enum Others {
    Nobody,
    /// One that wants the same, and comes after.
    Follower,
    /// One that wants the same, and was there before.
    Leader,
    /// All kinds of others, which come after.
    Many,
}

const OTHERS: [Others; 4] = [
    Others::Nobody,
    Others::Follower,
    Others::Leader,
    Others::Many,
];

struct World {
    source: Arc<Source>,
    backend: Arc<Backend>,
    reader: Reader,
    /// Holds what is warmed; resumed when nothing else is left to let go.
    pause: PauseSwitch,
}

fn config() -> CacheConfig {
    CacheConfig::new()
        .with_flush_every_blocks(3)
        .with_window_bytes(2 * BLOCK)
        .with_windows_at_once(2)
        .with_fetches_at_once(2)
}

impl World {
    /// A reader that has cached some blocks itself.
    fn trusted(cached: &[u64]) -> Self {
        let (source, backend) = (Source::new(7, BLOCK, BLOCKS), Backend::new());
        let reader = open_with(&source, &backend, config());
        cache_blocks(&reader, &source, cached.iter().copied());
        Self {
            source,
            backend,
            reader,
            pause: PauseSwitch::new(),
        }
    }

    /// A reader that found some blocks, of which one is damaged.
    fn found(cached: &[u64], damaged: u64) -> Self {
        let Self {
            source, backend, ..
        } = Self::trusted(cached);
        let block = source.bytes(damaged, 1);
        backend.edit(|bytes| {
            let at = bytes
                .windows(block.len())
                .position(|window| window == block);
            bytes[at.expect("the block is stored")] ^= 1;
        });
        let reader = open_with(&source, &backend, config());
        Self {
            source,
            backend,
            reader,
            pause: PauseSwitch::new(),
        }
    }

    fn read(&self, lba: u64, blocks: u64) -> Task<'_> {
        Box::pin(async move {
            let bytes = read(&self.reader, lba, blocks)
                .await
                .expect("all is healthy");
            self.source.assert_bytes(lba, &bytes);
        })
    }

    fn ensure(&self, lba: u64, blocks: u64) -> Task<'_> {
        Box::pin(async move {
            let done = self
                .reader
                .ensure_cached(lba, blocks, ReadContext::BACKGROUND);
            done.await.expect("all is healthy");
        })
    }

    /// Warms the device, and pauses itself with everything that it tells.
    fn warm(&self) -> Task<'_> {
        Box::pin(async {
            let ahead = WarmPlan::device().with_pause(&self.pause);
            let told = |_: &_| self.pause.pause();
            let done = self.reader.warm_with_progress(ahead, told).await;
            assert_eq!(done.expect("all is healthy").done_blocks, BLOCKS);
        })
    }

    fn flush(&self) -> Task<'_> {
        Box::pin(async { self.reader.flush_cache().await.expect("all is healthy") })
    }

    fn scrub(&self) -> Task<'_> {
        Box::pin(async {
            let report = self.reader.scrub().await.expect("all is healthy");
            assert!(
                report.dropped_blocks <= 1,
                "at most one is damaged: {report:?}"
            );
        })
    }

    fn invalidate(&self, lba: u64, blocks: u64) -> Task<'_> {
        Box::pin(async move {
            let dropped = self.reader.invalidate(lba, blocks).await;
            dropped.expect("all is healthy");
        })
    }

    fn stats(&self) -> Task<'_> {
        Box::pin(async {
            let stats = self.reader.get_stats().await;
            assert!(stats.cached_blocks <= stats.total_blocks);
        })
    }

    fn many(&self) -> Vec<Task<'_>> {
        vec![
            self.read(0, BLOCKS),
            self.read(2, 3),
            self.flush(),
            self.read(3, 7),
            self.invalidate(3, 4),
            self.ensure(0, BLOCKS),
            self.warm(),
            self.scrub(),
            self.stats(),
            self.read(4, 1),
        ]
    }

    fn set(&self, pace: Pace) {
        match pace {
            Pace::Once => {
                self.source.gate.once();
                self.backend.gate.once();
            }
            Pace::Oldest | Pace::Newest => {
                self.source.gate.shut();
                self.backend.gate.shut();
            }
        }
    }

    /// Lets one held call go, or ends the pause where none is held; false if there is no pause either.
    fn release(&self, pace: Pace) -> bool {
        let mut fetching = self.source.gate.held();
        let mut storing = self.backend.gate.held();
        if matches!(pace, Pace::Newest) {
            fetching.reverse();
            storing.reverse();
        }
        // A source answers before a backend is served, so that both kinds of waiting pile up.
        if let Some((ticket, _)) = fetching.first() {
            self.source.gate.release(*ticket);
        } else if let Some((ticket, _)) = storing.first() {
            self.backend.gate.release(*ticket);
        }
        let paused = self.pause.is_paused();
        if fetching.is_empty() && storing.is_empty() {
            self.pause.resume();
            return paused;
        }
        true
    }

    /// Everything works, and a process that finds the file as it is now works too.
    fn check(&self) {
        self.source.gate.open();
        self.backend.gate.open();
        self.check_file();
        check_read(&self.reader, &self.source, 0, BLOCKS);
        self.source.forget();
        check_read(&self.reader, &self.source, 0, BLOCKS);
        assert_eq!(self.source.reads(), [], "everything is cached");
        finish(self.ensure(0, BLOCKS));
        finish(self.flush());
        assert_eq!(finish(self.reader.get_stats()).cached_blocks, BLOCKS);
        let report = finish(self.reader.scrub()).unwrap();
        assert_eq!(report.intact_blocks, BLOCKS, "{report:?}");
        self.check_file();
    }

    /// A process that finds the file as it is now reads what is right.
    fn check_file(&self) {
        let backend = Backend::with_bytes(self.backend.bytes());
        let source = Source::new(7, BLOCK, BLOCKS);
        let reader = open_with(&source, &backend, config());
        check_read(&reader, &source, 0, BLOCKS);
    }
}

/// Drops what `victim` makes after its `polls`th poll. True if it was done before.
fn drop_at(
    world: &World,
    victim: &dyn for<'a> Fn(&'a World) -> Task<'a>,
    polls: usize,
    pace: Pace,
    others: Others,
) -> bool {
    world.set(pace);
    let mut poller = Poller::new();
    if matches!(others, Others::Leader) {
        poller.spawn(victim(world));
        for id in poller.woken() {
            poller.poll(id);
        }
    }
    let dropped = poller.spawn(victim(world));
    let mut late = match others {
        Others::Nobody | Others::Leader => Vec::new(),
        Others::Follower => vec![victim(world)],
        Others::Many => world.many(),
    };
    let mut done_polls = 0;
    while done_polls < polls && !poller.is_done(dropped) {
        let woken = poller.woken();
        if woken.contains(&dropped) {
            poller.poll(dropped);
            done_polls += 1;
            for task in late.drain(..) {
                poller.spawn(task);
            }
        } else if woken.is_empty() {
            assert!(world.release(pace), "stuck before anything was dropped");
        }
        for id in woken.into_iter().filter(|id| *id != dropped) {
            poller.poll(id);
        }
    }
    let done = poller.is_done(dropped);
    poller.cancel(dropped);
    for task in late {
        poller.spawn(task);
    }
    world.check_file();
    loop {
        poller.run();
        if !world.release(pace) {
            break;
        }
    }
    poller.run_to_end();
    drop(poller);
    world.check();
    done
}

/// Drops at every await, in every company.
fn drop_everywhere(make: impl Fn() -> World, victim: impl for<'a> Fn(&'a World) -> Task<'a>) {
    let mut drops = 0;
    for pace in PACES {
        for others in OTHERS {
            let mut polls = 0;
            while !drop_at(&make(), &victim, polls, pace, others) {
                polls += 1;
                assert!(polls < 1000, "{pace:?} {others:?}: it never ends");
            }
            assert!(polls > 1, "{pace:?} {others:?}: no await was the last");
            drops += polls;
        }
    }
    println!("{drops} futures dropped in the middle");
}

#[test]
fn a_read_of_what_is_cached_can_be_dropped_anywhere() {
    drop_everywhere(|| World::trusted(&[2, 3, 4]), |world| world.read(2, 3));
}

#[test]
fn a_read_of_what_is_missing_can_be_dropped_anywhere() {
    drop_everywhere(|| World::trusted(&[]), |world| world.read(2, 3));
}

#[test]
fn a_read_that_flushes_can_be_dropped_anywhere() {
    drop_everywhere(|| World::trusted(&[9]), |world| world.read(1, 6));
}

#[test]
fn a_read_of_some_of_both_can_be_dropped_anywhere() {
    drop_everywhere(
        || World::trusted(&[1, 4, 5, 8]),
        |world| world.read(0, BLOCKS),
    );
}

#[test]
fn a_read_that_compares_can_be_dropped_anywhere() {
    let cached = [1, 2, 3, 4, 7, 8];
    drop_everywhere(|| World::found(&cached, 3), |world| world.read(0, BLOCKS));
}

#[test]
fn a_read_that_compares_each_time_can_be_dropped_anywhere() {
    let make = || {
        let mut world = World::trusted(&[0, 1, 2, 5, 6, 7]);
        let config = config().with_verify(VerifyPolicy::OnEveryRead);
        world.reader = open_with(&world.source, &world.backend, config);
        world
    };
    drop_everywhere(make, |world| world.read(0, BLOCKS));
}

#[test]
fn a_prefetch_can_be_dropped_anywhere() {
    drop_everywhere(|| World::trusted(&[3, 4]), |world| world.ensure(0, BLOCKS));
}

#[test]
fn a_warming_that_pauses_all_the_time_can_be_dropped_anywhere() {
    drop_everywhere(|| World::trusted(&[3, 4]), World::warm);
}

#[test]
fn a_flush_can_be_dropped_anywhere() {
    drop_everywhere(|| World::trusted(&[3, 4]), World::flush);
}

#[test]
fn a_scrub_can_be_dropped_anywhere() {
    drop_everywhere(|| World::trusted(&[0, 1, 2, 5, 6, 9]), World::scrub);
}

#[test]
fn a_scrub_that_finds_damage_can_be_dropped_anywhere() {
    drop_everywhere(|| World::found(&[0, 1, 2, 5, 6, 9], 5), World::scrub);
}

#[test]
fn dropping_blocks_can_be_dropped_anywhere() {
    let cached = [0, 1, 2, 5, 6, 9];
    drop_everywhere(|| World::trusted(&cached), |world| world.invalidate(1, 6));
    drop_everywhere(
        || World::found(&cached, 5),
        |world| world.invalidate(0, BLOCKS),
    );
}

#[test]
fn statistics_are_there_at_the_first_poll() {
    let world = World::trusted(&[3]);
    world.set(Pace::Oldest);
    assert_eq!(polls_to_finish(world.reader.get_stats()).1, 1);
    assert!(!drop_after(world.reader.get_stats(), 0));
    world.check();
}

/// The contents that an opening may find.
fn contents() -> Vec<Vec<u8>> {
    let own = World::trusted(&[0, 3, 4, 9]).backend.bytes();
    let other = {
        let source = Source::with_identity(8, BLOCK, BLOCKS, "another-source");
        let backend = Backend::new();
        check_read(&open_with(&source, &backend, config()), &source, 0, BLOCKS);
        backend.bytes()
    };
    let longer = [own.clone(), vec![0xFF; 100]].concat();
    let shorter = own[..own.len() / 2].to_vec();
    vec![Vec::new(), own, other, longer, shorter, vec![0xFF; 300]]
}

#[test]
fn opening_can_be_dropped_anywhere_and_again_anywhere() {
    for bytes in contents() {
        for first in 0.. {
            let mut second_done = false;
            for second in 0.. {
                let backend = Backend::with_bytes(bytes.clone());
                let source = Source::new(7, BLOCK, BLOCKS);
                source.gate.once();
                backend.gate.once();
                let open =
                    || CachedBlockReader::open(Arc::clone(&source), Arc::clone(&backend), config());
                let first_done = drop_after(open(), first);
                second_done = drop_after(open(), second);
                backend.gate.open();
                source.gate.open();
                let reader = open_with(&source, &backend, config());
                check_read(&reader, &source, 0, BLOCKS);
                source.forget();
                check_read(&reader, &source, 0, BLOCKS);
                let world = World {
                    source,
                    backend,
                    reader,
                    pause: PauseSwitch::new(),
                };
                world.check();
                if first_done {
                    // Nothing was interrupted the first time, so there is no need to look at it again.
                    assert!(first > 2, "no await of an opening was the last");
                    break;
                }
                if second_done {
                    break;
                }
            }
            if !second_done {
                break;
            }
        }
    }
}

#[test]
fn a_dropped_opening_leaves_no_call_behind() {
    let (source, backend) = (Source::new(7, BLOCK, BLOCKS), Backend::new());
    backend.gate.shut();
    let mut poller = Poller::new();
    let opening = CachedBlockReader::open(Arc::clone(&source), Arc::clone(&backend), config());
    let task = poller.spawn(opening);
    poller.run();
    assert_eq!(backend.gate.held().len(), 1);
    poller.cancel(task);
    assert_eq!(backend.gate.held().len(), 0);
    backend.gate.open();
    check_read(&open_with(&source, &backend, config()), &source, 0, BLOCKS);
}

#[test]
fn a_write_that_was_dropped_half_way_makes_no_block_valid() {
    // The data write of a leader is cut in half; nobody else is there to repair it.
    let world = World::trusted(&[]);
    world.backend.gate.set(|call| match call.op {
        backend::Op::Write => crate::support::gate::Mode::Shut,
        _ => crate::support::gate::Mode::Open,
    });
    let mut poller = Poller::new();
    let task = poller.spawn(world.read(2, 2));
    poller.run();
    assert!(!world.backend.gate.held().is_empty());
    poller.cancel(task);
    assert_eq!(finish(world.reader.get_stats()).cached_blocks, 0);
    drop(poller);
    world.check();
}
