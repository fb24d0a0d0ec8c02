//! Runs that a seed chooses: readers side by side, files that change hands, flushes that fail, larger caches.

use super::process::Act::{self, Ensure, Flush, Read, Scrub};
use super::process::{run, run_published, work};
use super::tally::Tally;
use super::{others, small_acts, small_sources};
use crate::support::files::{file_of_ours, file_of_published, identity};
use crate::support::poll::drop_after;
use crate::support::powercut::{Cut, PowerCut};
use crate::support::{Poller, Rng, Source, finish, for_seeds, run_by_chance};
use futures_util::future::join_all;
use gibblox_cache::{CacheConfig, CachedBlockReader};
use gibblox_core::BlockReader;
use std::sync::Arc;

#[test]
fn no_image_of_readers_that_run_side_by_side_serves_a_wrong_byte() {
    let mut tally = Tally::default();
    let mut sampled = 0;
    for_seeds(20, |rng| {
        let source = &small_sources()[rng.index(4)];
        let others = others(source);
        let other = &others[rng.index(others.len())];
        let disk = PowerCut::new(file_of_published(other, 0..other.blocks()));
        run_side_by_side(&disk, source, 2, rng);
        for cut in disk.cuts() {
            tally.cuts += 1;
            if !cut.every_image(1 << 10, |image| tally.try_image(image, &[source, other])) {
                sampled += 1;
                (0..200).for_each(|_| tally.try_image(&cut.sample(rng), &[source, other]));
            }
        }
    });
    println!("side by side: {tally}; {sampled} cuts were sampled");
}

#[test]
fn no_image_of_a_heal_after_a_power_cut_serves_a_wrong_byte() {
    let mut tally = Tally::default();
    for_seeds(12, |rng| {
        let source = &small_sources()[rng.index(4)];
        let others = others(source);
        let other = &others[rng.index(others.len())];
        let base = match rng.below(3) {
            0 => Vec::new(),
            1 => file_of_ours(other, 0..other.blocks()),
            _ => file_of_ours(source, 1..3),
        };
        let disk = PowerCut::new(base);
        finish(run(&disk, source, 2, &small_acts(source.blocks())));
        let left = any_cut(&disk, rng).sample(rng);
        let disk = PowerCut::new(left);
        finish(run(
            &disk,
            source,
            2,
            &[Read(0, 2), Ensure(0, source.blocks()), Flush, Scrub],
        ));
        tally.try_every_image(&disk, &[source, other]);
    });
    println!("healed: {tally}");
}

#[test]
fn no_image_of_a_file_that_changes_hands_on_a_sick_medium_serves_a_wrong_byte() {
    let mut tally = Tally::default();
    for_seeds(60, |rng| {
        let source = &small_sources()[rng.index(4)];
        let others = others(source);
        let other = &others[rng.index(others.len())];
        let disk = PowerCut::new(match rng.below(3) {
            0 => Vec::new(),
            1 => file_of_ours(other, 0..other.blocks()),
            _ => file_of_published(other, 0..other.blocks()),
        });
        if rng.chance(67) {
            disk.sicken(rng);
        }
        for _ in 0..4 {
            let owner = if rng.chance(50) { source } else { other };
            if rng.chance(25) {
                disk.gate.once();
                drop_after(run(&disk, owner, 1, &[Read(0, 1)]), 1 + rng.index(24));
            } else {
                run_side_by_side(&disk, owner, 1, rng);
            }
            // The process is killed, and the power stays.
            tally.try_image(&disk.live(), &[source, other]);
        }
        for _ in 0..50 {
            tally.cuts += 1;
            tally.try_image(&any_cut(&disk, rng).sample(rng), &[source, other]);
        }
    });
    println!("changing hands: {tally}");
}

#[test]
fn no_reader_is_served_what_a_failed_flush_lost() {
    for_seeds(1_500, |rng| {
        let source = &small_sources()[rng.index(4)];
        let disk = PowerCut::new(Vec::new());
        // Healthy at first, so that there is something to lose.
        run_side_by_side(&disk, source, 1, rng);
        disk.sicken(rng);
        run_side_by_side(&disk, source, 1, rng);
        run_side_by_side(&disk, source, 1, rng);
    });
}

/// One of the cuts of a run, rather one with much at stake.
fn any_cut(disk: &PowerCut, rng: &mut Rng) -> Cut {
    let mut cuts = disk.cuts();
    let first = rng.index(cuts.len());
    let second = rng.index(cuts.len());
    let chosen = if cuts[first].pending() < cuts[second].pending() {
        second
    } else {
        first
    };
    cuts.swap_remove(chosen)
}

#[test]
fn no_sampled_image_of_a_larger_cache_serves_a_wrong_byte() {
    let mut tally = Tally::default();
    for_seeds(60, |rng| try_larger(&mut tally, rng));
    println!("larger: {tally}");
    assert!(tally.published_wrong > 0, "the control sees no corruption");
}

/// A larger cache of a random shape, filled by readers that run side by side, loses power three times.
fn try_larger(tally: &mut Tally, rng: &mut Rng) {
    let size = [512, 512, 1024, 4096][rng.index(4)];
    let blocks = 9 + rng.below(if size == 4096 { 8 } else { 32 });
    let longest = [40, 1400][rng.index(2)];
    let len = 3 + rng.index(longest);
    let source = &Source::with_identity(rng.next(), size, blocks, &identity(len, "one"));
    let others = others(source);
    let other = &others[rng.index(others.len())];
    let mut disk = PowerCut::new(any_base(source, other, rng));
    for _ in 0..3 {
        if rng.chance(25) {
            disk.gate.once();
            drop_after(run(&disk, source, 1, &[Read(0, 1)]), 1 + rng.index(24));
        }
        // A process hears of its own failed flushes only, so a medium that loses things has one process.
        let mut processes = 1 + rng.index(2);
        if rng.chance(25) {
            disk.sicken(rng);
            processes = 1;
        }
        run_side_by_side(&disk, source, processes, rng);
        for _ in 0..16 {
            tally.cuts += 1;
            tally.try_image(&any_cut(&disk, rng).sample(rng), &[source, other]);
        }
        disk = PowerCut::new(any_cut(&disk, rng).sample(rng));
    }
}

/// What the file was before: nothing, a cache of another source, or one of this source that promises checksums.
fn any_base(source: &Arc<Source>, other: &Arc<Source>, rng: &mut Rng) -> Vec<u8> {
    let fill = |source: &Source, rng: &mut Rng| -> Vec<u64> {
        let percent = rng.below(101);
        (0..source.blocks())
            .filter(|_| rng.chance(percent))
            .collect()
    };
    match rng.below(5) {
        0 => Vec::new(),
        1 => file_of_ours(other, fill(other, rng)),
        2 => file_of_published(other, fill(other, rng)),
        3 => file_of_ours(source, fill(source, rng)),
        _ => {
            let disk = PowerCut::new(file_of_ours(source, fill(source, rng)));
            let (lba, count) = rng.run(source.blocks(), source.blocks());
            finish(run_published(&disk, source, 64, &[Read(lba, count)]));
            disk.live()
        }
    }
}

/// Some processes with some readers, prefetchers, flushes and scrubs each, in an order that the seed chooses.
fn run_side_by_side(disk: &Arc<PowerCut>, source: &Arc<Source>, processes: usize, rng: &mut Rng) {
    let every = [1, 3, 64][rng.index(3)];
    let config = if rng.chance(50) {
        CacheConfig::new().with_flush_every_blocks(every)
    } else {
        CacheConfig::new().with_flush_every_bytes(u64::from(every * source.block_size()))
    };
    let config = config.with_window_bytes(source.block_size() * (1 + rng.below(8) as u32));
    disk.gate.once();
    let mut tasks = Poller::new();
    for _ in 0..processes {
        let lists: Vec<Vec<Act>> = (0..3).map(|_| any_acts(source, rng)).collect();
        tasks.spawn(async move {
            let open = CachedBlockReader::open(Arc::clone(source), Arc::clone(disk), config);
            let reader = open.await.expect("opens");
            join_all(lists.iter().map(|acts| work(disk, &reader, source, acts))).await;
        });
    }
    run_by_chance(rng, &mut tasks, &[]);
    tasks.run_to_end();
}

fn any_acts(source: &Source, rng: &mut Rng) -> Vec<Act> {
    (0..=rng.below(4)).map(|_| any_act(source, rng)).collect()
}

fn any_act(source: &Source, rng: &mut Rng) -> Act {
    let (lba, blocks) = rng.run(source.blocks(), 12);
    match rng.below(10) {
        0..5 => Read(lba, blocks),
        5..7 => Ensure(lba, blocks),
        7..9 => Flush,
        _ => Scrub,
    }
}
