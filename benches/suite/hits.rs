//! What does a hit from memory cost?
//!
//! - 4 KiB, hot: four blocks, read again and again. All bytes are in the first-level cache, so what is measured is the
//!   way to them. One block would do, but then a reader could remember it.
//! - 4 KiB, over 64 MiB: all blocks of a 64 MiB device in a shuffled order, so bytes and bookkeeping come from further
//!   away.
//! - 1 MiB, over 64 MiB: nothing should be left but the copy.
//!
//! The limit is a boxed future that copies from one vector: the trait boxes its futures, and the bytes have to be
//! copied. Source: a device in memory; both caches hold all of it.
//!
//! `benches/peers` holds the same blocks in caches of another kind, `benches/instructions` counts what a clock cannot see.

use gibblox_cache::MemoryCacheOps;
use gibblox_cache_harness::{
    Copying, Device, Goal, Order, Reads, Row, Scale, Table, interleave, nanos,
};

use crate::contenders::{BLOCK, CTX, KIB, MIB, drive_all, ours, published};

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let blocks = (64 * MIB / BLOCK) as u64;
    let device = Device::new(BLOCK, blocks, usize::MAX);
    let ours = ours(device.clone(), MemoryCacheOps::new());
    let published = published(
        device.clone(),
        gibblox_cache_published::MemoryCacheOps::new(),
    );
    drive_all(
        ours.ensure_cached(0, blocks, CTX),
        published.ensure_cached(0, blocks, CTX),
    );
    let limit = Copying::new(&device);

    let hot = Order::shuffle((5000..5004).collect());
    let far = Order::shuffled(blocks);
    let large = Order::shuffle((0..blocks).step_by(MIB / BLOCK).collect());
    for (workload, order, len, count, goal) in [
        ("4 KiB hits, hot", &hot, 4 * KIB, 4000, 1.25),
        ("4 KiB hits, over 64 MiB", &far, 4 * KIB, 2000, 1.1),
        ("1 MiB hits, over 64 MiB", &large, MIB, 16, 1.05),
    ] {
        let mut published = Reads::checked(&published, &device, order, len);
        let mut ours = Reads::checked(&ours, &device, order, len);
        let mut limit = Reads::checked(&limit, &device, order, len);
        let allocations = [published.allocations(), ours.allocations()];
        assert!(
            limit.allocations() >= 1.0,
            "the limit's box was optimised away"
        );
        let [published, ours, limit] = interleave(
            scale.short(),
            &mut [
                &mut || published.sample(count),
                &mut || ours.sample(count),
                &mut || limit.sample(count),
            ],
        )
        .try_into()
        .unwrap();
        table.push(&Row {
            workload: workload.into(),
            unit: nanos,
            published: Some(published),
            ours,
            limit,
            goal: Goal::AtMost(goal),
            allocations: Some(allocations),
            notes: String::new(),
        });
    }
}
