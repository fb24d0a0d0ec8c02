//! Does a request with many holes take as long as one fetch?
//!
//! A 64-block read of 4 KiB blocks of which every second one is cached, from a source that answers after 2 ms. A reader
//! that fetches hole after hole waits 32 times. The limit is one call of that source, for all 64 blocks. Each round has a
//! reader of its own, over a cache in memory, filled beforehand.

use std::time::Duration;

use futures_util::future::join_all;
use gibblox_cache::MemoryCacheOps;
use gibblox_cache_harness::{
    Device, Goal, Row, Scale, Slow, Table, drive, interleave, nanos, timed,
};
use gibblox_core::BlockReader;

use crate::contenders::{BLOCK, CTX, ours, published};

const BLOCKS: u64 = 64;
const LATENCY: Duration = Duration::from_millis(2);

fn sample(reader: &dyn BlockReader, device: &Device, holes: bool) -> f64 {
    if holes {
        drive(join_all((0..BLOCKS).step_by(2).map(|lba| async move {
            reader.read_blocks(lba, &mut [0; BLOCK], CTX).await.unwrap()
        })));
    }
    let _ = device.take_counts();
    let mut buf = vec![0; BLOCKS as usize * BLOCK];
    let nanos = timed(|| {
        drive(reader.read_blocks(0, &mut buf, CTX)).unwrap();
    });
    device.check(0, &buf);
    nanos
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let device = Device::new(BLOCK, 4 * BLOCKS, usize::MAX);
    let source = Slow::new(device.clone(), LATENCY);
    let mut published_calls = (0, 0);
    let mut our_calls = (0, 0);
    let [published, ours, limit] = interleave(
        scale.short(),
        &mut [
            &mut || {
                let memory = gibblox_cache_published::MemoryCacheOps::new();
                let nanos = sample(&published(source.clone(), memory), &device, true);
                published_calls = device.take_counts();
                nanos
            },
            &mut || {
                let nanos = sample(&ours(source.clone(), MemoryCacheOps::new()), &device, true);
                our_calls = device.take_counts();
                nanos
            },
            &mut || sample(&source, &device, false),
        ],
    )
    .try_into()
    .unwrap();
    assert_eq!(our_calls.1, BLOCKS / 2, "what is cached was fetched again");
    table.push(&Row {
        workload: "64 blocks, every second cached, source of 2 ms".into(),
        unit: nanos,
        published: Some(published),
        ours,
        limit,
        goal: Goal::AtMost(1.15),
        allocations: None,
        notes: format!("{} → {} source calls", published_calls.0, our_calls.0),
    });
}
