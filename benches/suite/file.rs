//! What does a hit in a file cost?
//!
//! 4 KiB and 1 MiB hits over a file of 64 MiB that lies in the page cache, in a shuffled order. The limit is one `pread`
//! in a boxed future, of a file in which the blocks lie where the format puts them: behind header and bitmap, not at
//! multiples of a page. So a 4 KiB block touches two pages, which makes the `pread` alone slower by about a third; a
//! limit with blocks at multiples of 4 KiB stands in a row of its own.
//!
//! The file is wrapped twice for this crate: with `read_now`, and with the four methods alone that a program wrote for
//! 0.0.1, which boxes one more future.

use std::os::unix::fs::FileExt;

use async_trait::async_trait;
use gibblox_cache_harness::{Device, Goal, Order, Reads, Row, Scale, Table, interleave, nanos};
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};

use crate::backend::{FileOps, FourMethods};
use crate::contenders::{BLOCK, CTX, KIB, MIB, drive_all, ours, published};
use crate::open::BITMAP_OFFSET;

/// One `pread` in a boxed future.
struct Reading {
    cache: FileOps,
    offset: u64,
}

impl Reading {
    /// All blocks of `device`, the first of them at `offset`.
    fn new(device: &Device, offset: u64) -> Self {
        let cache = FileOps::new();
        let mut buf = vec![0; MIB];
        for lba in (0..device.blocks()).step_by(MIB / BLOCK) {
            device.copy_to(lba, &mut buf);
            let at = offset + lba * BLOCK as u64;
            cache.file().write_all_at(&buf, at).unwrap();
        }
        Self { cache, offset }
    }
}

#[async_trait]
impl BlockReader for Reading {
    fn block_size(&self) -> u32 {
        BLOCK as u32
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(0)
    }

    fn write_identity(&self, _: &mut dyn core::fmt::Write) -> core::fmt::Result {
        Ok(())
    }

    async fn read_blocks(&self, lba: u64, buf: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        let at = self.offset + lba * BLOCK as u64;
        self.cache.file().read_exact_at(buf, at).unwrap();
        Ok(buf.len())
    }
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let blocks = (64 * MIB / BLOCK) as u64;
    let device = Device::new(BLOCK, blocks, usize::MAX);
    let new = ours(device.clone(), FileOps::new());
    let old = ours(device.clone(), FourMethods(FileOps::new()));
    let published = published(device.clone(), FileOps::new());
    drive_all(
        new.ensure_cached(0, blocks, CTX),
        published.ensure_cached(0, blocks, CTX),
    );
    drive_all(old.ensure_cached(0, blocks, CTX), async { Ok(()) });
    let limit = Reading::new(&device, BITMAP_OFFSET + blocks / 8);
    let aligned = Reading::new(&device, 0);

    let small = Order::shuffled(blocks);
    let large = Order::shuffle((0..blocks).step_by(MIB / BLOCK).collect());
    for (size, order, len, count) in [("4 KiB", &small, 4 * KIB, 300), ("1 MiB", &large, MIB, 3)] {
        let mut published = Reads::checked(&published, &device, order, len);
        let mut new = Reads::checked(&new, &device, order, len);
        let mut old = Reads::checked(&old, &device, order, len);
        let mut limit = Reads::checked(&limit, &device, order, len);
        let mut aligned = Reads::checked(&aligned, &device, order, len);
        let allocations = [&mut published, &mut new, &mut old].map(Reads::allocations);
        let [published, new, old, limit, aligned] = interleave(
            scale.short(),
            &mut [
                &mut || published.sample(count),
                &mut || new.sample(count),
                &mut || old.sample(count),
                &mut || limit.sample(count),
                &mut || aligned.sample(count),
            ],
        )
        .try_into()
        .unwrap();
        let ours = allocations[1];
        for (name, samples, limit, goal, count) in [
            ("", &new, &limit, Goal::AtMost(1.1), ours),
            (", limit on whole pages", &new, &aligned, Goal::Open, ours),
            (
                ", backend as for 0.0.1",
                &old,
                &limit,
                Goal::Open,
                allocations[2],
            ),
        ] {
            table.push(&Row {
                workload: format!("{size} hits in a file{name}"),
                unit: nanos,
                published: Some(published.clone()),
                ours: samples.clone(),
                limit: limit.clone(),
                goal,
                allocations: Some([allocations[0], count]),
                notes: String::new(),
            });
        }
    }
}
