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
use gibblox_cache_published as v001;

use crate::contenders::{BLOCK, CTX, KIB, MIB, Ours, Published, drive_all, ours, published};

/// Both caches over a device that they hold all of, and the limit.
pub(crate) struct Contenders {
    pub(crate) device: Device,
    pub(crate) published: Published<Device, v001::MemoryCacheOps>,
    pub(crate) ours: Ours<Device, MemoryCacheOps>,
    pub(crate) limit: Copying,
}

/// Hits of one length in one order.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) order: Order,
    pub(crate) len: usize,
}

/// The contenders, and what they are asked: hot, far and large.
pub(crate) fn hit_workloads() -> (Contenders, [Workload; 3]) {
    let blocks = (64 * MIB / BLOCK) as u64;
    let device = Device::new(BLOCK, blocks, usize::MAX);
    let ours = ours(device.clone(), MemoryCacheOps::new());
    let published = published(device.clone(), v001::MemoryCacheOps::new());
    drive_all(
        ours.ensure_cached(0, blocks, CTX),
        published.ensure_cached(0, blocks, CTX),
    );
    let limit = Copying::new(&device);
    let workload = |name, order, len| Workload { name, order, len };
    let large = Order::shuffle((0..blocks).step_by(MIB / BLOCK).collect());
    let workloads = [
        workload(
            "4 KiB hits, hot",
            Order::shuffle((5000..5004).collect()),
            4 * KIB,
        ),
        workload("4 KiB hits, over 64 MiB", Order::shuffled(blocks), 4 * KIB),
        workload("1 MiB hits, over 64 MiB", large, MIB),
    ];
    let contenders = Contenders {
        device,
        published,
        ours,
        limit,
    };
    (contenders, workloads)
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let (contenders, workloads) = hit_workloads();
    let device = &contenders.device;
    for (workload, (count, goal)) in workloads
        .iter()
        .zip([(4000, 1.25), (2000, 1.1), (16, 1.05)])
    {
        let Workload { name, order, len } = workload;
        let mut published = Reads::checked(&contenders.published, device, order, *len);
        let mut ours = Reads::checked(&contenders.ours, device, order, *len);
        let mut limit = Reads::checked(&contenders.limit, device, order, *len);
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
            workload: (*name).into(),
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
