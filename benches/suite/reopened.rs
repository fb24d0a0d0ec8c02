//! What does comparing checksums cost after a restart?
//!
//! 64 MiB in 1 MiB reads from a file that lies in the page cache, by a reader that has just opened it: each block is
//! compared with its checksum once. The limit is the `pread` and the hash alone, XXH3-64 of each 4 KiB block. The second
//! reads of the same reader, where all is trusted, stand beside it, with `pread` alone as their limit.

use std::hint::black_box;
use std::os::unix::fs::FileExt;

use gibblox_cache_harness::{
    Device, Goal, Row, Scale, Table, drive, interleave, nanos, read, timed,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::backend::FileOps;
use crate::contenders::{BLOCK, CTX, MIB, drive_all, ours, published};
use crate::open::BITMAP_OFFSET;

const TOTAL: usize = 64 * MIB;

/// Nanoseconds of a 1 MiB read, from one pass over the device.
fn pass(device: &Device, mut read: impl FnMut(u64, &mut [u8])) -> f64 {
    let mut buf = vec![0; MIB];
    let mut last = 0;
    let nanos = timed(|| {
        for lba in (0..device.blocks()).step_by(MIB / BLOCK) {
            read(lba, &mut buf);
            last = lba;
        }
    });
    device.check(last, &buf);
    nanos / (TOTAL / MIB) as f64
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let blocks = (TOTAL / BLOCK) as u64;
    let device = Device::new(BLOCK, blocks, usize::MAX);
    let (by_us, by_published, plain) = (FileOps::new(), FileOps::new(), FileOps::new());
    drive_all(
        ours(device.clone(), by_us.clone()).ensure_cached(0, blocks, CTX),
        published(device.clone(), by_published.clone()).ensure_cached(0, blocks, CTX),
    );
    let _ = device.take_counts();
    let data = BITMAP_OFFSET + blocks / 8;
    pass(&device, |lba, buf| {
        device.copy_to(lba, buf);
        let at = data + lba * BLOCK as u64;
        plain.file().write_all_at(buf, at).unwrap();
    });
    let pread = |lba: u64, buf: &mut [u8]| {
        let at = data + lba * BLOCK as u64;
        plain.file().read_exact_at(buf, at).unwrap();
    };
    let trusted = ours(device.clone(), by_us.clone());
    let [published, first, second, limit, limit_of_second] = interleave(
        scale.short(),
        &mut [
            &mut || {
                let reader = published(device.clone(), by_published.clone());
                pass(&device, |lba, buf| read(&reader, lba, buf))
            },
            &mut || {
                let reader = ours(device.clone(), by_us.clone());
                pass(&device, |lba, buf| read(&reader, lba, buf))
            },
            &mut || pass(&device, |lba, buf| read(&trusted, lba, buf)),
            &mut || {
                pass(&device, |lba, buf| {
                    pread(lba, buf);
                    for block in buf.chunks_exact(BLOCK) {
                        black_box(xxh3_64(block));
                    }
                })
            },
            &mut || pass(&device, pread),
        ],
    )
    .try_into()
    .unwrap();
    assert_eq!(device.take_counts().0, 0, "something was fetched again");
    assert_eq!(drive(trusted.get_stats()).total_misses, 0);
    for (name, ours, limit, goal) in [
        (
            "first 1 MiB reads after reopening",
            first,
            limit,
            Goal::AtMost(1.1),
        ),
        (
            "the same again, trusted",
            second,
            limit_of_second,
            Goal::Open,
        ),
    ] {
        table.push(&Row {
            workload: name.into(),
            unit: nanos,
            published: Some(published.clone()),
            ours,
            limit,
            goal,
            allocations: None,
            notes: String::new(),
        });
    }
}
