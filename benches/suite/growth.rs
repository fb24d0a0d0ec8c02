//! Does a hit know how large the device is?
//!
//! 4 KiB hits on 256 blocks, over a device of 64 MiB and over one of 64 GiB, all else equal. The figure to compare with
//! is the same reader's on the small device, so the limit is 1.
//!
//! - The last 256 blocks of the device: only its size differs. In memory, and in a file; the published crate in a file
//!   alone, since its memory is as large as the device.
//! - 256 blocks spread evenly over the device, in memory. Their bits are then spread over two megabytes in place of two
//!   kilobytes, and the processor's caches know the difference; the row is there to show that it is no more than that.

use gibblox_cache::MemoryCacheOps;
use gibblox_cache_harness::{
    Device, Goal, Order, Reads, Row, Samples, Scale, Table, interleave, nanos,
};
use gibblox_core::BlockReader;

use crate::backend::FileOps;
use crate::contenders::{BLOCK, MIB, ours, published};

const HOT: u64 = 256;

fn in_memory(device: &Device) -> Box<dyn BlockReader> {
    Box::new(ours(device.clone(), MemoryCacheOps::new()))
}

fn in_file(device: &Device) -> Box<dyn BlockReader> {
    Box::new(ours(device.clone(), FileOps::new()))
}

fn published_in_file(device: &Device) -> Box<dyn BlockReader> {
    Box::new(published(device.clone(), FileOps::new()))
}

fn last(device: &Device) -> Order {
    Order::shuffle((device.blocks() - HOT..device.blocks()).collect())
}

fn spread(device: &Device) -> Order {
    let step = device.blocks() / HOT;
    Order::shuffle((0..HOT).map(|index| index * step).collect())
}

/// Nanoseconds of a hit on a small and on a large device.
fn compare(
    open: impl Fn(&Device) -> Box<dyn BlockReader>,
    which: impl Fn(&Device) -> Order,
    scale: Scale,
) -> [Samples; 2] {
    let small = Device::new(BLOCK, (64 * MIB / BLOCK) as u64, MIB);
    let large = Device::new(BLOCK, (64 * 1024 * MIB / BLOCK) as u64, MIB);
    let (on_small, on_large) = (open(&small), open(&large));
    let mut on_small = Reads::checked(&*on_small, &small, &which(&small), BLOCK);
    let mut on_large = Reads::checked(&*on_large, &large, &which(&large), BLOCK);
    interleave(
        scale.short(),
        &mut [&mut || on_small.sample(1000), &mut || on_large.sample(1000)],
    )
    .try_into()
    .unwrap()
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let mut push = |workload: &str, published: Option<Samples>, samples: [Samples; 2], goal| {
        let [small, large] = samples;
        table.push(&Row {
            workload: format!("4 KiB hits, 64 GiB by 64 MiB: {workload}"),
            unit: nanos,
            published,
            ours: large,
            limit: small,
            goal,
            allocations: None,
            notes: "the limit is ours on 64 MiB".into(),
        });
    };
    let flat = Goal::AtMost(1.1);
    push(
        "last blocks, in memory",
        None,
        compare(in_memory, last, scale),
        flat,
    );
    let ours = compare(in_file, last, scale);
    let [published_on_small, published_on_large] = compare(published_in_file, last, scale);
    // As if it had begun where ours did, so that its ratio is its own.
    let growth = published_on_large.by(&published_on_small).median();
    let published = Samples::exact(growth * ours[0].median());
    push("last blocks, in a file", Some(published), ours, flat);
    push(
        "spread evenly, in memory",
        None,
        compare(in_memory, spread, scale),
        Goal::Open,
    );
}
