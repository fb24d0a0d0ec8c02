//! What does opening cost, before the first block is read?
//!
//! A device of 256 GiB with 4 KiB blocks, whose bitmap has 8 MiB, and a cache file:
//!
//! - fresh: an empty file; once more with flushes that are done, which takes as long as the disk likes;
//! - existing, 1 GiB of it cached in one run; and
//! - existing, 1 % of its blocks cached, scattered at random: each piece of the bitmap has bits then.
//!
//! The limit is reading the bitmap once, in pieces of 1 MiB: of a file that was just made as long as ours, which reads as
//! zeros; or of the existing one. Only bitmaps are filled in, not the data behind them: nobody reads that when opening.

use std::os::unix::fs::FileExt;

use gibblox_cache_harness::{
    Device, Goal, Row, Scale, Table, count_allocations, drive, interleave, mix, nanos, timed,
};

use crate::backend::{FileOps, Flushing};
use crate::contenders::{BLOCK, MIB, ours, published};

const BLOCKS: u64 = 256 * 1024 * (MIB / BLOCK) as u64;
const BITMAP: u64 = BLOCKS / 8;

/// Where the bitmap begins: behind the header and the identity.
pub(crate) const BITMAP_OFFSET: u64 = 28 + "cached:(bench device)".len() as u64;

fn read_bitmap(cache: &FileOps, buf: &mut [u8]) {
    for at in (0..BITMAP).step_by(buf.len()) {
        cache.file().read_exact_at(buf, BITMAP_OFFSET + at).unwrap();
    }
}

fn fresh(flushing: Flushing, device: &Device, scale: Scale, table: &mut Table) {
    let mut buf = vec![1; MIB];
    let (name, goal) = match flushing {
        Flushing::Counted => ("", Goal::AtMost(3.0)),
        Flushing::Done => (", flushes done", Goal::Open),
    };
    let (mut published_calls, mut our_calls) = (String::new(), String::new());
    let [published, ours, limit] = interleave(
        scale.short(),
        &mut [
            &mut || {
                let cache = FileOps::with(flushing);
                let nanos = timed(|| drop(published(device.clone(), cache.clone())));
                published_calls = cache.calls.take();
                nanos
            },
            &mut || {
                let cache = FileOps::with(flushing);
                let nanos = timed(|| drop(ours(device.clone(), cache.clone())));
                our_calls = cache.calls.take();
                nanos
            },
            &mut || {
                let cache = FileOps::with(flushing);
                cache.file().set_len(BLOCKS * BLOCK as u64).unwrap();
                timed(|| read_bitmap(&cache, &mut buf))
            },
        ],
    )
    .try_into()
    .unwrap();
    table.push(&Row {
        workload: format!("opening a fresh cache of 256 GiB in a file{name}"),
        unit: nanos,
        published: Some(published),
        ours,
        limit,
        goal,
        allocations: None,
        notes: format!("{published_calls} → {our_calls}"),
    });
}

/// Fills in the bitmap of a cache file that was opened before.
fn fill_in(cache: &FileOps, bitmap: &[u8]) {
    cache.file().write_all_at(bitmap, BITMAP_OFFSET).unwrap();
}

fn existing(name: &str, bitmap: &[u8], device: &Device, scale: Scale, table: &mut Table) {
    let cached: u64 = bitmap.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let (by_published, by_us) = (FileOps::new(), FileOps::new());
    drop(published(device.clone(), by_published.clone()));
    drop(ours(device.clone(), by_us.clone()));
    for cache in [&by_published, &by_us] {
        fill_in(cache, bitmap);
        let _ = cache.calls.take();
    }
    let stats = drive(ours(device.clone(), by_us.clone()).get_stats());
    assert_eq!(
        stats.cached_blocks, cached,
        "the bitmap is not where it is written to"
    );
    let _ = by_us.calls.take();
    let ours_counted = count_allocations(|| ours(device.clone(), by_us.clone())).1;
    let published_counted = count_allocations(|| published(device.clone(), by_published.clone())).1;
    let notes = format!(
        "{} → {}; {:.1} → {:.1} MiB",
        by_published.calls.take(),
        by_us.calls.take(),
        published_counted.peak_bytes as f64 / MIB as f64,
        ours_counted.peak_bytes as f64 / MIB as f64,
    );
    let mut buf = vec![1; MIB];
    let [published, ours, limit] = interleave(
        scale.short(),
        &mut [
            &mut || timed(|| drop(published(device.clone(), by_published.clone()))),
            &mut || timed(|| drop(ours(device.clone(), by_us.clone()))),
            &mut || timed(|| read_bitmap(&by_us, &mut buf)),
        ],
    )
    .try_into()
    .unwrap();
    table.push(&Row {
        workload: format!("opening an existing cache of 256 GiB, {name}"),
        unit: nanos,
        published: Some(published),
        ours,
        limit,
        goal: Goal::AtMost(1.5),
        allocations: None,
        notes,
    });
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let device = Device::new(BLOCK, BLOCKS, MIB);
    fresh(Flushing::Counted, &device, scale, table);
    fresh(Flushing::Done, &device, scale, table);
    let mut bitmap = vec![0_u8; BITMAP as usize];
    bitmap[1000..1000 + (1 << 30) / BLOCK / 8].fill(0xFF);
    existing("1 GiB cached", &bitmap, &device, scale, table);
    bitmap.fill(0);
    for index in 0..BLOCKS / 100 {
        let lba = mix(index) % BLOCKS;
        bitmap[lba as usize / 8] |= 1 << (lba % 8);
    }
    existing("1 % cached, scattered", &bitmap, &device, scale, table);
}

/// A cache file of `device`, opened once, in which every block counts as cached. Nothing lies behind the bits.
pub(crate) fn all_cached(device: &Device, open: impl FnOnce(Device, FileOps)) -> FileOps {
    let cache = FileOps::new();
    open(device.clone(), cache.clone());
    let bitmap = vec![0xFF; device.blocks() as usize / 8];
    fill_in(&cache, &bitmap);
    cache
}
